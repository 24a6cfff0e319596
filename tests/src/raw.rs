//! Bytes and frames that an ordinary client would not send, through the sidecar beside one.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidecar::identity::store::{Store, parse_bundle};
use sidecar::net::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::Client;
use crate::mesh::{APPLICATION_PORT, SOON, Sidecar};

/// A connection to the outbound port of the client's sidecar.
pub async fn connect(client: &Client) -> Result<TcpStream> {
    let to = SocketAddr::new(client.sidecar().address().into(), 15001);
    Ok(TcpStream::connect(to).await?)
}

/// A connection of mutual TLS as the sidecar of `from` would open it, with its key and leaf, to the
/// inbound port of another. `alpn` is one of [`sidecar::net::tls`].
pub async fn peer(from: &Sidecar, to: &Sidecar, alpn: &[u8]) -> Result<TlsStream<TcpStream>> {
    let own = Store::open(&from.state())?;
    let own = own.key_and_chain().context("a key and a chain")?;
    let roots = std::fs::read(from.state().join("roots.pem"))?;
    let roots = tls::root_store(&parse_bundle(&roots)?)?;
    let context = tls::TlsContext::new(&own, roots)?;
    let mut config = (*context.client_h2).clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    let address = SocketAddr::new(to.address().into(), APPLICATION_PORT);
    let tcp = TcpStream::connect(address).await?;
    let name = rustls_pki_types::ServerName::IpAddress(address.ip().into());
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?)
}

/// The head of an answer, and what came with it.
pub async fn head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = seen.split_off(end + 4);
            return Ok((String::from_utf8(seen)?.to_lowercase(), rest));
        }
        let read = timeout(SOON, stream.read_buf(&mut seen)).await??;
        ensure!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&seen)
        );
    }
}

/// Raw bytes both ways through the client's sidecar, to a Service and port.
pub async fn tunnel(client: &Client, to: &str) -> Result<TcpStream> {
    let mut stream = connect(client).await?;
    let ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    // Byte by byte: a server that speaks first may already have.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await??);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(stream)
}

/// A sender of requests over HTTP/2.
pub type H2<B> = http2::SendRequest<B>;

/// HTTP/2 with prior knowledge to the outbound port of the client's sidecar, as to a proxy.
pub async fn h2<B>(client: &Client) -> Result<H2<B>>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(connect(client).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    Ok(sender)
}
