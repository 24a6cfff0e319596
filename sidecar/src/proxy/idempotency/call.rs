//! One call: whether it is the first with its key, and that it is carried out.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::answer::{Came, Collecting};
use super::end::{self, Right};
use super::{Onward, count, given, refuse};
use crate::drain::Work;
use crate::policy::idempotency::answer::Answer;
use crate::policy::idempotency::key::{Fingerprint, Key, Principal};
use crate::policy::idempotency::memory::{Claim, Known, Room};
use crate::policy::idempotency::outcome::Outcome;
use crate::policy::idempotency::shared::{self, Claimed, Ended, Owner};
use crate::policy::idempotency::{Idempotency, Together};
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reads, Reason};
use crate::proxy::load::Admitted;
use crate::proxy::store::Use;
use crate::proxy::{Proxy, headers};
use crate::telemetry::metrics::Direction;

/// From one look at a call under way at another replica to the next, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// A request with a key, all of which is there.
pub(super) struct Call {
    pub(super) px: Rc<Proxy>,
    pub(super) policy: Arc<Idempotency>,
    pub(super) onward: Onward,
    pub(super) key: Key,
    pub(super) principal: Principal,
    pub(super) fingerprint: Fingerprint,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    pub(super) held: Held,
}

/// What a call has as long as anything is done for it.
pub(super) struct Held {
    pub(super) _room: Room,
    pub(super) _work: Work,
    pub(super) _admitted: Option<Rc<Admitted>>,
}

/// What is done about a request that is not the first.
enum Verdict {
    /// It is given this.
    Give(Arc<Answer>),
    /// It comes again when this has ended: a call here, or a while.
    Wait(Option<watch::Receiver<()>>),
    /// Not this.
    Refuse(Outcome),
    /// The store does not answer.
    Away,
}

/// What became of an attempt to carry a call out.
enum Attempt {
    /// It was carried out.
    Ended(Outcome, Box<Result<Response<ResponseBody>, Error>>, u32),
    /// It was not the first.
    Not(Box<Call>, Verdict),
}

// === impl Call ===

impl Call {
    pub(super) async fn carry_out(self, cx: &mut Context) -> Result<Response<ResponseBody>, Error> {
        let policy = self.policy.clone();
        let patience = patience(cx, &self.head).unwrap_or(policy.timeout);
        let until = cx.started + patience;
        let (mut look, mut seen) = (LOOKS.0, false);
        let mut call = Box::new(self);
        loop {
            let (came, comes) = oneshot::channel();
            tokio::task::spawn_local(async move {
                // Whoever sent it may have gone.
                let _ = came.send(call.attempt().await);
            });
            let verdict = match comes.await {
                Ok(Attempt::Ended(outcome, response, attempts)) => {
                    cx.attempts.set(attempts);
                    cx.carried_out(outcome);
                    return *response;
                }
                Ok(Attempt::Not(again, verdict)) => {
                    call = again;
                    verdict
                }
                Err(_) => {
                    let why = "the work that carried it out has ended";
                    return Err(Error::new(Reason::UpstreamReset, why));
                }
            };
            match verdict {
                Verdict::Give(answer) => {
                    count(cx, &policy, Outcome::Replayed);
                    return Ok(given(&answer, true));
                }
                Verdict::Refuse(outcome) => return Err(refuse(cx, &policy, outcome)),
                // A call that is known to be under way is not sent beside it.
                Verdict::Away if seen || !allows(&policy) => {
                    return Err(refuse(cx, &policy, Outcome::Unavailable));
                }
                Verdict::Away => {
                    count(cx, &policy, Outcome::Unprotected);
                    let body = RequestBody::trailed(call.body, call.trailers);
                    return call.onward.answer(cx, call.head, body).await;
                }
                Verdict::Wait(under_way) => {
                    seen = true;
                    if !policy.waits || Instant::now() >= until {
                        return Err(refuse(cx, &policy, Outcome::InProgress));
                    }
                    match under_way {
                        // Ready when whoever carries it out has let go of it.
                        Some(mut under_way) => {
                            let _ = tokio::time::timeout_at(until, under_way.changed()).await;
                        }
                        None => {
                            tokio::time::sleep_until(until.min(Instant::now() + look)).await;
                            look = (look * 2).min(LOOKS.1);
                        }
                    }
                }
            }
        }
    }

    /// Carries it out, if it is the first with its key.
    async fn attempt(self: Box<Self>) -> Attempt {
        let here = match &self.policy.together {
            None => Some(self.claim_here()),
            // What was kept here before replicas kept together stays what it is.
            Some(_) => {
                let known = self.policy.memory.known(self.key, self.fingerprint);
                known.map(|known| Err(Verdict::of(known)))
            }
        };
        let claimed = match (here, &self.policy.together) {
            (Some(claimed), _) => claimed,
            (None, Some(together)) => self.claim_in(together).await,
            (None, None) => Err(Verdict::Away),
        };
        match claimed {
            Ok(right) => self.first(right).await,
            Err(verdict) => Attempt::Not(self, verdict),
        }
    }

    fn claim_here(&self) -> Result<Right, Verdict> {
        let policy = &self.policy;
        let claim = policy.memory.claim(
            self.key,
            self.fingerprint,
            self.principal,
            policy.window,
            policy.max_answer_bytes,
        );
        match claim {
            Claim::First(ticket) => Ok(Right::Own(ticket)),
            Claim::Known(known) => Err(Verdict::of(known)),
            Claim::Full => Err(Verdict::Refuse(Outcome::Unavailable)),
        }
    }

    /// The same, as a store has it that replicas share.
    async fn claim_in(&self, together: &Together) -> Result<Right, Verdict> {
        let policy = &self.policy;
        let address = together.address.as_ref().ok_or(Verdict::Away)?;
        let store = self.px.stores.at(&self.px, address, Use::Answers);
        let owner = Owner::new();
        let (timeout, window) = (policy.timeout, policy.window);
        let question = shared::claim(self.key, self.fingerprint, owner, timeout, window);
        let claimed = match store.ask(question).await {
            Ok(reply) => shared::claimed(reply),
            Err(away) => {
                // It may have been noted all the same: nobody carries it out.
                if away.may_have_been_told {
                    let right = Right::Common(store.clone(), owner);
                    let work = self.px.drain.work();
                    let (key, span) = (self.key, end::told_for(policy.window));
                    tokio::task::spawn_local(right.tell(key, Ended::Released, span, work));
                }
                None
            }
        };
        match claimed.ok_or(Verdict::Away)? {
            Claimed::First => Ok(Right::Common(store, owner)),
            Claimed::Answered(answer) => Err(Verdict::Give(Arc::new(*answer))),
            Claimed::UnderWay => Err(Verdict::Wait(None)),
            Claimed::Unknown => Err(Verdict::Refuse(Outcome::Unknown)),
            Claimed::Other => Err(Verdict::Refuse(Outcome::Conflict)),
        }
    }

    /// Carries it out, and notes how it ends.
    async fn first(self: Box<Self>, right: Right) -> Attempt {
        let call = *self;
        let policy = &call.policy;
        let mut head = call.head;
        let body = RequestBody::trailed(call.body, call.trailers);
        // Nobody's request: whoever sent it has the line and the count.
        let mut inner = Context::new(Direction::inbound, &mut head);
        let collecting = Collecting {
            policy,
            set_aside: right.set_aside(),
            room: policy.memory.room(call.principal),
        };
        let asking = async {
            match call.onward.answer(&mut inner, head, body).await {
                Ok(response) => collecting.collect(response).await,
                Err(mut error) => {
                    // It is to be carried out once, whatever its method: nobody repeats it elsewhere.
                    if error.reason == Reason::KeptConnectionClosed {
                        error.reason = Reason::UpstreamReset;
                    }
                    let unsent = error.reason.unsent() || call.onward.tells_duplicates();
                    Came::Error(error, unsent)
                }
            }
        };
        let came = timeout(policy.timeout, asking).await;
        let came = came.unwrap_or_else(|_| Came::Error(Reason::RequestTimeout.into(), false));
        let (outcome, response, ended) = match came {
            Came::Error(error, unsent) => {
                let ended = if unsent {
                    Ended::Released
                } else {
                    Ended::Unknown
                };
                let outcome = if unsent {
                    Outcome::Released
                } else {
                    Outcome::Unkept
                };
                (outcome, Err(error), Err(ended))
            }
            Came::Unkept(response) if policy.releases(response.status()) => {
                (Outcome::Released, Ok(*response), Err(Ended::Released))
            }
            Came::Unkept(response) => (Outcome::Unkept, Ok(*response), Err(Ended::Unknown)),
            Came::Whole(answer, room) => {
                let response = Ok(given(&answer, false));
                (Outcome::First, response, Ok((answer, room)))
            }
        };
        policy.counts.became(outcome);
        let (key, fingerprint, window) = (call.key, call.fingerprint, policy.window);
        match (right, ended) {
            (Right::Own(ticket), Ok((answer, room))) => ticket.answered(answer, room),
            (Right::Own(ticket), Err(Ended::Released)) => ticket.release(),
            // Dropped, nobody knows how.
            (Right::Own(_), Err(_)) => {}
            (common @ Right::Common(..), Ok((answer, room))) => {
                let ended = Ended::Answered {
                    answer: answer.stored(),
                    fingerprint,
                    window,
                };
                common.settle(key, ended, window, (call.held, room)).await;
            }
            (common @ Right::Common(..), Err(ended)) => {
                common.settle(key, ended, window, call.held).await;
            }
        }
        Attempt::Ended(outcome, Box::new(response), inner.attempts.get())
    }
}

fn allows(policy: &Idempotency) -> bool {
    policy
        .together
        .as_ref()
        .is_some_and(|together| together.allows)
}

// === impl Verdict ===

impl Verdict {
    fn of(known: Known) -> Self {
        match known {
            Known::Answered(answer) => Self::Give(answer),
            Known::UnderWay(call) => Self::Wait(Some(call)),
            Known::Unknown => Self::Refuse(Outcome::Unknown),
            Known::Other => Self::Refuse(Outcome::Conflict),
        }
    }
}

/// How long a request waits for another's answer, where that is known.
fn patience(cx: &Context, head: &Parts) -> Option<Duration> {
    let grpc = match cx.reads {
        Reads::Grpc => headers::grpc_timeout(&head.headers),
        Reads::Http => None,
    };
    // Nobody but a peer's sidecar knows how long the caller waits.
    let told = cx.told.timeout.filter(|_| cx.source.is_some());
    grpc.into_iter().chain(told).min()
}
