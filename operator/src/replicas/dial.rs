//! A connection from one replica to another: each proves to be the operator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::ca::{self, Ca};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How often the other end is asked whether it is still there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("this replica has no certificate of its own: {0}")]
    Certificate(#[from] ca::Error),
    #[error("its certificate can't be used: {0}")]
    Tls(#[from] Error),
    #[error("no connection is made: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("no connection is made within {CONNECT:?}")]
    Late,
}

/// Takes a server whose chain leads to the trust bundle and whose leaf is the operator's own.
#[derive(Debug)]
struct OperatorVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    trust_domain: String,
}

/// Connects to the replica at that address.
pub(super) async fn dial(ca: &Ca, address: SocketAddr) -> Result<Channel, DialError> {
    let tls = TlsConnector::from(Arc::new(config(ca)?));
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            // Small messages, each of them waited for.
            tcp.set_nodelay(true)?;
            let name = ServerName::from(address.ip());
            let tls = tls.connect(name, tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    let endpoint = Endpoint::from_static("http://operator")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let connected = timeout(CONNECT, endpoint.connect_with_connector(connector)).await;
    Ok(connected.map_err(|_| DialError::Late)??)
}

fn config(ca: &Ca) -> Result<ClientConfig, DialError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (issued, key) = ca.issue_operator()?;
    let mut roots = RootCertStore::empty();
    for root in &ca.bundle().borrow().roots {
        roots.add(root.clone())?;
    }
    let verifier = OperatorVerifier {
        roots,
        provider: provider.clone(),
        trust_domain: ca.trust_domain().to_owned(),
    };
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(issued.chain, key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

// === impl OperatorVerifier ===

impl ServerCertVerifier for OperatorVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, chain, now, algorithms)?;
        match ca::is_operator(leaf, &self.trust_domain) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Never reached: only TLS 1.3 is offered.
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls13RequiredForQuic,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
