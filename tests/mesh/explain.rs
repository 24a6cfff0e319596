//! What a sidecar says would become of a call, beside what becomes of it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::client::Client;
use tests::mesh::{APPLICATION_PORT, Mesh, SOON};
use tests::raw::tunnel;
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::service;

const ROUTES: &str = "---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: orders, namespace: shop }
spec:
  hosts: [orders]
  rules:
  - name: api
    matches: [{ path: { type: Prefix, value: /api } }]
    rewrite: { path: { type: ReplacePrefix, value: / } }
    backendRefs: [{ kind: ApiRoute, name: system, port: 80 }]
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: system, namespace: shop }
spec:
  hosts: [system]
  rules:
  - name: things
    matches: [{ path: { type: Prefix, value: /things } }]
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: ledger, namespace: shop }
spec:
  hosts: [ledger]
  protocol: TCP
  rules:
  - name: shared
    backendRefs:
    - { name: ledger, port: 80, weight: 9 }
    - { name: vault, port: 80 }
    timeouts: { idle: 60s }
---
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: vault, namespace: shop }
spec:
  hosts: [vault]
  protocol: TLS
  rules:
  - name: named
    matches: [{ sni: \"*.example.com\" }]
---
apiVersion: meshwright.dev/v1alpha1
kind: RetryPolicy
metadata: { name: system, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: system }]
  loadBalancing: { type: ConsistentHash, hashOn: { type: Header, name: x-user } }
";

fn services() -> String {
    let with_address = |name: &str, protocol: &str, nth: u32| {
        let address = format!("spec: {{ clusterIP: 10.96.0.{nth}, selector");
        service(name, protocol).replace("spec: { selector", &address)
    };
    [
        with_address("orders", "http", 1),
        with_address("system", "http", 2),
        // The ApiRoute says what its port carries.
        with_address("ledger", "", 3),
        with_address("vault", "tls", 4),
    ]
    .join("---\n")
}

async fn explained(client: &Client, url: &str, more: &str) -> Result<Value> {
    let asked = format!("/explain?url={url}{more}");
    let answer = client.sidecar().admin(&asked, None).await?;
    serde_json::from_str(&answer.body).with_context(|| answer.body.clone())
}

fn governs(told: &Value) -> Option<&str> {
    let mut rules = told["rules"].as_array().into_iter().flatten();
    rules.find(|rule| rule["governs"] == true)?["rule"].as_str()
}

#[tokio::test]
async fn what_is_explained_is_what_becomes_of_requests_and_connections() -> Result<()> {
    let mesh = Mesh::start(&(services() + ROUTES)).await?;
    let orders = mesh.workload("orders").await?;
    let system = mesh.workload("system").await?;
    let (_ledger, _beside_ledger) = mesh.listener("ledger").await?;
    let (_vault, _beside_vault) = mesh.listener("vault").await?;
    let client = mesh.client("web").await?;
    for route in ["orders", "system", "ledger", "vault"] {
        mesh.programmed(route).await?;
    }

    // A request, by name and by address, through two ApiRoutes.
    let policy = wait_until("the RetryPolicy is in force", SOON, async || {
        let told = explained(&client, "http://orders/api/things", "&header=x-user:+7").await?;
        let balanced = told["goes"][0]["then"]["goes"][0]["balanced"].clone();
        ensure!(balanced.is_object(), "{told}");
        Ok(balanced)
    });
    let policy = policy.await?;
    assert_eq!(policy["by"], "consistent hash of header x-user");
    assert_eq!(policy["retryPolicy"], "shop/system");
    for url in ["http://orders/api/things", "http://10.96.0.1/api/things"] {
        let told = explained(&client, url, "").await?;
        assert_eq!(
            (&told["route"], governs(&told)),
            (&"shop/orders".into(), Some("api"))
        );
        let then = &told["goes"][0]["then"];
        assert_eq!(
            (&then["route"], governs(then)),
            (&"shop/system".into(), Some("things"))
        );
        let answer = client.get(url).await?;
        assert_eq!((answer.status, answer.reason()), (200, ""), "{answer:?}");
    }
    assert_eq!(
        (orders.upstream.requests(), system.upstream.requests()),
        (0, 2)
    );

    // The pod itself, whose Service's ApiRoute has no say.
    let itself = format!("http://{}:{APPLICATION_PORT}/", orders.sidecar.address());
    let told = explained(&client, &itself, "").await?;
    assert_eq!(
        (&told["route"], &told["pod"]["name"]),
        (
            &Value::Null,
            &format!("shop/{}", orders.sidecar.pod()).into()
        )
    );
    assert_eq!(client.get(&itself).await?.status, 200);
    assert_eq!(orders.upstream.requests(), 1);

    // Connections, by what they begin with.
    let told = explained(&client, "tcp://ledger:80", "").await?;
    assert_eq!(
        (&told["carried"], &told["reads"]),
        (&"connection".into(), &"Tcp".into())
    );
    assert_eq!(
        (&told["route"], governs(&told)),
        (&"shop/ledger".into(), Some("shared"))
    );
    assert_eq!(
        (&told["goes"][0]["weight"], &told["goes"][1]["weight"]),
        (&9.into(), &1.into())
    );
    assert_eq!(told["goes"][1]["endpoints"], 1, "{told}");
    assert_eq!(told["idleTimeoutMs"], 60_000);
    let told = explained(&client, "tls://vault:80", "&server-name=a.example.com").await?;
    assert_eq!(
        (&told["route"], governs(&told)),
        (&"shop/vault".into(), Some("named"))
    );
    let told = explained(&client, "tcp://vault:80", "").await?;
    assert_eq!(told["refused"]["reason"], "no_route", "{told}");
    assert_eq!(told["refused"]["closed"], true);
    let mut stream = tunnel(&client, "vault:80").await?;
    stream.write_all(b"\x01no TLS").await?;
    let mut said = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await?;
    assert!(said.is_empty());

    let told = explained(&client, "http://10.96.0.1:81/", "").await?;
    assert_eq!(
        (&told["refused"]["closed"], &told["service"]),
        (&true.into(), &Value::Null)
    );

    // The sidecar tells of each port what governs it.
    let config = client.sidecar().config().await?;
    let services = config["inForce"]["services"]
        .as_array()
        .context("services")?;
    let ports = services.iter().map(|service| {
        let port = &service["ports"][0];
        [&service["service"], &port["reads"], &port["route"]].map(|one| one.as_str().unwrap_or("-"))
    });
    let expected = [
        ["shop/ledger", "Tcp", "shop/ledger"],
        ["shop/orders", "Http", "shop/orders"],
        ["shop/system", "Http", "shop/system"],
        ["shop/vault", "Tcp", "shop/vault"],
    ];
    assert_eq!(Vec::from_iter(ports), expected);
    Ok(())
}

#[tokio::test]
async fn what_is_not_known_is_explained_to_pass_until_the_namespace_refuses_it() -> Result<()> {
    let mesh = Mesh::start(&services()).await?;
    let client = mesh.client("web").await?;
    for url in ["http://192.0.2.1:8080/", "http://example.com:8080/"] {
        let told = explained(&client, url, "").await?;
        assert_eq!(told["refused"], Value::Null, "{told}");
        assert!(
            told["passes"]["to"]
                .as_str()
                .is_some_and(|to| url.contains(to)),
            "{told}"
        );
        // To whom it is a proxy it says so itself.
        let answer = client.get(url).await?;
        let (status, reason) = (answer.status.into(), answer.reason().into());
        assert_eq!(
            (&told["asProxy"]["status"], &told["asProxy"]["reason"]),
            (&status, &reason)
        );
    }
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, annotations: { \
                     meshwright.dev/unknown-addresses: refuse } }\n";
    mesh.write("namespace.yaml", namespace)?;
    wait_until("it is refused", SOON, async || {
        let told = explained(&client, "http://192.0.2.1:8080/", "").await?;
        ensure!(told["refused"]["reason"] == "address_not_known", "{told}");
        Ok(told)
    })
    .await?;
    let told = explained(&client, "http://192.0.2.1:8080/", "").await?;
    let answer = wait_until("so are calls", SOON, async || {
        let answer = client.get("http://192.0.2.1:8080/").await?;
        ensure!(answer.status == 403, "{answer:?}");
        Ok(answer)
    })
    .await?;
    assert_eq!(
        (&told["refused"]["status"], &told["refused"]["reason"]),
        (&403.into(), &answer.reason().into())
    );
    let told = explained(&client, "tcp://example.com:5432", "").await?;
    assert_eq!(told["refused"]["closed"], true, "{told}");
    Ok(())
}
