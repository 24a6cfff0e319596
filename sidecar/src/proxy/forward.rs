//! The attempts of one request: the only place that knows about deadlines, endpoints and tries at
//! once.
//!
//! An attempt is repeated only when nothing of the request can have reached the application: the
//! endpoint could not be connected to, a kept connection turned out to be closed before the first
//! byte, or the peer's sidecar says so of its application (and the request has no body, which would
//! be gone). Retries of what was sent, and hedging, belong here too when `RetryPolicy` brings them:
//! `decide` after an attempt, a second attempt beside the first.

use std::rc::Rc;

use http::{Request, Response, request::Parts};
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::error::{Error, Fault, Reason};
use super::headers;
use super::upstream::{Lease, Upstream};
use crate::policy::load_balancer::LoadBalancer;
use crate::policy::timeout::Deadline;

/// Endpoints tried for one request when none can be connected to: a rolling update replaces a few
/// at a time, and more tries would turn one outage into a storm of connections.
pub const MAX_ATTEMPTS: u32 = 3;

/// Sends a request to one of the endpoints; the response's body is bound by the deadline too.
///
/// # Errors
/// Why no response came; see [`super::error::Reason`].
pub async fn forward(
    cx: &mut Context,
    balancer: &LoadBalancer<Upstream>,
    deadline: Deadline,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let attempts = attempts(cx, balancer, Request::from_parts(head, body));
    let (mut response, lease) = deadline.bound(attempts).await?;
    if !lease.from_peer() {
        headers::remove_reserved(response.headers_mut());
    }
    Ok(response.map(|body| ResponseBody::upstream(body, lease, deadline)))
}

async fn attempts(
    cx: &mut Context,
    balancer: &LoadBalancer<Upstream>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), Error> {
    let mut tried: Vec<Rc<Upstream>> = Vec::new();
    loop {
        let upstream = balancer.pick(&tried)?;
        cx.attempts += 1;
        cx.endpoint = Some(upstream.pod.clone());
        let last = cx.attempts >= MAX_ATTEMPTS || tried.len() + 1 >= balancer.len();
        let again = if last || !upstream.is_peer() {
            None
        } else {
            copy(&request)
        };
        match attempt(&upstream, request).await {
            Ok((response, lease)) => match again {
                Some(again) if unsent(&upstream, &response) => request = again,
                _ => return Ok((response, lease)),
            },
            Err((_, Some(unsent))) if cx.attempts < MAX_ATTEMPTS => request = unsent,
            Err((error, _)) => return Err(error),
        }
        tried.push(upstream);
    }
}

/// A request that can be sent twice: one without a body.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
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
fn unsent(upstream: &Upstream, response: &Response<Incoming>) -> bool {
    upstream.is_peer()
        && Reason::of(response.headers())
            .is_some_and(|reason| reason.unsent() && reason.fault() != Fault::Caller)
}

type Failed = (Error, Option<Request<RequestBody>>);

/// One attempt. The request comes back when nothing of it was sent.
async fn attempt(
    upstream: &Rc<Upstream>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), Failed> {
    let connection = match upstream.connection().await {
        Ok(connection) => connection,
        Err(error) => return Err((error, Some(request))),
    };
    if let Err(error) = headers::fit(&mut request, upstream.is_peer()) {
        return Err((error, None));
    }
    connection.send(request).await
}

/// Sends a request to the own application, once: retries are the caller's.
///
/// # Errors
/// `application_unreachable`, `upstream_reset`, `bad_response`.
pub async fn to_application(
    cx: &mut Context,
    application: &Rc<Upstream>,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let mut request = Request::from_parts(head, body);
    loop {
        cx.attempts += 1;
        match attempt(application, request).await {
            Ok((mut response, lease)) => {
                headers::remove_reserved(response.headers_mut());
                let deadline = Deadline::start(None, cx.started);
                return Ok(response.map(|body| ResponseBody::upstream(body, lease, deadline)));
            }
            // Only a kept connection that was closed meanwhile: the next one is fresh.
            Err((error, Some(again))) if !error.reason.unsent() && cx.attempts < MAX_ATTEMPTS => {
                request = again;
            }
            Err((error, _)) => return Err(error),
        }
    }
}
