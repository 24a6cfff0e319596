//! One request on its way to whom it goes to: within its deadline, in as many attempts as it takes
//! ([`super::attempts`]).

use std::pin::pin;
use std::rc::Rc;

use http::{Request, Response, StatusCode, Version, request::Parts};
use hyper::body::Incoming;

use super::attempt::{self, Hop};
use super::attempts::Attempts;
use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::destination::Backend;
use super::error::{Error, Reason};
use super::idle;
use super::upgrade::Upgrade;
use super::upstream::{Lease, Speak, Upstream};
use crate::policy::retry::Retries;
use crate::policy::timeout::Deadline;

/// How often a request meets kept connections that turn out to be closed before its first byte.
pub const MAX_ATTEMPTS: u32 = 3;

/// Sends a request to one of the endpoints; the response's body is bound by the deadline too.
///
/// # Errors
/// Why no response came; see [`super::error::Reason`].
pub async fn forward(
    cx: &mut Context,
    backend: &Backend,
    retries: &Retries,
    deadline: Deadline,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let (idle, sent) = (cx.idle_limit(), cx.sent());
    let attempts = Attempts {
        cx,
        backend,
        retries,
        speak: Speak::to_application(backend.protocol, head.version == Version::HTTP_2),
        deadline,
        key: backend.balancer.key(Some(&head.headers)),
    };
    let request = Request::from_parts(head, body);
    let answer = {
        // Pinned where it is made: each bound around it would move it.
        let mut attempts = pin!(attempts.carry(request));
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
        super::headers::remove_reserved_of_answer(response.headers_mut());
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

/// Sends a request to one place, once: to the own application, whose retries are the caller's, or
/// outside.
///
/// # Errors
/// `application_unreachable`, `connect_failed`, `upstream_reset`, `bad_response`.
pub async fn once(
    cx: &mut Context,
    upstream: &Rc<Upstream>,
    speak: Speak,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    // Nobody but a peer's sidecar knows how long the caller waits.
    let told = cx.told.timeout.filter(|_| cx.source.is_some());
    let deadline = Deadline::start(told, cx.started);
    let mut request = Request::from_parts(head, body);
    loop {
        cx.attempts.set(cx.attempts.get() + 1);
        let again = cx.attempts.get() < MAX_ATTEMPTS;
        let answer = {
            let upgrade = cx.upgrade.as_ref();
            let mut sending = pin!(attempt::send(
                upstream,
                speak,
                upgrade,
                Hop::only(),
                request
            ));
            let (idle, sent) = (cx.idle_limit(), cx.sent());
            let sending = async {
                let sending = idle::bound(idle, || sent.get(), sending.as_mut());
                sending.await.map_err(Error::from)
            };
            deadline.bound(sending).await?
        };
        match answer {
            Ok((response, lease)) => return answered(cx, response, lease, deadline),
            // Only a kept connection that was closed meanwhile: the next one is fresh.
            Err((error, Some(unsent))) if !error.reason.unsent() && again => {
                request = unsent;
            }
            Err((error, _)) => return Err(cx.unanswered(error)),
        }
    }
}
