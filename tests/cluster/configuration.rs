//! `kubectl apply`, and what the next requests meet.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::wait_until;

use crate::installation::{PODS, installed};
use crate::load::{Asked, Load};
use crate::shop::{Shop, condition};

/// From an edit to the last request that began and was not governed by it.
const WITHIN: Duration = Duration::from_secs(1);

/// Changes something, after which whoever answers a request at `orders` that begins more than a second later has a name
/// that begins as expected.
pub(crate) async fn is_soon_met<T>(
    shop: &Shop,
    expected: &str,
    change: impl AsyncFnOnce() -> Result<T>,
) -> Result<()> {
    // From inside a pod, and all the time: how long `kubectl` takes for one request is not the mesh's.
    let load = Load::who(shop, "http://orders/", "20ms").await?;
    change().await?;
    let changed = SystemTime::now();
    // Whoever carries out a request after that second, by whichever of the sidecar's workers, carries out the edit.
    let later = wait_until("the second is over", PODS, async || {
        let since = changed.elapsed()?;
        ensure!(since > WITHIN, "{since:?}");
        Ok(load.so_far())
    });
    let later = later.await?;
    wait_until("many more begin", PODS, async || {
        ensure!(load.so_far() > later + 50, "{}", load.so_far());
        Ok(())
    })
    .await?;
    let asked = load.end().await?;
    let failed = asked.iter().find(|one| !one.outcome.starts_with("200 "));
    ensure!(failed.is_none(), "{failed:?}");
    let governed = format!("200 {expected}");
    let by_another = |one: &&Asked| !one.outcome.starts_with(&governed);
    let last = asked.iter().filter(by_another).map(|one| one.began).max();
    let last = last.context("none before the change")?;
    // One that began before the change is no failure of it.
    let late = last.duration_since(changed).unwrap_or_default();
    eprintln!("{expected} answers what begins {late:?} after the change");
    ensure!(
        late <= WITHIN,
        "a request that began {late:?} after the change was not answered by {expected}"
    );
    Ok(())
}

#[tokio::test]
async fn apply_edit_and_delete_are_seen_by_the_next_requests_within_a_second() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1), ("one", 1), ("two", 1)]).await?;
    shop.first_answered_by("http://orders/").await?;
    for backend in ["one", "two"] {
        let expected = format!("{backend}-");
        let apply = async || shop.cluster.apply(&shop.route(backend)).await;
        is_soon_met(&shop, &expected, apply).await?;
    }
    let delete = ["delete", "apiroute", "orders", "-n", &shop.namespace];
    let delete = async || {
        let delete = [&delete[..], &["--wait=false"]].concat();
        shop.cluster.kubectl(&delete).await
    };
    is_soon_met(&shop, "orders-", delete).await
}

#[tokio::test]
async fn status_counts_the_sidecars_that_enforce_even_while_one_is_paused() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1), ("two", 1)]).await?;
    shop.cluster.apply(&shop.route("orders")).await?;
    shop.programmed("orders").await?;
    let columns = shop
        .cluster
        .kubectl(&["get", "apiroutes", "-n", &shop.namespace])
        .await?;
    for column in ["TARGET", "ACCEPTED", "PROGRAMMED", "AGE"] {
        assert!(columns.contains(column), "{columns}");
    }

    let paused = shop.pod("two").await?;
    let stop = async |signal| {
        shop.cluster
            .signal(&shop.namespace, &paused, "meshwright-sidecar", signal)
            .await
    };
    stop(Signal::SIGSTOP).await?;
    shop.cluster.apply(&shop.route("two")).await?;
    let behind = wait_until("one sidecar is behind", PODS, async || {
        let object = shop.object("orders").await?;
        let programmed = condition(&object, "Programmed");
        ensure!(
            programmed["observedGeneration"] == object["metadata"]["generation"],
            "{programmed}"
        );
        let count = object["status"]["programmed"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let (n, m) = count.split_once('/').unwrap_or_default();
        ensure!(
            n.parse::<u32>()? + 1 == m.parse::<u32>()?,
            "{}",
            object["status"]
        );
        Ok(programmed)
    })
    .await;
    stop(Signal::SIGCONT).await?;
    let behind = behind?;
    assert_eq!(behind["status"], "False");
    assert!(
        behind["message"]
            .as_str()
            .is_some_and(|m| m.contains(&paused)),
        "{behind}"
    );

    shop.programmed("orders").await?;
    assert_eq!(
        condition(&shop.object("orders").await?, "Programmed")["status"],
        "True"
    );
    Ok(())
}

#[tokio::test]
async fn an_object_that_cannot_be_enforced_says_why() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let lost = shop
        .route("orders")
        .replace("hosts: [orders]", "hosts: [ordres]");
    shop.cluster.apply(&lost).await?;
    let accepted = wait_until("it has a status", PODS, async || {
        let accepted = condition(&shop.object("orders").await?, "Accepted");
        ensure!(accepted.is_object(), "no Accepted condition");
        Ok(accepted)
    })
    .await?;
    assert_eq!(accepted["status"], "False");
    assert!(
        accepted["message"]
            .as_str()
            .is_some_and(|m| m.contains("orders")),
        "{accepted}"
    );

    let missing = shop.route("nothing-here");
    shop.cluster.apply(&missing).await?;
    let unresolved = wait_until("the backend is reported", PODS, async || {
        let resolved = condition(&shop.object("orders").await?, "ResolvedRefs");
        ensure!(resolved["status"] == "False", "{resolved}");
        Ok(resolved)
    })
    .await?;
    assert!(
        unresolved["message"]
            .as_str()
            .is_some_and(|m| m.contains("nothing-here")),
        "{unresolved}"
    );
    Ok(())
}

#[tokio::test]
async fn the_api_server_refuses_what_the_schema_does_not_allow() -> Result<()> {
    let shop = Shop::open(installed().await?, &[]).await?;
    for (wrong, says) in [
        (
            shop.route("orders").replace("hosts: [orders]", "hosts: []"),
            "spec.hosts",
        ),
        (shop.route("orders").replace("port: 80", "port: 0"), "port"),
        (
            shop.route("orders").replace("backendRefs", "backendRef"),
            "backendRef",
        ),
    ] {
        let refused = shop.cluster.apply(&wrong).await.expect_err(&wrong);
        assert!(format!("{refused:#}").contains(says), "{refused:#}");
    }
    Ok(())
}
