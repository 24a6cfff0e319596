//! Headers with which somebody says who a caller is.

use anyhow::{Context as _, Result};
use tests::client::Client;
use tests::mesh::{APPLICATION_PORT, Mesh, Workload};

use crate::routing::services;

const PERMISSIVE: &str = "---\napiVersion: v1\nkind: Namespace\n\
    metadata: { name: shop, labels: { meshwright.dev/mode: permissive } }\n";

const IDENTITY: &[(&str, &str)] = &[
    ("client-cert", ":MIIB:"),
    ("client-cert-chain", ":MIIB:"),
    ("x-forwarded-client-cert", "Subject=\"CN=admin\""),
    ("ssl-client-verify", "SUCCESS"),
    ("x-ssl-client-dn", "CN=admin"),
    ("l5d-client-id", "admin"),
    ("meshwright-principal", "admin"),
];

const ORIGIN: &[(&str, &str)] = &[
    ("forwarded", "for=10.0.0.1"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "shop.example"),
    ("x-forwarded-port", "443"),
    ("x-real-ip", "10.0.0.1"),
    ("x-remote-user", "admin"),
];

/// Which of them the application saw with the last request.
fn seen(orders: &Workload, headers: &[(&str, &str)]) -> Result<Vec<String>> {
    let seen = orders.upstream.seen();
    let last = seen.last().context("no request")?;
    let there = headers
        .iter()
        .filter(|(name, _)| last.headers.contains_key(*name));
    Ok(there.map(|(name, _)| (*name).to_owned()).collect())
}

#[tokio::test]
async fn nobody_is_believed_about_an_identity_and_only_peers_about_an_origin() -> Result<()> {
    let mesh = Mesh::start(&(services(&["orders"]) + PERMISSIVE)).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let claims = [IDENTITY, ORIGIN].concat();

    let answer = client.get_with("http://orders/", &claims).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(seen(&orders, IDENTITY)?, [""; 0]);
    assert_eq!(seen(&orders, ORIGIN)?.len(), ORIGIN.len());

    let url = format!("http://{}:{APPLICATION_PORT}/", orders.sidecar.address());
    let answer = Client::direct().get_with(&url, &claims).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(seen(&orders, &claims)?, [""; 0]);
    Ok(())
}
