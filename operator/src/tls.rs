//! The transport of the operator's gRPC server: TLS 1.3, with a certificate of our own authority,
//! and with the client's leaf if it has one already.
//!
//! [`Acceptor::incoming`] yields connections for tonic's `serve_with_incoming`; a service finds who
//! is calling as [`Peer`] in its request's extensions.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::Stream;
use rand::Rng;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::ca::{self, Ca};
pub use crate::ca::{InvalidLeaf, PeerLeaf};

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most handshakes at once. Their cost is the CPU's, so more would only all be slower.
const MAX_HANDSHAKES: usize = 256;
/// The most connections at once: a stream per sidecar, and those that ask for a certificate.
const MAX_CONNECTIONS: usize = 12_000;
/// How long to wait after an accept failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long until an operator's leaf that couldn't be renewed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The workload that its leaf proves; `None` for one that has shown none.
    pub identity: Option<PeerLeaf>,
    /// Where it connects from: for logs, proves nothing.
    pub address: SocketAddr,
}

/// Accepts TLS connections with what the certificate authority holds true at the time.
#[derive(Debug)]
pub struct Acceptor {
    config: watch::Receiver<Arc<ServerConfig>>,
    trust_domain: String,
}

/// One connection, authenticated as far as its client wished.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

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
}

// === impl Acceptor ===

impl Acceptor {
    /// An acceptor with the operator's own leaf, which is renewed, and follows the trust bundle, for
    /// as long as the acceptor is there.
    ///
    /// # Errors
    /// When the authority has no certificate for us.
    pub fn new(ca: Arc<Ca>) -> Result<Acceptor, Error> {
        let bundle = ca.bundle();
        let (config, expires) = configure(&ca)?;
        let (sender, receiver) = watch::channel(config);
        let trust_domain = ca.trust_domain().to_owned();
        tokio::spawn(renew(ca, bundle, sender, expires));
        Ok(Acceptor {
            config: receiver,
            trust_domain,
        })
    }

    /// Connections whose handshake is done. The listener is closed when the stream is dropped.
    pub fn incoming(
        self,
        listener: TcpListener,
    ) -> impl Stream<Item = Result<Connection, io::Error>> + use<> {
        // Handshakes run beside each other, so that a slow client holds nobody up.
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(accept(self, listener, sender));
        ReceiverStream::new(receiver)
    }

    async fn handshake(
        config: Arc<ServerConfig>,
        trust_domain: &str,
        tcp: TcpStream,
        address: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> Result<Connection, Refused> {
        let handshake = TlsAcceptor::from(config).accept(tcp);
        let stream = timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| Refused::Late)??;
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let identity = leaf
            .map(|leaf| PeerLeaf::read(leaf, trust_domain))
            .transpose()?;
        Ok(Connection {
            stream,
            peer: Peer { identity, address },
            _place: place,
        })
    }
}

/// Accepts until nobody wants connections any more.
async fn accept(
    acceptor: Acceptor,
    listener: TcpListener,
    sender: mpsc::Sender<Result<Connection, io::Error>>,
) {
    let Acceptor {
        config,
        trust_domain,
    } = acceptor;
    let trust_domain: Arc<str> = trust_domain.into();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        // Who finds no place waits in the kernel's queue, and then tries another replica.
        let (place, turn) = tokio::select! {
            () = sender.closed() => return,
            both = async { (places.clone().acquire_owned().await, handshakes.clone().acquire_owned().await) } => both,
        };
        // Neither semaphore is ever closed.
        let (Ok(place), Ok(turn)) = (place, turn) else {
            return;
        };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection couldn't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small messages, each of them waited for.
        let _ = tcp.set_nodelay(true);
        let config = config.borrow().clone();
        let (trust_domain, sender) = (trust_domain.clone(), sender.clone());
        tokio::spawn(async move {
            let done = Acceptor::handshake(config, &trust_domain, tcp, address, place).await;
            drop(turn);
            match done {
                // Nobody wants it: the server is stopping.
                Ok(connection) => drop(sender.send(Ok(connection)).await),
                Err(refused) => {
                    tracing::info!(%refused, from = %address, "a connection was refused")
                }
            }
        });
    }
}

/// Puts a new configuration in force when the bundle changes, and at half the leaf's life.
async fn renew(
    ca: Arc<Ca>,
    mut bundle: watch::Receiver<ca::TrustBundle>,
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
            () = tokio::time::sleep(due) => {}
            Ok(()) = bundle.changed() => {}
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

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
