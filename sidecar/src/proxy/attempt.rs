//! One attempt of a request, and whether it can be followed by another.

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::body::RequestBody;
use super::error::{Error, Fault, Reason};
use super::headers;
use super::upgrade::Upgrade;
use super::upstream::{Lease, Speak, Upstream};

/// A request that can be sent twice: one without a body.
pub fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !matches!(request.body(), RequestBody::Empty) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Whether the peer's sidecar says that its application never got the request. Only a sidecar can
/// say so: it takes such headers from its application's responses.
pub fn unsent(upstream: &Upstream, response: &Response<Incoming>) -> bool {
    upstream.is_peer()
        && Reason::of(response.headers())
            .is_some_and(|reason| reason.unsent() && reason.fault() != Fault::Caller)
}

/// Why there was no answer, and the request if nothing of it was sent.
type Failed = (Error, Option<Request<RequestBody>>);

/// One attempt. The request comes back when nothing of it was sent. `speak` is how the application
/// is spoken to.
pub async fn send(
    upstream: &Rc<Upstream>,
    speak: Speak,
    upgrade: Option<&Upgrade>,
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
    if let Some(upgrade) = upgrade {
        upgrade.ask(&mut request);
    }
    connection.send(request).await
}
