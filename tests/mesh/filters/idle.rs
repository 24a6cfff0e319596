//! `timeouts.idle`.

use std::time::{Duration, Instant};

use anyhow::Result;
use tests::client::Client;
use tests::mesh::{Mesh, SOON};
use tests::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{connect, read_until, world};
use crate::routing::{route, services};

const RULES: &str = "    - name: chatty\n      timeouts: { idle: 1s }\n    \
                     - matches: [{ method: PUT }]\n";

/// The line of the access log says so.
async fn ended_for_silence(client: &Client, path: &str, status: u16) -> Result<()> {
    wait_until("the line is there", SOON, async || {
        let log = client.sidecar().log()?;
        let path = format!(r#""path":"{path}""#);
        let line = log.lines().find(|line| line.contains(&path));
        let line = line.ok_or_else(|| anyhow::anyhow!("{log}"))?;
        let line: serde_json::Value = serde_json::from_str(line)?;
        assert_eq!(
            (&line["status"], &line["reason"], &line["outcome"]),
            (&status.into(), &"idle_timeout".into(), &"failed".into())
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_service_that_says_nothing_for_longer_is_answered_for_504() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    let _release = orders.upstream.holds();
    let begun = Instant::now();
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (504, "idle_timeout"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(orders.upstream.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_response_that_stops_for_longer_is_cut_off() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    orders.upstream.says("never");
    orders.upstream.dawdles(10 * SOON);
    let mut stream = connect(&client).await?;
    let head = "GET http://orders/stops HTTP/1.1\r\nhost: orders\r\n\r\n";
    let begun = Instant::now();
    stream.write_all(head.as_bytes()).await?;
    let head = read_until(&mut stream, "\r\n\r\n").await?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    // The body that the head promises never comes: the connection ends.
    assert_eq!(read_until(&mut stream, "never").await?, "");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    ended_for_silence(&client, "/stops", 200).await
}

#[tokio::test]
async fn a_request_that_moves_or_has_another_rule_goes_on_for_longer() -> Result<()> {
    let rules = RULES.replace("idle: 1s", "idle: 2s");
    let (_mesh, orders, client) = world(&rules).await?;
    orders.upstream.takes(Duration::from_secs(3));
    let put = client.send(http::Method::PUT, "http://orders/", &[], "x".into());
    assert_eq!(put.await?.status, 200);

    // A byte comes before each silence is too long, for much longer than one may last.
    orders.upstream.takes(Duration::ZERO);
    let mut stream = connect(&client).await?;
    let head = "POST http://orders/ HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    while begun.elapsed() < Duration::from_secs(5) {
        pace.tick().await;
        super::chunk(&mut stream, 1).await?;
    }
    super::chunk(&mut stream, 0).await?;
    let answer = read_until(&mut stream, "8080").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_websocket_that_is_silent_for_longer_is_ended_and_one_that_speaks_is_not() -> Result<()> {
    let rules = RULES.replace("idle: 1s", "idle: 2s");
    let mesh = Mesh::start(&(services(&["orders"]) + &route(&rules))).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        tests::raw::head(&mut stream).await?;
        let agreed =
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
        stream.write_all(agreed.as_bytes()).await?;
        // It only listens, until it is hung up on.
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        anyhow::Ok(said.len())
    });
    let mut stream = connect(&client).await?;
    let head = "GET http://orders/live HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade\r\n\
                upgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let head = read_until(&mut stream, "\r\n\r\n").await?;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");

    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let mut said = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        pace.tick().await;
        stream.write_all(b"x").await?;
        said += 1;
    }
    let silent = Instant::now();
    assert_eq!(read_until(&mut stream, "never").await?, "");
    assert!(silent.elapsed() >= Duration::from_millis(1900));
    assert_eq!(tokio::time::timeout(SOON, application).await???, said);
    ended_for_silence(&client, "/live", 101).await
}
