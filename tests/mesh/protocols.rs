//! What an ApiRoute says of a port of which nothing is declared.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Version;
use sidecar::net::tls::ALPN_TCP;
use tests::mesh::{Mesh, SOON};
use tests::raw::{connect, head, peer, tunnel};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::service;

/// No HTTP, and not taken for it by its first letter.
const BYTES: &[u8] = b"\0\x01ledger";

/// The Service `orders`, of whose port nothing is declared, and an ApiRoute that says what it carries.
fn said(protocol: &str) -> String {
    let route = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: { name: orders, namespace: shop }\nspec:\n  hosts: [orders]\n";
    service("orders", "") + route + &format!("  protocol: {protocol}\n")
}

#[tokio::test]
async fn an_application_of_grpc_is_spoken_to_in_http2_whatever_its_caller_speaks() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    assert_eq!(orders.upstream.seen()[0].version, Version::HTTP_11);

    mesh.write("routes.yaml", &said("GRPC"))?;
    mesh.programmed("orders").await?;
    wait_until("the application is spoken to in HTTP/2", SOON, async || {
        assert_eq!(client.get("http://orders/").await?.status, 200);
        let seen = orders.upstream.seen();
        let version = seen.last().map(|seen| seen.version);
        ensure!(version == Some(Version::HTTP_2), "{version:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn bytes_that_are_no_http_do_not_enter_where_an_apiroute_says_http() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "")).await?;
    let (listener, sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = tunnel(&client, "orders:80").await?;
    stream.write_all(BYTES).await?;
    let (mut application, _) = timeout(SOON, listener.accept()).await??;
    let mut heard = vec![0; BYTES.len()];
    timeout(SOON, application.read_exact(&mut heard)).await??;
    assert_eq!(heard, BYTES);

    mesh.write("routes.yaml", &said("HTTP"))?;
    mesh.programmed("orders").await?;
    let mut stream = connect(&client).await?;
    let ask = "CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 400"), "{answer}");
    assert!(
        answer.contains("meshwright-reason: bad_request"),
        "{answer}"
    );
    // Nor past the caller's sidecar, once the other one has heard of it.
    wait_until("the port is closed to them", SOON, async || {
        let mut stream = peer(client.sidecar(), &sidecar, ALPN_TCP).await?;
        let _ = stream.write_all(BYTES).await;
        let mut answer = Vec::new();
        // Closed or reset, but not answered.
        let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await?;
        assert_eq!(answer, b"");
        Ok(())
    })
    .await?;
    let refused =
        r#"meshwright_connections_refused_total{direction="inbound",reason="bad_request"}"#;
    wait_until("it is counted", SOON, async || {
        let counted = sidecar.metric(refused).await?;
        ensure!(counted == Some(1.0), "{counted:?}");
        Ok(())
    })
    .await
}
