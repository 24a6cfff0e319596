//! What is called: an application that keeps nothing of what it has seen.
//!
//! - `GET /small` answers at once
//! - `POST /echo` answers with the body while it comes, over HTTP/2 with gRPC's trailers
//! - `POST /count` reads a [`Pattern`] and answers with its length
//! - `POST /unread` reads nothing and never answers
//! - `GET /bytes/{n}` answers with a [`Pattern`]
//! - `GET /live` becomes another protocol, in which it answers with what is said
//!
//! One that is opaque greets whoever connects, and then answers with what is said.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncWriteExt as _, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::channel::{Body, Sender, channel};
use crate::pattern::{Pattern, Reader};

/// What an opaque application says first.
pub(crate) const GREETING: &[u8] = b"220 at your service\r\n";

/// What an application speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP, in either version.
    Http,
    /// Something that nobody reads.
    Opaque,
}

/// Ends with its connections when dropped.
#[derive(Debug)]
pub(crate) struct Application {
    accepting: JoinHandle<()>,
    /// Bytes of `GET /bytes/{n}` that were taken from it.
    taken: Arc<AtomicU64>,
}

// === impl Application ===

impl Application {
    /// Serves whoever connects.
    pub(crate) fn start(listener: TcpListener, speaks: Speaks) -> Self {
        let taken = Arc::new(AtomicU64::new(0));
        let counted = taken.clone();
        let accepting = tokio::spawn(async move {
            // Connections end with the task that accepted them.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        connections.spawn(connection(stream, speaks, counted.clone()));
                    }
                }
            }
        });
        Self { accepting, taken }
    }

    /// Bytes of `GET /bytes/{n}` that were taken from it so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(mut stream: TcpStream, speaks: Speaks, taken: Arc<AtomicU64>) {
    let _ = stream.set_nodelay(true);
    if speaks == Speaks::Opaque {
        if stream.write_all(GREETING).await.is_ok() {
            let (mut read, mut write) = stream.split();
            let _ = copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
        return;
    }
    let service = service_fn(move |request| {
        let taken = taken.clone();
        async move {
            if request.uri().path() == "/unread" {
                // The body is kept, and nothing is taken from it.
                let _unread: Request<Incoming> = request;
                return std::future::pending().await;
            }
            Ok::<_, Infallible>(answer(request, taken))
        }
    });
    let mut first = [0; 3];
    // As servers that speak both do: by the preface of HTTP/2.
    if matches!(stream.peek(&mut first).await, Ok(3)) && first == *b"PRI" {
        let _ = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
        return;
    }
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

fn answer(mut request: Request<Incoming>, taken: Arc<AtomicU64>) -> Response<Body> {
    let (mut sender, body) = channel();
    let mut response = Response::new(body);
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/small") => {
            tokio::spawn(async move { sender.data("small".into()).await });
        }
        (&Method::POST, "/echo") | (&Method::POST, "/shop.Stock/Watch") => {
            tokio::spawn(echo(request, sender));
        }
        (&Method::POST, "/count") => {
            tokio::spawn(count(request, sender));
        }
        (&Method::GET, "/live") => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgraded.await {
                    let (mut read, mut write) = split(TokioIo::new(upgraded));
                    let _ = copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                }
            });
        }
        (&Method::GET, path) => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(length)) => {
                tokio::spawn(async move {
                    for piece in Pattern::new(length) {
                        let length = piece.len() as u64;
                        if sender.data(piece).await.is_err() {
                            return;
                        }
                        taken.fetch_add(length, Ordering::Relaxed);
                    }
                });
            }
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        },
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

/// A body that ends early ends the answer early: whoever asked notices.
async fn echo(request: Request<Incoming>, mut sender: Sender) {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            let _ = sender.breaks_off().await;
            return;
        };
        // The end of a question is an empty frame, of which an answer has no use before its end.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
            && sender.data(data).await.is_err()
        {
            return;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = sender.trailers(trailers).await;
}

async fn count(request: Request<Incoming>, mut sender: Sender) {
    let mut body = request.into_body();
    let mut reader = Reader::default();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref()
            && let Err(error) = reader.takes(data)
        {
            let _ = sender.data(error.to_string().into()).await;
            return;
        }
    }
    let _ = sender.data(reader.taken().to_string().into()).await;
}
