//! TLS between sidecars, and from a sidecar to the operator.
//!
//! TLS 1.3 only, both sides with a certificate. The protocol inside is agreed by ALPN, with names
//! of our own: an application's TLS can then never be taken for the mesh's.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::identity::verify::ChainVerifier;

/// HTTP/2 between sidecars.
pub const ALPN_H2: &[u8] = b"meshwright/h2";
/// HTTP/1.1 between sidecars: a request that is to become another protocol (WebSocket).
pub const ALPN_H1: &[u8] = b"meshwright/h1";
/// Opaque bytes between sidecars.
pub const ALPN_TCP: &[u8] = b"meshwright/tcp";
/// gRPC to the operator.
pub const ALPN_GRPC: &[u8] = b"h2";

/// How long a TLS handshake may take, both sides' round trips and signatures included. Longer than two
/// lost packets in a row take (1 s and 2 s more). agentgateway gives it 15 s.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a workload needs to speak TLS, made anew when its leaf or the trust bundle changes.
#[derive(Clone, Debug)]
pub struct TlsContext {
    /// For inbound connections of peers.
    pub server: Arc<ServerConfig>,
    /// For HTTP/2 to a peer.
    pub client_h2: Arc<ClientConfig>,
    /// For HTTP/1.1 to a peer.
    pub client_h1: Arc<ClientConfig>,
    /// For opaque bytes to a peer.
    pub client_tcp: Arc<ClientConfig>,
    /// For gRPC to the operator, with our leaf.
    pub client_grpc: Arc<ClientConfig>,
}

/// Our leaf's chain and key.
#[derive(Debug)]
pub struct KeyAndChain {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: PrivateKeyDer<'static>,
}

/// The one crypto provider of the process: aws-lc-rs, X25519MLKEM768 first.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Roots as a store.
///
/// # Errors
/// When a root cannot be read, or there is none: an empty bundle would refuse everyone anyway,
/// and the sentence tells why.
pub fn root_store(roots: &[Vec<u8>]) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.as_slice()).into_owned())?;
    }
    if store.is_empty() {
        return Err(rustls::Error::General("the trust bundle is empty".into()));
    }
    Ok(Arc::new(store))
}

/// A client that has no certificate yet: it can ask the operator for one, nothing else.
///
/// # Errors
/// When the provider lacks TLS 1.3, which ours does not.
pub fn anonymous_client(roots: Arc<RootCertStore>) -> Result<ClientConfig, rustls::Error> {
    let mut config = client_builder(roots)?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN_GRPC.to_vec()];
    Ok(config)
}

fn client_builder(
    roots: Arc<RootCertStore>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, rustls::Error> {
    let provider = provider();
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ChainVerifier::new(roots, provider))))
}

// === impl TlsContext ===

impl TlsContext {
    /// Builds all configurations from one leaf and one trust bundle.
    ///
    /// # Errors
    /// When key and leaf do not belong together, or a root cannot be used.
    pub fn new(own: &KeyAndChain, roots: Arc<RootCertStore>) -> Result<Self, rustls::Error> {
        let client = |alpn: &[u8]| -> Result<Arc<ClientConfig>, rustls::Error> {
            let mut config = client_builder(roots.clone())?
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())?;
            config.alpn_protocols = vec![alpn.to_vec()];
            // Connections live long, so resumption gains little; without it every connection is
            // verified against the bundle of its own day.
            config.resumption = Resumption::disabled();
            config.enable_sni = false;
            Ok(Arc::new(config))
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.chain.clone(), own.key.clone_key())?;
        server.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_H1.to_vec(), ALPN_TCP.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            server: Arc::new(server),
            client_h2: client(ALPN_H2)?,
            client_h1: client(ALPN_H1)?,
            client_tcp: client(ALPN_TCP)?,
            client_grpc: client(ALPN_GRPC)?,
        })
    }
}
