//! How it goes with an EventSubscription, as the operator tells.

use super::*;

/// What the operator tells of `billing`, once that is so.
async fn told(world: &World, what: &str, is_so: impl Fn(&Value, &Value) -> bool) -> Result<Value> {
    wait_until(what, LEASE + SOON, async || {
        let verdict = world.mesh.verdict("billing").await?;
        let conditions = verdict["conditions"].as_array().context("no conditions")?;
        let ready = conditions.iter().find(|one| one["type"] == "Ready");
        let ready = ready.context("it is not told whether it is ready")?;
        anyhow::ensure!(
            is_so(ready, &verdict["events"]),
            "{ready}; {}",
            verdict["events"]
        );
        Ok(())
    })
    .await?;
    world.mesh.verdict("billing").await
}

#[tokio::test]
async fn the_status_says_whether_events_are_delivered_how_many_wait_and_what_failed_last()
-> Result<()> {
    let world = World::subscribed(", maxInFlight: 1", "").await?;
    told(&world, "it is ready", |ready, events| {
        ready["status"] == "True" && events["lag"] == 0
    })
    .await?;
    world.billing.upstream.answers(503);
    for key in ["a", "b", "c"] {
        world.accepted(key).await?;
    }
    world.dead_letters(3).await?;
    let verdict = told(&world, "its dead letters are counted", |_, events| {
        events["deadLettered"] == 3
    })
    .await?;
    let error = &verdict["events"]["lastError"];
    assert_eq!(error["code"], 503, "{verdict}");
    assert_eq!(error["reason"], "Exhausted", "{verdict}");
    assert!(
        !verdict.to_string().contains("sku"),
        "nothing of an event: {verdict}"
    );
    Ok(())
}

#[tokio::test]
async fn the_status_says_how_many_events_are_in_flight() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let held = world.billing.upstream.holds();
    for key in ["a", "b"] {
        world.accepted(key).await?;
    }
    told(&world, "both are in flight", |_, events| {
        events["inFlight"] == 2
    })
    .await?;
    let series = "meshwright_events_in_flight{subscription=\"shop/billing\"}";
    assert_eq!(world.billing.sidecar.metric(series).await?, Some(2.0));
    drop(held);
    told(&world, "none is any more", |_, events| {
        events["inFlight"] == 0
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_status_says_why_nothing_is_delivered_and_how_much_waits_meanwhile() -> Result<()> {
    let mut world = World::subscribed("", "").await?;
    told(&world, "it is ready", |ready, _| ready["status"] == "True").await?;
    world.billing.upstream.close();
    for key in ["a", "b", "c"] {
        world.accepted(key).await?;
    }
    told(&world, "it waits for its target", |ready, events| {
        let message = ready["message"].as_str().unwrap_or_default();
        let number = |field: &str| events[field].as_u64().unwrap_or_default();
        let waits = number("lag") + number("unacknowledged");
        ready["reason"] == "NotDelivering"
            && message.contains("the target can't be reached")
            && waits == 3
    })
    .await?;
    world.nats.kill();
    told(
        &world,
        "nobody knows any more what waits",
        |ready, events| ready["status"] == "False" && events["lag"].is_null(),
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_status_says_that_it_is_suspended_and_that_the_target_is_gone() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.billing.upstream.answers(410);
    world.accepted("a").await?;
    told(&world, "its target is gone", |ready, _| {
        ready["reason"] == "TargetGone"
    })
    .await?;
    // Written anew, it is tried anew, and nothing that was told before holds.
    let written = |more: &str, spec: &str| {
        format!(
            "{}{}{ROUTE}{}",
            services(&["stock", "billing"]),
            nats::documents(),
            subscription(more, spec)
        )
    };
    world.billing.upstream.answers(204);
    world
        .mesh
        .write("routes.yaml", &written(", maxInFlight: 3", ""))?;
    told(&world, "it is ready again", |ready, _| {
        ready["status"] == "True"
    })
    .await?;
    world
        .mesh
        .write("routes.yaml", &written("", "  suspend: true\n"))?;
    told(&world, "it is suspended", |ready, _| {
        ready["reason"] == "Suspended"
    })
    .await?;
    Ok(())
}
