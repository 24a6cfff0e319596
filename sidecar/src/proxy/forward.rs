//! The attempts of one request: the only place that knows about deadlines, endpoints and tries at
//! once.
//!
//! An attempt is repeated only when nothing of the request can have reached the application: the
//! endpoint could not be connected to, a kept connection turned out to be closed before the first
//! byte, or the peer's sidecar says so of its application (and the request has no body, which would
//! be gone). Retries of what was sent, and hedging, belong here too when `RetryPolicy` brings them:
//! `decide` after an attempt, a second attempt beside the first.

use std::pin::pin;
use std::rc::Rc;

use http::{Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;

use super::attempt;
use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::error::{Error, Reason};
use super::idle;
use super::upgrade::Upgrade;
use super::upstream::{Lease, Speak, Upstream};
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
    speak: Speak,
    deadline: Deadline,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let (idle, sent) = (cx.idle_limit(), cx.sent());
    let key = balancer.key(Some(&head.headers));
    let request = Request::from_parts(head, body);
    let answer = {
        // Pinned where it is made: each bound around it would move it.
        let mut attempts = pin!(attempts(cx, balancer, key, speak, request));
        let attempts = async {
            let answer = idle::bound(idle, || sent.get(), attempts.as_mut()).await;
            answer.unwrap_or_else(|idle| Err(idle.into()))
        };
        deadline.bound(attempts).await
    };
    let (response, lease) = answer.map_err(|error| cx.unanswered(error))?;
    answered(cx, response, lease, deadline)
}

/// What is passed on of an answer.
fn answered(
    cx: &mut Context,
    mut response: Response<Incoming>,
    lease: Lease,
    deadline: Deadline,
) -> Result<Response<ResponseBody>, Error> {
    if !lease.from_peer() {
        super::headers::remove_reserved(response.headers_mut());
    }
    let agreed = |upgrade: &mut Upgrade| upgrade.agreed(response.status());
    if let Some(upgrade) = cx.upgrade.take_if(agreed) {
        let switched = upgrade.join(&mut response, lease)?;
        return Ok(response.map(|_| ResponseBody::switched(switched)));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let why = "it switches to a protocol that was not asked for";
        return Err(Error::new(Reason::BadResponse, why));
    }
    let idle = cx.idle_limit();
    Ok(response.map(|body| ResponseBody::upstream(body, lease, deadline, idle)))
}

async fn attempts(
    cx: &mut Context,
    balancer: &LoadBalancer<Upstream>,
    key: Option<u64>,
    speak: Speak,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), Error> {
    let mut tried: Vec<Rc<Upstream>> = Vec::new();
    loop {
        let upstream = balancer.pick(key, &tried)?;
        cx.attempts += 1;
        cx.endpoint = Some(upstream.pod.clone());
        let last = cx.attempts >= MAX_ATTEMPTS || tried.len() + 1 >= balancer.len();
        let again = if last || !upstream.is_peer() {
            None
        } else {
            attempt::copy(&request)
        };
        let asked = upstream.asked();
        let sent = attempt::send(&upstream, speak, cx.upgrade.as_ref(), request).await;
        match &sent {
            Ok((response, _)) if attempt::unsent(&upstream, response) => asked.failed(),
            Ok((response, _)) if response.status().is_server_error() => asked.erred(),
            Ok(_) => asked.answered(),
            // That is nothing that it has done.
            Err((error, _)) if error.reason.is_ours() => drop(asked),
            Err(_) => asked.failed(),
        }
        match sent {
            Ok((response, lease)) => match again {
                Some(again) if attempt::unsent(&upstream, &response) => request = again,
                _ => return Ok((response, lease)),
            },
            Err((_, Some(unsent))) if cx.attempts < MAX_ATTEMPTS => request = unsent,
            Err((error, _)) => return Err(error),
        }
        tried.push(upstream);
    }
}

/// Sends a request to the own application, once: retries are the caller's.
///
/// # Errors
/// `application_unreachable`, `upstream_reset`, `bad_response`.
pub async fn to_application(
    cx: &mut Context,
    application: &Rc<Upstream>,
    speak: Speak,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let mut request = Request::from_parts(head, body);
    loop {
        cx.attempts += 1;
        let sending = attempt::send(application, speak, cx.upgrade.as_ref(), request);
        match idle::bound(cx.idle_limit(), || cx.sent().get(), sending).await? {
            Ok((response, lease)) => {
                let deadline = Deadline::start(None, cx.started);
                return answered(cx, response, lease, deadline);
            }
            // Only a kept connection that was closed meanwhile: the next one is fresh.
            Err((error, Some(again))) if !error.reason.unsent() && cx.attempts < MAX_ATTEMPTS => {
                request = again;
            }
            Err((error, _)) => return Err(cx.unanswered(error)),
        }
    }
}
