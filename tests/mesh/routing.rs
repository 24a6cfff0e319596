//! What an ApiRoute does to a request.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tests::mesh::{Mesh, SOON};
use tests::wait_until;

/// Services by name, each over the workloads of that name.
pub(crate) fn services(names: &[&str]) -> String {
    let service = |name: &&str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ selector: {{ app: {name} }}, ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n"
        )
    };
    names.iter().map(service).collect::<Vec<_>>().join("---\n")
}

/// A Service whose port is declared so; no declaration when empty.
pub(crate) fn service(name: &str, app_protocol: &str) -> String {
    let declared = match app_protocol {
        "" => String::new(),
        declared => format!(", appProtocol: {declared}"),
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ selector: {{ app: {name} }}, ports: [{{ port: 80, targetPort: 8080{declared} }}] }}\n"
    )
}

/// An ApiRoute for the Service `orders`, with these rules.
pub(crate) fn route(rules: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: orders, namespace: shop }}\n\
         spec:\n  hosts: [orders]\n  rules:\n{rules}"
    )
}

#[tokio::test]
async fn a_call_by_service_name_arrives_with_no_route_at_all() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;

    let body = Bytes::from_static(b"two books");
    let answer = client
        .send(
            Method::POST,
            "http://orders/cart?x=1",
            &[("x-kind", "test")],
            body.clone(),
        )
        .await?;

    assert_eq!((answer.status, answer.reason()), (200, ""), "{answer:?}");
    let seen = &orders.upstream.seen()[0];
    assert_eq!(
        (&seen.method, seen.target.as_str()),
        (&Method::POST, "/cart?x=1")
    );
    assert_eq!(seen.headers["host"], "orders");
    assert_eq!(seen.headers["x-kind"], "test");
    assert_eq!(seen.body, body);
    Ok(())
}

#[tokio::test]
async fn every_name_of_a_service_means_it() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    for host in [
        "orders",
        "orders.shop",
        "orders.shop.svc",
        "orders.shop.svc.cluster.local",
        "ORDERS.Shop:80",
    ] {
        assert_eq!(
            client.get(&format!("http://{host}/")).await?.status,
            200,
            "{host}"
        );
    }
    let unknown = client.get("http://nobody/").await?;
    assert_eq!((unknown.status, unknown.reason()), (404, "unknown_host"));
    Ok(())
}

#[tokio::test]
async fn rules_select_by_path_method_and_header_and_nothing_else_passes() -> Result<()> {
    let yaml = services(&["orders", "orders-v2"])
        + &route(
            "    - name: v2\n      matches:\n        - path: { type: Prefix, value: /v2 }\n        \
             - headers: [{ name: Version, value: two }]\n          method: GET\n      \
             backendRefs: [{ name: orders-v2, port: 80 }]\n    \
             - name: v1\n      matches: [{ path: { type: Exact, value: /v1 } }]\n",
        );
    let mesh = Mesh::start(&yaml).await?;
    let v1 = mesh.workload("orders").await?;
    let v2 = mesh.workload("orders-v2").await?;
    v1.upstream.says("one");
    v2.upstream.says("two");
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    for (path, expected) in [
        ("/v2", "two"),
        ("/v2/", "two"),
        ("/v2/x", "two"),
        ("/v1", "one"),
    ] {
        assert_eq!(
            client.get(&format!("http://orders{path}")).await?.body,
            expected,
            "{path}"
        );
    }
    let header = [("version", "two")];
    assert_eq!(
        client.get_with("http://orders/any", &header).await?.body,
        "two"
    );
    for (method, path) in [
        (Method::POST, "/any"),
        (Method::GET, "/v2example"),
        (Method::GET, "/v1/x"),
    ] {
        let headers: &[_] = if method == Method::POST { &header } else { &[] };
        let url = format!("http://orders{path}");
        let answer = client.send(method, &url, headers, Bytes::new()).await?;
        assert_eq!((answer.status, answer.reason()), (404, "no_route"), "{url}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    Ok(())
}

#[tokio::test]
async fn weights_split_the_requests() -> Result<()> {
    let yaml = services(&["orders", "orders-v1", "orders-v2"])
        + &route(
            "    - backendRefs:\n        - { name: orders-v1, port: 80, weight: 70 }\n        \
             - { name: orders-v2, port: 80, weight: 30 }\n",
        );
    let mesh = Mesh::start(&yaml).await?;
    let v1 = mesh.workload("orders-v1").await?;
    let v2 = mesh.workload("orders-v2").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    const REQUESTS: usize = 1000;
    for _ in 0..REQUESTS {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }

    let (one, two) = (v1.upstream.requests(), v2.upstream.requests());
    assert_eq!(one + two, REQUESTS);
    // Six standard deviations of 1 000 draws at 30 % are 87: one failure in a billion runs.
    assert!((213..=387).contains(&two), "{two} of {REQUESTS}");
    Ok(())
}

#[tokio::test]
async fn a_request_that_outlasts_its_timeout_is_answered_504_in_time() -> Result<()> {
    let yaml = services(&["orders"])
        + &route(
            "    - matches: [{ path: { type: Prefix, value: /slow } }]\n      timeouts: { request: 300ms }\n    - name: rest\n",
        );
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.takes(Duration::from_secs(3));
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    let started = Instant::now();
    let late = client.get("http://orders/slow").await?;
    let took = started.elapsed();
    assert_eq!(
        (late.status, late.reason()),
        (504, "request_timeout"),
        "{late:?}"
    );
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(
        took < Duration::from_secs(3),
        "the answer did not wait for the application: {took:?}"
    );
    // Another rule of the same route has no timeout.
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_response_that_outlasts_the_timeout_is_cut_off() -> Result<()> {
    let yaml = services(&["orders"]) + &route("    - timeouts: { request: 300ms }\n");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);

    orders.upstream.dawdles(Duration::from_secs(20));
    let started = Instant::now();
    let cut_off = client.get("http://orders/").await;
    assert!(cut_off.is_err(), "{cut_off:?}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "the body was waited for"
    );
    Ok(())
}

#[tokio::test]
async fn many_requests_share_few_connections_between_sidecars() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let calls = (0..100).map(|_| client.get("http://orders/"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer?.status, 200);
    }
    let between = r#"meshwright_connections_total{direction="inbound",kind="mtls_http"}"#;
    let between = orders.sidecar.metric(between).await?;
    assert!(between.is_some_and(|count| count <= 2.0), "{between:?}");
    Ok(())
}

#[tokio::test]
async fn several_workers_carry_requests_and_follow_edits_and_drain() -> Result<()> {
    let to = |service: &str| {
        services(&["orders", "orders-v2"])
            + &route(&format!(
                "    - backendRefs: [{{ name: {service}, port: 80 }}]\n"
            ))
    };
    let mesh = Mesh::start(&to("orders")).await?;
    let [one, two] = [
        mesh.workload("orders").await?,
        mesh.workload("orders-v2").await?,
    ];
    one.upstream.says("one");
    two.upstream.says("two");
    let client = mesh.client_with_workers("web", 4).await?;
    mesh.programmed("orders").await?;
    // Each is a connection of its own, and the kernel spreads those over the workers.
    let all_say = async |expected: &str| {
        let calls = (0..40).map(|_| client.get("http://orders/"));
        for answer in futures::future::join_all(calls).await {
            let answer = answer?;
            anyhow::ensure!(answer.body == expected, "{answer:?}");
        }
        anyhow::Ok(())
    };
    all_say("one").await?;

    mesh.write("routes.yaml", &to("orders-v2"))?;
    wait_until("every worker has heard of the edit", SOON, async || {
        all_say("two").await
    })
    .await?;
    all_say("two").await?;
    assert_eq!(client.sidecar().terminate().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_service_without_endpoints_answers_503_with_retry_after() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let client = mesh.client("web").await?;
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, "no_endpoints"));
    assert_eq!(answer.headers["retry-after"], "1");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_outside_the_mesh_is_reached_in_plaintext() -> Result<()> {
    let mesh = Mesh::start(&services(&["legacy"])).await?;
    let legacy = mesh.outsider("legacy").await?;
    let client = mesh.client("web").await?;
    wait_until("legacy answers", SOON, async || {
        let answer = client.get("http://legacy/").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    assert_eq!(legacy.seen()[0].headers["host"], "legacy");
    Ok(())
}

#[tokio::test]
async fn hop_by_hop_and_reserved_headers_do_not_reach_the_application() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let headers = [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("meshwright-reason", "made-up"),
        ("x-kept", "1"),
    ];
    client.get_with("http://orders/", &headers).await?;
    let seen = &orders.upstream.seen()[0].headers;
    assert!(seen.contains_key("x-kept"));
    for name in ["x-private", "meshwright-reason"] {
        assert!(!seen.contains_key(name), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn an_application_cannot_speak_for_the_mesh() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders", "legacy"])).await?;
    let inside = mesh.workload("orders").await?;
    let outside = mesh.outsider("legacy").await?;
    let client = mesh.client("web").await?;
    for upstream in [&inside.upstream, &outside] {
        upstream.adds("meshwright-reason", "no_route");
    }
    for url in ["http://orders/", "http://legacy/"] {
        wait_until("it answers", SOON, async || {
            let answer = client.get(url).await?;
            anyhow::ensure!(answer.status == 200, "{answer:?}");
            assert_eq!(answer.reason(), "", "{url}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn requests_beyond_those_of_one_connection_get_another_one_and_do_not_wait() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.takes(Duration::from_secs(3));
    let client = mesh.client("web").await?;
    let calls = (0..140).map(|_| client.get("http://orders/"));
    let answers = futures::future::join_all(calls);
    let arrived = wait_until("all are under way", SOON, async || {
        anyhow::ensure!(orders.upstream.requests() == 140);
        let between = r#"meshwright_connections_total{direction="inbound",kind="mtls_http"}"#;
        orders.sidecar.metric(between).await
    });
    let (answers, between) = futures::future::join(answers, arrived).await;
    assert_eq!(between?, Some(2.0));
    for answer in answers {
        assert_eq!(answer?.status, 200);
    }
    Ok(())
}
