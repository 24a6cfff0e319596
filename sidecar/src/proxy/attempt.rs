//! One attempt of a request, and whether it can be followed by another.

use std::rc::Rc;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::RequestBody;
use super::error::{Error, Fault, Reads, Reason};
use super::headers;
use super::upgrade::Upgrade;
use super::upstream::{Lease, Speak, Upstream};
use crate::policy::timeout::Deadline;

/// What the next hop is told of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Counts the attempts of a request, from 1.
    pub number: u32,
    /// When the request must be answered, whatever is tried.
    pub deadline: Deadline,
    /// When this attempt ends without an answer, where that is sooner. Nobody is told: what has begun to
    /// answer by then has all the time that the request has.
    pub end: Option<Instant>,
    /// How its caller reads an answer.
    pub reads: Reads,
}

/// Whether the peer's sidecar says that its application never got the request, or that it may be carried
/// out twice and met the end of a connection. Only a sidecar can say so: it takes such headers from its
/// application's responses.
pub fn unsent(upstream: &Upstream, response: &Response<Incoming>) -> bool {
    let may_be_repeated = |reason: Reason| match reason {
        Reason::KeptConnectionClosed => true,
        reason => reason.unsent() && reason.fault() != Fault::Caller,
    };
    upstream.is_peer() && Reason::of(response.headers()).is_some_and(may_be_repeated)
}

/// Why there was no answer, and the request if nothing of it was sent.
pub type Failed = (Error, Option<Request<RequestBody>>);

/// One attempt. The request comes back when nothing of it was sent. `speak` is how the application
/// is spoken to.
pub async fn send(
    upstream: &Rc<Upstream>,
    speak: Speak,
    upgrade: Option<&Upgrade>,
    told: Hop,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let hop = match upgrade {
        Some(_) => Speak::Http1,
        None if upstream.is_peer() => Speak::Http2,
        None => speak,
    };
    let connection = match told.within(upstream.connection(hop)).await {
        Some(Ok(connection)) => connection,
        Some(Err(error)) => return Err((error, Some(request))),
        None => {
            let why = "there was no connection in the time of one try";
            return Err((Error::new(Reason::ConnectFailed, why), Some(request)));
        }
    };
    if let Err(error) = headers::fit(&mut request, hop) {
        return Err((error, None));
    }
    if upstream.is_peer() && speak == Speak::Http2 {
        headers::mark_http2(request.headers_mut());
    }
    told.tell(upstream, request.headers_mut());
    if let Some(upgrade) = upgrade {
        upgrade.ask(&mut request);
    }
    match told.within(connection.send(request)).await {
        Some(sent) => sent,
        None => Err((Reason::TryTimeout.into(), None)),
    }
}

// === impl Hop ===

impl Hop {
    /// The only attempt, of which nothing is told.
    pub fn only() -> Self {
        Self {
            number: 1,
            deadline: Deadline::start(None, Instant::now()),
            end: None,
            reads: Reads::Http,
        }
    }

    /// What comes before the end of the attempt.
    async fn within<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.end {
            None => Some(work.await),
            Some(end) => tokio::time::timeout_at(end, work).await.ok(),
        }
    }

    fn tell(self, upstream: &Upstream, headers: &mut HeaderMap) {
        let now = Instant::now();
        let left = self.deadline.instant();
        let left = left.map(|end| end.saturating_duration_since(now));
        if let (Some(left), Reads::Grpc) = (left, self.reads) {
            headers::set_grpc_timeout(headers, left);
        }
        match upstream.is_peer() {
            true => headers::tell_peer(headers, self.number, left),
            false => headers::hide_keeps(headers),
        }
    }
}
