//! `maxRequestBytes`.

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tests::client::Client;
use tests::mesh::{SOON, Workload};
use tests::wait_until;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{chunk, connect, read_until, world};

const RULES: &str = "    - name: small\n      maxRequestBytes: 1000\n    \
                     - matches: [{ method: PUT }]\n";

/// A request whose body says no length has begun.
async fn begin(client: &Client) -> Result<TcpStream> {
    let mut stream = connect(client).await?;
    let head = "POST http://orders/ HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// The application has seen the end of no larger body than what is allowed.
fn nothing_large_arrived(orders: &Workload) {
    let seen = orders.upstream.seen();
    assert!(seen.iter().all(|seen| seen.body.len() <= 1000));
}

#[tokio::test]
async fn a_request_that_says_it_is_too_large_is_answered_413_before_anything_is_sent() -> Result<()>
{
    let (_mesh, orders, client) = world(RULES).await?;
    let send = async |method, bytes| {
        let body = Bytes::from(vec![b'x'; bytes]);
        client.send(method, "http://orders/", &[], body).await
    };
    let refused = send(Method::POST, 1001).await?;
    assert_eq!(
        (refused.status, refused.reason()),
        (413, "request_too_large")
    );
    assert_eq!(orders.upstream.requests(), 0);

    assert_eq!(send(Method::POST, 1000).await?.status, 200);
    assert_eq!(send(Method::GET, 0).await?.status, 200);
    // Another rule has no limit.
    assert_eq!(send(Method::PUT, 100_000).await?.status, 200);
    let arrived: Vec<usize> = orders
        .upstream
        .seen()
        .iter()
        .map(|s| s.body.len())
        .collect();
    assert_eq!(arrived, [1000, 0, 100_000]);
    Ok(())
}

#[tokio::test]
async fn a_request_that_turns_out_too_large_is_answered_413_and_not_sent_on() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    let mut stream = begin(&client).await?;
    chunk(&mut stream, 600).await?;
    chunk(&mut stream, 401).await?;
    // It is not waited for the end: there is none.
    let answer = read_until(&mut stream, "}").await?;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.contains("meshwright-reason: request_too_large\r\n"),
        "{answer}"
    );
    drop(stream);

    let mut stream = begin(&client).await?;
    chunk(&mut stream, 600).await?;
    chunk(&mut stream, 400).await?;
    chunk(&mut stream, 0).await?;
    let answer = read_until(&mut stream, "8080").await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    nothing_large_arrived(&orders);

    let counted = r#"meshwright_requests_total{direction="outbound",service="shop/orders",route="shop/orders",rule="small",code="413",reason="request_too_large"}"#;
    wait_until("it is counted", SOON, async || {
        let count = client.sidecar().metric(counted).await?;
        anyhow::ensure!(count == Some(1.0), "{count:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_response_that_has_begun_is_cut_off_when_the_request_turns_out_too_large() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    orders.upstream.hurries();
    orders.upstream.dawdles(2 * SOON);
    let mut stream = begin(&client).await?;
    chunk(&mut stream, 600).await?;
    let head = read_until(&mut stream, "\r\n\r\n").await?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    chunk(&mut stream, 401).await?;
    // The body that the head promises never comes: the connection ends.
    assert_eq!(read_until(&mut stream, "8080").await?, "");
    Ok(())
}

#[tokio::test]
async fn a_body_is_cut_off_on_its_way_to_an_endpoint_outside_the_mesh_too() -> Result<()> {
    let yaml = crate::routing::services(&["orders"]) + &crate::routing::route(RULES);
    let mesh = tests::mesh::Mesh::start(&yaml).await?;
    let orders = mesh.outsider("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    wait_until("orders answers", SOON, async || {
        let answer = client.get("http://orders/").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    let mut stream = begin(&client).await?;
    chunk(&mut stream, 1001).await?;
    let answer = read_until(&mut stream, "}").await?;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(orders.seen().iter().all(|seen| seen.body.is_empty()));
    Ok(())
}
