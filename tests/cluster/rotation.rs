//! Another root takes the place of the one that signs, in a cluster: asked for by a person, and provided
//! as cert-manager does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::{Value, json};
use tests::cluster::{Cluster, run, wait_until};
use tokio::process::Command;

use crate::installation::{PODS, SYSTEM, installed, operator_before_it_has_gone, root};
use crate::load::under_load;
use crate::shop::Shop;

/// A step of a rotation takes a leaf's life, here a minute, and what replicas take to know of it.
const STEP: Duration = Duration::from_secs(180);
/// The Secret that cert-manager would write.
const SECRET: &str = "mesh-ca";

/// Whom `web` calls meanwhile, and how often: `relay` calls on, so that leaves are renewed on both sides
/// of it.
const CALLS: &[(&str, &str)] = &[
    ("http://orders/", "20ms"),
    ("http://orders/", "20ms"),
    ("http://relay/?from=http://orders/", "20ms"),
];
/// How many calls there are, at least.
const ENOUGH: usize = 20_000;

/// An issuer of the company's.
struct Corporate {
    params: CertificateParams,
    key: KeyPair,
    root: Certificate,
}

impl Corporate {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Corporate root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?;
        Ok(Self { params, key, root })
    }

    /// Issues, and writes what cert-manager writes.
    async fn issues(&self, cluster: &Cluster) -> Result<()> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "mesh");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        let secret = provided(
            SECRET,
            [&certificate.pem(), &key.serialize_pem(), &self.root.pem()],
        );
        cluster.apply(&secret.to_string()).await.map(drop)
    }
}

/// What cert-manager writes: a certificate that signs, its key, and the root above it.
pub(crate) fn provided(name: &str, [certificate, key, root]: [&str; 3]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": name, "namespace": SYSTEM },
        "data": {
            "tls.crt": STANDARD.encode(certificate),
            "tls.key": STANDARD.encode(key),
            "ca.crt": STANDARD.encode(root),
        },
    })
}

/// `meshwright certificates …`, as a person types it.
fn certificates(cluster: &Cluster, arguments: &[&str]) -> Result<Command> {
    let mut command = cluster.command(tests::mesh::binary("meshwright")?);
    command.arg("certificates").args(arguments).arg("--cluster");
    Ok(command)
}

async fn status(cluster: &Cluster) -> Result<Value> {
    let said = run(&mut certificates(cluster, &["status", "--json"])?, "").await?;
    serde_json::from_str(&said).context(said)
}

/// Waits until the operator's report is as it should be.
async fn until(
    cluster: &Cluster,
    what: &str,
    limit: Duration,
    is: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait_until(what, limit, async || {
        let report = status(cluster).await?;
        ensure!(is(&report), "{report}");
        Ok(report)
    })
    .await
}

/// Gives the operator other values, and waits until it runs with them.
async fn upgrade(cluster: &Cluster, values: &[&str]) -> Result<()> {
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let upgrade = [
        "upgrade",
        "meshwright",
        chart,
        "--namespace",
        SYSTEM,
        "--reuse-values",
    ];
    let values = values.iter().flat_map(|value| ["--set", value]);
    let args: Vec<&str> = upgrade.into_iter().chain(values).collect();
    cluster.helm(&args).await?;
    let operator = "deployment/meshwright-operator";
    let rollout = ["rollout", "status", operator, "-n", SYSTEM, "--timeout=90s"];
    cluster.kubectl(&rollout).await?;
    operator_before_it_has_gone(cluster).await
}

/// All pods have leaves of a minute by now, and the operator can't know: it would wait for a day.
async fn forget_longer_leaves(cluster: &Cluster) -> Result<()> {
    wait_until("the Secret says of no longer leaves", PODS, async || {
        let get = ["get", "secret", "meshwright-ca", "-n", SYSTEM];
        let mut secret = cluster.json(&get).await?;
        let kept = secret["data"]["authority.json"]
            .as_str()
            .context("an authority")?;
        let mut kept: Value = serde_json::from_slice(&STANDARD.decode(kept)?)?;
        ensure!(
            kept["leafLifeSeconds"] == 60,
            "the operator has not looked yet"
        );
        if let Some(kept) = kept.as_object_mut() {
            kept.remove("longerUntil");
        }
        secret["data"]["authority.json"] = json!(STANDARD.encode(kept.to_string()));
        let mut replacing = cluster.command("kubectl");
        replacing.args(["replace", "-f", "-"]);
        run(&mut replacing, &secret.to_string()).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_root_is_asked_for_and_one_of_cert_managers_takes_over_under_load() -> Result<()> {
    let shop = Shop::alone(installed().await?, &[("orders", 2), ("relay", 1)]).await?;
    let rotated = rotated(&shop).await;
    // However that went, the other tests have the operator that they expect.
    let back = ["ca.secretName=", "ca.leafLife=24h"];
    upgrade(shop.cluster, &back).await?;
    rotated
}

async fn rotated(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    upgrade(cluster, &["ca.leafLife=1m"]).await?;
    for app in ["web", "orders", "relay"] {
        let deployment = format!("deployment/{app}");
        let namespace = ["-n", shop.namespace.as_str()];
        let restart = [&["rollout", "restart", &deployment], &namespace[..]].concat();
        cluster.kubectl(&restart).await?;
        let done = ["rollout", "status", &deployment, "--timeout=90s"];
        cluster.kubectl(&[&done, &namespace[..]].concat()).await?;
    }
    forget_longer_leaves(cluster).await?;
    under_load(shop, CALLS, ("a rotation", ENOUGH), async || {
        to_the_companys_root(shop).await
    })
    .await
}

/// Another root is asked for, and the company's takes its place.
async fn to_the_companys_root(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    let said = run(&mut certificates(cluster, &["rotate"])?, "").await?;
    ensure!(said.contains("stage: announced"), "{said}");
    let refused = run(&mut certificates(cluster, &["rotate"])?, "").await;
    let refused = format!("{:#}", refused.err().context("a second rotation begins")?);
    ensure!(refused.contains("under way"), "{refused}");

    // What was announced has not signed yet, so that another root can still take its place.
    let corporate = Corporate::new()?;
    corporate.issues(cluster).await?;
    upgrade(cluster, &["ca.secretName=mesh-ca"]).await?;
    let has = |report: &Value, part: &str, subject: &str| {
        let mut all = report["certificates"].as_array().into_iter().flatten();
        all.any(|one| {
            one["part"] == part
                && one["subject"]
                    .as_str()
                    .is_some_and(|own| own.contains(subject))
        })
    };
    until(cluster, "the company's root is next", PODS, |report| {
        has(report, "next", "Corporate root")
    })
    .await?;
    until(cluster, "the company's root signs", STEP, |report| {
        has(report, "signs", "Corporate root")
    })
    .await?;
    let settled = until(cluster, "no other root is trusted", STEP, |report| {
        report["stage"] == "settled"
    })
    .await?;

    // Renewed below the same root, it signs at once, and a workload gets a leaf of it.
    let signs = |report: &Value| {
        let all = report["certificates"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = all.into_iter().find(|one| one["kind"] == "intermediate");
        found.map(|one| one["fingerprint"].clone())
    };
    corporate.issues(cluster).await?;
    until(cluster, "the newer one signs", PODS, |report| {
        report["stage"] == "settled" && signs(report) != signs(&settled)
    })
    .await?;
    // What is wrong is said, and changes nothing.
    let wrong = [
        "patch",
        "secret",
        SECRET,
        "-n",
        SYSTEM,
        "--type=merge",
        "-p",
    ];
    let wrong = [&wrong[..], &[r#"{"data":{"tls.key":""}}"#]].concat();
    cluster.kubectl(&wrong).await?;
    let problem = until(cluster, "a problem is told", PODS, |report| {
        !report["problem"].is_null()
    });
    let problem = problem.await?["problem"].to_string();
    ensure!(problem.contains("tls.key"), "{problem}");
    let mut checking = cluster.command(tests::mesh::binary("meshwright")?);
    let checked = checking.args(["check", "--cluster"]).output().await?;
    let checked = (checked.status.code(), String::from_utf8(checked.stdout)?);
    ensure!(
        checked.0 == Some(1) && checked.1.contains("tls.key"),
        "{checked:?}"
    );
    Ok(())
}
