//! Events on their way from a broker to their target: each for itself, or in a batch.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::broker::{Broker, Delivered as Message};
use super::cloud_event::Event;
use super::dead_letter::{Story, Why};
use super::lanes::Fate;
use super::outcomes::{self, Outcomes};
use super::post::{Answer, Came, Payload, post};
use super::received::Received;
use super::reply::{self, Replied};
use super::settle::{AGAIN, LONGEST, Verdict, settle};
use super::subscriber::Running;
use crate::config::subscription::{Action, Exhausted, Subscription};
use crate::proxy::Proxy;
use crate::telemetry::metrics::events::Delivered as Outcome;

/// Delivers an event, and sees to what becomes of it.
pub(super) async fn deliver(
    running: &Rc<Running>,
    broker: &dyn Broker,
    Received { message, event }: Received,
) -> Fate {
    let message = &*message;
    let delivering = async {
        let Some(px) = running.px.upgrade() else {
            return Fate::Unknown;
        };
        let (event, verdict) = match event {
            Ok(event) => {
                let verdict = judge(running, broker, &px, message, &event).await;
                (event, verdict)
            }
            Err(event) => (event, Some(malformed(message))),
        };
        settle(running, broker, &px, (message, &event), verdict).await
    };
    tokio::select! {
        biased;
        fate = delivering => fate,
        never = keep(message) => match never {},
    }
}

/// Delivers a batch, and sees to what becomes of each event.
pub(super) async fn deliver_batch(
    running: &Rc<Running>,
    broker: &dyn Broker,
    batch: Vec<Received>,
) {
    let kept = join_all(batch.iter().map(|one| keep(&*one.message)));
    let delivering = async {
        let Some(px) = running.px.upgrade() else {
            return;
        };
        let verdicts = judge_batch(running, broker, &px, &batch).await;
        let settled = batch.iter().zip(verdicts).map(|(one, verdict)| {
            let (Ok(event) | Err(event)) = &one.event;
            settle(running, broker, &px, (&*one.message, event), verdict)
        });
        join_all(settled).await;
    };
    tokio::select! {
        biased;
        () = delivering => {}
        _ = kept => {}
    }
}

/// Keeps a message's lease until it is dropped.
async fn keep(message: &dyn Message) -> Infallible {
    loop {
        sleep(message.lease() / 3).await;
        // One that could not be kept comes again, perhaps while this one is still delivered: at least once.
        let _ = message.extend().await;
    }
}

/// What is done with an event; nothing when the subscription ends before that is known.
async fn judge(
    running: &Running,
    broker: &dyn Broker,
    px: &Rc<Proxy>,
    message: &dyn Message,
    event: &Event,
) -> Option<Verdict> {
    let subscription = &running.subscription;
    if let Some(verdict) = foregone(subscription, message, event) {
        return Some(verdict);
    }
    let payload = Payload::Event(event);
    let given_up = || expired(subscription, message, event);
    let answer = match posted(running, px, payload, given_up).await? {
        Posted::Answered(answer) => Some(answer),
        Posted::Silent => None,
        Posted::GivenUp(verdict) => return Some(verdict),
    };
    let status = answer.as_ref().map(|answer| answer.status);
    let wait = answer.as_ref().and_then(|answer| answer.wait);
    let verdict = of_an_answer(running, message, (status, wait));
    let (Verdict::Done(Outcome::Acknowledged), Some(topic), Some(answer)) =
        (verdict, &subscription.reply, answer)
    else {
        return Some(verdict);
    };
    // What it replied is held before the event is done.
    match reply::publish(running, broker, topic, event, &answer).await? {
        Replied::Held => Some(verdict),
        Replied::Later => Some(Verdict::Again(LONGEST)),
        Replied::Never(why) => Some(exhausted(message, why, status)),
    }
}

/// What is done with each event of a batch.
async fn judge_batch(
    running: &Running,
    broker: &dyn Broker,
    px: &Rc<Proxy>,
    batch: &[Received],
) -> Vec<Option<Verdict>> {
    let subscription = &running.subscription;
    let mut verdicts = Vec::with_capacity(batch.len());
    let (mut places, mut events) = (Vec::new(), Vec::new());
    for (place, one) in batch.iter().enumerate() {
        verdicts.push(match &one.event {
            Err(_) => Some(malformed(&*one.message)),
            Ok(event) => foregone(subscription, &*one.message, event),
        });
        if let (None, Ok(event)) = (&verdicts[place], &one.event) {
            places.push(place);
            events.push(event);
        }
    }
    if events.is_empty() {
        return verdicts;
    }
    let posted = posted(running, px, Payload::Batch(&events), || None).await;
    let answer = match posted {
        Some(Posted::Answered(answer)) => Some(answer),
        Some(Posted::Silent) => None,
        // Nothing is decided of those that were to be posted.
        Some(Posted::GivenUp(_)) | None => return verdicts,
    };
    let outcomes = outcomes::of(answer.as_ref());
    let wait = answer.as_ref().and_then(|answer| answer.wait);
    if let Outcomes::Same(Some(status)) = outcomes
        && events.len() > 1
        && subscription.action(status) == Action::Exhaust
    {
        // It says nothing of each: whichever it is about is found out.
        for place in places {
            let one = &batch[place];
            if let Ok(event) = &one.event {
                verdicts[place] = judge(running, broker, px, &*one.message, event).await;
            }
        }
        return verdicts;
    }
    for (place, event) in places.into_iter().zip(events) {
        let status = outcomes.of(event);
        verdicts[place] = Some(of_an_answer(
            running,
            &*batch[place].message,
            (status, wait),
        ));
    }
    verdicts
}

/// What came of posting.
enum Posted {
    Answered(Answer),
    Silent,
    /// It was not reached for long.
    GivenUp(Verdict),
}

/// Posts until somebody is reached; nothing when the subscription ends before that. Between two tries `given_up` says whether
/// that is in vain by now.
async fn posted(
    running: &Running,
    px: &Rc<Proxy>,
    payload: Payload<'_>,
    given_up: impl Fn() -> Option<Verdict>,
) -> Option<Posted> {
    let subscription = &running.subscription;
    let reads = subscription.reply.is_some() || matches!(payload, Payload::Batch(_));
    let mut pause = AGAIN.0;
    loop {
        // It has not heard of this one: another sidecar may still be there for it.
        if running.has_gone() {
            return None;
        }
        let came = post(px, subscription, payload, reads).await;
        if !matches!(came, Came::Unreached(_)) {
            running.unreached(None);
        }
        match came {
            Came::Answer(answer) => return Some(Posted::Answered(answer)),
            Came::Nothing => return Some(Posted::Silent),
            // It costs no attempt, and nothing else is asked for meanwhile.
            Came::Unreached(reason) => {
                let events = &px.metrics.all().events;
                events.delivered(&subscription.object, Outcome::Unreached);
                running.unreached(Some(reason));
                let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
                running.pause_until(Instant::now() + wait);
                if !running.goes_on_for(wait).await {
                    return None;
                }
                if let Some(verdict) = given_up() {
                    return Some(Posted::GivenUp(verdict));
                }
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    }
}

/// What is done with an event that is not posted.
fn foregone(subscription: &Subscription, message: &dyn Message, event: &Event) -> Option<Verdict> {
    let passes = |event| {
        let mut filters = subscription.filters.iter();
        filters.all(|filter| filter.passes(event))
    };
    let filtered = || (!passes(event)).then_some(Verdict::Done(Outcome::Filtered));
    expired(subscription, message, event).or_else(filtered)
}

fn malformed(message: &dyn Message) -> Verdict {
    Verdict::Exhausted(Story {
        why: Why::Malformed,
        status: None,
        attempts: message.attempt(),
    })
}

fn expired(subscription: &Subscription, message: &dyn Message, event: &Event) -> Option<Verdict> {
    let story = || Story {
        why: Why::Expired,
        status: None,
        attempts: message.attempt().saturating_sub(1),
    };
    is_expired(subscription, message, event).then(|| Verdict::Exhausted(story()))
}

fn exhausted(message: &dyn Message, why: Why, status: Option<StatusCode>) -> Verdict {
    Verdict::Exhausted(Story {
        why,
        status,
        attempts: message.attempt(),
    })
}

/// What an answer means for an event, or that there was none.
fn of_an_answer(
    running: &Running,
    message: &dyn Message,
    (status, wait): (Option<StatusCode>, Option<Duration>),
) -> Verdict {
    let subscription = &running.subscription;
    let attempts = message.attempt();
    let blocks = subscription.exhausted == Exhausted::Block;
    let most = subscription.max_retries.saturating_add(1);
    let action = status.map_or(Action::Retry, |status| subscription.action(status));
    match (action, status) {
        (Action::Acknowledge, _) => Verdict::Done(Outcome::Acknowledged),
        (Action::Drop, _) => Verdict::Done(Outcome::Dropped),
        (Action::Gone, _) => Verdict::Gone,
        (Action::Exhaust, Some(status)) if !blocks => {
            exhausted(message, Why::of(status), Some(status))
        }
        (Action::Retry | Action::Exhaust, status) => {
            let wait = wait.map(|wait| wait.min(LONGEST));
            if let Some(wait) = wait {
                running.pause_until(Instant::now() + wait);
            }
            match attempts >= most && !blocks {
                true => exhausted(message, Why::Exhausted, status),
                false => {
                    let backoff = subscription.backoff.wait(attempts.saturating_sub(1));
                    Verdict::Again(backoff.max(wait.unwrap_or_default()))
                }
            }
        }
    }
}

/// Whether it is older than it may be, or says so itself (the extension `expirytime`).
fn is_expired(subscription: &Subscription, message: &dyn Message, event: &Event) -> bool {
    let now = SystemTime::now();
    let since = message
        .published()
        .and_then(|then| now.duration_since(then).ok());
    let old = subscription.expiry.zip(since);
    let ends = event.attribute("expirytime");
    let ends = ends.and_then(|ends| ends.parse::<jiff::Timestamp>().ok());
    old.is_some_and(|(expiry, since)| since > expiry)
        || ends.is_some_and(|ends| SystemTime::from(ends) <= now)
}
