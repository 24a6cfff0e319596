//! Callers outside the mesh, at ports that take them while they move in.
//!
//! They have proved nothing, so they are nobody: what they send goes the way of a peer's, with no
//! identity, and each request asks again whether the port still takes plaintext. Bytes that nobody
//! reads are taken where the port may carry such: an application's own TLS and a server that speaks
//! first included, so that becoming a member of the mesh breaks neither.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::{Error, Reason};
use super::from_peer::{Entered, handshake};
use super::inbound::{self, FromPeer};
use super::opaque::FIRST;
use super::{Proxy, access};
use crate::config::service::Protocol;
use crate::net::detect::{FirstBytes, first_bytes, line_of_any_protocol, whenever_they_come};
use crate::net::opaque;
use crate::net::rewound::Rewound;
use crate::net::tls::{ALPN_H1, ALPN_H2, ALPN_TCP, HANDSHAKE_TIMEOUT};
use crate::telemetry::metrics::{ConnectionKind, Direction};

/// How long somebody may stay silent before the application is listened to as well, for it may be
/// the one to speak first. A peer says at once that it is one; it is given the time that a busy
/// machine needs, for a greeting would end its handshake.
const SILENCE: Duration = Duration::from_secs(1);

/// The longest ClientHello that is waited for: a TLS record and its header (RFC 8446 section 5.1).
const LONGEST_HELLO: usize = 5 + 16 * 1024;

/// What a caller without an identity has begun.
#[derive(Debug)]
pub enum Plaintext {
    /// HTTP/1.1.
    Http1(TcpStream),
    /// HTTP/2 with prior knowledge.
    Http2(TcpStream),
    /// Bytes that nobody reads.
    Opaque(Box<Opaque>),
}

/// Bytes that nobody reads, from a caller without an identity.
#[derive(Debug)]
pub struct Opaque {
    stream: Rewound<TcpStream>,
    /// The application and what it said, when it spoke first.
    application: Option<(TcpStream, Vec<u8>)>,
}

/// Who has connected to a port that takes plaintext; nobody when there is nothing more to say.
///
/// # Errors
/// The handshake of a peer failed, or what is said is not what the port carries.
pub(super) async fn stranger(
    px: &Rc<Proxy>,
    stream: TcpStream,
    called: SocketAddr,
    protocol: Protocol,
) -> Result<Option<Entered>, Error> {
    let seen = match protocol {
        Protocol::Http | Protocol::Http2 => first_bytes(&stream).await,
        Protocol::Tcp | Protocol::Detect => {
            match timeout(SILENCE, whenever_they_come(&stream)).await {
                Ok(seen) => seen,
                Err(_) => match silent(px, &stream, called).await? {
                    Silent::Spoken(seen) => seen,
                    Silent::Application(application, said) => {
                        return Ok(Some(Opaque::entered(
                            stream,
                            &[],
                            Some((application, said)),
                        )));
                    }
                },
            }
        }
    };
    let seen = match seen {
        // Other protocols are as likely there, and their commands, too, may begin with a letter.
        Ok(FirstBytes::Http1) if protocol == Protocol::Detect => {
            line_of_any_protocol(&stream).await
        }
        seen => seen,
    };
    let read_as_http = protocol != Protocol::Tcp;
    Ok(Some(match seen {
        Ok(FirstBytes::Closed) | Err(_) => return Ok(None),
        Ok(FirstBytes::Http1) if read_as_http => Entered::Plaintext(Plaintext::Http1(stream)),
        Ok(FirstBytes::Http2) if read_as_http => Entered::Plaintext(Plaintext::Http2(stream)),
        Ok(FirstBytes::Tls) => return tls(px, stream, protocol).await,
        Ok(_) if is_http(protocol) => {
            let why = "plaintext that is not HTTP into a port that is declared HTTP";
            return Err(Error::new(Reason::BadRequest, why));
        }
        Ok(_) => Opaque::entered(stream, &[], None),
    }))
}

/// A peer, or an application's own TLS: the peer names a protocol of the mesh.
async fn tls(
    px: &Rc<Proxy>,
    mut stream: TcpStream,
    protocol: Protocol,
) -> Result<Option<Entered>, Error> {
    if is_http(protocol) {
        let (stream, identity) = handshake(px, Rewound::new(stream, Vec::new())).await?;
        return Ok(Some(Entered::Peer(Box::new(stream), identity)));
    }
    let Ok(Ok((read, is_peer))) = timeout(HANDSHAKE_TIMEOUT, hello(&mut stream)).await else {
        return Ok(None);
    };
    if !is_peer {
        return Ok(Some(Opaque::entered(stream, &read, None)));
    }
    let (stream, identity) = handshake(px, Rewound::new(stream, read)).await?;
    Ok(Some(Entered::Peer(Box::new(stream), identity)))
}

/// Reads a ClientHello, and whether it names a protocol of the mesh. What is none is anybody's.
async fn hello(stream: &mut TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let mut acceptor = Acceptor::default();
    let mut read = Vec::with_capacity(FIRST);
    loop {
        let before = read.len();
        if stream.read_buf(&mut read).await? == 0 || read.len() > LONGEST_HELLO {
            return Ok((read, false));
        }
        let mut new = &read[before..];
        while !new.is_empty() {
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let ours = |name: &[u8]| [ALPN_H2, ALPN_H1, ALPN_TCP].contains(&name);
                    let names = accepted.client_hello().alpn();
                    let is_peer = names.is_some_and(|mut names| names.any(ours));
                    return Ok((read, is_peer));
                }
                Err(_) => return Ok((read, false)),
            }
        }
    }
}

/// Who spoke first, after a while of silence.
enum Silent {
    /// The caller.
    Spoken(io::Result<FirstBytes>),
    /// The application, and what.
    Application(TcpStream, Vec<u8>),
}

async fn silent(px: &Proxy, stream: &TcpStream, called: SocketAddr) -> Result<Silent, Error> {
    let mut application = to_application(px, called).await?;
    let mut said = vec![0; FIRST];
    tokio::select! {
        seen = whenever_they_come(stream) => Ok(Silent::Spoken(seen)),
        read = application.read(&mut said) => {
            let read = read.map_err(|error| broke(&error))?;
            said.truncate(read);
            Ok(Silent::Application(application, said))
        }
    }
}

/// Carries opaque bytes of a caller without an identity to the own application.
///
/// # Errors
/// The port takes plaintext no more, or the connection broke off.
pub(super) async fn opaque(px: &Proxy, opaque: Opaque, from: &FromPeer) -> Result<(), Error> {
    let metrics = px.metrics.all();
    let carried = metrics.connection(Direction::inbound, ConnectionKind::plaintext_tcp);
    let Opaque {
        mut stream,
        application,
    } = opaque;
    {
        let state = px.destinations.state();
        let served = state.served(from.called.port()).map_err(inbound::refusal)?;
        inbound::admit(px, served, from)?;
        access::connection(served, from)?;
    }
    let (mut application, said) = match application {
        Some(spoke) => spoke,
        None => (to_application(px, from.called).await?, Vec::new()),
    };
    stream
        .write_all(&said)
        .await
        .map_err(|error| broke(&error))?;
    let copied = opaque::copy_counted(&mut stream, &mut application, &carried).await;
    copied.map(drop).map_err(|error| broke(&error))
}

async fn to_application(px: &Proxy, called: SocketAddr) -> Result<TcpStream, Error> {
    let application = px.dial.connector.to_application(called).await;
    application.map_err(|error| Error::new(Reason::ApplicationUnreachable, error.to_string()))
}

fn is_http(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http | Protocol::Http2)
}

fn broke(error: &io::Error) -> Error {
    Error::new(Reason::UpstreamReset, error.to_string())
}

// === impl Opaque ===

impl Opaque {
    fn entered(
        stream: TcpStream,
        read: &[u8],
        application: Option<(TcpStream, Vec<u8>)>,
    ) -> Entered {
        Entered::Plaintext(Plaintext::Opaque(Box::new(Self {
            stream: Rewound::new(stream, read.to_vec()),
            application,
        })))
    }
}
