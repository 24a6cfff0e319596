//! An event that goes to another topic: done once the topic's broker holds it.

use std::rc::Rc;

use tokio::time::Instant;

use super::broker::{Delivered, Message, Unpublished};
use super::cloud_event::Event;
use super::dead_letter::Why;
use super::hops;
use super::publish::known_by;
use super::running::Running;
use super::settle::{AGAIN, Verdict};
use crate::config::subscription::{Source, Topic};
use crate::proxy::Proxy;
use crate::proxy::error::Reason;
use crate::telemetry::metrics::events::{Delivered as Outcome, Published};

/// What became of a copy.
pub(super) enum Copied {
    /// The broker holds it.
    Held,
    /// It was in vain by the time that the broker could be reached.
    GivenUp(Verdict),
    /// The broker does not take it now: as if the event had failed.
    Later,
    /// It can't be held: the event is exhausted.
    Never(Why),
}

/// Publishes an event to another topic; nothing when the subscription ends before that. While the broker is away it costs
/// no attempt, and between two tries `given_up` says whether it is in vain by now.
pub(super) async fn publish(
    running: &Running,
    px: &Rc<Proxy>,
    (topic, event): (&Topic, &Event),
    message: &dyn Delivered,
    given_up: impl Fn() -> Option<Verdict>,
) -> Option<Copied> {
    let (subscription, name) = (&running.subscription, &topic.name);
    let object = &subscription.object;
    let mut copy = event.clone();
    if hops::count(&mut copy, event).is_err() {
        tracing::warn!(subscription = %object, "an event was copied too often: it may come back to where it was");
        return Some(Copied::Never(Why::Loop));
    }
    // As a dead letter: what two have sent under one id, by senders of their own, are two events here as well.
    let place = message.place();
    let id = known_by(name, &copy, &[object.as_bytes(), place.as_bytes()]);
    let events = &px.metrics.all().events;
    let mut pause = AGAIN.0;
    loop {
        // In order, whoever has it now may have gone on behind it.
        if subscription.group.window.is_some() && !message.is_ours() {
            return None;
        }
        let (headers, data) = copy.to_message();
        let content = Message { headers, data };
        let held = match px.brokers.at(px, &topic.broker).await {
            Ok(broker) => {
                let patience = subscription.timeout;
                let held = broker.publish(name, Some(&id), content, patience).await;
                // A schedule has joined no group, with which the topic would have been made.
                if held == Err(Unpublished::UnknownTopic)
                    && matches!(subscription.source, Source::Schedule(_))
                    && broker.declare_topic(name).await.is_ok()
                {
                    Err(Unpublished::Away)
                } else {
                    held
                }
            }
            Err(_) => Err(Unpublished::Away),
        };
        let (outcome, copied) = match held {
            Ok(true) => (Published::Duplicate, Some(Copied::Held)),
            Ok(false) => (Published::Held, Some(Copied::Held)),
            Err(Unpublished::Away | Unpublished::Unconfirmed(_)) => (Published::Unconfirmed, None),
            Err(why @ Unpublished::TooLarge { .. }) => {
                tracing::warn!(subscription = %object, topic = %name, %why, "an event is not held by another topic");
                (Published::Refused, Some(Copied::Never(Why::Refused)))
            }
            Err(why) => {
                tracing::warn!(subscription = %object, topic = %name, %why, "an event is not held by another topic yet");
                (Published::Refused, Some(Copied::Later))
            }
        };
        events.published(&topic.broker, name, outcome);
        if let Some(copied) = copied {
            running.unreached(None);
            return Some(copied);
        }
        events.delivered(object, Outcome::Unreached);
        running.unreached(Some(Reason::ConnectFailed));
        let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
        running.pause_until(Instant::now() + wait);
        if !running.waits(wait).await {
            return None;
        }
        if let Some(verdict) = given_up() {
            return Some(Copied::GivenUp(verdict));
        }
        pause = (pause * 2).min(AGAIN.1);
    }
}
