//! Connections to one place, as one worker has them: a peer's sidecar, an application, or an
//! address or a system outside the mesh.
//!
//! To a peer: HTTP/2 over mutual TLS, many requests over few connections; for a request that is to
//! become another protocol, HTTP/1.1 over a connection of its own. To a system outside: HTTP/1.1 over TLS. To
//! everything else: as the application speaks, in plaintext. Nothing here is shared between workers, so nothing is locked.

mod h1;
mod h2;
mod lease;

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use self::lease::Lease;
use self::lease::LeaseKind;
use super::body::RequestBody;
use super::body::replay::Kept;
use super::error::{Error, Reason, was_reset};
use super::limits;
use crate::config::service::{Endpoint, Protocol};
use crate::config::subscription::Outside;
use crate::identity::SpiffeId;
use crate::identity::certs::Credentials;
use crate::identity::verify::identity_of;
use crate::net::connect::Connector;
use crate::net::tls::HANDSHAKE_TIMEOUT;
use crate::policy::budget::Budgets;
use crate::policy::health_check::Healths;
use crate::policy::load_balancer::Candidate;
use crate::policy::load_balancer::answer_time::{AnswerTime, FAILED};
use crate::telemetry::metrics::{Direction, RequestMetrics};

/// How a request is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speak {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2, with prior knowledge where it is plaintext.
    Http2,
}

impl Speak {
    /// How an application is spoken to: as its port is declared, else as its caller speaks.
    pub fn to_application(declared: Protocol, caller_speaks_http2: bool) -> Self {
        match declared == Protocol::Http2 || caller_speaks_http2 {
            true => Self::Http2,
            false => Self::Http1,
        }
    }
}

/// One place and the connections to it.
pub struct Upstream {
    /// Whom the log names.
    pub pod: Arc<str>,
    to: To,
    dial: Dial,
    in_flight: Cell<u32>,
    answer_time: AnswerTime,
    h1: h1::Pool,
    h2: h2::Pool,
    /// Held while a connection is opened ahead.
    ahead: Mutex<()>,
}

/// How a worker reaches anything.
#[derive(Clone)]
pub struct Dial {
    /// Opens sockets.
    pub connector: Rc<Connector>,
    /// Who we are: this worker's own handle, so that looking takes no lock.
    pub credentials: Rc<RefCell<Option<Arc<Credentials>>>>,
    /// What is counted.
    pub metrics: Rc<RequestMetrics>,
    /// Requests that wait for a connection.
    pub waiting: Rc<Cell<usize>>,
    /// How endpoints are, which all workers know together.
    pub healths: Arc<Healths>,
    /// How many retries there may be, of all workers together.
    pub budgets: Arc<Budgets>,
    /// How much of requests' bodies is kept.
    pub kept: Kept,
}

/// A request that waits for a connection.
struct Waiting(Rc<Cell<usize>>);

#[derive(Clone, Debug)]
enum To {
    /// A peer's sidecar, or a pod outside the mesh.
    Endpoint(Endpoint),
    /// An address that the mesh knows nothing of.
    Outside(SocketAddr),
    /// The application beside us, at the address that the peer called.
    Application(SocketAddr),
    /// A system outside the mesh, by its name.
    System(Arc<Outside>),
}

/// A request that an endpoint was sent, until it is known how long the answer takes.
#[derive(Debug)]
pub struct Asked {
    upstream: Rc<Upstream>,
    since: Instant,
    answered: bool,
}

/// A connection that a request can be sent on.
pub struct Connection {
    sender: Sender,
    lease: Lease,
}

enum Sender {
    /// And whether it has carried others before.
    H1(h1::Exchange, bool),
    H2(http2::SendRequest<RequestBody>),
}

// === impl Upstream ===

impl Upstream {
    /// A peer, or a pod outside the mesh.
    pub fn endpoint(endpoint: Endpoint, dial: Dial) -> Rc<Self> {
        let pod = endpoint.pod.clone();
        Self::new(pod, To::Endpoint(endpoint), dial)
    }

    /// An address that the mesh knows nothing of.
    pub fn outside(called: SocketAddr, dial: Dial) -> Rc<Self> {
        Self::new(Arc::default(), To::Outside(called), dial)
    }

    /// The application beside us.
    pub fn application(called: SocketAddr, dial: Dial) -> Rc<Self> {
        Self::new(Arc::default(), To::Application(called), dial)
    }

    /// A system outside the mesh, which proves itself by its name.
    pub fn system(outside: Arc<Outside>, dial: Dial) -> Rc<Self> {
        Self::new(Arc::default(), To::System(outside), dial)
    }

    fn new(pod: Arc<str>, to: To, dial: Dial) -> Rc<Self> {
        Rc::new(Self {
            pod,
            to,
            dial,
            in_flight: Cell::new(0),
            answer_time: AnswerTime::default(),
            h1: h1::Pool::default(),
            h2: h2::Pool::default(),
            ahead: Mutex::default(),
        })
    }

    /// Whether requests to it travel as HTTP/2 over mutual TLS.
    pub fn is_peer(&self) -> bool {
        self.identity().is_some()
    }

    fn identity(&self) -> Option<(&Endpoint, &SpiffeId)> {
        match &self.to {
            To::Endpoint(endpoint) => endpoint.identity.as_ref().map(|id| (endpoint, id)),
            To::Outside(_) | To::Application(_) | To::System(_) => None,
        }
    }

    /// A connection to send one request on: one that is there, or a new one.
    ///
    /// # Errors
    /// `connect_failed`, `peer_not_verified`, `no_certificate`, `application_unreachable`: nothing
    /// has been sent, so another endpoint can be tried.
    pub async fn connection(self: &Rc<Self>, speak: Speak) -> Result<Connection, Error> {
        // Connecting counts as in flight: a place that cannot be reached would otherwise look like
        // the least busy one to every request.
        let mut lease = Lease::new(self);
        let sender = match speak {
            Speak::Http1 => {
                let (exchange, kept) = self.h1_exchange().await?;
                Sender::H1(exchange, kept)
            }
            Speak::Http2 => {
                let (sender, streams) = self.h2_sender().await?;
                lease.kind = LeaseKind::H2(streams);
                Sender::H2(sender)
            }
        };
        Ok(Connection { sender, lease })
    }

    /// Notes how long it takes to answer a request that is sent now.
    pub fn asked(self: &Rc<Self>) -> Asked {
        Asked {
            upstream: self.clone(),
            since: Instant::now(),
            answered: false,
        }
    }

    /// Counts opaque bytes that are about to flow as in flight.
    pub fn lease(self: &Rc<Self>) -> Lease {
        Lease::new(self)
    }

    /// Opens a connection for opaque bytes to a peer.
    ///
    /// # Errors
    /// As [`Upstream::connection`].
    pub async fn open_tcp(&self) -> Result<TlsStream<TcpStream>, Error> {
        let credentials = self.current_credentials()?;
        let tls = credentials.tls.client_tcp.clone();
        self.open_mutual_tls(tls, &credentials).await
    }

    /// Opens a plaintext connection, for opaque bytes outside the mesh.
    ///
    /// # Errors
    /// `connect_failed`, `application_unreachable`.
    pub async fn open_plain(&self) -> Result<TcpStream, Error> {
        let connector = &self.dial.connector;
        let address = self.address();
        let opened = match &self.to {
            To::Endpoint(_) => connector.to_peer(address).await,
            To::Outside(_) => connector.to_outside(address).await,
            To::Application(_) => connector.to_application(address).await,
            // Nothing is said to it before it has proved who it is.
            To::System(_) => return Err(Reason::PeerNotVerified.into()),
        };
        opened.map_err(|error| {
            let mut failed = Error::connect(address, &error);
            if matches!(self.to, To::Application(_)) {
                failed.reason = Reason::ApplicationUnreachable;
            }
            failed
        })
    }

    /// Whether this is an application that listens no longer. When one ends, its kernel resets the
    /// connections that it had not taken up yet, requests and all; one whose requests it had read it closes.
    async fn has_ended(&self) -> bool {
        let To::Application(address) = self.to else {
            return false;
        };
        let opened = self.dial.connector.to_application(address).await;
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// Waits for a connection, unless too many do.
    fn wait(&self) -> Result<Waiting, Error> {
        let waiting = &self.dial.waiting;
        if waiting.get() >= limits::WAITING {
            let why = "too many requests wait for a connection";
            return Err(Error::new(Reason::Overloaded, why));
        }
        waiting.set(waiting.get() + 1);
        Ok(Waiting(waiting.clone()))
    }

    /// Where it is, for errors; of a system only its port is known before its name is resolved.
    fn address(&self) -> SocketAddr {
        match &self.to {
            To::Endpoint(endpoint) => endpoint.address,
            To::Outside(called) | To::Application(called) => *called,
            To::System(outside) => (Ipv4Addr::UNSPECIFIED, outside.port).into(),
        }
    }

    /// Opens a connection to a system outside the mesh.
    async fn open_system(&self, outside: &Outside) -> Result<TlsStream<TcpStream>, Error> {
        let Outside { host, port, .. } = outside;
        let failed = |why: &dyn std::fmt::Display| {
            Error::new(Reason::ConnectFailed, format!("{host}:{port}: {why}"))
        };
        let tcp = self.dial.connector.to_host(host, *port).await;
        let tcp = tcp.map_err(|error| failed(&error))?;
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
        let handshake = TlsConnector::from(outside.tls.clone()).connect(name, tcp);
        let opened = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
        let opened = opened.map_err(|_| failed(&"the TLS handshake took too long"))?;
        opened.map_err(|error| match is_not_verified(&error) {
            true => Error::new(Reason::PeerNotVerified, format!("{host}:{port}: {error}")),
            false => failed(&error),
        })
    }

    fn current_credentials(&self) -> Result<Arc<Credentials>, Error> {
        self.dial
            .credentials
            .borrow()
            .clone()
            .filter(|credentials| credentials.in_force())
            .ok_or_else(|| Reason::NoCertificate.into())
    }

    async fn open_mutual_tls(
        &self,
        tls: Arc<ClientConfig>,
        credentials: &Credentials,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let Some((endpoint, expected)) = self.identity() else {
            return Err(Error::new(
                Reason::PeerNotVerified,
                "no identity is expected",
            ));
        };
        let address = endpoint.address;
        let tcp = self
            .dial
            .connector
            .to_peer(address)
            .await
            .map_err(|error| Error::connect(address, &error))?;
        let ended = prove(tcp, tls, credentials, address, expected).await;
        let metrics = self.dial.metrics.all();
        metrics.handshake(Direction::outbound, ended)
    }
}

/// Mutual TLS with the peer that is `expected`, and no other.
async fn prove(
    tcp: TcpStream,
    tls: Arc<ClientConfig>,
    credentials: &Credentials,
    address: SocketAddr,
    expected: &SpiffeId,
) -> Result<TlsStream<TcpStream>, Error> {
    let name = ServerName::IpAddress(address.ip().into());
    let handshake = TlsConnector::from(tls).connect(name, tcp);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .map_err(|_| Error::connect(address, &"the TLS handshake took too long"))?
        .map_err(|error| not_verified_or_failed(address, &error))?;
    let not_verified =
        |why: String| Error::new(Reason::PeerNotVerified, format!("{address}: {why}"));
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| not_verified("no certificate".into()))?;
    let proved = identity_of(leaf, credentials.id.trust_domain())
        .map_err(|error| not_verified(error.to_string()))?;
    if proved != *expected {
        return Err(not_verified(format!(
            "expected {expected}, it proved {proved}"
        )));
    }
    Ok(stream)
}

/// A certificate that does not verify is another matter than a connection that breaks.
fn not_verified_or_failed(address: SocketAddr, error: &std::io::Error) -> Error {
    match is_not_verified(error) {
        true => Error::new(Reason::PeerNotVerified, format!("{address}: {error}")),
        false => Error::connect(address, error),
    }
}

fn is_not_verified(error: &std::io::Error) -> bool {
    let tls = error.get_ref();
    let tls = tls.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let not_verified = |error: &rustls::Error| {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        matches!(error, InvalidCertificate(_) | AlertReceived(_))
    };
    tls.is_some_and(not_verified)
}

impl Asked {
    /// It has answered.
    pub fn answered(mut self) {
        self.answered = true;
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        self.upstream.answer_time.observe(took, now);
    }

    /// It has answered with an error of its own.
    pub fn erred(mut self) {
        self.answered = true;
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        self.upstream.answer_time.failed(took, now);
    }

    /// It could not be reached, or nothing behind it could.
    pub fn failed(mut self) {
        self.answered = true;
        self.upstream.answer_time.failed(FAILED, Instant::now());
    }
}

impl Drop for Asked {
    /// Nobody waits any longer. One that hangs would look faster with time.
    fn drop(&mut self) {
        if !self.answered {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.since);
            self.upstream.answer_time.given_up(took, now);
        }
    }
}

impl Candidate for Upstream {
    fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    fn answer_time(&self, now: Instant) -> Option<f64> {
        self.answer_time.at(now)
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("to", &self.to)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

// === impl Connection ===

impl Connection {
    /// Sends the request; the lease must live as long as the response's body.
    ///
    /// # Errors
    /// `upstream_reset`, `bad_response`, and `kept_connection_closed` of a request that may be carried out
    /// twice and met the end of a kept connection, or of an application. The request comes back when nothing
    /// of it was written, as happens when a kept connection was closed by the other side: it can be sent
    /// again.
    pub async fn send(
        self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), (Error, Option<Request<RequestBody>>)> {
        let Self { sender, mut lease } = self;
        let may_be_repeated = request.method().is_idempotent();
        let mut was_kept = false;
        let sent = match sender {
            Sender::H1(mut exchange, kept) => {
                was_kept = kept;
                let sent = exchange.send(request).await;
                lease.kind = LeaseKind::H1(Some(exchange));
                sent
            }
            Sender::H2(mut sender) => sender.try_send_request(request).await,
        };
        match sent {
            Ok(response) => Ok((response, lease)),
            Err(mut error) => {
                let request = error.take_message();
                let error = error.into_error();
                let unread = was_reset(&error);
                let mut error = Error::exchange(&error);
                if may_be_repeated
                    && request.is_none()
                    && error.reason == Reason::UpstreamReset
                    && (was_kept || unread && Box::pin(lease.upstream.has_ended()).await)
                {
                    error.reason = Reason::KeptConnectionClosed;
                }
                Err((error, request))
            }
        }
    }
}
