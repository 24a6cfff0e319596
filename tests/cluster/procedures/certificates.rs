//! `docs/certificates.md`: another root on demand, one of cert-manager's, and what helps when one has ended.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;
use tests::cluster::{Cluster, wait_until};

use super::Own;
use crate::installation::{PODS, SYSTEM, root};
use crate::page::{Line, Page, Shell};
use crate::shop::Shop;

const ENDED: &str = "When a root has ended";
const CERT_MANAGER: &str = "A root of your own, with cert-manager";
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// So long that everything is made anew below such a root before it ends, on a machine that does other things.
const SHORT: Duration = Duration::from_secs(150);

/// Of cert-manager's kinds the one that the page shows, with those fields and words of its API that are about a
/// Certificate of an authority. It shows that an API server takes the page's YAML where unknown fields are refused;
/// what cert-manager does with it is its own.
const STAND_IN: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: certificates.cert-manager.io }
spec:
  group: cert-manager.io
  scope: Namespaced
  names: { kind: Certificate, plural: certificates, singular: certificate }
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              required: [issuerRef, secretName]
              properties:
                isCA: { type: boolean }
                commonName: { type: string }
                secretName: { type: string }
                duration: { type: string }
                renewBefore: { type: string }
                privateKey:
                  type: object
                  properties:
                    algorithm: { type: string, enum: [RSA, ECDSA, Ed25519] }
                    encoding: { type: string, enum: [PKCS1, PKCS8] }
                    rotationPolicy: { type: string, enum: [Never, Always] }
                    size: { type: integer }
                usages:
                  type: array
                  items: { type: string, enum: [signing, digital signature, cert sign, crl sign, server auth, client auth] }
                issuerRef:
                  type: object
                  required: [name]
                  properties: { name: { type: string }, kind: { type: string }, group: { type: string } }
"#;

/// Does what cert-manager would do with the page's Certificate: an issuer, whose root has this name and life, signs
/// what it says, and the result is written into the Secret that it names.
async fn issue(cluster: &Cluster, root: &str, life: Duration) -> Result<()> {
    let get = [
        "get",
        "certificates.cert-manager.io",
        "mesh-ca",
        "-n",
        SYSTEM,
    ];
    let spec = &cluster.json(&get).await?["spec"];
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a text");
    ensure!(spec["privateKey"]["algorithm"] == "ECDSA" && spec["privateKey"]["size"] == 256);
    let authority = |name: &str| -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(Duration::from_secs(60));
        params.not_after = epoch + now + life;
        Ok(params)
    };
    let above = authority(root)?;
    let above_key = KeyPair::generate()?;
    let above_certificate = above.self_signed(&above_key)?;

    let mut params = authority(&text(&spec["commonName"])?)?;
    if spec["isCA"] != true {
        params.is_ca = IsCa::NoCa;
    }
    let usages = spec["usages"].as_array().context("usages")?;
    let usages = usages.iter().map(|usage| match usage.as_str() {
        Some("cert sign") => Ok(KeyUsagePurpose::KeyCertSign),
        Some("crl sign") => Ok(KeyUsagePurpose::CrlSign),
        Some("digital signature") => Ok(KeyUsagePurpose::DigitalSignature),
        other => anyhow::bail!("a usage that this test does not know: {other:?}"),
    });
    params.key_usages = usages.collect::<Result<_>>()?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &Issuer::from_params(&above, &above_key))?;
    let name = text(&spec["secretName"])?;
    let pem = [
        certificate.pem(),
        key.serialize_pem(),
        above_certificate.pem(),
    ];
    let secret = crate::rotation::provided(&name, pem.each_ref().map(String::as_str));
    cluster.apply(&secret.to_string()).await.map(drop)
}

/// A line with all words out of it that differ from root to root.
fn masked(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let bare = word.trim_end_matches([',', ')']);
        let hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_time = bare.len() == 20 && bare.ends_with('Z') && bare.contains('T');
        match bare.len() {
            20 if is_time => word.replace(bare, "TIME"),
            8 | 16 if hex => word.replace(bare, "HEX"),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What the operator reports.
async fn status(shell: &Shell) -> Result<Value> {
    let said = shell
        .succeeds("meshwright certificates status --json")
        .await?;
    serde_json::from_str(&said).context(said)
}

/// The subjects and fingerprints of the roots of a part, such as `signs`.
fn roots(report: &Value, part: &str) -> Vec<String> {
    let all = report["certificates"].as_array().into_iter().flatten();
    let roots = all.filter(|one| one["kind"] == "root" && one["part"] == part);
    roots
        .map(|one| format!("{} {}", one["subject"], one["fingerprint"]))
        .collect()
}

/// Waits until the operator reports a root of that name in that part.
async fn has_root(shell: &Shell, part: &str, name: &str) -> Result<Value> {
    wait_until(&format!("{part}: {name}"), PODS, async || {
        let report = status(shell).await?;
        let found = roots(&report, part);
        ensure!(found.iter().any(|root| root.contains(name)), "{report}");
        Ok(report)
    })
    .await
}

/// Waits until `web` is answered by `orders`, or is not any more.
async fn answered(shop: &Shop, wanted: bool) -> Result<()> {
    wait_until(&format!("answered: {wanted}"), PODS + SHORT, async || {
        let (status, body) = shop.get("http://orders/").await?;
        ensure!((status == 200) == wanted, "{status} {body}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn roots_are_rotated_provided_and_replaced_after_their_end_as_their_page_says() -> Result<()>
{
    let own = Own::start().await?;
    let cluster = own.cluster;
    own.imports().await?;
    own.installs(&root().join("charts/meshwright"), &[]).await?;
    own.applications(&[("shop", "orders", 1), ("shop", "web", 1)])
        .await?;
    let shop = Shop::apart(cluster, "shop");
    let shell = Shell::open(cluster)?;
    let page = &mut Page::read("docs/certificates.md")?;
    answered(&shop, true).await?;
    page.types_line(&shell, "meshwright certificates status")
        .await?;
    page.types_line(&shell, "meshwright check --cluster")
        .await?;

    // On demand. What is shown is what is said, but for names, times and prints.
    let rotation = "Rotation of the root";
    let [Line { answer, .. }] = &page.block(rotation, 0)?[..] else {
        anyhow::bail!("not one line");
    };
    let said = page.types(&shell, rotation, 0).await?.concat();
    let [shown, seen] = [answer.join("\n"), said].map(|text| {
        let lines = text.trim_end().lines().map(masked);
        lines.collect::<Vec<_>>()
    });
    assert_eq!(shown, seen);

    // Roots of the operator's own, as if they had ended.
    let before = status(&shell).await?;
    page.types(&shell, ENDED, 1).await?;
    page.types(&shell, ENDED, 2).await?;
    answered(&shop, true).await?;
    let after = status(&shell).await?;
    ensure!(after["stage"] == "settled", "{after}");
    let known = [roots(&before, "signs"), roots(&before, "next")].concat();
    let now = roots(&after, "signs");
    ensure!(
        now.len() == 1 && !known.contains(&now[0]),
        "{before} {after}"
    );

    provided(page, &shell, &shop).await?;
    page.is_typed_whole(&[])
}

async fn provided(page: &mut Page, shell: &Shell, shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    cluster.apply(STAND_IN).await?;
    let defined = ["wait", "--for=condition=Established", "crd", "--all"];
    cluster.kubectl(&defined).await?;
    let yaml = page.text().split("```yaml\n").nth(1);
    let yaml = yaml.and_then(|block| block.split("```").next());
    cluster
        .apply(yaml.context("the page's Certificate")?)
        .await?;
    issue(cluster, "Company root", YEAR).await?;
    page.types(shell, CERT_MANAGER, 0).await?;
    let report = has_root(shell, "next", "Company root").await?;
    ensure!(report["stage"] == "announced", "{report}");

    // Below a root that ends soon, which is there from the beginning.
    issue(cluster, "Root that ends", SHORT).await?;
    page.types(shell, ENDED, 1).await?;
    has_root(shell, "signs", "Root that ends").await?;
    page.types(shell, ENDED, 2).await?;
    answered(shop, true).await?;
    answered(shop, false).await?;
    issue(cluster, "Root after it", YEAR).await?;
    page.types(shell, ENDED, 0).await?;
    page.types(shell, ENDED, 2).await?;
    answered(shop, true).await?;
    has_root(shell, "signs", "Root after it").await.map(drop)
}
