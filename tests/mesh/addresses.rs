//! Calls to addresses: pods' own, and those that the mesh doesn't know.

use anyhow::{Result, ensure};
use tests::client::Client;
use tests::mesh::{APPLICATION_PORT, Mesh, SOON, Workload};
use tests::raw::tunnel;
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::{route, service, services};

/// Services by name, each with a virtual address of its own.
fn with_addresses(names: &[&str]) -> String {
    let spec = |nth: usize| format!("spec: {{ clusterIP: 10.96.0.{}, selector", nth + 1);
    let services = services(names);
    let documents = services.split("---\n").enumerate();
    let documents = documents.map(|(nth, text)| text.replace("spec: { selector", &spec(nth)));
    documents.collect::<Vec<_>>().join("---\n")
}

fn at(workload: &Workload, path: &str) -> String {
    format!(
        "http://{}:{APPLICATION_PORT}{path}",
        workload.sidecar.address()
    )
}

#[tokio::test]
async fn a_call_to_a_pods_own_address_reaches_that_pod_over_mutual_tls() -> Result<()> {
    for yaml in [services(&["orders"]), with_addresses(&["orders"])] {
        let mesh = Mesh::start(&yaml).await?;
        let [one, other] = mesh.workloads("orders").await?;
        let client = mesh.client("web").await?;
        for _ in 0..6 {
            let answer = client.get(&at(&one, "/")).await?;
            assert_eq!((answer.status, answer.reason()), (200, ""), "{answer:?}");
        }
        assert_eq!((one.upstream.requests(), other.upstream.requests()), (6, 0));
        // Nobody else than a peer gets in, and it was this one.
        let log = wait_until("the access log has the calls", SOON, async || {
            let log = one.sidecar.log()?;
            ensure!(log.contains(r#""direction":"inbound""#), "{log}");
            Ok(log)
        })
        .await?;
        let source = r#""source":"spiffe://cluster.local/ns/shop/sa/web","service":"shop/orders""#;
        assert!(log.contains(source), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_at_its_own_address_that_is_not_who_it_should_be_is_not_sent_anything() -> Result<()>
{
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    mesh.claim(orders.sidecar.pod(), "somebody-else")?;
    let client = mesh.client("web").await?;
    wait_until("the claim has arrived", SOON, async || {
        let answer = client.get(&at(&orders, "/")).await?;
        ensure!(answer.reason() == "peer_not_verified", "{answer:?}");
        Ok(())
    })
    .await?;
    let before = orders.upstream.requests();
    client.get(&at(&orders, "/")).await?;
    assert_eq!(orders.upstream.requests(), before);
    Ok(())
}

#[tokio::test]
async fn a_headless_services_route_governs_the_calls_to_its_pods_addresses() -> Result<()> {
    let yaml = services(&["orders", "payments"])
        + &route(
            "    - name: moved\n      matches: [{ path: { type: Prefix, value: /moved } }]\n      \
             backendRefs: [{ name: payments, port: 80 }]\n    \
             - name: slow\n      matches: [{ path: { type: Prefix, value: /slow } }]\n      \
             timeouts: { request: 50ms }\n    \
             - name: here\n      matches: [{ path: { type: Prefix, value: /here } }]\n",
        );
    let mesh = Mesh::start(&yaml).await?;
    let [one, other] = mesh.workloads("orders").await?;
    let payments = mesh.workload("payments").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    for _ in 0..6 {
        assert_eq!(client.get(&at(&one, "/here")).await?.status, 200);
    }
    assert_eq!((one.upstream.requests(), other.upstream.requests()), (6, 0));

    assert_eq!(client.get(&at(&one, "/moved")).await?.status, 200);
    assert_eq!(payments.upstream.requests(), 1);
    let elsewhere = client.get(&at(&one, "/elsewhere")).await?;
    assert_eq!((elsewhere.status, elsewhere.reason()), (404, "no_route"));
    assert_eq!((one.upstream.requests(), other.upstream.requests()), (6, 0));

    one.upstream.takes(SOON);
    let late = client.get(&at(&one, "/slow")).await?;
    assert_eq!((late.status, late.reason()), (504, "request_timeout"));
    Ok(())
}

#[tokio::test]
async fn where_a_service_has_a_virtual_address_no_route_applies_to_its_pods_own() -> Result<()> {
    let yaml = with_addresses(&["orders", "payments"])
        + &route("    - name: moved\n      backendRefs: [{ name: payments, port: 80 }]\n");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let payments = mesh.workload("payments").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;

    assert_eq!(client.get(&at(&orders, "/")).await?.status, 200);
    assert_eq!(client.get("http://10.96.0.1/").await?.status, 200);
    let requests = (orders.upstream.requests(), payments.upstream.requests());
    assert_eq!(requests, (1, 1), "the pod itself, and the Service's route");
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_reach_a_pod_at_its_own_address() -> Result<()> {
    let mesh = Mesh::start(&service("ledger", "tcp")).await?;
    let (listener, sidecar) = mesh.listener("ledger").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut asked = [0; 9];
        stream.read_exact(&mut asked).await?;
        stream.write_all(b"answer").await?;
        anyhow::Ok(asked)
    });
    let client = mesh.client("web").await?;
    let to = format!("{}:{APPLICATION_PORT}", sidecar.address());
    let mut stream = tunnel(&client, &to).await?;
    stream.write_all(b"\0question").await?;
    let mut answer = [0; 6];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"answer");
    assert_eq!(&timeout(SOON, application).await???, b"\0question");
    Ok(())
}

#[tokio::test]
async fn connections_to_a_pods_own_address_outlast_changes_of_the_configuration() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get(&at(&orders, "/")).await?.status, 200);
    let accepted = async || {
        let series = r#"meshwright_connections_total{direction="inbound",kind="mtls_http"}"#;
        orders.sidecar.metric(series).await
    };
    let before = accepted().await?;
    mesh.write("more.yaml", &services(&["payments"]))?;
    let payments = mesh.workload("payments").await?;
    wait_until("the caller knows the new Service", SOON, async || {
        let answer = client.get("http://payments/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    assert_eq!(client.get(&at(&orders, "/")).await?.status, 200);
    assert_eq!(accepted().await?, before);
    drop(payments);
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_refuses_unknown_addresses_says_so_and_still_calls_what_is_known()
-> Result<()> {
    let namespace = |says: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\n\
             metadata: {{ name: shop, annotations: {{ meshwright.dev/unknown-addresses: {says} }} }}\n"
        )
    };
    let mesh = Mesh::start(&services(&["orders"])).await?;
    mesh.write("namespace.yaml", &namespace("refuse"))?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let says = async |client: &Client, status: u16, reason: &str| {
        wait_until(&format!("{reason} is said"), SOON, async || {
            let answer = client.get("http://192.0.2.1:8080/").await?;
            ensure!(
                (answer.status, answer.reason()) == (status, reason),
                "{answer:?}"
            );
            Ok(())
        })
        .await
    };
    says(&client, 403, "address_not_known").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    assert_eq!(client.get(&at(&orders, "/")).await?.status, 200);

    // An explicit proxy passes nothing through, but knows no reason to forbid it any more.
    mesh.write("namespace.yaml", &namespace("allow"))?;
    says(&client, 404, "unknown_host").await
}
