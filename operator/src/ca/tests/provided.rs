use super::*;
use crate::ca::provided::{Provided, Provider};
use rcgen::{
    BasicConstraints, Certificate, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
};

/// An issuer as cert-manager has one: a root somewhere, and what it gives to us.
struct Issuing {
    params: CertificateParams,
    key: KeyPair,
    root: Certificate,
}

/// Hands out what it was given last.
struct Handed(Arc<Mutex<Option<Parts>>>);

type Parts = (String, String, String);

impl Provider for Handed {
    fn provided(&self) -> BoxFuture<'_, Result<Option<Provided>, StoreError>> {
        let parts = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(parts.map(provided)) })
    }

    fn place(&self) -> String {
        "the Secret meshwright-system/mesh-ca".to_owned()
    }
}

fn provided((certificate, key, roots): Parts) -> Provided {
    Provided {
        certificate: certificate.into_bytes(),
        key: key.into_bytes(),
        roots: roots.into_bytes(),
    }
}

impl Issuing {
    fn new(name: &str) -> Issuing {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority::set_validity(&mut params, start(), start() + 2 * YEAR);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        Issuing { params, key, root }
    }

    /// What cert-manager writes, with what the test changes about the certificate.
    fn secret_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Parts {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "mesh");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        authority::set_validity(&mut params, start(), start() + 90 * DAY);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem(), self.root.pem())
    }

    fn secret(&self) -> Parts {
        self.secret_with(|_| ())
    }
}

fn read(parts: Parts) -> Result<Arc<Line>, String> {
    provided(parts).read(start() + DAY)
}

fn wanted(parts: Parts) -> Wanted {
    Wanted::Provided(Some(read(parts).unwrap()))
}

fn leaf_of(all: &Authorities, now: SystemTime) -> Issued {
    issue(all, "spiffe://cluster.local/ns/shop/sa/orders", now)
}

#[test]
fn what_cert_manager_writes_signs_leaves_that_its_roots_prove() {
    let now = start() + DAY;
    let first = wanted(Issuing::new("corporate").secret());
    let all = Authorities::first(&moment(now, &first)).unwrap();
    let issued = leaf_of(&all, now);
    assert_eq!(
        issued.chain.len(),
        2,
        "a leaf and the intermediate, no root"
    );
    proves(&issued.chain, &all.bundle(), now).unwrap();
    let again = Authorities::from_text(&all.to_text()).unwrap();
    proves(&leaf_of(&again, now).chain, &all.bundle(), now).unwrap();
}

/// PKCS #1, as cert-manager writes RSA unless told otherwise: what is inside of PKCS #8.
fn pkcs1(key: &KeyPair) -> String {
    let pkcs8 = key.serialized_der();
    // A sequence, a version, an algorithm without parameters, an octet string: 26 bytes for 2048 bits.
    pem_block("RSA PRIVATE KEY", &pkcs8[26..])
}

/// SEC 1, as it writes ECDSA: version, scalar, curve.
fn sec1(key: &KeyPair) -> String {
    let pkcs8 = key.serialized_der();
    let at = pkcs8
        .windows(2)
        .position(|two| two == [0x04, 0x20])
        .unwrap();
    let scalar = &pkcs8[at..at + 34];
    let curve = [
        0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let inner = [&[0x02, 0x01, 0x01], scalar, &curve].concat();
    let length = u8::try_from(inner.len()).unwrap();
    pem_block("EC PRIVATE KEY", &[vec![0x30, length], inner].concat())
}

#[test]
fn a_key_in_any_form_that_cert_manager_writes_is_read() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let ecdsa = KeyPair::generate().unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    for (pair, pem) in [
        (&rsa, pkcs1(&rsa)),
        (&rsa, rsa.serialize_pem()),
        (&ecdsa, sec1(&ecdsa)),
        (&ed25519, ed25519.serialize_pem()),
    ] {
        let itself = Issuing::new("itself")
            .params
            .self_signed(pair)
            .unwrap()
            .pem();
        let line = provided((itself.clone(), pem.clone(), itself)).read(start() + DAY);
        let line = line.unwrap_or_else(|why| panic!("{}: {why}", &pem[..30]));
        let all = Authorities::first(&moment(start(), &Wanted::Provided(Some(line)))).unwrap();
        let again = Authorities::from_text(&all.to_text()).unwrap();
        let issued = leaf_of(&again, start() + DAY);
        assert_eq!(
            issued.chain.len(),
            1,
            "a root that signs itself is not sent"
        );
        proves(&issued.chain, &all.bundle(), start() + DAY).unwrap();
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_a_sentence_that_names_the_part() {
    let issuing = Issuing::new("corporate");
    let other = Issuing::new("another");
    let (certificate, key, roots) = issuing.secret();
    let refused = |parts: Parts, says: &str| {
        let why = read(parts)
            .err()
            .unwrap_or_else(|| panic!("taken; not `{says}`"));
        assert!(why.contains(says), "{why}");
        assert!(!why.contains("PRIVATE"), "{why}");
    };
    let with = |change: fn(&mut CertificateParams)| issuing.secret_with(change);
    let empty = String::new;
    refused(
        (empty(), key.clone(), roots.clone()),
        "tls.crt holds no certificate",
    );
    refused(
        (certificate.clone(), key.clone(), empty()),
        "ca.crt holds no certificate",
    );
    refused(
        (certificate.clone(), empty(), roots.clone()),
        "tls.key is no private key",
    );
    refused(
        (certificate.clone(), other.secret().1, roots.clone()),
        "a certificate with another one's key",
    );
    refused(
        (certificate.clone(), key.clone(), other.root.pem()),
        "isn't signed by",
    );
    refused(
        with(|params| params.is_ca = IsCa::ExplicitNoCa),
        "isCA: true",
    );
    refused(
        with(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        "`cert sign`",
    );
    refused(
        with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        "`server auth` and `client auth`",
    );
    refused(
        with(|params| authority::set_validity(params, start() - 9 * DAY, start())),
        "has ended at 2026-01-01T00:00:00Z",
    );
    refused(
        with(|params| authority::set_validity(params, start() + 9 * DAY, start() + 90 * DAY)),
        "compare the clocks",
    );
    refused(
        (roots.clone() + &certificate, key.clone(), roots.clone()),
        "another one's key",
    );

    // The path length of one above leaves no room for ours.
    let mut narrow = Issuing::new("narrow");
    narrow.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuer = Issuer::from_params(&issuing.params, &issuing.key);
    let above = narrow.params.signed_by(&narrow.key, &issuer).unwrap();
    let (certificate, key, _) = narrow.secret();
    refused((certificate + &above.pem(), key, roots), "path length");
}

#[test]
fn a_renewal_below_the_same_root_signs_at_once_and_one_below_another_is_announced() {
    let now = start() + DAY;
    let (one, two) = (Issuing::new("one"), Issuing::new("two"));
    let first = wanted(one.secret());
    let all = Authorities::first(&moment(now, &first)).unwrap();
    let old = leaf_of(&all, now);

    let renewed = wanted(one.secret());
    let all = all.stepped(&moment(now, &renewed)).unwrap().unwrap();
    let new = leaf_of(&all, now);
    assert_ne!(new.chain[1], old.chain[1]);
    proves(&old.chain, &all.bundle(), now).unwrap();
    proves(&new.chain, &all.bundle(), now).unwrap();

    let other = wanted(two.secret());
    let mut all = all.stepped(&moment(now, &other)).unwrap().unwrap();
    assert!(matches!(all.stage, Stage::Announced { .. }));
    assert_eq!(all.bundle().roots.len(), 2);
    assert_eq!(
        leaf_of(&all, now).chain[1],
        new.chain[1],
        "the old one signs"
    );
    let old_bundle = TrustBundle {
        roots: all.bundle().roots[..1].to_vec(),
        revision: 1,
    };
    let mut at = now;
    while !matches!(all.stage, Stage::Settled(_)) {
        at += Duration::from_secs(600);
        all = all.stepped(&moment(at, &other)).unwrap().unwrap_or(all);
        if let Stage::Retiring { since, .. } = all.stage {
            // Who knows the old root alone knows the operator until the last moment.
            let (line, _) = all.serving(at, MARGIN);
            let own = leaf::issue(line, &key(), "spiffe://a/ns/b/sa/c", None, at, LEAF_LIFE);
            if at < since + LEAF_LIFE - MARGIN {
                proves(&own.unwrap().chain, &old_bundle, at).unwrap();
            }
        }
    }
    let took = at.duration_since(now).unwrap();
    assert!(took >= 2 * (LEAF_LIFE + MARGIN), "{took:?}");
    assert_eq!(all.bundle().roots.len(), 1);
    assert!(proves(&new.chain, &all.bundle(), now).is_err());
    proves(&leaf_of(&all, at).chain, &all.bundle(), at).unwrap();
}

#[test]
fn one_that_is_taken_back_before_it_signs_leaves_all_as_it_was() {
    let now = start() + DAY;
    let one = wanted(Issuing::new("one").secret());
    let two = wanted(Issuing::new("two").secret());
    let first = Authorities::first(&moment(now, &one)).unwrap();
    let announced = first.stepped(&moment(now, &two)).unwrap().unwrap();
    let back = announced.stepped(&moment(now, &one)).unwrap().unwrap();
    assert!(matches!(back.stage, Stage::Settled(_)));
    assert_eq!(back.bundle().roots, first.bundle().roots);
    assert!(back.bundle().revision > announced.bundle().revision);
}

#[test]
fn between_our_own_roots_and_provided_ones_there_is_a_rotation_both_ways() {
    let now = start() + DAY;
    let theirs = wanted(Issuing::new("corporate").secret());
    let mut all = made(start());
    let mut at = now;
    for (wanted, own) in [(&theirs, false), (&OWN, true)] {
        let before = all.bundle();
        let mut stages = 0;
        while all.signing().own.is_some() != own || !matches!(all.stage, Stage::Settled(_)) {
            let told = all.bundle();
            if let Some(next) = all.stepped(&moment(at, wanted)).unwrap() {
                all = next;
                stages += 1;
            }
            proves(&leaf_of(&all, at).chain, &told, at).unwrap();
            at += Duration::from_secs(3600);
        }
        assert_eq!(stages, 3);
        assert_ne!(all.bundle().roots, before.roots);
    }
}

#[tokio::test]
async fn what_becomes_unusable_changes_nothing_and_is_told_until_it_is_good_again() {
    let folder = tempfile::tempdir().unwrap();
    let issuing = Issuing::new("corporate");
    let handed = Arc::new(Mutex::new(None));
    let open = async || {
        let settings = Settings {
            trust_domain: "cluster.local".to_owned(),
            leaf_life: LEAF_LIFE,
            root_life: ROOT_LIFE,
        };
        let store = Box::new(Folder::open(folder.path()).unwrap());
        let provider = Box::new(Handed(handed.clone()));
        Ca::open_with(store, Some(provider), settings).await
    };
    let early = open().await.err().unwrap().to_string();
    assert!(
        early.contains("the Secret meshwright-system/mesh-ca"),
        "{early}"
    );
    assert!(early.contains("it isn't there yet"), "{early}");

    // Now is later than the test's own time.
    let lasting = |params: &mut CertificateParams| {
        authority::set_validity(params, start(), start() + 50 * YEAR);
    };
    let mut params = issuing.params.clone();
    lasting(&mut params);
    let root = params.self_signed(&issuing.key).unwrap();
    let good = || {
        let (certificate, key, _) = issuing.secret_with(lasting);
        Some((certificate, key, root.pem()))
    };
    *handed.lock().unwrap() = good();
    let ca = open().await.unwrap();
    let before = ca.issue(&key(), &workload()).unwrap();

    let (certificate, _, roots) = good().unwrap();
    *handed.lock().unwrap() = Some((certificate, good().unwrap().1, roots));
    ca.refresh(SystemTime::now(), |_| Some(0)).await.unwrap();
    let report = ca.report().unwrap();
    let problem = report.problem.unwrap();
    assert!(problem.contains("another one's key"), "{problem}");
    assert!(
        problem.ends_with("what was there before is kept"),
        "{problem}"
    );
    assert!(ca.has_problem() && report.stage == "settled");
    let meanwhile = ca.issue(&key(), &workload()).unwrap();
    assert_eq!(meanwhile.chain[1], before.chain[1]);
    // And an operator that starts meanwhile has it too.
    let other = open().await.unwrap();
    let elsewhere = other.issue(&key(), &workload()).unwrap();
    assert_eq!(elsewhere.chain[1], before.chain[1]);

    *handed.lock().unwrap() = good();
    ca.refresh(SystemTime::now(), |_| Some(0)).await.unwrap();
    assert!(!ca.has_problem());
    let after = ca.issue(&key(), &workload()).unwrap();
    assert_ne!(after.chain[1], before.chain[1]);
    proves(&after.chain, &ca.bundle().borrow(), SystemTime::now()).unwrap();
}
