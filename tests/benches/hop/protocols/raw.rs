//! Client and upstream of bytes: opaque connections, upgraded ones, and bodies in bulk.
//!
//! As in [`crate::load`] neither uses an HTTP library: what they cost takes from everybody.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::saturate;
use crate::load::CONNECTIONS;
use crate::measure::{Sample, Watched};

/// The bytes of one exchange on an opaque or upgraded connection.
const EXCHANGE: usize = 64;

/// The first byte of a connection whose bytes are to come back.
const ECHO: u8 = 0;

/// Read and written at once in bulk.
const CHUNK: usize = 256 * 1024;

/// Where a connection goes in, and what is said on it first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Where it goes in.
    pub(crate) address: SocketAddr,
    /// The Service, for the mesh: others are told the same.
    pub(crate) host: &'static str,
    /// Whether the Service is asked for first (`CONNECT`).
    pub(crate) tunnel: bool,
}

/// Which way bytes go in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// To the client, as the body of an answer.
    Down,
    /// To the upstream, as the body of a request.
    Up,
}

/// Answers everybody until the task ends.
pub(crate) async fn upstream(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer(stream));
        while connections.try_join_next().is_some() {}
    }
}

/// Echoes what begins with [`ECHO`] and what is upgraded; else reads and writes bodies.
async fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    // Bulk asks for more room when it comes.
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        if buffer[0] == ECHO {
            stream.write_all(&buffer[..filled]).await?;
            return echo(stream, buffer).await;
        }
        let Some(end) = buffer[..filled]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        else {
            continue;
        };
        let head = String::from_utf8(buffer[..end].to_ascii_lowercase())?;
        if head.contains("upgrade: websocket") {
            let agreed = b"HTTP/1.1 101 Switching Protocols\r\n\
                           upgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
            stream.write_all(agreed).await?;
            return echo(stream, buffer).await;
        }
        if buffer.len() < CHUNK {
            buffer.resize(CHUNK, 0);
        }
        if let Some(path) = head.strip_prefix("get /api/") {
            let length = path.split(' ').next().context("no path")?.parse()?;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            write_body(&mut stream, &buffer, length).await?;
        } else {
            let length = head
                .split("\r\n")
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: u64 = length.context("no length")?.trim().parse()?;
            let came = (filled - end - 4) as u64;
            read_body(&mut stream, &mut buffer, length - came).await?;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await?;
        }
        filled = 0;
    }
}

async fn echo(mut stream: TcpStream, mut buffer: Vec<u8>) -> Result<()> {
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..read]).await?;
    }
}

/// Exchanges on connections that are there, on each one after the other without a pause.
pub(crate) async fn ping_pong(
    of: &[Watched],
    way: Way,
    upgrade: bool,
    exchanges: u32,
) -> Result<Sample> {
    let mut streams = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut stream = way.open().await?;
        if upgrade {
            ask_to_upgrade(&mut stream, way.host).await?;
        }
        streams.push(stream);
    }
    // What is made for a connection at first is not an exchange's.
    for stream in &mut streams {
        exchange(stream).await?;
    }
    let call = |mut stream: TcpStream| async move {
        exchange(&mut stream).await?;
        Ok(stream)
    };
    saturate(of, streams, exchanges, call).await
}

/// Connections with one exchange on each.
pub(crate) async fn set_up(of: &[Watched], way: Way, connections: u32) -> Result<Sample> {
    let call = |way: Way| async move {
        let mut stream = way.open().await?;
        exchange(&mut stream).await?;
        stream.shutdown().await?;
        let after = stream.read(&mut [0; 1]).await?;
        ensure!(after == 0, "more was sent than what comes back");
        Ok(way)
    };
    saturate(of, vec![way; CONNECTIONS], connections, call).await
}

/// So many bytes over so many connections.
pub(crate) async fn bulk(
    of: &[Watched],
    way: Way,
    bulk: Bulk,
    connections: usize,
    bytes: u64,
) -> Result<Sample> {
    let each = bytes / connections as u64;
    let mut streams = Vec::with_capacity(connections);
    for _ in 0..connections {
        streams.push(Transfer {
            stream: way.open().await?,
            buffer: vec![0; CHUNK],
        });
    }
    let call = move |mut transfer: Transfer| async move {
        match bulk {
            Bulk::Down => transfer.download(way.host, each).await?,
            Bulk::Up => transfer.upload(way.host, each).await?,
        }
        Ok(transfer)
    };
    saturate(of, streams, u32::try_from(connections)?, call).await
}

struct Transfer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

async fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[ECHO; EXCHANGE]).await?;
    let mut back = [1; EXCHANGE];
    stream.read_exact(&mut back).await?;
    ensure!(back == [ECHO; EXCHANGE], "something else came back");
    Ok(())
}

async fn ask_to_upgrade(stream: &mut TcpStream, host: &str) -> Result<()> {
    let ask = format!(
        "GET /api/live HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await?;
    let mut buffer = [0; 1024];
    let (end, filled) = head(stream, &mut buffer, "101").await?;
    ensure!(end == filled, "something was said after the upgrade");
    Ok(())
}

/// Reads a head with this status; returns where it ends and what was read.
async fn head(stream: &mut TcpStream, buffer: &mut [u8], status: &str) -> Result<(usize, usize)> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        filled += read;
        let seen = &buffer[..filled];
        let end = seen.windows(4).position(|four| four == b"\r\n\r\n");
        match end {
            Some(end) if seen.starts_with(format!("HTTP/1.1 {status} ").as_bytes()) => {
                return Ok((end + 4, filled));
            }
            None if read > 0 => {}
            _ => bail!("answered {:?}", String::from_utf8_lossy(seen)),
        }
    }
}

async fn write_body(stream: &mut TcpStream, buffer: &[u8], length: u64) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left)?.min(buffer.len());
        stream.write_all(&buffer[..now]).await?;
        left -= now as u64;
    }
    Ok(())
}

async fn read_body(stream: &mut TcpStream, buffer: &mut [u8], length: u64) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left)?.min(buffer.len());
        let read = stream.read(&mut buffer[..most]).await?;
        ensure!(read > 0, "{left} bytes are missing");
        left -= read as u64;
    }
    Ok(())
}

// === impl Way ===

impl Way {
    async fn open(&self) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        if self.tunnel {
            let to = self.host;
            let ask = format!("CONNECT {to}:80 HTTP/1.1\r\nhost: {to}:80\r\n\r\n");
            stream.write_all(ask.as_bytes()).await?;
            let mut buffer = [0; 1024];
            let (end, filled) = head(&mut stream, &mut buffer, "200").await?;
            ensure!(end == filled, "something was said before it was asked");
        }
        Ok(stream)
    }
}

// === impl Transfer ===

impl Transfer {
    async fn download(&mut self, host: &str, length: u64) -> Result<()> {
        let ask = format!("GET /api/{length} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.stream.write_all(ask.as_bytes()).await?;
        let (end, filled) = head(&mut self.stream, &mut self.buffer, "200").await?;
        let came = (filled - end) as u64;
        read_body(&mut self.stream, &mut self.buffer, length - came).await
    }

    async fn upload(&mut self, host: &str, length: u64) -> Result<()> {
        let ask =
            format!("POST /api/files HTTP/1.1\r\nhost: {host}\r\ncontent-length: {length}\r\n\r\n");
        self.stream.write_all(ask.as_bytes()).await?;
        write_body(&mut self.stream, &self.buffer, length).await?;
        head(&mut self.stream, &mut self.buffer, "200").await?;
        Ok(())
    }
}
