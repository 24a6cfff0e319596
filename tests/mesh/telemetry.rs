//! What is said of a request.

use anyhow::{Result, ensure};
use tests::mesh::{Mesh, SOON};
use tests::wait_until;

use crate::routing::{route, services};

#[tokio::test]
async fn the_access_log_has_one_line_for_each_request_and_no_secret() -> Result<()> {
    let yaml = services(&["orders"]) + &route("    - name: everything\n");
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let headers = [
        ("authorization", "Bearer s3cr3t-token"),
        ("cookie", "s3cr3t-cookie"),
    ];
    client
        .get_with("http://orders/a/b?password=s3cr3t-query", &headers)
        .await?;

    let line = wait_until("the line is there", SOON, async || {
        let log = client.sidecar().log()?;
        assert!(!log.contains("s3cr3t"), "{log}");
        let line = log
            .lines()
            .find(|line| line.contains(r#""direction":"outbound""#));
        let line = line.ok_or_else(|| anyhow::anyhow!("{log}"))?;
        Ok(serde_json::from_str::<serde_json::Value>(line)?)
    })
    .await?;

    assert_eq!(line["method"], "GET");
    assert_eq!(line["path"], "/a/b");
    assert_eq!(line["host"], "orders");
    assert_eq!(line["service"], "shop/orders");
    assert_eq!(line["route"], "shop/orders");
    assert_eq!(line["rule"], "everything");
    assert_eq!(line["status"], 200);
    assert_eq!(line["outcome"], "complete");
    assert_eq!(line["attempts"], 1);
    Ok(())
}

#[tokio::test]
async fn a_refusal_has_the_same_reason_in_response_log_and_metric() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let client = mesh.client("web").await?;
    let refused = client.get("http://orders/").await?;
    assert_eq!(refused.reason(), "no_endpoints");

    let metric = r#"meshwright_requests_total{direction="outbound",service="shop/orders",route="",rule="",code="503",reason="no_endpoints"}"#;
    wait_until("it is logged and counted", SOON, async || {
        let log = client.sidecar().log()?;
        let line = log
            .lines()
            .find(|line| line.contains(r#""status":503"#))
            .ok_or_else(|| anyhow::anyhow!("{log}"))?;
        let line: serde_json::Value = serde_json::from_str(line)?;
        ensure!(line["reason"] == "no_endpoints", "{line}");
        ensure!(client.sidecar().metric(metric).await? == Some(1.0));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn metrics_count_requests_by_route_status_and_reason() -> Result<()> {
    let yaml = services(&["orders"])
        + &route("    - name: only\n      matches: [{ path: { type: Exact, value: /only } }]\n");
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    for _ in 0..3 {
        client.get("http://orders/only").await?;
    }
    client.get("http://orders/other").await?;

    let served = r#"meshwright_requests_total{direction="outbound",service="shop/orders",route="shop/orders",rule="only",code="200",reason=""}"#;
    let refused = r#"meshwright_requests_total{direction="outbound",service="shop/orders",route="shop/orders",rule="",code="404",reason="no_route"}"#;
    wait_until("both are counted", SOON, async || {
        let sidecar = client.sidecar();
        let counts = (
            sidecar.metric(served).await?,
            sidecar.metric(refused).await?,
        );
        ensure!(counts == (Some(3.0), Some(1.0)), "{counts:?}");
        Ok(())
    })
    .await?;
    let mtls = r#"meshwright_connections_total{direction="outbound",kind="http"}"#;
    assert!(
        client
            .sidecar()
            .metric(mtls)
            .await?
            .is_some_and(|count| count >= 4.0)
    );
    Ok(())
}

#[tokio::test]
async fn config_shows_what_is_in_force_and_no_key() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let config = orders.sidecar.config().await?;
    assert_eq!(config["ready"], true);
    assert_eq!(
        config["certificate"]["identity"],
        "spiffe://cluster.local/ns/shop/sa/orders"
    );
    assert_eq!(config["inForce"]["complete"], true);
    assert_eq!(config["inForce"]["serves"][0]["port"], 8080);
    assert!(!config.to_string().contains("PRIVATE"));
    Ok(())
}
