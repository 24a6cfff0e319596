//! `docs/install.md` and `docs/pod-security.md`: into a cluster by both ways, the node's plugin, and out again.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, wait_until};

use super::{INJECT, Own};
use crate::cni::restricted;
use crate::installation::{PODS, SYSTEM, import_built, operator_before_it_has_gone};
use crate::page::{Page, Shell, files};

/// Lines of `docs/install.md` that this test does not type.
const EXCEPT: &[(&str, &str)] = &[
    ("make images", "it has made what this test installs"),
    (
        "export REGISTRY=registry.example/meshwright     # one that the cluster pulls from",
        "there is no registry here: `images.rs` looks at the archives",
    ),
    (
        "for part in operator sidecar cni; do\n    skopeo copy --all oci-archive:target/images/$part-0.2.0.tar \
         docker://$REGISTRY/$part:0.2.0\n    echo \"$part: $(skopeo inspect --format '{{.Digest}}' \
         docker://$REGISTRY/$part:0.2.0)\"\n  done",
        "the same",
    ),
    (
        "helm rollback meshwright -n meshwright-system",
        "`upgrade.rs` goes back",
    ),
];

const CHECK: &str = "meshwright check --cluster";
const TEST: &str = "helm test meshwright -n meshwright-system";
/// What has a digest in the page's values.
const PARTS: [&str; 2] = ["operator", "sidecar"];

/// Takes the definitions away, which an uninstallation leaves.
async fn without_definitions(cluster: &Cluster) -> Result<()> {
    let kinds = ["apiroutes", "ratelimits", "retrypolicies"];
    let names = kinds.map(|kind| format!("{kind}.meshwright.dev"));
    let names = names.iter().map(String::as_str);
    let delete: Vec<&str> = ["delete", "crd"].into_iter().chain(names).collect();
    cluster.kubectl(&delete).await.map(drop)
}

/// What the operator's Deployment is.
async fn operator(cluster: &Cluster) -> Result<Value> {
    let get = ["get", "deployment", "meshwright-operator", "-n", SYSTEM];
    cluster.json(&get).await
}

#[tokio::test]
async fn a_mesh_is_installed_by_both_ways_with_the_nodes_plugin_and_taken_out_as_the_pages_say()
-> Result<()> {
    let own = Own::start().await?;
    let cluster = own.cluster;
    own.imports().await?;
    import_built(cluster, "cni").await?;
    let page = &mut Page::read("docs/install.md")?;
    by_the_command(page, cluster).await?;
    with_definitions_of_others(page, cluster).await?;
    by_helm(page, cluster).await?;
    page.is_typed_whole(EXCEPT)
}

async fn by_the_command(page: &mut Page, cluster: &'static Cluster) -> Result<()> {
    let shell = Shell::open(cluster)?.writes(&[
        (
            "helm template …",
            "helm template meshwright charts/meshwright -n meshwright-system",
        ),
        ("KEY=VALUE", "logLevel=debug"),
    ]);
    let said = page.types_line(&shell, CHECK).await?;
    ensure!(said.contains("you may create all that it makes"), "{said}");
    page.types_line(&shell, "meshwright install --dry-run")
        .await?;
    let rendered = page
        .types_line(&shell, "meshwright install --render")
        .await?;
    let of_helm = page
        .types_line(&shell, "helm template … --kube-version 1.35.0")
        .await?;
    let objects = |text: &str| text.matches("\nkind: ").count();
    ensure!(objects(&rendered) > 10 && objects(&rendered) == objects(&of_helm));

    // By digest: nothing can be pulled by one here, and what would be is in what would be applied.
    for (name, text) in files(page.text()) {
        let digest = "0123456789abcdef".repeat(4);
        let text = text.replace("sha256:…", &format!("sha256:{digest}"));
        std::fs::write(shell.folder().join(name), text)?;
    }
    let platform = "meshwright install --ha -f platform.yaml";
    ensure!(page.text().contains(platform));
    let rendered = shell.succeeds(&format!("{platform} --render")).await?;
    for part in PARTS {
        let image = format!("registry.example/meshwright/{part}@sha256:0123");
        ensure!(rendered.contains(&image), "{rendered}");
    }

    page.types_line(&shell, "meshwright install").await?;
    page.types_line(&shell, TEST).await?;
    let said = page.types_line(&shell, CHECK).await?;
    ensure!(!said.contains("(docs/"), "{said}");
    page.types_line(&shell, "meshwright upgrade --set KEY=VALUE")
        .await?;
    page.types_line(&shell, "meshwright upgrade").await?;
    let env = operator(cluster).await?["spec"]["template"].to_string();
    ensure!(env.contains("\"debug\""), "{env}");
    page.types_line(&shell, "meshwright uninstall").await?;
    without_definitions(cluster).await
}

/// Three operators, and definitions that Helm does not own.
async fn with_definitions_of_others(page: &mut Page, cluster: &'static Cluster) -> Result<()> {
    let shell = Shell::open(cluster)?.writes(&[("--ha", "--ha --set crds.install=false")]);
    let apply = "kubectl apply --server-side -f crds/";
    for name in ["docs/upgrade.md", "docs/cli.md"] {
        let of_others = &mut Page::read(name)?;
        of_others.types_line(&shell, apply).await?;
    }
    page.types_line(&shell, "meshwright install --ha").await?;
    let ready = &operator(cluster).await?["status"]["readyReplicas"];
    ensure!(*ready == 3, "{ready}");
    let said = shell.succeeds(CHECK).await?;
    ensure!(!said.contains("(docs/"), "{said}");
    page.types_line(&shell, "meshwright uninstall").await?;
    without_definitions(cluster).await
}

async fn by_helm(page: &mut Page, cluster: &'static Cluster) -> Result<()> {
    let network = cluster.state().join("cni/10-bridge.conflist");
    let before: Value = serde_json::from_str(&std::fs::read_to_string(&network)?)?;
    let state = cluster.state().display();
    // Where this cluster's node has its plugins and networks.
    let folders = format!("cni.binDir={state}/cni-bin,cni.confDir={state}/cni");
    let shell = Shell::open(cluster)?.writes(&[
        (
            "…",
            "meshwright charts/meshwright -n meshwright-system --wait",
        ),
        ("KEY=VALUE", &folders),
    ]);
    let install =
        "helm install meshwright charts/meshwright -n meshwright-system --create-namespace --wait";
    page.types_line(&shell, install).await?;
    let set = "helm upgrade … --reset-then-reuse-values --set KEY=VALUE";
    page.types_line(&shell, set).await?;
    page.types_line(&shell, "helm upgrade …").await?;
    page.types_line(&shell, TEST).await?;

    let security = &mut Page::read("docs/pod-security.md")?;
    with_the_plugin(security, &shell, cluster).await?;
    security.is_typed_whole(&[])?;

    page.types_line(&shell, "helm uninstall meshwright -n meshwright-system")
        .await?;
    wait_until("the network is as before", PODS, async || {
        let now: Value = serde_json::from_str(&std::fs::read_to_string(&network)?)?;
        ensure!(now == before, "{now}");
        Ok(())
    })
    .await
}

async fn with_the_plugin(page: &mut Page, shell: &Shell, cluster: &Cluster) -> Result<()> {
    let installing = "Installing the plugin";
    let image = cluster.web_image().await?;
    page.types(shell, installing, 0).await?;
    let captured = async |namespace: &str, label: &str| -> Result<()> {
        cluster.kubectl(&["create", "namespace", namespace]).await?;
        cluster
            .kubectl(&["label", "namespace", namespace, INJECT, label])
            .await?;
        let orders = restricted("orders", namespace, image);
        // The webhook may be of an operator that comes or goes.
        cluster.apply(&orders).await?;
        cluster.ready(namespace, "deployment/orders", PODS).await?;
        let pods = cluster.json(&["get", "pods", "-n", namespace]).await?;
        let init = pods["items"][0]["spec"]["initContainers"].as_array();
        let init = init.context("init containers")?;
        // Nobody but the plugin can have captured it, and its sidecar is ready only when it is captured.
        ensure!(init.len() == 1, "{init:?}");
        Ok(())
    };
    captured(
        "restricted",
        "pod-security.kubernetes.io/enforce=restricted",
    )
    .await?;

    // The second step, for every pod.
    let second = "`--set capture=cni` in a second step";
    ensure!(page.text().contains(second));
    let [upgrade, rollout] = &page.block(installing, 0)?[..] else {
        anyhow::bail!("not two lines");
    };
    let upgrade = upgrade
        .command
        .replace("cni.enabled=true", "capture=cni --wait");
    shell.succeeds(&upgrade).await?;
    shell.succeeds(&rollout.command).await?;
    operator_before_it_has_gone(cluster).await?;
    captured("anyone", "name=anyone").await
}
