//! `kubectl apply`, and what the next requests meet.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::wait_until;

use crate::installation::{PODS, installed};
use crate::shop::{Shop, condition};

/// From an edit to the first request that it governs, the time of `kubectl exec` not counted.
const WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn apply_edit_and_delete_are_seen_by_the_next_requests_within_a_second() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1), ("one", 1), ("two", 1)]).await?;
    shop.first_answered_by("http://orders/").await?;
    for (change, expected) in [
        (Some("one"), "one-"),
        (Some("two"), "two-"),
        (None, "orders-"),
    ] {
        match change {
            Some(backend) => shop.cluster.apply(&shop.route(backend)).await?,
            None => {
                let args = [
                    "delete",
                    "apiroute",
                    "orders",
                    "-n",
                    &shop.namespace,
                    "--wait=false",
                ];
                shop.cluster.kubectl(&args).await?
            }
        };
        let changed = Instant::now();
        // The request that is asked last before the second is over must be governed by the change.
        // How long kubectl itself takes is not the mesh's: only when a request begins counts.
        let began = wait_until(&format!("{expected} answers"), PODS, async || {
            let began = Instant::now();
            let pod = shop.answered_by("http://orders/").await?;
            ensure!(pod.starts_with(expected), "{pod} answered");
            Ok(began)
        })
        .await?;
        let late = began.duration_since(changed);
        assert!(
            late <= WITHIN,
            "{expected} was first met by a request {late:?} after the change"
        );
    }
    Ok(())
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
