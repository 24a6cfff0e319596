//! Bodies on their way through: streamed, timed, counted.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::context::{Account, Context, RequestBytes};
use super::copy::Copy;
use super::error::{Error, Reason};
use super::idle::Idle;
use super::limits;
use super::upgrade::Switched;
use super::upstream::Lease;
use crate::policy::body_limit::Left;
use crate::policy::cache::Fill;
use crate::policy::compression::Gzip;
use crate::policy::rate_limit::Pace;
use crate::policy::timeout::Deadline;

mod encoded;
mod filling;
mod paced;
pub mod replay;
mod watched;

use encoded::Encoded;
use filling::Filling;
use paced::Paced;
use replay::Replayed;
pub use watched::Watched;

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
    /// All of it is there.
    Whole(Option<Bytes>),
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

/// A response's body, as it goes downstream.
pub struct ResponseBody {
    from: From,
    encoded: Option<Box<Encoded>>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether the upstream was waited for, last.
    waited: bool,
    idle: Idle,
    /// Bytes of it that have passed.
    passed: u64,
    account: Option<Account>,
}

enum From {
    Upstream(Incoming, Option<Lease>),
    Mesh(Option<Bytes>),
    /// An upstream's, which is kept while it passes.
    Filling(Filling),
    /// None follows: both sides speak another protocol from here on.
    Switched(Option<Box<Switched>>),
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
            false => Self::Whole(Some(body)),
        }
    }

    /// It ends before its end, by its caller's doing.
    fn broke_off(&self) {
        match self {
            Self::Streamed(_, passed) => passed.broke_off(),
            Self::Watched(body) => body.broke_off(),
            Self::Replayed(body) => body.broke_off(),
            Self::Paced(body) => body.broke_off(),
            Self::Whole(_) | Self::Empty => {}
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
            Self::Whole(_) | Self::Empty => self,
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
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body, _) => body.is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
            Self::Replayed(body) => body.is_end_stream(),
            Self::Paced(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_none(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body, _) => body.size_hint(),
            Self::Watched(body) => body.size_hint(),
            Self::Replayed(body) => body.size_hint(),
            Self::Paced(body) => body.size_hint(),
            Self::Whole(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            // Not that it is 0: whoever sends it would say so with a content-length that nobody sent.
            Self::Empty => SizeHint::default(),
        }
    }
}

/// Trailers decide nothing that was decided before them.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        super::headers::clean_trailers(trailers);
    }
    frame
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

// === impl From ===

impl From {
    fn is_end(&self) -> bool {
        match self {
            Self::Upstream(body, _) => body.is_end_stream(),
            Self::Mesh(body) => body.is_none(),
            Self::Filling(body) => body.is_end(),
            Self::Switched(_) => true,
        }
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// What an upstream answers. The connection goes back to its pool, and `lease` ends, when the
    /// last byte has passed.
    pub fn upstream(body: Incoming, lease: Lease, deadline: Deadline, idle: Duration) -> Self {
        let ended = body.is_end_stream();
        let mut lease = Some(lease);
        if ended && let Some(lease) = lease.take() {
            lease.complete();
        }
        Self {
            from: From::Upstream(body, lease),
            encoded: None,
            deadline: deadline
                .instant()
                .filter(|_| !ended)
                .map(|at| Box::pin(tokio::time::sleep_until(at))),
            waited: true,
            idle: Idle::new(idle),
            passed: 0,
            account: None,
        }
    }

    /// What the mesh answers itself.
    pub fn mesh(body: Bytes) -> Self {
        Self {
            from: From::Mesh(Some(body).filter(|body| !body.is_empty())),
            encoded: None,
            deadline: None,
            waited: false,
            idle: Idle::new(limits::BODY_IDLE),
            passed: 0,
            account: None,
        }
    }

    /// What an upstream answers, and is kept while it passes.
    pub fn filling(body: ResponseBody, fill: Fill) -> Self {
        Self {
            from: From::Filling(Filling::begin(body, fill)),
            ..Self::mesh(Bytes::new())
        }
    }

    /// What follows an answer that agrees to another protocol.
    pub fn switched(switched: Switched) -> Self {
        Self {
            from: From::Switched(Some(Box::new(switched))),
            encoded: None,
            deadline: None,
            waited: false,
            idle: Idle::new(limits::BODY_IDLE),
            passed: 0,
            account: None,
        }
    }

    /// The same, compressed while it passes.
    pub fn compressed(mut self, gzip: Gzip) -> Self {
        self.encoded = Some(Box::new(Encoded::new(gzip)));
        self
    }

    /// Whether another protocol follows.
    pub fn is_switched(&self) -> bool {
        matches!(self.from, From::Switched(_))
    }

    /// The account stays open until this body has ended, or the protocol that follows it.
    pub fn with(mut self, mut account: Account) -> Self {
        if let From::Switched(switched) = &mut self.from {
            if let Some(switched) = switched.take() {
                tokio::task::spawn_local(switched.carry(account));
            }
            return self;
        }
        if self.is_end_stream() {
            account.cx.completed();
        }
        self.account = Some(account);
        self
    }

    fn passed(&mut self, frame: &Frame<Bytes>) {
        self.passed += frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(account) = &mut self.account {
            if let Some(data) = frame.data_ref() {
                account.cx.passed_on(data.len());
            }
            if let Some(trailers) = frame.trailers_ref() {
                account.cx.says(trailers);
            }
        }
        if let (From::Upstream(_, Some(lease)), Some(trailers)) =
            (&mut self.from, frame.trailers_ref())
        {
            lease.says(trailers);
        }
        if self.is_end_stream() {
            self.ended();
        }
    }

    fn ended(&mut self) {
        if let From::Upstream(_, lease) = &mut self.from
            && let Some(lease) = lease.take()
        {
            lease.complete();
        }
        if let Some(account) = &mut self.account {
            account.cx.completed();
        }
        self.deadline = None;
    }

    fn broke_off(&mut self, error: Error) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let From::Upstream(_, Some(lease)) = &mut self.from {
            match error.reason == Reason::RequestTimeout && !self.waited {
                // Whoever reads it took its time.
                true => lease.forgive(),
                false => lease.broke_off(error.reason),
            }
        }
        if let Some(account) = &mut self.account {
            account
                .cx
                .broke_off(Error::new(error.reason, error.detail.clone()));
        }
        self.deadline = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(task).is_ready()
        {
            return this.broke_off(Reason::RequestTimeout.into());
        }
        if let Some(encoded) = &mut this.encoded {
            if encoded.is_end() {
                return Poll::Ready(None);
            }
            if let Some(frame) = encoded.waiting() {
                this.passed(&frame);
                return Poll::Ready(Some(Ok(frame)));
            }
        }
        this.waited = false;
        let frame = match &mut this.from {
            From::Mesh(body) => body.take().map(|body| Ok(Frame::data(body))),
            From::Switched(_) => None,
            // Timed where it is read from the upstream.
            From::Filling(body) => ready!(body.poll(task)),
            From::Upstream(body, _) => match Pin::new(body).poll_frame(task) {
                Poll::Ready(frame) => {
                    frame.map(|frame| frame.map(cleaned).map_err(|error| Error::exchange(&error)))
                }
                Poll::Pending => {
                    this.waited = true;
                    let moved = this
                        .account
                        .as_ref()
                        .map_or(this.passed, |account| account.cx.moved());
                    ready!(this.idle.poll(task, moved));
                    return this.broke_off(Reason::IdleTimeout.into());
                }
            },
        };
        let frame = match &mut this.encoded {
            Some(encoded) => encoded.pass(frame, this.from.is_end()),
            None => frame,
        };
        match frame {
            Some(Ok(frame)) => {
                this.passed(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => this.broke_off(error),
            None => {
                this.ended();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.encoded {
            Some(encoded) => encoded.is_end(),
            None => self.from.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.encoded.is_some() {
            return SizeHint::default();
        }
        match &self.from {
            From::Upstream(body, _) => body.size_hint(),
            From::Filling(body) => body.size_hint(),
            From::Switched(_) => SizeHint::with_exact(0),
            From::Mesh(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
        }
    }
}
