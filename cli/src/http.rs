//! Asking a program of the mesh over HTTP.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The longest answer that is read, in bytes.
const LONGEST: usize = 16 << 20;

/// The status and the body that `address` answers to a GET of `path`.
pub async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, Bytes)> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    ask(stream, &address.to_string(), path).await
}

/// The status and the body that `host`, at the other end of `stream`, answers to a GET of `path`.
pub async fn ask(stream: TcpStream, host: &str, path: &str) -> anyhow::Result<(u16, Bytes)> {
    exchange(stream, host, http::Request::get(path), "").await
}

/// The status and the body that `host`, at the other end of `stream`, answers to a PUT of `body` to
/// `path`.
pub async fn put(
    stream: TcpStream,
    host: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<(u16, Bytes)> {
    exchange(stream, host, http::Request::put(path), body).await
}

async fn exchange(
    stream: TcpStream,
    host: &str,
    request: http::request::Builder,
    body: &str,
) -> anyhow::Result<(u16, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = request
        .header(http::header::HOST, host)
        .header(http::header::CONNECTION, "close")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST)
            .collect()
            .await
            .map_err(anyhow::Error::from_boxed)?;
        Ok((status, body.to_bytes()))
    };
    let (_, answer) = tokio::join!(connection, exchange);
    answer
}
