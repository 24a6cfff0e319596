//! The producer and the application: as little work as possible, since they share a CPU with the broker.
//!
//! Neither uses an HTTP library, and both count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Kept-alive connections of the producer: as many events are under way.
pub(crate) const CONNECTIONS: usize = 32;
/// Bytes of an event's data.
pub(crate) const BODY: usize = 1024;
/// The most that a message may have, bytes.
const BUFFER: usize = 8 * 1024;

/// How many events there were.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

/// Publishes on every connection, one event after the other, until it is dropped.
pub(crate) struct Producer {
    /// How many were answered 202.
    pub(crate) published: Count,
    working: JoinSet<Result<()>>,
}

/// Takes events until it is dropped.
pub(crate) struct Application {
    /// How many came.
    pub(crate) delivered: Count,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _accepting: JoinSet<()>,
}

/// JSON of [`BODY`] bytes.
pub(crate) fn body() -> Vec<u8> {
    let (before, after) = (r#"{"sku":"4711","note":""#, r#""}"#);
    let filled = "x".repeat(BODY - before.len() - after.len());
    format!("{before}{filled}{after}").into_bytes()
}

// === impl Count ===

impl Count {
    /// So many until now.
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Producer ===

impl Producer {
    /// Connects to what publishes at this path.
    pub(crate) async fn start(to: SocketAddr, path: &str) -> Result<Self> {
        let body = body();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: shop-stock/2.4.1\r\naccept: */*\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let request: Arc<[u8]> = [head.as_bytes(), &body].concat().into();
        let published = Count::default();
        let mut working = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            working.spawn(publish(stream, request.clone(), published.clone()));
        }
        Ok(Self { published, working })
    }

    /// That no connection has ended.
    ///
    /// # Errors
    /// What ended one.
    pub(crate) async fn end(mut self) -> Result<()> {
        match self.working.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }
}

async fn publish(mut stream: TcpStream, request: Arc<[u8]>, published: Count) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        stream.write_all(&request).await?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            ensure!(read > 0, "a connection of the producer ended");
            filled += read;
            if let Some(length) = length(&buffer[..filled]) {
                if length > filled {
                    continue;
                }
                let answer = || String::from_utf8_lossy(&buffer[..filled]).into_owned();
                ensure!(buffer.starts_with(b"HTTP/1.1 202 "), "{}", answer());
                break;
            }
        }
        published.one();
    }
}

// === impl Application ===

impl Application {
    /// Takes what is posted.
    pub(crate) fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let delivered = Count::default();
        let mut accepting = JoinSet::new();
        let counts = delivered.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(take(stream, counts.clone()));
            }
        });
        Ok(Self {
            delivered,
            address,
            _accepting: accepting,
        })
    }
}

async fn take(mut stream: TcpStream, delivered: Count) -> Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\n\r\n";
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if length(&buffer[..filled]).is_some_and(|length| length <= filled) {
            filled = 0;
            delivered.one();
            stream.write_all(ANSWER).await?;
        }
        ensure!(filled < BUFFER, "a message that is too long");
    }
}

/// The length of the message that begins here, once its head is there. One that does not say it has no body.
fn length(seen: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let end = seen.windows(4).position(|four| four == b"\r\n\r\n")?;
    let body = seen[..end].split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        let value = std::str::from_utf8(value).ok()?;
        name.eq_ignore_ascii_case(NAME)
            .then(|| value.trim().parse::<usize>().ok())?
    });
    Some(end + 4 + body.unwrap_or(0))
}
