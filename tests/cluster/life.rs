//! The operator goes away, sidecars are killed: traffic goes on.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::{Cluster, started, wait_until};

use crate::installation::{PODS, SYSTEM, installed};
use crate::load::{Asked, Load};
use crate::shop::Shop;

const ORDERS: &str = "http://orders/";
const SIDECAR: &str = "meshwright-sidecar";

/// The operator's pods.
pub(crate) async fn operators(cluster: &Cluster) -> Result<Vec<String>> {
    let label = "app.kubernetes.io/name=meshwright";
    let pods = cluster
        .json(&["get", "pods", "-n", SYSTEM, "-l", label])
        .await?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let names = pods.iter().map(|pod| pod["metadata"]["name"].as_str());
    names
        .map(|name| Ok(name.context("a pod with a name")?.to_owned()))
        .collect()
}

/// So many replicas of the operator.
pub(crate) async fn scale(cluster: &Cluster, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let operator = "deployment/meshwright-operator";
    cluster
        .kubectl(&["scale", operator, "-n", SYSTEM, &replicas])
        .await
        .map(drop)
}

/// Waits until the operator is back for the other tests: it is ready, and its webhook is reached.
pub(crate) async fn back(shop: &Shop) -> Result<()> {
    shop.cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    let image = format!("--image={}", shop.cluster.web_image().await?);
    wait_until("pods are injected again", PODS, async || {
        let dry = "--dry-run=server";
        let args = ["run", "probe", "-n", &shop.namespace, &image, dry];
        let pod = shop.cluster.json(&args).await?;
        ensure!(pod.to_string().contains(SIDECAR), "{pod}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn traffic_goes_on_when_the_operator_is_killed() -> Result<()> {
    let shop = Shop::alone(installed().await?, &[("orders", 2)]).await?;
    let cluster = shop.cluster;
    shop.first_answered_by(ORDERS).await?;
    let [operator] = &operators(cluster).await?[..] else {
        anyhow::bail!("not one operator");
    };
    let before = cluster.container_pid(SYSTEM, operator, "operator").await?;

    // Each answer takes a while, so that several requests are under way at any time.
    let load = Load::begin(&shop, "http://orders/?wait=100ms", "20ms").await?;
    cluster
        .signal(SYSTEM, operator, "operator", Signal::SIGKILL)
        .await?;
    let killed = SystemTime::now();
    let after = wait_until("the operator runs again", PODS, async || {
        let now = cluster.container_pid(SYSTEM, operator, "operator").await?;
        ensure!(now != before, "still {before}");
        Ok(now)
    })
    .await?;
    let again = started(after)?;
    // And while it comes up, and finds the sidecars that come back: all enforce what is new.
    cluster.ready(SYSTEM, operator, PODS).await?;
    cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    let asked = load.end().await?;
    back(&shop).await?;

    let failed: Vec<_> = asked.iter().filter(|one| one.outcome != "200").collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {failed:?}",
        failed.len(),
        asked.len()
    );
    let under_way = |one: &Asked| one.began < killed && killed < one.ended;
    assert!(
        asked.iter().any(under_way),
        "no request was under way when it was killed: {asked:?}"
    );
    let without = |one: &Asked| killed < one.began && one.began < again;
    assert!(
        asked.iter().any(without),
        "no request was made while there was no operator: {asked:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_sidecar_killed_while_the_operator_is_down_comes_back_and_serves() -> Result<()> {
    let shop = Shop::alone(installed().await?, &[("orders", 1), ("two", 1)]).await?;
    // Who answers tells whether the route is in force.
    shop.cluster.apply(&shop.route("two")).await?;
    shop.programmed("orders").await?;
    let routed = shop.answered_by(ORDERS).await?;
    ensure!(routed.starts_with("two-"), "{routed} answers");
    scale(shop.cluster, 0).await?;
    let served = killed_without_an_operator(&shop, &routed).await;
    // However that went, the other tests need it.
    scale(shop.cluster, 1).await?;
    back(&shop).await?;
    served
}

/// Kills the sidecars on the way from `web` to `routed`, which must be the only one that answers
/// after it as well.
async fn killed_without_an_operator(shop: &Shop, routed: &str) -> Result<()> {
    wait_until("the operator is gone", PODS, async || {
        let pods = operators(shop.cluster).await?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    })
    .await?;
    for app in ["web", "two"] {
        let pod = shop.pod(app).await?;
        let process = async || {
            shop.cluster
                .container_pid(&shop.namespace, &pod, SIDECAR)
                .await
        };
        let before = process().await?;
        shop.cluster
            .signal(&shop.namespace, &pod, SIDECAR, Signal::SIGKILL)
            .await?;
        wait_until("the sidecar runs again", PODS, async || {
            let now = process().await?;
            ensure!(now != before, "still {before}");
            Ok(())
        })
        .await?;
    }
    let first = wait_until("the pods serve again", PODS, async || {
        shop.answered_by(ORDERS).await
    })
    .await?;
    // The very first answer is already the route's, and no later one is another's.
    let mut answered = vec![first];
    for _ in 0..5 {
        answered.push(shop.answered_by(ORDERS).await?);
    }
    ensure!(
        answered.iter().all(|pod| pod == routed),
        "the route to {routed} is not in force: {answered:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_pod_that_starts_without_an_operator_waits_unready_and_is_ready_within_five_seconds_of_its_return()
-> Result<()> {
    let shop = Shop::alone(installed().await?, &[]).await?;
    // Admitted and injected while there is an operator, and started when there is none.
    shop.cluster.apply(&held_back(&shop).await?).await?;
    scale(shop.cluster, 0).await?;
    let waited = waits_for_an_operator(&shop).await;
    scale(shop.cluster, 1).await?;
    let became = ready_soon(&shop).await;
    back(&shop).await?;
    waited?;
    became
}

/// A pod that no node gets until its gate is taken away.
async fn held_back(shop: &Shop) -> Result<String> {
    let (namespace, image) = (&shop.namespace, shop.cluster.web_image().await?);
    Ok(format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: late, namespace: {namespace} }}
spec:
  schedulingGates: [{{ name: meshwright.dev/without-an-operator }}]
  containers: [{{ name: late, image: {image}, imagePullPolicy: Never, args: [serve, ":8080"] }}]
"#
    ))
}

/// What is said of the sidecar of that pod.
async fn sidecar_of_late(shop: &Shop) -> Result<serde_json::Value> {
    let pod = ["get", "pod", "late", "-n", &shop.namespace];
    let pod = shop.cluster.json(&pod).await?;
    let statuses = pod["status"]["initContainerStatuses"].as_array();
    let mut statuses = statuses.into_iter().flatten();
    let found = statuses.find(|status| status["name"] == SIDECAR);
    Ok(found.context("it has no sidecar yet")?.clone())
}

async fn waits_for_an_operator(shop: &Shop) -> Result<()> {
    wait_until("the operator is gone", PODS, async || {
        let pods = operators(shop.cluster).await?;
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    })
    .await?;
    let open = r#"[{ "op": "remove", "path": "/spec/schedulingGates" }]"#;
    let patch = ["patch", "pod", "late", "-n", &shop.namespace, "--type=json"];
    shop.cluster
        .kubectl(&[&patch[..], &["-p", open]].concat())
        .await?;
    let logs = ["logs", "late", "-c", SIDECAR, "-n", &shop.namespace];
    wait_until("it asks in vain for a certificate", PODS, async || {
        let log = shop.cluster.kubectl(&logs).await?;
        ensure!(log.matches("no certificate").count() >= 5, "{log}");
        Ok(())
    })
    .await?;
    let status = sidecar_of_late(shop).await?;
    ensure!(status["ready"] == false, "{status}");
    Ok(())
}

async fn ready_soon(shop: &Shop) -> Result<()> {
    shop.cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    let returned = Instant::now();
    wait_until("the pod that waited is ready", PODS, async || {
        let status = sidecar_of_late(shop).await?;
        ensure!(status["ready"] == true, "{status}");
        Ok(())
    })
    .await?;
    let took = returned.elapsed();
    eprintln!("ready {took:?} after the operator's return");
    ensure!(took < Duration::from_secs(5), "{took:?}");
    Ok(())
}
