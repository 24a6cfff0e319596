//! Calls that are carried out once: whose key a request has, and what it is given for it.
//!
//! A request with a key is read to its end before anything is asked, so that it can be told from
//! another one; then it is the first with its key, or gets what that one got. From the claim of its key
//! on a call is a work of its own, which goes on when its caller hangs up and keeps the sidecar from
//! ending: nothing that was claimed is left without a word.

mod answer;
mod call;
mod end;
mod request;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use self::call::{Call, Held};
use self::request::Reading;
use super::Proxy;
use super::body::{RequestBody, ResponseBody};
use super::cache::{self, origin::Origin};
use super::context::Context;
use super::error::{Error, Reason};
use super::inbound::FromPeer;
use super::upstream::{Speak, Upstream};
use crate::config::publish::{Does, Publishing, Streaming};
use crate::config::state::Served;
use crate::events::{publish, stream};
use crate::policy::authentication::Caller;
use crate::policy::cache::Cache;
use crate::policy::idempotency::Idempotency;
use crate::policy::idempotency::answer::Answer;
use crate::policy::idempotency::key::{Fingerprint, Key, Principal};
use crate::policy::idempotency::memory::Known;
use crate::policy::idempotency::outcome::Outcome;
use crate::policy::mirror;

/// Where requests go on that are not answered here.
#[derive(Clone, Debug)]
pub(super) enum Onward {
    /// To the application, by way of what is kept of its answers if any is.
    Application(Origin, Option<Arc<Cache>>),
    /// To a broker, for whoever sent it.
    Publish(Rc<Proxy>, Arc<Publishing>, Principal),
    /// Nowhere: it is answered with what a broker has.
    Stream(Rc<Proxy>, Arc<Streaming>),
}

// === impl Onward ===

impl Onward {
    /// To the application, unless the request becomes an event.
    pub(super) fn of(
        px: &Rc<Proxy>,
        served: &Served,
        head: &Parts,
        (upstream, speak): (Rc<Upstream>, Speak),
        (peer, callers): (&FromPeer, &[Caller]),
    ) -> Self {
        match served.publishing(head) {
            Some(Does::Stream(from)) => Self::Stream(px.clone(), from.clone()),
            Some(Does::Publish(to)) => {
                let sender = Principal::of(peer.identity.as_ref(), callers);
                Self::Publish(px.clone(), to.clone(), sender)
            }
            None => Self::Application(
                Origin::application(upstream, speak, peer.called.port()),
                served.cache().cloned(),
            ),
        }
    }

    /// Has a request answered.
    ///
    /// # Errors
    /// Those of [`super::forward::once`], of [`cache::carry`] and of [`publish::carry`].
    pub(super) async fn answer(
        &self,
        cx: &mut Context,
        head: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Error> {
        match self {
            Self::Application(application, Some(cache)) => {
                Box::pin(cache::carry(cx, cache, application, head, body)).await
            }
            Self::Application(application, None) => Box::pin(application.ask(cx, head, body)).await,
            Self::Publish(px, to, sender) => {
                let to = (to, Some(*sender));
                Box::pin(publish::carry(px, cx, to, head, body)).await
            }
            Self::Stream(px, from) => Box::pin(stream::carry(px, cx, from, head, body)).await,
        }
    }

    /// Whether neither it nor its answer can be kept: one that comes, or goes, for as long as it does.
    fn is_endless(&self) -> bool {
        match self {
            Self::Application(..) => false,
            Self::Publish(_, to, _) => to.split.is_some(),
            Self::Stream(..) => true,
        }
    }

    /// Whether what was not answered well can be sent again: a broker tells duplicates itself.
    pub(super) fn tells_duplicates(&self) -> bool {
        matches!(self, Self::Publish(..))
    }
}

/// Answers a request that is to be carried out once.
///
/// # Errors
/// `idempotency_key_required`, `idempotency_conflict`, `idempotency_in_progress`,
/// `idempotency_unknown`, `idempotency_unavailable`; `request_too_large`; and those of
/// [`Onward::answer`].
pub(super) async fn carry(
    px: &Rc<Proxy>,
    cx: &mut Context,
    policy: &Arc<Idempotency>,
    principal: Principal,
    onward: &Onward,
    (head, body): (Parts, RequestBody),
) -> Result<Response<ResponseBody>, Error> {
    let key = match policy.key(&head) {
        // The records of what is uploaded are told apart by the same key.
        Ok(Some(_)) if onward.is_endless() => return onward.answer(cx, head, body).await,
        Ok(None) if !policy.required => return onward.answer(cx, head, body).await,
        _ if policy.closed => return Err(refuse(cx, policy, Outcome::Unavailable)),
        Ok(Some(key)) => Key::of(&policy.object, principal, key, mirror::is_copy(&head)),
        Ok(None) | Err(_) => return Err(refuse(cx, policy, Outcome::KeyRequired)),
    };
    if cx.upgrade.is_some() {
        let why = "a call that is carried out once can't become another protocol";
        return Err(Error::new(Reason::BadRequest, why));
    }
    // Of what has been answered here nothing has to be held to tell that it comes again.
    let keeps = !policy.memory.is_settled(key);
    let reading = Reading::begin(policy, principal, keeps);
    let read = reading.read(cx, &head, body).await?;
    let Some(Reading {
        room,
        whole,
        hash,
        trailers,
        ..
    }) = read
    else {
        return Err(refuse(cx, policy, Outcome::Unavailable));
    };
    let fingerprint = Fingerprint::of(&head, hash, trailers.as_ref());
    if !keeps && let Some(known) = policy.memory.known(key, fingerprint) {
        return given_or_refused(cx, policy, known);
    }
    if !keeps {
        // It ended while this was read: whoever sends it again is the first.
        return Err(refuse(cx, policy, Outcome::Unavailable));
    }
    let call = Call {
        px: px.clone(),
        policy: policy.clone(),
        onward: onward.clone(),
        key,
        principal,
        fingerprint,
        head,
        body: Bytes::from(whole.into_boxed_slice()),
        trailers,
        held: Held {
            _room: room,
            _work: px.drain.work(),
            _admitted: cx.admitted.clone(),
        },
    };
    call.carry_out(cx).await
}

fn given_or_refused(
    cx: &mut Context,
    policy: &Idempotency,
    known: Known,
) -> Result<Response<ResponseBody>, Error> {
    match known {
        Known::Answered(answer) => {
            count(cx, policy, Outcome::Replayed);
            Ok(given(&answer, true))
        }
        Known::Unknown => Err(refuse(cx, policy, Outcome::Unknown)),
        Known::Other => Err(refuse(cx, policy, Outcome::Conflict)),
        Known::UnderWay(_) => Err(refuse(cx, policy, Outcome::InProgress)),
    }
}

fn given(answer: &Answer, replayed: bool) -> Response<ResponseBody> {
    let body = ResponseBody::trailed(answer.body.clone(), answer.trailers.clone());
    answer.response(replayed).map(|()| body)
}

fn count(cx: &mut Context, policy: &Idempotency, outcome: Outcome) {
    policy.counts.became(outcome);
    cx.carried_out(outcome);
}

fn refuse(cx: &mut Context, policy: &Idempotency, outcome: Outcome) -> Error {
    count(cx, policy, outcome);
    let why = format!("ApiRoute {}", policy.object);
    match outcome {
        Outcome::KeyRequired => Error::new(Reason::IdempotencyKeyRequired, why),
        Outcome::Conflict => Error::new(Reason::IdempotencyConflict, why),
        Outcome::InProgress => Error::new(Reason::IdempotencyInProgress, why),
        Outcome::Unknown => Error::new(Reason::IdempotencyUnknown, why),
        _ => Error::new(Reason::IdempotencyUnavailable, why),
    }
}
