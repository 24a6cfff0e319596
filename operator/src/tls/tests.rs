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
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

type Chain = Vec<CertificateDer<'static>>;
type Client = tokio_rustls::client::TlsStream<TcpStream>;

struct World {
    folder: tempfile::TempDir,
    ca: Arc<Ca>,
    address: SocketAddr,
    accepted: mpsc::Receiver<Accepted>,
}

impl World {
    /// A server that says "hello" to whoever gets through.
    async fn start() -> World {
        World::with(STRANGERS, PEERS).await
    }

    async fn with(strangers: Limits, peers: Limits) -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = Box::new(Folder::open(folder.path()).unwrap());
        let ca = Ca::open(store, "cluster.local", LEAF_LIFE).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(ca.clone()).unwrap();
        acceptor.strangers = Places::new(strangers);
        acceptor.peers = Places::new(peers);
        let mut incoming = Box::pin(acceptor.incoming(listener));
        let (sender, accepted) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some((mut connection, peer)) = incoming.next().await {
                connection.write_all(b"hello").await.unwrap();
                sender.send((connection, peer)).await.unwrap();
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
        let workload = Workload::new("shop", "orders", "orders-1", "6c1f").unwrap();
        self.leaf_for(ca, &workload, made)
    }

    fn leaf_for(&self, ca: &Ca, workload: &Workload, made: SystemTime) -> (Chain, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let requested = RequestedKey::from_csr(csr.der()).unwrap();
        (ca.issue_at(&requested, workload, made).unwrap().chain, key)
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
        self.connect_from(1, config).await
    }

    /// The same, from 127.0.0.`host`.
    async fn connect_from(&self, host: u8, config: ClientConfig) -> io::Result<Client> {
        let tcp = self.tcp_from(host).await?;
        let name = ServerName::from(self.address.ip());
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await?;
        assert_eq!(&greeting, b"hello");
        Ok(stream)
    }

    async fn tcp_from(&self, host: u8) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, host], 0).into())?;
        socket.connect(self.address).await
    }

    /// The operator's end of the connection that was made last.
    async fn accepted(&mut self) -> Connection {
        self.accepted.recv().await.unwrap().0
    }

    /// Who has made it.
    async fn peer(&mut self) -> Arc<Peer> {
        self.accepted.recv().await.unwrap().1
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
    assert_eq!(world.peer().await.identity, None);
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
    let leaf = world.peer().await.identity.clone().unwrap();
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
    assert_eq!(world.peer().await.identity, None);
}

#[tokio::test]
async fn a_new_bundle_is_followed_at_once() {
    let world = World::start().await;
    let (sender, mut receiver) = watch::channel(configure(&world.ca).unwrap().0);
    let (serving, follow) = watch::channel(ca::Serving::default());
    let later = SystemTime::now() + LEAF_LIFE;
    tokio::spawn(renew(world.ca.clone(), follow, sender, later));

    serving.send_replace(world.ca.serving().borrow().clone());

    receiver.changed().await.unwrap();
}

/// Reads until the other end is heard of, or has gone.
async fn read(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
    connection.read(&mut [0; 1]).await
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn who_has_no_certificate_is_given_the_time_to_ask_for_one_and_no_more() {
    let mut world = World::start().await;
    let own = world.leaf(&world.ca);
    let mut client = world.connect(world.config(TLS13, Some(own))).await.unwrap();
    let mut peer = world.accepted().await;
    let _stranger = world.connect(world.config(TLS13, None)).await.unwrap();
    let (mut stranger, who) = world.accepted.recv().await.unwrap();
    assert_eq!(who.identity, None);

    tokio::time::pause();
    let early = timeout(STRANGER_LIFE / 2, read(&mut stranger)).await;
    assert!(early.is_err(), "it may stay for a while");
    let over = timeout(STRANGER_LIFE, read(&mut stranger)).await.unwrap();
    assert_eq!(over.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let written = stranger.write_all(b"more").await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    let stays = timeout(STRANGER_LIFE * 100, read(&mut peer)).await;
    assert!(stays.is_err(), "{stays:?}");
    tokio::time::resume();
    client.write_all(b"a").await.unwrap();
    assert_eq!(timeout(LONG, read(&mut peer)).await.unwrap().unwrap(), 1);
}

#[tokio::test]
async fn handshakes_that_stall_hold_no_sidecar_up() {
    let few = Limits {
        total: 6,
        each: 4,
        kept: LONG,
    };
    let mut world = World::with(few, PEERS).await;
    let mut stalled = Vec::new();
    for n in 0..40 {
        stalled.push(world.tcp_from(2 + n % 2).await.unwrap());
    }
    let own = world.leaf(&world.ca);
    let connected = world.connect_from(1, world.config(TLS13, Some(own)));
    // Sooner than the first of them is given up.
    let _client = timeout(HANDSHAKE / 2, connected).await.unwrap().unwrap();
    assert!(world.peer().await.identity.is_some());
    // From the oldest on, they have given way.
    assert_eq!(read(&mut stalled[0]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_address_has_its_share_of_the_places_for_strangers() {
    let two = Limits {
        total: 6,
        each: 2,
        kept: LONG,
    };
    let mut world = World::with(two, PEERS).await;
    let mut held = Vec::new();
    for host in [2, 3, 3, 3] {
        let client = world.connect_from(host, world.config(TLS13, None));
        held.push((client.await.unwrap(), world.accepted().await));
    }
    let (_, oldest) = &mut held[1];
    assert!(timeout(LONG, read(oldest)).await.unwrap().is_err());
    for other in [0, 2, 3] {
        let (client, connection) = &mut held[other];
        client.write_all(b"a").await.unwrap();
        let heard = timeout(LONG, read(connection)).await.unwrap();
        assert_eq!(heard.unwrap(), 1, "{other}");
    }
}

#[tokio::test]
async fn a_pod_with_a_certificate_has_a_place_of_its_own_that_no_stranger_takes() {
    let one = Limits {
        total: 1,
        each: 1,
        kept: Duration::ZERO,
    };
    let peers = Limits {
        kept: Duration::MAX,
        ..one
    };
    let mut world = World::with(one, peers).await;
    let own = world.leaf(&world.ca);
    let mut client = world.connect(world.config(TLS13, Some(own))).await.unwrap();
    let mut sidecar = world.accepted().await;
    let mut strangers = Vec::new();
    for host in 2..6 {
        let client = world.connect_from(host, world.config(TLS13, None));
        strangers.push((client.await.unwrap(), world.accepted().await));
    }
    client.write_all(b"a").await.unwrap();
    let heard = timeout(LONG, read(&mut sidecar)).await.unwrap();
    assert_eq!(heard.unwrap(), 1);

    // A newer connection of the same pod takes it, and one of another pod doesn't.
    let other = Workload::new("shop", "orders", "orders-2", "77aa").unwrap();
    let other = world.leaf_for(&world.ca, &other, SystemTime::now());
    let refused = world.connect(world.config(TLS13, Some(other))).await;
    refused.unwrap_err();
    let own = world.leaf(&world.ca);
    let _client = world.connect(world.config(TLS13, Some(own))).await.unwrap();
    let over = timeout(LONG, read(&mut sidecar)).await.unwrap();
    assert_eq!(over.unwrap_err().kind(), io::ErrorKind::TimedOut);
}
