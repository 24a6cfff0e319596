mod held;
mod provided;
mod rotation;

use super::authority::{parse, validity};
use super::line::Line;
use super::rotation::Stage;
use super::store::{Folder, Kept, StoreError};
use super::*;
use futures::future::BoxFuture;
use rcgen::CertificateParams;
use rustls::RootCertStore;
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// 2026-01-01, when nothing else is said.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn workload() -> Workload {
    Workload::new("shop", "orders", "orders-1", "6c1f2d3e").unwrap()
}

fn key() -> RequestedKey {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    RequestedKey::from_csr(csr.der()).unwrap()
}

async fn open(folder: &std::path::Path) -> Arc<Ca> {
    let store = Box::new(Folder::open(folder).unwrap());
    Ca::open(store, "cluster.local", LEAF_LIFE).await.unwrap()
}

/// Whether a chain proves a client at that time, as rustls decides it.
fn proves(
    chain: &[CertificateDer<'static>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in &bundle.roots {
        roots.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    verifier
        .verify_client_cert(&chain[0], &chain[1..], now)
        .map(drop)
}

fn issue(authorities: &Authorities, uri: &str, now: SystemTime) -> Issued {
    let line = authorities.signing();
    leaf::issue(line, &key(), uri, Some(&workload()), now, LEAF_LIFE).unwrap()
}

/// Nothing is asked for.
const OWN: Wanted = Wanted::Own { request: None };
const MARGIN: Duration = Duration::from_secs(60);

/// When nobody lags.
fn moment(now: SystemTime, wanted: &Wanted) -> Moment<'_> {
    Moment {
        now,
        wanted,
        leaf_life: LEAF_LIFE,
        root_life: ROOT_LIFE,
        margin: MARGIN,
        lagging: Some(0),
        replica: "one",
    }
}

/// A new authority.
fn made(now: SystemTime) -> Authorities {
    Authorities::first(&moment(now, &OWN)).unwrap()
}

#[tokio::test]
async fn a_leaf_proves_the_workload_and_its_pod_and_is_valid_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    let now = SystemTime::now();

    let issued = ca.issue(&key(), &workload()).unwrap();

    let bundle = ca.bundle().borrow().clone();
    proves(&issued.chain, &bundle, now).unwrap();
    let leaf = PeerLeaf::read(&issued.chain[0], "cluster.local").unwrap();
    assert_eq!(leaf.spiffe_id, "spiffe://cluster.local/ns/shop/sa/orders");
    assert_eq!(leaf.workload(), workload());
    let life = leaf.expires.duration_since(now).unwrap();
    assert!(
        (LEAF_LIFE - Duration::from_secs(5)..=LEAF_LIFE).contains(&life),
        "{life:?}"
    );
    let (_, parsed) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    assert!(validity(&parsed).0 <= now - BACKDATED + Duration::from_secs(1));
    assert!(!parsed.is_ca());
}

#[tokio::test]
async fn what_a_request_names_is_not_what_the_leaf_names() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    let mut params = CertificateParams::new(["operator.example".to_owned()]).unwrap();
    let stolen = "spiffe://cluster.local/ns/bank/sa/vault";
    params
        .subject_alt_names
        .push(rcgen::SanType::URI(stolen.try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let asker = KeyPair::generate().unwrap();
    let csr = params.serialize_request(&asker).unwrap();

    let issued = ca
        .issue(&RequestedKey::from_csr(csr.der()).unwrap(), &workload())
        .unwrap();

    let (_, parsed) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(
        PeerLeaf::read(&issued.chain[0], "cluster.local")
            .unwrap()
            .spiffe_id,
        "spiffe://cluster.local/ns/shop/sa/orders"
    );
    assert_eq!(parsed.subject().iter().count(), 0);
    assert!(!parsed.is_ca());
    assert_eq!(
        parsed.public_key().subject_public_key.as_ref(),
        asker.public_key_raw()
    );
}

#[test]
fn a_leaf_ends_and_is_then_no_proof() {
    let all = made(start());
    let issued = issue(&all, "spiffe://cluster.local/ns/shop/sa/orders", start());
    let bundle = all.bundle();
    proves(&issued.chain, &bundle, start()).unwrap();
    proves(
        &issued.chain,
        &bundle,
        start() - BACKDATED + Duration::from_secs(1),
    )
    .unwrap();
    assert!(
        proves(
            &issued.chain,
            &bundle,
            start() + LEAF_LIFE + Duration::from_secs(2)
        )
        .is_err()
    );
}

#[test]
fn another_authority_of_the_same_trust_domain_proves_nothing() {
    let ours = made(start());
    let theirs = made(start());
    let issued = issue(&theirs, "spiffe://cluster.local/ns/shop/sa/orders", start());
    assert!(proves(&issued.chain, &ours.bundle(), start()).is_err());
}

#[test]
fn a_leaf_signs_no_leaf_and_no_authority_vouches_for_a_host() {
    let all = made(start());
    let line = all.signing();
    let intermediate = &line.signer;
    let mut params = CertificateParams::new(["orders.shop".to_owned()]).unwrap();
    authority::set_validity(&mut params, start(), start() + DAY);
    params.extended_key_usages = authority::leaf_usages();
    let key = KeyPair::generate().unwrap();
    let host = params
        .signed_by(&key, &intermediate.issuer().unwrap())
        .unwrap();
    let chain = [host.der().clone(), intermediate.certificate.clone()];
    let refused = proves(&chain, &all.bundle(), start()).unwrap_err();
    assert!(
        format!("{refused:?}").contains("NameConstraint"),
        "{refused:?}"
    );

    let leaf_key = KeyPair::generate().unwrap();
    let uri = "spiffe://cluster.local/ns/shop/sa/orders";
    let leaf = leaf::issue(line, &leaf_key, uri, None, start(), LEAF_LIFE).unwrap();
    let forger = rcgen::Issuer::from_ca_cert_der(&leaf.chain[0], &leaf_key).unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
    let chain = match params.signed_by(&key, &forger) {
        Ok(forged) => [vec![forged.der().clone()], leaf.chain].concat(),
        // rcgen itself knows better.
        Err(_) => return,
    };
    assert!(proves(&chain, &all.bundle(), start()).is_err());
}

#[test]
fn a_leaf_without_a_pod_or_of_another_trust_domain_is_no_workloads() {
    let all = made(start());
    let read = |issued: &Issued| PeerLeaf::read(&issued.chain[0], "cluster.local");

    let other = issue(&all, "spiffe://evil.example/ns/shop/sa/orders", start());
    assert_eq!(
        read(&other),
        Err(InvalidLeaf::OtherTrustDomain("evil.example".into()))
    );

    let elsewhere = issue(&all, "spiffe://cluster.local/ns/bank/sa/orders", start());
    assert_eq!(
        read(&elsewhere),
        Err(InvalidLeaf::NoPod),
        "the pod is of namespace shop"
    );

    for uri in [
        "spiffe://cluster.local/ns/shop",
        "https://cluster.local/ns/shop/sa/orders",
        "spiffe://cluster.local/ns/shop/sa/a/b",
    ] {
        assert_eq!(
            read(&issue(&all, uri, start())),
            Err(InvalidLeaf::NoWorkload)
        );
    }

    let issuer = all.signing();
    let uri = "spiffe://cluster.local/ns/shop/sa/orders";
    let own = leaf::issue(issuer, &key(), uri, None, start(), LEAF_LIFE).unwrap();
    assert_eq!(read(&own), Err(InvalidLeaf::NoPod));
    assert_eq!(
        PeerLeaf::read(b"x", "cluster.local"),
        Err(InvalidLeaf::Unreadable)
    );
}

#[test]
fn the_longest_names_fit_into_a_leaf() {
    let long = "a".repeat(253);
    let workload = Workload::new(&long, &long, &long, &long).unwrap();
    let all = made(start());
    let uri = workload.spiffe_id("cluster.local");
    let issuer = all.signing();
    let issued = leaf::issue(issuer, &key(), &uri, Some(&workload), start(), LEAF_LIFE).unwrap();
    assert_eq!(
        PeerLeaf::read(&issued.chain[0], "cluster.local")
            .unwrap()
            .workload(),
        workload
    );
}

#[tokio::test]
async fn an_operator_that_starts_again_goes_on_with_the_same_root() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).await;
    let issued = first.issue(&key(), &workload()).unwrap();
    let second = open(folder.path()).await;
    let bundle = second.bundle().borrow().clone();
    assert_eq!(bundle, *first.bundle().borrow());
    assert!(bundle.revision > 0);
    proves(&issued.chain, &bundle, SystemTime::now()).unwrap();
    let pem = std::fs::read_to_string(folder.path().join(store::ROOTS)).unwrap();
    assert_eq!(pem, bundle.to_pem());
}

#[tokio::test]
async fn keys_that_somebody_deletes_are_put_back_by_whoever_runs() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    let bundle = ca.bundle().borrow().clone();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    ca.refresh(SystemTime::now(), |_| None).await.unwrap();
    assert_eq!(
        *ca.bundle().borrow(),
        bundle,
        "nobody is told of another root"
    );
    let again = open(folder.path()).await;
    assert_eq!(*again.bundle().borrow(), bundle, "nor is anybody later");
}

/// Keeps nothing of the first saves: another replica was first each time.
struct Crowded {
    folder: Folder,
    rivals: Mutex<usize>,
}

impl KeyStore for Crowded {
    fn load(&self) -> BoxFuture<'_, Result<Option<Kept>, StoreError>> {
        self.folder.load()
    }

    fn save(
        &self,
        text: String,
        roots: String,
        version: Option<String>,
    ) -> BoxFuture<'_, Result<Saved, StoreError>> {
        let mut rivals = self.rivals.lock().unwrap();
        if *rivals == 0 {
            return self.folder.save(text, roots, version);
        }
        *rivals -= 1;
        let rival = made(SystemTime::now());
        Box::pin(async move {
            self.folder
                .save(rival.to_text(), rival.roots_pem(), version)
                .await?;
            Ok(Saved::Overtaken)
        })
    }
}

#[tokio::test]
async fn of_two_replicas_that_start_together_both_use_what_the_first_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let store = Crowded {
        folder: Folder::open(folder.path()).unwrap(),
        rivals: Mutex::new(1),
    };
    let late = Ca::open(Box::new(store), "cluster.local", LEAF_LIFE)
        .await
        .unwrap();
    let early = open(folder.path()).await;
    assert_eq!(*late.bundle().borrow(), *early.bundle().borrow());
}

#[tokio::test]
async fn keys_are_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let ca = open(folder.path()).await;
    let (issued, key) = ca.issue_operator().unwrap();
    let shown = format!("{ca:?} {issued:?} {key:?}");
    assert!(!shown.contains("PRIVATE"), "{shown}");
    assert!(
        !shown.contains(&format!("{:?}", key.serialized_der())),
        "{shown}"
    );
    let leaf = parse(&issued.chain[0]).unwrap();
    let name = leaf.subject_alternative_name().unwrap().unwrap();
    let expected = "spiffe://cluster.local/ns/meshwright-system/sa/meshwright-operator";
    assert!(
        matches!(name.value.general_names[..], [x509_parser::extensions::GeneralName::URI(uri)] if uri == expected)
    );
}
