//! What bounds retries: time, bodies, budgets; and what is sent beside an attempt.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;
use sidecar::net::tls::ALPN_H1;
use tests::mesh::{Mesh, SOON};
use tests::raw::peer;
use tests::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{AT_ONCE, knows, policy, post, seen, world};
use crate::routing::{route, services};

#[tokio::test]
async fn a_body_is_kept_up_to_its_bound_and_a_larger_one_streams_unretried() -> Result<()> {
    let bounded = format!("{AT_ONCE}\n  maxReplayBytes: 1000");
    let (_mesh, orders, client) = world::<1>(&policy(&bounded)).await?;
    let upstream = &orders[0].upstream;
    upstream.answers(503);
    let put = async |size: usize| {
        let body = Bytes::from("x".repeat(size));
        let answer = client
            .send(Method::PUT, "http://orders/", &[], body)
            .await?;
        anyhow::Ok(answer.status)
    };
    assert_eq!(put(1000).await?, 503);
    assert_eq!(upstream.requests(), 3);
    assert!(upstream.seen().iter().all(|one| one.body.len() == 1000));
    assert_eq!(put(1001).await?, 503);
    assert_eq!(upstream.requests(), 4);
    assert_eq!(upstream.seen()[3].body.len(), 1001);
    let given_up = r#"meshwright_retries_given_up_total{service="shop/orders",why="body"}"#;
    assert_eq!(client.sidecar().metric(given_up).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_kept_is_not_waited_for() -> Result<()> {
    let (_mesh, orders, client) = world::<1>(&policy(AT_ONCE)).await?;
    orders[0].upstream.hurries();
    let mut stream = tests::raw::connect(&client).await?;
    let head = "PUT http://orders/ HTTP/1.1\r\nhost: orders\r\ncontent-length: 10\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await?;
    // The application answers before it has read the body: it has got the request.
    let (head, _) = tests::raw::head(&mut stream).await?;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    Ok(())
}

#[tokio::test]
async fn retries_stay_within_the_budget_that_all_rules_and_workers_share() -> Result<()> {
    let rules =
        "    - name: a\n      matches: [{ path: { type: Exact, value: /a } }]\n    - name: b\n";
    let objects = route(rules)
        + &policy(
            "maxRetries: 10\n  budget: { percent: 50, minPerSecond: 0 }\n  backoff: { initial: 1ms, max: 1ms }",
        );
    let mesh = Mesh::start(&(services(&["orders"]) + &objects)).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client_with_workers("web", 2).await?;
    mesh.programmed("policy").await?;
    knows(&client, 1).await?;
    orders.upstream.answers(503);
    let calls = (0..100).map(|n| {
        let (client, path) = (&client, if n % 2 == 0 { "/a" } else { "/b" });
        async move { client.get(&format!("http://orders{path}")).await }
    });
    try_join_all(calls).await?;
    assert_eq!(orders.upstream.requests(), 150);
    let given_up = r#"meshwright_retries_given_up_total{service="shop/orders",why="budget"}"#;
    assert!(client.sidecar().metric(given_up).await? > Some(0.0));
    let left = r#"meshwright_retry_budget_left{service="shop/orders"}"#;
    assert_eq!(client.sidecar().metric(left).await?, Some(0.0));
    // What is used stays used when something else is edited, and when the policy is.
    let objects = objects.replace("maxRetries: 10", "maxRetries: 9");
    mesh.write(
        "routes.yaml",
        &(services(&["orders", "payments"]) + &objects),
    )?;
    mesh.programmed("policy").await?;
    wait_until("the other Service is known", SOON, async || {
        match client.get("http://payments/").await?.reason() {
            "no_endpoints" => Ok(()),
            other => bail!("{other}"),
        }
    })
    .await?;
    assert_eq!(client.sidecar().metric(left).await?, Some(0.0));
    client.get("http://orders/a").await?;
    assert_eq!(orders.upstream.requests(), 151);
    Ok(())
}

#[tokio::test]
async fn a_slow_answer_is_overtaken_by_another_endpoints_within_the_budget() -> Result<()> {
    let hedged = "hedging: { after: 100ms }\n  loadBalancing: { type: RoundRobin }\n  \
                  budget: { percent: 0, minPerSecond: 1000 }";
    let (_mesh, orders, client) = world::<2>(&policy(hedged)).await?;
    orders[0].upstream.takes(Duration::from_secs(20));
    let begun = Instant::now();
    for _ in 0..6 {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let slow = orders[0].upstream.requests();
    assert!(slow > 0, "it was never asked");
    assert_eq!(orders[1].upstream.requests(), 6);
    let hedges = r#"meshwright_hedges_total{service="shop/orders"}"#;
    assert_eq!(client.sidecar().metric(hedges).await?, Some(slow as f64));
    Ok(())
}

#[tokio::test]
async fn no_hedge_is_sent_for_what_changes_something_or_beyond_the_budget() -> Result<()> {
    let hedged = |more: &str| {
        let floor = format!("budget: {{ percent: 0, minPerSecond: {more} }}");
        policy(&format!("hedging: {{ after: 10ms }}\n  {floor}"))
    };
    let (mesh, orders, client) = world::<2>(&hedged("1000")).await?;
    for one in &orders {
        one.upstream.takes(Duration::from_millis(200));
    }
    assert_eq!(post(&client, &[], "").await?.status, 200);
    assert_eq!(seen(&orders), 1);
    client.get("http://orders/").await?;
    assert_eq!(seen(&orders), 3);
    mesh.write("routes.yaml", &(services(&["orders"]) + &hedged("0")))?;
    wait_until("the edit is in force", SOON, async || {
        let before = seen(&orders);
        client.get("http://orders/").await?;
        match seen(&orders) - before {
            1 => Ok(()),
            more => bail!("{more}"),
        }
    })
    .await
}

#[tokio::test]
async fn nobody_waits_beyond_the_requests_own_time_limit() -> Result<()> {
    let limited = route("    - timeouts: { request: 3s }\n");
    let slow = policy("backoff: { type: Constant, initial: 10s, max: 10s, jitter: None }");
    let (mesh, orders, client) = world::<1>(&(limited.clone() + &slow)).await?;
    orders[0].upstream.answers(503);
    let begun = Instant::now();
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, ""), "what there is");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let given_up = r#"meshwright_retries_given_up_total{service="shop/orders",why="deadline"}"#;
    assert_eq!(client.sidecar().metric(given_up).await?, Some(1.0));
    // Nor does a try that may take longer.
    let long_try = policy("perTryTimeout: 10s");
    mesh.write(
        "routes.yaml",
        &(services(&["orders"]) + &limited + &long_try),
    )?;
    mesh.programmed("policy").await?;
    let _held = orders[0].upstream.holds();
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (504, "request_timeout"));
    Ok(())
}

#[tokio::test]
async fn the_time_that_is_left_is_told_to_the_next_sidecar_and_to_a_grpc_server() -> Result<()> {
    let limited = route("    - timeouts: { request: 700ms }\n");
    let (_mesh, orders, client) = world::<1>(&limited).await?;
    let upstream = &orders[0].upstream;
    let grpc = [("content-type", "application/grpc"), ("grpc-timeout", "5S")];
    post(&client, &grpc, "x").await?;
    let told = upstream.seen()[0].headers["grpc-timeout"]
        .to_str()?
        .to_owned();
    let millis: u64 = told.trim_end_matches('m').parse()?;
    assert!(told.ends_with('m') && millis <= 700, "{told}");
    assert!(
        !upstream.seen()[0]
            .headers
            .contains_key("meshwright-timeout-ms")
    );
    // The destination's sidecar gives up by itself when a peer says so, whose connection stays open.
    let _held = upstream.holds();
    let mut io = peer(client.sidecar(), &orders[0].sidecar, ALPN_H1).await?;
    let asks = b"GET / HTTP/1.1\r\nhost: orders\r\nmeshwright-timeout-ms: 300\r\n\r\n";
    io.write_all(asks).await?;
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(SOON, io.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..read]).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 504"), "{answer}");
    assert!(
        answer.contains("meshwright-reason: request_timeout"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn nobody_but_a_peer_says_how_long_its_answer_is_waited_for() -> Result<()> {
    let (_mesh, orders, client) = world::<1>("").await?;
    orders[0].upstream.takes(Duration::from_millis(300));
    let claims = [("meshwright-timeout-ms", "1"), ("meshwright-attempt", "9")];
    assert_eq!(
        client.get_with("http://orders/", &claims).await?.status,
        200
    );
    Ok(())
}
