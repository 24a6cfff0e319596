//! Requests watched while they are carried.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::raw::connect;
use tests::wait_until;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::routing::{route, services};

/// As many as a sidecar lets in.
const MOST: usize = 8;

/// Who watches a sidecar.
struct Tap {
    answer: Response<Incoming>,
    read: Vec<u8>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Tap {
    /// Whether there is one is in the answer's status.
    async fn open(sidecar: &Sidecar, query: &str) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Who does not read soon has no more place.
        socket.set_recv_buffer_size(4096)?;
        let to = SocketAddr::new(sidecar.address().into(), 15000);
        let stream = socket.connect(to).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let asked = Request::get(format!("/tap?{query}")).header("host", "localhost");
        let answer = timeout(
            SOON,
            sender.send_request(asked.body(Empty::<Bytes>::new())?),
        )
        .await??;
        Ok(Self {
            answer,
            read: Vec::new(),
            connection,
        })
    }

    /// The next line.
    async fn next(&mut self) -> Result<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line)?);
            }
            let frame = timeout(SOON, self.answer.body_mut().frame()).await?;
            let data = frame.context("the tap has ended")??.into_data();
            self.read.extend_from_slice(&data.unwrap_or_default());
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

#[tokio::test]
async fn a_tap_shows_requests_as_they_end_with_route_and_reason_and_no_secret() -> Result<()> {
    let yaml = services(&["orders", "empty"]) + &route("    - name: everything\n");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let mut outbound = Tap::open(client.sidecar(), "").await?;
    let mut inbound = Tap::open(&orders.sidecar, "").await?;
    let secret = [("authorization", "Bearer s3cr3t"), ("cookie", "s3cr3t")];
    let url = "http://orders/a/b?password=s3cr3t";
    assert_eq!(client.get_with(url, &secret).await?.status, 200);

    let seen = outbound.next().await?;
    assert!(!seen.to_string().contains("s3cr3t"), "{seen}");
    assert_eq!(seen["direction"], "outbound");
    assert_eq!(
        (&seen["method"], &seen["path"]),
        (&"GET".into(), &"/a/b".into())
    );
    assert_eq!(
        (&seen["route"], &seen["rule"]),
        (&"shop/orders".into(), &"everything".into())
    );
    assert_eq!(seen["status"], 200);
    assert!(
        seen["duration_us"]
            .as_u64()
            .is_some_and(|micros| micros > 0)
    );
    let seen = inbound.next().await?;
    assert_eq!(seen["direction"], "inbound");
    assert_eq!(seen["source"], "spiffe://cluster.local/ns/shop/sa/web");

    client.get("http://empty/").await?;
    let refused = outbound.next().await?;
    assert_eq!(
        (&refused["status"], &refused["reason"]),
        (&503.into(), &"no_endpoints".into())
    );
    Ok(())
}

#[tokio::test]
async fn a_tap_shows_only_what_is_wanted_also_where_no_access_log_is_written() -> Result<()> {
    let yaml = services(&["orders", "empty"]);
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let written = client
        .sidecar()
        .admin("/access-log", Some("sample=0 filter=errors"));
    assert_eq!(written.await?.status, 200);
    let mut wanted = Tap::open(
        client.sidecar(),
        "path=/wanted&status=2xx&direction=outbound",
    )
    .await?;
    for url in [
        "http://orders/other",
        "http://empty/wanted/1",
        "http://orders/wanted/2",
    ] {
        client.get(url).await?;
    }
    assert_eq!(wanted.next().await?["path"], "/wanted/2");
    let wrong = client.sidecar().admin("/tap?status=6xx", None).await?;
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("a class such as 5xx"), "{}", wrong.body);
    Ok(())
}

#[tokio::test]
async fn no_more_than_eight_watch_and_one_that_hung_up_makes_room() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let client = mesh.client("web").await?;
    let mut taps = Vec::new();
    for _ in 0..MOST {
        let tap = Tap::open(client.sidecar(), "").await?;
        assert_eq!(tap.answer.status(), 200);
        taps.push(tap);
    }
    let refused = client.sidecar().admin("/tap", None).await?;
    assert_eq!(refused.status, 429, "{}", refused.body);
    taps.pop();
    wait_until("there is room for another", SOON, async || {
        let tap = Tap::open(client.sidecar(), "").await?;
        ensure!(tap.answer.status() == 200);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_tap_that_is_not_read_holds_no_request_up_and_is_told_what_it_lost() -> Result<()> {
    let mesh = Mesh::start(&services(&["empty"])).await?;
    let client = mesh.client("web").await?;
    let mut tap = Tap::open(client.sidecar(), "").await?;
    let stream = connect(&client).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    // Each a line of two kilobytes: more of them than sockets and queues hold.
    let url = format!("http://empty/{}", "x".repeat(1900));
    for _ in 0..8000 {
        let asked = Request::get(&url).header("host", "empty");
        let answer = sender.send_request(asked.body(Empty::<Bytes>::new())?);
        let answer = timeout(SOON, answer).await??;
        assert_eq!(answer.status(), 503);
        answer.into_body().collect().await?;
    }
    connection.abort();
    let (mut shown, mut lost) = (0, 0);
    while shown + lost < 8000 {
        let line = tap.next().await?;
        match line["lost"].as_u64() {
            Some(more) => lost += more,
            None => shown += 1,
        }
    }
    assert!(lost > 0 && shown > 0, "{shown} shown, {lost} lost");
    assert_eq!(shown + lost, 8000);
    Ok(())
}
