//! One ApiRoute leads to another: an experience's rules to a process's, and on to a system's.

use anyhow::Result;
use tests::mesh::{Mesh, SOON};
use tests::raw::{connect, head};
use tests::wait_until;
use tokio::io::AsyncWriteExt;

use crate::routing::services;

const ROUTES: &str = "---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: app-route, namespace: shop }
spec:
  hosts: [app]
  timeouts: { request: 20s }
  rules:
  - name: orders
    matches: [{ path: { type: Prefix, value: /api/orders } }]
    rewrite: { path: { type: ReplacePrefix, value: /orders } }
    requestHeaders: { set: [{ name: x-layer, value: app }] }
    responseHeaders: { add: [{ name: x-through, value: app }] }
    backendRefs: [{ kind: ApiRoute, name: orders-route, port: 80 }]
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: orders-route, namespace: shop }
spec:
  hosts: [orders]
  rules:
  - name: beta
    matches: [{ path: { type: Prefix, value: /orders }, headers: [{ name: x-beta, value: \"1\" }] }]
    responseHeaders: { add: [{ name: x-through, value: orders }] }
    backendRefs: [{ name: orders-beta, port: 80 }]
  - name: main
    matches: [{ path: { type: Exact, value: /orders/1 } }]
    requestHeaders: { set: [{ name: x-layer, value: orders }] }
    responseHeaders: { add: [{ name: x-through, value: orders }] }
  - name: slow
    matches: [{ path: { type: Exact, value: /orders/slow } }]
    timeouts: { request: 100ms }
";

#[tokio::test]
async fn requests_are_governed_by_the_rules_of_each_api_they_are_led_through() -> Result<()> {
    let mesh = Mesh::start(&(services(&["app", "orders", "orders-beta"]) + ROUTES)).await?;
    let app = mesh.workload("app").await?;
    let orders = mesh.workload("orders").await?;
    let beta = mesh.workload("orders-beta").await?;
    orders.upstream.says("orders");
    beta.upstream.says("beta");
    let client = mesh.client("web").await?;
    mesh.programmed("app-route").await?;
    mesh.programmed("orders-route").await?;

    let answer = client.get("http://app/api/orders/1").await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "orders"));
    let through: Vec<_> = answer.headers.get_all("x-through").iter().collect();
    assert_eq!(through, ["orders", "app"], "from the inside out");
    let seen = &orders.upstream.seen()[0];
    assert_eq!(
        (seen.target.as_str(), &seen.headers["x-layer"]),
        ("/orders/1", &"orders".parse()?)
    );

    let explained = client.sidecar();
    let asked = "/explain?method=GET&url=http%3A%2F%2Fapp%2Fapi%2Forders%2F1";
    let explained: serde_json::Value =
        serde_json::from_str(&explained.admin(asked, None).await?.body)?;
    let then = &explained["goes"][0]["then"];
    assert_eq!(then["route"], "shop/orders-route", "{explained}");
    let governs = then["rules"].as_array().into_iter().flatten();
    let mut governs = governs.filter(|rule| rule["governs"] == true);
    assert_eq!(
        governs.next().map(|rule| &rule["rule"]),
        Some(&"main".into()),
        "{explained}"
    );

    let answer = client
        .get_with("http://app/api/orders/1/x", &[("x-beta", "1")])
        .await?;
    assert_eq!((answer.status, answer.body.as_str()), (200, "beta"));
    // The inner API has no rule for it, whatever the outer one has.
    let answer = client.get("http://app/api/orders/2").await?;
    assert_eq!((answer.status, answer.reason()), (404, "no_route"));
    // The sooner of the two limits holds.
    orders.upstream.takes(std::time::Duration::from_secs(5));
    let answer = client.get("http://app/api/orders/slow").await?;
    assert_eq!(
        (answer.status, answer.reason()),
        (504, "request_timeout"),
        "{answer:?}"
    );
    assert_eq!(app.upstream.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn what_an_api_is_led_to_may_change_or_go_and_the_callers_are_told() -> Result<()> {
    let base = services(&["app", "orders", "orders-beta"]);
    let mesh = Mesh::start(&(base.clone() + ROUTES)).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("app-route").await?;
    mesh.programmed("orders-route").await?;
    assert_eq!(client.get("http://app/api/orders/1").await?.status, 200);

    // A circle is refused at both ends, and the rest goes on.
    let circle = ROUTES.replace(
        "backendRefs: [{ name: orders-beta, port: 80 }]",
        "backendRefs: [{ kind: ApiRoute, name: app-route, port: 80 }]",
    );
    mesh.write("routes.yaml", &(base.clone() + &circle))?;
    wait_until("the circle is refused", SOON, async || {
        let verdict = mesh.verdict("orders-route").await?.to_string();
        anyhow::ensure!(verdict.contains("leads back"), "{verdict}");
        let answer = client.get("http://app/api/orders/1").await?;
        anyhow::ensure!(answer.status == 503, "{answer:?}");
        Ok(())
    })
    .await?;
    let direct = client.get("http://orders/orders/1").await?;
    assert_eq!(direct.status, 200, "what leads nowhere else still works");

    let without = ROUTES.split("---\n").nth(1).unwrap_or_default();
    mesh.write("routes.yaml", &(base.clone() + "---\n" + without))?;
    wait_until("the inner API is gone", SOON, async || {
        let verdict = mesh.verdict("app-route").await?.to_string();
        anyhow::ensure!(verdict.contains("there is no ApiRoute"), "{verdict}");
        let answer = client.get("http://app/api/orders/1").await?;
        let told = (answer.status, answer.reason());
        anyhow::ensure!(told == (503, "backend_missing"), "{answer:?}");
        Ok(())
    })
    .await?;
    mesh.write("routes.yaml", &(base + ROUTES))?;
    wait_until("it is back", SOON, async || {
        let answer = client.get("http://app/api/orders/1").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    assert!(orders.upstream.requests() > 0);
    Ok(())
}

#[tokio::test]
async fn the_limit_of_each_api_holds_for_a_body_that_is_led_through_both() -> Result<()> {
    let limited = ROUTES
        .replace(
            "    responseHeaders: { add: [{ name: x-through, value: app }] }\n",
            "    maxRequestBytes: 10\n",
        )
        .replace(
            "    requestHeaders: { set: [{ name: x-layer, value: orders }] }\n",
            "    maxRequestBytes: 1000\n",
        );
    let mesh = Mesh::start(&(services(&["app", "orders", "orders-beta"]) + &limited)).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("app-route").await?;
    mesh.programmed("orders-route").await?;
    let chunked = async |size: usize| {
        let mut stream = connect(&client).await?;
        let body = format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
        let request = format!(
            "POST http://app/api/orders/1 HTTP/1.1\r\nhost: app\r\n\
             transfer-encoding: chunked\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let (answer, _) = head(&mut stream).await?;
        anyhow::Ok(answer[9..12].to_owned())
    };
    assert_eq!(chunked(10).await?, "200");
    assert_eq!(chunked(100).await?, "413");
    assert_eq!(orders.upstream.requests(), 1);
    Ok(())
}
