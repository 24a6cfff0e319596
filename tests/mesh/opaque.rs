//! Bytes that nobody reads.

use anyhow::Result;
use sidecar::net::tls::ALPN_TCP;
use tests::mesh::{Mesh, SOON};
use tests::raw::{connect, head, peer, tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::{route, service, services};

#[tokio::test]
async fn opaque_bytes_flow_both_ways_and_each_side_can_end_first() -> Result<()> {
    let mesh = Mesh::start(&service("ledger", "tcp")).await?;
    let (listener, _sidecar) = mesh.listener("ledger").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut asked = Vec::new();
        // Reads to the end of the question before it answers: the caller's half is closed then.
        stream.read_to_end(&mut asked).await?;
        stream.write_all(b"answer").await?;
        anyhow::Ok(asked)
    });
    let client = mesh.client("web").await?;
    let mut stream = tunnel(&client, "ledger:80").await?;
    stream.write_all(b"\0question").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await??;
    assert_eq!(answer, b"answer");
    assert_eq!(timeout(SOON, application).await???, b"\0question");
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() -> Result<()> {
    for declared in ["smtp", ""] {
        let mesh = Mesh::start(&service("mail", declared)).await?;
        let (listener, _sidecar) = mesh.listener("mail").await?;
        let application = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"220 ready\r\n").await?;
            let mut said = [0; 6];
            stream.read_exact(&mut said).await?;
            anyhow::Ok(said)
        });
        let client = mesh.client("web").await?;
        let mut stream = tunnel(&client, "mail:80").await?;
        let mut greeting = [0; 11];
        timeout(SOON, stream.read_exact(&mut greeting)).await??;
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"HELO x").await?;
        assert_eq!(&timeout(SOON, application).await???, b"HELO x");
    }
    Ok(())
}

#[tokio::test]
async fn a_command_in_capital_letters_is_not_taken_for_http() -> Result<()> {
    let mesh = Mesh::start(&service("store", "")).await?;
    let (listener, _sidecar) = mesh.listener("store").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut asked = [0; 6];
        stream.read_exact(&mut asked).await?;
        stream.write_all(b"+PONG\r\n").await?;
        anyhow::Ok(asked)
    });
    let client = mesh.client("web").await?;
    let mut stream = tunnel(&client, "store:80").await?;
    stream.write_all(b"PI").await?;
    stream.write_all(b"NG\r\n").await?;
    let mut answer = [0; 7];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"+PONG\r\n");
    assert_eq!(&timeout(SOON, application).await???, b"PING\r\n");
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_do_not_enter_a_port_that_is_declared_http() -> Result<()> {
    for declared in ["http", "grpc"] {
        let mesh = Mesh::start(&service("orders", declared)).await?;
        let orders = mesh.workload("orders").await?;
        let client = mesh.client("web").await?;
        // In small letters, so that nobody takes it for HTTP who goes by its first letter.
        let request = b"get / HTTP/1.1\r\nhost: orders\r\n\r\n";
        // As a caller's sidecar would, if it let them pass.
        let mut stream = peer(client.sidecar(), &orders.sidecar, ALPN_TCP).await?;
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        // Closed or reset, but not answered.
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await?;
        assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
        assert_eq!(orders.upstream.requests(), 0);
        // And the own sidecar opens no tunnel there.
        let mut stream = connect(&client).await?;
        stream
            .write_all(b"CONNECT orders:80 HTTP/1.1\r\nhost: orders:80\r\n\r\n")
            .await?;
        let (answer, _) = head(&mut stream).await?;
        assert!(answer.starts_with("http/1.1 400"), "{answer}");
        assert!(
            answer.contains("meshwright-reason: bad_request"),
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn requests_in_a_tunnel_pass_no_route() -> Result<()> {
    let yaml = service("orders", "") + &route("    - directResponse: { status: 204 }\n");
    let mesh = Mesh::start(&yaml).await?;
    // Outside the mesh, where nobody else would look at what the tunnel carries.
    let orders = mesh.outsider("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let mut stream = tunnel(&client, "orders:80").await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await?;
    assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(orders.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_tunnel_leads_to_services_only_and_past_no_route() -> Result<()> {
    let yaml = services(&["orders"]) + &route("    - name: everything\n");
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    for (to, refusal) in [("example.com:443", "404"), ("orders:81", "404")] {
        let mut stream = connect(&client).await?;
        let ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let (answer, _) = head(&mut stream).await?;
        assert!(
            answer.starts_with(&format!("http/1.1 {refusal}")),
            "{to}: {answer}"
        );
        assert!(
            answer.contains("meshwright-reason: unknown_host"),
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_tunnel_to_a_service_that_has_no_endpoint_is_refused_with_its_reason() -> Result<()> {
    for declared in ["tcp", ""] {
        let mesh = Mesh::start(&service("ledger", declared)).await?;
        let client = mesh.client("web").await?;
        let mut stream = connect(&client).await?;
        let ask = "CONNECT ledger:80 HTTP/1.1\r\nhost: ledger:80\r\n\r\n";
        stream.write_all(ask.as_bytes()).await?;
        let (answer, _) = head(&mut stream).await?;
        assert!(answer.starts_with("http/1.1 503"), "{answer}");
        assert!(
            answer.contains("meshwright-reason: no_endpoints"),
            "{answer}"
        );
    }
    Ok(())
}
