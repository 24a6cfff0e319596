//! `concurrency`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Workload};
use tests::wait_until;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;

use super::{connect, read_until};
use crate::routing::{route, services};

/// A caller whose sidecar has four workers, and a rule that has this `concurrency`.
async fn world(concurrency: &str) -> Result<(Mesh, Workload, Arc<Client>)> {
    let mesh = Mesh::start(&yaml(concurrency)).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client_with_workers("web", 4).await?;
    mesh.programmed("orders").await?;
    Ok((mesh, orders, Arc::new(client)))
}

fn yaml(concurrency: &str) -> String {
    let rule = format!("    - name: few\n      concurrency: {{ {concurrency} }}\n");
    services(&["orders"]) + &route(&rule)
}

/// A request over a connection of its own.
fn send(client: &Arc<Client>) -> JoinHandle<Result<Answer>> {
    let client = client.clone();
    tokio::spawn(async move { client.get("http://orders/").await })
}

async fn arrived(orders: &Workload, requests: usize) -> Result<()> {
    wait_until("they have arrived", SOON, async || {
        let seen = orders.upstream.requests();
        ensure!(seen == requests, "{seen}");
        Ok(())
    })
    .await
}

/// The gauges of the rule: what is under way, and what waits.
async fn gauges(client: &Client, under_way: f64, waiting: f64) -> Result<()> {
    let labels = r#"{route="shop/orders",rule="few"}"#;
    wait_until("it is counted", SOON, async || {
        let gauge = async |name: &str| {
            let series = format!("meshwright_concurrency_{name}{labels}");
            client.sidecar().metric(&series).await
        };
        let now = (gauge("under_way").await?, gauge("waiting").await?);
        ensure!(now == (Some(under_way), Some(waiting)), "{now:?}");
        Ok(())
    })
    .await
}

/// What the caller's sidecar says that the rule does.
async fn told(client: &Client, does: &str) -> Result<()> {
    wait_until("the rule is in force", SOON, async || {
        let asked = "/explain?url=http://orders/";
        let told = client.sidecar().admin(asked, None).await?.body;
        ensure!(told.contains(does), "{told}");
        Ok(())
    })
    .await
}

async fn refused(client: &Arc<Client>) -> Result<()> {
    let answer = send(client).await??;
    assert_eq!((answer.status, answer.reason()), (503, "concurrency_limit"));
    assert_eq!(answer.headers["retry-after"], "1");
    Ok(())
}

#[tokio::test]
async fn no_more_requests_than_the_limit_are_under_way_whichever_worker_takes_them() -> Result<()> {
    let (_mesh, orders, client) = world("max: 3").await?;
    gauges(&client, 0.0, 0.0).await?;
    let release = orders.upstream.holds();
    let held: Vec<_> = (0..3).map(|_| send(&client)).collect();
    arrived(&orders, 3).await?;
    // Each comes over a connection of its own: to whichever worker.
    for _ in 0..20 {
        refused(&client).await?;
    }
    gauges(&client, 3.0, 0.0).await?;
    assert_eq!(orders.upstream.requests(), 3);
    release.send(())?;
    for held in held {
        assert_eq!(held.await??.status, 200);
    }
    gauges(&client, 0.0, 0.0).await?;
    assert_eq!(send(&client).await??.status, 200);
    let counted = r#"meshwright_requests_total{direction="outbound",route="shop/orders",rule="few",code="503",reason="concurrency_limit"}"#;
    assert_eq!(client.sidecar().metric(counted).await?, Some(20.0));
    Ok(())
}

#[tokio::test]
async fn as_many_more_as_the_rule_says_wait_for_their_turn() -> Result<()> {
    let (_mesh, orders, client) = world("max: 1, queue: 2, queueTimeout: 1m").await?;
    let release = orders.upstream.holds();
    let first = send(&client);
    arrived(&orders, 1).await?;
    let waiting = [send(&client), send(&client)];
    gauges(&client, 1.0, 2.0).await?;
    refused(&client).await?;
    assert_eq!(orders.upstream.requests(), 1);
    release.send(())?;
    assert_eq!(first.await??.status, 200);
    for waiting in waiting {
        assert_eq!(waiting.await??.status, 200);
    }
    gauges(&client, 0.0, 0.0).await
}

#[tokio::test]
async fn who_has_waited_too_long_is_answered_503() -> Result<()> {
    let (_mesh, orders, client) = world("max: 1, queue: 1, queueTimeout: 300ms").await?;
    let _release = orders.upstream.holds();
    let _held = send(&client);
    arrived(&orders, 1).await?;
    let begun = Instant::now();
    refused(&client).await?;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(orders.upstream.requests(), 1);
    gauges(&client, 1.0, 0.0).await
}

#[tokio::test]
async fn a_place_is_held_until_the_body_has_ended_or_its_caller_has_gone() -> Result<()> {
    let (_mesh, orders, client) = world("max: 1").await?;
    orders.upstream.says("at last");
    orders.upstream.dawdles(10 * SOON);
    let mut stream = connect(&client).await?;
    let head = "GET http://orders/ HTTP/1.1\r\nhost: orders\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let head = read_until(&mut stream, "\r\n\r\n").await?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    gauges(&client, 1.0, 0.0).await?;
    refused(&client).await?;
    drop(stream);
    gauges(&client, 0.0, 0.0).await?;
    orders.upstream.dawdles(Duration::ZERO);
    assert_eq!(send(&client).await??.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_rule_whose_limits_change_goes_on_counting() -> Result<()> {
    let (mesh, orders, client) = world("max: 2").await?;
    let release = orders.upstream.holds();
    let mut held = vec![send(&client), send(&client)];
    arrived(&orders, 2).await?;

    mesh.write("routes.yaml", &yaml("max: 1"))?;
    told(&client, "sends at most 1 at once, others are answered 503").await?;
    gauges(&client, 2.0, 0.0).await?;
    refused(&client).await?;

    mesh.write("routes.yaml", &yaml("max: 3"))?;
    told(&client, "sends at most 3 at once, others are answered 503").await?;
    held.push(send(&client));
    arrived(&orders, 3).await?;
    refused(&client).await?;
    release.send(())?;
    for held in held {
        assert_eq!(held.await??.status, 200);
    }
    gauges(&client, 0.0, 0.0).await
}
