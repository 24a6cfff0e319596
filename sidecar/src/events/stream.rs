//! A topic, as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), or by WebSocket
//! ([`websocket`]) to whoever asks for that ([`handshake`]).
//!
//! Whoever listens is sent each event as JSON, with its place at the broker as the id of the message. When the
//! connection breaks, or ends because this sidecar does, it comes back with the last id that it has seen, to this
//! sidecar or another one, and goes on behind that: nothing is kept of it here. It is given no more than it reads:
//! what it does not read stays at the broker.

mod handshake;
mod websocket;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep};
use wire::broker::BrokerKind;

use self::handshake::Handshake;
use super::broker::{Read, Reader, Since, Unsubscribed};
use super::cloud_event::Event;
use super::received::of_message;
use crate::config::publish::Streaming;
use crate::proxy::Proxy;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reason};
use crate::proxy::upgrade::Answering;

/// How many listen to topics at a worker.
const LISTENERS: usize = 256;
/// How often something is said when there is nothing to say, at least: sooner where silence ends a request sooner.
const BEAT: Duration = Duration::from_secs(15);
/// The part of the silence that ends a request after which something is said.
const BEATS: u32 = 3;
/// After how long one who listens has to come back, and to show again who it is.
const AGE: Duration = Duration::from_secs(60 * 60);
/// After how many milliseconds one comes back whose connection has ended.
const RETRY: &str = "retry: 1000\n";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How many listen at a worker.
#[derive(Debug, Default)]
pub struct Listeners(Rc<Cell<usize>>);

/// One of them, while it listens.
struct Listener(Rc<Cell<usize>>);

// === impl Listeners ===

impl Listeners {
    fn enter(&self) -> Option<Listener> {
        let listening = self.0.get() + 1;
        (listening <= LISTENERS).then(|| {
            self.0.set(listening);
            Listener(self.0.clone())
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Answers a request with a topic.
///
/// # Errors
/// `bad_request`, `origin_not_allowed`, `topic_unknown`, `broker_unavailable`, `overloaded`.
pub async fn carry(
    px: &Rc<Proxy>,
    cx: &mut Context,
    from: &Arc<Streaming>,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    if head.method != Method::GET {
        let why = Error::new(
            Reason::BadRequest,
            "a stream of events is asked for with GET",
        );
        return Err(why.with_status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let handshake = Handshake::of(cx, from.cors.as_ref(), &head, &body)?;
    let since = since(from, &head)?;
    let listener = px.listening.enter();
    let listener =
        listener.ok_or_else(|| Error::new(Reason::Overloaded, "too many listen to topics"))?;
    let away = |why: Unsubscribed| {
        let reason = match why {
            Unsubscribed::MissingTopic => Reason::TopicUnknown,
            _ => Reason::BrokerUnavailable,
        };
        Error::new(
            reason,
            format!("topic {} of {}: {why}", from.topic, from.broker),
        )
    };
    let broker = px.brokers.at(px, &from.broker).await.map_err(away)?;
    let reader = broker.read(&from.topic, &since).await.map_err(away)?;
    let feed = Feed {
        px: px.clone(),
        from: from.clone(),
        reader,
        beat: from.idle.map_or(BEAT, |idle| BEAT.min(idle / BEATS)),
        _listener: listener,
    };
    if let Some(handshake) = handshake {
        return handshake.answer(cx, Answering::new(|near| websocket::tell(feed, near)));
    }
    let (pieces, sent) = mpsc::channel(1);
    tokio::task::spawn_local(feed.go_on(pieces));
    let mut response = Response::new(ResponseBody::sent(sent));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// From where on a request wants to be told.
fn since(from: &Streaming, head: &Parts) -> Result<Since, Error> {
    let query = head.uri.query().unwrap_or_default().as_bytes();
    let mut query = form_urlencoded::parse(query);
    // Who can't set headers says it in the query.
    let in_query = query.find(|(name, _)| name == "lastEventId");
    let place = match head.headers.get(LAST_EVENT_ID) {
        Some(place) => Some(place.to_str().unwrap_or("?").to_owned()),
        None => in_query.map(|(_, place)| place.into_owned()),
    };
    let Some(place) = place.filter(|place| !place.is_empty()) else {
        return Ok(Since::Start(from.start));
    };
    let kind = from.broker.address.as_ref().map(|address| address.kind);
    match is_place(&place, kind) {
        true => Ok(Since::Place(place)),
        false => {
            let said =
                "last-event-id: it is none of this stream; send the id of an event of it, or none";
            Err(Error::new(Reason::BadRequest, said).saying(said))
        }
    }
}

/// Whether a message of such a broker may stand there.
fn is_place(place: &str, kind: Option<BrokerKind>) -> bool {
    let is_number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok();
    match kind {
        Some(BrokerKind::Redis) => place
            .split_once('-')
            .is_some_and(|(millis, number)| is_number(millis) && is_number(number)),
        _ => is_number(place) && place.parse() != Ok(u64::MAX),
    }
}

/// What sends to one who listens.
struct Feed {
    px: Rc<Proxy>,
    from: Arc<Streaming>,
    reader: Box<dyn Reader>,
    beat: Duration,
    _listener: Listener,
}

/// Why one is told no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The sidecar ends.
    Drained,
    /// It has listened for long.
    Aged,
    /// What is asked of who listens may have changed, or who the broker is asked as.
    Changed,
    /// The broker was lost.
    Lost,
}

// === impl Feed ===

impl Feed {
    /// As server-sent events, until the listener goes, or has to come back.
    async fn go_on(mut self, pieces: mpsc::Sender<Bytes>) {
        let over = self.over();
        tokio::select! {
            () = pieces.closed() => {}
            _ = over => {}
            () = self.feed(&pieces) => {}
        }
    }

    async fn feed(&mut self, pieces: &mpsc::Sender<Bytes>) {
        // Where it begins, so that it misses nothing if it has to come back before the first event.
        let begin = format!("{RETRY}id: {}\n\n", self.reader.place());
        if pieces.send(begin.into()).await.is_err() {
            return;
        }
        let mut beats = interval_at(Instant::now() + self.beat, self.beat);
        loop {
            let read = tokio::select! {
                biased;
                read = self.next() => read,
                _ = beats.tick() => Ok(Vec::new()),
            };
            let piece = match read {
                Ok(read) if read.is_empty() => Bytes::from_static(b":\n\n"),
                Ok(read) => written(&self.from.topic, &read),
                Err(_) => return,
            };
            if pieces.send(piece).await.is_err() {
                return;
            }
        }
    }

    /// Whatever becomes of what is read.
    fn over(&self) -> impl Future<Output = Over> + use<> {
        let mut drain = self.px.drain.clone();
        async move {
            tokio::select! {
                () = drain.begun() => Over::Drained,
                () = sleep(AGE) => Over::Aged,
            }
        }
    }

    /// Waits for events. One that is given up loses nothing.
    async fn next(&mut self) -> Result<Vec<Read>, Over> {
        loop {
            let read = self.reader.next().await;
            if !self.is_in_force() {
                return Err(Over::Changed);
            }
            match read {
                Ok(read) if read.is_empty() => {}
                Ok(read) => return Ok(read),
                Err(why) => {
                    let Streaming { topic, broker, .. } = &*self.from;
                    tracing::debug!(%topic, %broker, %why, "a stream ends: who listens comes back");
                    return Err(Over::Lost);
                }
            }
        }
    }

    fn is_in_force(&self) -> bool {
        let state = self.px.destinations.state();
        let mut all = state.built.publish.values().flat_map(|one| one.streams());
        all.any(|one| Arc::ptr_eq(one, &self.from))
    }
}

/// Messages as server-sent events: the id, and the event as JSON.
fn written(topic: &str, read: &[Read]) -> Bytes {
    let mut text = Vec::new();
    for read in read {
        let event = event_of(topic, read);
        text.extend_from_slice(b"id: ");
        text.extend_from_slice(read.place.as_bytes());
        // Data may have line ends between their parts, of which there are three here.
        for line in lines(&event.to_json()) {
            text.extend_from_slice(b"\ndata: ");
            text.extend_from_slice(line);
        }
        text.extend_from_slice(b"\n\n");
    }
    text.into()
}

/// The event that a message is; one that says what it was, when it is none.
fn event_of(topic: &str, Read { place, message }: &Read) -> Event {
    let event = of_message(topic, || place.clone(), message);
    event.unwrap_or_else(|what_it_was| what_it_was)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
}

#[cfg(test)]
mod tests {
    use super::super::broker::Message;
    use super::*;

    #[test]
    fn what_is_read_is_written_as_server_sent_events() {
        let read = |place: &str, headers: &[(&str, &str)], data: &'static str| Read {
            place: place.to_owned(),
            message: Message {
                headers: headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                data: Bytes::from_static(data.as_bytes()),
            },
        };
        let event = [
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-specversion", "1.0"),
            ("ce-datacontenttype", "application/json"),
        ];
        let all = [
            read("7", &event, "{\r\n\"a\":1\r}"),
            read("8", &[], "\"plain\""),
        ];
        let text = written("stock", &all);
        let text = str::from_utf8(&text).unwrap();
        assert!(!text.contains('\r'), "{text}");
        let events = Vec::from_iter(text.split_terminator("\n\n"));
        assert_eq!(events.len(), 2, "{text}");
        for (text, place) in events.iter().zip(["7", "8"]) {
            let (id, data) = text.split_once('\n').unwrap();
            assert_eq!(id, format!("id: {place}"));
            let data = data
                .lines()
                .map(|line| line.strip_prefix("data: ").unwrap());
            let data: serde_json::Value =
                serde_json::from_str(&Vec::from_iter(data).join("\n")).unwrap();
            match place {
                "7" => assert_eq!(data["data"]["a"], 1),
                _ => assert_eq!((&data["type"], &data["id"]), (&"stock".into(), &"8".into())),
            }
        }
    }

    #[test]
    fn a_place_is_one_of_its_broker() {
        for (place, nats, redis) in [
            ("0", true, false),
            ("17", true, false),
            ("18446744073709551615", false, false),
            ("18446744073709551616", false, false),
            ("+1", false, false),
            ("", false, false),
            ("1500-3", false, true),
            ("1500-", false, false),
            ("-", false, false),
            ("1-2-3", false, false),
            ("$", false, false),
        ] {
            assert_eq!(is_place(place, Some(BrokerKind::Nats)), nats, "{place}");
            assert_eq!(is_place(place, Some(BrokerKind::Redis)), redis, "{place}");
        }
    }

    #[test]
    fn no_more_listen_than_may() {
        let listeners = Listeners::default();
        let mut all = Vec::from_iter((0..LISTENERS).map(|_| listeners.enter().unwrap()));
        assert!(listeners.enter().is_none());
        all.pop();
        assert!(listeners.enter().is_some());
    }
}
