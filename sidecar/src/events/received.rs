//! What a broker delivered, as an event.

use super::broker::{Delivered, Message};
use super::cloud_event::Event;
use crate::config::subscription::Subscription;

/// The type of an event around what is none.
pub(super) const MALFORMED: &str = "dev.meshwright.malformed";

/// A message, and what stands in it.
pub(super) struct Received {
    pub(super) message: Box<dyn Delivered>,
    /// The event that it is; one that says what it was, when it is none.
    pub(super) event: Result<Event, Event>,
}

// === impl Received ===

impl Received {
    pub(super) fn of(subscription: &Subscription, message: Box<dyn Delivered>) -> Self {
        let event = Self::read(subscription, &*message);
        Self { message, event }
    }

    /// The event that a message is; one that says what it was, when it is none.
    pub(super) fn read(
        subscription: &Subscription,
        message: &dyn Delivered,
    ) -> Result<Event, Event> {
        let topic = &subscription.group.topic;
        of_message(topic, || message.place(), message.message())
    }
}

/// The event that a message of a topic is; one that says what it was, when it is none.
pub(super) fn of_message(
    topic: &str,
    place: impl Fn() -> String,
    message: &Message,
) -> Result<Event, Event> {
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
    match Event::from_message(headers, message.data.clone()) {
        Ok(Some(event)) => Ok(event),
        Ok(None) => Ok(of_a_plain_message((topic, &place()), message, topic)),
        Err(_) => Err(of_a_plain_message((topic, &place()), message, MALFORMED)),
    }
}

/// A message of somebody who knows nothing of CloudEvents, as one: its topic is its type, and its place in the
/// topic its id.
fn of_a_plain_message((topic, place): (&str, &str), message: &Message, event_type: &str) -> Event {
    let source = format!("/topics/{topic}");
    // None of the three can be wrong: a place is made of numbers, and topics have no spaces.
    let mut event = Event::trusted(place, &source, event_type);
    let mut media_type = message.headers.iter();
    if let Some((_, media_type)) = media_type.find(|(name, _)| name == "content-type") {
        let _ = event.set("datacontenttype", media_type.as_str());
    }
    event.data = message.data.clone();
    event
}
