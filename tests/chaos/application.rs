//! An application that is subscribed: it writes down what comes, takes most of it, and can be killed.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Error, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::history::{Id, Journal, Said};

/// The longest that it works on an event.
const WORKS: Duration = Duration::from_millis(30);

/// What becomes of an event at an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// It is taken once it has failed so often.
    Takes { after: usize },
    /// The application hangs up once.
    HangsUp,
    /// It is refused for good.
    Refuses,
    /// It fails whenever it comes.
    Fails,
}

/// What answers, and what it is called by.
pub(crate) struct Application {
    address: SocketAddr,
    seed: u64,
    journal: Journal,
    accepting: Option<JoinHandle<()>>,
}

/// A connection that ends without an answer.
#[derive(Debug)]
struct HungUp;

// === impl Temper ===

impl Temper {
    /// As a seed says.
    pub(crate) fn of(seed: u64, id: Id) -> Self {
        match random(seed, id).random_range(0..100) {
            0..65 => Self::Takes { after: 0 },
            65..73 => Self::Takes { after: 1 },
            73..78 => Self::Takes { after: 2 },
            78..83 => Self::HangsUp,
            83..95 => Self::Refuses,
            _ => Self::Fails,
        }
    }

    /// The answer to an event that has come so often; none when the connection is to end.
    fn answer(self, came: usize) -> Option<StatusCode> {
        match self {
            Self::Takes { after } if came <= after => Some(StatusCode::SERVICE_UNAVAILABLE),
            Self::HangsUp if came == 1 => None,
            Self::Takes { .. } | Self::HangsUp => Some(StatusCode::NO_CONTENT),
            Self::Refuses => Some(StatusCode::UNPROCESSABLE_ENTITY),
            Self::Fails => Some(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

fn random(seed: u64, id: Id) -> StdRng {
    let place = u64::from(id.key) << 32 | u64::from(id.number);
    StdRng::seed_from_u64(seed ^ place.rotate_left(17))
}

// === impl Application ===

impl Application {
    /// Serves whoever connects.
    pub(crate) fn start(listener: TcpListener, seed: u64, journal: Journal) -> Result<Self> {
        let mut application = Self {
            address: listener.local_addr()?,
            seed,
            journal,
            accepting: None,
        };
        application.serve(listener);
        Ok(application)
    }

    /// Ends it with all that it has in hand, as `kill -9` would.
    pub(crate) fn kill(&self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }

    /// Starts it again.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        if let Some(ended) = self.accepting.take() {
            // By then its port is free.
            let _ = ended.await;
        }
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let (seed, journal) = (self.seed, self.journal.clone());
        self.accepting = Some(tokio::spawn(async move {
            // Connections end with the task that accepted them.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        let journal = journal.clone();
                        connections.spawn(async move {
                            let service = service_fn(|request| answer(seed, journal.clone(), request));
                            let mut first = [0; 3];
                            // As servers that speak both do: by the preface of HTTP/2.
                            if matches!(stream.peek(&mut first).await, Ok(3)) && first == *b"PRI" {
                                let http2 = http2::Builder::new(TokioExecutor::new());
                                let _ = http2.serve_connection(TokioIo::new(stream), service).await;
                                return;
                            }
                            let http1 = http1::Builder::new();
                            let _ = http1.serve_connection(TokioIo::new(stream), service).await;
                        });
                    }
                }
            }
        }));
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn answer(
    seed: u64,
    journal: Journal,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, HungUp> {
    let (head, body) = request.into_parts();
    // What breaks off has not come.
    let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
    let Ok(id) = id(&head.headers) else {
        return Ok(status(StatusCode::IM_A_TEAPOT));
    };
    let (came, place) = journal.comes(id, body == id.data());
    let work = random(seed ^ 1, id).random_range(Duration::ZERO..WORKS);
    sleep(work).await;
    let answer = Temper::of(seed, id).answer(came);
    journal.said(
        place,
        match answer {
            Some(status) if status.is_success() => Said::Taken(SystemTime::now()),
            _ => Said::Failed,
        },
    );
    answer.map(status).ok_or(HungUp)
}

fn id(headers: &HeaderMap) -> Result<Id> {
    let id = headers.get("ce-id").context("no event")?;
    id.to_str().map_err(Error::from)?.parse()
}

fn status(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}

// === impl HungUp ===

impl std::fmt::Display for HungUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it hangs up")
    }
}

impl std::error::Error for HungUp {}
