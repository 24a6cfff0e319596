//! Everything is made anew, one after another, and tens of thousands of calls are under way each time: the
//! application, the operator with its chart, and the sidecars on both sides of a call.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, wait_until};

use crate::installation::{PODS, SYSTEM, VERSION, chart_of, installed, root};
use crate::life::{back, operators};
use crate::load::under_load;
use crate::shop::Shop;

/// The next version of the chart and of the images. Their programs are the same: it is how they take one
/// another's place that is tested here; what they say to one another is in `tests/skew`.
const NEXT: &str = "0.2.99";
/// How many calls there are in each step, at least.
const ENOUGH: usize = 20_000;
/// Who is called meanwhile, and how often: `relay` calls `orders` in its turn, so that a caller is
/// made anew as well.
const CALLS: &[(&str, &str)] = &[
    ("http://orders/", "8ms"),
    ("http://orders/", "8ms"),
    ("http://relay/?from=http://orders/", "10ms"),
    ("http://relay/?from=http://orders/", "10ms"),
];
/// Whose pods are made anew.
const APPS: [&str; 2] = ["orders", "relay"];

/// Takes a chart, as `helm upgrade` does.
async fn upgrade(cluster: &Cluster, chart: &Path) -> Result<()> {
    let chart = chart.to_str().context("a path in UTF-8")?;
    let upgrade = ["upgrade", "meshwright", chart, "--namespace", SYSTEM];
    let values = ["--reset-then-reuse-values", "--wait", "--timeout=90s"];
    cluster
        .helm(&[&upgrade[..], &values].concat())
        .await
        .map(drop)
}

/// Makes all pods that are called anew, and waits until they are there.
async fn restart(shop: &Shop) -> Result<()> {
    let apps = APPS.map(|app| format!("deployment/{app}"));
    let namespace = ["-n", shop.namespace.as_str()];
    let all = ["rollout", "restart", &apps[0], &apps[1]];
    shop.cluster
        .kubectl(&[&all, &namespace[..]].concat())
        .await?;
    for app in &apps {
        let done = ["rollout", "status", app, "--timeout=90s"];
        shop.cluster
            .kubectl(&[&done, &namespace[..]].concat())
            .await?;
    }
    Ok(())
}

/// The images of the sidecars of the pods that are called.
async fn sidecars(shop: &Shop) -> Result<Vec<String>> {
    let label = format!("app in ({})", APPS.join(","));
    let get = ["get", "pods", "-n", &shop.namespace, "-l", &label];
    let pods = shop.cluster.json(&get).await?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    pods.iter().map(sidecar).collect()
}

/// The image of a pod's sidecar.
fn sidecar(pod: &Value) -> Result<String> {
    let containers = pod["spec"]["initContainers"].as_array();
    let mut containers = containers.into_iter().flatten();
    let sidecar = containers.find(|one| one["name"] == "meshwright-sidecar");
    let image = sidecar.and_then(|one| one["image"].as_str());
    Ok(image.context("a pod without a sidecar")?.to_owned())
}

#[tokio::test]
async fn application_operator_and_sidecars_are_rolled_under_load_and_no_call_fails() -> Result<()> {
    let called = APPS.map(|app| (app, 2));
    let shop = Shop::alone(installed().await?, &called).await?;
    let folder = tempfile::tempdir()?;
    let next = chart_of(NEXT, folder.path()).await?;
    let rolled = rolled(&shop, &next).await;
    // However that went, the other tests have the operator that they expect.
    upgrade(shop.cluster, &root().join("charts/meshwright")).await?;
    back(&shop).await?;
    rolled
}

async fn rolled(shop: &Shop, next: &Path) -> Result<()> {
    let cluster = shop.cluster;
    for part in ["operator", "sidecar"] {
        let image = |tag: &str| format!("ghcr.io/meshwright/{part}:{tag}");
        cluster
            .also_name_image(&image(VERSION), &image(NEXT))
            .await?;
    }
    cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;

    let application = ("the application", ENOUGH);
    under_load(shop, CALLS, application, async || restart(shop).await).await?;

    let operator = ("operator and chart", ENOUGH);
    let by_the_next = async || operator_of(shop, next).await;
    under_load(shop, CALLS, operator, by_the_next).await?;
    let own = format!("sidecar:{VERSION}");
    let mixed = sidecars(shop).await?;
    ensure!(mixed.iter().all(|image| image.ends_with(&own)), "{mixed:?}");

    let anew = async || sidecars_of_the_next(shop).await;
    under_load(shop, CALLS, ("the sidecars", ENOUGH), anew).await
}

/// The operator is made anew by the chart of the next version.
async fn operator_of(shop: &Shop, next: &Path) -> Result<()> {
    let cluster = shop.cluster;
    let before = operators(cluster).await?;
    upgrade(cluster, next).await?;
    back(shop).await?;
    wait_until("the operator before has ended", PODS, async || {
        let after = operators(cluster).await?;
        ensure!(after.iter().all(|pod| !before.contains(pod)), "{after:?}");
        Ok(())
    })
    .await?;
    let deployment = ["get", "deployment", "meshwright-operator", "-n", SYSTEM];
    let deployment = cluster.json(&deployment).await?;
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(
        image.as_str().is_some_and(|image| image.ends_with(NEXT)),
        "{image}"
    );
    // Who was there before is told of edits by the next version, and carries them out.
    let edited = shop.route("orders").replace("name: all", "name: edited");
    cluster.apply(&edited).await?;
    shop.programmed("orders").await.map(drop)
}

/// Sidecars are made anew with their pods, which the operator of the next version injects.
async fn sidecars_of_the_next(shop: &Shop) -> Result<()> {
    restart(shop).await?;
    let next = format!("sidecar:{NEXT}");
    wait_until("the sidecars are of the next version", PODS, async || {
        let new = sidecars(shop).await?;
        let all = new.iter().all(|image| image.ends_with(&next));
        ensure!(all && new.len() == 2 * APPS.len(), "{new:?}");
        Ok(())
    })
    .await?;
    shop.cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await.map(drop)
}
