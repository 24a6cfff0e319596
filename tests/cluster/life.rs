//! The operator goes away, sidecars are killed: traffic goes on.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::{Cluster, wait_until};
use tokio::sync::RwLock;

use crate::installation::{PODS, SYSTEM, installed};
use crate::shop::Shop;

/// There is one operator for all tests; those that take it away do so one at a time.
static OPERATOR: RwLock<()> = RwLock::const_new(());

async fn scale(cluster: &Cluster, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let args = [
        "scale",
        "deployment/meshwright-operator",
        "-n",
        SYSTEM,
        &replicas,
    ];
    cluster.kubectl(&args).await.map(drop)
}

#[tokio::test]
async fn traffic_goes_on_when_the_operator_is_killed() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 2)]).await?;
    let _alone = OPERATOR.write().await;
    shop.answered_by("http://orders/").await?;
    let pods = [
        "get",
        "pods",
        "-n",
        SYSTEM,
        "-l",
        "app.kubernetes.io/name=meshwright",
    ];
    let operator = shop.cluster.json(&pods).await?;
    let name = operator["items"][0]["metadata"]["name"]
        .as_str()
        .unwrap_or_default();
    shop.cluster
        .kubectl(&["delete", "pod", name, "-n", SYSTEM, "--now", "--wait=false"])
        .await?;
    for _ in 0..20 {
        shop.answered_by("http://orders/").await?;
    }
    shop.cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await
}

#[tokio::test]
async fn a_sidecar_killed_while_the_operator_is_down_comes_back_and_serves() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let _alone = OPERATOR.write().await;
    shop.answered_by("http://orders/").await?;
    scale(shop.cluster, 0).await?;
    wait_until("the operator is gone", PODS, async || {
        let args = [
            "get",
            "pods",
            "-n",
            SYSTEM,
            "-l",
            "app.kubernetes.io/name=meshwright",
        ];
        let pods = shop.cluster.json(&args).await?;
        ensure!(pods["items"].as_array().is_some_and(Vec::is_empty));
        Ok(())
    })
    .await?;

    for app in ["web", "orders"] {
        let pod = shop.pod(app).await?;
        let sidecar = "meshwright-sidecar";
        let before = shop
            .cluster
            .container_pid(&shop.namespace, &pod, sidecar)
            .await?;
        shop.cluster
            .signal(&shop.namespace, &pod, sidecar, Signal::SIGKILL)
            .await?;
        wait_until("the sidecar runs again", PODS, async || {
            let now = shop
                .cluster
                .container_pid(&shop.namespace, &pod, sidecar)
                .await?;
            ensure!(now != before, "still {before}");
            Ok(())
        })
        .await?;
    }
    let served = wait_until("the pods serve again", PODS, async || {
        shop.answered_by("http://orders/").await
    })
    .await;

    scale(shop.cluster, 1).await?;
    shop.cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    served.map(drop)
}
