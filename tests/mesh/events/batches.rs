//! Events in batches.

use anyhow::{Result, ensure};

use super::*;

/// In batches of three, which wait for one another for long enough.
const BATCHES: &str = ", mode: Structured, batch: { maxSize: 3, maxWait: 5s }";

/// The ids of the events of each request.
fn batches(seen: &[Seen]) -> Result<Vec<Vec<String>>> {
    let ids = |one: &Seen| {
        let events: Vec<Value> = serde_json::from_slice(&one.body)?;
        let ids = events.iter().map(|event| event["id"].as_str());
        let ids = ids.map(|id| id.map(str::to_owned).context("an id"));
        ids.collect::<Result<Vec<_>>>()
    };
    seen.iter().map(ids).collect()
}

impl World {
    /// What `billing` was posted, once it was so often.
    async fn posted(&self, times: usize) -> Result<Vec<Vec<String>>> {
        wait_until("it was posted so often", SOON, async || {
            let requests = self.billing.upstream.requests();
            ensure!(requests >= times, "{requests}");
            Ok(())
        })
        .await?;
        batches(&self.billing.upstream.seen())
    }
}

#[tokio::test]
async fn events_come_in_batches_as_large_as_they_may_be_and_not_later_than_they_may() -> Result<()>
{
    let world = World::subscribed(BATCHES, "").await?;
    for id in ["1", "2", "3", "4"] {
        world.accepted(id).await?;
    }
    let posted = world.posted(2).await?;
    assert_eq!(posted, [vec!["1", "2", "3"], vec!["4"]]);
    let seen = &world.billing.upstream.seen()[0];
    assert_eq!(
        header(seen, "content-type"),
        "application/cloudevents-batch+json"
    );
    let done =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"acknowledged\"}";
    wait_until("all are done", SOON, async || {
        let count = world.billing.sidecar.metric(done).await?;
        ensure!(count == Some(4.0), "{count:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_batch_has_no_more_bytes_than_it_may() -> Result<()> {
    let more = ", mode: Structured, batch: { maxSize: 100, maxWait: 2s, maxBytes: 3072 }";
    let world = World::subscribed(more, "").await?;
    // Two of them are about as long as a batch may be, and three are longer.
    let sku = "a".repeat(1_100);
    for id in ["1", "2", "3", "4", "5"] {
        let headers = [
            ("idempotency-key", id),
            ("content-type", "application/json"),
        ];
        let answer = world
            .publish(&headers, &json!({ "sku": sku }).to_string())
            .await?;
        ensure!(answer.status == 202, "{answer:?}");
    }
    let posted = wait_until("all are posted", SOON, async || {
        let posted = batches(&world.billing.upstream.seen())?;
        ensure!(posted.concat().len() >= 5, "{posted:?}");
        Ok(posted)
    })
    .await?;
    let mut all = posted.concat();
    all.sort();
    assert_eq!(all, ["1", "2", "3", "4", "5"]);
    assert!(posted.iter().all(|batch| batch.len() <= 2), "{posted:?}");
    let seen = world.billing.upstream.seen();
    let longest = seen.iter().map(|one| one.body.len()).max();
    assert!(longest <= Some(3_072 + 512), "{longest:?}");
    Ok(())
}

#[tokio::test]
async fn an_answer_says_what_became_of_each_event_of_a_batch_and_what_comes_again_comes_alone()
-> Result<()> {
    let world = World::subscribed(BATCHES, "").await?;
    world
        .billing
        .upstream
        .adds("content-type", "application/json");
    world.billing.upstream.says(
        "{\"events\":[{\"id\":\"1\",\"status\":204},{\"id\":\"2\",\"status\":503},{\"id\":\"3\",\"status\":422}]}",
    );
    for id in ["1", "2", "3"] {
        world.accepted(id).await?;
    }
    let letters = world.dead_letters(2).await?;
    let heads = letters.iter().map(|(head, _)| head.to_lowercase());
    let told = |id: &str, reason: &str, attempts: &str| {
        let lines = [
            format!("ce-id: {id}"),
            format!("ce-dlqreason: {reason}"),
            format!("ce-dlqattempts: {attempts}"),
        ];
        heads
            .clone()
            .any(|head| lines.iter().all(|line| head.contains(line)))
    };
    assert!(
        told("2", "exhausted", "3") && told("3", "refused", "1"),
        "{letters:?}"
    );
    let posted = batches(&world.billing.upstream.seen())?;
    assert_eq!(posted, [vec!["1", "2", "3"], vec!["2"], vec!["2"]]);
    Ok(())
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_delivered_event_by_event() -> Result<()> {
    let world = World::subscribed(BATCHES, "").await?;
    world.billing.upstream.fails(1, 422);
    for id in ["1", "2", "3"] {
        world.accepted(id).await?;
    }
    // In the same format: whoever reads batches reads nothing else.
    let posted = world.posted(4).await?;
    assert_eq!(posted[1..], [["1"], ["2"], ["3"]]);
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_nobody_can_read_leaves_its_batch_and_spoils_no_other() -> Result<()> {
    let world = World::subscribed(BATCHES, "").await?;
    let mut direct = world.nats.direct().await?;
    let headers = [("ce-specversion", "1.0"), ("ce-id", "bad")];
    direct.publish("stock", &headers, "x").await?;
    for id in ["1", "2"] {
        world.accepted(id).await?;
    }
    let letters = world.dead_letters(1).await?;
    assert!(
        letters[0]
            .0
            .to_lowercase()
            .contains("ce-dlqreason: malformed")
    );
    assert_eq!(world.posted(1).await?, [["1", "2"]]);
    Ok(())
}
