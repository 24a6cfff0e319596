//! What one caller or application does costs nobody else anything.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::raw::{connect, head};
use tests::wait_until;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::applications::{Application, Speaks};
use crate::channel::channel;
use crate::flows::{answered, asks};

/// A mesh with the Service `orders`, where its endpoint's application is to listen, and a caller.
async fn mesh(declared: &str) -> Result<(Mesh, TcpListener, Sidecar, Client)> {
    let mesh = Mesh::start(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: orders, namespace: shop }}\n\
         spec: {{ selector: {{ app: orders }}, ports: [{{ port: 80, targetPort: 8080, \
         appProtocol: {declared} }}] }}\n"
    ))
    .await?;
    let (listener, sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    Ok((mesh, listener, sidecar, client))
}

/// Answers over HTTP/2 with small messages: `/many` with as many as are taken, at once, and others
/// with one, a frame of no bytes, and trailers.
async fn small_messages(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(async |request: Request<hyper::body::Incoming>| {
            let (mut sender, body) = channel();
            let many = request.uri().path() == "/many";
            tokio::spawn(async move {
                let small = Bytes::from_static(b"small");
                while sender.data(small.clone()).await.is_ok() && many {}
                sender.data(Bytes::new()).await?;
                sender.trailers(http::HeaderMap::new()).await
            });
            anyhow::Ok(http::Response::new(body))
        });
        tokio::spawn(http2_server().serve_connection(TokioIo::new(stream), service));
    }
}

fn http2_server() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_comes_while_an_endpoint_leaves_is_carried() -> Result<()> {
    let (_mesh, listener, sidecar, client) = mesh("http").await?;
    let _application = Application::start(listener, Speaks::Http);
    // Under way, so that the sidecar has something to wait for.
    let mut under_way = connect(&client).await?;
    let ask = "GET http://orders/bytes/1073741824 HTTP/1.1\r\nhost: orders\r\n\r\n";
    under_way.write_all(ask.as_bytes()).await?;
    head(&mut under_way).await?;
    let upgrades = async {
        wait_until("it is draining", SOON, async || {
            ensure!(sidecar.log()?.contains("\"draining\""));
            Ok(())
        })
        .await?;
        for _ in 0..20 {
            let mut stream = connect(&client).await?;
            let ask = "GET http://orders/live HTTP/1.1\r\nhost: orders\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            stream.write_all(ask.as_bytes()).await?;
            let (answer, _) = head(&mut stream).await?;
            ensure!(answer.starts_with("http/1.1 101"), "{answer}");
        }
        drop(under_way);
        anyhow::Ok(())
    };
    let (ended, upgrades) = tokio::join!(sidecar.terminate(), upgrades);
    upgrades?;
    ensure!(ended? == Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_no_bytes_before_the_trailers_end_no_connection() -> Result<()> {
    let (_mesh, listener, _sidecar, client) = mesh("grpc").await?;
    let serving = tokio::spawn(small_messages(listener));
    let client = Arc::new(client);
    let mut callers = JoinSet::new();
    // One application's connection carries them all, ten at a time.
    for _ in 0..10 {
        let client = client.clone();
        callers.spawn(async move {
            for number in 0..50 {
                let answer = client.get("http://orders/one").await?;
                let right = (answer.status, answer.body.as_str()) == (200, "small");
                ensure!(right, "{number}: {answer:?}");
            }
            Ok(())
        });
    }
    while let Some(ended) = timeout(SOON, callers.join_next()).await? {
        ended??;
    }
    serving.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_that_nobody_reads_end_no_connection_of_others() -> Result<()> {
    let (_mesh, listener, _sidecar, client) = mesh("grpc").await?;
    let serving = tokio::spawn(small_messages(listener));
    // HTTP/1.1 to the sidecars, and one connection of HTTP/2 from one to the other.
    let asked = async || {
        let io = TokioIo::new(connect(&client).await?);
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        let asked = asks(Method::GET, "/many", Empty::<Bytes>::new())?;
        answered(sender.send_request(asked).await?)
    };
    let mut watching = asked().await?.into_body();
    let _unread = asked().await?;
    // Others read all of theirs meanwhile.
    for number in 0..50_000 {
        let frame = timeout(SOON, watching.frame()).await?;
        frame
            .context("no more")?
            .with_context(|| format!("after {number} messages"))?;
    }
    serving.abort();
    Ok(())
}
