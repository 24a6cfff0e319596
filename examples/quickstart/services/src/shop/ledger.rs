//! What was paid, in a protocol of its own, as older services have one: the server speaks first, and
//! then answers line by line. Nothing in it looks like HTTP.
//!
//! - `PAID {cents}` adds
//! - `SUM` says what there is
//! - `QUIT` ends the connection

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server;

/// What is said to whoever connects.
const GREETING: &str = "220 ledger, at your service\n";
/// The longest line.
const MAX_LINE: u64 = 1024;
/// How long a caller may say nothing.
const IDLE: Duration = Duration::from_secs(300);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve() -> anyhow::Result<()> {
    let listener = server::listen("ledger").await?;
    let mut asked_to_end = std::pin::pin!(server::asked_to_end()?);
    let sum = Arc::new(AtomicU64::new(0));
    loop {
        tokio::select! {
            () = &mut asked_to_end => return Ok(()),
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let sum = sum.clone();
                // How a connection ended is its caller's business.
                tokio::spawn(async move { connection(stream, &sum).await });
            }
        }
    }
}

async fn connection(mut stream: TcpStream, sum: &AtomicU64) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    write.write_all(GREETING.as_bytes()).await?;
    loop {
        let mut line = String::new();
        let mut next = (&mut read).take(MAX_LINE);
        match timeout(IDLE, next.read_line(&mut line)).await {
            Ok(Ok(1..)) => {}
            _ => return Ok(()),
        }
        let answer = answer(line.trim(), sum);
        write.write_all(answer.as_bytes()).await?;
        if answer.starts_with("221") {
            return Ok(());
        }
    }
}

fn answer(line: &str, sum: &AtomicU64) -> String {
    let paid = line.strip_prefix("PAID ").map(str::parse::<u32>);
    match (line, paid) {
        ("SUM", _) => format!("250 {}\n", sum.load(Ordering::Relaxed)),
        ("QUIT", _) => "221 bye\n".to_owned(),
        (_, Some(Ok(cents))) => {
            let before = sum.fetch_add(cents.into(), Ordering::Relaxed);
            format!("250 {}\n", before.saturating_add(cents.into()))
        }
        _ => "500 PAID {cents}, SUM or QUIT\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_paid_is_added_up() {
        let sum = AtomicU64::new(0);
        assert_eq!(answer("PAID 2900", &sum), "250 2900\n");
        assert_eq!(answer("PAID 100", &sum), "250 3000\n");
        assert_eq!(answer("SUM", &sum), "250 3000\n");
        for nonsense in ["", "PAID", "PAID x", "PAID -1", "GET / HTTP/1.1"] {
            assert!(answer(nonsense, &sum).starts_with("500 "), "{nonsense}");
        }
        assert_eq!(answer("QUIT", &sum), "221 bye\n");
    }
}
