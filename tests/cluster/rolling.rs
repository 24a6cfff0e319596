//! Everything is made anew, one after another, while tens of thousands of calls are under way: the
//! application, the operator with its chart, and the sidecars that are called.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use tests::cluster::{Cluster, wait_until};

use crate::installation::{PODS, SYSTEM, VERSION, installed, root};
use crate::life::{back, operators};
use crate::load::{Asked, Load};
use crate::shop::Shop;

/// What the next version's images are called. Its programs are the same: it is how they take one
/// another's place that is tested here; what they say to one another is in `tests/skew`.
const NEXT: &str = "next";
/// How many calls there are, at least.
const ENOUGH: usize = 20_000;
/// Callers, and how often each begins a call.
const CALLERS: usize = 4;
const OFTEN: &str = "8ms";

/// Gives the operator and its sidecars a version, as `helm upgrade` does.
async fn upgrade(cluster: &Cluster, version: &str) -> Result<()> {
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let tags = ["operator", "sidecar"].map(|part| format!("{part}.image.tag={version}"));
    let upgrade = ["upgrade", "meshwright", chart, "--namespace", SYSTEM];
    let values = [
        "--reuse-values",
        "--wait",
        "--timeout=90s",
        "--set",
        &tags[0],
        "--set",
        &tags[1],
    ];
    cluster
        .helm(&[&upgrade[..], &values].concat())
        .await
        .map(drop)
}

/// Makes the pods of a Deployment anew, and waits until they are there.
async fn restart(shop: &Shop, app: &str) -> Result<()> {
    let deployment = format!("deployment/{app}");
    let namespace = ["-n", shop.namespace.as_str()];
    for words in [
        &["rollout", "restart", &deployment][..],
        &["rollout", "status", &deployment, "--timeout=90s"],
    ] {
        shop.cluster.kubectl(&[words, &namespace].concat()).await?;
    }
    Ok(())
}

/// The images of the sidecars of an application's pods.
async fn sidecars(shop: &Shop, app: &str) -> Result<Vec<String>> {
    let label = format!("app={app}");
    let get = ["get", "pods", "-n", &shop.namespace, "-l", &label];
    let pods = shop.cluster.json(&get).await?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let images = pods.iter().map(|pod| {
        let containers = pod["spec"]["initContainers"]
            .as_array()
            .into_iter()
            .flatten();
        let mut sidecar = containers.filter(|one| one["name"] == "meshwright-sidecar");
        let image = sidecar.next().and_then(|one| one["image"].as_str());
        Ok(image.context("a pod without a sidecar")?.to_owned())
    });
    images.collect()
}

#[tokio::test]
async fn application_operator_and_sidecars_are_rolled_under_load_and_no_call_fails() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 2)]).await?;
    let (shop, _alone) = shop.alone().await;
    let rolled = rolled(&shop).await;
    // However that went, the other tests have the operator that they expect.
    upgrade(shop.cluster, "").await?;
    back(&shop).await?;
    let asked = rolled?;
    let failed: Vec<_> = asked.iter().filter(|one| one.outcome != "200").collect();
    ensure!(
        failed.is_empty(),
        "{} of {} failed: {failed:?}",
        failed.len(),
        asked.len()
    );
    eprintln!("{} calls, none failed", asked.len());
    ensure!(asked.len() > ENOUGH, "only {}", asked.len());
    Ok(())
}

async fn rolled(shop: &Shop) -> Result<Vec<Asked>> {
    let cluster = shop.cluster;
    for part in ["operator", "sidecar"] {
        let image = |tag: &str| format!("ghcr.io/meshwright/{part}:{tag}");
        cluster
            .also_name_image(&image(VERSION), &image(NEXT))
            .await?;
    }
    cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    let began = Instant::now();
    let mut loads = Vec::new();
    for _ in 0..CALLERS {
        loads.push(Load::begin(shop, "http://orders/", OFTEN).await?);
    }

    restart(shop, "orders").await?;
    eprintln!("the application is new after {:?}", began.elapsed());

    let before = operators(cluster).await?;
    upgrade(cluster, NEXT).await?;
    back(shop).await?;
    wait_until("the operator before has ended", PODS, async || {
        let after = operators(cluster).await?;
        ensure!(after.iter().all(|pod| !before.contains(pod)), "{after:?}");
        Ok(())
    })
    .await?;
    // Who was there before is told of edits by the next version, and carries them out.
    let edited = shop.route("orders").replace("name: all", "name: edited");
    cluster.apply(&edited).await?;
    shop.programmed("orders").await?;
    let own = format!("sidecar:{VERSION}");
    let mixed = sidecars(shop, "orders").await?;
    ensure!(mixed.iter().all(|image| image.ends_with(&own)), "{mixed:?}");
    eprintln!("the operator is new after {:?}", began.elapsed());

    restart(shop, "orders").await?;
    wait_until("the sidecars are of the next version", PODS, async || {
        let new = sidecars(shop, "orders").await?;
        let next = new.iter().all(|image| image.ends_with("sidecar:next"));
        ensure!(next && new.len() == 2, "{new:?}");
        Ok(())
    })
    .await?;
    cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    eprintln!("the sidecars are new after {:?}", began.elapsed());

    wait_until("there were enough calls", PODS * 3, async || {
        let per_second = CALLERS * 100;
        let passed = began.elapsed().as_secs() as usize;
        ensure!(passed * per_second > ENOUGH * 5 / 4, "{passed} s");
        Ok(())
    })
    .await?;
    let mut asked = Vec::new();
    for load in loads {
        asked.append(&mut load.end().await?);
    }
    Ok(asked)
}
