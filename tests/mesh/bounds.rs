//! What an application can make its sidecar read.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::routing::services;

/// The status of the answer to a request for `orders` with these header lines more, as bytes over
/// a connection of its own to the sidecar's outbound port.
async fn status(client: &Client, lines: &str) -> Result<u16> {
    let to = SocketAddr::new(client.sidecar().address().into(), 15001);
    let mut stream = TcpStream::connect(to).await?;
    let head =
        format!("GET http://orders/ HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n{lines}\r\n");
    // Who answers before it has read all may close on the rest: that is no error, if it answered.
    let sent = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("sent: {sent:?}, read: {read:?}, answered: {answer:?}"))
}

fn lines(count: usize) -> String {
    (0..count).fold(String::new(), |mut lines, n| {
        let _ = write!(lines, "x-{n}: 1\r\n");
        lines
    })
}

async fn world() -> Result<(Mesh, Workload, Client)> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    Ok((mesh, orders, client))
}

#[tokio::test]
async fn a_request_of_more_than_a_hundred_headers_is_answered_431() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    // `host` and `connection` count too.
    assert_eq!(status(&client, &lines(80)).await?, 200);
    assert_eq!(orders.upstream.requests(), 1);
    assert_eq!(status(&client, &lines(99)).await?, 431);
    assert_eq!(status(&client, &lines(5000)).await?, 431);
    assert_eq!(orders.upstream.requests(), 1, "it was passed on");
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_request_whose_head_is_over_64_kib_is_answered_431() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    let line = |length: usize| format!("x-long: {}\r\n", "a".repeat(length));
    assert_eq!(status(&client, &line(30 * 1024)).await?, 200);
    assert_eq!(orders.upstream.requests(), 1);
    // The first ends, the second is longer than what is ever read of it.
    assert_eq!(status(&client, &line(64 * 1024)).await?, 431);
    assert_eq!(status(&client, &line(1024 * 1024)).await?, 431);
    assert_eq!(orders.upstream.requests(), 1, "it was passed on");
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}
