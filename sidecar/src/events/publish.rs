//! From a request to events that a broker holds.
//!
//! A CloudEvent in any of its modes is published as it is; any other body becomes the data of one, whose id is
//! the request's `Idempotency-Key` if it has one. The answer is 202 once the broker has confirmed every event, and
//! never before: whoever is told anything else, or nothing, sends it again with the same id. Brokers that can
//! tell duplicates do so by topic, source and id; of plain bodies also by who sent them and what stands in them, as
//! others may choose the same keys. Where a rule says `ack: None` nobody waits for the broker (unwaited.rs).

mod attributes;
mod hold;
mod id;
mod room;
mod unwaited;
mod upload;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::time::timeout;

use super::broker::Unpublished;
use super::cloud_event::{CORRELATION, Event, Malformed, Received, receive};
use super::jobs::{self, fetch};
use crate::config::async_reply::Kept;
use crate::config::publish::Publishing;
use crate::policy::idempotency::key::Principal;
use crate::proxy::Proxy;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reason};
use crate::proxy::idle;
use crate::telemetry::metrics::events::Published;
use crate::telemetry::trace::{REQUEST_ID, TRACEPARENT, TRACESTATE};

use hold::Way;
pub(super) use id::new_id;
pub(super) use id::{digest, hex, known_by};
pub use room::Room;
use room::Share;

/// How long a request's body may take to come.
const COMES: Duration = Duration::from_secs(60);

/// How many bytes there is room for before they have come.
const AHEAD: usize = 4 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Publishes what a request says, or gives what came of what was published, and answers it.
///
/// # Errors
/// `event_malformed`, `event_unsupported`, `request_too_large`, `topic_unknown`, `publish_unconfirmed`,
/// `broker_unavailable`, `publish_refused`, `overloaded`, `bad_request`, `job_unknown`, `job_failed`,
/// `jobs_unavailable`.
pub async fn carry(
    px: &Rc<Proxy>,
    cx: &mut Context,
    (to, sender): (&Arc<Publishing>, Option<Principal>),
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    // An application that publishes by its own port is no caller of the API that its results are fetched from.
    let job = to.async_reply.as_ref().zip(sender);
    let job = job.map(|(reply, sender)| (&*reply.kept, sender));
    if let Some((kept, who)) = job
        && fetch::is_asked(kept, &head)
        && cx.upgrade.is_none()
    {
        return fetch::fetch(px, kept, who, &head).await;
    }
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
    if let Some(split) = &to.split {
        return Box::pin(upload::carry(px, cx, (to, split, sender), &head, body)).await;
    }
    let mut share = px.publishing.share();
    let body = read(cx, to, &head, body, &mut share).await?;
    let received = receive(&head.headers, &body).map_err(|why| refused(to, &px.metrics, &why))?;
    let way = Way::of(px, to).await?;
    match received {
        Received::Plain => {
            // Without a key it is told apart by an id that nobody else has.
            let has_key = head.headers.contains_key(&IDEMPOTENCY_KEY) || attributes::have_id(to);
            let content = has_key.then(|| digest(&[&body]));
            let event = wrapped(to, &head.headers, body)?;
            let event = event.map_err(|why| refused(to, &px.metrics, &why))?;
            if content.is_none() && job.is_none() {
                return way.one(event, None).await;
            }
            let content = content.as_ref().map_or(&[][..], |content| content);
            let sender = sender.as_ref().map_or(&[][..], Principal::as_bytes);
            one(px, to, &way, job, (event, &[sender, content])).await
        }
        Received::Event(event) => {
            let event = traced(event, &head.headers);
            one(px, to, &way, job, (event, &[])).await
        }
        Received::Batch(_) if job.is_some() => {
            let said =
                "a batch is many jobs, and is answered with one place: send each event for itself";
            Err(Error::new(Reason::EventUnsupported, said).saying(said))
        }
        Received::Batch(events) => {
            let events = events.into_iter();
            let events = events.map(|event| event.map(|event| traced(event, &head.headers)));
            way.many(events).await
        }
    }
}

/// Publishes one event, told apart by `more` than its names; what comes of it is kept if it is a job.
async fn one(
    px: &Rc<Proxy>,
    to: &Publishing,
    way: &Way<'_>,
    job: Option<(&Kept, Principal)>,
    (mut event, more): (Event, &[&[u8]]),
) -> Result<Response<ResponseBody>, Error> {
    let id = known_by(&to.topic, &event, more);
    let Some((kept, who)) = job else {
        return way.one(event, Some(id)).await;
    };
    // Before anything is published: nobody waits for what nobody may fetch.
    let token = jobs::begin(px, kept, who, &id).await;
    let token = token.map_err(|_| jobs::unavailable(kept))?;
    let marked = token.mark(&mut event);
    marked.map_err(|why| refused(to, &px.metrics, &why))?;
    // The same event is another job once its first is forgotten, and another's always.
    let id = known_by(&to.topic, &event, more);
    let mut response = way.one(event, Some(id)).await?;
    token.tell(kept, &mut response);
    Ok(response)
}

/// All of a body, if it is no longer than it may be.
async fn read(
    cx: &mut Context,
    to: &Publishing,
    head: &Parts,
    mut body: RequestBody,
    share: &mut Share,
) -> Result<Bytes, Error> {
    if said_length(&head.headers).is_some_and(|length| length > to.max_bytes) {
        return Err(too_large(to));
    }
    let taking = async {
        // Exactly as long as it says to be: what is read at once may be a part of a buffer that is much longer.
        let said = said_length(&head.headers).and_then(|length| usize::try_from(length).ok());
        let mut whole = BytesMut::with_capacity(said.unwrap_or_default().min(AHEAD));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(Error::from)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if (whole.len() + data.len()) as u64 > to.max_bytes {
                return Err(too_large(to));
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

/// How long a body is, as its sender says.
fn said_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(to: &Publishing) -> Error {
    let why = format!("it is longer than ApiRoute {} publishes", to.object);
    Error::new(Reason::RequestTooLarge, why)
}

/// What a request is sent again with.
fn key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let key = headers
        .get(IDEMPOTENCY_KEY)
        .map(HeaderValue::to_str)
        .transpose();
    let key = key.map_err(|_| {
        let said =
            "idempotency-key: it has a character that is none of visible ASCII; send a key without";
        Error::new(Reason::EventMalformed, said).saying(said)
    })?;
    let key = key.map(|key| key.trim_matches('"'));
    Ok(key.filter(|key| !key.is_empty()).map(str::to_owned))
}

/// The event that a plain body becomes.
fn wrapped(
    to: &Publishing,
    headers: &HeaderMap,
    data: Bytes,
) -> Result<Result<Event, Malformed>, Error> {
    let id = key(headers)?.unwrap_or_else(|| new_id(SystemTime::now()));
    let made = || {
        let mut event = Event::new(id, &*to.event_source, &*to.event_type)?;
        event.set_trusted("time", Timestamp::now().to_string());
        let media_type = headers.get(CONTENT_TYPE);
        if let Some(media_type) = media_type.and_then(|media| media.to_str().ok()) {
            event.set("datacontenttype", media_type)?;
        }
        event.data = data;
        attributes::set(to, &mut event, headers)?;
        Ok(traced(event, headers))
    };
    Ok(made())
}

/// An event that belongs to the trace of the request that brought it, and is correlated by that one's id, unless it says
/// otherwise of itself.
fn traced(mut event: Event, headers: &HeaderMap) -> Event {
    let in_a_trace = event.attribute("traceparent").is_some();
    let correlated = event.attribute(CORRELATION).is_some();
    for (has, name, header) in [
        (in_a_trace, "traceparent", TRACEPARENT),
        (in_a_trace, "tracestate", TRACESTATE),
        (correlated, CORRELATION, REQUEST_ID),
    ] {
        let value = headers.get(header).and_then(|value| value.to_str().ok());
        if let Some(value) = value.filter(|_| !has) {
            // One that is no text is not passed on.
            let _ = event.set(name, value);
        }
    }
    event
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
