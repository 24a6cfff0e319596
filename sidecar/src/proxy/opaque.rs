//! Connections whose bytes nobody reads: declared opaque, an application's own TLS, a server that
//! speaks first, an address that the mesh does not know.
//!
//! Between sidecars they are as protected as requests: mutual TLS, the expected identity, the Guard
//! of the port. What is HTTP does not pass this way into a port that is HTTP: the destination looks
//! at the first bytes itself, whatever the caller's sidecar took them for.

pub mod way;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::Response;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client;
use tokio_rustls::server;

use super::body::ResponseBody;
use super::destination::Destination;
use super::error::{Error, Reason};
use super::inbound::{self, FromPeer};
use super::upgrade::Upgrade;
use super::upstream::{Lease, Upstream};
use super::{Proxy, access, forward, idle};
use crate::config::service::Protocol;
use crate::net::detect::{self, FirstBytes};
use crate::net::rewound::Rewound;
use crate::net::{opaque, server_name};
use crate::telemetry::metrics::{Connection, ConnectionKind, Direction};

/// What is read to learn who speaks first, and passed on then.
pub(super) const FIRST: usize = 4096;

/// An open way to one endpoint of a Service.
#[derive(Debug)]
pub struct Tunnel {
    to: To,
    /// What the server said before the client said anything.
    said: Vec<u8>,
    carried: Connection,
    /// How long no byte may move.
    idle: Option<Duration>,
    /// Whether it is still to be heard that what is said first is no HTTP.
    listens: bool,
    _in_flight: Lease,
}

#[derive(Debug)]
enum To {
    Peer(Box<client::TlsStream<TcpStream>>),
    Outside(TcpStream),
}

/// Who spoke first on a connection that had been silent.
#[derive(Debug)]
pub enum Silent {
    /// The client, and what it looks like.
    Spoken(FirstBytes),
    /// The server.
    Server(Tunnel),
}

/// Carries opaque bytes of the application to a Service.
///
/// # Errors
/// No endpoint could be reached, or the connection broke off.
pub async fn outbound<S>(
    px: &Proxy,
    mut stream: S,
    destination: &Destination,
) -> Result<(u64, u64), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !destination.asks_for_a_name() {
        return Tunnel::open(px, destination, None)
            .await?
            .carry(stream)
            .await;
    }
    let hello = server_name::read(&mut stream).await;
    let hello = hello.map_err(|error| Error::new(Reason::BadRequest, error.to_string()))?;
    let tunnel = Tunnel::open(px, destination, hello.server_name.as_deref()).await?;
    tunnel.carry(Rewound::new(stream, hello.read)).await
}

/// Carries opaque bytes to a Service for a caller that asks for it explicitly (`CONNECT`).
///
/// # Errors
/// As [`outbound`].
pub async fn tunnel(
    px: &Rc<Proxy>,
    destination: Rc<Destination>,
    upgrade: Upgrade,
) -> Result<Response<ResponseBody>, Error> {
    let reads = destination.reads();
    if let Protocol::Http | Protocol::Http2 = reads {
        let why = "a tunnel into a port that carries requests: send these themselves";
        return Err(Error::new(Reason::BadRequest, why));
    }
    let switched = match destination.asks_for_a_name() {
        // Whoever is to hear the name answers first.
        true => upgrade.join_named(px.clone(), destination),
        false => {
            let mut tunnel = Tunnel::open(px, &destination, None).await?;
            tunnel.listens = reads == Protocol::Detect;
            upgrade.join_opaque(tunnel)
        }
    };
    Ok(Response::new(ResponseBody::switched(switched)))
}

/// Opens a way to the Service and waits until somebody speaks, however long it takes.
///
/// # Errors
/// As [`outbound`].
pub async fn silent(
    px: &Proxy,
    stream: &TcpStream,
    destination: &Destination,
) -> Result<Silent, Error> {
    let mut tunnel = Tunnel::open(px, destination, None).await?;
    let mut first = [0; FIRST];
    let read = tokio::select! {
        seen = detect::whenever_they_come(stream) => {
            return Ok(Silent::Spoken(seen.unwrap_or(FirstBytes::Closed)));
        }
        read = tunnel.read(&mut first) => read.map_err(|error| broke(&error))?,
    };
    if read > 0 {
        // Declared, the port would have been opened at once.
        px.metrics
            .all()
            .stalled(&destination.service, destination.port);
    }
    tunnel.said = first[..read].to_vec();
    Ok(Silent::Server(tunnel))
}

/// How an address is reached that is no Service's.
#[derive(Debug)]
pub enum Way {
    /// It is a pod's, at a port that nobody has declared: its sidecar decides.
    Inside,
    /// The mesh knows nothing of it.
    Outside,
    /// This leads there.
    Open(TcpStream),
}

/// Carries bytes to an address that is no Service's.
///
/// # Errors
/// The address cannot be reached, or the connection broke off.
pub async fn passthrough<S>(
    px: &Proxy,
    mut stream: S,
    called: SocketAddr,
    way: Way,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let metrics = px.metrics.all();
    let carried = metrics.connection(Direction::outbound, ConnectionKind::passthrough);
    let outside = match way {
        Way::Inside => px.dial.connector.to_peer(called).await,
        Way::Outside => px.dial.connector.to_outside(called).await,
        Way::Open(outside) => Ok(outside),
    };
    let mut outside = outside.map_err(|error| Error::connect(called, &error))?;
    copied(opaque::copy_counted(&mut stream, &mut outside, &carried).await)
}

/// Carries opaque bytes of a peer to the own application.
///
/// # Errors
/// The port is not served, it is HTTP and so are the bytes, or the connection broke off.
pub async fn inbound<S>(
    px: &Proxy,
    mut stream: server::TlsStream<S>,
    peer: &FromPeer,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let metrics = px.metrics.all();
    let carried = metrics.connection(Direction::inbound, ConnectionKind::mtls_tcp);
    let protocol = {
        let state = px.destinations.state();
        let served = state.served(peer.called.port()).map_err(inbound::refusal)?;
        access::connection(served, peer)?;
        served.protocol
    };
    if let Protocol::Http | Protocol::Http2 = protocol {
        // Requests have a way of their own, on which every policy of the port applies.
        let why = "opaque bytes into a port that is declared HTTP";
        return Err(Error::new(Reason::BadRequest, why));
    }
    let application = px.dial.connector.to_application(peer.called).await;
    let mut application = application
        .map_err(|error| Error::new(Reason::ApplicationUnreachable, error.to_string()))?;
    if protocol == Protocol::Detect
        && said_first(&mut stream, &mut application, &carried)
            .await?
            .is_none()
    {
        return Ok(());
    }
    copied(opaque::copy_counted(&mut stream, &mut application, &carried).await)
}

/// Passes on what is said first, by whichever side, and how much that is from each; nothing when the
/// caller has nothing to say. HTTP has a way of its own, on which policies apply.
///
/// # Errors
/// The caller speaks HTTP, or the connection broke off.
async fn said_first<A, B>(
    near: &mut A,
    far: &mut B,
    carried: &Connection,
) -> Result<Option<(u64, u64)>, Error>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut first, mut said) = ([0; FIRST], [0; FIRST]);
    tokio::select! {
        read = near.read(&mut first) => {
            let mut read = read.map_err(|error| broke(&error))?;
            match until_told(near, &mut first, &mut read).await? {
                FirstBytes::Http1 | FirstBytes::Http2 => {
                    Err(Error::new(Reason::BadRequest, "HTTP sent as opaque bytes"))
                }
                FirstBytes::Closed => Ok(None),
                FirstBytes::Tls | FirstBytes::Other => {
                    carried.to_destination(read);
                    far.write_all(&first[..read]).await.map_err(|error| broke(&error))?;
                    Ok(Some((read as u64, 0)))
                }
            }
        }
        read = far.read(&mut said) => {
            let read = read.map_err(|error| broke(&error))?;
            carried.to_source(read);
            near.write_all(&said[..read]).await.map_err(|error| broke(&error))?;
            Ok(Some((0, read as u64)))
        }
    }
}

/// What a peer's first bytes are, of which `read` have come: as many more are read as it takes to
/// tell. Whatever is not told in time is taken for what it may be, HTTP.
async fn until_told<S>(
    stream: &mut S,
    first: &mut [u8; FIRST],
    read: &mut usize,
) -> Result<FirstBytes, Error>
where
    S: AsyncRead + Unpin,
{
    let more = async {
        loop {
            if let Some(seen) = detect::classify_any(&first[..*read]) {
                return Ok(seen);
            }
            match stream.read(&mut first[*read..]).await {
                Ok(0) => return Ok(FirstBytes::Http1),
                Ok(more) => *read += more,
                Err(error) => return Err(broke(&error)),
            }
        }
    };
    let told = tokio::time::timeout(detect::DETECT_TIMEOUT, more).await;
    told.unwrap_or(Ok(FirstBytes::Http1))
}

// === impl Tunnel ===

impl Tunnel {
    /// Tries endpoints as [`forward`] does: nothing has been sent, so another may be tried.
    async fn open(
        px: &Proxy,
        destination: &Destination,
        server_name: Option<&str>,
    ) -> Result<Self, Error> {
        let (balancer, idle) = destination.connect(server_name)?;
        let metrics = px.metrics.all();
        let carried = metrics.connection(Direction::outbound, ConnectionKind::mtls_tcp);
        let mut tried: Vec<Rc<Upstream>> = Vec::new();
        loop {
            let upstream = balancer.pick(balancer.key(None), &tried)?;
            let in_flight = upstream.lease();
            let opened = match upstream.is_peer() {
                true => upstream
                    .open_tcp()
                    .await
                    .map(|peer| To::Peer(Box::new(peer))),
                false => upstream.open_plain().await.map(To::Outside),
            };
            match opened {
                Ok(to) => {
                    return Ok(Self {
                        to,
                        said: Vec::new(),
                        carried,
                        idle,
                        listens: false,
                        _in_flight: in_flight,
                    });
                }
                Err(error) if tried.len() + 1 >= forward::MAX_ATTEMPTS as usize => {
                    return Err(error);
                }
                Err(_) => tried.push(upstream),
            }
        }
    }

    async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Peer(peer) => peer.read(bytes).await,
            To::Outside(outside) => outside.read(bytes).await,
        }
    }

    /// Copies both ways until both have ended; returns the bytes from the caller and those towards
    /// it.
    ///
    /// # Errors
    /// The connection broke off.
    pub async fn carry<S>(self, mut stream: S) -> Result<(u64, u64), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (carried, idle) = (&self.carried, self.idle);
        match self.to {
            // A peer's sidecar listens itself.
            To::Peer(peer) => carry(stream, *peer, &self.said, carried, idle).await,
            To::Outside(mut outside) if self.listens => {
                let first = said_first(&mut stream, &mut outside, carried).await?;
                let Some(first) = first else {
                    return Ok((0, 0));
                };
                let rest = carry(stream, outside, &[], carried, idle).await?;
                Ok((first.0 + rest.0, first.1 + rest.1))
            }
            To::Outside(outside) => carry(stream, outside, &self.said, carried, idle).await,
        }
    }
}

async fn carry<S, T>(
    mut stream: S,
    mut to: T,
    said: &[u8],
    carried: &Connection,
    idle: Option<Duration>,
) -> Result<(u64, u64), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    carried.to_source(said.len());
    stream
        .write_all(said)
        .await
        .map_err(|error| broke(&error))?;
    let copied = match idle {
        None => opaque::copy_counted(&mut stream, &mut to, carried).await,
        Some(limit) => {
            let moved = Cell::new(0);
            let counts = (carried, &moved);
            let copied = opaque::copy_counted(&mut stream, &mut to, &counts);
            idle::bound(limit, || moved.get(), copied).await?
        }
    };
    match copied {
        Ok((there, back)) => Ok((there, back + said.len() as u64)),
        Err(error) => Err(broke(&error)),
    }
}

fn copied(copied: io::Result<(u64, u64)>) -> Result<(), Error> {
    copied.map(drop).map_err(|error| broke(&error))
}

fn broke(error: &io::Error) -> Error {
    Error::new(Reason::UpstreamReset, error.to_string())
}
