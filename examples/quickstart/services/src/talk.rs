//! A client for protocols of lines in which the server speaks first, as `ledger` does.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use http::Uri;
use http::uri::Authority;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::io::{AsyncRead, BufReader};
use tokio::net::TcpStream;

use crate::client::Way;

/// How long the whole conversation may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest line that is read.
const MAX_LINE: u64 = 64 << 10;

/// Reads the greeting of `to` and then says each line once the one before was answered; returns what
/// was said, and how long the greeting took.
///
/// # Errors
/// When nobody can be connected to, or the conversation did not end within ten seconds.
pub async fn talk(to: &str, lines: &[&str]) -> anyhow::Result<String> {
    match tokio::time::timeout(TIMEOUT, exchange(to, lines)).await {
        Ok(said) => said.with_context(|| format!("no answer from {to}")),
        Err(_) => bail!("no answer from {to} within {} s", TIMEOUT.as_secs()),
    }
}

async fn exchange(to: &str, lines: &[&str]) -> anyhow::Result<String> {
    let authority: Authority = to.parse().context("this is no host:port")?;
    let uri = Uri::builder()
        .scheme("http")
        .authority(authority.clone())
        .path_and_query("/")
        .build()?;
    let proxy = std::env::var("http_proxy").ok();
    let way = Way::to(&uri, &authority, proxy.as_deref())?;
    let begun = Instant::now();
    let through_proxy = way.target.authority().is_some();
    let mut stream = BufReader::new(TcpStream::connect(way.through).await?);
    if through_proxy {
        let ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let answer = line(&mut stream).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        while !line(&mut stream).await?.is_empty() {}
    }
    let greeting = line(&mut stream).await?;
    let took = begun.elapsed().as_millis();
    let mut said = format!("greeted after {took} ms: {greeting}\n");
    for ask in lines {
        stream.write_all(format!("{ask}\n").as_bytes()).await?;
        let answer = line(&mut stream).await?;
        writeln!(said, "{ask} -> {answer}")?;
    }
    Ok(said)
}

/// The next line, without its end.
async fn line<I: AsyncRead + AsyncBufRead + Unpin>(stream: &mut I) -> anyhow::Result<String> {
    let mut line = String::new();
    let read = stream.take(MAX_LINE).read_line(&mut line).await?;
    ensure!(read > 0, "closed");
    Ok(line.trim_end().to_owned())
}
