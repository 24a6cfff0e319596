use super::*;
use crate::ca::store::Folder;
use crate::ca::{LEAF_LIFE, PeerLeaf};
use certificates_server::Certificates as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use std::net::IpAddr;
use std::time::Duration;
use tonic::Code;

/// Knows one token, "good", and the pod that it is bound to until that is gone.
struct Fake {
    workload: Workload,
    gone: bool,
}

impl Issuer for Fake {
    fn identify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Workload, Refusal>> {
        Box::pin(async move {
            match token {
                "good" => Ok(self.workload.clone()),
                "unbound" => Err(Refusal::Denied("not bound to a pod".into())),
                "slow" => std::future::pending().await,
                "busy" => Err(Refusal::Unavailable("later".into())),
                _ => Err(Refusal::Unknown("no such token".into())),
            }
        })
    }

    fn still_runs<'a>(
        &'a self,
        workload: &'a Workload,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            assert_eq!(*workload, self.workload);
            assert!(from.is_loopback(), "the connection's own address");
            match self.gone {
                true => Err(Refusal::Denied("gone".into())),
                false => Ok(()),
            }
        })
    }
}

#[derive(Clone)]
struct World {
    _folder: Arc<tempfile::TempDir>,
    service: Arc<Certificates>,
}

const FEW: Limits = Limits {
    total: 3,
    each: 2,
    kept: PATIENCE,
};

fn workload() -> Workload {
    Workload::new("shop", "orders", "orders-1", "6c1f").unwrap()
}

async fn world(workload: Workload, gone: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let store = Box::new(Folder::open(folder.path()).unwrap());
    let ca = Ca::open(store, "cluster.local", LEAF_LIFE).await.unwrap();
    let issuer = Arc::new(Fake { workload, gone });
    let service = Certificates {
        ca,
        issuer,
        first: Places::new(FEW),
        renewals: Places::new(FEW),
    };
    World {
        _folder: Arc::new(folder),
        service: Arc::new(service),
    }
}

fn csr() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec()
}

fn leaf(expires: SystemTime) -> PeerLeaf {
    PeerLeaf {
        spiffe_id: "spiffe://cluster.local/ns/shop/sa/orders".into(),
        namespace: "shop".into(),
        service_account: "orders".into(),
        pod: "orders-1".into(),
        pod_uid: "6c1f".into(),
        expires,
    }
}

impl World {
    async fn sign(
        &self,
        csr: Vec<u8>,
        token: &str,
        identity: Option<PeerLeaf>,
    ) -> Result<PeerLeaf, Status> {
        self.sign_from(1, csr, token, identity).await
    }

    /// For who connects from 127.0.0.`host`.
    async fn sign_from(
        &self,
        host: u8,
        csr: Vec<u8>,
        token: &str,
        identity: Option<PeerLeaf>,
    ) -> Result<PeerLeaf, Status> {
        let mut request = Request::new(SignRequest {
            csr: csr.into(),
            token: token.into(),
        });
        let address = ([127, 0, 0, host], 9).into();
        let peer = Peer {
            identity,
            is_operator: false,
            address,
        };
        request.extensions_mut().insert(Arc::new(peer));
        let signed = self.service.sign(request).await?.into_inner();
        assert_eq!((signed.chain.len(), signed.roots.len()), (2, 1));
        Ok(PeerLeaf::read(&signed.chain[0], "cluster.local").unwrap())
    }

    async fn refused(
        &self,
        csr: Vec<u8>,
        token: &str,
        identity: Option<PeerLeaf>,
    ) -> (Code, String) {
        let status = self.sign(csr, token, identity).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

#[tokio::test]
async fn a_token_gets_its_workload_a_leaf() {
    let world = world(workload(), false).await;
    let signed = world.sign(csr(), "good", None).await.unwrap();
    assert_eq!(signed.workload(), workload());
    assert_eq!(signed.spiffe_id, "spiffe://cluster.local/ns/shop/sa/orders");
}

#[tokio::test]
async fn someone_elses_name_in_the_request_is_not_even_looked_at() {
    let world = world(workload(), false).await;
    let mut params = CertificateParams::default();
    let stolen = "spiffe://cluster.local/ns/bank/sa/vault";
    params.subject_alt_names = vec![SanType::URI(stolen.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let csr = params.serialize_request(&key).unwrap().der().to_vec();
    let signed = world.sign(csr, "good", None).await.unwrap();
    assert_eq!(signed.workload(), workload());
}

#[tokio::test]
async fn a_leaf_is_renewed_without_a_token_while_its_pod_lives() {
    let later = SystemTime::now() + Duration::from_secs(60);
    let alive = world(workload(), false).await;
    let renewed = alive.sign(csr(), "", Some(leaf(later))).await.unwrap();
    assert_eq!(renewed.workload(), workload());
    assert!(renewed.expires > later);

    let gone = world(workload(), true).await;
    let (code, _) = gone.refused(csr(), "", Some(leaf(later))).await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn a_leaf_that_ended_while_its_connection_lived_on_renews_nothing() {
    let world = world(workload(), false).await;
    let (code, why) = world
        .refused(csr(), "", Some(leaf(SystemTime::now())))
        .await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(why.contains("expired"), "{why}");
}

#[tokio::test]
async fn nobody_gets_nothing_and_is_told_why() {
    let world = world(workload(), false).await;
    let later = SystemTime::now() + Duration::from_secs(60);
    let (code, why) = world.refused(csr(), "", None).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(why.contains("neither a token nor a certificate"), "{why}");
    assert_eq!(
        world.refused(csr(), "stolen", None).await.0,
        Code::Unauthenticated
    );
    // A bad token is not made good by a leaf.
    assert_eq!(
        world.refused(csr(), "stolen", Some(leaf(later))).await.0,
        Code::Unauthenticated
    );
    assert_eq!(
        world.refused(csr(), "unbound", None).await.0,
        Code::PermissionDenied
    );
    assert_eq!(
        world.refused(csr(), "busy", None).await.0,
        Code::Unavailable
    );
}

#[tokio::test]
async fn a_bad_request_is_refused_before_anyone_is_asked() {
    let world = world(workload(), false).await;
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let other = CertificateParams::default()
        .serialize_request(&other)
        .unwrap();
    for csr in [vec![], vec![0x30; 9000], other.der().to_vec()] {
        let (code, _) = world.refused(csr, "busy", None).await;
        assert_eq!(code, Code::InvalidArgument);
    }
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(
        world.refused(csr(), &long, None).await.0,
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn the_operators_own_identity_is_given_to_nobody() {
    let namesake = Workload::new(OPERATOR.0, OPERATOR.1, "operator-1", "6c1f").unwrap();
    let world = world(namesake, false).await;
    assert_eq!(
        world.refused(csr(), "good", None).await.0,
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn who_asks_too_much_at_once_is_told_to_come_back_and_nobody_else_is() {
    let world = world(workload(), false).await;
    let mut asking = FuturesUnordered::new();
    for host in [2, 2, 3, 3, 2, 2] {
        let world = world.clone();
        asking.push(async move { world.sign_from(host, csr(), "slow", None).await });
        // As far as the issuer, who doesn't answer.
        while let Some(Some(refused)) = asking.next().now_or_never() {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::ResourceExhausted);
            assert!(refused.message().contains("ask again"), "{refused}");
        }
    }
    assert!(asking.len() <= FEW.total);
    let signed = world.sign_from(1, csr(), "good", None).await.unwrap();
    assert_eq!(signed.workload(), workload());
}

/// All places of those who have a token alone, taken from as many addresses.
fn all_places(world: &World) -> Vec<crate::places::Place<IpAddr>> {
    let places = (2..5).map(|host| world.service.first.take([127, 0, 0, host].into()));
    places.map(Option::unwrap).collect()
}

#[tokio::test]
async fn more_than_can_be_served_are_told_to_come_back() {
    let world = world(workload(), false).await;
    let _busy = all_places(&world);
    let (code, why) = world.refused(csr(), "good", None).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(why.contains("ask again"), "{why}");
}

#[tokio::test]
async fn tokens_without_number_keep_no_certificate_from_being_renewed() {
    let world = world(workload(), false).await;
    let _busy = all_places(&world);
    let later = SystemTime::now() + Duration::from_secs(60);
    let renewed = world.sign(csr(), "", Some(leaf(later))).await.unwrap();
    assert_eq!(renewed.workload(), workload());
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_identified_in_time_is_told_to_come_back() {
    let world = world(workload(), false).await;
    assert_eq!(
        world.refused(csr(), "slow", None).await.0,
        Code::Unavailable
    );
}
