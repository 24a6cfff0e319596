//! Events on their way from a broker to their target: each for itself, or in a batch.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use http::StatusCode;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::broker::{Broker, Delivered as Message};
use super::cloud_event::Event;
use super::copy::{self, Copied};
use super::dead_letter::{self, Story, Why};
use super::done::{self, Known, Turn};
use super::filtered;
use super::jobs;
use super::lanes::Fate;
use super::outcomes::{self, Outcomes, Said};
use super::post::{Answer, Payload};
use super::posted::{Posted, posted};
use super::received::Received;
use super::reply::{self, Replied};
use super::running::Running;
use super::settle::{LONGEST, SOON, Verdict, settle};
use crate::config::subscription::{Action, Exhausted, Subscription, Target, Topic};
use crate::proxy::Proxy;
use crate::telemetry::metrics::events::Delivered as Outcome;

/// Delivers an event, and sees to what becomes of it.
pub(super) async fn deliver(running: &Running, broker: &dyn Broker, received: &Received) -> Fate {
    let message = &*received.message;
    // Pinned where it is made: what is around it would move it.
    let delivering = pin!(async {
        let Some(px) = running.px.upgrade() else {
            return Fate::Unknown;
        };
        let (Ok(event) | Err(event)) = &received.event;
        let foregone = match &received.event {
            Ok(event) => foregone(&running.subscription, message, event),
            Err(_) => Some(malformed(message)),
        };
        // Until what became of it is settled, others of its key wait.
        let turn = match foregone {
            Some(_) => Turn::Own(None),
            None => done::turn(running, &px, event).await,
        };
        let verdict = match (&turn, foregone) {
            (_, Some(verdict)) => Some(verdict),
            (Turn::Done, None) => Some(Verdict::Done(Outcome::Duplicate)),
            (Turn::Over, None) => None,
            (Turn::Own(_), None) => judge(running, broker, &px, message, event).await,
        };
        settle(running, broker, &px, (message, event), verdict).await
    });
    kept(message, delivering).await
}

/// Delivers a batch, and sees to what becomes of each event.
pub(super) async fn deliver_batch(running: &Running, broker: &dyn Broker, batch: &[Received]) {
    let Some(px) = running.px.upgrade() else {
        return;
    };
    let leases = join_all(batch.iter().map(|one| keep(&*one.message)));
    let judging = pin!(judge_batch(running, &px, batch));
    let judged = tokio::select! {
        biased;
        judged = judging => judged,
        _ = leases => return,
    };
    let turn = Mutex::new(());
    let settled = batch.iter().zip(judged).map(|(one, judged)| {
        let (Ok(event) | Err(event)) = &one.event;
        let (message, px, turn) = (&*one.message, &px, &turn);
        // Each keeps its own lease: what was given back has none.
        async move {
            let settling = pin!(async {
                // One after the other, each settled before the next is posted.
                let (verdict, _turn) = match judged {
                    Judged::Decided(verdict) => (verdict, None),
                    Judged::Alone => {
                        let turn = turn.lock().await;
                        (alone(running, px, message, event).await, Some(turn))
                    }
                };
                settle(running, broker, px, (message, event), verdict).await;
            });
            kept(message, settling).await;
        }
    });
    join_all(settled).await;
}

/// Keeps a message's lease while something is done.
async fn kept<T>(message: &dyn Message, doing: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        done = doing => done,
        never = keep(message) => match never {},
    }
}

/// Keeps a message's lease until it is dropped.
async fn keep(message: &dyn Message) -> Infallible {
    let mut pause = message.lease() / 3;
    loop {
        sleep(pause).await;
        // One that could not be kept comes again, perhaps while this one is still delivered: at least once.
        pause = match message.extend().await {
            Ok(()) => message.lease() / 3,
            Err(_) => message.lease() / 30,
        };
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
    let given_up = || expired(subscription, message, event);
    if let Target::Topic(topic) = &subscription.target {
        return copied(running, px, (topic, event), message, given_up).await;
    }
    if let Target::Results(kept) = &subscription.target {
        return jobs::keep::keep(running, px, kept, event).await;
    }
    let payload = Payload::Event(event);
    // In order, whoever has it now may have gone on behind it.
    let is_ours = || subscription.group.window.is_none() || message.is_ours();
    let answer = match posted(running, px, payload, is_ours, given_up).await? {
        Posted::Came(answer) => answer,
        Posted::GivenUp(verdict) => return Some(verdict),
    };
    let status = answer.as_ref().map(|answer| answer.status);
    let wait = answer.as_ref().and_then(|answer| answer.wait);
    let verdict = of_an_answer(running, message, (status, wait));
    let verdict = match (verdict, &answer) {
        (Verdict::Done(Outcome::Acknowledged), Some(answer))
            if subscription.reads_status && answer.status.is_success() =>
        {
            match outcomes::said(answer) {
                Said::Done => Verdict::Done(Outcome::Acknowledged),
                Said::Again => again(running, message, (status, wait)),
                Said::Dropped => Verdict::Done(Outcome::Dropped),
            }
        }
        (verdict, _) => verdict,
    };
    let verdict = telling(subscription, verdict, answer.as_ref());
    let (Verdict::Done(Outcome::Acknowledged), Some(topic), Some(answer)) =
        (&verdict, &subscription.reply, answer)
    else {
        return Some(verdict);
    };
    // What it replied is held before the event is done.
    match reply::publish(running, broker, topic, event, &answer).await? {
        Replied::Held => Some(verdict),
        // As if it had failed: it comes again, as often as it may.
        Replied::Later => {
            let verdict = again(running, message, (status, None));
            Some(telling(subscription, verdict, Some(&answer)))
        }
        Replied::Never(why) => {
            let verdict = exhausted(message, why, status);
            Some(telling(subscription, verdict, Some(&answer)))
        }
    }
}

/// What is done with an event that goes to another topic.
async fn copied(
    running: &Running,
    px: &Rc<Proxy>,
    (topic, event): (&Topic, &Event),
    message: &dyn Message,
    given_up: impl Fn() -> Option<Verdict>,
) -> Option<Verdict> {
    match copy::publish(running, px, (topic, event), message, given_up).await? {
        Copied::Held => Some(Verdict::Done(Outcome::Acknowledged)),
        Copied::GivenUp(verdict) => Some(verdict),
        Copied::Later => Some(again(running, message, (None, None))),
        Copied::Never(_) if running.subscription.exhausted == Exhausted::Block => {
            Some(again(running, message, (None, None)))
        }
        Copied::Never(why) => Some(exhausted(message, why, None)),
    }
}

/// What is known of an event of a batch.
enum Judged {
    /// What is done with it; nothing when the subscription ends before that is known.
    Decided(Option<Verdict>),
    /// The batch was refused as a whole, which says nothing of each: whichever it is about is found out.
    Alone,
}

/// What is done with each event of a batch.
async fn judge_batch(running: &Running, px: &Rc<Proxy>, batch: &[Received]) -> Vec<Judged> {
    let subscription = &running.subscription;
    let unposted = |one: &Received| match &one.event {
        Err(_) => Some(malformed(&*one.message)),
        Ok(event) => foregone(subscription, &*one.message, event),
    };
    let asked = batch.iter().map(|one| {
        let event = one.event.as_ref().ok();
        event.filter(|_| unposted(one).is_none())
    });
    let known = done::known(running, px, &Vec::from_iter(asked)).await;
    let judged = loop {
        let judged = batch.iter().zip(&known).map(|(one, known)| match known {
            Known::Done => Some(Verdict::Done(Outcome::Duplicate)),
            Known::Nothing | Known::LikeThat(_) => unposted(one),
        });
        let mut judged = Vec::from_iter(judged.map(Judged::Decided));
        let open = batch.iter().enumerate().filter_map(|(place, one)| {
            let is_open = matches!(judged[place], Judged::Decided(None));
            let is_open = is_open && known[place] == Known::Nothing;
            let event = one.event.as_ref().ok().filter(|_| is_open)?;
            Some((place, &*one.message, event))
        });
        let open = Vec::from_iter(open);
        if open.is_empty() {
            break judged;
        }
        let events = Vec::from_iter(open.iter().map(|(_, _, event)| *event));
        let given_up = || {
            let mut open = open.iter();
            open.find_map(|(_, message, event)| expired(subscription, *message, event))
        };
        let answer = match posted(running, px, Payload::Batch(&events), || true, given_up).await {
            Some(Posted::Came(answer)) => answer,
            // One has expired: the others are posted without it.
            Some(Posted::GivenUp(_)) => continue,
            None => break judged,
        };
        let outcomes = outcomes::of(answer.as_ref());
        let wait = answer.as_ref().and_then(|answer| answer.wait);
        let is_refused = match outcomes {
            Outcomes::Same(Some(status)) => subscription.action(status) == Action::Exhaust,
            _ => false,
        };
        for (place, message, event) in &open {
            judged[*place] = match is_refused && open.len() > 1 {
                true => Judged::Alone,
                false => {
                    let verdict = of_an_answer(running, *message, (outcomes.of(event), wait));
                    // What is said of several is said of none.
                    let about = answer.as_ref().filter(|_| open.len() == 1);
                    Judged::Decided(Some(telling(subscription, verdict, about)))
                }
            };
        }
        break judged;
    };
    alike(judged, &known)
}

/// What is done with those of which another one of the same key was posted: as with that one, which was delivered once.
fn alike(mut judged: Vec<Judged>, known: &[Known]) -> Vec<Judged> {
    for (place, known) in known.iter().enumerate() {
        let (Known::LikeThat(first), Judged::Decided(None)) = (known, &judged[place]) else {
            continue;
        };
        judged[place] = match &judged[*first] {
            Judged::Alone => Judged::Alone,
            Judged::Decided(verdict) => Judged::Decided(match verdict {
                Some(Verdict::Done(_)) => Some(Verdict::Done(Outcome::Duplicate)),
                // When it comes again it is known what became of the other one.
                Some(Verdict::Exhausted(_)) => Some(Verdict::Again(SOON)),
                verdict => verdict.clone(),
            }),
        };
    }
    judged
}

/// What is done with an event whose batch was refused: it is posted as a batch of its own.
async fn alone(
    running: &Running,
    px: &Rc<Proxy>,
    message: &dyn Message,
    event: &Event,
) -> Option<Verdict> {
    // Whoever asked to wait meanwhile, or is gone, is posted nothing more.
    if running.asked_to_wait().is_some() || !running.goes_on() {
        return None;
    }
    // Another one of its key may have been posted before it.
    if done::known(running, px, &[Some(event)]).await == [Known::Done] {
        return Some(Verdict::Done(Outcome::Duplicate));
    }
    let subscription = &running.subscription;
    let given_up = || expired(subscription, message, event);
    let answer = match posted(running, px, Payload::Batch(&[event]), || true, given_up).await? {
        Posted::Came(answer) => answer,
        Posted::GivenUp(verdict) => return Some(verdict),
    };
    let wait = answer.as_ref().and_then(|answer| answer.wait);
    let status = outcomes::of(answer.as_ref()).of(event);
    let verdict = of_an_answer(running, message, (status, wait));
    Some(telling(subscription, verdict, answer.as_ref()))
}

/// A story with the beginning of what was answered, where that is wanted.
fn telling(subscription: &Subscription, verdict: Verdict, answer: Option<&Answer>) -> Verdict {
    match verdict {
        Verdict::Exhausted(story) if subscription.tells_body => {
            let body = answer.and_then(|answer| answer.body.as_deref().ok());
            let body = body.and_then(dead_letter::beginning);
            Verdict::Exhausted(Story { body, ..story })
        }
        verdict => verdict,
    }
}

/// What is done with an event that is not posted.
fn foregone(subscription: &Subscription, message: &dyn Message, event: &Event) -> Option<Verdict> {
    let passes = || filtered::passes(&subscription.filters, event);
    let filtered = || (!passes()).then_some(Verdict::Done(Outcome::Filtered));
    expired(subscription, message, event).or_else(filtered)
}

fn malformed(message: &dyn Message) -> Verdict {
    Verdict::Exhausted(Story {
        why: Why::Malformed,
        status: None,
        attempts: message.attempt(),
        body: None,
    })
}

fn expired(subscription: &Subscription, message: &dyn Message, event: &Event) -> Option<Verdict> {
    let story = || Story {
        why: Why::Expired,
        status: None,
        attempts: message.attempt().saturating_sub(1),
        body: None,
    };
    is_expired(subscription, message, event).then(|| Verdict::Exhausted(story()))
}

fn exhausted(message: &dyn Message, why: Why, status: Option<StatusCode>) -> Verdict {
    Verdict::Exhausted(Story {
        why,
        status,
        attempts: message.attempt(),
        body: None,
    })
}

/// What an answer means for an event, or that there was none.
fn of_an_answer(
    running: &Running,
    message: &dyn Message,
    (status, wait): (Option<StatusCode>, Option<Duration>),
) -> Verdict {
    let subscription = &running.subscription;
    let blocks = subscription.exhausted == Exhausted::Block;
    let action = status.map_or(Action::Retry, |status| subscription.action(status));
    match (action, status) {
        (Action::Acknowledge, _) => Verdict::Done(Outcome::Acknowledged),
        (Action::Drop, _) => Verdict::Done(Outcome::Dropped),
        (Action::Gone, _) => Verdict::Gone,
        (Action::Exhaust, Some(status)) if !blocks => {
            exhausted(message, Why::of(status), Some(status))
        }
        (Action::Retry | Action::Exhaust, status) => again(running, message, (status, wait)),
    }
}

/// That it comes again, unless it has come as often as it may.
fn again(
    running: &Running,
    message: &dyn Message,
    (status, wait): (Option<StatusCode>, Option<Duration>),
) -> Verdict {
    let subscription = &running.subscription;
    let attempts = message.attempt();
    running.failed(status, status.map_or("NoAnswer", |_| "Answer"));
    let wait = wait.map(|wait| wait.min(LONGEST));
    if let Some(wait) = wait {
        running.is_asked_to_wait(wait);
    }
    let is_last = attempts >= subscription.max_retries.saturating_add(1);
    match is_last && subscription.exhausted != Exhausted::Block {
        true => exhausted(message, Why::Exhausted, status),
        false => {
            let backoff = subscription.backoff.wait(attempts.saturating_sub(1));
            Verdict::Again(backoff.max(wait.unwrap_or_default()))
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
