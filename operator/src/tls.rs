//! The transport of the operator's gRPC server: TLS 1.3, with a certificate of our own authority,
//! and with the client's leaf if it has one already.
//!
//! [`Acceptor::incoming`] yields connections, and who has made each.
//!
//! Whoever has no certificate is a stranger: strangers have places of their own, by address, and not
//! for long, so that they never take those of the sidecars.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::Stream;
use futures::future::BoxFuture;
use rand::Rng;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use crate::ca::{self, Ca};
pub use crate::ca::{InvalidLeaf, PeerLeaf};
use crate::places::{Limits, Place, Places};

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections without a certificate, by address: in their handshake, or to ask for the first one.
/// When more sidecars come back than handshakes can be made, those that came first are not given up
/// for those that come later, unless they have had more time than a handshake takes.
const STRANGERS: Limits = Limits {
    total: 1024,
    each: 128,
    kept: Duration::from_secs(2),
};
/// Connections with a certificate, by the UID of its pod: a stream for each, and what asks for the
/// next certificate. A pod never loses its place to another.
const PEERS: Limits = Limits {
    total: 12_000,
    each: 16,
    kept: Duration::MAX,
};
/// How long a connection without a certificate may stay: long enough to be given one.
const STRANGER_LIFE: Duration = Duration::from_secs(30);
/// How long to wait after an accept failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long until an operator's leaf that couldn't be renewed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The workload that its leaf proves; `None` for one that has shown none.
    pub identity: Option<PeerLeaf>,
    /// Its leaf is the operator's own: another replica. It proves no workload then.
    pub is_operator: bool,
    /// Where it connects from: for logs, proves nothing.
    pub address: SocketAddr,
}

/// Accepts TLS connections with what the certificate authority holds true at the time.
#[derive(Debug)]
pub struct Acceptor {
    config: watch::Receiver<Arc<ServerConfig>>,
    trust_domain: String,
    strangers: Arc<Places<IpAddr>>,
    peers: Arc<Places<String>>,
}

/// One connection, authenticated as far as its client wished.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// Holds the place of the connection, and ends with its time; `None` afterwards.
    time: Option<BoxFuture<'static, ()>>,
}

/// A connection whose handshake is done, and who has made it: what its requests are told.
pub type Accepted = (Connection, Arc<Peer>);

/// Why TLS can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The authority gives the operator no certificate.
    #[error("the operator has no certificate of its own: {0}")]
    Certificate(#[from] ca::Error),
    /// What it gives can't be used.
    #[error("the operator's certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The roots can't be used to verify clients.
    #[error("clients' certificates can't be verified: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the handshake took longer than {HANDSHAKE:?}")]
    Late,
    #[error("{0}")]
    Handshake(#[from] io::Error),
    #[error("{0}")]
    Leaf(#[from] InvalidLeaf),
    #[error("too many others are connecting")]
    Crowded,
    #[error("there are {} connections of pods already", PEERS.total)]
    Full,
}

// === impl Acceptor ===

impl Acceptor {
    /// An acceptor with the operator's own leaf, which is renewed, and follows the trust bundle, for
    /// as long as the acceptor is there.
    ///
    /// # Errors
    /// When the authority has no certificate for us.
    pub fn new(ca: Arc<Ca>) -> Result<Acceptor, Error> {
        let mut serving = ca.serving();
        serving.mark_unchanged();
        let (config, expires) = configure(&ca)?;
        let (sender, receiver) = watch::channel(config);
        let trust_domain = ca.trust_domain().to_owned();
        tokio::spawn(renew(ca, serving, sender, expires));
        Ok(Acceptor {
            config: receiver,
            trust_domain,
            strangers: Places::new(STRANGERS),
            peers: Places::new(PEERS),
        })
    }

    /// Connections whose handshake is done. The listener is closed when the stream is dropped.
    pub fn incoming(self, listener: TcpListener) -> impl Stream<Item = Accepted> + use<> {
        // Handshakes run beside each other, so that a slow client holds nobody up.
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(accept(self, listener, sender));
        ReceiverStream::new(receiver)
    }

    async fn connection(&self, tcp: TcpStream, address: SocketAddr) -> Result<Accepted, Refused> {
        let place = self.strangers.take(address.ip().to_canonical());
        let place = place.ok_or(Refused::Crowded)?;
        // Small messages, each of them waited for.
        let _ = tcp.set_nodelay(true);
        let config = self.config.borrow().clone();
        let handshake = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp));
        let stream = tokio::select! {
            done = handshake => done.map_err(|_| Refused::Late)??,
            () = place.lost() => return Err(Refused::Crowded),
        };
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let is_operator = leaf.is_some_and(|leaf| ca::is_operator(leaf, &self.trust_domain));
        let identity = leaf
            .filter(|_| !is_operator)
            .map(|leaf| PeerLeaf::read(leaf, &self.trust_domain))
            .transpose()?;
        let holder = match &identity {
            // No UID holds a slash.
            None => is_operator.then(|| format!("operator/{}", address.ip())),
            Some(leaf) => Some(leaf.pod_uid.clone()),
        };
        let time = match holder {
            None => stranger(place),
            Some(holder) => peer(self.peers.take(holder).ok_or(Refused::Full)?),
        };
        let peer = Peer {
            identity,
            is_operator,
            address,
        };
        let connection = Connection {
            stream,
            time: Some(time),
        };
        Ok((connection, Arc::new(peer)))
    }
}

/// Accepts until nobody wants connections any more.
async fn accept(acceptor: Acceptor, listener: TcpListener, sender: mpsc::Sender<Accepted>) {
    let acceptor = Arc::new(acceptor);
    loop {
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection couldn't be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match acceptor.connection(tcp, address).await {
                // Nobody wants it: the server is stopping.
                Ok(accepted) => drop(sender.send(accepted).await),
                // As many as somebody likes.
                Err(refused @ Refused::Crowded) => {
                    tracing::debug!(%refused, from = %address, "a connection was refused");
                }
                Err(refused) => {
                    tracing::info!(%refused, from = %address, "a connection was refused");
                }
            }
        });
    }
}

/// The time of a connection without a certificate.
fn stranger(place: Place<IpAddr>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        tokio::select! {
            () = sleep(STRANGER_LIFE) => {}
            () = place.lost() => {}
        }
    })
}

/// The time of a connection with one: until its pod has too many newer ones.
fn peer(place: Place<String>) -> BoxFuture<'static, ()> {
    Box::pin(async move { place.lost().await })
}

/// Puts a new configuration in force when the bundle changes or what our leaf is below, and at half
/// the leaf's life.
async fn renew(
    ca: Arc<Ca>,
    mut serving: watch::Receiver<ca::Serving>,
    sender: watch::Sender<Arc<ServerConfig>>,
    mut expires: SystemTime,
) {
    let mut retry = false;
    loop {
        let left = expires
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let due = match retry {
            true => RETRY,
            false => left
                .mul_f64(rand::rng().random_range(0.45..0.55))
                .max(Duration::from_secs(1)),
        };
        tokio::select! {
            () = sleep(due) => {}
            Ok(()) = serving.changed() => {}
            () = sender.closed() => return,
        }
        match configure(&ca) {
            Ok((config, until)) => {
                expires = until;
                sender.send_replace(config);
                retry = false;
            }
            Err(error) => {
                tracing::warn!(%error, "the operator's certificate couldn't be renewed; trying again in {RETRY:?}");
                retry = true;
            }
        }
    }
}

/// A configuration with a fresh leaf of our own, and when that leaf ends.
fn configure(ca: &Ca) -> Result<(Arc<ServerConfig>, SystemTime), Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (issued, key) = ca.issue_operator()?;
    let mut roots = RootCertStore::empty();
    for root in &ca.bundle().borrow().roots {
        roots.add(root.clone())?;
    }
    let config = server_config(provider, roots, issued.chain, key.serialize_der().into())?;
    Ok((Arc::new(config), issued.expires))
}

fn server_config(
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
) -> Result<ServerConfig, Error> {
    // Optional: a workload without a leaf comes here to get its first.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    // rustls' feature prefer-post-quantum puts X25519MLKEM768 first.
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would carry a client's leaf over that has ended since.
    config.send_tls13_tickets = 0;
    Ok(config)
}

// === impl Connection ===

impl Connection {
    /// Whether its time is over.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(time) = &mut self.time
            && time.as_mut().poll(cx).is_pending()
        {
            return Ok(());
        }
        self.time = None;
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the connection's time is over",
        ))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_over(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
