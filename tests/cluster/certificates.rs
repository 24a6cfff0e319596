//! Who gets a certificate: asked for from inside the cluster, as a thief would.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use sidecar::net::connect::Connector;
use sidecar::net::tls::{anonymous_client, root_store};
use sidecar::net::to_operator::Operator;
use tests::cluster::{Cluster, wait_until};
use wire::discovery::SignRequest;
use wire::discovery::certificates_client::CertificatesClient;

use crate::installation::{PODS, SYSTEM, installed};
use crate::shop::Shop;

/// The audience of tokens for certificates.
const AUDIENCE: &str = "meshwright.dev/ca";

#[tokio::test]
async fn another_pods_token_a_wrong_audience_and_an_expired_token_get_no_certificate() -> Result<()>
{
    let shop = Shop::open(installed().await?, &[]).await?;
    let cluster = shop.cluster;
    let pod = shop.pod("web").await?;
    let object = cluster
        .json(&["get", "pod", &pod, "-n", &shop.namespace])
        .await?;
    let uid = object["metadata"]["uid"]
        .as_str()
        .context("a uid")?
        .to_owned();
    let bound = async |audience: &str| -> Result<String> {
        let audience = format!("--audience={audience}");
        let uid = format!("--bound-object-uid={uid}");
        let args = [
            "create",
            "token",
            "web",
            "-n",
            &shop.namespace,
            &audience,
            "--bound-object-kind=Pod",
            "--bound-object-name",
            &pod,
            &uid,
        ];
        Ok(cluster.kubectl(&args).await?.trim().to_owned())
    };

    // From the node: the token is good, but it is not this caller's.
    let stolen = bound(AUDIENCE).await?;
    let said = sign(cluster, &stolen)
        .await?
        .expect_err("another pod's token");
    assert!(said.contains(&pod), "{said}");
    assert!(!said.contains(&stolen), "the answer repeats the token");

    let said = sign(cluster, &bound("somebody-else").await?)
        .await?
        .expect_err("a wrong audience");
    assert!(said.contains("audience"), "{said}");

    let unbound = format!("--audience={AUDIENCE}");
    let args = ["create", "token", "web", "-n", &shop.namespace, &unbound];
    let unbound = cluster.kubectl(&args).await?;
    let said = sign(cluster, unbound.trim())
        .await?
        .expect_err("a token bound to no pod");
    assert!(said.contains("pod"), "{said}");

    // The API server issues none for less than ten minutes, so this one is of another kind of
    // past: signed by the cluster's own key, and long over.
    let expired = expired(cluster, &shop.namespace, &pod, &uid)?;
    let said = sign(cluster, &expired)
        .await?
        .expect_err("an expired token");
    assert!(
        said.contains("expired") || said.contains("not authenticated"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn the_token_of_a_pod_that_is_gone_gets_no_certificate() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    let pod = shop.pod("web").await?;
    let audience = format!("--audience={AUDIENCE}");
    let args = [
        "create",
        "token",
        "web",
        "-n",
        &shop.namespace,
        &audience,
        "--bound-object-kind=Pod",
        "--bound-object-name",
        &pod,
    ];
    let token = shop.cluster.kubectl(&args).await?.trim().to_owned();
    shop.cluster
        .kubectl(&["delete", "pod", &pod, "-n", &shop.namespace, "--now"])
        .await?;
    wait_until("the token is refused with its pod", PODS, async || {
        let said = sign(shop.cluster, &token)
            .await?
            .expect_err("the token of a pod that is gone");
        // While the pod ends, what refuses is that the token is used at another address than its
        // own: that is another promise.
        anyhow::ensure!(
            said.contains("is gone") || said.contains("knows no such token"),
            "{said}"
        );
        Ok(())
    })
    .await
}

/// Asks the operator, from the node, to sign for a token: what it answers.
async fn sign(cluster: &Cluster, token: &str) -> Result<Result<(), String>> {
    let service = cluster
        .json(&["get", "service", "meshwright-operator", "-n", SYSTEM])
        .await?;
    let address: Ipv4Addr = service["spec"]["clusterIP"]
        .as_str()
        .context("an address")?
        .parse()?;
    let roots = roots(cluster).await?;
    let netns = cluster.netns().to_owned();
    let token = token.to_owned();
    // A thread of its own: the namespace it enters is the thread's alone.
    tokio::task::spawn_blocking(move || {
        std::thread::spawn(move || -> Result<Result<(), String>> {
            let namespace = std::fs::File::open(&netns)?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(ask(address, &roots, token))
        })
        .join()
        .map_err(|_| anyhow::anyhow!("the asking thread panicked"))?
    })
    .await?
}

async fn ask(address: Ipv4Addr, roots: &[Vec<u8>], token: String) -> Result<Result<(), String>> {
    let operator = Operator {
        address: format!("{address}:15012"),
        trust_domain: "cluster.local".into(),
        connector: Connector::default(),
    };
    let client = Arc::new(anonymous_client(root_store(roots)?)?);
    let channel = operator.connect(client).await?;
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    let request = SignRequest {
        csr: csr.der().to_vec().into(),
        token,
    };
    let answer = CertificatesClient::new(channel).sign(request).await;
    Ok(answer
        .map(drop)
        .map_err(|status| status.message().to_owned()))
}

/// The trust bundle, as a pod is given it.
async fn roots(cluster: &Cluster) -> Result<Vec<Vec<u8>>> {
    let secret = cluster
        .json(&["get", "secret", "meshwright-ca", "-n", SYSTEM])
        .await?;
    let data = secret["data"].as_object().context("data")?;
    let pem = data
        .get("roots.pem")
        .and_then(|value| value.as_str())
        .context("roots.pem")?;
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(pem)?;
    Ok(sidecar::identity::store::parse_bundle(&pem)?)
}

/// A token of the pod's service account that ended an hour ago.
fn expired(cluster: &Cluster, namespace: &str, pod: &str, uid: &str) -> Result<String> {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let path = cluster.state().join("pki/service-accounts.key");
    let pem = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let der = PrivateKeyDer::from_pem_slice(&pem)?;
    let key =
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der())?;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": [AUDIENCE],
        "iat": now - 7200, "nbf": now - 7200, "exp": now - 3600,
        "sub": format!("system:serviceaccount:{namespace}:web"),
        "kubernetes.io": {
            "namespace": namespace,
            "pod": { "name": pod, "uid": uid },
            "serviceaccount": { "name": "web", "uid": "00000000-0000-0000-0000-000000000000" },
        },
    });
    let header = json!({ "alg": "ES256", "typ": "JWT" });
    let signed = format!(
        "{}.{}",
        url.encode(header.to_string()),
        url.encode(claims.to_string())
    );
    let random = aws_lc_rs::rand::SystemRandom::new();
    let signature = key.sign(&random, signed.as_bytes())?;
    Ok(format!("{signed}.{}", url.encode(signature.as_ref())))
}
