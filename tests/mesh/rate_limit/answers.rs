//! What callers are told.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use tests::mesh::SOON;
use tests::wait_until;

use super::{header, holds, pass, rate_limit, world};
use crate::routing::services;

const TWO_A_MINUTE: &str = "    - { name: all, requests: 2, per: 1m }\n";

#[tokio::test]
async fn what_is_too_much_is_answered_429_with_when_to_come_back() -> Result<()> {
    let (_mesh, orders, client) = world(TWO_A_MINUTE, "").await?;
    let first = client.get("http://orders/").await?;
    assert_eq!(first.status, 200);
    assert_eq!(header(&first, "ratelimit")?, "\"all\";r=1;t=30");
    assert_eq!(header(&first, "ratelimit-policy")?, "\"all\";q=2;w=60");
    assert_eq!(client.get("http://orders/").await?.status, 200);

    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (429, "rate_limited"));
    let after: u64 = header(&answer, "retry-after")?.parse()?;
    assert!((25..=30).contains(&after), "{after}");
    assert!(
        header(&answer, "ratelimit")?.starts_with("\"all\";r=0;t="),
        "{answer:?}"
    );
    assert_eq!(header(&answer, "ratelimit-policy")?, "\"all\";q=2;w=60");
    let problem: serde_json::Value = serde_json::from_str(&answer.body)?;
    assert_eq!(problem["reason"], "rate_limited");
    assert_eq!(problem["status"], 429);
    assert!(
        !answer.body.contains("shop"),
        "callers are not told of limits"
    );
    assert_eq!(orders.upstream.requests(), 2);

    // What `tap` shows and the access log has.
    wait_until("the log says which limit", SOON, async || {
        let log = orders.sidecar.log()?;
        let says = r#""limit":"shop/limits/all","limited":"limited""#;
        ensure!(log.contains(says), "{log}");
        Ok(())
    })
    .await?;
    let series = |outcome| {
        format!(
            "meshwright_rate_limit_total{{rate_limit=\"shop/limits\",limit=\"all\",outcome=\"{outcome}\"}}"
        )
    };
    let sidecar = &orders.sidecar;
    assert_eq!(sidecar.metric(&series("passed")).await?, Some(2.0));
    assert_eq!(sidecar.metric(&series("limited")).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn a_grpc_client_reads_resource_exhausted_and_when_to_come_back() -> Result<()> {
    let (_mesh, _orders, client) = world(TWO_A_MINUTE, "").await?;
    assert_eq!(pass(&client, 2, &[]).await?, 2);
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    let send = client.send(
        Method::POST,
        "http://orders/shop.Stock/Get",
        &grpc,
        Bytes::new(),
    );
    let answer = send.await?;
    assert_eq!(answer.status, 200);
    assert_eq!(header(&answer, "grpc-status")?, "8");
    assert_eq!(answer.reason(), "rate_limited");
    let millis: u64 = header(&answer, "grpc-retry-pushback-ms")?.parse()?;
    assert!((25_000..=30_000).contains(&millis), "{millis}");
    assert!(answer.headers.contains_key("retry-after"));
    Ok(())
}

#[tokio::test]
async fn the_fields_are_the_drafts_or_those_before_it_or_none() -> Result<()> {
    let (mesh, orders, client) = world(TWO_A_MINUTE, "").await?;
    let told = async |style: &str, name: &str| {
        let limit = TWO_A_MINUTE.replace("all", name);
        let yaml = format!(
            "{}{}  headers: {style}\n",
            services(&["orders"]),
            rate_limit(&limit)
        );
        mesh.write("routes.yaml", &yaml)?;
        holds(&orders, |limits| {
            limits.iter().any(|limit| limit["limit"] == name)
        })
        .await?;
        client.get("http://orders/").await
    };
    let legacy = told("Legacy", "legacy").await?;
    assert_eq!(header(&legacy, "x-ratelimit-limit")?, "2");
    assert_eq!(header(&legacy, "x-ratelimit-remaining")?, "1");
    assert_eq!(header(&legacy, "x-ratelimit-reset")?, "30");
    assert!(!legacy.headers.contains_key("ratelimit"));

    let none = told("None", "none").await?;
    let names = none.headers.keys().map(http::HeaderName::as_str);
    let names = Vec::from_iter(names.filter(|name| name.contains("ratelimit")));
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(pass(&client, 1, &[]).await?, 1);
    let refused = client.get("http://orders/").await?;
    assert_eq!(refused.status, 429);
    assert!(refused.headers.contains_key("retry-after"));
    Ok(())
}
