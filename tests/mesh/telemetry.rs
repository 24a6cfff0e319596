//! What is said of a request.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::raw::tunnel;
use tests::{python, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::{route, service, services};

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
    let connections = r#"meshwright_connections_total{direction="outbound",kind="http"}"#;
    let connections = client.sidecar().metric(connections).await?;
    assert!(connections.is_some_and(|count| count >= 4.0));
    Ok(())
}

#[tokio::test]
async fn metrics_count_by_caller_and_bytes_on_both_sides() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.says("an answer of twenty-six byte");
    let client = mesh.client("web").await?;
    let body = "a question of twenty-seven by".into();
    let url = "http://orders/";
    let answer = client.send(http::Method::POST, url, &[], body).await?;
    assert_eq!(answer.status, 200);
    for (sidecar, direction) in [(client.sidecar(), "outbound"), (&orders.sidecar, "inbound")] {
        let labels = format!(
            r#"{{direction="{direction}",source="shop/web",service="shop/orders",code_class="2xx"}}"#
        );
        wait_until("it is counted", SOON, async || {
            for (name, expected) in [
                ("requests_total", 1.0),
                ("request_duration_seconds_count", 1.0),
                ("request_body_bytes_total", 29.0),
                ("response_body_bytes_total", 28.0),
            ] {
                let value = sidecar
                    .metric(&format!("meshwright_{name}{labels}"))
                    .await?;
                ensure!(value == Some(expected), "{direction} {name}: {value:?}");
            }
            let in_flight = format!(r#"meshwright_requests_in_flight{{direction="{direction}"}}"#);
            ensure!(sidecar.metric(&in_flight).await? == Some(0.0));
            Ok(())
        })
        .await?;
        let handshakes =
            format!(r#"meshwright_tls_handshakes_total{{direction="{direction}",outcome="ok"}}"#);
        assert_eq!(sidecar.metric(&handshakes).await?, Some(1.0));
    }
    let pooled = r#"meshwright_upstream_connections_open{to="peer",protocol="http2"}"#;
    assert_eq!(client.sidecar().metric(pooled).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn a_grpc_answer_is_counted_by_its_own_status() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "nobody"])).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.adds("grpc-status", "5");
    let client = mesh.client("web").await?;
    let grpc = [("content-type", "application/grpc")];
    client
        .get_with("http://orders/shop.Orders/Get", &grpc)
        .await?;
    client
        .get_with("http://nobody/shop.Orders/Get", &grpc)
        .await?;
    // What is not gRPC has none, whatever the header says.
    client.get("http://orders/page").await?;
    wait_until("all are counted", SOON, async || {
        let sidecar = client.sidecar();
        for (labels, expected) in [
            (r#"service="shop/orders",code="200",grpc_status="5""#, 1.0),
            (
                r#"service="shop/nobody",code="200",grpc_status="14",reason="no_endpoints""#,
                1.0,
            ),
            (r#"service="shop/orders",code="200",grpc_status="""#, 1.0),
        ] {
            let series = format!("meshwright_requests_total{{{labels}}}");
            let value = sidecar.metric(&series).await?;
            ensure!(value == Some(expected), "{series}: {value:?}");
        }
        Ok(())
    })
    .await?;
    let line = line(client.sidecar(), "outbound", "/shop.Orders/Get").await?;
    assert_eq!(line["grpc_status"], 5);
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_are_counted_while_they_flow_and_connections_when_they_end() -> Result<()> {
    let mesh = Mesh::start(&service("ledger", "tcp")).await?;
    let (listener, called) = mesh.listener("ledger").await?;
    let client = mesh.client("web").await?;
    let mut stream = tunnel(&client, "ledger:80").await?;
    let (mut application, _) = timeout(SOON, listener.accept()).await??;
    stream.write_all(b"\0question").await?;
    let mut asked = [0; 9];
    timeout(SOON, application.read_exact(&mut asked)).await??;
    application.write_all(b"\0answer").await?;
    let mut answered = [0; 7];
    timeout(SOON, stream.read_exact(&mut answered)).await??;

    let sidecars = [(client.sidecar(), "outbound"), (&called, "inbound")];
    let counted = async |expected: [(&str, f64); 4]| {
        for (sidecar, direction) in sidecars {
            let labels = format!(r#"direction="{direction}",kind="mtls_tcp""#);
            for (name, expected) in expected {
                let (name, way) = name.split_once(' ').unwrap_or((name, ""));
                let series = format!("meshwright_{name}{{{labels}{way}}}");
                wait_until(&format!("{series} is {expected}"), SOON, async || {
                    let value = sidecar.metric(&series).await?;
                    ensure!(value == Some(expected), "{value:?}");
                    Ok(())
                })
                .await?;
            }
        }
        anyhow::Ok(())
    };
    counted([
        (r#"opaque_bytes_total ,way="to_destination""#, 9.0),
        (r#"opaque_bytes_total ,way="to_source""#, 7.0),
        ("connections_open", 1.0),
        ("connections_closed_total", 0.0),
    ])
    .await?;
    drop((stream, application));
    counted([
        ("connections_total", 1.0),
        ("connections_open", 0.0),
        ("connections_closed_total", 1.0),
        (r#"opaque_bytes_total ,way="to_source""#, 7.0),
    ])
    .await
}

#[tokio::test]
async fn metrics_are_valid_for_prometheus_parsers_in_both_formats() -> Result<()> {
    let yaml = services(&["orders"]) + &route("    - name: everything\n");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    for path in ["/", "/missing"] {
        client.get(&format!("http://orders{path}")).await?;
        orders.upstream.answers(404);
    }
    client.get("http://nobody/").await?;
    let url = |sidecar: &Sidecar| format!("http://{}:15020/metrics", sidecar.address());
    wait_until("all are counted", SOON, async || {
        let counted = client.sidecar().metric("meshwright_requests_total").await?;
        ensure!(counted == Some(3.0), "{counted:?}");
        Ok(())
    })
    .await?;
    // As Prometheus 3 asks.
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                      text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    for (accept, format, kind) in [
        (
            prometheus,
            "openmetrics",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("*/*", "classic", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        for sidecar in [client.sidecar(), &orders.sidecar] {
            let answer = Client::direct()
                .get_with(&url(sidecar), &[("accept", accept)])
                .await?;
            assert_eq!(answer.headers["content-type"], kind);
            let read = python::run("metrics.py", &[format], &answer.body).await?;
            let families: Value = serde_json::from_str(&read)?;
            for (family, kind) in [
                ("meshwright_requests", "counter"),
                ("meshwright_request_duration_seconds", "histogram"),
                ("meshwright_connections_open", "gauge"),
                ("meshwright_certificate_expiry_timestamp_seconds", "gauge"),
                ("meshwright_config_version", "gauge"),
            ] {
                assert_eq!(
                    families[family]["type"], kind,
                    "{format} {family}: {families}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_is_logged_can_be_set_while_requests_are_carried() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "nobody"])).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let sidecar = client.sidecar();

    let set = sidecar.admin("/access-log", Some("filter=errors")).await?;
    assert_eq!(
        (set.status, &*set.body),
        (200, "sample=100 filter=errors\n")
    );
    client.get("http://orders/well").await?;
    client.get("http://nobody/badly").await?;
    assert_eq!(line(sidecar, "outbound", "/badly").await?["status"], 503);
    let log = sidecar.log()?;
    assert!(!log.contains("/well"), "{log}");

    assert_eq!(sidecar.admin("/log-level", None).await?.body, "info\n");
    let set = sidecar
        .admin("/log-level", Some("info,sidecar=debug"))
        .await?;
    assert_eq!((set.status, &*set.body), (200, "info,sidecar=debug\n"));
    assert_eq!(
        sidecar.admin("/log-level", Some("debgu")).await?.status,
        400
    );
    // What is no HTTP on a connection to the sidecar itself ends in a line of that level.
    let mut stream = tests::raw::connect(&client).await?;
    stream.write_all(b"\0\0\0\0").await?;
    wait_until("it is logged", SOON, async || {
        let log = sidecar.log()?;
        ensure!(log.contains("outbound connection ended"), "{log}");
        Ok(())
    })
    .await?;

    let stats = sidecar.admin("/stats", None).await?;
    let stats: Value = serde_json::from_str(&stats.body)?;
    assert_eq!(stats["outbound"]["requests"]["byReason"]["no_endpoints"], 1);
    assert_eq!(stats["outbound"]["requests"]["byCode"]["200"], 1);
    assert_eq!(stats["upstreamConnections"]["peer http2"], 1);
    assert_eq!(stats["accessLog"]["selection"], "sample=100 filter=errors");
    assert_eq!(stats["logLevel"], "info,sidecar=debug");
    assert!(stats["config"]["version"].as_u64() > Some(0), "{stats}");
    assert!(stats["config"]["ageSeconds"].is_u64(), "{stats}");
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

/// The fields of a sidecar's access-log line for a request that went this way.
async fn line(sidecar: &Sidecar, direction: &str, path: &str) -> Result<Value> {
    wait_until("the line is there", SOON, async || {
        let log = sidecar.log()?;
        let direction = format!(r#""direction":"{direction}""#);
        let path = format!(r#""path":"{path}""#);
        let line = log
            .lines()
            .find(|line| line.contains(&direction) && line.contains(&path));
        Ok(serde_json::from_str(line.context(log.clone())?)?)
    })
    .await
}

#[tokio::test]
async fn one_trace_joins_the_hops_of_a_call_and_a_valid_one_is_kept() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let kept = [
        ("traceparent", parent),
        ("tracestate", "vendor=opaque"),
        ("x-request-id", "the-callers"),
    ];
    let malformed = [
        ("traceparent", "00-0-0-01"),
        ("tracestate", "vendor=opaque"),
        ("x-request-id", "two words"),
    ];
    let b3 = [("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")];
    for (path, headers) in [
        ("/none", &[][..]),
        ("/kept", &kept),
        ("/malformed", &malformed),
        ("/b3", &b3),
    ] {
        let url = format!("http://orders{path}");
        assert_eq!(client.get_with(&url, headers).await?.status, 200);
        let seen = orders.upstream.seen();
        let seen = seen.iter().find(|seen| seen.target == path);
        let seen = &seen.context("it arrived")?.headers;
        let id = seen["traceparent"].to_str()?.split('-').nth(1);
        for (sidecar, direction) in [(client.sidecar(), "outbound"), (&orders.sidecar, "inbound")] {
            let line = line(sidecar, direction, path).await?;
            assert_eq!(line["trace_id"].as_str(), id, "{path} {direction}");
            assert_eq!(line["request_id"], seen["x-request-id"].to_str()?);
        }
        match path {
            "/kept" => {
                for (name, value) in kept {
                    assert_eq!(seen[name], value);
                }
            }
            "/b3" => {
                assert_eq!(seen["traceparent"], parent);
                assert_eq!(seen["b3"], b3[0].1);
            }
            _ => {
                assert!(seen["traceparent"].to_str()?.ends_with("-00"));
                assert!(!seen.contains_key("tracestate"));
                assert_eq!(seen["x-request-id"].len(), 36);
            }
        }
    }
    Ok(())
}
