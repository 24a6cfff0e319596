//! What is published for those who wait for nothing.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::*;

/// By which the application beside `billing` publishes to the topic `stock`, and waits for nothing.
const UNWAITED: &str = "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
    metadata: { name: billing, namespace: shop }\n\
    spec: { hosts: [billing], rules: [{ matches: [{ path: { type: Exact, value: /none } }], \
    publish: { broker: events, topic: stock, ack: None } }, {}] }\n";

#[tokio::test]
async fn who_waits_for_nothing_is_answered_before_the_broker_has_confirmed() -> Result<()> {
    let world = World::subscribed("", UNWAITED).await?;
    world.mesh.programmed("billing").await?;
    let send = async |key: &str| {
        let key = [("idempotency-key", key)];
        publish(&world.billing.sidecar, "events/stock", &key, "{}").await
    };
    let answer = send("1").await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(problem(&answer)["id"], "1");
    world.delivered(&["1"]).await?;

    world.nats.signal(Signal::SIGSTOP)?;
    let begun = std::time::Instant::now();
    let answer = send("2").await;
    let took = begun.elapsed();
    world.nats.signal(Signal::SIGCONT)?;
    assert_eq!(answer?.status, 202);
    assert!(took < Duration::from_secs(4), "{took:?}");
    // It was on its way.
    world.delivered(&["2"]).await?;

    // What is no event is refused all the same, and keeps no other.
    let batch = json!([
        { "specversion": "1.0", "id": "good", "source": "/s", "type": "t" },
        { "specversion": "1.0", "id": "bad", "source": "/s" },
    ]);
    let media = [("content-type", "application/cloudevents-batch+json")];
    let answer = publish(
        &world.billing.sidecar,
        "events/stock",
        &media,
        &batch.to_string(),
    )
    .await?;
    assert_eq!(answer.status, 207, "{answer:?}");
    world.delivered(&["good"]).await.map(drop)
}

#[tokio::test]
async fn what_nobody_waits_for_is_counted_and_told_when_it_is_lost() -> Result<()> {
    let mut world = World::subscribed("", UNWAITED).await?;
    world.mesh.programmed("billing").await?;
    let sidecar = &world.billing.sidecar;
    let counted = |outcome: &str| {
        let labels = format!("broker=\"events\",topic=\"stock\",outcome=\"{outcome}\"");
        format!("meshwright_events_published_total{{{labels}}}")
    };
    let event = |id: usize| json!({ "specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t" });
    let batch = Value::from_iter((0..900).map(event)).to_string();
    let media = [("content-type", "application/cloudevents-batch+json")];
    let lost = async |outcome: &str| {
        let send = || publish(sidecar, "events/stock", &media, &batch);
        let answers = tokio::try_join!(send(), send(), send(), send())?;
        for answer in [answers.0, answers.1, answers.2, answers.3] {
            ensure!(answer.status == 202, "{answer:?}");
        }
        let lost = sidecar.metric(&counted(outcome)).await?;
        ensure!(lost.is_some_and(|lost| lost > 0.0), "{outcome}: {lost:?}");
        Ok(())
    };
    // More at once than wait for a broker that is silent, and then one that is away.
    world.nats.signal(Signal::SIGSTOP)?;
    wait_until("there is no room", SOON, async || lost("dropped").await).await?;
    world.nats.kill();
    wait_until("some are not confirmed", SOON, async || {
        lost("unconfirmed").await
    })
    .await?;
    wait_until("it is told", SOON, async || {
        let log = sidecar.log()?;
        ensure!(log.contains("events were lost"), "{log}");
        Ok(())
    })
    .await
}
