//! A delivery as a request: an event, or a batch of them, posted to the target.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout};

use super::cloud_event::{CORRELATION, Event};
use crate::config::rate_limit::Limited;
use crate::config::service::{Protocol, ServiceKey};
use crate::config::state::Served;
use crate::config::subscription::{Mode, Outside, Subscription, Target};
use crate::policy::retry::asks_to_wait;
use crate::policy::timeout::Deadline;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::captured::Captured;
use crate::proxy::context::{Account, Context};
use crate::proxy::error::{Error, Reads, Reason};
use crate::proxy::layers::{self, Layer};
use crate::proxy::rate_limit::{self, Sender};
use crate::proxy::serve::account_for;
use crate::proxy::upstream::{Speak, Upstream};
use crate::proxy::{Proxy, forward, path};
use crate::telemetry::metrics::Direction;
use crate::telemetry::trace::{REQUEST_ID, TRACEPARENT, TRACESTATE};

/// How long it may take to open a way to a system outside the mesh: its name, its address, its certificate.
const OPENING: Duration = Duration::from_secs(10);
/// How much of an answer is read so that its connection can be used again.
const ANSWER: usize = 64 * 1024;
/// How long the rest of an answer may take.
const REST: Duration = Duration::from_secs(1);
/// How long an answer may be that means something, in bytes.
const MEANT: usize = 1024 * 1024;

const TYPE_OF_EVENTS: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const TYPE_OF_BATCHES: HeaderValue = HeaderValue::from_static("application/cloudevents-batch+json");

/// What is posted.
#[derive(Clone, Copy)]
pub(super) enum Payload<'e> {
    /// As the subscription says.
    Event(&'e Event),
    /// As a batch in JSON.
    Batch(&'e [&'e Event]),
}

/// What came of a try.
pub(super) enum Came {
    Answer(Answer),
    /// The target was reached, and did not answer.
    Nothing,
    /// Nobody was reached, and perhaps how long that is so: it says nothing of the event.
    Unreached(Reason, Option<Duration>),
}

/// An answer of the target's.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// How long it asks to wait.
    pub(super) wait: Option<Duration>,
    pub(super) headers: HeaderMap,
    pub(super) body: Result<Bytes, Unread>,
}

/// Why a body is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    TooLong,
    /// It broke off, or took too long.
    Broken,
}

/// Posts once. The body of an answer is read where it may mean something: `reads`.
pub(super) async fn post(
    px: &Rc<Proxy>,
    subscription: &Subscription,
    payload: Payload<'_>,
    reads: bool,
) -> Came {
    let response = match &subscription.target {
        Target::Application(port) => to_application(px, subscription, *port, payload).await,
        Target::Service(service, port) => {
            let asked = to_service(px, subscription, (service, *port), payload);
            match timeout(subscription.timeout, asked).await {
                Ok(response) => response,
                Err(_) => return Came::Nothing,
            }
        }
        Target::Outside(Ok(outside)) => to_system(px, subscription, outside, payload).await,
        // Nothing is pulled then; what a schedule has due waits.
        Target::Outside(Err(_)) | Target::Topic(_) | Target::Results(_) => {
            Error::from(Reason::BackendMissing)
                .response(Reads::Http)
                .map(ResponseBody::mesh)
        }
    };
    let (head, body) = response.into_parts();
    let reason = Reason::of(&head.headers);
    let wait = asks_to_wait(head.status, &head.headers, SystemTime::now());
    let (most, patience) = match reads && head.status.is_success() {
        true => (MEANT, subscription.timeout),
        false => (ANSWER, REST),
    };
    // What it says has been said, however long the rest takes.
    let body = timeout(patience, read_to_end(body, most)).await;
    match reason {
        Some(reason) if is_unreached(reason) => Came::Unreached(reason, wait),
        Some(Reason::UpstreamReset | Reason::KeptConnectionClosed | Reason::BadResponse) => {
            Came::Nothing
        }
        // That of a route's time limit is an answer of the mesh's, as for any caller.
        Some(Reason::RequestTimeout) if !matches!(subscription.target, Target::Service(..)) => {
            Came::Nothing
        }
        _ => Came::Answer(Answer {
            status: head.status,
            wait,
            headers: head.headers,
            body: body.unwrap_or(Err(Unread::Broken)),
        }),
    }
}

/// Whether an answer of the mesh says that nobody was reached, or may be yet: it costs an event nothing.
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
            | Reason::RateLimited
            | Reason::LimitUnknown
            | Reason::ConcurrencyLimit
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
    payload: Payload<'_>,
) -> Response<ResponseBody> {
    let host = format!("localhost:{port}");
    let uri = Uri::from(subscription.path.clone());
    let (mut head, body) = request(subscription, payload, (uri, &host));
    let mut cx = Context::new(Direction::inbound, &mut head);
    cx.source = own_identity(px);
    cx.route = Some((subscription.object.clone(), Arc::default()));
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    let called = (std::net::Ipv4Addr::LOCALHOST, port).into();
    let application = px.application(called);
    // As calls from outside would reach it.
    let state = px.destinations.state();
    let served = state.served(port).ok();
    let declared = served.map_or(Protocol::Http, |served| served.protocol);
    let speak = Speak::to_application(declared, false);
    let within = match served.map_or(&[][..], Served::limits) {
        [] => Ok(body),
        limits => {
            // One that speaks HTTP/2 alone has a connection that many share, and none that is opened ahead.
            let opened = match speak {
                Speak::Http1 => opened(&application).await,
                Speak::Http2 => Ok(()),
            };
            match opened {
                Ok(()) => within(px, &mut account.cx, limits.iter(), &head, body).await,
                Err(error) => Err(error),
            }
        }
    };
    drop(state);
    let answer = match within {
        Ok(body) => {
            let asked = forward::once(&mut account.cx, &application, speak, head, body);
            in_time(subscription, pin!(asked)).await
        }
        Err(error) => Err(error),
    };
    account_for(account, answer)
}

/// Sees to it that there is a way to a target: what is tried in vain is to take nothing of what limits allow.
async fn opened(target: &Upstream) -> Result<(), Error> {
    match timeout(OPENING, target.open_ahead()).await {
        Ok(opened) => opened,
        Err(_) => {
            let why = "it took too long to open a way there";
            Err(Error::new(Reason::ConnectFailed, why))
        }
    }
}

/// Lets a delivery go on that is within these limits; it waits for them as any call does.
///
/// # Errors
/// As those of [`rate_limit::request`].
async fn within<'a>(
    px: &Rc<Proxy>,
    cx: &mut Context,
    limits: impl Iterator<Item = &'a Limited>,
    head: &Parts,
    body: RequestBody,
) -> Result<RequestBody, Error> {
    let own = own_identity(px);
    let sender = Sender::own(own.as_ref());
    let within = rate_limit::request(px, cx, limits, sender, head, body);
    Ok(Box::pin(within).await?.0)
}

/// What is answered within the time that a delivery may take.
async fn in_time(
    subscription: &Subscription,
    asked: impl Future<Output = Result<Response<ResponseBody>, Error>>,
) -> Result<Response<ResponseBody>, Error> {
    let answer = timeout(subscription.timeout, asked).await;
    answer.unwrap_or_else(|_| Err(Reason::RequestTimeout.into()))
}

/// To a system outside the mesh, which proves itself before anything is said to it.
async fn to_system(
    px: &Rc<Proxy>,
    subscription: &Subscription,
    outside: &Arc<Outside>,
    payload: Payload<'_>,
) -> Response<ResponseBody> {
    let host = outside.authority.to_str().unwrap_or_default();
    let uri = Uri::from(outside.path.clone());
    let (mut head, body) = request(subscription, payload, (uri, host));
    if let Some(authorization) = &outside.authorization {
        head.headers.insert(AUTHORIZATION, authorization.clone());
    }
    // What stands in its path may be secret, and is in no log.
    let uri = std::mem::take(&mut head.uri);
    let mut cx = Context::new(Direction::outbound, &mut head);
    head.uri = uri;
    cx.service = Some(host.into());
    cx.route = Some((subscription.object.clone(), Arc::default()));
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    let answer = called_outside(px, &mut account.cx, subscription, outside, (head, body)).await;
    account_for(account, answer)
}

async fn called_outside(
    px: &Rc<Proxy>,
    cx: &mut Context,
    subscription: &Subscription,
    outside: &Arc<Outside>,
    (head, body): (Parts, RequestBody),
) -> Result<Response<ResponseBody>, Error> {
    let system = px.system(&subscription.object, outside);
    opened(&system).await?;
    let state = px.destinations.state();
    let (namespace, _) = subscription.object.split_once('/').unwrap_or_default();
    // What others have written of this name governs their own deliveries.
    let places = state.outside.at(&outside.host, outside.port);
    let places = places.filter(|place| place.named.namespace() == namespace);
    let limits = Vec::from_iter(places.map(|place| &place.limited));
    let body = match limits.is_empty() {
        true => body,
        false => within(px, cx, limits.into_iter(), &head, body).await?,
    };
    drop(state);
    let asked = forward::once(cx, &system, Speak::Http1, head, body);
    in_time(subscription, pin!(asked)).await
}

/// To a Service, as calls of the application go.
async fn to_service(
    px: &Rc<Proxy>,
    subscription: &Subscription,
    (service, port): (&ServiceKey, u16),
    payload: Payload<'_>,
) -> Response<ResponseBody> {
    let (namespace, name) = service.parts();
    let host = format!("{name}.{namespace}:{port}");
    // As a proxy is asked: the address says which port is meant.
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = host.parse().ok();
    uri.path_and_query = Some(subscription.path.clone());
    let uri = Uri::from_parts(uri).unwrap_or_default();
    let (mut head, body) = request(subscription, payload, (uri, &host));
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

/// The request that events are delivered with.
fn request(
    subscription: &Subscription,
    payload: Payload<'_>,
    (uri, host): (Uri, &str),
) -> (Parts, RequestBody) {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.uri = uri;
    let headers = &mut head.headers;
    let data = match payload {
        Payload::Batch(events) => {
            headers.insert(CONTENT_TYPE, TYPE_OF_BATCHES);
            Bytes::from(Event::batch_to_json(events.iter().copied()))
        }
        Payload::Event(event) => {
            let data = match subscription.mode {
                Mode::Structured => {
                    headers.insert(CONTENT_TYPE, TYPE_OF_EVENTS);
                    Bytes::from(event.to_json())
                }
                Mode::Binary => event.to_http(headers),
                Mode::Raw => {
                    let media_type = event.attribute("datacontenttype");
                    if let Some(Ok(value)) = media_type.map(HeaderValue::from_str) {
                        headers.insert(CONTENT_TYPE, value);
                    }
                    event.data.clone()
                }
            };
            trace(event, headers);
            data
        }
    };
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(HOST, host);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(data.len()));
    (head, RequestBody::whole(data))
}

/// A delivery belongs to the trace of the request that brought the event, and has the id that the event is correlated by.
fn trace(event: &Event, headers: &mut HeaderMap) {
    for (name, header) in [
        ("traceparent", TRACEPARENT),
        ("tracestate", TRACESTATE),
        (CORRELATION, REQUEST_ID),
    ] {
        let value = event.attribute(name).map(HeaderValue::from_str);
        if let Some(Ok(value)) = value {
            headers.insert(header, value);
        }
    }
}

/// The whole of a body, if it is no longer than that and does not break.
async fn read_to_end(mut body: ResponseBody, most: usize) -> Result<Bytes, Unread> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Broken)?;
        if let Some(data) = frame.data_ref() {
            if read.len() + data.len() > most {
                return Err(Unread::TooLong);
            }
            read.extend_from_slice(data);
        }
    }
    Ok(read.freeze())
}
