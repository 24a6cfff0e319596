//! A broker outside the cluster, events that applications publish at their sidecars' port, and whatever dies
//! meanwhile: what was accepted comes, or is a dead letter that can be looked at and sent again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::{Cluster, run, wait_until};
use tests::mesh::binary;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Redis, delete, is_ready, told_to_ledger, until};
use crate::installation::{PODS, SYSTEM, installed};
use crate::life::operators;
use crate::load::Load;
use crate::shop::Shop;

/// How many events are accepted at least before the next thing dies.
const BETWEEN: usize = 100;
/// What may be in hand, delivered and not acknowledged, of all that ends at one time.
const IN_HAND: usize = 2 * 16;
/// What dies with something in hand.
const DEATHS: usize = 5;

/// The broker, two topics that `web` may publish to, and those who get them.
fn objects(cluster: &Cluster, namespace: &str) -> String {
    format!(
        r#"{}
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {{ name: web, namespace: {namespace} }}
spec:
  hosts: [web]
  rules:
    - matches: [{{ path: {{ type: Exact, value: /stock }} }}]
      publish: {{ broker: events, topic: stock }}
    - matches: [{{ path: {{ type: Exact, value: /scrap }} }}]
      publish: {{ broker: events, topic: scrap }}
    - {{}}
---
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: counted, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: stock }} }}
  target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: /on/ledger }}
  delivery: {{ onExhausted: Block, retries: {{ backoff: {{ initial: 100ms, max: 1s }} }} }}
---
{}"#,
        Redis::broker(cluster, namespace),
        scrap(namespace, "/status/422"),
    )
}

/// An EventSubscription with a dead letter topic, whose events go to that path.
fn scrap(namespace: &str, path: &str) -> String {
    format!(
        r#"
apiVersion: meshwright.dev/v1alpha1
kind: EventSubscription
metadata: {{ name: scrap, namespace: {namespace} }}
spec:
  source: {{ type: Broker, broker: {{ name: events, topic: scrap }} }}
  target: {{ type: Workload, workload: {{ selector: {{ app: billing }}, port: 8080 }}, path: {path} }}
  delivery: {{ onExhausted: DeadLetter, deadLetter: {{ topic: scrap.dead }} }}
"#
    )
}

async fn opened(cluster: &'static Cluster) -> Result<(Shop, Redis)> {
    let services = [("billing", 2), ("ledger", 1)];
    let shop = Shop::alone(cluster, &services).await?;
    let redis = Redis::start(cluster).await?;
    cluster.apply(&objects(cluster, &shop.namespace)).await?;
    for name in ["counted", "scrap"] {
        until(&shop, name, |object| is_ready(object, "Ready")).await?;
        shop.enforced("eventsubscription", name).await?;
    }
    shop.programmed("web").await?;
    Ok((shop, redis))
}

#[tokio::test]
async fn what_a_pod_published_at_its_port_comes_although_pods_and_the_broker_die_and_are_rolled_under_load()
-> Result<()> {
    let cluster = installed().await?;
    let (shop, mut redis) = opened(cluster).await?;
    let namespace = shop.namespace.as_str();
    let url = "http://localhost:15090/publish/events/stock";
    let load = Load::publish(&shop, url, "20ms").await?;
    let mut enough = 0;
    let mut more = async || {
        enough = load.accepted().max(enough) + BETWEEN;
        wait_until("some more were accepted", PODS, async || {
            ensure!(load.accepted() >= enough, "{} of {enough}", load.accepted());
            Ok(())
        })
        .await
    };
    let sidecar = "meshwright-sidecar";
    more().await?;
    for container in [sidecar, "billing"] {
        let billing = shop.pod("billing").await?;
        cluster
            .signal(namespace, &billing, container, Signal::SIGKILL)
            .await?;
        more().await?;
    }
    delete(cluster, namespace, &shop.pod("billing").await?).await?;
    more().await?;
    redis.dies_and_is_started_again(cluster).await?;
    more().await?;
    let web = shop.pod("web").await?;
    cluster
        .signal(namespace, &web, sidecar, Signal::SIGKILL)
        .await?;
    more().await?;
    for replica in operators(cluster).await? {
        cluster
            .signal(SYSTEM, &replica, "operator", Signal::SIGKILL)
            .await?;
    }
    more().await?;
    let rolled = ["rollout", "restart", "deployment/billing", "-n", namespace];
    cluster.kubectl(&rolled).await?;
    cluster.ready(namespace, "deployment/billing", PODS).await?;
    more().await?;

    let asked = load.end().await?;
    let accepted = asked
        .iter()
        .filter_map(|one| one.outcome.strip_prefix("202 "));
    let accepted = accepted.map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    let came = wait_until("all that was accepted has come", PODS, async || {
        let mut came = BTreeMap::<String, usize>::new();
        for id in told_to_ledger(&shop).await? {
            *came.entry(id).or_default() += 1;
        }
        let lacks = accepted.iter().filter(|id| !came.contains_key(*id));
        let lacks = Vec::from_iter(lacks);
        ensure!(
            lacks.is_empty(),
            "{} lack, such as {:?}",
            lacks.len(),
            lacks[0]
        );
        Ok(came)
    });
    let came = came.await?;
    let twice = came.values().map(|times| times - 1).sum::<usize>();
    eprintln!(
        "{} of {} were accepted, all came, {twice} again",
        accepted.len(),
        asked.len()
    );
    ensure!(twice <= DEATHS * IN_HAND, "{twice} came again");
    until(&shop, "counted", |object| object["status"]["lag"] == 0)
        .await
        .map(drop)
}

/// Posts something to the topic of scrap at the port of the sidecar beside `web`, and returns the event's id.
async fn scrapped(shop: &Shop) -> Result<String> {
    let (status, body) = shop
        .post("http://localhost:15090/publish/events/scrap")
        .await?;
    ensure!(status == 202, "{status} {body}");
    let said: Value = serde_json::from_str(&body)?;
    Ok(said["id"].as_str().context("no id")?.to_owned())
}

/// `meshwright events …`, as a person types it.
async fn events(shop: &Shop, arguments: &[&str]) -> Result<String> {
    let mut command: Command = shop.cluster.command(binary("meshwright")?);
    timeout(PODS, run(command.arg("events").args(arguments), "")).await?
}

async fn dead_letters(shop: &Shop, count: u64) -> Result<()> {
    let what = format!("there are {count} dead letters");
    let named = format!("{}/scrap", shop.namespace);
    wait_until(&what, PODS, async || {
        let said = events(shop, &["peek", &named, "--json"]).await?;
        let letters = said.lines().filter(|line| line.starts_with('{'));
        let letters = letters.map(serde_json::from_str::<Value>);
        let letters = letters
            .collect::<Result<Vec<_>, _>>()
            .context(said.clone())?;
        let letters = letters.iter().filter(|letter| letter["dlqcode"] == "422");
        let shown = letters.count();
        ensure!(u64::try_from(shown)? == count, "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn dead_letters_are_counted_in_the_status_and_looked_at_sent_again_and_dropped_by_the_command()
-> Result<()> {
    let cluster = installed().await?;
    let (shop, _redis) = opened(cluster).await?;
    let named = format!("{}/scrap", shop.namespace);
    let ids = [scrapped(&shop).await?, scrapped(&shop).await?];
    dead_letters(&shop, 2).await?;
    until(&shop, "scrap", |object| {
        object["status"]["deadLettered"] == 2
    })
    .await?;
    let said = events(&shop, &["peek", &named]).await?;
    for id in &ids {
        ensure!(said.contains(id.as_str()), "{said}");
    }
    let said = events(&shop, &["list", "-n", &shop.namespace]).await?;
    ensure!(said.contains("scrap") && said.contains("counted"), "{said}");

    // Mended, they are sent again.
    cluster.apply(&scrap(&shop.namespace, "/on/ledger")).await?;
    shop.enforced("eventsubscription", "scrap").await?;
    events(&shop, &["replay", &named]).await?;
    wait_until("both have come", PODS, async || {
        let came = told_to_ledger(&shop).await?;
        ensure!(ids.iter().all(|id| came.contains(id)), "{came:?}");
        Ok(())
    })
    .await?;
    dead_letters(&shop, 0).await?;

    // What nobody wants is dropped.
    cluster
        .apply(&scrap(&shop.namespace, "/status/422"))
        .await?;
    shop.enforced("eventsubscription", "scrap").await?;
    scrapped(&shop).await?;
    dead_letters(&shop, 1).await?;
    events(&shop, &["purge", &named]).await?;
    dead_letters(&shop, 0).await?;
    Ok(())
}
