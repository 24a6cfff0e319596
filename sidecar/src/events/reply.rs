//! What a target replies: an event in its answer, which is published to another topic before the one that it
//! replies to is done.
//!
//! A chain of replies may lead back to where it began: [`super::hops`] ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use super::broker::{Broker, Message, Unpublished};
use super::cloud_event::{CORRELATION, Event, Received, receive};
use super::dead_letter::Why;
use super::hops::{self, TooLong};
use super::jobs;
use super::post::{Answer, Unread};
use super::publish::known_by;
use super::running::Running;
use super::settle::AGAIN;
use crate::config::subscription::Source;
use crate::telemetry::metrics::events::Published;

/// How long a broker may take to confirm one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replied {
    /// The broker holds it, or there was none.
    Held,
    /// It could not be read, or the broker does not hold it: as if the event had failed.
    Later,
    /// It can't be published: the event is exhausted.
    Never(Why),
}

/// Publishes what was replied; nothing when the subscription ends before that.
pub(super) async fn publish(
    running: &Running,
    broker: &dyn Broker,
    topic: &Arc<str>,
    event: &Event,
    answer: &Answer,
) -> Option<Replied> {
    // Who has only accepted it has not replied.
    if answer.status != StatusCode::OK {
        return Some(Replied::Held);
    }
    let object = &running.subscription.object;
    let body = match &answer.body {
        Ok(body) => body,
        // Whatever is no event is no reply, however long it is.
        Err(_) if matches!(receive(&answer.headers, &Bytes::new()), Ok(Received::Plain)) => {
            return Some(Replied::Held);
        }
        Err(Unread::Broken) => return Some(Replied::Later),
        Err(Unread::TooLong) => {
            tracing::warn!(subscription = %object, "a reply is too long");
            return Some(Replied::Never(Why::Reply));
        }
    };
    let mut reply = match receive(&answer.headers, body) {
        Ok(Received::Event(reply)) => reply,
        Ok(Received::Plain) => return Some(Replied::Held),
        Ok(Received::Batch(_)) => {
            tracing::warn!(subscription = %object, "a reply is a batch, and must be one event");
            return Some(Replied::Never(Why::Reply));
        }
        Err(why) => {
            tracing::warn!(subscription = %object, %why, "a reply is no event");
            return Some(Replied::Never(Why::Reply));
        }
    };
    if joined(&mut reply, event).is_err() {
        tracing::warn!(subscription = %object, "a chain of replies is too long: it may lead back to where it began");
        return Some(Replied::Never(Why::Loop));
    }
    if let Err(why) = jobs::carry_on(&mut reply, event) {
        tracing::warn!(subscription = %object, %why, "a reply can't be told to belong to a job");
        return Some(Replied::Never(Why::Reply));
    }
    let id = known_by(topic, &reply, &[]);
    let mut pause = AGAIN.0;
    loop {
        let (headers, data) = reply.to_message();
        let held = broker.publish(topic, Some(&id), Message { headers, data }, PATIENCE);
        let (outcome, replied) = match held.await {
            Ok(false) => (Published::Held, Some(Replied::Held)),
            Ok(true) => (Published::Duplicate, Some(Replied::Held)),
            Err(Unpublished::Away | Unpublished::Unconfirmed(_)) => (Published::Unconfirmed, None),
            Err(why @ Unpublished::TooLarge { .. }) => {
                tracing::warn!(subscription = %object, %topic, %why, "a reply is not held");
                (Published::Refused, Some(Replied::Never(Why::Reply)))
            }
            Err(why) => {
                tracing::warn!(subscription = %object, %topic, %why, "a reply is not held yet");
                (Published::Refused, Some(Replied::Later))
            }
        };
        if let (Some(px), Source::Broker(named)) =
            (running.px.upgrade(), &running.subscription.source)
        {
            px.metrics.all().events.published(named, topic, outcome);
        }
        if replied.is_some() {
            return replied;
        }
        running.pause_until(Instant::now() + pause);
        if !running.goes_on_for(pause).await {
            return None;
        }
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// Joins a reply to what it replies to: its trace, what it is correlated by, and its chain.
fn joined(reply: &mut Event, event: &Event) -> Result<(), TooLong> {
    hops::count(reply, event)?;
    if reply.attribute("traceparent").is_none() {
        for name in ["traceparent", "tracestate"] {
            if let Some(value) = event.attribute(name) {
                // One that has as many attributes as one may begins a trace of its own.
                let _ = reply.set(name, value);
            }
        }
    }
    if let Some(id) = event.attribute(CORRELATION)
        && reply.attribute(CORRELATION).is_none()
    {
        let _ = reply.set(CORRELATION, id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::hops::{HOPS, LONGEST};

    #[test]
    fn a_reply_belongs_to_the_trace_and_the_chain_of_what_it_replies_to() {
        let mut event = Event::trusted("1", "/a", "t");
        event.set("traceparent", "00-1-2-01").unwrap();
        event.set(CORRELATION, "order-7").unwrap();
        let mut reply = Event::trusted("2", "/b", "t");
        assert_eq!(joined(&mut reply, &event), Ok(()));
        assert_eq!(reply.attribute(HOPS), Some("1"));
        assert_eq!(reply.attribute("traceparent"), Some("00-1-2-01"));
        assert_eq!(reply.attribute(CORRELATION), Some("order-7"));
        let mut own = Event::trusted("3", "/b", "t");
        own.set("traceparent", "00-3-4-01").unwrap();
        own.set(CORRELATION, "order-8").unwrap();
        assert_eq!(joined(&mut own, &reply), Ok(()));
        assert_eq!(own.attribute(HOPS), Some("2"));
        assert_eq!(own.attribute("traceparent"), Some("00-3-4-01"));
        assert_eq!(own.attribute(CORRELATION), Some("order-8"));
    }

    #[test]
    fn a_chain_ends_that_leads_back_to_where_it_began() {
        let mut event = Event::trusted("1", "/a", "t");
        for _ in 0..LONGEST {
            let mut reply = Event::trusted("1", "/a", "t");
            assert_eq!(joined(&mut reply, &event), Ok(()));
            event = reply;
        }
        let mut reply = Event::trusted("1", "/a", "t");
        assert_eq!(joined(&mut reply, &event), Err(TooLong));
        event.set(HOPS, "many").unwrap();
        assert_eq!(joined(&mut reply, &event), Err(TooLong));
    }
}
