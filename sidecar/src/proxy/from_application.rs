//! A connection of the application: where it was called to go, and which protocol is inside.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::destination::Destination;
use super::error::{Error, Reason};
use super::load::Seat;
use super::opaque::{self, Silent, Way};
use super::outbound::{self, Captured};
use super::serve::{Open, http};
use super::{Proxy, limits, outside};
use crate::config::service::Protocol;
use crate::net::detect::{DETECT_TIMEOUT, FirstBytes, line_of_any_protocol, whenever_they_come};
use crate::net::original_dst::{local, original_dst};
use crate::telemetry::metrics::{ConnectionKind, Direction};

/// Carries one connection of the application, from accept to close.
pub async fn outbound_connection(px: Rc<Proxy>, stream: TcpStream) {
    let _open = Open::new(&px, Direction::outbound);
    let (Ok(called), Ok(local)) = (original_dst(&stream), local(&stream)) else {
        return;
    };
    let Some(seat) = px.outbound.take(None) else {
        return px
            .metrics
            .all()
            .refused(Direction::outbound, Reason::Overloaded);
    };
    let ended = if called == local {
        outbound_declared(&px, stream, &seat, Captured::Explicitly).await
    } else {
        let mut state = px.destinations.state();
        if let Some(question) = state.question(called) {
            drop(state);
            px.ask(question).await;
            state = px.destinations.state();
        }
        match state.called(called) {
            // What governs calls there is not known.
            _ if state.question(called).is_some() => {
                drop(state);
                refuse(&px, stream, &seat, called, Reason::AddressNotResolved).await
            }
            Some(found) => {
                let destination = px.destinations.at(called, found);
                drop(state);
                outbound_to_service(&px, stream, &seat, called, &destination).await
            }
            // A Service without this port: nobody listens there, as nobody would without a mesh.
            None if state.is_virtual(called.ip()) => Ok(()),
            None => {
                let (inside, refused) = (state.is_endpoint(called.ip()), state.refuses_unknown());
                let limited = !inside && state.outside.is_limited(called.port());
                drop(state);
                let way = match inside {
                    true => Way::Inside,
                    false => Way::Outside,
                };
                match (refused, limited) {
                    (true, _) => refuse(&px, stream, &seat, called, Reason::AddressNotKnown).await,
                    (false, true) => Box::pin(outside::carry(&px, stream, &seat, called)).await,
                    (false, false) => opaque::passthrough(&px, stream, called, way).await,
                }
            }
        }
    };
    if let Err(error) = ended {
        px.metrics.all().refused(Direction::outbound, error.reason);
        tracing::debug!(%called, %error, "outbound connection ended");
    }
}

/// A port that is not declared opaque is HTTP if its first bytes are: an application's own TLS, or
/// a client that waits for the server to speak, is carried as it is.
async fn outbound_to_service(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    called: SocketAddr,
    destination: &Destination,
) -> Result<(), Error> {
    let seen = match destination.reads() {
        Protocol::Tcp => return opaque::outbound(px, stream, destination).await.map(drop),
        Protocol::Http | Protocol::Http2 => {
            return outbound_declared(px, stream, seat, Captured::To(called)).await;
        }
        Protocol::Detect => tokio::time::timeout(DETECT_TIMEOUT, whenever_they_come(&stream)).await,
    };
    let seen = match seen.map_err(io::Error::from).flatten() {
        // The server is to speak first, or the client opened a connection for later: what is said
        // first decides, and nothing more is lost than time.
        Err(_) => match opaque::silent(px, &stream, destination).await? {
            Silent::Spoken(seen) => seen,
            Silent::Server(tunnel) => return tunnel.carry(stream).await.map(drop),
        },
        Ok(seen) => seen,
    };
    let seen = match seen {
        FirstBytes::Http1 => line_of_any_protocol(&stream)
            .await
            .unwrap_or(FirstBytes::Closed),
        seen => seen,
    };
    match seen {
        FirstBytes::Http1 => outbound_http(px, stream, seat, Captured::To(called), false).await,
        FirstBytes::Http2 => outbound_http(px, stream, seat, Captured::To(called), true).await,
        FirstBytes::Closed => Ok(()),
        FirstBytes::Tls | FirstBytes::Other => {
            opaque::outbound(px, stream, destination).await.map(drop)
        }
    }
}

/// A port that is declared HTTP carries nothing else: what its first bytes say is only whether it is
/// HTTP/2, and they may be long in coming.
async fn outbound_declared(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    captured: Captured,
) -> Result<(), Error> {
    let seen = tokio::time::timeout(limits::IDLE, whenever_they_come(&stream)).await;
    match seen.map_err(io::Error::from).flatten() {
        Ok(FirstBytes::Http1) => outbound_http(px, stream, seat, captured, false).await,
        Ok(FirstBytes::Http2) => outbound_http(px, stream, seat, captured, true).await,
        Ok(FirstBytes::Closed) | Err(_) => Ok(()),
        Ok(FirstBytes::Tls | FirstBytes::Other) => Err(Error::new(
            Reason::BadRequest,
            "what was sent where only HTTP is carried is not HTTP",
        )),
    }
}

/// Answers requests with the reason, and closes on everything else.
async fn refuse(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    called: SocketAddr,
    reason: Reason,
) -> Result<(), Error> {
    let captured = Captured::To(called);
    match tokio::time::timeout(DETECT_TIMEOUT, whenever_they_come(&stream)).await {
        Ok(Ok(FirstBytes::Http1)) => outbound_http(px, stream, seat, captured, false).await,
        Ok(Ok(FirstBytes::Http2)) => outbound_http(px, stream, seat, captured, true).await,
        _ => Err(reason.into()),
    }
}

async fn outbound_http(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    captured: Captured,
    h2: bool,
) -> Result<(), Error> {
    let metrics = px.metrics.all();
    let _carried = metrics.connection(Direction::outbound, ConnectionKind::http);
    let service = {
        let (px, seat) = (px.clone(), seat.clone());
        service_fn(move |request| outbound::serve(px.clone(), captured, seat.clone(), request))
    };
    let h1 = (!h2).then(limits::h1_server);
    http(px, stream, seat, h1, service).await
}
