//! Brokers that refuse credentials, are too old, or lack what nobody may make: the EventSubscription says so, nothing of it
//! is lost, and another one of the same workload goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use tests::brokers::older;

use super::brokers::{PASSWORD, broker};
use super::*;
use crate::redis::{self, Redis};

/// A password that is as wrong, or as new, as the test says.
const OTHER: &str = "an0ther-w0rd";

/// A workload with two subscriptions: `billing`, which is delivered to `/events`, and `neighbour`, to `/neighbour`.
struct Two {
    mesh: Mesh,
    nats: Nats,
    billing: Workload,
}

/// The headers of an event of that id, as both brokers hold it.
fn event(id: &str) -> [(&str, &str); 4] {
    [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/stock"),
        ("ce-type", "com.shop.stock"),
    ]
}

/// The subscription `billing`, of this broker.
fn of(broker: &str) -> String {
    changed(
        &subscription("", ""),
        &[("name: events,", &format!("name: {broker},"))],
    )
}

/// The subscription `neighbour`, of this broker, of the topic `orders`.
fn neighbour(broker: &str) -> String {
    changed(
        &of(broker),
        &[
            ("{ name: billing, namespace", "{ name: neighbour, namespace"),
            ("topic: stock,", "topic: orders,"),
            ("topic: stock.dlq", "topic: orders.dlq"),
            ("path: /events", "path: /neighbour"),
        ],
    )
}

/// A text with others in place of what stands there.
fn changed(text: &str, changes: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not there: {text}");
        text = text.replace(from, to);
    }
    text
}

/// `billing` of the NATS `events`, and `neighbour` of the Redis `others`, with what their Secrets have as passwords.
fn of_both(of_nats: &str, of_redis: &str) -> String {
    let nats = changed(&nats::documents(), &[(nats::PASSWORD, of_nats)]);
    let labelled = (
        "meshwright.dev/broker: events",
        "meshwright.dev/broker: others",
    );
    let secret = changed(
        &broker("redis://redis", ""),
        &[labelled, (PASSWORD, of_redis)],
    );
    let services = services(&["billing"]);
    let redis = redis::documents();
    let (billing, neighbour) = (of("events"), neighbour("others"));
    format!("{services}{nats}{redis}{secret}{billing}{neighbour}")
}

impl Two {
    /// With what is written, and the NATS that its Secrets mean.
    async fn start(written: &str) -> Result<Self> {
        let mesh = Mesh::start(written).await?;
        let nats = Nats::start(&mesh).await?;
        let billing = mesh.workload("billing").await?;
        Ok(Self {
            mesh,
            nats,
            billing,
        })
    }

    /// The same, with a Redis.
    async fn with_redis(written: &str) -> Result<(Self, Redis)> {
        let two = Self::start(written).await?;
        let redis = Redis::durable(&two.mesh).await?;
        Ok((two, redis))
    }

    /// Has NATS hold an event, whoever else is known there.
    async fn hold(&self, topic: &str, id: &str) -> Result<()> {
        let mut direct = self.nats.direct().await?;
        direct.publish(topic, &event(id), "{}").await
    }

    /// Has somebody make the stream of a topic.
    async fn make(&self, topic: &str) -> Result<()> {
        let stream = json!({ "name": topic, "subjects": [topic], "storage": "file" });
        self.ask(&format!("STREAM.CREATE.{topic}"), &stream).await
    }

    /// Has JetStream do something.
    async fn ask(&self, what: &str, body: &Value) -> Result<()> {
        let mut direct = self.nats.direct().await?;
        let answer = direct
            .request(&format!("$JS.API.{what}"), &body.to_string())
            .await?;
        ensure!(answer["error"].is_null(), "{answer}");
        Ok(())
    }

    /// Waits until it is told that nothing is delivered, with all of these words.
    async fn told(&self, name: &str, words: &[&str]) -> Result<()> {
        wait_until("it is told what is wrong", LEASE + SOON, async || {
            let (status, reason, why) = ready(&self.mesh, name).await?;
            let is = (&*status, &*reason);
            ensure!(is == ("False", "NotDelivering"), "{is:?}: {why}");
            let lacks = words.iter().find(|word| !why.contains(**word));
            ensure!(lacks.is_none(), "{lacks:?} is not in: {why}");
            Ok(())
        })
        .await
    }

    /// Waits until it is told that it is ready, and nothing else.
    async fn is_ready(&self, name: &str) -> Result<()> {
        wait_until(&format!("{name} is ready"), LEASE + SOON, async || {
            let (status, _, why) = ready(&self.mesh, name).await?;
            ensure!((&*status, &*why) == ("True", ""), "{status}: {why}");
            Ok(())
        })
        .await
    }

    /// The events that were posted to a path.
    fn posted(&self, path: &str) -> Vec<String> {
        let seen = self.billing.upstream.seen();
        let there = seen.iter().filter(|one| one.target == path);
        there.map(|one| id_of(one).to_owned()).collect()
    }

    /// Waits until these were posted there.
    async fn came(&self, path: &str, ids: &[&str]) -> Result<()> {
        wait_until(
            &format!("{ids:?} are at {path}"),
            LEASE + SOON,
            async || {
                let posted = self.posted(path);
                let all = ids.iter().all(|id| posted.iter().any(|one| one == id));
                ensure!(all, "{posted:?}");
                Ok(())
            },
        )
        .await
    }

    /// Nobody who asks how it goes is told a password.
    async fn tells_no_password(&self) -> Result<()> {
        for told in [
            self.mesh.verdict("billing").await?.to_string(),
            self.mesh.verdict("neighbour").await?.to_string(),
            self.billing.sidecar.log()?,
            self.mesh.operator_log()?,
        ] {
            let tells = told.contains(PASSWORD) || told.contains(OTHER);
            ensure!(!tells, "a password is told: {told}");
        }
        Ok(())
    }
}

/// Has Redis hold an event of the topic `orders`, with the password that it asks for.
async fn hold(redis: &Redis, password: &str, id: &str) -> Result<()> {
    let headers = event(id);
    let fields = headers.iter().flat_map(|(name, value)| [*name, *value]);
    let entry = ["XADD", "orders", "*"].into_iter().chain(fields);
    let entry = Vec::from_iter(entry.chain(["data", "{}"]));
    redis.tell_with(password, &entry).await.map(drop)
}

#[tokio::test]
async fn credentials_that_a_broker_refuses_are_told_in_the_status_and_nobody_else_waits()
-> Result<()> {
    let (two, redis) = Two::with_redis(&of_both(OTHER, PASSWORD)).await?;
    two.make("stock").await?;
    two.hold("stock", "1").await?;
    let words = ["broker events", "its Secret", "username", "authorization"];
    two.told("billing", &words).await?;
    // Also while it is tried again and again.
    hold(&redis, PASSWORD, "a").await?;
    two.came("/neighbour", &["a"]).await?;
    two.hold("stock", "2").await?;
    hold(&redis, PASSWORD, "b").await?;
    two.came("/neighbour", &["a", "b"]).await?;
    two.is_ready("neighbour").await?;
    two.told("billing", &words).await?;
    assert_eq!(two.posted("/events"), Vec::<String>::new());
    two.tells_no_password().await?;

    let right = of_both(nats::PASSWORD, PASSWORD);
    two.mesh.write("routes.yaml", &right)?;
    two.came("/events", &["1", "2"]).await?;
    two.is_ready("billing").await?;
    two.is_ready("neighbour").await?;
    two.tells_no_password().await
}

#[tokio::test]
async fn credentials_that_are_worth_nothing_any_more_are_told_and_nobody_else_waits() -> Result<()>
{
    let (two, redis) = Two::with_redis(&of_both(nats::PASSWORD, PASSWORD)).await?;
    two.is_ready("billing").await?;
    two.is_ready("neighbour").await?;
    hold(&redis, PASSWORD, "1").await?;
    two.came("/neighbour", &["1"]).await?;
    // Whoever is connected is sent away, and Redis asks for another password from now on.
    redis.tell(&["CONFIG", "SET", "requirepass", OTHER]).await?;
    let all = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
    // It answers with how many there were.
    let _ = redis.tell_with(OTHER, &all).await;
    hold(&redis, OTHER, "2").await?;
    let words = ["broker others", "its Secret", "password", "WRONGPASS"];
    two.told("neighbour", &words).await?;
    two.hold("stock", "a").await?;
    two.came("/events", &["a"]).await?;
    two.is_ready("billing").await?;
    two.told("neighbour", &words).await?;
    assert_eq!(two.posted("/neighbour"), ["1"]);
    two.tells_no_password().await?;

    let right = of_both(nats::PASSWORD, OTHER);
    two.mesh.write("routes.yaml", &right)?;
    two.came("/neighbour", &["1", "2"]).await?;
    two.is_ready("neighbour").await?;
    two.is_ready("billing").await?;
    two.tells_no_password().await
}

#[tokio::test]
async fn a_broker_that_is_too_old_is_told_with_both_versions_and_delivers_once_it_is_not()
-> Result<()> {
    let documents = nats::documents();
    let of_the_older = changed(
        &documents,
        &[
            ("name: nats", "name: older"),
            ("app: nats", "app: older"),
            ("nats://nats:", "nats://older:"),
            (
                "meshwright.dev/broker: events",
                "meshwright.dev/broker: older",
            ),
        ],
    );
    let mut two = Two::start(&format!(
        "{}{documents}{of_the_older}{}{}",
        services(&["billing"]),
        of("older"),
        neighbour("events")
    ))
    .await?;
    // It is the same NATS, by a way on which it seems older until it is another one.
    let (listener, _sidecar) = two.mesh.listener("older").await?;
    let is_old = Arc::new(AtomicBool::new(true));
    let seems = is_old.clone();
    let says = older::says(listener, two.nats.address(), move |said| {
        let version = seems.load(Ordering::Relaxed).then_some("2.9.25");
        older::nats(said, version)
    });
    let _says = tokio::spawn(says);
    two.make("stock").await?;
    two.hold("stock", "1").await?;
    let words = ["broker older", "2.9.25", "2.10 is needed"];
    two.told("billing", &words).await?;
    two.is_ready("neighbour").await?;
    two.hold("orders", "a").await?;
    two.came("/neighbour", &["a"]).await?;
    two.told("billing", &words).await?;
    assert_eq!(two.posted("/events"), Vec::<String>::new());

    is_old.store(false, Ordering::Relaxed);
    two.nats.kill();
    two.nats.run().await?;
    two.came("/events", &["1"]).await?;
    two.is_ready("billing").await?;
    two.hold("orders", "b").await?;
    two.came("/neighbour", &["a", "b"]).await
}

#[tokio::test]
async fn what_is_missing_and_never_made_is_told_until_somebody_makes_it() -> Result<()> {
    let never = changed(
        &of("events"),
        &[(
            "topic: stock,",
            "topic: stock, consumerGroup: takers, manage: Never,",
        )],
    );
    let two = Two::start(&format!(
        "{}{}{never}{}",
        services(&["billing"]),
        nats::documents(),
        neighbour("events")
    ))
    .await?;
    let remedy = "manage: CreateIfMissing";
    let topic = [
        "spec.source.broker.topic",
        "topic stock",
        "broker events",
        remedy,
    ];
    two.told("billing", &topic).await?;
    two.is_ready("neighbour").await?;
    two.hold("orders", "a").await?;
    two.came("/neighbour", &["a"]).await?;
    two.told("billing", &topic).await?;
    let mut direct = two.nats.direct().await?;
    let asked = json!({ "subject": "stock" }).to_string();
    let made = direct.request("$JS.API.STREAM.NAMES", &asked).await?;
    assert!(made["streams"][0].is_null(), "it is never made: {made}");

    two.make("stock").await?;
    two.hold("stock", "1").await?;
    let group = ["spec.source.broker.consumerGroup", "group takers", remedy];
    two.told("billing", &group).await?;
    two.hold("orders", "b").await?;
    two.came("/neighbour", &["a", "b"]).await?;
    assert_eq!(two.posted("/events"), Vec::<String>::new());

    let lease = u64::try_from(LEASE.as_nanos())?;
    let consumer = json!({
        "durable_name": "takers", "filter_subject": "stock", "deliver_policy": "all",
        "ack_policy": "explicit", "ack_wait": lease, "max_deliver": -1, "max_ack_pending": 10_000,
        "replay_policy": "instant",
    });
    let asked = json!({ "stream_name": "stock", "config": consumer });
    two.ask("CONSUMER.DURABLE.CREATE.stock.takers", &asked)
        .await?;
    two.came("/events", &["1"]).await?;
    two.is_ready("billing").await?;
    two.is_ready("neighbour").await
}
