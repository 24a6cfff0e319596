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
    /// When it must be answered.
    pub deadline: Deadline,
    /// How its caller reads an answer.
    pub reads: Reads,
}

/// Whether the peer's sidecar says that its application never got the request. Only a sidecar can
/// say so: it takes such headers from its application's responses.
pub fn unsent(upstream: &Upstream, response: &Response<Incoming>) -> bool {
    upstream.is_peer()
        && Reason::of(response.headers())
            .is_some_and(|reason| reason.unsent() && reason.fault() != Fault::Caller)
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
    let connection = match upstream.connection(hop).await {
        Ok(connection) => connection,
        Err(error) => return Err((error, Some(request))),
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
    connection.send(request).await
}

// === impl Hop ===

impl Hop {
    /// The only attempt, of which nothing is told.
    pub fn only() -> Self {
        Self {
            number: 1,
            deadline: Deadline::start(None, Instant::now()),
            reads: Reads::Http,
        }
    }

    fn tell(self, upstream: &Upstream, headers: &mut HeaderMap) {
        let now = Instant::now();
        let left = self.deadline.instant();
        let left = left.map(|end| end.saturating_duration_since(now));
        if let (Some(left), Reads::Grpc) = (left, self.reads) {
            headers::set_grpc_timeout(headers, left);
        }
        if upstream.is_peer() {
            headers::tell_peer(headers, self.number, left);
        }
    }
}
