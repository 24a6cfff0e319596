//! What retries of three layers add up to, when everything fails.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tests::mesh::Mesh;
use tokio::net::{TcpListener, TcpStream};

use super::{policy_of, services};

/// Of an application that calls another for each call, through its sidecar, and passes on the status.
fn passes_on(listener: TcpListener, sidecar: SocketAddr, to: &'static str) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |_: Request<Incoming>| async move {
                let status = called(sidecar, to).await;
                let mut response = Response::new(Full::new(Bytes::new()));
                *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}

async fn called(sidecar: SocketAddr, to: &str) -> Result<StatusCode> {
    let stream = TcpStream::connect(sidecar).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("http://{to}/")).header("host", to);
    let response = sender
        .send_request(request.body(Full::new(Bytes::new()))?)
        .await?;
    connection.abort();
    Ok(response.status())
}

/// The figures of docs/retries.md: retries of three each time would make 64 of one.
#[tokio::test]
async fn three_layers_of_retries_stay_within_the_budget_to_the_third_power() -> Result<()> {
    const PERCENT: f64 = 0.2;
    const FLOOR: f64 = 2.0;
    let spec = "maxRetries: 3\n  backoff: { initial: 1ms, max: 1ms }\n  \
                budget: { percent: 20, minPerSecond: 2 }";
    let policy = |app: &str| policy_of(app, &format!("kind: Service, name: {app}"), spec);
    let objects = ["first", "second", "third"].map(policy).concat();
    let mesh = Mesh::start(&(services(&["first", "second", "third"]) + &objects)).await?;
    let mut beside = Vec::new();
    for (app, next) in [("first", "second"), ("second", "third")] {
        let (listener, sidecar) = mesh.listener(app).await?;
        passes_on(
            listener,
            SocketAddr::new(sidecar.address().into(), 15001),
            next,
        );
        beside.push(sidecar);
    }
    let third = mesh.workload("third").await?;
    let client = mesh.client("web").await?;
    for app in ["first", "second", "third"] {
        mesh.programmed(app).await?;
    }
    tests::wait_until("the way down is open", tests::mesh::SOON, async || {
        let answer = client.get("http://first/").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    third.upstream.answers(503);
    let (before, begun) = (third.upstream.requests(), Instant::now());
    let mut top = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        let calls = (0..20).map(|_| client.get("http://first/"));
        for answer in try_join_all(calls).await? {
            assert_eq!(answer.status, 503);
            top += 1;
        }
    }
    let bottom = (third.upstream.requests() - before) as f64;
    let seconds = begun.elapsed().as_secs_f64() + 1.0;
    let top = f64::from(top);
    let layer = |calls: f64| calls * (1.0 + PERCENT) + FLOOR * seconds;
    let bound = layer(layer(layer(top)));
    println!(
        "{top} calls at the top are {bottom} at the bottom: {:.2} each, of {:.2} at most",
        bottom / top,
        bound / top
    );
    assert!(bottom <= bound, "{bottom} of {top}, and {bound} at most");
    assert!(
        bottom >= top * 1.5,
        "they were tried again: {bottom} of {top}"
    );
    Ok(())
}
