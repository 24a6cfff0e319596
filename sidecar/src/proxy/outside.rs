//! Calls of names outside the cluster that are limited (a RateLimit for a Service of type ExternalName),
//! in the sidecar of the caller: at the ports that such limits are about, it is looked at what a
//! connection begins with that goes to an address nobody knows.
//!
//! Requests are counted by the host that they are for, and TLS by the name that its client asks for, each
//! connection as one. Where they go their address says, as without a limit. All else passes through as
//! it is.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::body::{RequestBody, ResponseBody};
use super::context::{Account, Context};
use super::error::{Error, Reason};
use super::load::Seat;
use super::opaque::{self, Way};
use super::rate_limit::{self, Sender};
use super::serve::http;
use super::upgrade::Upgrade;
use super::upstream::{Speak, Upstream};
use super::{Proxy, forward, headers, limits, path};
use crate::config::State;
use crate::config::service::Protocol;
use crate::net::detect::{DETECT_TIMEOUT, FirstBytes, line_of_any_protocol, whenever_they_come};
use crate::net::first_host::{FirstHost, first_host};
use crate::net::rewound::Rewound;
use crate::net::server_name;
use crate::telemetry::metrics::{ConnectionKind, Direction};

/// Where a connection of the application was going, and the connections there that carry its requests.
#[derive(Debug)]
struct Outside {
    called: SocketAddr,
    upstream: Rc<Upstream>,
}

/// Carries one connection to an address that the mesh knows nothing of.
///
/// # Errors
/// The address cannot be reached, or the connection broke off; `rate_limited`, `limit_unknown`;
/// `bad_request` for TLS at a port that is declared HTTP.
pub async fn carry(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    called: SocketAddr,
) -> Result<(), Error> {
    let (seen, way) = first_bytes(px, &stream, called).await?;
    match seen {
        FirstBytes::Http1 if is_elsewhere(px, &stream, called.port()).await => {
            opaque::passthrough(px, stream, called, way).await
        }
        FirstBytes::Http1 => requests(px, stream, seat, called, false).await,
        FirstBytes::Http2 => requests(px, stream, seat, called, true).await,
        FirstBytes::Tls => encrypted(px, stream, called, way).await,
        FirstBytes::Other | FirstBytes::Closed => {
            opaque::passthrough(px, stream, called, way).await
        }
    }
}

/// What the client says first. Where it is silent it may wait for the server, to which there is a way
/// then.
async fn first_bytes(
    px: &Proxy,
    stream: &TcpStream,
    called: SocketAddr,
) -> Result<(FirstBytes, Way), Error> {
    let mut way = Way::Outside;
    let seen = match tokio::time::timeout(DETECT_TIMEOUT, whenever_they_come(stream)).await {
        Ok(seen) => seen,
        Err(_) => {
            let outside = px.dial.connector.to_outside(called).await;
            let outside = outside.map_err(|error| Error::connect(called, &error))?;
            let seen = tokio::select! {
                biased;
                seen = whenever_they_come(stream) => seen,
                _ = whenever_they_come(&outside) => Ok(FirstBytes::Other),
            };
            way = Way::Open(outside);
            seen
        }
    };
    let seen = match seen {
        Ok(FirstBytes::Http1) => line_of_any_protocol(stream).await,
        seen => seen,
    };
    Ok((seen.unwrap_or(FirstBytes::Closed), way))
}

/// Whether a connection's requests are surely for a host that nothing limits, for nobody, or for a proxy.
async fn is_elsewhere(px: &Proxy, stream: &TcpStream, port: u16) -> bool {
    match first_host(stream).await {
        Ok(FirstHost::Named(host)) => {
            let state = px.destinations.state();
            state.outside.at(&host, port).next().is_none()
        }
        Ok(FirstHost::ThroughProxy | FirstHost::Nobody) | Err(_) => true,
        Ok(FirstHost::Untold) => false,
    }
}

/// Carries TLS of the application's own, which is counted by the name that it asks for.
async fn encrypted(
    px: &Rc<Proxy>,
    mut stream: TcpStream,
    called: SocketAddr,
    way: Way,
) -> Result<(), Error> {
    let hello = server_name::read(&mut stream).await;
    let hello = hello.map_err(|error| Error::new(Reason::BadRequest, error.to_string()))?;
    let state = px.destinations.state();
    let named = hello.server_name.iter();
    let places = named.flat_map(|name| state.outside.at(name, called.port()));
    let places = Vec::from_iter(places);
    if places
        .iter()
        .any(|place| place.named.is_http(called.port()))
    {
        let why = "TLS at a port that is declared HTTP, where a RateLimit is for requests";
        return Err(Error::new(Reason::BadRequest, why));
    }
    if !places.is_empty() {
        let credentials = px.dial.credentials.borrow().clone();
        let sender = Sender::own(credentials.as_ref().map(|own| &own.id));
        let limits = places.iter().map(|place| &place.limited);
        tokio::select! {
            within = rate_limit::connection(px, limits, sender) => within?,
            () = hung_up(&stream) => return Ok(()),
        }
    }
    drop(places);
    drop(state);
    opaque::passthrough(px, Rewound::new(stream, hello.read), called, way).await
}

/// Ends when a client hangs up that has said hello: it has nothing more to say before it is answered.
async fn hung_up(stream: &TcpStream) {
    if let Ok(1..) = stream.peek(&mut [0]).await {
        std::future::pending().await
    }
}

/// Carries requests, each of which is counted by its host.
async fn requests(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    called: SocketAddr,
    h2: bool,
) -> Result<(), Error> {
    let metrics = px.metrics.all();
    let _carried = metrics.connection(Direction::outbound, ConnectionKind::http);
    let upstream = Upstream::outside(called, px.dial.clone());
    let outside = Rc::new(Outside { called, upstream });
    let service = {
        let (px, seat) = (px.clone(), seat.clone());
        service_fn(move |request| serve(px.clone(), outside.clone(), seat.clone(), request))
    };
    let h1 = (!h2).then(limits::h1_server);
    http(px, stream, seat, h1, service).await
}

/// Total: every request gets exactly one response, one count and one line in the access log.
async fn serve(
    px: Rc<Proxy>,
    outside: Rc<Outside>,
    seat: Rc<Seat>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let cx = Context::new(Direction::outbound, &mut head);
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    if let Err(overloaded) = account.admit(&seat) {
        return Ok(super::serve::account_for(account, Err(overloaded)));
    }
    let state = px.destinations.state();
    let request = Request::from_parts(head, RequestBody::of(body, &mut account.cx));
    let response = send(&px, &state, &mut account.cx, &outside, request).await;
    Ok(super::serve::account_for(account, response))
}

/// Fallible: reads like the picture in [`super`].
async fn send(
    px: &Rc<Proxy>,
    state: &State,
    cx: &mut Context,
    outside: &Outside,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Error> {
    let (mut head, body) = request.into_parts();
    headers::check(&head)?;
    cx.upgrade = Upgrade::wanted(&mut head, &px.drain);
    path::settle(cx, &mut head)?;
    let port = outside.called.port();
    let named = headers::host(&head).into_iter();
    let places = named.flat_map(|host| state.outside.at(host, port));
    let places = Vec::from_iter(places);
    cx.service = places.first().map(|place| place.named.service.clone());
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    let credentials = px.dial.credentials.borrow().clone();
    let sender = Sender::own(credentials.as_ref().map(|own| &own.id));
    let limits = places.iter().map(|place| &place.limited);
    let within = rate_limit::request(px, cx, limits, sender, &head, body);
    let (body, told) = Box::pin(within).await?;
    let http2 = head.version == Version::HTTP_2;
    let speak = Speak::to_application(Protocol::Detect, http2);
    let answer = Box::pin(forward::once(cx, &outside.upstream, speak, head, body)).await;
    answer.map(|answer| told.say(answer))
}
