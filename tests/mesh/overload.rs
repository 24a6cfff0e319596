//! More than can be carried: what is over is turned away at once, what was begun ends, and then all
//! is well again.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidecar::net::tls::ALPN_H2;
use sidecar::proxy::limits::{LOAD, WAITING};
use tests::client::Client;
use tests::frames::Frames;
use tests::mesh::{APPLICATION_PORT, Mesh, SOON, Workload};
use tests::raw::{connect, h2, peer};
use tests::wait_until;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::routing::service;

/// Requests at a time on one connection to a sidecar.
const STREAMS: usize = 250;

async fn world() -> Result<(Mesh, Workload, Client)> {
    // For as many connections as there are places.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, most)?;
    let mesh = Mesh::start(&service("orders", "kubernetes.io/h2c")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    Ok((mesh, orders, client))
}

/// The status and reason of each request, as they are answered.
type Answers = Vec<tokio::task::JoinHandle<(u16, String)>>;

/// Sends so many requests at once.
async fn burst(client: &Client, count: usize) -> Result<Answers> {
    burst_to(client, "http://orders/", count).await
}

async fn burst_to(client: &Client, url: &'static str, count: usize) -> Result<Answers> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let h2 = h2::<Empty<Bytes>>(client).await?;
        for _ in 0..STREAMS.min(count - answers.len()) {
            let mut h2 = h2.clone();
            answers.push(tokio::spawn(async move {
                let request = Request::get(url).body(Empty::new()).expect("a request");
                h2.ready().await.expect("ready");
                let answer = h2.send_request(request).await.expect("an answer");
                let reason = answer.headers().get("meshwright-reason");
                let reason = reason.map(|r| r.to_str().unwrap_or_default().to_owned());
                let retry = answer.headers().contains_key("retry-after");
                let status = answer.status().as_u16();
                let _ = answer.into_body().collect().await;
                assert_eq!(retry, status == 503);
                (status, reason.unwrap_or_default())
            }));
        }
    }
    Ok(answers)
}

#[tokio::test]
async fn one_peer_takes_half_of_the_places_and_the_rest_is_turned_away_at_once() -> Result<()> {
    let (mesh, orders, client) = world().await?;
    let other = mesh.client("other").await?;
    let release = orders.upstream.holds();
    let more = 50;
    let mut answers = Vec::new();
    // In waves, so that not all of them wait for their connections at once.
    for wave in 1.. {
        let count = (LOAD.requests_each + more - answers.len()).min(WAITING / 2);
        answers.extend(burst(&client, count).await?);
        let sent = answers.len().min(LOAD.requests_each);
        wait_until(&format!("wave {wave} has arrived"), SOON, async || {
            let seen = orders.upstream.requests();
            ensure!(seen >= sent, "{seen} have arrived");
            Ok(())
        })
        .await?;
        if answers.len() == LOAD.requests_each + more {
            break;
        }
    }
    // Turned away while all the others wait: nothing is done for them, nor waited for.
    wait_until("the rest is turned away", SOON, async || {
        let answered = answers.iter().filter(|one| one.is_finished()).count();
        ensure!(answered == more, "{answered} are answered");
        Ok(())
    })
    .await?;
    assert_eq!(orders.upstream.requests(), LOAD.requests_each);
    // Another peer has its place.
    let others = burst(&other, 1).await?;
    wait_until("another peer is served", SOON, async || {
        let seen = orders.upstream.requests();
        ensure!(seen == LOAD.requests_each + 1, "{seen} have arrived");
        Ok(())
    })
    .await?;
    let resident = orders.sidecar.resident_bytes()?;
    assert!(
        resident < 256 << 20,
        "{resident} bytes for {} requests",
        LOAD.requests_each
    );

    release.send(())?;
    let mut said: Vec<(u16, String)> = Vec::new();
    for answer in join_all(answers).await {
        said.push(answer?);
    }
    let away = said
        .iter()
        .filter(|one| **one == (503, "overloaded".to_owned()))
        .count();
    assert_eq!(away, more);
    assert!(said.iter().all(|one| one.0 == 200 || one.0 == 503));
    assert_eq!(join_all(others).await.remove(0)?.0, 200);
    // And it has recovered.
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn requests_wait_for_a_connection_in_bounded_number() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    // In its place: one that accepts and then says nothing, so that handshakes hang.
    orders.sidecar.kill().await?;
    let address = SocketAddr::new(orders.sidecar.address().into(), APPLICATION_PORT);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let answers = burst(&client, WAITING + 20).await?;
    let (stalled, _) = listener.accept().await?;
    wait_until("those over the bound are turned away", SOON, async || {
        let answered = answers.iter().filter(|one| one.is_finished()).count();
        ensure!(answered >= 20, "{answered} are answered");
        Ok(())
    })
    .await?;
    drop((stalled, listener));
    let mut overloaded = 0;
    for answer in join_all(answers).await {
        let (status, reason) = answer?;
        assert_eq!(status, 503, "{reason}");
        overloaded += usize::from(reason == "overloaded");
    }
    assert_eq!(overloaded, 20);
    orders.sidecar.start()?;
    wait_until("it has recovered", SOON, async || {
        let answer = client.get("http://orders/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn of_connections_that_rest_the_oldest_gives_way_and_one_at_work_does_not() -> Result<()> {
    let (_mesh, orders, client) = world().await?;
    let release = orders.upstream.holds();
    let working = burst(&client, 1).await?;
    wait_until("it is at work", SOON, async || {
        ensure!(orders.upstream.requests() == 1);
        Ok(())
    })
    .await?;
    // The sidecar of `web` has one connection to that of `orders`, the oldest, and it works. As the
    // same peer, until it has all that one peer may have.
    let mut resting = Vec::new();
    for _ in 0..LOAD.connections_each {
        let io = peer(client.sidecar(), &orders.sidecar, ALPN_H2).await?;
        resting.push(Frames::client(io).await?);
    }
    ensure!(
        resting[0].ends_within(SOON).await,
        "the oldest is still there"
    );
    release.send(())?;
    assert_eq!(join_all(working).await.remove(0)?.0, 200);
    assert_eq!(client.get("http://orders/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn an_application_that_opens_more_connections_than_there_are_places_loses_the_oldest()
-> Result<()> {
    let (_mesh, _orders, client) = world().await?;
    // Not the descriptors run out first.
    let (now, most) = client.sidecar().open_files()?;
    assert_eq!(now, most);
    let mut open = Vec::new();
    for _ in 0..=LOAD.connections {
        let mut frames = Frames::client(connect(&client).await?).await?;
        // Read, so that it is known for what it is.
        ensure!(frames.next().await.is_some());
        open.push(frames);
    }
    ensure!(open[0].ends_within(SOON).await, "the oldest is still there");
    assert_eq!(client.get("http://orders/").await?.status, 200);
    let mut stream = connect(&client).await?;
    drop(open);
    let read = timeout(std::time::Duration::ZERO, stream.read(&mut [0])).await;
    assert!(read.is_err(), "a connection that says nothing stays");
    Ok(())
}

#[tokio::test]
async fn an_application_that_asks_for_more_than_there_are_places_is_told_so_at_once() -> Result<()>
{
    let (mesh, _, client) = world().await?;
    // Outside the mesh, where nobody else bounds it.
    let service = service("plain", "kubernetes.io/h2c");
    mesh.write("plain.yaml", &service)?;
    let plain = mesh.outsider("plain").await?;
    wait_until("it is known", SOON, async || {
        let answer = client.get("http://plain/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await?;
    let release = plain.holds();
    let more = 50;
    let mut answers = Vec::new();
    while answers.len() < LOAD.requests + more {
        let count = (LOAD.requests + more - answers.len()).min(WAITING / 2);
        answers.extend(burst_to(&client, "http://plain/", count).await?);
        let sent = answers.len().min(LOAD.requests);
        wait_until("they have arrived", SOON, async || {
            let seen = plain.requests();
            ensure!(seen > sent, "{seen} have arrived");
            Ok(())
        })
        .await?;
    }
    wait_until("the rest is turned away", SOON, async || {
        let answered = answers.iter().filter(|one| one.is_finished()).count();
        ensure!(answered == more, "{answered} are answered");
        Ok(())
    })
    .await?;
    release.send(())?;
    let mut away = 0;
    for answer in join_all(answers).await {
        match answer? {
            (200, _) => {}
            (503, reason) if reason == "overloaded" => away += 1,
            other => anyhow::bail!("{other:?}"),
        }
    }
    assert_eq!(away, more);
    assert_eq!(client.get("http://plain/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn what_a_peer_has_no_place_for_goes_to_another_endpoint() -> Result<()> {
    let (mesh, orders, client) = world().await?;
    // By default the busier one would not be asked at all.
    let by_turns = crate::retries::policy("loadBalancing: { type: RoundRobin }");
    mesh.write("policy.yaml", &by_turns)?;
    mesh.programmed("policy").await?;
    let release = orders.upstream.holds();
    // As the same peer, until it has all that one peer may have.
    let mut answers = Vec::new();
    while answers.len() < LOAD.requests_each {
        let count = (LOAD.requests_each - answers.len()).min(WAITING / 2);
        answers.extend(burst(&client, count).await?);
        wait_until("they have arrived", SOON, async || {
            let seen = orders.upstream.requests();
            ensure!(seen == answers.len(), "{seen} have arrived");
            Ok(())
        })
        .await?;
    }
    let second = mesh.workload("orders").await?;
    let again =
        r#"meshwright_retries_total{service="shop/orders",after="refused_stream",code="0"}"#;
    wait_until("one was turned away and went on", SOON, async || {
        let answer = client.get("http://orders/").await?;
        ensure!(
            answer.status == 200 || answer.reason() == "overloaded",
            "{answer:?}"
        );
        let again = client.sidecar().metric(again).await?;
        ensure!(again > Some(0.0) && answer.status == 200, "{again:?}");
        Ok(())
    })
    .await?;
    assert!(second.upstream.requests() > 0);
    release.send(())?;
    for answer in join_all(answers).await {
        assert_eq!(answer?.0, 200);
    }
    Ok(())
}
