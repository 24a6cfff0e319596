//! Events that come twice.

use anyhow::{Result, ensure};

use super::*;
use crate::redis::{self, PASSWORD, Redis};

/// In memory, told apart by `source` and `id`.
const MEMORY: &str = "  deduplication: {}\n";

const DUPLICATE: &str =
    "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"duplicate\"}";

impl World {
    /// Publishes past the mesh, so that nothing there tells that it is a duplicate.
    async fn twice(&self, ids: &[&str]) -> Result<()> {
        let mut direct = self.nats.direct().await?;
        for id in ids {
            let headers = [
                ("ce-specversion", "1.0"),
                ("ce-id", *id),
                ("ce-source", "/shop"),
                ("ce-type", "sold"),
            ];
            direct.publish("stock", &headers, "{}").await?;
        }
        Ok(())
    }

    /// Until so many were told apart as duplicates.
    async fn duplicates(&self, count: f64) -> Result<()> {
        wait_until(
            "they are known to be duplicates",
            LEASE + SOON,
            async || {
                let found = self.billing.sidecar.metric(DUPLICATE).await?;
                ensure!(found == Some(count), "{found:?}");
                Ok(())
            },
        )
        .await
    }
}

fn ids(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(id_of).collect()
}

#[tokio::test]
async fn what_is_done_is_not_delivered_again_and_what_is_not_done_is() -> Result<()> {
    let world = World::subscribed("", MEMORY).await?;
    world.twice(&["1", "2"]).await?;
    world.delivered(&["1", "2"]).await?;
    world.twice(&["1", "3", "2"]).await?;
    world.duplicates(2.0).await?;
    let seen = world.delivered(&["3"]).await?;
    assert_eq!(seen.len(), 3, "{:?}", ids(&seen));
    // One that fails is not taken for done by its double: both come until one is.
    world.billing.upstream.fails(2, 503);
    world.twice(&["4", "4"]).await?;
    world.duplicates(3.0).await?;
    let seen = world.billing.upstream.seen();
    assert_eq!(seen.len(), 6, "{:?}", ids(&seen));
    // A dead letter is done, too; and what is known outlives an edit.
    world.billing.upstream.fails(1, 422);
    world.twice(&["5"]).await?;
    world.dead_letters(1).await?;
    let edited = format!(
        "{}{}{ROUTE}{}",
        services(&["stock", "billing"]),
        nats::documents(),
        subscription(", timeout: 29s", MEMORY)
    );
    world.mesh.write("routes.yaml", &edited)?;
    wait_until("it is carried out as it is written now", SOON, async || {
        let log = world.billing.sidecar.log()?;
        let begun = log.matches("begins").count();
        ensure!(begun == 2, "{begun}");
        Ok(())
    })
    .await?;
    world.twice(&["5", "1", "6"]).await?;
    world.duplicates(5.0).await?;
    let seen = world.delivered(&["6"]).await?;
    assert_eq!(seen.len(), 8, "{:?}", ids(&seen));
    assert_eq!(world.nats.held("stock.dlq").await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_comes_at_the_same_time_as_its_double_waits_for_it() -> Result<()> {
    let world = World::subscribed("", MEMORY).await?;
    let held = world.billing.upstream.holds();
    world.twice(&["1", "1", "1", "2"]).await?;
    wait_until("both are posted", SOON, async || {
        let requests = world.billing.upstream.requests();
        ensure!(requests == 2, "{requests}");
        Ok(())
    })
    .await?;
    drop(held);
    world.duplicates(2.0).await?;
    let seen = world.billing.upstream.seen();
    assert_eq!(seen.len(), 2, "{:?}", ids(&seen));
    Ok(())
}

#[tokio::test]
async fn a_batch_has_no_event_twice_and_none_that_is_done() -> Result<()> {
    let batches = ", mode: Structured, batch: { maxSize: 3, maxWait: 1s }";
    let world = World::subscribed(batches, MEMORY).await?;
    world.twice(&["1", "2", "1"]).await?;
    world.duplicates(1.0).await?;
    world.twice(&["2", "3", "1"]).await?;
    world.duplicates(3.0).await?;
    let batch = |one: &Seen| {
        let events: Vec<Value> = serde_json::from_slice(&one.body)?;
        let ids = events.iter().map(|event| event["id"].to_string());
        anyhow::Ok(ids.collect::<Vec<_>>().join(" "))
    };
    let seen = world.billing.upstream.seen();
    let seen = seen.iter().map(batch).collect::<Result<Vec<_>>>()?;
    assert_eq!(seen, ["\"1\" \"2\"", "\"3\""]);
    Ok(())
}

/// With a Redis that knows for so long what is done, and one event that came twice.
async fn with_store(window: &str) -> Result<(World, Redis)> {
    let deduplication = format!(
        "  deduplication: {{ window: {window}, store: Redis, \
         redis: {{ urlSecretRef: {{ name: store, key: url }} }} }}\n"
    );
    let more = format!("{}{}", subscription("", &deduplication), redis::documents());
    let world = World::start(&more).await?;
    let redis = Redis::start(&world.mesh).await?;
    world.mesh.programmed("billing").await?;
    world.accepted("0").await?;
    world.delivered(&["0"]).await?;
    world.twice(&["1"]).await?;
    world.delivered(&["1"]).await?;
    world.twice(&["1"]).await?;
    world.duplicates(1.0).await?;
    Ok((world, redis))
}

#[tokio::test]
async fn a_store_forgets_what_is_done_when_the_window_is_over() -> Result<()> {
    let (world, _redis) = with_store("10s").await?;
    wait_until("it is delivered once more", LEASE + SOON, async || {
        world.twice(&["1"]).await?;
        let seen = world.billing.upstream.seen();
        let came = seen.iter().filter(|one| id_of(one) == "1").count();
        ensure!(came == 2, "{came}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_store_knows_for_all_what_is_done_and_while_it_is_away_events_are_delivered() -> Result<()>
{
    let (world, mut redis) = with_store("1h").await?;
    // Whoever comes next knows it, as another replica would.
    world.billing.sidecar.kill().await?;
    world.billing.sidecar.start()?;
    world.billing.sidecar.ready().await?;
    world.twice(&["1"]).await?;
    world.duplicates(1.0).await?;
    assert_eq!(world.delivered(&["1"]).await?.len(), 2);
    let config = world.billing.sidecar.config().await?.to_string();
    assert!(!config.contains(PASSWORD) && !world.billing.sidecar.log()?.contains(PASSWORD));
    redis.kill();
    world.twice(&["1", "2"]).await?;
    let seen = world.delivered(&["2"]).await?;
    wait_until("both are delivered", SOON, async || {
        let requests = world.billing.upstream.requests();
        ensure!(requests == 4, "{requests}");
        Ok(())
    })
    .await?;
    drop(seen);
    let unknown = "meshwright_events_not_deduplicated_total{subscription=\"shop/billing\"}";
    let count = world.billing.sidecar.metric(unknown).await?;
    ensure!(count >= Some(2.0), "{count:?}");
    Ok(())
}
