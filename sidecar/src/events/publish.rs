//! From a request to events that a broker holds.
//!
//! A CloudEvent in any of its modes is published as it is; any other body becomes the data of one, whose id is
//! the request's `Idempotency-Key` if it has one. The answer is 202 once the broker has confirmed every event, and
//! never before: whoever is told anything else, or nothing, sends it again with the same id. Brokers that can
//! tell duplicates do so by topic, source and id; of plain bodies also by who sent them and what stands in them, as
//! others may choose the same keys.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::broker::{Broker, Message, Unpublished};
use super::cloud_event::{Event, Malformed, Received, receive};
use crate::config::publish::Publishing;
use crate::policy::idempotency::key::Principal;
use crate::proxy::Proxy;
use crate::proxy::body::{Cut, RequestBody, ResponseBody};
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reason};
use crate::proxy::idle;
use crate::telemetry::metrics::events::Published;

/// How long a broker may take to confirm an event.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request's body may take to come.
const COMES: Duration = Duration::from_secs(60);
/// How many events of a batch are unconfirmed at once.
const UNDER_WAY: usize = 64;
/// How many bytes of requests a worker holds at once, and how often each of them is counted: read, taken apart,
/// written anew.
const ROOM: usize = 64 * 1024 * 1024;
const COPIES: usize = 3;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How many bytes of requests that are to be events are held by a worker.
#[derive(Debug, Default)]
pub struct Room(Rc<Cell<usize>>);

/// A share of the room, given back when it is dropped.
struct Share {
    all: Rc<Cell<usize>>,
    own: usize,
}

// === impl Room ===

impl Room {
    fn share(&self) -> Share {
        Share {
            all: self.0.clone(),
            own: 0,
        }
    }
}

impl Share {
    fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes * COPIES;
        let all = self.all.get() + bytes;
        if all > ROOM {
            return Err(Error::new(
                Reason::Overloaded,
                "too many bytes become events",
            ));
        }
        self.all.set(all);
        self.own += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.own);
    }
}

/// Publishes what a request says, and answers it.
///
/// # Errors
/// `event_malformed`, `event_unsupported`, `request_too_large`, `topic_unknown`, `publish_unconfirmed`,
/// `broker_unavailable`, `publish_refused`, `overloaded`, `bad_request`.
pub async fn carry(
    px: &Rc<Proxy>,
    cx: &mut Context,
    (to, sender): (&Arc<Publishing>, Option<Principal>),
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    if !matches!(head.method, Method::POST | Method::PUT) {
        let why = Error::new(Reason::BadRequest, "events are published with POST or PUT");
        return Err(why.with_status(StatusCode::METHOD_NOT_ALLOWED));
    }
    if cx.upgrade.is_some() {
        let why = "a request that becomes an event can't become another protocol";
        return Err(Error::new(Reason::BadRequest, why));
    }
    let encoding = head.headers.get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let said = "content-encoding: bodies are published as they are, and their type would not say that they are encoded; send them plain";
        return Err(Error::new(Reason::EventUnsupported, said).saying(said));
    }
    let mut share = px.publishing.share();
    let body = read(cx, to, &head, body, &mut share).await?;
    let received = receive(&head.headers, &body).map_err(|why| refused(to, &px.metrics, &why))?;
    let broker = px.brokers.at(px, &to.broker).await;
    let broker = broker.map_err(|why| Error::new(Reason::BrokerUnavailable, why.to_string()))?;
    match received {
        Received::Plain => {
            let content = digest(&[&body]);
            let event = wrapped(to, &head.headers, body)?;
            let event = event.map_err(|why| refused(to, &px.metrics, &why))?;
            let sender = sender.as_ref().map_or(&[][..], Principal::as_bytes);
            let id = known_by(&to.topic, &event, &[sender, &content]);
            one(px, &*broker, to, (event, id)).await
        }
        Received::Event(event) => {
            let event = traced(event, &head.headers);
            let id = known_by(&to.topic, &event, &[]);
            one(px, &*broker, to, (event, id)).await
        }
        Received::Batch(events) => {
            let events = events.into_iter();
            let events = events.map(|event| event.map(|event| traced(event, &head.headers)));
            many(px, &*broker, to, events).await
        }
    }
}

/// All of a body, if it is no longer than it may be.
async fn read(
    cx: &mut Context,
    to: &Publishing,
    head: &Parts,
    mut body: RequestBody,
    share: &mut Share,
) -> Result<Bytes, Error> {
    let too_large = || {
        let why = format!("it is longer than ApiRoute {} publishes", to.object);
        Error::new(Reason::RequestTooLarge, why)
    };
    let said = head.headers.get(CONTENT_LENGTH);
    let said = said.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > to.max_bytes) {
        return Err(too_large());
    }
    let taking = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|cut| match cut {
                Cut::TooLarge => Reason::RequestTooLarge.into(),
                cut => Error::new(Reason::BadRequest, cut.to_string()),
            })?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if (whole.len() + data.len()) as u64 > to.max_bytes {
                return Err(too_large());
            }
            share.grow(data.len())?;
            whole.extend_from_slice(data);
        }
        Ok(whole.freeze())
    };
    let (limit, sent) = (cx.idle_limit(), cx.sent());
    let reading = idle::bound(limit, || sent.get(), taking);
    match timeout(COMES, reading).await {
        Ok(read) => read.unwrap_or_else(|idle| Err(idle.into())),
        Err(_) => {
            let late = Error::new(Reason::BadRequest, "its body took too long to come");
            Err(late.with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// The event that a plain body becomes.
fn wrapped(
    to: &Publishing,
    headers: &HeaderMap,
    data: Bytes,
) -> Result<Result<Event, Malformed>, Error> {
    let key = headers
        .get(IDEMPOTENCY_KEY)
        .map(HeaderValue::to_str)
        .transpose();
    let key = key.map_err(|_| {
        let said =
            "idempotency-key: it has a character that is none of visible ASCII; send a key without";
        Error::new(Reason::EventMalformed, said).saying(said)
    })?;
    let key = key
        .map(|key| key.trim_matches('"'))
        .filter(|key| !key.is_empty());
    let id = key.map_or_else(|| new_id(SystemTime::now()), str::to_owned);
    let made = || {
        let mut event = Event::new(id, &*to.event_source, &*to.event_type)?;
        event.set("time", Timestamp::now().to_string())?;
        let media_type = headers.get(CONTENT_TYPE);
        if let Some(media_type) = media_type.and_then(|media| media.to_str().ok()) {
            event.set("datacontenttype", media_type)?;
        }
        event.data = data;
        Ok(traced(event, headers))
    };
    Ok(made())
}

/// An event that belongs to the trace of the request that brought it, unless it belongs to one already.
fn traced(mut event: Event, headers: &HeaderMap) -> Event {
    if event.attribute("traceparent").is_none() {
        for name in [TRACEPARENT, TRACESTATE] {
            let value = headers.get(&name).and_then(|value| value.to_str().ok());
            if let Some(value) = value {
                // One that is no text is not passed on.
                let _ = event.set(name.as_str(), value);
            }
        }
    }
    event
}

/// A UUID of version 7 (RFC 9562, section 5.7): in the order of time, and nobody else's.
fn new_id(now: SystemTime) -> String {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = since.as_millis() & 0xffff_ffff_ffff;
    let random: u128 = rand::random();
    let version = 0x7_u128 << 76;
    let variant = 0b10_u128 << 62;
    let (a, b) = ((random >> 64) & 0xfff, random & 0x3fff_ffff_ffff_ffff);
    let id = (millis << 80) | version | (a << 64) | variant | b;
    let hex = format!("{id:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// What a broker tells duplicates by: topic, source and id, which name an event there (CloudEvents 1.0.2, section
/// 3.1), and what else tells it apart.
pub(super) fn known_by(topic: &str, event: &Event, more: &[&[u8]]) -> String {
    let of = |name| event.attribute(name).unwrap_or_default().as_bytes();
    let named = [topic.as_bytes(), of("source"), of("id")];
    let digest = digest(&[&named, more].concat());
    let bytes = digest.iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of parts, of which no other split makes the same.
fn digest(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

/// Has an event held by a broker.
async fn hold(
    px: &Proxy,
    broker: &dyn Broker,
    to: &Publishing,
    (event, id): (&Event, &str),
) -> Result<(), Unpublished> {
    let (headers, data) = event.to_message();
    let held = broker.publish(&to.topic, Some(id), Message { headers, data }, PATIENCE);
    let held = held.await;
    px.metrics.all().events.published(
        &to.broker,
        &to.topic,
        match &held {
            Ok(false) => Published::Held,
            Ok(true) => Published::Duplicate,
            Err(
                Unpublished::UnknownTopic | Unpublished::TooLarge { .. } | Unpublished::Refused(_),
            ) => Published::Refused,
            Err(Unpublished::Unconfirmed(_) | Unpublished::Away) => Published::Unconfirmed,
        },
    );
    held.map(drop)
}

async fn one(
    px: &Proxy,
    broker: &dyn Broker,
    to: &Publishing,
    (event, id): (Event, String),
) -> Result<Response<ResponseBody>, Error> {
    hold(px, broker, to, (&event, &id))
        .await
        .map_err(|why| error(to, why))?;
    Ok(answer(StatusCode::ACCEPTED, &named(&event)))
}

/// Publishes a batch: each event for itself, so that one that can't be published keeps no other.
async fn many(
    px: &Proxy,
    broker: &dyn Broker,
    to: &Publishing,
    events: impl Iterator<Item = Result<Event, Malformed>>,
) -> Result<Response<ResponseBody>, Error> {
    let publishing = events.map(async |event| match event {
        Ok(event) => {
            let id = known_by(&to.topic, &event, &[]);
            let held = hold(px, broker, to, (&event, &id)).await;
            let held = held.map_err(|why| error(to, why));
            (Some(named(&event)), held)
        }
        Err(why) => (None, Err(refused(to, &px.metrics, &why))),
    });
    // In the order of the batch, as far as a broker keeps it: each is begun when it is its turn.
    let mut all = futures::stream::iter(publishing).buffered(UNDER_WAY);
    let (mut accepted, mut told, mut first) = (0_usize, Vec::new(), None);
    while let Some((event, held)) = all.next().await {
        let mut entry = event.unwrap_or_else(|| json!({}));
        let status = match held {
            Ok(()) => {
                accepted += 1;
                StatusCode::ACCEPTED
            }
            Err(error) => {
                entry["reason"] = error.reason.name().into();
                if let Some(said) = error.said() {
                    entry["detail"] = said.into();
                }
                let status = error.status();
                // What may pass is told before what never will: then all of it is sent again.
                let passes = status == StatusCode::SERVICE_UNAVAILABLE;
                match &first {
                    Some(_) if !passes => {}
                    _ => first = Some(error),
                }
                status
            }
        };
        entry["status"] = status.as_u16().into();
        told.push(entry);
    }
    match first {
        Some(error) if accepted == 0 => Err(error),
        first => {
            let status = match first {
                None => StatusCode::ACCEPTED,
                Some(_) => StatusCode::MULTI_STATUS,
            };
            let rejected = told.len() - accepted;
            let told = json!({ "accepted": accepted, "rejected": rejected, "events": told });
            Ok(answer(status, &told))
        }
    }
}

/// What names an event.
fn named(event: &Event) -> Value {
    json!({ "id": event.attribute("id"), "source": event.attribute("source") })
}

fn answer(status: StatusCode, told: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::mesh(told.to_string().into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn refused(
    to: &Publishing,
    metrics: &crate::telemetry::metrics::RequestMetrics,
    why: &Malformed,
) -> Error {
    let events = &metrics.all().events;
    events.published(&to.broker, &to.topic, Published::Malformed);
    let reason = match why.is_unsupported_format() {
        true => Reason::EventUnsupported,
        false => Reason::EventMalformed,
    };
    Error::new(reason, why.to_string()).saying(why.to_string())
}

fn error(to: &Publishing, why: Unpublished) -> Error {
    let reason = match why {
        Unpublished::UnknownTopic => Reason::TopicUnknown,
        Unpublished::TooLarge { .. } => Reason::RequestTooLarge,
        Unpublished::Refused(_) => Reason::PublishRefused,
        Unpublished::Unconfirmed(_) => Reason::PublishUnconfirmed,
        Unpublished::Away => Reason::BrokerUnavailable,
    };
    Error::new(
        reason,
        format!("topic {} of {}: {why}", to.topic, to.broker),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_in_the_order_of_time() {
        let then = SystemTime::UNIX_EPOCH + Duration::from_millis(0x0123_4567_89ab);
        let id = new_id(then);
        assert!(id.starts_with("01234567-89ab-7"), "{id}");
        assert_eq!(id.len(), 36);
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        assert_ne!(id, new_id(then));
        assert!(id < new_id(then + Duration::from_millis(1)));
    }

    #[test]
    fn events_are_known_by_topic_source_and_id_together() {
        let known = |topic, id: &str, source: &str, more: &[&[u8]]| {
            known_by(topic, &Event::new(id, source, "t").unwrap(), more)
        };
        let one = known("a", "1", "/a", &[]);
        assert_eq!(one, known("a", "1", "/a", &[]));
        assert_eq!(one.len(), 32);
        for other in [
            known("b", "1", "/a", &[]),
            known("a", "2", "/a", &[]),
            known("a", "1", "/b", &[]),
            known("a", "11", "/", &[]),
            known("a", "1", "/a", &[b"web", b"body"]),
        ] {
            assert_ne!(one, other);
        }
        let of = |more: &[&[u8]]| known("a", "1", "/a", more);
        assert_ne!(of(&[b"web", b"body"]), of(&[b"web", b"other"]));
        assert_ne!(of(&[b"web", b"body"]), of(&[b"webb", b"ody"]));
    }
}
