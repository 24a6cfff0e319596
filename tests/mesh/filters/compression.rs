//! `compression`.

use std::io::Read as _;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Channel, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::client::Client;
use tests::mesh::{Mesh, SOON};
use tests::raw::h2;
use tests::wait_until;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::world;
use crate::routing::{route, service, services};

const RULES: &str = "    - name: small\n      compression: { minBytes: 100 }\n    \
                     - matches: [{ method: PUT }]\n";

/// Says what it accepts, over HTTP/1.1.
async fn ask(client: &Client, method: Method, accepts: &str) -> Result<Response<Incoming>> {
    let io = TokioIo::new(super::connect(client).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri("http://orders/")
        .header("host", "orders")
        .header("accept-encoding", accepts)
        .body(Empty::<Bytes>::new())?;
    Ok(timeout(SOON, sender.send_request(request)).await??)
}

async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    Ok(timeout(SOON, response.into_body().collect())
        .await??
        .to_bytes())
}

/// What gzip says, which must end here.
fn text(gzip: &[u8]) -> Result<String> {
    let mut text = String::new();
    GzDecoder::new(gzip).read_to_string(&mut text)?;
    Ok(text)
}

/// So much of it as has come; it need not have ended.
fn begun(gzip: &[u8]) -> String {
    let mut decoder = GzDecoder::new(gzip);
    let (mut text, mut byte) = (Vec::new(), [0]);
    while let Ok(1) = decoder.read(&mut byte) {
        text.extend(byte);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Three megabytes that are not the same all over.
fn long() -> String {
    (0..300_000)
        .map(|n: u64| format!("{:09} ", n.wrapping_mul(2_654_435_761) % 999_999_937))
        .collect()
}

#[tokio::test]
async fn a_response_is_compressed_for_who_accepts_it_and_comes_whole() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    let long = long();
    orders.upstream.says(long.clone());
    orders
        .upstream
        .adds("content-type", "text/plain; charset=utf-8");
    orders.upstream.adds("etag", "\"1\"");
    orders.upstream.adds("accept-ranges", "bytes");

    let answer = ask(&client, Method::GET, "br, gzip;q=0.5").await?;
    let said = answer.headers();
    assert_eq!(said["content-encoding"], "gzip");
    assert_eq!(said["vary"], "Accept-Encoding");
    assert_eq!(said["etag"], "W/\"1\"");
    for gone in ["content-length", "accept-ranges"] {
        assert!(!said.contains_key(gone), "{gone}");
    }
    let body = whole(answer).await?;
    assert!(body.len() < long.len() / 2, "{}", body.len());
    assert!(text(&body)? == long, "it is another text");
    // What the application is asked is what the caller asked.
    let seen = orders.upstream.seen();
    assert_eq!(seen[0].headers["accept-encoding"], "br, gzip;q=0.5");

    // And over HTTP/2.
    let mut h2 = h2(&client).await?;
    let request = Request::get("http://orders/").header("accept-encoding", "gzip");
    let answer = h2
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    assert_eq!(answer.version(), Version::HTTP_2);
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert!(text(&whole(answer).await?)? == long, "it is another text");
    Ok(())
}

#[tokio::test]
async fn who_does_not_accept_it_and_another_rule_get_the_response_as_it_is() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    let long = long();
    orders.upstream.says(long.clone());
    orders.upstream.adds("content-type", "application/json");
    orders.upstream.adds("etag", "\"1\"");
    for (method, accepts, varies) in [
        (Method::GET, "gzip;q=0, identity", true),
        (Method::GET, "br", true),
        (Method::PUT, "gzip", false),
    ] {
        let answer = ask(&client, method, accepts).await?;
        let said = answer.headers();
        assert!(!said.contains_key("content-encoding"), "{accepts}");
        assert_eq!(said["etag"], "\"1\"");
        assert_eq!(said.contains_key("vary"), varies, "{accepts}");
        assert_eq!(said["content-length"], long.len().to_string());
        assert!(whole(answer).await? == long, "it is another text");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_small_or_encoded_or_an_event_stream_is_left_alone() -> Result<()> {
    for (body, line) in [
        ("x".repeat(99), ("content-type", "text/plain")),
        ("x".repeat(1000), ("content-type", "text/event-stream")),
        ("x".repeat(1000), ("content-encoding", "br")),
        ("x".repeat(1000), ("cache-control", "no-transform")),
    ] {
        let (_mesh, orders, client) = world(RULES).await?;
        orders.upstream.says(body.clone());
        orders.upstream.adds(line.0, line.1);
        if line.0 != "content-type" {
            orders.upstream.adds("content-type", "text/plain");
        }
        let answer = ask(&client, Method::GET, "gzip").await?;
        let encoded = answer.headers().get("content-encoding");
        assert!(encoded.is_none_or(|encoded| encoded == "br"), "{line:?}");
        assert!(!answer.headers().contains_key("vary"), "{line:?}");
        assert!(whole(answer).await? == body, "{line:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_answer_to_head_says_the_same_and_the_connection_goes_on() -> Result<()> {
    let (_mesh, orders, client) = world(RULES).await?;
    orders.upstream.says("x".repeat(1000));
    orders.upstream.adds("content-type", "text/plain");
    let io = TokioIo::new(super::connect(&client).await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
        let request = Request::builder()
            .method(&method)
            .uri("http://orders/")
            .header("host", "orders")
            .header("accept-encoding", "gzip")
            .body(Empty::<Bytes>::new())?;
        sender.ready().await?;
        let answer = timeout(SOON, sender.send_request(request)).await??;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-encoding"], "gzip");
        assert!(!answer.headers().contains_key("content-length"));
        let body = whole(answer).await?;
        match method {
            Method::HEAD => assert!(body.is_empty()),
            _ => assert_eq!(text(&body)?, "x".repeat(1000)),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_says_no_length_is_passed_on_piece_by_piece() -> Result<()> {
    let yaml = services(&["orders"]) + &route(RULES);
    let mesh = Mesh::start(&yaml).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let (go_on, may_go_on) = oneshot::channel::<()>();
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        tests::raw::head(&mut stream).await?;
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
                  transfer-encoding: chunked\r\n\r\n7\r\n[\"one\"]\r\n",
            )
            .await?;
        may_go_on.await?;
        stream.write_all(b"7\r\n[\"two\"]\r\n0\r\n\r\n").await?;
        // Until the sidecar has closed.
        let _ = tests::raw::head(&mut stream).await;
        anyhow::Ok(())
    });

    let answer = ask(&client, Method::GET, "gzip").await?;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let mut body = answer.into_body();
    let mut came = Vec::new();
    while begun(&came) != "[\"one\"]" {
        let frame = timeout(SOON, body.frame()).await?;
        let frame = frame.context("it has ended")??;
        came.extend(frame.into_data().unwrap_or_default());
    }
    let _ = go_on.send(());
    came.extend(timeout(SOON, body.collect()).await??.to_bytes());
    assert_eq!(text(&came)?, "[\"one\"][\"two\"]");
    application.abort();
    Ok(())
}

#[tokio::test]
async fn trailers_follow_what_is_compressed() -> Result<()> {
    let yaml = service("orders", "kubernetes.io/h2c") + &route(RULES);
    let mesh = Mesh::start(&yaml).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|_| async {
                let (mut answer, body) = Channel::<Bytes>::new(1);
                tokio::spawn(async move {
                    let _ = answer.send_data("said at length".into()).await;
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("x-checked", "yes".parse().expect("a value"));
                    let _ = answer.send_trailers(trailers).await;
                });
                let answer = Response::builder().header("content-type", "text/plain");
                answer.body(body)
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    let mut h2 = h2(&client).await?;
    let request = Request::get("http://orders/").header("accept-encoding", "gzip");
    let answer = h2
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let body = timeout(SOON, answer.into_body().collect()).await??;
    let trailers = body.trailers().context("no trailers")?.clone();
    assert_eq!(trailers["x-checked"], "yes");
    assert_eq!(text(&body.to_bytes())?, "said at length");
    Ok(())
}

#[tokio::test]
async fn an_application_that_is_not_told_who_accepts_what_is_compressed_for_all_the_same()
-> Result<()> {
    let (_mesh, orders, client) = world(
        "    - compression: {}\n      requestHeaders: { remove: [accept-encoding] }\n      \
         responseHeaders: { set: [{ name: content-type, value: text/plain }] }\n",
    )
    .await?;
    orders.upstream.says("x".repeat(1024));
    let answer = ask(&client, Method::GET, "gzip").await?;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let body = whole(answer).await?;
    assert_eq!(text(&body)?, "x".repeat(1024));
    let seen = orders.upstream.seen();
    assert!(!seen[0].headers.contains_key("accept-encoding"));
    // The bytes that are counted are those that were passed on.
    let passed = r#"meshwright_response_body_bytes_total{direction="outbound"}"#;
    wait_until("its bytes are counted", SOON, async || {
        let counted = client.sidecar().metric(passed).await?;
        ensure!(counted == Some(body.len() as f64), "{counted:?}");
        Ok(())
    })
    .await
}
