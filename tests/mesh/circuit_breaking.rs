//! When an endpoint that fails is not called, as a RetryPolicy says.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Channel, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tests::raw::{connect, head};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::retries::{knows, policy};
use crate::routing::services;

/// What a RetryPolicy with this `circuitBreaker` says; nothing is sent again.
fn breaker(fields: &str) -> String {
    policy(&format!("maxRetries: 0\n  circuitBreaker: {{ {fields} }}"))
}

async fn world<const N: usize>(policy: &str) -> Result<(Mesh, [Workload; N], Client)> {
    let mesh = Mesh::start(&(services(&["orders"]) + policy)).await?;
    let orders = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("policy").await?;
    knows(&client, N).await?;
    Ok((mesh, orders, client))
}

/// How the endpoints of `orders` are, as the client's sidecar knows them, in order.
async fn states(client: &Client) -> Result<Vec<String>> {
    let config = client.sidecar().config().await?;
    let services = config["inForce"]["services"].as_array();
    let mut services = services.into_iter().flatten();
    let orders = services.find(|service| service["service"] == "shop/orders");
    let endpoints = orders.and_then(|orders| orders["ports"][0]["endpoints"].as_array());
    let states = endpoints.into_iter().flatten().map(|endpoint| {
        let state = endpoint["state"].as_str();
        state.unwrap_or("unknown").to_owned()
    });
    let mut states: Vec<_> = states.collect();
    states.sort();
    Ok(states)
}

async fn circuits(client: &Client, state: &str) -> Result<f64> {
    let labels = format!(r#"service="shop/orders",port="80",state="{state}""#);
    let series = format!("meshwright_circuit_endpoints{{{labels}}}");
    Ok(client.sidecar().metric(&series).await?.unwrap_or_default())
}

#[tokio::test]
async fn an_endpoint_that_fails_is_not_called_and_the_others_are() -> Result<()> {
    // Of two, the one that fails is asked seldom by default.
    let policy = breaker("consecutiveFailures: 3, openFor: 10m, maxOpenFor: 10m")
        + "  loadBalancing: { type: RoundRobin }\n";
    let (_mesh, orders, client) = world::<2>(&policy).await?;
    orders[0].upstream.answers(500);
    wait_until("its circuit is open", SOON, async || {
        client.get("http://orders/").await?;
        match states(&client).await?.contains(&"open".to_owned()) {
            true => Ok(()),
            false => bail!("{:?}", states(&client).await?),
        }
    })
    .await?;
    assert_eq!(orders[0].upstream.requests(), 3);
    for _ in 0..20 {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    assert_eq!(orders[0].upstream.requests(), 3);
    assert_eq!(states(&client).await?, ["open", "ready"]);
    assert_eq!(
        (
            circuits(&client, "open").await?,
            circuits(&client, "closed").await?
        ),
        (1.0, 1.0)
    );
    let opened = r#"meshwright_circuit_changes_total{service="shop/orders",to="open"}"#;
    assert_eq!(client.sidecar().metric(opened).await?, Some(1.0));
    Ok(())
}

#[tokio::test]
async fn while_all_are_open_the_answer_is_503_with_retry_after_at_once() -> Result<()> {
    let policy =
        breaker("consecutiveFailures: 2, openFor: 1m, maxOpenFor: 1m, maxEjectedPercent: 100");
    let (_mesh, orders, client) = world::<2>(&policy).await?;
    for one in &orders {
        one.upstream.answers(500);
    }
    wait_until("all circuits are open", SOON, async || {
        match client.get("http://orders/").await?.reason() {
            "circuit_open" => Ok(()),
            other => bail!("{other}"),
        }
    })
    .await?;
    let seen = || {
        orders
            .iter()
            .map(|one| one.upstream.requests())
            .sum::<usize>()
    };
    let (before, begun) = (seen(), Instant::now());
    let answer = client.get("http://orders/").await?;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((answer.status, answer.reason()), (503, "circuit_open"));
    let after: u64 = answer.headers["retry-after"].to_str()?.parse()?;
    assert!((30..=75).contains(&after), "{after}");
    assert_eq!((seen(), before), (4, 4), "nothing was sent");
    Ok(())
}

#[tokio::test]
async fn one_that_is_well_again_is_tried_and_called() -> Result<()> {
    let (_mesh, orders, client) =
        world::<1>(&breaker("consecutiveFailures: 2, openFor: 1s")).await?;
    orders[0].upstream.answers(500);
    for _ in 0..2 {
        assert_eq!(client.get("http://orders/").await?.status, 500);
    }
    let opened = Instant::now();
    assert_eq!(client.get("http://orders/").await?.reason(), "circuit_open");
    orders[0].upstream.answers(200);
    wait_until("it is called again", SOON, async || {
        match client.get("http://orders/").await?.status {
            200 => Ok(()),
            other => bail!("{other}"),
        }
    })
    .await?;
    assert!(
        opened.elapsed() >= Duration::from_millis(900),
        "{:?}",
        opened.elapsed()
    );
    assert_eq!(orders[0].upstream.requests(), 3);
    assert_eq!(states(&client).await?, ["ready"]);
    Ok(())
}

#[tokio::test]
async fn what_is_the_callers_own_fault_never_counts() -> Result<()> {
    let policy = breaker(
        "consecutiveFailures: 2, minRequests: 1, errorPercent: 1, openFor: 10m, maxOpenFor: 10m",
    );
    let (_mesh, orders, client) = world::<1>(&policy).await?;
    let upstream = &orders[0].upstream;
    for status in [400, 401, 404, 409, 429] {
        upstream.answers(status);
        for _ in 0..3 {
            assert_eq!(client.get("http://orders/").await?.status, status);
        }
    }
    upstream.answers(200);
    // INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED.
    for (number, code) in ["3", "5", "8"].into_iter().enumerate() {
        upstream.adds("grpc-status", code);
        let grpc = [("content-type", "application/grpc")];
        let calls = (0..3).map(|_| {
            client.send(
                Method::POST,
                "http://orders/",
                &grpc,
                Bytes::from_static(b"x"),
            )
        });
        for call in calls {
            assert_eq!(call.await?.status, 200, "{number}");
        }
    }
    assert_eq!(states(&client).await?, ["ready"]);
    Ok(())
}

#[tokio::test]
async fn a_caller_that_sends_too_much_or_too_slowly_or_reads_too_slowly_never_counts() -> Result<()>
{
    let policy = breaker("consecutiveFailures: 1, openFor: 10m, maxOpenFor: 10m")
        .replace("maxRetries: 0", "maxRetries: 0\n  perTryTimeout: 300ms");
    let route = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: { name: orders, \
                 namespace: shop }\nspec: { hosts: [orders], timeouts: { request: 1s }, rules: [{ \
                 maxRequestBytes: 4096 }] }\n";
    let (mesh, orders, client) = world::<1>(&(policy + route)).await?;
    mesh.programmed("orders").await?;

    // How large it is shows when it comes.
    let mut stream = connect(&client).await?;
    let ask = "POST / HTTP/1.1\r\nhost: orders\r\ntransfer-encoding: chunked\r\n\r\n2000\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let _ = stream.write_all(&[b'x'; 0x2000]).await;
    let _ = stream.write_all(b"\r\n0\r\n\r\n").await;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 413"), "{answer}");
    assert_eq!(states(&client).await?, ["ready"]);

    // It sends half of it, and no more.
    let mut stream = connect(&client).await?;
    let ask = "POST / HTTP/1.1\r\nhost: orders\r\ncontent-length: 8\r\n\r\nhalf";
    stream.write_all(ask.as_bytes()).await?;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 504"), "{answer}");
    assert_eq!(states(&client).await?, ["ready"]);

    // It reads little by little, until its request's time is over.
    orders[0].upstream.says(vec![b'x'; 64 << 20]);
    let mut stream = connect(&client).await?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await?;
    let (mut some, mut all, begun) = (vec![0; 8192], 0, Instant::now());
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while let Ok(read @ 1..) = stream.read(&mut some).await {
        all += read;
        if begun.elapsed() < Duration::from_millis(1500) {
            pace.tick().await;
        }
    }
    assert!(all < 64 << 20, "it was read to its end");
    assert_eq!(states(&client).await?, ["ready"]);
    Ok(())
}

#[tokio::test]
async fn a_grpc_status_that_says_that_the_server_failed_counts() -> Result<()> {
    let (_mesh, orders, client) =
        world::<1>(&breaker("consecutiveFailures: 2, openFor: 1m")).await?;
    orders[0].upstream.adds("grpc-status", "13");
    let grpc = [("content-type", "application/grpc")];
    for _ in 0..2 {
        let body = Bytes::from_static(b"x");
        client
            .send(Method::POST, "http://orders/", &grpc, body)
            .await?;
    }
    assert_eq!(states(&client).await?, ["open"]);
    let body = Bytes::from_static(b"x");
    let refused = client
        .send(Method::POST, "http://orders/", &grpc, body)
        .await?;
    assert_eq!((refused.status, refused.reason()), (200, "circuit_open"));
    assert_eq!(refused.headers["grpc-status"], "14");
    Ok(())
}

/// Answers each call of gRPC with a message, and this status behind it.
fn says_behind_a_message(listener: TcpListener, status: &'static str) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |_: Request<Incoming>| async move {
                let (mut sender, body) = Channel::<Bytes>::new(2);
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(status));
                tokio::spawn(async move {
                    let _ = sender.send_data(Bytes::from_static(b"message")).await;
                    let _ = sender.send_trailers(trailers).await;
                });
                Ok::<_, Infallible>(Response::new(body))
            });
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
}

#[tokio::test]
async fn a_grpc_status_behind_a_message_counts_as_one_in_its_place() -> Result<()> {
    let service = crate::routing::service("orders", "kubernetes.io/h2c");
    for (status, state) in [("14", "open"), ("5", "ready")] {
        let policy = breaker("consecutiveFailures: 3, openFor: 1m");
        let mesh = Mesh::start(&(service.clone() + &policy)).await?;
        let (listener, _sidecar) = mesh.listener("orders").await?;
        says_behind_a_message(listener, status);
        let client = mesh.client("web").await?;
        mesh.programmed("policy").await?;
        knows(&client, 1).await?;
        let mut h2 = tests::raw::h2::<Empty<Bytes>>(&client).await?;
        for _ in 0..3 {
            let request = Request::post("http://orders/shop.Orders/Get")
                .header("content-type", "application/grpc");
            h2.ready().await?;
            let answer = h2.send_request(request.body(Empty::new())?).await?;
            let trailers = answer.into_body().collect().await?;
            let said = trailers.trailers().and_then(|all| all.get("grpc-status"));
            assert_eq!(said, Some(&HeaderValue::from_static(status)));
        }
        assert_eq!(states(&client).await?, [state], "grpc-status {status}");
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_break_off_count() -> Result<()> {
    let policy = breaker("consecutiveFailures: 3, openFor: 1m");
    let mesh = Mesh::start(&(services(&["orders"]) + &policy)).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
            let _ = stream.write_all(half.as_bytes()).await;
        }
    });
    let client = mesh.client("web").await?;
    mesh.programmed("policy").await?;
    knows(&client, 1).await?;
    for _ in 0..3 {
        assert!(client.get("http://orders/").await.is_err());
    }
    assert_eq!(client.get("http://orders/").await?.reason(), "circuit_open");
    Ok(())
}

#[tokio::test]
async fn an_application_that_is_gone_and_one_that_does_not_answer_in_time_count() -> Result<()> {
    let policy = breaker("consecutiveFailures: 2, openFor: 1m")
        .replace("maxRetries: 0", "maxRetries: 0\n  perTryTimeout: 200ms");
    let (_mesh, mut orders, client) = world::<1>(&policy).await?;
    let held = orders[0].upstream.holds();
    assert_eq!(client.get("http://orders/").await?.reason(), "try_timeout");
    drop(held);
    orders[0].upstream.close();
    assert_eq!(
        client.get("http://orders/").await?.reason(),
        "application_unreachable"
    );
    assert_eq!(client.get("http://orders/").await?.reason(), "circuit_open");
    Ok(())
}

#[tokio::test]
async fn one_that_says_nothing_for_as_long_as_may_be_counts() -> Result<()> {
    let route = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                 metadata: { name: orders, namespace: shop }\n\
                 spec: { hosts: [orders], timeouts: { idle: 1s } }\n";
    let policy =
        breaker("consecutiveFailures: 1, openFor: 10m, maxOpenFor: 10m, maxEjectedPercent: 100");
    let mesh = Mesh::start(&(services(&["orders"]) + &policy + route)).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("policy").await?;
    mesh.programmed("orders").await?;
    // It is connected to, and never answers.
    let silent = client.get("http://orders/").await?;
    assert_eq!((silent.status, silent.reason()), (504, "idle_timeout"));
    let open = client.get("http://orders/").await?;
    assert_eq!((open.status, open.reason()), (503, "circuit_open"));
    drop(listener);
    Ok(())
}

#[tokio::test]
async fn no_more_than_the_share_is_left_out_however_much_fails() -> Result<()> {
    let (_mesh, orders, client) =
        world::<3>(&breaker("consecutiveFailures: 2, openFor: 1m")).await?;
    for one in &orders {
        one.upstream.answers(500);
    }
    for _ in 0..40 {
        assert_eq!(client.get("http://orders/").await?.status, 500);
    }
    assert_eq!(states(&client).await?, ["open", "ready", "ready"]);
    Ok(())
}

#[tokio::test]
async fn what_is_open_stays_open_through_edits_of_others_and_of_its_own_policy() -> Result<()> {
    let written = "consecutiveFailures: 2, openFor: 10m, maxOpenFor: 10m";
    let (mesh, orders, client) = world::<1>(&breaker(written)).await?;
    orders[0].upstream.answers(500);
    for _ in 0..2 {
        client.get("http://orders/").await?;
    }
    assert_eq!(states(&client).await?, ["open"]);
    let edited = written.replace("consecutiveFailures: 2", "consecutiveFailures: 7");
    let edited = services(&["orders", "payments"]) + &breaker(&edited);
    mesh.write("routes.yaml", &edited)?;
    wait_until("the other Service is known", SOON, async || {
        match client.get("http://payments/").await?.reason() {
            "no_endpoints" => Ok(()),
            other => bail!("{other}"),
        }
    })
    .await?;
    mesh.programmed("policy").await?;
    assert_eq!(client.get("http://orders/").await?.reason(), "circuit_open");
    assert_eq!(orders[0].upstream.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn without_a_circuit_breaker_an_endpoint_that_fails_is_called_on() -> Result<()> {
    let (_mesh, orders, client) = world::<1>(&policy("maxRetries: 0")).await?;
    orders[0].upstream.answers(500);
    for _ in 0..50 {
        assert_eq!(client.get("http://orders/").await?.status, 500);
    }
    assert_eq!(orders[0].upstream.requests(), 50);
    Ok(())
}
