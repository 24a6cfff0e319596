//! What an operator is shown: signing requests, leaves, bundles, the table of tokens.

use aws_lc_rs::digest::{SHA256, digest};
use operator::ca::{PeerLeaf, RequestedKey};
use operator::issuer::Issuer;
use operator::issuer::table::Table;
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};
use serde_json::json;
use sidecar::identity::store::parse_bundle;
use sidecar::identity::verify::identity_of;

use crate::fuzz;

#[test]
fn fuzz_signing_requests() {
    let key = KeyPair::generate().expect("a key");
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    fuzz(2_000, &[csr.der()], &[], |bytes| {
        // It is signed: whatever was changed in it, it names this key or is refused.
        if let Ok(requested) = RequestedKey::from_csr(bytes) {
            assert_eq!(requested.der_bytes(), key.der_bytes());
        }
    });
}

#[test]
fn fuzz_leaves_and_bundles() {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    let id = "spiffe://cluster.local/ns/shop/sa/orders";
    params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
    let leaf = params.self_signed(&key).expect("a leaf");
    fuzz(
        10_000,
        &[leaf.der()],
        &[b"spiffe://cluster.local/ns/", b"/sa/"],
        |bytes| {
            if let Ok(id) = identity_of(bytes, "cluster.local") {
                assert_eq!(id.trust_domain(), "cluster.local");
            }
            if let Ok(leaf) = PeerLeaf::read(bytes, "cluster.local") {
                assert!(leaf.spiffe_id.starts_with("spiffe://cluster.local/ns/"));
            }
        },
    );
    let pem = leaf.pem();
    let two = format!("{pem}text between\n{pem}");
    let pieces: &[&[u8]] = &[
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----END CERTIFICATE-----\n",
        b"-----",
    ];
    fuzz(5_000, &[pem.as_bytes(), two.as_bytes()], pieces, |bytes| {
        if let Ok(roots) = parse_bundle(bytes) {
            assert!(!roots.is_empty());
            // Whether they can be used is decided by who uses them.
            let _ = sidecar::net::tls::root_store(&roots);
        }
    });
}

#[test]
fn fuzz_the_table_of_tokens() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens.json");
    let hash: String = digest(&SHA256, b"secret")
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let table = json!({ "tokens": [{
        "sha256": hash, "namespace": "shop", "serviceAccount": "orders", "pod": "orders-1",
        "uid": "uid-1", "expires": 4_102_444_800_u64,
    }] });
    fuzz(
        1_000,
        &[table.to_string().as_bytes()],
        &[b"\"expires\":0", hash.as_bytes()],
        |bytes| {
            std::fs::write(&path, bytes).expect("a file");
            let table = Table::new(&path);
            runtime.block_on(async {
                let known = table.identify("secret").await;
                // Who is known is in the table, letter by letter.
                if let Ok(workload) = known {
                    let text = String::from_utf8_lossy(bytes).to_lowercase();
                    assert!(text.contains(&hash), "{workload:?}");
                }
                assert!(table.identify("another").await.is_err());
            });
        },
    );
}
