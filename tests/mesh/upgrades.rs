//! Requests that become another protocol.

use anyhow::{Context as _, Result, ensure};
use tests::mesh::{Mesh, SOON};
use tests::raw::{connect, head};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::routing::services;

const HANDSHAKE: &str = "GET http://orders/live HTTP/1.1\r\nhost: orders\r\n\
                         connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_opened_and_its_bytes_flow_both_ways() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let (asked, _) = head(&mut stream).await?;
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                  sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
            )
            .await?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await?;
        stream.write_all(&said).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        anyhow::Ok((asked, rest))
    });
    let client = mesh.client("web").await?;

    let mut stream = connect(&client).await?;
    stream.write_all(HANDSHAKE.as_bytes()).await?;
    let (answer, mut came) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
    ] {
        assert!(answer.contains(line), "{answer}");
    }
    while came.len() < 5 {
        timeout(SOON, stream.read_buf(&mut came)).await??;
    }
    assert_eq!(came, b"hello");
    stream.write_all(b"world").await?;
    let mut echoed = [0; 5];
    timeout(SOON, stream.read_exact(&mut echoed)).await??;
    assert_eq!(&echoed, b"world");
    stream.write_all(b"bye").await?;
    drop(stream);

    let (asked, rest) = timeout(SOON, application).await???;
    assert!(asked.contains("upgrade: websocket"), "{asked}");
    assert!(asked.contains("connection: upgrade"), "{asked}");
    assert_eq!(rest, b"bye");
    wait_until("the whole of it is one line", SOON, async || {
        let log = client.sidecar().log()?;
        let line = log.lines().find(|line| line.contains(r#""path":"/live""#));
        let line: serde_json::Value = serde_json::from_str(line.context("no line yet")?)?;
        ensure!(
            line["status"] == 101 && line["outcome"] == "complete",
            "{line}"
        );
        ensure!(line["response_bytes"] == 10, "{line}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_upgrade_that_the_application_refuses_is_an_answer_like_any_other() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.answers(426);
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    for _ in 0..2 {
        // The connection goes on as HTTP.
        stream.write_all(HANDSHAKE.as_bytes()).await?;
        let (answer, mut rest) = head(&mut stream).await?;
        assert!(answer.starts_with("http/1.1 426"), "{answer}");
        let length = orders.upstream.address().to_string().len();
        while rest.len() < length {
            timeout(SOON, stream.read_buf(&mut rest)).await??;
        }
    }
    assert_eq!(orders.upstream.requests(), 2);
    assert_eq!(orders.upstream.seen()[0].headers["upgrade"], "websocket");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let headers = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ];
    let answer = client.get_with("http://orders/", &headers).await?;
    assert_eq!(answer.status, 200);
    let seen = &orders.upstream.seen()[0].headers;
    for name in ["upgrade", "http2-settings", "connection"] {
        assert!(!seen.contains_key(name), "{seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_switches_unasked_is_a_502() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let application = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = head(&mut stream).await;
            let switch =
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
            let _ = stream.write_all(switch).await;
        }
    });
    let client = mesh.client("web").await?;
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (502, "bad_response"));
    application.abort();
    Ok(())
}
