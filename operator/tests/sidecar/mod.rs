//! As much of a sidecar as talks to the operator: a leaf, a channel, and what is held.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use operator::app::Running;
use operator::ca::RequestedKey;
use operator::issuer::Workload;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use wire::client::State;
use wire::delta::{Apply, Change, Held, Rejected};
use wire::discovery::SignRequest;
use wire::discovery::certificates_client::CertificatesClient;
use wire::discovery::discovery_client::DiscoveryClient;
use wire::lookup::Question;

/// A key and the chain that proves it.
pub(crate) struct Identity {
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
}

/// A stream from the operator, kept open. Dropping it ends the stream.
pub(crate) struct Sidecar {
    /// What it was told last.
    pub(crate) held: watch::Receiver<Held>,
    /// How things stand.
    pub(crate) state: watch::Receiver<State>,
    /// The id that it refuses from now on.
    pub(crate) rejects: Arc<Mutex<Option<String>>>,
    questions: mpsc::Sender<Question>,
    task: AbortHandle,
}

struct Refusing(Arc<Mutex<Option<String>>>);

/// Checks the chain against the roots, and no name.
#[derive(Debug)]
struct Roots(Arc<RootCertStore>, Arc<WebPkiServerVerifier>);

/// What the operator says to a stream without a leaf.
#[allow(dead_code)] // of the benchmark
pub(crate) async fn anonymous(operator: &Running) -> tonic::Status {
    let channel = connect(operator.grpc, config(operator, None))
        .await
        .unwrap();
    let nothing = tokio_stream::empty::<wire::discovery::FromSidecar>();
    let opened = DiscoveryClient::new(channel).stream(nothing).await;
    opened.err().unwrap()
}

/// A connection to a replica at that address, with that identity.
#[allow(dead_code)] // of the tests with several replicas
pub(crate) async fn channel(operator: &Running, address: SocketAddr, own: &Identity) -> Channel {
    let config = config(operator, Some(own));
    connect(address, config).await.unwrap()
}

/// How many calls the operator lets one connection carry at a time, as it says itself in its first
/// HTTP/2 frame.
#[allow(dead_code)] // of the benchmark
pub(crate) async fn calls_at_a_time(operator: &Running, identity: &Identity) -> Option<u32> {
    let tcp = TcpStream::connect(operator.grpc).await.unwrap();
    let name = ServerName::from(operator.grpc.ip());
    let tls = TlsConnector::from(config(operator, Some(identity)));
    let mut tls = tls.connect(name, tcp).await.unwrap();
    // The preface, and empty SETTINGS.
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    tls.write_all(hello).await.unwrap();
    let mut head = [0; 9];
    tls.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut settings = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
    tls.read_exact(&mut settings).await.unwrap();
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    let mut entries = settings.chunks(6).map(|entry| entry.split_at(2));
    let most = entries.find(|(id, _)| number(id) == 3);
    most.map(|(_, value)| number(value))
}

// === impl Identity ===

impl Identity {
    /// Asks the operator for a leaf, with a token.
    pub(crate) async fn ask(operator: &Running, token: &str) -> Result<Identity, tonic::Status> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let channel = connect(operator.grpc, config(operator, None))
            .await
            .unwrap();
        let request = SignRequest {
            csr: csr.der().to_vec().into(),
            token: token.to_owned(),
        };
        let signed = CertificatesClient::new(channel)
            .sign(request)
            .await?
            .into_inner();
        let chain = signed
            .chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        Ok(Identity { key, chain })
    }

    /// A leaf without asking, for who lives in the operator's process.
    #[allow(dead_code)] // of the benchmark
    pub(crate) fn issue(operator: &Running, namespace: &str, pod: &str, uid: &str) -> Identity {
        Identity::issue_as(operator, (namespace, "default"), pod, uid)
    }

    /// The same, of the pod's namespace and a service account there.
    pub(crate) fn issue_as(
        operator: &Running,
        (namespace, account): (&str, &str),
        pod: &str,
        uid: &str,
    ) -> Identity {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let requested = RequestedKey::from_csr(csr.der()).unwrap();
        let workload = Workload::new(namespace, account, pod, uid).unwrap();
        let chain = operator.ca.issue(&requested, &workload).unwrap().chain;
        Identity { key, chain }
    }

    /// The operator's own.
    #[allow(dead_code)] // of the tests with several replicas
    pub(crate) fn operator(operator: &Running) -> Identity {
        let (issued, key) = operator.ca.issue_operator().unwrap();
        let chain = issued.chain;
        Identity { key, chain }
    }
}

// === impl Sidecar ===

impl Sidecar {
    /// Opens a stream, and keeps it open.
    pub(crate) fn start(operator: &Running, identity: &Identity) -> Sidecar {
        let address = operator.grpc;
        let config = config(operator, Some(identity));
        let (sender, held) = watch::channel(Held::default());
        let (telling, state) = watch::channel(State::default());
        let rejects: Arc<Mutex<Option<String>>> = Arc::default();
        let apply = Refusing(rejects.clone());
        let (questions, asked) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            let dial = || connect(address, config.clone());
            let persist = |held: &mut Held| drop(sender.send_replace(held.clone()));
            wire::client::run(
                dial,
                Held::default(),
                apply,
                persist,
                &telling,
                asked.into(),
            )
            .await
        });
        Sidecar {
            held,
            state,
            rejects,
            questions,
            task: task.abort_handle(),
        }
    }

    /// Asks what an address or a name means.
    #[allow(dead_code)] // of the benchmark
    pub(crate) async fn ask(&self, question: Question) {
        self.questions.send(question).await.unwrap();
    }

    /// Waits until `is` holds of what is held.
    pub(crate) async fn until(&mut self, is: impl FnMut(&Held) -> bool) {
        let wait = self.held.wait_for(is);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), wait).await;
        assert!(
            waited.is_ok_and(|held| held.is_ok()),
            "{:?}",
            self.state.borrow()
        );
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Apply for Refusing {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let refused = self.0.lock().unwrap().clone();
        let ids = changes.iter().map(Change::id);
        ids.filter(|id| Some(id.to_string()) == refused)
            .map(|id| Rejected {
                id: id.clone(),
                reason: "this one can't do that".to_owned(),
            })
            .collect()
    }
}

fn config(operator: &Running, own: Option<&Identity>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in &operator.ca.bundle().borrow().roots {
        roots.add(root.clone()).unwrap();
    }
    let roots = Arc::new(roots);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
    let verifier = Roots(roots, verifier.build().unwrap());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(Identity { key, chain }) => {
            let key = PrivatePkcs8KeyDer::from(key.serialize_der());
            builder
                .with_client_auth_cert(chain.clone(), key.into())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::from(address.ip());
            let tls = TlsConnector::from(config).connect(name, tcp).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls))
        }
    });
    Endpoint::from_static("http://operator")
        .connect_with_connector(connector)
        .await
}

impl ServerCertVerifier for Roots {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.0, chain, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.1.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.1.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.supported_verify_schemes()
    }
}
