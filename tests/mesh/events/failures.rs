//! What becomes of events whose target fails.

use anyhow::{Result, ensure};

use super::*;

#[tokio::test]
async fn an_event_comes_again_until_it_is_taken() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.billing.upstream.fails(2, 503);
    world.accepted("1").await?;
    wait_until("it came three times", SOON, async || {
        ensure!(world.billing.upstream.requests() == 3);
        Ok(())
    })
    .await?;
    let acknowledged =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"acknowledged\"}";
    wait_until("it is done", SOON, async || {
        let count = world.billing.sidecar.metric(acknowledged).await?;
        ensure!(count == Some(1.0), "{count:?}");
        Ok(())
    })
    .await?;
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_event_that_came_as_often_as_it_may_is_a_dead_letter_with_its_story() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.billing.upstream.answers(500);
    world.accepted("1").await?;
    let letters = world.dead_letters(1).await?;
    let [(head, body)] = &*letters else {
        panic!("{letters:?}")
    };
    assert_eq!(body, "{\"sku\":\"1\"}");
    let head = head.to_lowercase();
    for line in [
        "ce-id: 1",
        "ce-type: com.shop.stock",
        "ce-dlqreason: exhausted",
        "ce-dlqcode: 500",
        "ce-dlqattempts: 3",
        "ce-dlqsubscription: shop/billing",
        "ce-dlqtopic: stock",
        "ce-dlqtime: 2",
    ] {
        assert!(head.contains(line), "{line}\n{head}");
    }
    assert_eq!(world.billing.upstream.requests(), 3);
    // The others go on.
    world.billing.upstream.answers(200);
    world.accepted("2").await?;
    world.delivered(&["2"]).await.map(drop)
}

/// A target that fails is left alone for a while, as what is written says.
async fn is_left_alone(written: &str) -> Result<()> {
    let written = written.replace("maxRetries: 2", "maxRetries: 8");
    let world = World::start(&written).await?;
    world.mesh.programmed("billing").await?;
    world.billing.upstream.answers(503);
    let ids = ["1", "2", "3", "4", "5", "6"];
    for id in ids {
        world.accepted(id).await?;
    }
    wait_until("it is told", SOON, async || {
        let verdict = world.mesh.verdict("billing").await?.to_string();
        ensure!(verdict.contains("circuit_open"), "{verdict}");
        Ok(())
    })
    .await?;
    world.billing.upstream.answers(200);
    let seen = world.delivered(&ids).await?;
    // Without it they would all have failed as often as they may, and sooner than anybody is told of anything.
    assert!(seen.len() < ids.len() + 9, "{}", seen.len());
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    wait_until("it is well again", SOON, async || {
        let verdict = world.mesh.verdict("billing").await?.to_string();
        ensure!(!verdict.contains("circuit_open"), "{verdict}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_target_that_fails_is_left_alone_for_a_while_and_that_costs_no_event_an_attempt()
-> Result<()> {
    let breaker =
        ", maxInFlight: 1, circuitBreaker: { consecutiveFailures: 2, openFor: 2s, maxOpenFor: 8s }";
    is_left_alone(&subscription(breaker, "")).await
}

#[tokio::test]
async fn in_order_events_wait_for_a_target_that_fails_with_whoever_has_them() -> Result<()> {
    // Longer than the group is kept where a target asks for patience.
    let breaker = ", ordering: Key, circuitBreaker: { consecutiveFailures: 2, openFor: 13s }";
    let world = World::subscribed(breaker, "").await?;
    world.billing.upstream.answers(503);
    for id in ["1", "2"] {
        world.accepted(id).await?;
    }
    wait_until("it is told", SOON, async || {
        let verdict = world.mesh.verdict("billing").await?.to_string();
        ensure!(verdict.contains("circuit_open"), "{verdict}");
        Ok(())
    })
    .await?;
    let failed = world.billing.upstream.requests();
    world.billing.upstream.answers(200);
    for id in ["3", "4"] {
        world.accepted(id).await?;
    }
    wait_until("all are delivered", SOON, async || {
        let seen = world.billing.upstream.seen();
        let after = seen.get(failed..).unwrap_or_default();
        let lacks = ["1", "2", "3", "4"]
            .iter()
            .find(|id| !after.iter().any(|one| id_of(one) == **id));
        ensure!(lacks.is_none(), "{lacks:?}");
        Ok(())
    })
    .await?;
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    let log = world.billing.sidecar.log()?;
    assert!(!log.contains("is no longer delivered to"), "{log}");
    Ok(())
}

#[tokio::test]
async fn while_the_circuits_of_a_service_are_open_its_events_wait_and_cost_nothing() -> Result<()> {
    let target = "target: { type: Service, service: { name: billing, port: 80 }, path: /events }";
    let workload = "target: { type: Workload, workload: { selector: { app: billing }, port: 8080 }, path: /events }";
    let written = subscription(", maxInFlight: 1", "").replace(workload, target);
    assert!(written.contains(target));
    let policy = "---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
                  metadata: { name: breaker, namespace: shop }\n\
                  spec: { targetRefs: [{ kind: Service, name: billing }], circuitBreaker: { \
                  consecutiveFailures: 2, openFor: 2s, maxOpenFor: 8s, maxEjectedPercent: 100 } }\n";
    is_left_alone(&(written + policy)).await
}

#[tokio::test]
async fn while_the_application_can_not_be_reached_events_wait_and_cost_nothing() -> Result<()> {
    let mut world = World::subscribed("", "").await?;
    world.billing.upstream.close();
    world.accepted("1").await?;
    wait_until("it is told", SOON, async || {
        ensure!(world.billing.sidecar.log()?.contains("its events wait"));
        Ok(())
    })
    .await?;
    let unreached =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"unreached\"}";
    wait_until(
        "it was tried more often than an event may come",
        SOON,
        async || {
            let count = world.billing.sidecar.metric(unreached).await?;
            ensure!(count > Some(3.0), "{count:?}");
            Ok(())
        },
    )
    .await?;
    world.billing.upstream.open().await?;
    world.delivered(&["1"]).await?;
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_target_that_is_gone_gets_nothing_more_and_nothing_is_lost() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.billing.upstream.answers(410);
    world.accepted("1").await?;
    wait_until("it is told", SOON, async || {
        ensure!(
            world
                .billing
                .sidecar
                .log()?
                .contains("the target is gone (410)")
        );
        Ok(())
    })
    .await?;
    world.billing.upstream.answers(200);
    world.accepted("2").await?;
    // Written anew, it goes on with what waits; what was refused comes when its time has come.
    let delivery = ", timeout: 29s";
    world.mesh.write(
        "routes.yaml",
        &format!(
            "{}{}{ROUTE}{}",
            services(&["stock", "billing"]),
            nats::documents(),
            subscription(delivery, "")
        ),
    )?;
    let seen = world.delivered(&["2"]).await?;
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_nobody_can_read_is_a_dead_letter_and_keeps_nobody() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let mut direct = world.nats.direct().await?;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("Content-Type", "text/plain"),
    ];
    direct
        .publish("stock", &headers, "no type, no source")
        .await?;
    let letters = world.dead_letters(1).await?;
    let (head, body) = &letters[0];
    assert_eq!(body, "no type, no source");
    assert!(
        head.to_lowercase().contains("ce-dlqreason: malformed"),
        "{head}"
    );
    assert_eq!(world.billing.upstream.requests(), 0);
    world.accepted("2").await?;
    world.delivered(&["2"]).await.map(drop)
}

#[tokio::test]
async fn an_event_that_is_too_old_is_a_dead_letter_undelivered() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/s"),
        ("ce-type", "t"),
        ("ce-expirytime", "2020-01-01T00:00:00Z"),
    ];
    assert_eq!(world.publish(&headers, "").await?.status, 202);
    let letters = world.dead_letters(1).await?;
    assert!(
        letters[0]
            .0
            .to_lowercase()
            .contains("ce-dlqreason: expired")
    );
    assert_eq!(world.billing.upstream.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn poison_does_not_hold_up_others() -> Result<()> {
    // One place for all, and events that come again later: whoever kept its place meanwhile would keep the others.
    let later = subscription(", maxInFlight: 1", "");
    let later = later.replace("initial: 10ms, max: 50ms", "initial: 20s, max: 20s");
    let world = World::start(&later).await?;
    world.mesh.programmed("billing").await?;
    world.billing.upstream.fails(3, 500);
    let bad = ["bad-1", "bad-2", "bad-3"];
    for id in bad {
        world.accepted(id).await?;
    }
    world.delivered(&bad).await?;
    world.accepted("good").await?;
    let seen = world.delivered(&["good"]).await?;
    let ids = Vec::from_iter(seen.iter().map(id_of));
    assert_eq!(ids.len(), 4, "nothing has come again before: {ids:?}");
    Ok(())
}

#[tokio::test]
async fn killing_everybody_loses_nothing_that_was_accepted() -> Result<()> {
    let mut world = World::subscribed("", "").await?;
    let ids: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    for (number, id) in ids.iter().enumerate() {
        match number {
            15 => world.billing.sidecar.kill().await?,
            20 => world.billing.sidecar.start()?,
            30 => world.nats.kill(),
            35 => {
                world.billing.upstream.close();
            }
            45 => {
                world.stock.sidecar.kill().await?;
                world.stock.sidecar.start()?;
                world.stock.sidecar.ready().await?;
            }
            50 => world.billing.upstream.open().await?,
            _ => {}
        }
        match number {
            // Whoever is not told 202 sends it again.
            30..40 => drop(world.publish(&[("idempotency-key", id)], "{}").await),
            40 => {
                world.nats.run().await?;
                world.accepted(id).await?;
            }
            _ => world.accepted(id).await?,
        }
    }
    for id in &ids {
        world.accepted(id).await?;
    }
    let all = Vec::from_iter(ids.iter().map(String::as_str));
    let seen = world.delivered(&all).await?;
    assert!(seen.len() < 2 * ids.len(), "{}", seen.len());
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_a_dead_letter_keeps_nobody_and_is_not_done() -> Result<()> {
    // One place: whoever held it would keep all others.
    let world = World::subscribed(", maxInFlight: 1", "").await?;
    world.delete_topic("stock.dlq").await?;
    world.billing.upstream.fails(1, 400);
    world.accepted("bad").await?;
    wait_until("it is told", SOON, async || {
        ensure!(
            world
                .billing
                .sidecar
                .log()?
                .contains("a dead letter is not held yet")
        );
        Ok(())
    })
    .await?;
    world.accepted("good").await?;
    world.delivered(&["good"]).await?;
    let dead = "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"dead_lettered\"}";
    assert_ne!(world.billing.sidecar.metric(dead).await?, Some(1.0));
    wait_until("the broker still has it", LEASE + SOON, async || {
        let events = world.mesh.verdict("billing").await?["events"].clone();
        let still = events["lag"] == 0 && events["unacknowledged"] == 1;
        ensure!(still && events["inFlight"] == 0, "{events}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn credentials_of_a_broker_change_while_it_is_used_and_nothing_is_lost() -> Result<()> {
    const NEXT: &str = "an0ther-s3cret";
    let mut world = World::subscribed("", "").await?;
    world.accepted("1").await?;
    world.delivered(&["1"]).await?;
    // Whoever is connected is sent away, and the old ones are worth nothing.
    world.nats.asks_for(NEXT).await?;
    wait_until("nothing is accepted", SOON, async || {
        let headers = [("idempotency-key", "2")];
        let answer = world.publish(&headers, "{}").await?;
        ensure!(answer.status == 503, "{answer:?}");
        Ok(())
    })
    .await?;
    let all = format!(
        "{}{}{ROUTE}{}",
        services(&["stock", "billing"]),
        nats::documents().replace(nats::PASSWORD, NEXT),
        subscription("", "")
    );
    world.mesh.write("routes.yaml", &all)?;
    world.accepted("2").await?;
    world.delivered(&["1", "2"]).await?;
    for told in [
        world.stock.sidecar.log()?,
        world.billing.sidecar.log()?,
        world.mesh.operator_log()?,
    ] {
        assert!(!told.contains(NEXT) && !told.contains(nats::PASSWORD));
    }
    Ok(())
}
