//! `mirror`.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tests::upstream::Upstream;
use tests::wait_until;
use tokio::io::AsyncWriteExt;

use super::{chunk, connect, read_until};
use crate::routing::{route, services};

struct World {
    mesh: Mesh,
    orders: Workload,
    shadow: Workload,
    client: Client,
}

/// A caller of `orders`, whose requests are copied to `shadow`.
async fn world(more: &str) -> Result<World> {
    let rules = format!(
        "    - name: all\n      mirror: {{ backendRef: {{ name: shadow, port: 80 }}{more} }}\n"
    );
    let mesh = Mesh::start(&(services(&["orders", "shadow"]) + &route(&rules))).await?;
    let orders = mesh.workload("orders").await?;
    let shadow = mesh.workload("shadow").await?;
    orders.upstream.says("original");
    shadow.upstream.says("copy");
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    Ok(World {
        mesh,
        orders,
        shadow,
        client,
    })
}

async fn counted(client: &Client, outcome: &str, expected: f64) -> Result<()> {
    let metric =
        format!(r#"meshwright_mirror_total{{route="shop/orders",rule="all",outcome="{outcome}"}}"#);
    let what = format!("{expected} copies are counted as {outcome}");
    wait_until(&what, SOON, async || {
        let count = client.sidecar().metric(&metric).await?;
        ensure!(count == Some(expected), "{count:?}");
        Ok(())
    })
    .await
}

async fn sees(upstream: &Upstream, requests: usize) -> Result<()> {
    wait_until("the copies have arrived", SOON, async || {
        ensure!(upstream.requests() == requests, "{}", upstream.requests());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_copy_is_the_request_again_with_a_mark_and_its_answer_goes_nowhere() -> Result<()> {
    let world = world("").await?;
    world.shadow.upstream.answers(500);
    let body = Bytes::from(vec![b'x'; 64 * 1024]);
    let headers = [("authorization", "Bearer mine"), ("x-kind", "test")];
    let url = "http://orders/cart?x=1";
    let answer = world
        .client
        .send(Method::POST, url, &headers, body.clone())
        .await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "original"));

    sees(&world.shadow.upstream, 1).await?;
    let (original, copy) = (
        &world.orders.upstream.seen()[0],
        &world.shadow.upstream.seen()[0],
    );
    assert_eq!(
        (&copy.method, copy.target.as_str()),
        (&Method::POST, "/cart?x=1")
    );
    assert_eq!(copy.body, body);
    for name in ["host", "authorization", "x-kind", "content-length"] {
        assert_eq!(copy.headers[name], original.headers[name], "{name}");
    }
    assert_eq!(copy.headers["x-mirrored"], "1");
    assert!(!original.headers.contains_key("x-mirrored"));
    counted(&world.client, "sent", 1.0).await?;
    // Copies are no requests of the application.
    let requests = r#"meshwright_requests_total{direction="outbound",service="shop/shadow""#;
    assert_eq!(world.client.sidecar().metric(requests).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_percentage_of_the_requests_is_copied() -> Result<()> {
    let world = world(", percent: 30").await?;
    const REQUESTS: usize = 400;
    for _ in 0..REQUESTS {
        assert_eq!(world.client.get("http://orders/").await?.status, 200);
    }
    assert_eq!(world.orders.upstream.requests(), REQUESTS);
    let sent = r#"meshwright_mirror_total{route="shop/orders",rule="all",outcome="sent"}"#;
    wait_until("no copy is under way", SOON, async || {
        let sent = world.client.sidecar().metric(sent).await?;
        ensure!(
            sent == Some(world.shadow.upstream.requests() as f64),
            "{sent:?}"
        );
        Ok(())
    })
    .await?;
    // Six standard deviations of 400 draws at 30 % are 55.
    let copies = world.shadow.upstream.requests();
    assert!((65..=175).contains(&copies), "{copies} of {REQUESTS}");
    Ok(())
}

#[tokio::test]
async fn a_mirror_that_is_slow_or_gone_costs_the_originals_nothing() -> Result<()> {
    let mut world = world("").await?;
    // Longer than any request of a test may take.
    world.shadow.upstream.takes(4 * SOON);
    let answer = world.client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "original"));
    // It was sent: nobody waits for it but the copy itself, and not for long.
    sees(&world.shadow.upstream, 1).await?;
    counted(&world.client, "failed", 1.0).await?;

    world.shadow.sidecar.kill().await?;
    world.shadow.upstream.close();
    let answer = world.client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "original"));
    counted(&world.client, "failed", 2.0).await
}

#[tokio::test]
async fn more_copies_than_there_are_places_are_dropped_and_counted() -> Result<()> {
    let world = world("").await?;
    world.shadow.upstream.takes(4 * SOON);
    let calls = (0..140).map(|_| world.client.get("http://orders/"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer?.status, 200);
    }
    // Twelve, unless this machine is so slow that a copy is given up before the last one begins.
    let dropped = r#"meshwright_mirror_total{route="shop/orders",rule="all",outcome="dropped"}"#;
    wait_until("each is sent or dropped", SOON, async || {
        let dropped = world.client.sidecar().metric(dropped).await?.unwrap_or(0.0);
        let sent = world.shadow.upstream.requests();
        ensure!(
            dropped >= 1.0 && dropped + sent as f64 == 140.0,
            "{dropped} dropped, {sent} sent"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_body_that_is_too_large_for_a_copy_arrives_whole_and_alone() -> Result<()> {
    let world = world("").await?;
    let body = Bytes::from(vec![b'x'; 64 * 1024 + 1]);
    let send = |body| world.client.send(Method::POST, "http://orders/", &[], body);
    assert_eq!(send(body.clone()).await?.status, 200);
    counted(&world.client, "too_large", 1.0).await?;

    // The same for one that says no length.
    let mut stream = connect(&world.client).await?;
    let head = "POST http://orders/ HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for bytes in [40 * 1024, 24 * 1024 + 1, 0] {
        chunk(&mut stream, bytes).await?;
    }
    let answer = read_until(&mut stream, "original").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    counted(&world.client, "too_large", 2.0).await?;

    let seen = world.orders.upstream.seen();
    assert!(seen.iter().all(|seen| seen.body == body));
    assert_eq!((seen.len(), world.shadow.upstream.requests()), (2, 0));
    Ok(())
}

#[tokio::test]
async fn a_body_without_a_length_is_copied_when_its_last_byte_has_passed() -> Result<()> {
    let world = world("").await?;
    let mut stream = connect(&world.client).await?;
    let head = "POST http://orders/ HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    for bytes in [1000, 2000, 0] {
        chunk(&mut stream, bytes).await?;
    }
    read_until(&mut stream, "original").await?;
    sees(&world.shadow.upstream, 1).await?;
    let copy = &world.shadow.upstream.seen()[0];
    assert_eq!(copy.body, world.orders.upstream.seen()[0].body);
    assert_eq!(copy.body.len(), 3000);

    // A caller that goes away in the middle leaves nothing to copy.
    let mut stream = connect(&world.client).await?;
    stream.write_all(head.as_bytes()).await?;
    chunk(&mut stream, 1000).await?;
    drop(stream);
    counted(&world.client, "unfinished", 1.0).await?;
    assert_eq!(world.shadow.upstream.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_mirror_that_does_not_exist_is_said_and_the_originals_go_on() -> Result<()> {
    let world = world("").await?;
    let lost = "    - name: all\n      mirror: { backendRef: { name: shadw, port: 80 } }\n";
    world.mesh.write(
        "routes.yaml",
        &(services(&["orders", "shadow"]) + &route(lost)),
    )?;
    let sentence = "spec.rules[0].mirror.backendRef.name: there is no Service \"shadw\" in \
                    namespace shop; did you mean \"shadow\"? The rule's requests are not mirrored \
                    meanwhile.";
    wait_until("it is said", SOON, async || {
        let verdict = world.mesh.verdict("orders").await?;
        ensure!(
            verdict.to_string().contains(&sentence.replace('"', "\\\"")),
            "{verdict}"
        );
        Ok(())
    })
    .await?;
    world.mesh.programmed("orders").await?;
    wait_until(
        "the copy fails alone",
        Duration::from_secs(20),
        async || {
            assert_eq!(world.client.get("http://orders/").await?.status, 200);
            counted(&world.client, "failed", 1.0).await
        },
    )
    .await
}
