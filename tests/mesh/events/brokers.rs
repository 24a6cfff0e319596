//! The same with each of the other brokers.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tests::brokers::rabbitmq::Node;

use super::*;
use crate::redis::{self, Redis};

pub(super) const PASSWORD: &str = "s3cret";

/// How long a RabbitMQ may take to start.
pub(super) const START: Duration = Duration::from_secs(90);

/// The Secret of a broker.
pub(super) fn broker(url: &str, user: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: broker\n  namespace: shop\n  \
         labels: {{ meshwright.dev/broker: events }}\n\
         stringData: {{ url: \"{url}\", {user}password: {PASSWORD} }}\n"
    )
}

/// One who publishes and one who is subscribed, each to what the broker can.
pub(super) async fn carries(mesh: &Mesh) -> Result<()> {
    let [stock, billing] = [
        mesh.workload("stock").await?,
        mesh.workload("billing").await?,
    ];
    mesh.programmed("stock").await?;
    mesh.programmed("billing").await?;
    let accepted = async |id: &str| {
        let headers = [
            ("idempotency-key", id),
            ("content-type", "application/json"),
        ];
        wait_until("it is accepted", START, async || {
            let sent = publish(&stock.sidecar, "events/stock", &headers, "{\"sku\":1}");
            let answer = sent.await?;
            ensure!(answer.status == 202, "{answer:?}");
            Ok(())
        })
        .await
    };
    // One that is taken at the third time, and one that never is.
    billing.upstream.fails_at(("ce-id", "1"), 2, 503);
    billing.upstream.fails_at(("ce-id", "2"), 3, 503);
    for id in ["1", "2", "3"] {
        accepted(id).await?;
    }
    let count = async |outcome: &str| {
        let series = format!(
            "meshwright_events_delivered_total{{subscription=\"shop/billing\",outcome=\"{outcome}\"}}"
        );
        billing.sidecar.metric(&series).await
    };
    wait_until("each comes as often as it may", LEASE + SOON, async || {
        let (done, dead) = (count("acknowledged").await?, count("dead_lettered").await?);
        ensure!((done, dead) == (Some(2.0), Some(1.0)), "{done:?} {dead:?}");
        Ok(())
    })
    .await?;
    let seen = billing.upstream.seen();
    let times = |id: &str| seen.iter().filter(|one| id_of(one) == id).count();
    assert_eq!((times("1"), times("2"), times("3")), (3, 3, 1));
    assert_eq!(header(&seen[0], "ce-type"), "com.shop.stock");
    assert_eq!(header(&seen[0], "content-type"), "application/json");
    assert_eq!(seen[0].body, "{\"sku\":1}");

    // The dead letter is there to be looked at, is delivered once more, and is gone then.
    let sidecar = &billing.sidecar;
    let counted = async || done_in(&order(sidecar, "count=shop/billing").await?);
    assert_eq!(counted().await?, 1);
    let shown = order(sidecar, "show=shop/billing").await?;
    assert_eq!(shown[0]["event"]["id"], "2", "{shown:?}");
    assert_eq!(done_in(&order(sidecar, "replay=shop/billing").await?)?, 1);
    let last = billing.upstream.seen().pop().context("nothing came")?;
    assert_eq!(id_of(&last), "2");
    assert!(header(&last, "ce-dlqreason").is_empty(), "it is as it was");
    assert_eq!(counted().await?, 0);
    Ok(())
}

/// A mesh with a Redis in it.
pub(super) async fn with_redis() -> Result<(Mesh, Redis)> {
    let mesh = Mesh::start(&format!(
        "{}{}{}{ROUTE}{}",
        services(&["stock", "billing"]),
        redis::documents(),
        broker("redis://redis", ""),
        subscription("", "")
    ))
    .await?;
    let redis = Redis::durable(&mesh).await?;
    Ok((mesh, redis))
}

/// A RabbitMQ, and the sidecar beside it.
pub(super) struct Rabbit {
    pub(super) address: SocketAddr,
    node: Node,
    _sidecar: Sidecar,
}

/// A mesh with a RabbitMQ in it.
pub(super) async fn with_rabbitmq() -> Result<(Mesh, Rabbit)> {
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: { name: rabbit, namespace: shop }\n\
                   spec: { selector: { app: rabbit }, ports: [{ name: tcp-amqp, port: 5672, targetPort: 8080 }] }\n";
    let written = subscription("", "").replace(", startFrom: { type: Earliest }", "");
    let mesh = Mesh::start(&format!(
        "{}{service}{}{ROUTE}{written}",
        services(&["stock", "billing"]),
        broker("amqp://rabbit", "username: mesh, virtualHost: shop, "),
    ))
    .await?;
    let (listener, sidecar) = mesh.listener("rabbit").await?;
    let address: SocketAddr = listener.local_addr()?;
    drop(listener);
    let definitions = json!({
        "users": [{ "name": "mesh", "password": PASSWORD, "tags": [] }],
        "vhosts": [{ "name": "shop" }],
        "permissions": [
            { "user": "mesh", "vhost": "shop", "configure": ".*", "write": ".*", "read": ".*" },
        ],
    });
    let node = tokio::task::spawn_blocking(move || Node::start(address, &definitions)).await?;
    let rabbit = Rabbit {
        address,
        node,
        _sidecar: sidecar,
    };
    Ok((mesh, rabbit))
}

#[tokio::test]
async fn redis_carries_events_as_nats_does() -> Result<()> {
    let (mesh, _redis) = with_redis().await?;
    carries(&mesh).await
}

#[tokio::test]
async fn what_nobody_can_send_again_is_remembered_by_no_broker() -> Result<()> {
    let (mesh, redis) = with_redis().await?;
    let (stock, _billing) = (
        mesh.workload("stock").await?,
        mesh.workload("billing").await?,
    );
    mesh.programmed("stock").await?;
    let count = ["EVAL", "return tostring(#redis.call('KEYS', ARGV[1]))", "0"];
    let count = [&count[..], &["meshwright:id:*"]].concat();
    // Without a key its id is made by the sidecar.
    for (headers, remembered) in [(&[][..], "0"), (&[("idempotency-key", "1")][..], "1")] {
        wait_until("it is accepted", SOON, async || {
            let answer = publish(&stock.sidecar, "events/stock", headers, "{}").await?;
            ensure!(answer.status == 202, "{answer:?}");
            Ok(())
        })
        .await?;
        assert_eq!(redis.tell(&count).await?, remembered);
    }
    assert_eq!(
        redis
            .tell(&["EVAL", "return tostring(redis.call('XLEN', 'stock'))", "0"])
            .await?,
        "2"
    );
    Ok(())
}

#[tokio::test]
async fn rabbitmq_carries_events_as_nats_does() -> Result<()> {
    let (mesh, _rabbit) = with_rabbitmq().await?;
    carries(&mesh).await
}

/// What is accepted and delivered goes on with other credentials, and not before they are written; `changes` has the
/// broker ask for those, and sends away whoever is connected.
async fn takes_others(
    mesh: &Mesh,
    next: &str,
    changes: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let [stock, billing] = [
        mesh.workload("stock").await?,
        mesh.workload("billing").await?,
    ];
    mesh.programmed("stock").await?;
    mesh.programmed("billing").await?;
    let sent = async |id: &str| {
        let headers = [("idempotency-key", id), ("content-type", "text/plain")];
        Ok(publish(&stock.sidecar, "events/stock", &headers, "1")
            .await?
            .status)
    };
    let accepted = async |id: &str| {
        wait_until("it is accepted", START, async || {
            let status: Result<u16> = sent(id).await;
            ensure!(status? == 202);
            Ok(())
        })
        .await
    };
    let delivered = async |id: &str| {
        wait_until("it is delivered", LEASE + SOON, async || {
            let seen = billing.upstream.seen();
            ensure!(seen.iter().any(|one| id_of(one) == id), "{}", seen.len());
            Ok(())
        })
        .await
    };
    accepted("1").await?;
    delivered("1").await?;
    changes().await?;
    wait_until("nothing is accepted", SOON, async || {
        let status: Result<u16> = sent("2").await;
        ensure!(status? == 503);
        Ok(())
    })
    .await?;
    let written = mesh.read("routes.yaml")?;
    mesh.write("routes.yaml", &written.replace(PASSWORD, next))?;
    accepted("2").await?;
    delivered("2").await?;
    for told in [
        stock.sidecar.log()?,
        billing.sidecar.log()?,
        mesh.operator_log()?,
    ] {
        ensure!(
            !told.contains(next) && !told.contains(PASSWORD),
            "a password is told"
        );
    }
    Ok(())
}

#[tokio::test]
async fn credentials_of_a_redis_change_while_it_is_used_and_nothing_is_lost() -> Result<()> {
    const NEXT: &str = "an0ther-w0rd";
    let (mesh, redis) = with_redis().await?;
    takes_others(&mesh, NEXT, async || {
        redis.tell(&["CONFIG", "SET", "requirepass", NEXT]).await?;
        let all = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
        // It answers with how many there were.
        let _ = redis.tell_with(NEXT, &all).await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn credentials_of_a_rabbitmq_change_while_it_is_used_and_nothing_is_lost() -> Result<()> {
    const NEXT: &str = "an0ther-w0rd";
    let (mesh, rabbit) = with_rabbitmq().await?;
    takes_others(&mesh, NEXT, async || {
        rabbit.node.control(&["change_password", "mesh", NEXT]);
        rabbit
            .node
            .control(&["close_all_connections", "--global", "other credentials"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_a_broker_can_not_do_is_refused_with_the_nearest_that_it_can() -> Result<()> {
    let stream = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
                  metadata: { name: live, namespace: shop }\n\
                  spec: { hosts: [billing], rules: [{ stream: { broker: events, topic: stock } }] }\n";
    let written = |url: &str| {
        let services = services(&["rabbit", "redis", "billing"]);
        services + &broker(url, "") + &subscription(", ordering: Key", stream)
    };
    let mesh = Mesh::start(&written("amqp://rabbit")).await?;
    mesh.workload("billing").await?;
    wait_until("a stream is refused", SOON, async || {
        let verdict = mesh.verdict("live").await?;
        let why = verdict["conditions"][0]["message"].as_str().unwrap_or_default();
        let says = "spec.rules[0].stream.broker: RabbitMQ keeps nothing that can be read from a place on: use a broker";
        ensure!(why.contains(says), "{verdict}");
        Ok(())
    })
    .await?;
    wait_until("it is refused", SOON, async || {
        let verdict = mesh.verdict("billing").await?;
        let accepted = verdict["conditions"][0].clone();
        ensure!(accepted["status"] == "False", "{verdict}");
        let why = accepted["message"].as_str().unwrap_or_default();
        for field in [
            "spec.delivery.ordering: RabbitMQ delivers to all that share a group, in no order: write ordering: None, or \
             use a broker of NATS.",
            "spec.source.broker.startFrom: RabbitMQ holds nothing for a group that is not there yet: write type: New,",
        ] {
            ensure!(why.contains(field), "{why}");
        }
        Ok(())
    })
    .await?;
    mesh.write("routes.yaml", &written("redis://redis"))?;
    wait_until("Redis keeps no order either", SOON, async || {
        let verdict = mesh.verdict("billing").await?;
        let why = verdict["conditions"][0]["message"].as_str().unwrap_or_default();
        let says = "spec.delivery.ordering: Redis delivers to all that share a group, in no order: write ordering: None, \
                    or use a broker of NATS.";
        ensure!(why.contains(says) && !why.contains("startFrom"), "{verdict}");
        Ok(())
    })
    .await
}
