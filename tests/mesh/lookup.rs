//! Services of other namespaces, which a sidecar is told of when they are first called.

use anyhow::{Result, ensure};
use tests::client::{Answer, Client};
use tests::mesh::{APPLICATION_PORT, Mesh, SOON};
use tests::wait_until;

use crate::routing::route;

const ENDPOINTS: &str = "meshwright_config_resources{kind=\"endpoints\"}";
const ANSWERED: &str = "meshwright_lookups_total{outcome=\"answered\"}";

/// The Services `orders` and `payments`, each with a virtual address, and a route for orders.
fn shop() -> String {
    let service = |name: &str, address: u8| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
             spec: {{ clusterIP: 10.96.0.{address}, selector: {{ app: {name} }}, \
             ports: [{{ name: http, port: 80, targetPort: 8080 }}] }}\n"
        )
    };
    let only_open =
        route("    - name: open\n      matches: [{ path: { type: Prefix, value: /open } }]\n");
    format!(
        "{}---\n{}{only_open}",
        service("orders", 7),
        service("payments", 8)
    )
}

fn outcome(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.reason())
}

async fn endpoints(client: &Client) -> Result<f64> {
    Ok(client
        .sidecar()
        .metric(ENDPOINTS)
        .await?
        .unwrap_or_default())
}

#[tokio::test]
async fn the_first_call_to_another_namespace_is_governed_like_every_later_one() -> Result<()> {
    let mesh = Mesh::start(&shop()).await?;
    let orders = mesh.workload("orders").await?;
    let own_address = format!("{}:{APPLICATION_PORT}", orders.sidecar.address());
    for (host, governed) in [
        ("orders.shop", true),
        ("orders.shop.svc.cluster.local", true),
        ("10.96.0.7", true),
        // A pod's own address, of a Service that has a virtual one.
        (&*own_address, false),
    ] {
        let client = mesh.client("office/desk").await?;
        assert_eq!(
            endpoints(&client).await?,
            0.0,
            "nobody of its namespace is called"
        );
        let closed = client.get(&format!("http://{host}/closed")).await?;
        let expected = match governed {
            true => (404, "no_route"),
            false => (200, ""),
        };
        assert_eq!(outcome(&closed), expected, "{host}: {closed:?}");
        for _ in 0..3 {
            let open = client.get(&format!("http://{host}/open")).await?;
            assert_eq!(outcome(&open), (200, ""), "{host}: {open:?}");
        }
        assert_eq!(endpoints(&client).await?, 1.0, "{host}: and nothing else");
        assert_eq!(
            client.sidecar().metric(ANSWERED).await?,
            Some(1.0),
            "{host}: once"
        );
    }
    let log = orders.sidecar.log()?;
    assert!(
        log.contains("spiffe://cluster.local/ns/office/sa/desk"),
        "over mutual TLS: {log}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_first_called_without_an_operator_is_refused_until_it_is_back_and_the_rest_goes_on()
-> Result<()> {
    let mesh = Mesh::start(&shop()).await?;
    let _orders = mesh.workload("orders").await?;
    let _payments = mesh.workload("payments").await?;
    let client = mesh.client("office/desk").await?;
    assert_eq!(
        outcome(&client.get("http://orders.shop/open").await?),
        (200, "")
    );

    mesh.kill_operator().await?;
    for url in ["http://payments.shop/", "http://10.96.0.8/"] {
        let refused = client.get(url).await?;
        assert_eq!(
            outcome(&refused),
            (503, "address_not_resolved"),
            "{refused:?}"
        );
    }
    assert_eq!(
        outcome(&client.get("http://orders.shop/open").await?),
        (200, "")
    );

    // A sidecar that is killed meanwhile comes back with what it had asked for.
    client.sidecar().kill().await?;
    client.sidecar().start()?;
    client.sidecar().ready().await?;
    assert_eq!(
        outcome(&client.get("http://orders.shop/open").await?),
        (200, "")
    );

    mesh.start_operator().await?;
    wait_until("the question is answered", SOON, async || {
        let answer = client.get("http://payments.shop/").await?;
        ensure!(outcome(&answer) == (200, ""), "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_service_that_nobody_has_yet_is_found_when_it_comes() -> Result<()> {
    let mesh = Mesh::start(&shop()).await?;
    let client = mesh.client("office/desk").await?;
    let nobody = client.get("http://later.shop/").await?;
    assert_eq!(outcome(&nobody), (404, "unknown_host"));
    let later = shop().replace("payments", "later");
    mesh.write("routes.yaml", &later)?;
    let _later = mesh.workload("later").await?;
    wait_until("it is found", SOON, async || {
        let answer = client.get("http://later.shop/").await?;
        ensure!(outcome(&answer) == (200, ""), "{answer:?}");
        Ok(())
    })
    .await
}
