//! Client and upstream of small unary calls as gRPC has them, over plaintext HTTP/2.
//!
//! Of the same library as our proxy: a client and a server of ours would cost less, but HTTP/2
//! cannot be spoken in passing.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::raw::Way;
use super::saturate;
use crate::load::CONNECTIONS;
use crate::measure::{Sample, Watched};

/// A message of 32 bytes behind its five: not compressed, and how long it is.
const MESSAGE: &[u8] = b"\0\0\0\0\x20a message of thirty-two bytes ..";

/// Answers until the task ends.
pub(crate) async fn upstream(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let server = http2::Builder::new(TokioExecutor::new());
        connections.spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = std::convert::Infallible>>> {
    let asked = request.into_body().collect().await?.to_bytes();
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(asked).with_trailers(std::future::ready(Some(Ok(trailers))));
    let answer = Response::builder().header("content-type", "application/grpc");
    Ok(answer.body(body)?)
}

/// So many calls over one connection, as many of them at a time as others have connections.
pub(crate) async fn calls(of: &[Watched], way: Way, calls: u32) -> Result<Sample> {
    let stream = TcpStream::connect(way.address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    call(sender.clone(), way.host).await?;
    let one = move |sender| call(sender, way.host);
    let done = saturate(of, vec![sender; CONNECTIONS], calls, one).await;
    connection.abort();
    done
}

async fn call(
    mut sender: SendRequest<Full<Bytes>>,
    host: &'static str,
) -> Result<SendRequest<Full<Bytes>>> {
    let request = Request::post(format!("http://{host}/api.Orders/Get"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "grpc-go/1.70.0")
        .body(Full::new(Bytes::from_static(MESSAGE)))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status() == 200, "{answer:?}");
    let answer = answer.into_body().collect().await?;
    let status = answer.trailers().and_then(|all| all.get("grpc-status"));
    ensure!(
        status.is_some_and(|status| status == "0"),
        "{:?}",
        answer.trailers()
    );
    ensure!(answer.to_bytes() == MESSAGE, "another message");
    Ok(sender)
}
