use super::*;
use crate::ca::store::Folder;
use crate::ca::{LEAF_LIFE, RequestedKey, TrustBundle};
use crate::issuer::Workload;
use futures::StreamExt;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, SupportedProtocolVersion};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

type Chain = Vec<CertificateDer<'static>>;
type Client = tokio_rustls::client::TlsStream<TcpStream>;

struct World {
    folder: tempfile::TempDir,
    ca: Arc<Ca>,
    address: SocketAddr,
    accepted: mpsc::Receiver<Peer>,
}

impl World {
    /// A server that says "hello" to whoever gets through.
    async fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = Box::new(Folder::open(folder.path()).unwrap());
        let ca = Ca::open(store, "cluster.local", LEAF_LIFE).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Box::pin(Acceptor::new(ca.clone()).unwrap().incoming(listener));
        let (sender, accepted) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(mut connection)) = incoming.next().await {
                connection.write_all(b"hello").await.unwrap();
                sender.send(connection.connect_info()).await.unwrap();
            }
        });
        World {
            folder,
            ca,
            address,
            accepted,
        }
    }

    fn leaf(&self, ca: &Ca) -> (Chain, KeyPair) {
        self.leaf_of(ca, SystemTime::now())
    }

    fn leaf_of(&self, ca: &Ca, made: SystemTime) -> (Chain, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let requested = RequestedKey::from_csr(csr.der()).unwrap();
        let workload = Workload::new("shop", "orders", "orders-1", "6c1f").unwrap();
        (ca.issue_at(&requested, &workload, made).unwrap().chain, key)
    }

    fn config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<(Chain, KeyPair)>,
    ) -> ClientConfig {
        let bundle: TrustBundle = self.ca.bundle().borrow().clone();
        let mut roots = RootCertStore::empty();
        roots.add(bundle.roots[0].clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoName(verifier.unwrap())));
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                builder.with_client_auth_cert(chain, key.into()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// Connects and reads the greeting, for a server's refusal of our leaf comes after the
    /// client's handshake.
    async fn connect(&self, config: ClientConfig) -> io::Result<Client> {
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await?;
        assert_eq!(&greeting, b"hello");
        Ok(stream)
    }
}

/// Checks the chain but no host name, as a sidecar does.
#[derive(Debug)]
struct NoName(Arc<WebPkiServerVerifier>);

impl rustls::client::danger::ServerCertVerifier for NoName {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(leaf, chain, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Ok(rustls::client::danger::ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[tokio::test]
async fn a_workload_without_a_leaf_gets_through_as_nobody() {
    let mut world = World::start().await;
    let stream = world.connect(world.config(TLS13, None)).await.unwrap();
    assert_eq!(world.accepted.recv().await.unwrap().identity, None);
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    let group = session
        .negotiated_key_exchange_group()
        .map(|group| group.name());
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn a_workload_with_a_leaf_is_known_with_its_pod() {
    let mut world = World::start().await;
    let own = world.leaf(&world.ca);
    world.connect(world.config(TLS13, Some(own))).await.unwrap();
    let leaf = world.accepted.recv().await.unwrap().identity.unwrap();
    assert_eq!(leaf.spiffe_id, "spiffe://cluster.local/ns/shop/sa/orders");
    assert_eq!(
        (leaf.pod.as_str(), leaf.pod_uid.as_str()),
        ("orders-1", "6c1f")
    );
    assert!(leaf.expires > SystemTime::now());
}

#[tokio::test]
async fn a_leaf_of_another_authority_is_refused() {
    let mut world = World::start().await;
    let folder = tempfile::tempdir().unwrap();
    let store = Box::new(Folder::open(folder.path()).unwrap());
    let other = Ca::open(store, "cluster.local", LEAF_LIFE).await.unwrap();
    let forged = world.leaf(&other);
    world
        .connect(world.config(TLS13, Some(forged)))
        .await
        .unwrap_err();
    assert!(world.accepted.try_recv().is_err());
}

#[tokio::test]
async fn a_leaf_that_has_ended_is_refused() {
    let mut world = World::start().await;
    let made = SystemTime::now() - LEAF_LIFE - Duration::from_secs(2);
    let ended = world.leaf_of(&world.ca, made);
    world
        .connect(world.config(TLS13, Some(ended)))
        .await
        .unwrap_err();
    assert!(world.accepted.try_recv().is_err());
}

#[tokio::test]
async fn a_leaf_of_another_trust_domain_of_the_same_authority_is_refused() {
    let mut world = World::start().await;
    let store = Box::new(Folder::open(world.folder.path()).unwrap());
    let other = Ca::open(store, "other.example", LEAF_LIFE).await.unwrap();
    let foreign = world.leaf(&other);
    world
        .connect(world.config(TLS13, Some(foreign)))
        .await
        .unwrap_err();
    assert!(world.accepted.try_recv().is_err());
}

#[tokio::test]
async fn an_older_tls_is_refused() {
    let world = World::start().await;
    let old: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
    world.connect(world.config(old, None)).await.unwrap_err();
}

#[tokio::test]
async fn a_client_that_says_nothing_holds_nobody_up() {
    let mut world = World::start().await;
    let _silent = TcpStream::connect(world.address).await.unwrap();
    let mut noisy = TcpStream::connect(world.address).await.unwrap();
    noisy.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    world.connect(world.config(TLS13, None)).await.unwrap();
    assert_eq!(world.accepted.recv().await.unwrap().identity, None);
}

#[tokio::test]
async fn a_new_bundle_is_followed_at_once() {
    let world = World::start().await;
    let (sender, mut receiver) = watch::channel(configure(&world.ca).unwrap().0);
    let (bundle, follow) = watch::channel(TrustBundle::default());
    let later = SystemTime::now() + LEAF_LIFE;
    tokio::spawn(renew(world.ca.clone(), follow, sender, later));

    bundle.send_replace(world.ca.bundle().borrow().clone());

    receiver.changed().await.unwrap();
}
