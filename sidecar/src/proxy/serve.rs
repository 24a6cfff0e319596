//! From an accepted connection to its requests: what the connection is, who is at the other end,
//! and which protocol is inside.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::body::ResponseBody;
use super::context::Account;
use super::destination::Destination;
use super::error::{Error, Reads, Reason};
use super::gate::{Ended, Gate};
use super::inbound::{self, FromPeer};
use super::load::Seat;
use super::opaque::{self, Silent};
use super::outbound::{self, Captured};
use super::plaintext::{self, Plaintext};
use super::{Proxy, headers, limits};
use crate::config::service::Protocol;
use crate::identity::SpiffeId;
use crate::identity::verify::identity_of;
use crate::net::detect::{
    DETECT_TIMEOUT, FirstBytes, first_bytes, line_of_any_protocol, whenever_they_come,
};
use crate::net::original_dst::{local, original_dst};
use crate::net::rewound::Rewound;
use crate::net::tls::{ALPN_H1, ALPN_H2, ALPN_TCP, HANDSHAKE_TIMEOUT};
use crate::telemetry::metrics::{ConnectionKind, Direction, DirectionLabels};

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
        let state = px.destinations.state();
        match state.called(called) {
            Some(found) => {
                let destination = px.destinations.at(called, found);
                drop(state);
                outbound_to_service(&px, stream, &seat, called, &destination).await
            }
            // A Service without this port: nobody listens there, as nobody would without a mesh.
            None if state.is_virtual(called.ip()) => Ok(()),
            None => {
                let (inside, refused) = (state.is_endpoint(called.ip()), state.refuses_unknown());
                drop(state);
                match refused {
                    true => refuse_unknown(&px, stream, &seat, called).await,
                    false => opaque::passthrough(&px, stream, called, inside).await,
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
    let seen = match destination.protocol {
        Protocol::Tcp => return opaque::outbound(px, stream, destination).await,
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
        FirstBytes::Tls | FirstBytes::Other => opaque::outbound(px, stream, destination).await,
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
async fn refuse_unknown(
    px: &Rc<Proxy>,
    stream: TcpStream,
    seat: &Rc<Seat>,
    called: SocketAddr,
) -> Result<(), Error> {
    let captured = Captured::To(called);
    match tokio::time::timeout(DETECT_TIMEOUT, whenever_they_come(&stream)).await {
        Ok(Ok(FirstBytes::Http1)) => outbound_http(px, stream, seat, captured, false).await,
        Ok(Ok(FirstBytes::Http2)) => outbound_http(px, stream, seat, captured, true).await,
        _ => Err(Reason::AddressNotKnown.into()),
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

/// Who has come in.
#[derive(Debug)]
pub(super) enum Entered {
    /// A peer that has proved who it is.
    Peer(Box<TlsStream<Rewound<TcpStream>>>, SpiffeId),
    /// Somebody, at a port that takes plaintext.
    Plaintext(Plaintext),
}

/// Carries one connection of a peer, from accept to close.
pub async fn inbound_connection(px: Rc<Proxy>, stream: TcpStream) {
    let _open = Open::new(&px, Direction::inbound);
    let (Ok(called), Ok(from)) = (original_dst(&stream), stream.peer_addr()) else {
        return;
    };
    // Held until the peer has proved who it is: strangers share a bounded number of places.
    let mut place = px.strangers.take();
    let proved = place.during(stranger(&px, stream, called)).await;
    drop(place);
    let from = |identity| FromPeer {
        identity,
        from: from.ip().to_canonical(),
        called,
    };
    let ended = match proved {
        Some(Ok(Some(Entered::Peer(stream, identity)))) => {
            inbound_proved(&px, *stream, from(Some(identity))).await
        }
        Some(Ok(Some(Entered::Plaintext(plaintext)))) => {
            inbound_plaintext(&px, plaintext, from(None)).await
        }
        Some(Ok(None)) => return,
        Some(Err(error)) => Err(error),
        None => Err(Error::new(Reason::PeerNotVerified, "too many strangers")),
    };
    if let Err(error) = ended {
        px.metrics.all().refused(Direction::inbound, error.reason);
        tracing::debug!(%called, %error, "inbound connection ended");
    }
}

/// Who has connected; nobody when there is nothing more to say to them.
async fn stranger(
    px: &Rc<Proxy>,
    stream: TcpStream,
    called: SocketAddr,
) -> Result<Option<Entered>, Error> {
    let permissive = {
        let state = px.destinations.state();
        let served = state.served(called.port()).ok();
        served
            .filter(|served| served.permissive)
            .map(|served| served.protocol)
    };
    if let Some(protocol) = permissive {
        return plaintext::stranger(px, stream, called, protocol).await;
    }
    match first_bytes(&stream).await {
        Ok(FirstBytes::Tls) => {
            let (stream, identity) = handshake(px, Rewound::new(stream, Vec::new())).await?;
            Ok(Some(Entered::Peer(Box::new(stream), identity)))
        }
        Ok(FirstBytes::Closed) | Err(_) => Ok(None),
        Ok(other) => {
            refuse_plaintext(px, stream, other).await;
            Ok(None)
        }
    }
}

/// Says what is wrong to those who can read it, and closes.
async fn refuse_plaintext(px: &Proxy, mut stream: TcpStream, seen: FirstBytes) {
    let reason = Reason::PlaintextRefused;
    px.metrics.all().refused(Direction::inbound, reason);
    if seen == FirstBytes::Http1 {
        let problem = reason.response(Reads::Http);
        let text = format!(
            "HTTP/1.1 {} Forbidden\r\ncontent-type: application/problem+json\r\n{}: {}\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            problem.status().as_u16(),
            super::error::REASON_HEADER,
            reason.name(),
            problem.body().len(),
        );
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.write_all(problem.body()).await;
        let _ = stream.shutdown().await;
    }
}

pub(super) async fn handshake<S>(
    px: &Rc<Proxy>,
    stream: S,
) -> Result<(TlsStream<S>, SpiffeId), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ended = shake_hands(px, stream).await;
    px.metrics.all().handshake(Direction::inbound, ended)
}

async fn shake_hands<S>(px: &Rc<Proxy>, stream: S) -> Result<(TlsStream<S>, SpiffeId), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let credentials = px.dial.credentials.borrow().clone();
    let credentials = credentials
        .filter(|credentials| credentials.in_force())
        .ok_or(Reason::NoCertificate)?;
    let refused = |why: String| Error::new(Reason::PeerNotVerified, why);
    let acceptor = TlsAcceptor::from(credentials.tls.server.clone());
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| refused("the TLS handshake took too long".into()))?
        .map_err(|error| refused(error.to_string()))?;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| refused("no certificate".into()))?;
    let identity = identity_of(leaf, credentials.id.trust_domain())
        .map_err(|error| refused(error.to_string()))?;
    Ok((stream, identity))
}

async fn inbound_proved(
    px: &Rc<Proxy>,
    stream: TlsStream<Rewound<TcpStream>>,
    peer: FromPeer,
) -> Result<(), Error> {
    let seat = px.inbound.take(peer.identity.as_ref());
    let seat = &seat.ok_or(Reason::Overloaded)?;
    match stream.get_ref().1.alpn_protocol() {
        Some(protocol) if protocol == ALPN_H2 => inbound_http(px, stream, seat, peer, true).await,
        Some(protocol) if protocol == ALPN_H1 => inbound_http(px, stream, seat, peer, false).await,
        Some(protocol) if protocol == ALPN_TCP => {
            let _admitted = seat.admit().ok_or(Reason::Overloaded)?;
            opaque::inbound(px, stream, &peer).await
        }
        _ => Err(Error::new(
            Reason::PeerNotVerified,
            "no protocol of the mesh was offered",
        )),
    }
}

async fn inbound_plaintext(
    px: &Rc<Proxy>,
    plaintext: Plaintext,
    from: FromPeer,
) -> Result<(), Error> {
    // All who have proved nothing count as one.
    let seat = px.inbound.take(None);
    let seat = &seat.ok_or(Reason::Overloaded)?;
    match plaintext {
        Plaintext::Http1(stream) => inbound_http(px, stream, seat, from, false).await,
        Plaintext::Http2(stream) => inbound_http(px, stream, seat, from, true).await,
        Plaintext::Opaque(opaque) => {
            let _admitted = seat.admit().ok_or(Reason::Overloaded)?;
            plaintext::opaque(px, *opaque, &from).await
        }
    }
}

async fn inbound_http<S>(
    px: &Rc<Proxy>,
    stream: S,
    seat: &Rc<Seat>,
    peer: FromPeer,
    h2: bool,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let kind = match peer.identity {
        Some(_) => ConnectionKind::mtls_http,
        None => ConnectionKind::plaintext_http,
    };
    let metrics = px.metrics.all();
    let _carried = metrics.connection(Direction::inbound, kind);
    let service = {
        let (px, peer, seat) = (px.clone(), Rc::new(peer), seat.clone());
        service_fn(move |request| inbound::serve(px.clone(), peer.clone(), seat.clone(), request))
    };
    let h1 = limits::h1_server_for_peers();
    http(px, stream, seat, (!h2).then_some(h1), service).await
}

/// Serves HTTP until the connection ends; when draining, until what is in flight has ended. HTTP/2
/// when there is no `h1`.
async fn http<I, S, F>(
    px: &Proxy,
    io: I,
    seat: &Rc<Seat>,
    h1: Option<http1::Builder>,
    service: S,
) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = Response<ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
    F: Future<Output = Result<Response<ResponseBody>, std::convert::Infallible>> + 'static,
{
    /// The two kinds of connection have the same methods and no trait.
    macro_rules! until_drained {
        ($connection:expr) => {{
            let mut connection = std::pin::pin!($connection);
            let mut drain = px.drain.clone();
            tokio::select! {
                // A request that has already arrived is read before the connection is told to end.
                biased;
                ended = connection.as_mut() => ended,
                () = drain.begun() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                () = seat.given_way() => {
                    connection.as_mut().graceful_shutdown();
                    let ended = tokio::time::timeout(limits::GIVE_WAY, connection).await;
                    ended.unwrap_or(Ok(()))
                }
            }
        }};
    }
    let _resting = seat.rest();
    let ended = match h1 {
        None => {
            let io = TokioIo::new(Gate::http2_client(io));
            until_drained!(limits::h2_server().serve_connection(io, service))
        }
        Some(h1) => {
            let answered = Arc::default();
            let io = TokioIo::new(Gate::requests(io, Arc::clone(&answered)));
            let telling = service_fn(|request| {
                let (answer, answered) = (service.call(request), answered.clone());
                async move {
                    let mut answer = answer.await?;
                    if answer.body().is_switched() {
                        answered.switched();
                    }
                    // Whoever sent what can not be carried may mean what follows otherwise, too.
                    if Reason::of(answer.headers()) == Some(Reason::BadRequest) {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(CONNECTION, close);
                    }
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            until_drained!(h1.serve_connection(io, telling).with_upgrades())
        }
    };
    match ended {
        // hyper has answered 400 or 431 itself: no request came of it.
        Err(error) if error.is_parse() => Err(Error::new(Reason::BadRequest, error.to_string())),
        Err(error) => match Ended::of(&error) {
            Some(why) => Err(Error::new(Reason::BadRequest, why)),
            None => {
                tracing::debug!(%error, "a connection ended early");
                Ok(())
            }
        },
        Ok(()) => Ok(()),
    }
}

/// Makes one response of a result, and leaves its account open until the body has ended.
pub(super) fn account_for(
    mut account: Account,
    result: Result<Response<ResponseBody>, Error>,
) -> Response<ResponseBody> {
    let response = match result {
        Ok(mut response) => {
            // One that agrees to another protocol says so hop by hop.
            if !response.body().is_switched() {
                headers::remove_hop_by_hop(response.headers_mut());
            }
            account.cx.responds(&response);
            response
        }
        Err(error) => {
            let mut response = error.response(account.cx.reads);
            if account.cx.is_head() {
                // As long as it would be, and not there (RFC 9110 section 9.3.2).
                let length = HeaderValue::from(response.body().len());
                response.headers_mut().insert(CONTENT_LENGTH, length);
                *response.body_mut() = Bytes::new();
            }
            account.cx.refused(response.status(), error);
            response.map(ResponseBody::mesh)
        }
    };
    response.map(|body| body.with(account))
}

/// Counts a connection as open, and keeps the process from ending while it is.
struct Open {
    px: Rc<Proxy>,
    direction: Direction,
    _work: crate::drain::Work,
}

impl Open {
    fn new(px: &Rc<Proxy>, direction: Direction) -> Self {
        let labels = DirectionLabels { direction };
        px.metrics.all().sockets_open.get_or_create(&labels).inc();
        Self {
            px: px.clone(),
            direction,
            _work: px.drain.work(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let labels = DirectionLabels {
            direction: self.direction,
        };
        let open = &self.px.metrics.all().sockets_open;
        open.get_or_create(&labels).dec();
    }
}
