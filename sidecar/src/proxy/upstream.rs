//! Connections to one place, as one worker has them: a peer's sidecar, an application, or an
//! address outside the mesh.
//!
//! To a peer: HTTP/2 over mutual TLS, many requests over few connections. To everything else:
//! HTTP/1.1, one request at a time over connections that are kept and reused. Nothing here is
//! shared between workers, so nothing is locked.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt, LocalBoxFuture, Shared};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::RequestBody;
use super::error::{Error, Reason};
use super::limits;
use crate::config::service::Endpoint;
use crate::identity::certs::Credentials;
use crate::identity::verify::identity_of;
use crate::net::connect::Connector;
use crate::net::tls::HANDSHAKE_TIMEOUT;
use crate::policy::load_balancer::InFlight;
use crate::worker::LocalExecutor;

/// An idle connection to an application is not reused after this: servers close idle connections,
/// the common defaults start at 5 s (Node.js), and a request that meets the close is lost.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// Idle connections kept for one place by one worker.
const MAX_IDLE_CONNECTIONS: usize = 100;

/// Connections to a peer that may end before they carried anything until a request gives up: one
/// may have met the peer's end, two are a peer that does not want us.
const MAX_CLOSED_AT_ONCE: u32 = 2;

/// One place and the connections to it.
pub struct Upstream {
    /// Whom the log names.
    pub pod: Arc<str>,
    to: To,
    dial: Dial,
    in_flight: Cell<u32>,
    h1: RefCell<Vec<Idle>>,
    h2: RefCell<Vec<H2>>,
    connecting: RefCell<Option<Connecting>>,
}

/// How a worker reaches anything.
#[derive(Clone)]
pub struct Dial {
    /// Opens sockets.
    pub connector: Rc<Connector>,
    /// Who we are: this worker's own handle, so that looking takes no lock.
    pub credentials: Rc<RefCell<Option<Arc<Credentials>>>>,
}

#[derive(Clone, Debug)]
enum To {
    /// A peer's sidecar, or a place outside the mesh.
    Endpoint(Endpoint),
    /// The application beside us, at the address that the peer called.
    Application(SocketAddr),
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

struct H2 {
    sender: http2::SendRequest<RequestBody>,
    streams: Rc<Cell<usize>>,
    /// Proved with these; once they are replaced, the connection takes no new request.
    credentials: Arc<Credentials>,
}

/// A sender of an HTTP/2 connection, and the count of its streams, this one included.
type Stream = (http2::SendRequest<RequestBody>, Rc<Cell<usize>>);

/// One attempt to connect, awaited by every request that needs it.
type Connecting = Shared<LocalBoxFuture<'static, Result<(), Failed>>>;

/// An [`Error`] that several requests can have.
#[derive(Clone, Debug)]
struct Failed(Reason, Rc<str>);

/// A connection that a request can be sent on.
pub struct Connection {
    sender: Sender,
    lease: Lease,
}

enum Sender {
    H1(http1::SendRequest<RequestBody>),
    H2(http2::SendRequest<RequestBody>),
}

/// Held while a request is in flight; given back by [`Lease::complete`] when its response has
/// ended, and otherwise (dropped) taken for broken off: such a connection is not reused.
pub struct Lease {
    upstream: Rc<Upstream>,
    kind: LeaseKind,
}

enum LeaseKind {
    H1(Option<http1::SendRequest<RequestBody>>),
    H2(Rc<Cell<usize>>),
}

// === impl Upstream ===

impl Upstream {
    /// A peer, or a place outside the mesh.
    pub fn endpoint(endpoint: Endpoint, dial: Dial) -> Rc<Self> {
        let pod = endpoint.pod.clone();
        Self::new(pod, To::Endpoint(endpoint), dial)
    }

    /// The application beside us.
    pub fn application(called: SocketAddr, dial: Dial) -> Rc<Self> {
        Self::new(Arc::default(), To::Application(called), dial)
    }

    fn new(pod: Arc<str>, to: To, dial: Dial) -> Rc<Self> {
        Rc::new(Self {
            pod,
            to,
            dial,
            in_flight: Cell::new(0),
            h1: RefCell::default(),
            h2: RefCell::default(),
            connecting: RefCell::default(),
        })
    }

    /// Whether requests to it travel as HTTP/2 over mutual TLS.
    pub fn is_peer(&self) -> bool {
        self.identity().is_some()
    }

    fn identity(&self) -> Option<(&Endpoint, &crate::identity::SpiffeId)> {
        match &self.to {
            To::Endpoint(endpoint) => endpoint.identity.as_ref().map(|id| (endpoint, id)),
            To::Application(_) => None,
        }
    }

    /// A connection to send one request on: one that is there, or a new one.
    ///
    /// # Errors
    /// `connect_failed`, `peer_not_verified`, `no_certificate`, `application_unreachable`: nothing
    /// has been sent, so another endpoint can be tried.
    pub async fn connection(self: &Rc<Self>) -> Result<Connection, Error> {
        // Connecting counts as in flight: a place that cannot be reached would otherwise look like
        // the least busy one to every request.
        let mut lease = Lease::new(self);
        let sender = if self.is_peer() {
            let (sender, streams) = self.h2_sender().await?;
            lease.kind = LeaseKind::H2(streams);
            Sender::H2(sender)
        } else {
            Sender::H1(self.h1_sender().await?)
        };
        Ok(Connection { sender, lease })
    }

    /// Counts opaque bytes that are about to flow as in flight.
    pub fn lease(self: &Rc<Self>) -> Lease {
        Lease::new(self)
    }

    // --- HTTP/1.1 ---

    async fn h1_sender(&self) -> Result<http1::SendRequest<RequestBody>, Error> {
        match self.idle() {
            Some(sender) => Ok(sender),
            None => self.new_h1_sender().await,
        }
    }

    /// The most recently used idle connection that is still good: the others age and are closed.
    fn idle(&self) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = self.h1.borrow_mut();
        let oldest = Instant::now().checked_sub(MAX_IDLE)?;
        while let Some(one) = idle.pop() {
            if one.since < oldest {
                idle.clear();
                return None;
            }
            if one.sender.is_ready() {
                return Some(one.sender);
            }
        }
        None
    }

    async fn new_h1_sender(&self) -> Result<http1::SendRequest<RequestBody>, Error> {
        let (address, tcp) = match &self.to {
            To::Endpoint(endpoint) => {
                let address = endpoint.address;
                (address, self.dial.connector.to_peer(address).await)
            }
            To::Application(called) => (*called, self.dial.connector.to_application(*called).await),
        };
        let tcp = tcp.map_err(|error| {
            let mut failed = Error::connect(address, &error);
            if matches!(self.to, To::Application(_)) {
                failed.reason = Reason::ApplicationUnreachable;
            }
            failed
        })?;
        let (sender, connection) = limits::h1_client()
            .handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| Error::exchange(&error))?;
        // What goes wrong on the connection reaches the request that is on it.
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    // --- HTTP/2 ---

    async fn h2_sender(self: &Rc<Self>) -> Result<Stream, Error> {
        let mut closed_at_once = 0;
        loop {
            if let Some((sender, streams)) = self.open_h2() {
                streams.set(streams.get() + 1);
                return Ok((sender, streams));
            }
            if closed_at_once == MAX_CLOSED_AT_ONCE {
                let why = "the peer closes every connection";
                return Err(Error::connect(self.address(), &why));
            }
            self.connecting().await?;
            if self.h2.borrow().iter().all(|one| one.sender.is_closed()) {
                closed_at_once += 1;
            }
        }
    }

    /// A connection with room for another stream.
    fn open_h2(&self) -> Option<Stream> {
        let current = self.dial.credentials.borrow();
        let current = current.as_ref()?;
        let mut open = self.h2.borrow_mut();
        // What a burst left over goes when it has nothing to do.
        let mut first = true;
        open.retain(|one| {
            !one.sender.is_closed()
                && Arc::ptr_eq(current, &one.credentials)
                && (std::mem::take(&mut first) || one.streams.get() > 0)
        });
        open.iter()
            .find(|one| one.streams.get() < limits::STREAMS_PER_CONNECTION)
            .map(|one| (one.sender.clone(), one.streams.clone()))
    }

    /// The connecting that is under way, or a new one. It goes on when the request that began it
    /// is gone: others wait for it.
    fn connecting(self: &Rc<Self>) -> Connecting {
        if let Some(under_way) = &*self.connecting.borrow() {
            return under_way.clone();
        }
        let (done, outcome) = oneshot::channel();
        let connecting = outcome
            .map(|outcome: Result<Result<(), Failed>, _>| {
                let ended = |_| Err(Failed(Reason::ConnectFailed, "the worker is ending".into()));
                outcome.unwrap_or_else(ended)
            })
            .boxed_local()
            .shared();
        *self.connecting.borrow_mut() = Some(connecting.clone());
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let outcome = this.new_h2_connection().await;
            *this.connecting.borrow_mut() = None;
            let _ = done.send(outcome.map_err(|e| Failed(e.reason, e.detail.into())));
        });
        connecting
    }

    async fn new_h2_connection(&self) -> Result<(), Error> {
        let credentials = self.current_credentials()?;
        let tls = credentials.tls.client_h2.clone();
        let mut stream = self.open_mutual_tls(tls, &credentials).await?;
        // A peer that does not accept our certificate says so when the handshake has ended for us
        // (RFC 8446 section 4.4.2.4). One that does sends its SETTINGS unasked: only then is it
        // known that requests will be read, and nothing of one has been sent before.
        let first = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.fill_buf()).await;
        let address = self.address();
        match first {
            Ok(Ok([])) => return Err(Error::connect(address, &"the peer closed at once")),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(not_verified_or_failed(address, &error)),
            Err(_) => return Err(Error::connect(address, &"the peer said nothing")),
        }
        let (sender, connection) = limits::h2_client(LocalExecutor)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Error::exchange(&error))?;
        tokio::task::spawn_local(connection);
        self.h2.borrow_mut().push(H2 {
            sender,
            streams: Rc::default(),
            credentials,
        });
        Ok(())
    }

    // --- both ---

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
    /// `connect_failed`.
    pub async fn open_plain(&self) -> Result<TcpStream, Error> {
        let address = self.address();
        let opened = self.dial.connector.to_peer(address).await;
        opened.map_err(|error| Error::connect(address, &error))
    }

    fn address(&self) -> SocketAddr {
        match &self.to {
            To::Endpoint(endpoint) => endpoint.address,
            To::Application(called) => *called,
        }
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
}

/// A certificate that does not verify is another matter than a connection that breaks.
fn not_verified_or_failed(address: SocketAddr, error: &std::io::Error) -> Error {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
            Error::new(Reason::PeerNotVerified, format!("{address}: {error}"))
        }
        _ => Error::connect(address, error),
    }
}

impl From<Failed> for Error {
    fn from(Failed(reason, detail): Failed) -> Self {
        Self::new(reason, &*detail)
    }
}

impl InFlight for Upstream {
    fn in_flight(&self) -> u32 {
        self.in_flight.get()
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

// === impl Connection ===

impl Connection {
    /// Sends the request; the lease must live as long as the response's body.
    ///
    /// # Errors
    /// `upstream_reset`, `bad_response`. The request comes back when nothing of it was written, as
    /// happens when a kept connection was closed by the other side: it can be sent again.
    pub async fn send(
        self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), (Error, Option<Request<RequestBody>>)> {
        let Self { sender, mut lease } = self;
        let sent = match sender {
            Sender::H1(mut sender) => {
                let sent = sender.try_send_request(request).await;
                lease.kind = LeaseKind::H1(Some(sender));
                sent
            }
            Sender::H2(mut sender) => sender.try_send_request(request).await,
        };
        match sent {
            Ok(response) => Ok((response, lease)),
            Err(mut error) => {
                let request = error.take_message();
                Err((Error::exchange(&error.into_error()), request))
            }
        }
    }
}

// === impl Lease ===

impl Lease {
    fn new(upstream: &Rc<Upstream>) -> Self {
        upstream.in_flight.set(upstream.in_flight.get() + 1);
        Self {
            upstream: upstream.clone(),
            kind: LeaseKind::H1(None),
        }
    }

    /// Whether a peer's sidecar is at the other end.
    pub fn from_peer(&self) -> bool {
        self.upstream.is_peer()
    }

    /// The response has ended: the connection can carry the next request.
    pub fn complete(mut self) {
        let LeaseKind::H1(sender) = &mut self.kind else {
            return;
        };
        let Some(sender) = sender.take().filter(|sender| !sender.is_closed()) else {
            return;
        };
        let mut idle = self.upstream.h1.borrow_mut();
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.upstream).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let in_flight = &self.upstream.in_flight;
        in_flight.set(in_flight.get().saturating_sub(1));
        if let LeaseKind::H2(streams) = &self.kind {
            streams.set(streams.get().saturating_sub(1));
        }
    }
}
