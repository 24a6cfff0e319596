//! What an edit of an EventSubscription changes, and what it leaves as it was.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::deliveries::also;
use super::*;

#[tokio::test]
async fn a_position_is_kept_when_what_is_written_changes() -> Result<()> {
    let world = World::subscribed("", "").await?;
    for id in ["1", "2"] {
        world.accepted(id).await?;
    }
    world.delivered(&["1", "2"]).await?;
    let others = format!(
        "{}{}{ROUTE}",
        services(&["stock", "billing"]),
        nats::documents()
    );
    // It begins at the earliest, and would deliver both once more.
    let edited = subscription(
        ", maxInFlight: 3, mode: Structured",
        "  filters: [{ exact: { source: /stock } }]\n",
    );
    world.mesh.write("routes.yaml", &(others + &edited))?;
    wait_until("it is in force", SOON, async || {
        let log = world.billing.sidecar.log()?;
        ensure!(log.matches("begins").count() == 2, "{log}");
        Ok(())
    })
    .await?;
    world.accepted("3").await?;
    wait_until(
        "what came later is delivered as is written now",
        SOON,
        async || {
            let seen = world.billing.upstream.seen();
            let last = seen.last().context("nothing")?;
            let body = String::from_utf8_lossy(&last.body);
            ensure!(body.contains("\"id\":\"3\""), "{last:?}");
            Ok(())
        },
    )
    .await?;
    assert_eq!(world.billing.upstream.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn a_suspended_subscription_delivers_nothing_and_goes_on_where_it_was() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.accepted("1").await?;
    world.delivered(&["1"]).await?;
    // Another one, by whose events it is seen that time has passed.
    let other = also("other", "");
    let write = |spec: &str| {
        let routes = services(&["stock", "billing"]) + &nats::documents();
        let billing = subscription("", spec);
        world
            .mesh
            .write("routes.yaml", &format!("{routes}{ROUTE}{other}{billing}"))
    };
    write("  suspend: true\n")?;
    wait_until("it is suspended", LEASE + SOON, async || {
        let (_, reason, why) = ready(&world.mesh, "billing").await?;
        ensure!(reason == "Suspended", "{reason}: {why}");
        Ok(())
    })
    .await?;
    let ids = |path: &str| {
        let seen = world.billing.upstream.seen();
        let there = seen.iter().filter(|one| one.target == path);
        there
            .map(|one| id_of(one).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let of = |all: &[&str]| all.iter().map(|id| (*id).to_owned()).collect();
    for id in ["2", "3"] {
        world.accepted(id).await?;
    }
    wait_until("the other one has them", SOON, async || {
        ensure!(ids("/other") == of(&["1", "2", "3"]), "{:?}", ids("/other"));
        Ok(())
    })
    .await?;
    assert_eq!(ids("/events"), of(&["1"]));
    write("")?;
    wait_until("it goes on", LEASE + SOON, async || {
        ensure!(
            ids("/events") == of(&["1", "2", "3"]),
            "{:?}",
            ids("/events")
        );
        Ok(())
    })
    .await?;
    let came = world.billing.upstream.seen();
    let came = came.iter().filter(|one| one.target == "/events").count();
    assert_eq!(came, 3, "each once");
    Ok(())
}
