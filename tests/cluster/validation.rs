//! What whoever applies an object is told at once, and what a down operator keeps nobody from.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, run, wait_until};

use crate::installation::{PODS, SYSTEM, installed, operator_stays};
use crate::life::{back, operators, scale};
use crate::shop::Shop;

/// An object of the mesh.
pub(crate) fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": namespace }, "spec": spec,
    })
}

/// Whether kubectl applied it, and all that it said.
pub(crate) async fn applied(cluster: &Cluster, object: &Value) -> Result<(bool, String)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("object.json");
    std::fs::write(&file, object.to_string())?;
    let mut command = cluster.command("kubectl");
    command.args(["apply", "--server-side", "-f"]).arg(&file);
    let output = command.output().await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[tokio::test]
async fn whoever_applies_an_object_is_told_at_once_what_its_status_would_say() -> Result<()> {
    let cluster = installed().await?;
    let _operator = operator_stays().await;
    let namespace = cluster.namespace("told").await?;
    let route = |spec| object("ApiRoute", &namespace, "orders", &spec);

    // What contradicts itself is not stored.
    let regex = json!({ "path": { "type": "Regex", "value": "(" } });
    let bad = route(json!({ "hosts": ["orders"], "rules": [{ "matches": [regex] }] }));
    let (stored, said) = applied(cluster, &bad).await?;
    assert!(!stored, "{said}");
    assert!(
        said.contains("denied the request: spec.hosts[0]: "),
        "{said}"
    );
    let sentence =
        "spec.rules[0].matches[0].path.value: unclosed group (at character 1). (Invalid)";
    assert!(said.contains(sentence), "{said}");
    let none = cluster
        .kubectl(&["get", "apiroutes", "-n", &namespace, "-o", "name"])
        .await?;
    assert_eq!(none, "");

    // What may come later is stored, and told in the words that its status then has.
    let early = route(json!({ "hosts": ["orders"] }));
    let (stored, said) = applied(cluster, &early).await?;
    let sentence =
        format!("spec.hosts[0]: there is no Service \"orders\" in namespace {namespace}");
    assert!(
        stored && said.contains(&format!("Warning: {sentence}")),
        "{said}"
    );
    wait_until("the status says the same", PODS, async || {
        let route = cluster
            .json(&["get", "apiroute", "orders", "-n", &namespace])
            .await?;
        ensure!(
            route["status"]
                .to_string()
                .contains(&sentence.replace('"', "\\\"")),
            "{route}"
        );
        Ok(())
    })
    .await?;

    // What is legal and unwise.
    let limit = json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "orders" }],
                        "limits": [{ "name": "all", "requests": 9, "per": "24h" }] });
    let (stored, said) =
        applied(cluster, &object("RateLimit", &namespace, "orders", &limit)).await?;
    assert!(stored && said.contains("write scope Shared"), "{said}");

    // A dry run is told the same, and changes nothing.
    let args = ["apply", "--dry-run=server", "-f", "-"];
    let refused = run(cluster.command("kubectl").args(args), &bad.to_string()).await;
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("denied the request: spec.hosts[0]"),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn a_down_operator_lets_no_pod_around_the_mesh_and_blocks_nothing_else() -> Result<()> {
    let cluster = installed().await?;
    let shop = Shop::alone(cluster, &[]).await?;
    scale(cluster, 0).await?;
    let held = without_an_operator(&shop).await;
    // The operator's own pods can be made without it, or it would never come back.
    scale(cluster, 1).await?;
    back(&shop).await?;
    held
}

async fn without_an_operator(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    wait_until("the operator is gone", PODS, async || {
        let pods = operators(cluster).await?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    })
    .await?;
    let image = format!("--image={}", cluster.web_image().await?);
    let pod = async |namespace: &str, label: &str| {
        let (dry, label) = ("--dry-run=server", format!("--labels={label}"));
        let args = ["run", "probe", "-n", namespace, &image, dry, &label];
        cluster.kubectl(&args).await
    };
    let (plain, asks) = ("app=probe", "meshwright.dev/inject=enabled");
    // No pod of a meshed namespace without its sidecar, nor one that asks for it, and who makes it is told by whom.
    for (webhook, namespace, label) in [
        ("namespaces", &*shop.namespace, plain),
        ("pods", "default", asks),
    ] {
        let refused = pod(namespace, label).await.err();
        let refused = refused.context("a pod without a sidecar")?.to_string();
        let webhook = format!("failed calling webhook \"{webhook}.inject.meshwright.dev\"");
        ensure!(
            refused.contains(&webhook) && refused.contains("meshwright-operator"),
            "{refused}"
        );
    }
    // The cluster's own and the operator's are never asked about, whatever they ask for.
    for (namespace, label) in [
        ("kube-system", asks),
        (SYSTEM, asks),
        ("kube-system", plain),
        (SYSTEM, plain),
        ("default", plain),
    ] {
        pod(namespace, label).await?;
    }
    // Even what it would refuse: its status says so once there is somebody to say it.
    for spec in [
        json!({ "hosts": ["web"] }),
        json!({ "hosts": ["web", "x.elsewhere"] }),
    ] {
        let route = object("ApiRoute", &shop.namespace, "web", &spec);
        let (stored, said) = applied(cluster, &route).await?;
        ensure!(stored, "{said}");
    }
    let deleted = ["delete", "apiroute", "web", "-n", &shop.namespace];
    cluster.kubectl(&deleted).await?;
    Ok(())
}
