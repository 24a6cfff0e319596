//! What speaks as a Redis does, as far as a test wants it to.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::*;

/// What it does when it is asked something.
pub(super) enum Does {
    Says(&'static str),
    Nothing,
    HangsUp,
}

/// Whoever dials the address is answered with what is said to their first words.
pub(super) async fn start(does: impl Fn(&str) -> Does + Clone + Send + 'static) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(serve(io, does.clone()));
        }
    });
    address
}

/// As a Redis answers before it is asked for anything that matters.
pub(super) fn usual(asked: &str) -> Does {
    match asked {
        "PING" => Does::Says("+PONG\r\n"),
        "HELLO" => Does::Says("*2\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n"),
        "CONFIG" => Does::Says("*0\r\n"),
        _ => Does::Says("+OK\r\n"),
    }
}

async fn serve(io: TcpStream, does: impl Fn(&str) -> Does) -> std::io::Result<()> {
    let mut io = BufReader::new(io);
    loop {
        let count = number(&mut io).await?;
        let mut first = None;
        for _ in 0..count {
            let length = number(&mut io).await?;
            let mut word = vec![0; length + 2];
            io.read_exact(&mut word).await?;
            word.truncate(length);
            first.get_or_insert(word);
        }
        let asked = String::from_utf8(first.unwrap_or_default()).unwrap();
        match does(&asked) {
            Does::Says(answer) => io.write_all(answer.as_bytes()).await?,
            Does::Nothing => {}
            Does::HangsUp => return Ok(()),
        }
    }
}

async fn number(io: &mut BufReader<TcpStream>) -> std::io::Result<usize> {
    let mut line = String::new();
    if io.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line[1..].trim().parse().unwrap())
}
