//! What is due comes once in the whole cluster, whichever pods, replicas of the operator and leaders die.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::wait_until;

use super::{delete, told_to_ledger};
use crate::installation::{PODS, SYSTEM, installed};
use crate::life::{back, operators, scale};
use crate::replicas::{leader, next_leader};
use crate::shop::Shop;

/// From one moment at which it is due to the next, in seconds.
const EVERY: i64 = 2;
/// How many more must have come until something else dies.
const MORE: usize = 3;
/// How many of those who deliver, or may have granted it, die.
const DEATHS: usize = 5;

fn due(namespace: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
         metadata: {{ name: often, namespace: {namespace} }}\n\
         spec:\n  source: {{ type: Schedule, schedule: {{ cron: \"*/{EVERY} * * * * *\", concurrencyPolicy: Forbid }} }}\n  \
         target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /on/ledger/1s }}\n  \
         delivery: {{ onExhausted: Block, retries: {{ backoff: {{ initial: 100ms, max: 1s }} }} }}\n"
    )
}

/// The Lease of it.
async fn lease(shop: &Shop) -> Result<Value> {
    let of = ["get", "lease", "-n", SYSTEM, "-l"];
    let label = "meshwright.dev/claim=EventSubscription";
    let leases = shop.cluster.json(&[&of[..], &[label]].concat()).await?;
    let object = format!("{}/often", shop.namespace);
    let mut leases = leases["items"].as_array().into_iter().flatten();
    let own = leases.find(|one| one["metadata"]["annotations"]["meshwright.dev/object"] == object);
    Ok(own.context("no Lease is of it")?.clone())
}

/// The pod that delivers now, and the Lease that says so.
async fn holder(shop: &Shop) -> Result<(String, Value)> {
    wait_until("somebody delivers", PODS, async || {
        let lease = lease(shop).await?;
        let holder = lease["spec"]["holderIdentity"].as_str();
        // Its namespace, its name, and which of that name.
        let pod = holder.and_then(|holder| holder.split('/').nth(1));
        Ok((pod.context("nobody holds it")?.to_owned(), lease))
    })
    .await
}

/// When those were due that came so far, in seconds, and how often each came.
async fn came(shop: &Shop) -> Result<BTreeMap<i64, usize>> {
    let mut came = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for id in told_to_ledger(shop).await? {
        // The UID of the object, and when it was due.
        let (object, moment) = id.split_at_checked(37).context("no moment")?;
        let due = moment.parse::<Timestamp>()?.as_second();
        *came.entry(due).or_default() += 1;
        let known = ids.entry(due).or_insert_with(|| object.to_owned());
        ensure!(known == object, "one moment is due as {known} and {object}");
    }
    Ok(came)
}

/// Waits until some more have come.
async fn goes_on(shop: &Shop, after: &str) -> Result<()> {
    let before = came(shop).await?.len();
    let what = format!("what is due comes {after}");
    wait_until(&what, PODS, async || {
        let now = came(shop).await?.len();
        ensure!(now >= before + MORE, "{now} after {before}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_due_comes_once_in_a_cluster_whichever_pods_and_replicas_of_the_operator_die()
-> Result<()> {
    let services = [("billing", 2), ("ledger", 1)];
    let shop = Shop::alone(installed().await?, &services).await?;
    scale(shop.cluster, 2).await?;
    let told = pods_and_replicas_die(&shop).await;
    // However that went, the other tests have the operator that they expect.
    scale(shop.cluster, 1).await?;
    back(&shop).await?;
    told
}

async fn pods_and_replicas_die(shop: &Shop) -> Result<()> {
    let cluster = shop.cluster;
    let operator = "deployment/meshwright-operator";
    cluster.ready(SYSTEM, operator, PODS).await?;
    cluster.apply(&due(&shop.namespace)).await?;
    goes_on(shop, "at all").await?;

    // It is written where nobody but the operator writes.
    let (pod, lease) = holder(shop).await?;
    ensure!(pod.starts_with("billing-"), "{lease}");
    let own = format!("--as=system:serviceaccount:{}:billing", shop.namespace);
    for verb in ["get", "update", "create"] {
        let mut may = cluster.command("kubectl");
        may.args(["auth", "can-i", verb, "leases", "-n", SYSTEM, &own]);
        // It fails when the answer is no.
        let said = may.output().await?;
        let answer = said.stdout.trim_ascii();
        let is_no = answer == b"no" || answer.starts_with(b"no - ");
        ensure!(is_no, "{verb}: {said:?}");
    }

    let sidecar = "meshwright-sidecar";
    let (pod, _) = holder(shop).await?;
    cluster
        .signal(&shop.namespace, &pod, sidecar, Signal::SIGKILL)
        .await?;
    goes_on(shop, "after the sidecar that delivers was killed").await?;

    let (pod, _) = holder(shop).await?;
    delete(cluster, &shop.namespace, &pod).await?;
    goes_on(shop, "after the pod that delivers was deleted").await?;
    ensure!(holder(shop).await?.0 != pod, "{pod} is gone");

    let led = leader(cluster).await?;
    cluster
        .signal(SYSTEM, &led, "operator", Signal::SIGKILL)
        .await?;
    goes_on(shop, "after the leader was killed").await?;

    let led = leader(cluster).await?;
    delete(cluster, SYSTEM, &led).await?;
    next_leader(cluster, &led).await?;
    goes_on(shop, "after the leader's pod was deleted").await?;

    cluster.ready(SYSTEM, operator, PODS).await?;
    for replica in operators(cluster).await? {
        cluster
            .signal(SYSTEM, &replica, "operator", Signal::SIGKILL)
            .await?;
    }
    cluster.ready(SYSTEM, operator, PODS).await?;
    goes_on(shop, "after every replica of the operator was killed").await?;

    let came = came(shop).await?;
    let moments = Vec::from_iter(came.keys().copied());
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
        bail!("nothing came");
    };
    let (expected, all) = ((last - first) / EVERY + 1, moments.len());
    let twice = came.values().map(|times| times - 1).sum::<usize>();
    eprintln!("{all} of {expected} moments, {twice} came twice");
    ensure!(moments.iter().all(|due| due % EVERY == 0), "{moments:?}");
    // What was in hand when somebody died comes again, as the same event.
    ensure!(twice <= DEATHS, "{came:?}");
    Ok(())
}
