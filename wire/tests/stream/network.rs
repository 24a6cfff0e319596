//! Both shells together: gRPC over pipes in memory.

use std::sync::atomic::Ordering;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::{
    delta::{Held, Outcome},
    discovery::{Ack, Delta, FromSidecar, discovery_client::DiscoveryClient},
    generation::Input,
    server::{self, Mailbox},
};

use crate::{
    operator::{Operator, Running},
    snapshot::{Enforced, Snapshot, hash_of, id},
};

fn ack(delta: &Delta) -> FromSidecar {
    let nonce = delta.nonce;
    FromSidecar::from(Ack {
        nonce,
        ..Default::default()
    })
}

#[tokio::test]
async fn a_sidecar_receives_what_is_published() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let sidecar = Running::start(&operator);
    sidecar
        .state(|state| state.complete && state.connected)
        .await;
    assert_eq!(sidecar.enforces(), operator.hashes());

    operator.publish(|view| {
        view.advance(2);
        view.put("route/shop/orders", "v2");
        view.put("guard/shop/orders", "v1");
    });

    let held = |text| move |outcome: &Outcome| *outcome == Outcome::Held(hash_of(text));
    operator.outcome("route/shop/orders", held("v2")).await;
    operator.outcome("guard/shop/orders", held("v1")).await;
    assert_eq!(sidecar.enforces(), operator.hashes());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_reconnects_receives_only_what_differs() {
    let operator = Operator::start(
        Snapshot::at(1)
            .with("route/shop/same", "v1")
            .with("route/shop/orders", "v1"),
    );
    let sidecar = Running::start(&operator);
    sidecar.state(|state| state.complete).await;
    operator.hang_up();
    sidecar.state(|state| !state.connected).await;
    operator.publish(|view| {
        view.advance(2);
        view.put("route/shop/orders", "v2");
    });

    operator
        .outcome("route/shop/orders", |o| *o == Outcome::Held(hash_of("v2")))
        .await;

    assert_eq!(operator.held_at_hello(), 2);
    let calls = sidecar.enforced.lock().unwrap().calls.clone();
    assert_eq!(calls.last().unwrap(), &[id("route/shop/orders")]);
    assert_eq!(calls.len(), 2);
}

#[tokio::test]
async fn a_sidecar_that_was_killed_goes_on_from_its_volume() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let sidecar = Running::start(&operator);
    operator
        .outcome("route/shop/orders", |o| matches!(o, Outcome::Held(_)))
        .await;
    sidecar.kill();
    operator.streams(0).await;

    let sidecar = Running::with(&operator, sidecar.volume(), Enforced::default());
    let state = sidecar.state(|state| state.complete).await;
    assert_eq!(sidecar.enforces(), operator.hashes(), "{state:?}");
    sidecar.state(|state| state.connected).await;
    operator.streams(1).await;
    assert_eq!(operator.held_at_hello(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_moves_to_a_lagging_replica_keeps_what_it_has_until_that_has_caught_up() {
    let ahead = Operator::start(Snapshot::at(6).with("guard/shop/orders", "deny"));
    let behind = Operator::start(Snapshot::at(5).with("guard/shop/orders", "open"));
    let replicas = vec![ahead.clone(), behind.clone()];
    let sidecar = Running::among(replicas, Held::default(), Enforced::default());
    sidecar.state(|state| state.complete).await;
    sidecar.replica.store(1, Ordering::SeqCst);
    ahead.hang_up();
    behind.streams(1).await;

    behind.publish(|view| {
        view.put("guard/shop/orders", "open to some");
        view.put("identity/cluster.local/bundle", "roots");
        view.seen = view.seen.with(Input::Settings, 7);
    });
    behind
        .outcome("identity/cluster.local/bundle", |o| {
            matches!(o, Outcome::Held(_))
        })
        .await;
    let guard = id("guard/shop/orders");
    assert_eq!(sidecar.enforces()[&guard], hash_of("deny"));

    behind.publish(|view| view.advance(7));
    behind
        .outcome("guard/shop/orders", |o| matches!(o, Outcome::Held(_)))
        .await;
    assert_eq!(sidecar.enforces(), behind.hashes());
}

#[tokio::test]
async fn one_rejected_resource_leaves_the_others_held() {
    let operator = Operator::start(
        Snapshot::at(1)
            .with("route/shop/orders", "v1")
            .with("route/shop/carts", "v1"),
    );
    let mut enforced = Enforced::default();
    enforced.forbidden.insert(id("route/shop/orders"));
    let sidecar = Running::with(&operator, Held::default(), enforced);

    operator
        .outcome("route/shop/orders", |o| {
            *o == Outcome::Rejected("forbidden by the test".to_owned())
        })
        .await;
    operator
        .outcome("route/shop/carts", |o| *o == Outcome::Held(hash_of("v1")))
        .await;

    let state = sidecar.state(|state| state.complete).await;
    assert!(state.connected, "a rejection does not end the stream");
    assert_eq!(sidecar.enforces().len(), 1);
}

#[tokio::test]
async fn a_slow_consumer_gets_only_the_newest_version() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let mut client = DiscoveryClient::new(operator.connect().await.unwrap());
    let (messages, outgoing) = mpsc::channel(4);
    let hello = Held::default().hello();
    messages.send(hello.into()).await.unwrap();
    let deltas = client.stream(ReceiverStream::new(outgoing)).await.unwrap();
    let mut deltas = deltas.into_inner();
    let first = deltas.message().await.unwrap().unwrap();

    for version in 2..=100 {
        operator.publish(|view| {
            view.advance(version);
            view.put("route/shop/orders", &format!("v{version}"));
        });
        tokio::task::yield_now().await;
    }
    messages.send(ack(&first)).await.unwrap();
    let second = deltas.message().await.unwrap().unwrap();
    messages.send(ack(&second)).await.unwrap();
    operator
        .outcome("route/shop/orders", |o| {
            *o == Outcome::Held(hash_of("v100"))
        })
        .await;

    assert_eq!(second.resources.len(), 1);
    assert_eq!(second.resources[0].hash, hash_of("v100").as_slice());
}

#[tokio::test]
async fn the_operator_lets_go_of_a_stream_that_the_sidecar_has_left() {
    let operator = Operator::start(Snapshot::at(1));
    let sidecar = Running::start(&operator);
    operator.streams(1).await;

    sidecar.kill();

    operator.streams(0).await;
}

#[tokio::test]
async fn of_a_thousand_streams_only_those_concerned_are_sent_anything() {
    let operator = Operator::start(Snapshot::at(1).with("route/shop/orders", "v1"));
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let (messages, incoming) = mpsc::channel(4);
        let mailbox = Mailbox::new();
        let incoming = ReceiverStream::new(incoming).map(Ok);
        let deltas = server::serve(incoming, mailbox.clone(), operator.subscriber(&mailbox));
        let hello = Held::default().hello();
        messages.send(hello.into()).await.unwrap();
        streams.push((messages, mailbox, deltas));
    }
    for (messages, _, deltas) in &mut streams {
        let delta = deltas.next().await.unwrap().unwrap();
        assert!(delta.complete);
        messages.send(ack(&delta)).await.unwrap();
    }

    operator.publish(|view| {
        view.advance(2);
        view.put("route/shop/orders", "v2");
    });
    for (_, mailbox, _) in streams.iter().step_by(100) {
        mailbox.changed([id("route/shop/orders")]);
    }
    for (_, _, deltas) in streams.iter_mut().step_by(100) {
        assert_eq!(deltas.next().await.unwrap().unwrap().resources.len(), 1);
    }

    for (n, (_, _, deltas)) in streams.iter_mut().enumerate() {
        let more = futures::poll!(deltas.next());
        assert!(more.is_pending(), "stream {n} was sent something");
    }
}
