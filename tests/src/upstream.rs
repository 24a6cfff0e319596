//! An application that answers as it is told and records what it sees.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Channel};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    accepting: Option<AbortHandle>,
}

/// A request as the application saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The version of HTTP that it came in.
    pub version: Version,
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// All of them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

#[derive(Debug)]
struct Shared {
    seen: Vec<Seen>,
    status: StatusCode,
    body: Bytes,
    delay: Duration,
    body_delay: Duration,
    hasty: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// So many are answered with another status.
    fails: (usize, StatusCode),
    /// So are these, that have a header of this name and value.
    fails_at: Vec<(String, String, usize, StatusCode)>,
    released: Option<watch::Receiver<()>>,
}

// === impl Upstream ===

impl Upstream {
    /// Listens; answers 200 with the text of its own address until told otherwise.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Mutex::new(Shared {
            seen: Vec::new(),
            status: StatusCode::OK,
            body: address.to_string().into(),
            delay: Duration::ZERO,
            body_delay: Duration::ZERO,
            hasty: false,
            headers: Vec::new(),
            fails: (0, StatusCode::OK),
            fails_at: Vec::new(),
            released: None,
        }));
        let mut upstream = Self {
            address,
            shared,
            accepting: None,
        };
        upstream.open().await?;
        Ok(upstream)
    }

    /// Listens again after [`Upstream::close`].
    pub async fn open(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let shared = self.shared.clone();
        let accepting = tokio::spawn(async move {
            // Connections end with the task that accepted them.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(shared.clone(), request));
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
                        .await;
                });
            }
        });
        self.accepting = Some(accepting.abort_handle());
        Ok(())
    }

    /// Stops listening and breaks every connection, as a crash would.
    pub fn close(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }

    /// Answers with this status from now on.
    pub fn answers(&self, status: u16) {
        self.shared().status = StatusCode::from_u16(status).unwrap_or_default();
    }

    /// Answers the next `count` requests with this status, in place of what it answers else.
    pub fn fails(&self, count: usize, status: u16) {
        self.shared().fails = (count, StatusCode::from_u16(status).unwrap_or_default());
    }

    /// Answers the next `count` requests that have this header with this status.
    pub fn fails_at(&self, (name, value): (&str, &str), count: usize, status: u16) {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let entry = (name.to_owned(), value.to_owned(), count, status);
        self.shared().fails_at.push(entry);
    }

    /// Answers with this body from now on.
    pub fn says(&self, body: impl Into<Bytes>) {
        self.shared().body = body.into();
    }

    /// Sends this line too with every answer from now on.
    pub fn adds(&self, name: &'static str, value: &'static str) {
        let name = HeaderName::from_static(name);
        let line = (name, HeaderValue::from_static(value));
        self.shared().headers.push(line);
    }

    /// Waits this long before it answers, from now on.
    pub fn takes(&self, delay: Duration) {
        self.shared().delay = delay;
    }

    /// Answers nothing that comes from now on until told to.
    pub fn holds(&self) -> watch::Sender<()> {
        let (release, released) = watch::channel(());
        self.shared().released = Some(released);
        release
    }

    /// Waits this long between the head of an answer and its body, from now on.
    pub fn dawdles(&self, delay: Duration) {
        self.shared().body_delay = delay;
    }

    /// Answers before it has read the body, from now on; what it saw then has none.
    pub fn hurries(&self) {
        self.shared().hasty = true;
    }

    /// What it has seen.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared().seen.clone()
    }

    /// How many requests it has seen.
    pub fn requests(&self) -> usize {
        self.shared().seen.len()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.close();
    }
}

async fn answer(
    shared: Arc<Mutex<Shared>>,
    request: Request<Incoming>,
) -> Result<Response<Channel<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let hasty = {
        let shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.hasty
    };
    let body = body.collect();
    let body = if hasty {
        tokio::spawn(body);
        Bytes::new()
    } else {
        body.await.map(|body| body.to_bytes()).unwrap_or_default()
    };
    let (status, answer, delay, body_delay, headers, released) = {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = shared.fails_at.iter_mut();
        let failing = entries.find(|(name, value, left, _)| {
            let said = head.headers.get(name);
            *left > 0 && said.is_some_and(|said| said.as_bytes() == value.as_bytes())
        });
        let failing = failing.map(|(_, _, left, status)| {
            *left -= 1;
            *status
        });
        shared.seen.push(Seen {
            version: head.version,
            method: head.method,
            target: head.uri.to_string(),
            headers: head.headers,
            body,
        });
        let headers = shared.headers.clone();
        let (delay, body_delay) = (shared.delay, shared.body_delay);
        let status = match (failing, &mut shared.fails) {
            (Some(status), _) => status,
            (None, (0, _)) => shared.status,
            (None, (left, status)) => {
                *left -= 1;
                *status
            }
        };
        (
            status,
            shared.body.clone(),
            delay,
            body_delay,
            headers,
            shared.released.clone(),
        )
    };
    if let Some(mut released) = released {
        // An error means that the test is over.
        let _ = released.changed().await;
    }
    tokio::time::sleep(delay).await;
    let (mut sender, body) = Channel::new(1);
    let mut response = Response::new(body);
    let length = HeaderValue::from(answer.len());
    response.headers_mut().insert(CONTENT_LENGTH, length);
    tokio::spawn(async move {
        tokio::time::sleep(body_delay).await;
        // A caller that went away wants no body.
        let _ = sender.send_data(answer).await;
    });
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().append(name, value);
    }
    Ok(response)
}
