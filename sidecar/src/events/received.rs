//! What a broker delivered, as an event.

use super::broker::Delivered;
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
        read(subscription, message)
    }
}

/// The event that a message is; one that says what it was, when it is none.
fn read(subscription: &Subscription, message: &dyn Delivered) -> Result<Event, Event> {
    let sent = message.message();
    let headers = sent.headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_str()));
    match Event::from_message(headers, sent.data.clone()) {
        Ok(Some(event)) => Ok(event),
        Ok(None) => Ok(of_a_plain_message(
            subscription,
            message,
            &subscription.group.topic,
        )),
        Err(_) => Err(of_a_plain_message(subscription, message, MALFORMED)),
    }
}

/// A message of somebody who knows nothing of CloudEvents, as one: its topic is its type, and its place in the
/// topic its id.
fn of_a_plain_message(
    subscription: &Subscription,
    message: &dyn Delivered,
    event_type: &str,
) -> Event {
    let source = format!("/topics/{}", subscription.group.topic);
    // None of the three can be wrong: a place is made of numbers, and topics have no spaces.
    let mut event = Event::trusted(&message.place(), &source, event_type);
    let media_type = message.message().headers.iter();
    let mut media_type = media_type.filter(|(name, _)| name == "content-type");
    if let Some((_, media_type)) = media_type.next() {
        let _ = event.set("datacontenttype", media_type.as_str());
    }
    event.data = message.message().data.clone();
    event
}
