//! Bodies on their way through: streamed, timed, counted.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::context::Account;
use super::error::{Error, Reason};
use super::idle::Idle;
use super::limits;
use super::load::Admitted;
use super::upgrade::Switched;
use super::upstream::Lease;
use crate::policy::cache::fill::Fill;
use crate::policy::compression::Gzip;
use crate::policy::timeout::Deadline;

mod begun;
mod encoded;
mod filling;
mod paced;
pub mod replay;
mod request;
mod watched;

use begun::Begun;
use encoded::Encoded;
use filling::Filling;

pub use request::{Cut, RequestBody};
pub use watched::Watched;

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
    /// What has been read of it, and what follows.
    Begun(Begun),
    /// An upstream's, which is kept while it passes.
    Filling(Filling),
    /// What is sent while it goes on.
    Sent(mpsc::Receiver<Bytes>),
    /// None follows: both sides speak another protocol from here on.
    Switched(Option<Box<Switched>>),
}

/// Trailers decide nothing that was decided before them.
fn cleaned(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        super::headers::clean_trailers(trailers);
    }
    frame
}

// === impl From ===

impl From {
    fn is_end(&self) -> bool {
        match self {
            Self::Upstream(body, _) => body.is_end_stream(),
            Self::Mesh(body) => body.is_none(),
            Self::Begun(body) => body.is_end(),
            Self::Filling(body) => body.is_end(),
            Self::Sent(_) => false,
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

    /// A body of which this has been read, and then that follows.
    pub fn begun(read: Bytes, then: ResponseBody) -> Self {
        Self {
            from: From::Begun(Begun::of(read, then)),
            ..Self::mesh(Bytes::new())
        }
    }

    /// A body that is all there, with what trails it.
    pub fn trailed(body: Bytes, trailers: Option<HeaderMap>) -> Self {
        match trailers {
            None => Self::mesh(body),
            Some(trailers) => Self {
                from: From::Begun(Begun::trailed(body, trailers)),
                ..Self::mesh(Bytes::new())
            },
        }
    }

    /// What an upstream answers, and is kept while it passes; until then the request has its place.
    pub fn filling(body: ResponseBody, fill: Fill, place: Option<Rc<Admitted>>) -> Self {
        Self {
            from: From::Filling(Filling::begin(body, fill, place)),
            ..Self::mesh(Bytes::new())
        }
    }

    /// What is sent, until nobody sends any more.
    pub fn sent(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from: From::Sent(pieces),
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
            // Whoever sends says something now and then.
            From::Sent(pieces) => {
                ready!(pieces.poll_recv(task)).map(|piece| Ok(Frame::data(piece)))
            }
            // Timed where it is read from the upstream.
            From::Filling(body) => ready!(body.poll(task)),
            From::Begun(body) => ready!(body.poll(task)),
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
            From::Begun(body) => body.size_hint(),
            From::Sent(_) => SizeHint::default(),
            From::Switched(_) => SizeHint::with_exact(0),
            From::Mesh(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
        }
    }
}
