//! Events posted until somebody is reached: while nobody is, or the target fails or is held to a rate, they wait here, and
//! it costs them nothing.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::post::{Answer, Came, Payload, post};
use super::running::Running;
use super::settle::{AGAIN, Verdict};
use crate::config::subscription::{Action, Subscription};
use crate::policy::circuit_breaker::{Fault, Sole};
use crate::proxy::Proxy;
use crate::proxy::error::Reason;
use crate::telemetry::metrics::events::Delivered as Outcome;

/// What came of posting.
pub(super) enum Posted {
    /// Nothing where the target was reached and did not answer.
    Came(Option<Answer>),
    /// Nobody was reached, and it is in vain by now.
    GivenUp(Verdict),
}

/// Posts until somebody is reached; nothing when the subscription ends before that. Between two tries `given_up` says whether
/// that is in vain by now, and `is_ours` whether it is still to be posted from here.
pub(super) async fn posted(
    running: &Running,
    px: &Rc<Proxy>,
    payload: Payload<'_>,
    is_ours: impl Fn() -> bool,
    given_up: impl Fn() -> Option<Verdict>,
) -> Option<Posted> {
    let subscription = &running.subscription;
    let means = subscription.reply.is_some() || subscription.reads_status;
    let reads = means || matches!(payload, Payload::Batch(_));
    let mut pause = AGAIN.0;
    loop {
        // It has not heard of this one: another sidecar may still be there for it.
        if running.has_gone() || !is_ours() {
            return None;
        }
        // What was on its way from the broker when the target asked to wait waits here. In order nothing is begun then, and
        // what had begun goes back rather than keep those who follow.
        let in_order = subscription.group.window.is_some();
        if let Some(until) = running.rests_until().filter(|_| !in_order) {
            if !running.goes_on_for(until - Instant::now()).await {
                return None;
            }
            match given_up() {
                Some(verdict) => return Some(Posted::GivenUp(verdict)),
                None => continue,
            }
        }
        let circuit = running.circuit.as_deref();
        let unreached = match circuit.map(Sole::enter).transpose() {
            Err(until) => Unreached::Open(until),
            Ok(call) => {
                let answer = match post(px, subscription, payload, reads).await {
                    Came::Answer(answer) => Ok(Some(answer)),
                    Came::Nothing => Ok(None),
                    Came::Unreached(reason, wait) => Err(Unreached::Tried(reason, wait)),
                };
                match answer {
                    Ok(answer) => {
                        if let Some(call) = call {
                            call.ended(well(subscription, answer.as_ref()));
                        }
                        running.unreached(None);
                        running.tell_circuit();
                        return Some(Posted::Came(answer));
                    }
                    Err(unreached) => unreached,
                }
            }
        };
        // It costs no attempt, and nothing else is asked for meanwhile.
        let events = &px.metrics.all().events;
        events.delivered(&subscription.object, Outcome::Unreached);
        if !unreached.waited(running, &mut pause).await {
            return None;
        }
        if let Some(verdict) = given_up() {
            return Some(Posted::GivenUp(verdict));
        }
    }
}

/// Why nobody was reached.
enum Unreached {
    /// Who was called is not there, or lets nobody in for so long.
    Tried(Reason, Option<Duration>),
    /// The target fails: it is not called until then.
    Open(Instant),
}

/// Whether the target is well, as far as an answer says so, or that there was none.
fn well(subscription: &Subscription, answer: Option<&Answer>) -> Result<(), Fault> {
    match answer {
        None => Err(Fault::Timeout),
        // Who refuses an event for good with such a status is well.
        Some(answer)
            if answer.status.is_server_error()
                && subscription.action(answer.status) == Action::Retry =>
        {
            Err(Fault::ServerError)
        }
        Some(_) => Ok(()),
    }
}

// === impl Unreached ===

impl Unreached {
    /// Waits until somebody may be reached again; whether the subscription goes on after that.
    async fn waited(self, running: &Running, pause: &mut Duration) -> bool {
        let spread = rand::random_range(0.5..=1.0);
        let wait = match self {
            // It is only too much at this moment, which says nothing of the target. Limits are edited: it is asked again
            // before long, which takes nothing of what a sidecar counts by itself.
            Self::Tried(Reason::RateLimited, Some(wait)) => {
                running.unreached(None);
                wait.mul_f64(0.5 + spread).min(AGAIN.1)
            }
            Self::Tried(reason, _) => {
                running.unreached(Some(reason));
                let wait = pause.mul_f64(spread);
                *pause = (*pause * 2).min(AGAIN.1);
                wait
            }
            Self::Open(until) => {
                running.tell_circuit();
                return running.circuit_changed(until, AGAIN.1).await;
            }
        };
        running.pause_until(Instant::now() + wait);
        running.waits(wait).await
    }
}
