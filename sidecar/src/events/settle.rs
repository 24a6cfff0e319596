//! What becomes of an event in the end: it is done, comes again, or goes where exhausted events go.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::broker::{Broker, Delivered, Unpublished};
use super::cloud_event::Event;
use super::dead_letter::{self, Story};
use super::done;
use super::lanes::Fate;
use super::running::Running;
use crate::config::subscription::Exhausted;
use crate::proxy::Proxy;
use crate::telemetry::metrics::events::Delivered as Outcome;

/// The longest wait until an event comes again.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// From one try to the next of what reached nobody, at first and at most.
pub(super) const AGAIN: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(10));
/// When an event comes again that this sidecar could not finish with.
pub(super) const SOON: Duration = Duration::ZERO;

/// What is done with an event.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Done(Outcome),
    Again(Duration),
    Exhausted(Story),
    /// The target is gone: nothing more is delivered.
    Gone,
}

/// Does it. Nothing is decided when the subscription ended before that.
pub(super) async fn settle(
    running: &Running,
    broker: &dyn Broker,
    px: &Rc<Proxy>,
    (message, event): (&dyn Delivered, &Event),
    verdict: Option<Verdict>,
) -> Fate {
    let (outcome, fate) = match verdict {
        // It ends: whoever comes next finishes with it.
        None => return given_back(running, message, SOON).await,
        Some(Verdict::Again(after)) => {
            let fate = given_back(running, message, after).await;
            (Outcome::Retried, fate)
        }
        Some(Verdict::Gone) => {
            running.is_gone();
            let fate = given_back(running, message, LONGEST).await;
            (Outcome::Retried, fate)
        }
        Some(Verdict::Done(outcome)) => {
            if !matches!(outcome, Outcome::Filtered | Outcome::Duplicate) {
                done::note(running, px, event).await;
            }
            (outcome, acknowledged(running, message).await)
        }
        Some(Verdict::Exhausted(story)) => {
            running.failed(story.status, story.why.name());
            match exhausted(running, (broker, px), message, event, story).await {
                Some(seen_to) => seen_to,
                None => return given_back(running, message, SOON).await,
            }
        }
    };
    running.tally.count(outcome);
    let events = &px.metrics.all().events;
    events.delivered(&running.subscription.object, outcome);
    fate
}

/// Tells the broker that an event is done. If it does not hear that, the event comes again.
async fn acknowledged(running: &Running, message: &dyn Delivered) -> Fate {
    let subscription = &running.subscription;
    // In order, whoever has it by now counts it among what is not done, and would take another one for it.
    if subscription.group.window.is_some() && !message.is_ours() {
        tracing::debug!(subscription = %subscription.object, "an event comes again: its lease has ended");
        return Fate::Unknown;
    }
    match message.acknowledge().await {
        Ok(()) => Fate::Done,
        Err(why) => {
            tracing::debug!(subscription = %subscription.object, %why, "an event may come again");
            Fate::Unknown
        }
    }
}

async fn given_back(running: &Running, message: &dyn Delivered, after: Duration) -> Fate {
    // In order, it rests here: whoever follows this one would have to wait until the broker delivers it again.
    if running.subscription.group.window.is_some() && !after.is_zero() {
        return Fate::Rests(after);
    }
    match message.give_back(after).await {
        Ok(()) => Fate::ComesAgain(after),
        Err(why) => {
            tracing::debug!(subscription = %running.subscription.object, %why, "an event comes again later");
            Fate::ComesAgain(message.lease())
        }
    }
}

/// Sees to an event that is exhausted: it is done once its dead letter is held, and not before. Nothing when the
/// subscription ends before that.
async fn exhausted(
    running: &Running,
    (broker, px): (&dyn Broker, &Rc<Proxy>),
    message: &dyn Delivered,
    event: &Event,
    story: Story,
) -> Option<(Outcome, Fate)> {
    let subscription = &running.subscription;
    let object = &subscription.object;
    let (reason, attempts) = (story.why.name(), story.attempts);
    let code = story.status.map(|status| status.as_u16());
    let topic = match &subscription.exhausted {
        Exhausted::DeadLetter(topic) => topic,
        // Whatever is wrong with it: nothing is lost unless somebody says so.
        Exhausted::Block => {
            let fate = given_back(running, message, LONGEST).await;
            return Some((Outcome::Retried, fate));
        }
        Exhausted::Drop => {
            tracing::warn!(subscription = %object, reason, code, attempts, "an event is dropped");
            done::note(running, px, event).await;
            let fate = acknowledged(running, message).await;
            return Some((Outcome::Dropped, fate));
        }
    };
    let letter = dead_letter::letter(subscription, event, story);
    let mut pause = AGAIN.0;
    let place = message.place();
    while let Err(why) = dead_letter::hold(broker, topic, (subscription, &place), &letter).await {
        tracing::warn!(subscription = %object, %topic, %why, "a dead letter is not held yet");
        if !matches!(why, Unpublished::Away | Unpublished::Unconfirmed(_)) {
            // It may never be: it keeps nobody, and is tried again when it comes again.
            let fate = given_back(running, message, LONGEST).await;
            return Some((Outcome::Retried, fate));
        }
        running.pause_until(Instant::now() + pause);
        if !running.goes_on_for(pause).await {
            return None;
        }
        pause = (pause * 2).min(AGAIN.1);
    }
    tracing::info!(subscription = %object, %topic, reason, code, attempts, "an event is a dead letter");
    done::note(running, px, event).await;
    let fate = acknowledged(running, message).await;
    Some((Outcome::DeadLettered, fate))
}
