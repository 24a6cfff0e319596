//! A request's body, on its way to an upstream.

use std::fmt;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::cleaned;
use super::paced::Paced;
use super::replay::Replayed;
use super::watched::Watched;
use crate::policy::body_limit::Left;
use crate::policy::rate_limit::Pace;
use crate::proxy::context::{Context, RequestBytes};
use crate::proxy::copy::Copy;

/// A request's body, as it goes to an upstream. Streamed as it comes; nothing waits for all of it.
#[derive(Debug)]
pub enum RequestBody {
    /// As it comes from downstream.
    Streamed(Incoming, RequestBytes),
    /// The same, looked at while it passes.
    Watched(Box<Watched>),
    /// Kept while it passes, so that it can be sent again.
    Replayed(Replayed),
    /// The same, as fast as limits let it.
    Paced(Box<Paced>),
    /// All of it is there, and what trails it.
    Whole(Option<Bytes>, Option<Box<HeaderMap>>),
    /// There is none: the request can be sent again.
    Empty,
}

/// Why a request's body breaks off.
#[derive(Debug)]
pub enum Cut {
    /// Downstream did.
    Downstream(hyper::Error),
    /// It is larger than the rule allows.
    TooLarge,
    /// Another try sends it.
    SentAnew,
}

// === impl RequestBody ===

impl RequestBody {
    /// A body as it comes from downstream.
    pub fn of(body: Incoming, cx: &mut Context) -> Self {
        if body.is_end_stream() {
            Self::Empty
        } else {
            Self::Streamed(body, cx.sends())
        }
    }

    /// Breaks off where no more of it may pass.
    pub fn at_most(self, left: Left) -> Self {
        self.watched(|watched| watched.at_most(left))
    }

    /// Makes a copy as it passes.
    pub fn copied(self, copy: Copy) -> Self {
        self.watched(|watched| watched.copied(copy))
    }

    /// A body that is all there.
    pub fn whole(body: Bytes) -> Self {
        match body.is_empty() {
            true => Self::Empty,
            false => Self::Whole(Some(body), None),
        }
    }

    /// A body that is all there, with what trails it.
    pub fn trailed(body: Bytes, trailers: Option<HeaderMap>) -> Self {
        match trailers {
            None => Self::whole(body),
            Some(trailers) => {
                let body = Some(body).filter(|body| !body.is_empty());
                Self::Whole(body, Some(Box::new(trailers)))
            }
        }
    }

    /// It ends before its end, by its caller's doing.
    pub(super) fn broke_off(&self) {
        match self {
            Self::Streamed(_, passed) => passed.broke_off(),
            Self::Watched(body) => body.broke_off(),
            Self::Replayed(body) => body.broke_off(),
            Self::Paced(body) => body.broke_off(),
            Self::Whole(..) | Self::Empty => {}
        }
    }

    /// Comes no faster than limits let it.
    pub fn paced(self, paces: Vec<Pace>) -> Self {
        match paces.is_empty() {
            true => self,
            false => Self::Paced(Box::new(Paced::new(self, paces))),
        }
    }

    fn watched(self, look: impl FnOnce(Watched) -> Watched) -> Self {
        match self {
            // One inside the other: each rule that a request is led through looks for itself.
            Self::Watched(_) | Self::Paced(_) | Self::Streamed(..) | Self::Replayed(_) => {
                Self::Watched(Box::new(look(Watched::new(self))))
            }
            Self::Whole(..) | Self::Empty => self,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Streamed(body, passed) => {
                let frame = Pin::new(body).poll_frame(task).map_ok(cleaned);
                passed.awaits(frame.is_pending());
                let frame = ready!(frame);
                if let Some(data) = frame.iter().flatten().find_map(Frame::data_ref) {
                    passed.add(data.len() as u64);
                }
                if let Some(Err(_)) = frame {
                    passed.broke_off();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Cut::Downstream)))
            }
            Self::Watched(body) => Pin::new(&mut **body).poll_frame(task),
            Self::Replayed(body) => Pin::new(body).poll_frame(task),
            Self::Paced(body) => Pin::new(&mut **body).poll_frame(task),
            Self::Whole(body, trailers) => {
                let frame = body.take().map(Frame::data);
                let trailers = || trailers.take().map(|trailers| Frame::trailers(*trailers));
                Poll::Ready(frame.or_else(trailers).map(Ok))
            }
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body, _) => body.is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
            Self::Replayed(body) => body.is_end_stream(),
            Self::Paced(body) => body.is_end_stream(),
            Self::Whole(body, trailers) => body.is_none() && trailers.is_none(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body, _) => body.size_hint(),
            Self::Watched(body) => body.size_hint(),
            Self::Replayed(body) => body.size_hint(),
            Self::Paced(body) => body.size_hint(),
            Self::Whole(body, None) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            // A length would leave no place for trailers; and not that an empty one is 0: whoever sends it
            // would say so with a content-length that nobody sent.
            Self::Whole(..) | Self::Empty => SizeHint::default(),
        }
    }
}

// === impl Cut ===

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Downstream(error) => error.fmt(f),
            Self::TooLarge => f.write_str("the request is larger than the route allows"),
            Self::SentAnew => f.write_str("another try sends it"),
        }
    }
}

impl std::error::Error for Cut {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Downstream(error) => error.source(),
            Self::TooLarge | Self::SentAnew => None,
        }
    }
}
