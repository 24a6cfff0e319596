//! An application that decides what it answers to each request, and counts them.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) type Reply = Response<BoxBody<Bytes, io::Error>>;

/// Answers as it was made to. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

/// What is answered, given the head of a request and how many came before it.
type Decides = dyn Fn(&Parts, usize) -> Reply + Send + Sync;

struct Inner {
    decides: Box<Decides>,
    seen: Mutex<Vec<Parts>>,
    open: watch::Sender<bool>,
    /// Whether connections are closed without a word.
    away: watch::Sender<bool>,
}

// === impl App ===

impl App {
    /// Answers as `decides` says, given the head of a request and how many came before it.
    pub(crate) fn new(decides: impl Fn(&Parts, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            decides: Box::new(decides),
            seen: Mutex::default(),
            open: watch::Sender::new(true),
            away: watch::Sender::new(false),
        }))
    }

    /// Answers everything with this line and the number of the request.
    pub(crate) fn saying(line: (&'static str, &'static str)) -> Self {
        Self::new(move |_, number| reply(200, &[line], format!("{number}")))
    }

    pub(crate) fn listen(&self, listener: TcpListener) {
        let app = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if *app.0.away.borrow() {
                    continue;
                }
                let app = app.clone();
                tokio::spawn(async move {
                    let mut away = app.0.away.subscribe();
                    let service = service_fn(move |request| {
                        let app = app.clone();
                        async move { Ok::<_, Infallible>(app.answer(request).await) }
                    });
                    let connection =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        _ = away.wait_for(|away| *away) => {}
                    }
                });
            }
        });
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let _ = body.collect().await;
        let number = {
            let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(head.clone());
            seen.len() - 1
        };
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
        (self.0.decides)(&head, number)
    }

    /// Answers nothing from now on, or all of it again.
    pub(crate) fn answers(&self, open: bool) {
        self.0.open.send_replace(open);
    }

    /// Is not there from now on.
    pub(crate) fn goes(&self) {
        self.0.away.send_replace(true);
    }

    pub(crate) fn seen(&self) -> Vec<Parts> {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen().len()
    }
}

/// An answer of this status, with these lines and this body.
pub(crate) fn reply(status: u16, lines: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::builder().status(status);
    for (name, value) in lines {
        reply = reply.header(*name, *value);
    }
    let body = Full::new(body.into())
        .map_err(|never| match never {})
        .boxed();
    reply.body(body).expect("an answer")
}

/// One of no length that is told, in these pieces; it breaks off after them, or ends.
pub(crate) fn chunked(lines: &[(&str, &str)], pieces: Vec<Bytes>, breaks_off: bool) -> Reply {
    let pieces = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
    let end = futures::stream::once(async move {
        // What came before is sent when there is nothing to send at the moment.
        tokio::task::yield_now().await;
        breaks_off.then(|| Err(io::Error::other("it breaks off")))
    });
    let pieces = futures::stream::iter(pieces).chain(end.filter_map(std::future::ready));
    let body = StreamBody::new(pieces);
    reply(200, lines, "").map(|_| BoxBody::new(body))
}
