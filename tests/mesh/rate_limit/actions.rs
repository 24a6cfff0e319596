//! What becomes of what is too much, and what a request counts.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures::future::try_join_all;
use http::Method;

use super::{pass, world};

#[tokio::test]
async fn requests_wait_in_a_bounded_queue_and_no_longer_than_is_said() -> Result<()> {
    let limit = "    - name: spikes\n      requests: 10\n      per: 1s\n      burst: 1\n      \
                 action: Delay\n      delay: { max: 10s, maxQueue: 3 }\n";
    let (_mesh, orders, client) = world(limit, "").await?;
    let begun = Instant::now();
    let answers = try_join_all((0..6).map(|_| client.get("http://orders/"))).await?;
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    let full = answers.iter().filter(|answer| answer.status == 429);
    // One at once, three from the queue; all six may not come before the first has passed on a busy
    // machine, so that one of them finds a place.
    assert!((4..=5).contains(&passed), "{passed}");
    assert_eq!(full.count(), 6 - passed);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let series = "meshwright_rate_limit_total{rate_limit=\"shop/limits\",limit=\"spikes\",outcome=\"delayed\"}";
    assert!(orders.sidecar.metric(series).await? >= Some(3.0));
    Ok(())
}

#[tokio::test]
async fn nobody_waits_for_a_turn_that_comes_after_its_request_has_ended() -> Result<()> {
    let limit = "    - { name: spikes, requests: 1, per: 10s, action: Delay, delay: { max: 10s, maxQueue: 3 } }\n";
    let route = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: { name: orders, \
                 namespace: shop }\nspec: { hosts: [orders], timeouts: { request: 5s } }\n";
    let (_mesh, _orders, client) = world(limit, route).await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    Ok(())
}

#[tokio::test]
async fn what_is_told_only_passes_and_is_counted() -> Result<()> {
    let limit = "    - { name: trial, requests: 1, per: 1h, action: Shadow }\n";
    let (_mesh, orders, client) = world(limit, "").await?;
    assert_eq!(pass(&client, 3, &[]).await?, 3);
    let answer = client.get("http://orders/").await?;
    assert!(!answer.headers.contains_key("ratelimit"), "{answer:?}");
    let series = "meshwright_rate_limit_total{rate_limit=\"shop/limits\",limit=\"trial\",outcome=\"would_limit\"}";
    assert_eq!(orders.sidecar.metric(series).await?, Some(3.0));
    Ok(())
}

#[tokio::test]
async fn bytes_count_before_they_come_where_their_number_is_said() -> Result<()> {
    let limit = "    - { name: upload, requests: 1000, per: 1h, cost: { type: Bytes } }\n";
    let (_mesh, orders, client) = world(limit, "").await?;
    let send = async |bytes: usize| {
        let body = Bytes::from(vec![b'a'; bytes]);
        let answer = client
            .send(Method::POST, "http://orders/", &[], body)
            .await?;
        anyhow::Ok((answer.status, answer.reason().to_owned()))
    };
    assert_eq!(send(1_001).await?, (413, "request_too_large".to_owned()));
    assert_eq!(send(700).await?.0, 200);
    assert_eq!(send(301).await?, (429, "rate_limited".to_owned()));
    assert_eq!(send(290).await?.0, 200);
    assert_eq!(pass(&client, 3, &[]).await?, 3, "what has no body is free");
    assert_eq!(orders.upstream.requests(), 5);
    Ok(())
}

#[tokio::test]
async fn a_header_says_what_a_request_counts() -> Result<()> {
    let limit = "    - { name: cost, requests: 10, per: 1h, cost: { type: Header, name: X-Cost, max: 6 } }\n";
    let (_mesh, _orders, client) = world(limit, "").await?;
    assert_eq!(pass(&client, 2, &[("x-cost", "6")]).await?, 1);
    assert_eq!(pass(&client, 2, &[("x-cost", "3")]).await?, 1);
    assert_eq!(pass(&client, 2, &[]).await?, 1);
    Ok(())
}
