//! A connection of a peer: who is at the other end, and which protocol is inside.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::error::{Error, Reads, Reason};
use super::inbound::{self, FromPeer};
use super::load::Seat;
use super::opaque;
use super::plaintext::{self, Plaintext};
use super::serve::{Open, http_until};
use super::{Proxy, limits};
use crate::identity::SpiffeId;
use crate::identity::certs::validity;
use crate::identity::verify::identity_of;
use crate::net::detect::{FirstBytes, first_bytes};
use crate::net::original_dst::original_dst;
use crate::net::rewound::Rewound;
use crate::net::tls::{ALPN_H1, ALPN_H2, ALPN_TCP, HANDSHAKE_TIMEOUT};
use crate::telemetry::metrics::{ConnectionKind, Direction};

/// Sleep follows a clock that stands still while the machine does; certificates do not. So it is
/// looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

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
    let tls = stream.get_ref().1;
    let leaf = tls.peer_certificates().and_then(<[_]>::first);
    let until = leaf.and_then(|leaf| validity(leaf)).map(|valid| valid.1);
    match tls.alpn_protocol() {
        Some(protocol) if protocol == ALPN_H2 => {
            inbound_http(px, stream, seat, peer, true, until).await
        }
        Some(protocol) if protocol == ALPN_H1 => {
            inbound_http(px, stream, seat, peer, false, until).await
        }
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
        Plaintext::Http1(stream) => inbound_http(px, stream, seat, from, false, None).await,
        Plaintext::Http2(stream) => inbound_http(px, stream, seat, from, true, None).await,
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
    until: Option<SystemTime>,
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
    let h1 = (!h2).then_some(h1);
    http_until(px, stream, seat, h1, service, over(until)).await
}

/// Waits until a peer's certificate has ended: whoever has stolen one must not go on for as long as a
/// connection can be kept. A peer in order has had another for long, and connects anew with it.
async fn over(until: Option<SystemTime>) {
    let Some(until) = until else {
        return std::future::pending().await;
    };
    while let Ok(left) = until.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}
