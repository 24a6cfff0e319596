//! Events that can't be delivered: to the dead letter topic, with their story.
//!
//! A dead letter is the event as it was, with extension attributes: `dlqreason` (why), `dlqcode` (the last status,
//! if there was one), `dlqattempts`, `dlqsubscription`, `dlqtopic` (where it came from), `dlqtime`, and `dlqbody` (the beginning of the
//! last answer, where that is wanted). What is no
//! event becomes the data of one of type `dev.meshwright.malformed`. The broker tells duplicates of it, so that one
//! that is dead-lettered twice is there once.

use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;
use jiff::Timestamp;

use super::broker::{Broker, Message, Unpublished};
use super::cloud_event::Event;
use super::publish::known_by;
use crate::config::subscription::Subscription;

/// How much of an answer a dead letter has, in bytes.
const BODY: usize = 1024;
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
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) why: Why,
    /// The last answer, if there was one.
    pub(super) status: Option<StatusCode>,
    /// How often it was delivered.
    pub(super) attempts: u32,
    /// The beginning of the last answer, where that is wanted.
    pub(super) body: Option<Rc<str>>,
}

/// The beginning of a body, as an attribute may say it; nothing of an empty one.
pub(super) fn beginning(body: &[u8]) -> Option<Rc<str>> {
    let text = String::from_utf8_lossy(&body[..body.len().min(BODY)]);
    // What was cut through is left out, and what an attribute may not have is a space.
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let none = |of: char| {
        of.is_control()
            || u32::from(of) & 0xFFFE == 0xFFFE
            || ('\u{FDD0}'..='\u{FDEF}').contains(&of)
    };
    let text = text.replace(none, " ");
    // What stands for bytes that are no text is longer than they.
    let text = text[..text.floor_char_boundary(BODY)].trim();
    (!text.is_empty()).then(|| text.into())
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
    // Of an event that was one before.
    for name in ["dlqcode", "dlqbody"] {
        letter.remove_extension(name);
    }
    let status = story.status.map(|status| status.as_str().to_owned());
    let status = status.map(|status| ("dlqcode", status));
    let body = story.body.map(|body| ("dlqbody", body.to_string()));
    for (name, value) in attributes.into_iter().chain(status).chain(body) {
        // An event that has as many attributes as one may keeps them: its story is told by the log.
        if let Err(why) = letter.set(name, value) {
            tracing::debug!(subscription = %subscription.object, %why, "a dead letter lacks an attribute");
        }
    }
    letter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_the_beginning_is_told_as_a_text_of_one_line() {
        let told = |body: &[u8]| beginning(body).map(|text| text.to_string());
        assert_eq!(told(b"{\n \"no\": 1\r\n}").unwrap(), "{  \"no\": 1  }");
        assert_eq!(told(b"").or_else(|| told(b" \n\0")), None);
        assert_eq!(told("a\u{FFFE}b\u{FDD0}c".as_bytes()).unwrap(), "a b c");
        let none = [&[0xFF; BODY - 1], &b"a"[..]].concat();
        assert!(told(&none).unwrap().len() <= BODY);
        let long = "\u{e4}".repeat(BODY);
        assert_eq!(told(long.as_bytes()).unwrap(), "\u{e4}".repeat(BODY / 2));
        let cut = format!("a{long}");
        assert_eq!(told(cut.as_bytes()).unwrap().len(), BODY - 1);
    }
}
