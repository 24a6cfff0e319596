//! Events that can't be delivered: to the dead letter topic, with their story.
//!
//! A dead letter is the event as it was, with extension attributes: `dlqreason` (why), `dlqcode` (the last status,
//! if there was one), `dlqattempts`, `dlqsubscription`, `dlqtopic` (where it came from) and `dlqtime`. What is no
//! event becomes the data of one of type `dev.meshwright.malformed`. The broker tells duplicates of it, so that one
//! that is dead-lettered twice is there once.

use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;

use super::broker::{Broker, Message, Unpublished};
use super::cloud_event::Event;
use super::publish::known_by;
use crate::config::subscription::Subscription;

/// How long a broker may take to confirm one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an event is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has come as often as it may.
    Exhausted,
    /// The target refused it for good.
    Refused,
    /// The target leads elsewhere, and nobody is followed.
    Redirect,
    /// It is older than it may be.
    Expired,
    /// Nobody can read it.
    Malformed,
    /// What its target replied can't be published.
    Reply,
    /// It is one reply too many.
    Loop,
}

// === impl Why ===

impl Why {
    /// As `dlqreason` says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "Exhausted",
            Self::Refused => "Refused",
            Self::Redirect => "Redirect",
            Self::Expired => "Expired",
            Self::Malformed => "Malformed",
            Self::Reply => "Reply",
            Self::Loop => "Loop",
        }
    }

    /// Of an answer that exhausts an event.
    pub(super) fn of(status: StatusCode) -> Self {
        match status.is_redirection() {
            true => Self::Redirect,
            false => Self::Refused,
        }
    }
}

/// The story of an event that is exhausted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Story {
    pub(super) why: Why,
    /// The last answer, if there was one.
    pub(super) status: Option<StatusCode>,
    /// How often it was delivered.
    pub(super) attempts: u32,
}

/// Has a dead letter held by the broker.
///
/// # Errors
/// That the broker does not hold it, or may not.
pub(super) async fn hold(
    broker: &dyn Broker,
    topic: &str,
    (subscription, place): (&Subscription, &str),
    letter: &Event,
) -> Result<(), Unpublished> {
    let (headers, data) = letter.to_message();
    // Of the same event another subscription has a dead letter of its own, and so has the event when it was
    // published anew.
    let id = known_by(
        topic,
        letter,
        &[subscription.object.as_bytes(), place.as_bytes()],
    );
    let held = broker.publish(topic, Some(&id), Message { headers, data }, PATIENCE);
    held.await.map(drop)
}

/// An event with its story.
pub(super) fn letter(subscription: &Subscription, event: &Event, story: Story) -> Event {
    let mut letter = event.clone();
    let attributes = [
        ("dlqreason", story.why.name().to_owned()),
        ("dlqattempts", story.attempts.to_string()),
        ("dlqsubscription", subscription.object.to_string()),
        ("dlqtopic", subscription.group.topic.clone()),
        ("dlqtime", Timestamp::now().to_string()),
    ];
    letter.remove_extension("dlqcode");
    let status = story.status.map(|status| status.as_str().to_owned());
    let status = status.map(|status| ("dlqcode", status));
    for (name, value) in attributes.into_iter().chain(status) {
        // An event that has as many attributes as one may keeps them: its story is told by the log.
        if let Err(why) = letter.set(name, value) {
            tracing::debug!(subscription = %subscription.object, %why, "a dead letter lacks an attribute");
        }
    }
    letter
}
