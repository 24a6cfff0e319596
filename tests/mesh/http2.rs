//! HTTP/2 and gRPC, to and from applications.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Channel, Empty};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::mesh::{Mesh, SOON};
use tests::raw::h2;
use tokio::time::timeout;

use crate::routing::service;

/// A gRPC service in miniature: answers each message with the same message, then its trailers.
async fn echo(listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
            let (mut answer, body) = Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                let mut asked = request.into_body();
                while let Some(Ok(frame)) = asked.frame().await {
                    let data = frame.into_data().unwrap_or_default();
                    let _ = answer.send_data(data).await;
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().expect("a value"));
                let _ = answer.send_trailers(trailers).await;
            });
            let answer = http::Response::builder().header("content-type", "application/grpc");
            answer.body(body)
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

#[tokio::test]
async fn an_application_that_speaks_only_http2_is_spoken_to_in_http2() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "kubernetes.io/h2c")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;

    // However the caller speaks.
    assert_eq!(client.get("http://orders/1").await?.status, 200);
    let mut h2 = h2(&client).await?;
    let request = Request::get("http://orders/2").body(Empty::<Bytes>::new())?;
    let answer = h2.send_request(request).await?;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("meshwright-http2"));

    for seen in orders.upstream.seen() {
        assert_eq!(seen.version, Version::HTTP_2, "{seen:?}");
        assert!(!seen.headers.contains_key("meshwright-http2"), "{seen:?}");
    }
    assert_eq!(orders.upstream.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn where_nothing_is_declared_an_application_is_spoken_to_as_its_caller_speaks() -> Result<()>
{
    let mesh = Mesh::start(&service("orders", "")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;

    assert_eq!(client.get("http://orders/1").await?.status, 200);
    let mut h2 = h2(&client).await?;
    let request = Request::get("http://orders/2").body(Empty::<Bytes>::new())?;
    assert_eq!(h2.send_request(request).await?.status(), 200);

    let versions: Vec<_> = orders.upstream.seen().iter().map(|s| s.version).collect();
    assert_eq!(versions, [Version::HTTP_11, Version::HTTP_2]);
    Ok(())
}

#[tokio::test]
async fn both_sides_of_a_grpc_stream_flow_at_once_and_trailers_arrive() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "grpc")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let serving = tokio::spawn(echo(listener));
    let client = mesh.client("web").await?;

    let mut h2 = h2(&client).await?;
    let (mut ask, body) = Channel::<Bytes>::new(1);
    let request = Request::post("http://orders/shop.Orders/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?;
    let answer = timeout(SOON, h2.send_request(request)).await??;
    let mut answer = answer.into_body();
    for message in ["one", "two", "three"] {
        ask.send_data(message.into()).await?;
        let frame = timeout(SOON, answer.frame()).await?.context("a frame")??;
        let data = frame.into_data().ok().context("data")?;
        assert_eq!(data, message);
    }
    drop(ask);
    let last = timeout(SOON, answer.frame()).await?.context("a frame")??;
    let trailers = last.into_trailers().ok().context("trailers")?;
    assert_eq!(trailers["grpc-status"], "0");
    serving.abort();
    Ok(())
}

#[tokio::test]
async fn a_call_that_its_caller_cancels_is_cancelled_at_the_application() -> Result<()> {
    /// Tells when the work that owns it is given up.
    struct UnderWay(tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for UnderWay {
        fn drop(&mut self) {
            let _ = self.0.send("given up");
        }
    }
    let mesh = Mesh::start(&service("orders", "grpc")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let application = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |_| {
                let _ = tell.send("begun");
                let under_way = UnderWay(tell.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(under_way);
                    Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<Bytes>::new()))
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let client = mesh.client("web").await?;

    let mut h2 = h2(&client).await?;
    let request = Request::post("http://orders/shop.Orders/Get").body(Empty::<Bytes>::new())?;
    let call = tokio::spawn(h2.send_request(request));
    assert_eq!(timeout(SOON, told.recv()).await?, Some("begun"));
    call.abort();
    assert_eq!(timeout(SOON, told.recv()).await?, Some("given up"));
    // The connection is as good as before.
    assert!(h2.ready().await.is_ok());
    application.abort();
    Ok(())
}

#[tokio::test]
async fn a_grpc_caller_reads_a_refusal_as_a_grpc_status_and_its_deadline_is_kept() -> Result<()> {
    let yaml = service("orders", "grpc") + "---\n" + &service("nobody", "grpc");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.takes(Duration::from_secs(60));
    let client = mesh.client("web").await?;

    let mut h2 = h2(&client).await?;
    let mut call = async |host: &str, wait: &str| {
        let request = Request::post(format!("http://{host}/shop.Orders/Get"))
            .header("content-type", "application/grpc")
            .header("grpc-timeout", wait)
            .body(Empty::<Bytes>::new())?;
        let answer = timeout(SOON, h2.send_request(request)).await??;
        anyhow::Ok((answer.status().as_u16(), answer.headers().clone()))
    };
    let (status, headers) = call("nobody", "10S").await?;
    assert_eq!((status, &headers["grpc-status"]), (200, &"14".parse()?));
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["meshwright-reason"], "no_endpoints");
    let (status, headers) = call("orders", "200m").await?;
    assert_eq!((status, &headers["grpc-status"]), (200, &"4".parse()?));
    // What is left of it is passed on.
    let left = orders.upstream.seen()[0].headers["grpc-timeout"].clone();
    let left = left.to_str()?.strip_suffix('m').map(str::parse::<u64>);
    assert!(matches!(left, Some(Ok(1..=200))), "{left:?}");
    Ok(())
}
