//! One event, on its way from a broker to its target.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::broker::{Broker, Delivered as Message, Unpublished};
use super::cloud_event::Event;
use super::dead_letter::{self, Story, Why};
use super::subscriber::Running;
use crate::config::service::{Protocol, ServiceKey};
use crate::config::subscription::{Action, Exhausted, Subscription, Target};
use crate::policy::retry::asks_to_wait;
use crate::policy::timeout::Deadline;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::captured::Captured;
use crate::proxy::context::{Account, Context};
use crate::proxy::error::{Error, Reason};
use crate::proxy::layers::{self, Layer};
use crate::proxy::serve::account_for;
use crate::proxy::upstream::Speak;
use crate::proxy::{Proxy, forward, path};
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::events::Delivered as Outcome;

/// How much of an answer is read so that its connection can be used again.
const ANSWER: usize = 64 * 1024;
/// How long the rest of an answer may take.
const REST: Duration = Duration::from_secs(1);
/// The longest wait that an answer asks for.
const LONGEST: Duration = Duration::from_secs(300);
/// From one try to the next of what reached nobody, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// When an event comes again that this sidecar could not finish with.
const SOON: Duration = Duration::ZERO;

const TYPE_OF_EVENTS: HeaderValue = HeaderValue::from_static("application/cloudevents+json");

/// What came of a try.
enum Came {
    /// An answer of the target's.
    Answer(StatusCode, Option<Duration>),
    /// The target was reached, and did not answer.
    Nothing,
    /// Nobody was reached: it says nothing of the event.
    Unreached(Reason),
}

/// What is done with an event.
enum Verdict {
    Done(Outcome),
    Again(Duration),
    Exhausted(Story),
    /// The target is gone: nothing more is delivered.
    Gone,
}

/// Delivers an event, and sees to what becomes of it.
pub(super) async fn deliver(running: &Rc<Running>, broker: &dyn Broker, message: Box<dyn Message>) {
    let kept = keep(&*message);
    let delivering = async {
        let Some(px) = running.px.upgrade() else {
            return;
        };
        let subscription = &running.subscription;
        let event = read(subscription, &*message);
        let (event, verdict) = match event {
            Ok(event) => {
                let verdict = judge(running, &px, &*message, &event).await;
                (event, verdict)
            }
            Err(event) => {
                let story = Story {
                    why: Why::Malformed,
                    status: None,
                    attempts: message.attempt(),
                };
                (event, Some(Verdict::Exhausted(story)))
            }
        };
        let outcome = match verdict {
            // It ends: whoever comes next finishes with it.
            None => return given_back(running, &*message, SOON).await,
            Some(Verdict::Again(after)) => {
                given_back(running, &*message, after).await;
                Outcome::Retried
            }
            Some(Verdict::Gone) => {
                running.is_gone();
                given_back(running, &*message, LONGEST).await;
                Outcome::Retried
            }
            Some(Verdict::Done(outcome)) => {
                acknowledged(running, &*message).await;
                outcome
            }
            Some(Verdict::Exhausted(story)) => {
                let Some(outcome) = exhausted(running, broker, &*message, &event, story).await
                else {
                    return given_back(running, &*message, SOON).await;
                };
                outcome
            }
        };
        px.metrics
            .all()
            .events
            .delivered(&subscription.object, outcome);
    };
    tokio::select! {
        biased;
        () = delivering => {}
        () = kept => {}
    }
}

/// Keeps a message's lease until it is dropped.
async fn keep(message: &dyn Message) {
    loop {
        sleep(message.lease() / 3).await;
        // One that could not be kept comes again, perhaps while this one is still delivered: at least once.
        let _ = message.extend().await;
    }
}

/// The event that a message is; one that says what it was, when it is none.
fn read(subscription: &Subscription, message: &dyn Message) -> Result<Event, Event> {
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
        Err(_) => Err(of_a_plain_message(
            subscription,
            message,
            "dev.meshwright.malformed",
        )),
    }
}

/// A message of somebody who knows nothing of CloudEvents, as one: its topic is its type, and its place in the
/// topic its id.
fn of_a_plain_message(
    subscription: &Subscription,
    message: &dyn Message,
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

/// What is done with an event; nothing when the subscription ends before that is known.
async fn judge(
    running: &Running,
    px: &Rc<Proxy>,
    message: &dyn Message,
    event: &Event,
) -> Option<Verdict> {
    let subscription = &running.subscription;
    let attempts = message.attempt();
    let exhausted = |why, status, attempts| {
        Verdict::Exhausted(Story {
            why,
            status,
            attempts,
        })
    };
    if is_expired(subscription, message, event) {
        return Some(exhausted(Why::Expired, None, attempts.saturating_sub(1)));
    }
    if !subscription
        .filters
        .iter()
        .all(|filter| filter.passes(event))
    {
        return Some(Verdict::Done(Outcome::Filtered));
    }
    let blocks = subscription.exhausted == Exhausted::Block;
    let most = subscription.max_retries.saturating_add(1);
    let mut pause = AGAIN.0;
    let (status, asked) = loop {
        // It has not heard of this one: another sidecar may still be there for it.
        if running.has_gone() {
            return None;
        }
        match send(px, subscription, event).await {
            Came::Answer(status, asked) => break (Some(status), asked),
            Came::Nothing => break (None, None),
            // It costs no attempt, and nothing else is asked for meanwhile.
            Came::Unreached(reason) => {
                let events = &px.metrics.all().events;
                events.delivered(&subscription.object, Outcome::Unreached);
                running.unreached(Some(reason));
                let wait = pause.mul_f64(rand::random_range(0.5..=1.0));
                running.pause_until(Instant::now() + wait);
                if !running.goes_on_for(wait).await {
                    return None;
                }
                if is_expired(subscription, message, event) {
                    return Some(exhausted(Why::Expired, None, attempts.saturating_sub(1)));
                }
                pause = (pause * 2).min(AGAIN.1);
            }
        }
    };
    running.unreached(None);
    let action = status.map_or(Action::Retry, |status| subscription.action(status));
    Some(match (action, status) {
        (Action::Acknowledge, _) => Verdict::Done(Outcome::Acknowledged),
        (Action::Drop, _) => Verdict::Done(Outcome::Dropped),
        (Action::Gone, _) => Verdict::Gone,
        (Action::Exhaust, Some(status)) if !blocks => {
            exhausted(Why::of(status), Some(status), attempts)
        }
        (Action::Retry | Action::Exhaust, status) => {
            let asked = asked.map(|asked| asked.min(LONGEST));
            if let Some(asked) = asked {
                running.pause_until(Instant::now() + asked);
            }
            match attempts >= most && !blocks {
                true => exhausted(Why::Exhausted, status, attempts),
                false => {
                    let wait = subscription.backoff.wait(attempts.saturating_sub(1));
                    Verdict::Again(wait.max(asked.unwrap_or_default()))
                }
            }
        }
    })
}

/// Whether it is older than it may be, or says so itself (the extension `expirytime`).
fn is_expired(subscription: &Subscription, message: &dyn Message, event: &Event) -> bool {
    let now = SystemTime::now();
    let since = message
        .published()
        .and_then(|then| now.duration_since(then).ok());
    let old = subscription.expiry.zip(since);
    let ends = event.attribute("expirytime");
    let ends = ends.and_then(|ends| ends.parse::<jiff::Timestamp>().ok());
    old.is_some_and(|(expiry, since)| since > expiry)
        || ends.is_some_and(|ends| SystemTime::from(ends) <= now)
}

/// Sends an event once.
async fn send(px: &Rc<Proxy>, subscription: &Subscription, event: &Event) -> Came {
    let sending = async {
        match &subscription.target {
            Target::Application(port) => to_application(px, subscription, *port, event).await,
            Target::Service(service, port) => {
                to_service(px, subscription, (service, *port), event).await
            }
        }
    };
    let Ok(response) = timeout(subscription.timeout, sending).await else {
        return Came::Nothing;
    };
    let (status, reason) = (response.status(), Reason::of(response.headers()));
    let asked = asks_to_wait(status, response.headers(), SystemTime::now());
    // What it says has been said, however long the rest takes.
    let _ = timeout(REST, read_to_end(response.into_body())).await;
    match reason {
        Some(reason) if is_unreached(reason) => Came::Unreached(reason),
        Some(Reason::UpstreamReset | Reason::KeptConnectionClosed | Reason::BadResponse) => {
            Came::Nothing
        }
        _ => Came::Answer(status, asked),
    }
}

/// Whether an answer of the mesh says that nobody was reached: it costs an event nothing.
fn is_unreached(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoEndpoints
            | Reason::ConnectFailed
            | Reason::CircuitOpen
            | Reason::ApplicationUnreachable
            | Reason::NotReady
            | Reason::NoCertificate
            | Reason::Overloaded
            | Reason::AddressNotResolved
            | Reason::UnknownHost
            | Reason::BackendMissing
            | Reason::PeerNotVerified
            | Reason::StreamRefused
    )
}

/// To the application beside this sidecar, as inbound calls go.
async fn to_application(
    px: &Rc<Proxy>,
    subscription: &Subscription,
    port: u16,
    event: &Event,
) -> Response<ResponseBody> {
    let host = format!("localhost:{port}");
    let uri = Uri::from(subscription.path.clone());
    let (mut head, body) = request(subscription, event, (uri, &host));
    let mut cx = Context::new(Direction::inbound, &mut head);
    cx.source = own_identity(px);
    cx.route = Some((subscription.object.clone(), Arc::default()));
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    let called = (std::net::Ipv4Addr::LOCALHOST, port).into();
    let application = px.application(called);
    // As calls from outside would reach it.
    let state = px.destinations.state();
    let declared = state
        .served(port)
        .map_or(Protocol::Http, |served| served.protocol);
    drop(state);
    let speak = Speak::to_application(declared, false);
    let answer = forward::once(&mut account.cx, &application, speak, head, body).await;
    account_for(account, answer)
}

/// To a Service, as calls of the application go.
async fn to_service(
    px: &Rc<Proxy>,
    subscription: &Subscription,
    (service, port): (&ServiceKey, u16),
    event: &Event,
) -> Response<ResponseBody> {
    let (namespace, name) = service.parts();
    let host = format!("{name}.{namespace}:{port}");
    // As a proxy is asked: the address says which port is meant.
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = host.parse().ok();
    uri.path_and_query = Some(subscription.path.clone());
    let uri = Uri::from_parts(uri).unwrap_or_default();
    let (mut head, body) = request(subscription, event, (uri, &host));
    let cx = Context::new(Direction::outbound, &mut head);
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    let answer = called(px, &mut account.cx, subscription, head, body).await;
    account_for(account, answer)
}

async fn called(
    px: &Rc<Proxy>,
    cx: &mut Context,
    subscription: &Subscription,
    mut head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    path::settle(cx, &mut head)?;
    let captured = Captured::Explicitly;
    let destination = captured.find(px, &head).await?;
    cx.service = Some(destination.service.clone());
    let routed = destination.route(&head)?;
    cx.route = routed.names();
    cx.governed_by(&routed);
    let now = Instant::now();
    let deadline = Deadline::start(routed.request_timeout(), now);
    let layer = Layer {
        deadline: deadline.or_sooner(Some(subscription.timeout), now),
        routed,
        captured,
        depth: 0,
    };
    Box::pin(layers::carry(px, cx, layer, head, body)).await
}

fn own_identity(px: &Proxy) -> Option<crate::identity::SpiffeId> {
    let credentials = px.dial.credentials.borrow();
    credentials.as_ref().map(|own| own.id.clone())
}

/// The request that an event is delivered with.
fn request(
    subscription: &Subscription,
    event: &Event,
    (uri, host): (Uri, &str),
) -> (Parts, RequestBody) {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.uri = uri;
    let headers = &mut head.headers;
    let data = match subscription.structured {
        true => {
            headers.insert(CONTENT_TYPE, TYPE_OF_EVENTS);
            Bytes::from(event.to_json())
        }
        false => event.to_http(headers),
    };
    trace(event, headers);
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(data.len()));
    (head, RequestBody::whole(data))
}

/// A delivery belongs to the trace of the request that brought the event.
fn trace(event: &Event, headers: &mut HeaderMap) {
    for name in ["traceparent", "tracestate"] {
        let value = event.attribute(name).map(HeaderValue::from_str);
        if let Some(Ok(value)) = value {
            headers.insert(name, value);
        }
    }
}

async fn read_to_end(mut body: ResponseBody) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER {
            return;
        }
    }
}

/// Tells the broker that an event is done. If it does not hear that, the event comes again.
async fn acknowledged(running: &Running, message: &dyn Message) {
    if let Err(why) = message.acknowledge().await {
        tracing::debug!(subscription = %running.subscription.object, %why, "an event may come again");
    }
}

async fn given_back(running: &Running, message: &dyn Message, after: Duration) {
    if let Err(why) = message.give_back(after).await {
        tracing::debug!(subscription = %running.subscription.object, %why, "an event comes again later");
    }
}

/// Sees to an event that is exhausted: it is done once its dead letter is held, and not before. Nothing when the
/// subscription ends before that.
async fn exhausted(
    running: &Running,
    broker: &dyn Broker,
    message: &dyn Message,
    event: &Event,
    story: Story,
) -> Option<Outcome> {
    let subscription = &running.subscription;
    let object = &subscription.object;
    let (reason, attempts) = (story.why.name(), story.attempts);
    let code = story.status.map(|status| status.as_u16());
    let topic = match &subscription.exhausted {
        Exhausted::DeadLetter(topic) => topic,
        // Whatever is wrong with it: nothing is lost unless somebody says so.
        Exhausted::Block => {
            given_back(running, message, LONGEST).await;
            return Some(Outcome::Retried);
        }
        Exhausted::Drop => {
            tracing::warn!(subscription = %object, reason, code, attempts, "an event is dropped");
            acknowledged(running, message).await;
            return Some(Outcome::Dropped);
        }
    };
    let letter = dead_letter::letter(subscription, event, story);
    let mut pause = AGAIN.0;
    let place = message.place();
    while let Err(why) = dead_letter::hold(broker, topic, (subscription, &place), &letter).await {
        tracing::warn!(subscription = %object, %topic, %why, "a dead letter is not held yet");
        if !matches!(why, Unpublished::Away | Unpublished::Unconfirmed(_)) {
            // It may never be: it keeps nobody, and is tried again when it comes again.
            given_back(running, message, LONGEST).await;
            return Some(Outcome::Retried);
        }
        running.pause_until(Instant::now() + pause);
        if !running.goes_on_for(pause).await {
            return None;
        }
        pause = (pause * 2).min(AGAIN.1);
    }
    tracing::info!(subscription = %object, %topic, reason, code, attempts, "an event is a dead letter");
    acknowledged(running, message).await;
    Some(Outcome::DeadLettered)
}
