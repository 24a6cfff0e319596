//! When a request is sent again, as a RetryPolicy says, and without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use tests::client::{Answer, Client};
use tests::frames::{Frames, HEADERS, RST_STREAM, SETTINGS, frame};
use tests::mesh::{Mesh, SOON, Workload};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::routing::{route, services};

mod bounds;
mod layers;

/// A RetryPolicy for `target`, such as `kind: Service, name: orders`.
pub(crate) fn policy_of(name: &str, target: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  targetRefs: [{{ {target} }}]\n  {spec}\n"
    )
}

/// A RetryPolicy for the Service `orders`.
pub(crate) fn policy(spec: &str) -> String {
    policy_of("policy", "kind: Service, name: orders", spec)
}

/// Waits of a test's own: none.
const AT_ONCE: &str = "backoff: { initial: 1ms, max: 1ms }";

/// Waits until the client's sidecar knows so many endpoints of `orders`.
pub(crate) async fn knows(client: &Client, endpoints: usize) -> Result<()> {
    wait_until("the caller knows the endpoints", SOON, async || {
        let config = client.sidecar().config().await?;
        let services = config["inForce"]["services"].as_array();
        let services = services.into_iter().flatten();
        let mut orders = services.filter(|one| one["service"] == "shop/orders");
        let orders = orders
            .next()
            .map(|one| one["ports"][0]["endpoints"].clone());
        match orders.as_ref().and_then(|known| known.as_array()) {
            Some(known) if known.len() == endpoints => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await
}

/// A mesh of `orders` with these objects beside it, its workloads, and a client that knows both.
async fn world<const N: usize>(objects: &str) -> Result<(Mesh, [Workload; N], Client)> {
    let mesh = Mesh::start(&(services(&["orders"]) + objects)).await?;
    let orders = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    for line in objects.lines() {
        if let Some(name) = line.trim().strip_prefix("metadata: { name: ") {
            let name = name.split(',').next().unwrap_or_default();
            mesh.programmed(name).await?;
        }
    }
    knows(&client, N).await?;
    Ok((mesh, orders, client))
}

async fn post(client: &Client, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let body = Bytes::from(body.to_owned());
    client
        .send(Method::POST, "http://orders/", headers, body)
        .await
}

fn seen(workloads: &[Workload]) -> usize {
    workloads.iter().map(|one| one.upstream.requests()).sum()
}

#[tokio::test]
async fn a_status_that_is_named_is_tried_again_at_another_endpoint() -> Result<()> {
    let (_mesh, orders, client) = world::<2>(&policy(AT_ONCE)).await?;
    orders[0].upstream.answers(503);
    for _ in 0..20 {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    let tried = orders[0].upstream.requests();
    assert!(tried > 0, "it was never asked");
    assert_eq!(
        seen(&orders),
        20 + tried,
        "each of its answers was followed by one more"
    );
    let labels = r#"service="shop/orders",after="status",code="503""#;
    let series = format!("meshwright_retries_total{{{labels}}}");
    let counted = client.sidecar().metric(&series).await?;
    assert_eq!(counted, Some(tried as f64));
    Ok(())
}

#[tokio::test]
async fn a_request_is_sent_as_often_as_it_may_and_then_its_last_answer_counts() -> Result<()> {
    let (mesh, orders, client) = world::<1>(&policy("maxRetries: 3")).await?;
    orders[0].upstream.answers(503);
    orders[0].upstream.says("still closed");
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, &*answer.body), (503, "still closed"));
    assert_eq!(orders[0].upstream.requests(), 4);
    assert_eq!(answer.headers["meshwright-no-retry"], "1");
    // 0 is never, not even when nobody can be connected to.
    let never = services(&["orders"]) + &policy("maxRetries: 0");
    mesh.write("routes.yaml", &never)?;
    wait_until("the edit is in force", SOON, async || {
        let before = orders[0].upstream.requests();
        client.get("http://orders/").await?;
        match orders[0].upstream.requests() - before {
            1 => Ok(()),
            more => bail!("{more}"),
        }
    })
    .await
}

#[tokio::test]
async fn what_is_not_idempotent_is_sent_once_unless_it_has_a_key() -> Result<()> {
    let keyed = format!("{AT_ONCE}\n  idempotencyKey: {{}}");
    let (_mesh, orders, client) = world::<1>(&policy(&keyed)).await?;
    let upstream = &orders[0].upstream;
    upstream.answers(503);
    assert_eq!(post(&client, &[], "once").await?.status, 503);
    assert_eq!(upstream.requests(), 1);
    let key = [("idempotency-key", "7")];
    assert_eq!(post(&client, &key, "thrice").await?.status, 503);
    let bodies: Vec<_> = upstream.seen().into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, ["once", "thrice", "thrice", "thrice"]);
    Ok(())
}

#[tokio::test]
async fn only_what_is_named_is_tried_again() -> Result<()> {
    let named = "retryOn: { statusCodes: [], statusClasses: [4xx] }\n  methods: [POST]";
    let (_mesh, orders, client) = world::<1>(&policy(&format!("{AT_ONCE}\n  {named}"))).await?;
    let upstream = &orders[0].upstream;
    let mut before = 0;
    let mut sent = |upstream: &tests::upstream::Upstream| {
        let now = upstream.requests();
        std::mem::replace(&mut before, now).abs_diff(now)
    };
    upstream.answers(503);
    post(&client, &[], "").await?;
    assert_eq!(sent(upstream), 1, "503 is not named");
    upstream.answers(409);
    post(&client, &[], "").await?;
    assert_eq!(sent(upstream), 3);
    client.get("http://orders/").await?;
    assert_eq!(sent(upstream), 1, "GET is not named");
    Ok(())
}

#[tokio::test]
async fn a_grpc_status_in_place_of_an_answer_is_tried_again_where_it_is_named() -> Result<()> {
    let named = "retryOn: { grpcCodes: [Unavailable] }\n  methods: [POST]";
    let (_mesh, orders, client) = world::<1>(&policy(&format!("{AT_ONCE}\n  {named}"))).await?;
    let upstream = &orders[0].upstream;
    let grpc = [("content-type", "application/grpc")];
    upstream.adds("grpc-status", "14");
    let answer = post(&client, &grpc, "x").await?;
    assert_eq!(
        (answer.status, &answer.headers["grpc-status"]),
        (200, &"14".parse()?)
    );
    assert_eq!(upstream.requests(), 3);
    // Whoever does not read gRPC has got an answer.
    post(&client, &[], "x").await?;
    assert_eq!(upstream.requests(), 4);
    Ok(())
}

#[tokio::test]
async fn without_any_policy_a_post_survives_an_application_that_is_gone() -> Result<()> {
    let (_mesh, mut orders, client) = world::<2>("").await?;
    orders[0].upstream.close();
    let text = "x".repeat(20_000);
    for _ in 0..30 {
        let answer = post(&client, &[], &text).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let bodies = orders[1].upstream.seen();
    assert_eq!(bodies.len(), 30);
    assert!(bodies.iter().all(|one| one.body == text));
    let labels = r#"service="shop/orders",after="refused_stream",code="0""#;
    let series = format!("meshwright_retries_total{{{labels}}}");
    assert!(client.sidecar().metric(&series).await? > Some(0.0));
    Ok(())
}

#[tokio::test]
async fn without_any_policy_what_an_application_answers_is_the_answer() -> Result<()> {
    let (_mesh, orders, client) = world::<2>("").await?;
    for one in &orders {
        one.upstream.answers(503);
    }
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, seen(&orders)), (503, 1));
    assert!(!answer.headers.contains_key("meshwright-no-retry"));
    Ok(())
}

#[tokio::test]
async fn what_is_written_for_a_rule_comes_before_its_route_and_that_before_the_service()
-> Result<()> {
    let rules = "    - name: once\n      matches: [{ path: { type: Exact, value: /once } }]\n    \
                 - name: twice\n      matches: [{ path: { type: Exact, value: /twice } }]\n    - name: rest\n";
    let of_route = |name: &str, section: &str, spec: &str| {
        let section = match section {
            "" => String::new(),
            rule => format!(", sectionName: {rule}"),
        };
        policy_of(
            name,
            &format!("kind: ApiRoute, name: orders{section}"),
            spec,
        )
    };
    let objects = route(rules)
        + &policy(&format!("maxRetries: 4\n  {AT_ONCE}"))
        + &of_route("of-route", "", &format!("maxRetries: 2\n  {AT_ONCE}"))
        + &of_route("of-rule", "once", "maxRetries: 0")
        + &of_route(
            "of-another",
            "twice",
            &format!("maxRetries: 1\n  {AT_ONCE}"),
        );
    let (mesh, orders, client) = world::<1>(&objects).await?;
    let upstream = &orders[0].upstream;
    upstream.answers(503);
    let sent = async |path: &str| {
        let before = upstream.requests();
        client.get(&format!("http://orders{path}")).await?;
        anyhow::Ok(upstream.requests() - before)
    };
    for (path, times) in [("/once", 1), ("/twice", 2), ("/other", 3)] {
        assert_eq!(sent(path).await?, times, "{path}");
    }
    // Without one of its own, the Service's.
    let objects = services(&["orders"]) + &route(rules) + &policy("maxRetries: 4");
    mesh.write("routes.yaml", &objects)?;
    wait_until("the edit is in force", SOON, async || {
        match sent("/once").await? {
            5 => Ok(()),
            other => bail!("{other}"),
        }
    })
    .await
}

#[tokio::test]
async fn a_try_takes_no_longer_than_it_may_and_is_followed_by_another() -> Result<()> {
    // By turns, so that the one that is held is surely asked.
    let by_turns = "loadBalancing: { type: RoundRobin }";
    let timed = format!("perTryTimeout: 300ms\n  maxRetries: 1\n  {AT_ONCE}\n  {by_turns}");
    let (_mesh, orders, client) = world::<2>(&policy(&timed)).await?;
    let held = orders[0].upstream.holds();
    for _ in 0..5 {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    assert!(orders[0].upstream.requests() > 0, "it was never asked");
    let _all_held = orders[1].upstream.holds();
    let begun = Instant::now();
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (504, "try_timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(600), "twice");
    drop(held);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_has_begun_outlasts_the_time_of_a_try() -> Result<()> {
    let timed = format!("perTryTimeout: 300ms\n  maxRetries: 1\n  {AT_ONCE}");
    let (_mesh, orders, client) = world::<1>(&policy(&timed)).await?;
    let upstream = &orders[0].upstream;
    upstream.says("late");
    upstream.dawdles(Duration::from_millis(900));
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, &*answer.body), (200, "late"));
    assert_eq!(upstream.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn when_nobody_is_left_to_call_what_was_answered_last_is_the_answer() -> Result<()> {
    let opens = format!("{AT_ONCE}\n  circuitBreaker: {{ consecutiveFailures: 1, openFor: 1m }}");
    let (_mesh, orders, client) = world::<1>(&policy(&opens)).await?;
    orders[0].upstream.answers(503);
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, ""));
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, "circuit_open"));
    Ok(())
}

#[tokio::test]
async fn an_answer_that_asks_for_patience_gets_as_much_as_is_allowed() -> Result<()> {
    let patient = |max: &str| policy(&format!("{AT_ONCE}\n  retryAfter: {max}"));
    let (mesh, orders, client) = world::<1>(&patient("{ max: 1s }")).await?;
    let upstream = &orders[0].upstream;
    upstream.adds("retry-after", "60");
    let took = async || {
        let begun = Instant::now();
        upstream.fails(1, 503);
        assert_eq!(client.get("http://orders/").await?.status, 200);
        anyhow::Ok(begun.elapsed())
    };
    let capped = took().await?;
    let expected = Duration::from_millis(990)..Duration::from_secs(10);
    assert!(expected.contains(&capped), "{capped:?}");
    let deaf = services(&["orders"]) + &patient("{ respect: false }");
    mesh.write("routes.yaml", &deaf)?;
    wait_until("the edit is in force", SOON, async || {
        match took().await? {
            took if took < Duration::from_millis(900) => Ok(()),
            took => bail!("{took:?}"),
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_a_reset_and_one_that_ends_later_is_not()
-> Result<()> {
    let objects = services(&["orders"]) + &policy(AT_ONCE);
    let mesh = Mesh::start(&objects).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("policy").await?;
    knows(&client, 1).await?;
    let application = tokio::spawn(async move {
        let mut seen = 0;
        // Twice nothing, then half an answer, and never again.
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = [0; 4096];
            let _ = stream.read(&mut read).await;
            seen += 1;
            if seen > 2 {
                let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
                let _ = stream.write_all(half.as_bytes()).await;
            }
            if seen == 4 {
                break;
            }
        }
        seen
    });
    assert!(client.get("http://orders/").await.is_err(), "it broke off");
    assert!(
        !application.is_finished(),
        "nothing follows the first byte of an answer"
    );
    assert!(client.get("http://orders/").await.is_err());
    assert_eq!(application.await?, 4);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_says_so_is_not_tried_again() -> Result<()> {
    let (_mesh, orders, client) = world::<1>(&policy(AT_ONCE)).await?;
    orders[0].upstream.answers(503);
    orders[0].upstream.adds("meshwright-no-retry", "1");
    let answer = client.get("http://orders/").await?;
    assert_eq!(orders[0].upstream.requests(), 1);
    assert_eq!(answer.headers["meshwright-no-retry"], "1");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_passed_by_and_one_that_is_alone_is_tried_again() -> Result<()>
{
    let (_mesh, orders, client) = world::<2>("").await?;
    orders[0].sidecar.kill().await?;
    let calls = (0..20).map(|_| client.get("http://orders/"));
    for answer in join_all(calls).await {
        assert_eq!(answer?.status, 200);
    }
    let after =
        r#"meshwright_retries_total{service="shop/orders",after="connect_failure",code="0"}"#;
    orders[1].sidecar.kill().await?;
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
    assert!(client.sidecar().metric(after).await? >= Some(2.0));
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_refused_unread_goes_elsewhere_with_its_body() -> Result<()> {
    let grpc = crate::routing::service("orders", "kubernetes.io/h2c");
    let mesh = Mesh::start(&grpc).await?;
    let mut refusing = mesh.outsider("orders").await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    knows(&client, 2).await?;
    refusing.close();
    let address = refusing.address();
    let listener = wait_until("its place is free", SOON, async || {
        Ok(tokio::net::TcpListener::bind(address).await?)
    })
    .await?;
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut preface = [0; 24];
            if stream.read_exact(&mut preface).await.is_err() {
                continue;
            }
            let mut frames = Frames::server(stream);
            let settings = frame(SETTINGS, 0, 0, &[]);
            if frames.send(&settings).await.is_err() {
                continue;
            }
            let counted = counted.clone();
            tokio::spawn(async move {
                while let Some(next) = frames.next().await {
                    if next.kind == HEADERS {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let reset = frame(RST_STREAM, 0, next.stream, &7_u32.to_be_bytes());
                        let _ = frames.send(&reset).await;
                    }
                }
            });
        }
    });
    for _ in 0..30 {
        let answer = post(&client, &[], "as sent").await?;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "it was never asked");
    assert!(
        orders
            .upstream
            .seen()
            .iter()
            .all(|one| one.body == "as sent")
    );
    Ok(())
}

#[tokio::test]
async fn the_destinations_log_says_which_attempt_a_request_was() -> Result<()> {
    let (_mesh, orders, client) = world::<1>(&policy(AT_ONCE)).await?;
    orders[0].upstream.fails(2, 503);
    assert_eq!(client.get("http://orders/").await?.status, 200);
    wait_until("all of them are logged", SOON, async || {
        let log = orders[0].sidecar.log()?;
        let lines = log.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["direction"] == "inbound").then(|| line["attempt"].as_u64())
        });
        match lines.collect::<Vec<_>>().as_slice() {
            [None, Some(2), Some(3)] => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await?;
    let seen = orders[0].upstream.seen();
    assert!(
        seen.iter()
            .all(|one| !one.headers.contains_key("meshwright-attempt"))
    );
    Ok(())
}
