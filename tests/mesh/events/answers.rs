//! What a target answers, and what becomes of the event.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::*;

impl World {
    /// Waits until one delivery to `billing` has ended so.
    async fn counted(&self, outcome: &str) -> Result<()> {
        let series = format!(
            "meshwright_events_delivered_total{{subscription=\"shop/billing\",outcome=\"{outcome}\"}}"
        );
        wait_until(&format!("one is {outcome}"), SOON, async || {
            let count = self.billing.sidecar.metric(&series).await?;
            ensure!(count == Some(1.0), "{count:?}");
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn the_body_of_an_answer_says_what_becomes_of_the_event_where_that_is_wanted() -> Result<()> {
    for wanted in [false, true] {
        let more = if wanted { ", bodyStatus: true" } else { "" };
        let world = World::start(&subscription(more, "")).await?;
        let upstream = &world.billing.upstream;
        upstream.adds("content-type", "application/json");
        upstream.says("{\"status\":\"RETRY\"}");
        world.accepted("1").await?;
        if !wanted {
            world.counted("acknowledged").await?;
            assert_eq!(upstream.requests(), 1);
            continue;
        }
        let letters = world.dead_letters(1).await?;
        assert!(
            letters[0]
                .0
                .to_lowercase()
                .contains("ce-dlqreason: exhausted")
        );
        assert_eq!(upstream.requests(), 3);
        upstream.says("{\"status\":\"DROP\"}");
        world.accepted("2").await?;
        world.counted("dropped").await?;
        upstream.says("{\"status\":\"SUCCESS\"}");
        world.accepted("3").await?;
        world.counted("acknowledged").await?;
        assert_eq!(upstream.requests(), 5);
    }
    Ok(())
}

#[tokio::test]
async fn a_target_that_asks_to_wait_is_asked_nothing_meanwhile() -> Result<()> {
    let world = World::subscribed("", "").await?;
    let upstream = &world.billing.upstream;
    upstream.adds("retry-after", "2");
    upstream.fails(1, 429);
    let before = Instant::now();
    world.accepted("1").await?;
    world.counted("retried").await?;
    // Neither this event nor another one, although both would come again within 50 ms.
    world.accepted("2").await?;
    wait_until("something more is delivered", SOON, async || {
        ensure!(upstream.requests() > 1, "{}", upstream.requests());
        Ok(())
    })
    .await?;
    let waited = before.elapsed();
    assert!(waited >= Duration::from_millis(1_900), "{waited:?}");
    world.delivered(&["1", "2"]).await?;
    Ok(())
}

#[tokio::test]
async fn an_event_that_is_older_than_it_may_be_is_not_delivered_again() -> Result<()> {
    let world = World::subscribed(", expiry: 4s", "").await?;
    let upstream = &world.billing.upstream;
    // It comes again when it is too old.
    upstream.adds("retry-after", "6");
    upstream.fails(1, 503);
    world.accepted("1").await?;
    let letters = world.dead_letters(1).await?;
    let head = letters[0].0.to_lowercase();
    for told in ["ce-id: 1", "ce-dlqreason: expired", "ce-dlqattempts: 1"] {
        assert!(head.contains(told), "{head}");
    }
    assert_eq!(upstream.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn what_is_exhausted_is_lost_or_comes_again_for_ever_where_that_is_written() -> Result<()> {
    let written = |exhausted: &str| {
        let with = format!("delivery: {{ onExhausted: {exhausted}, ");
        let written =
            subscription("", "").replace("delivery: { deadLetter: { topic: stock.dlq }, ", &with);
        assert!(written.contains(exhausted), "{written}");
        written
    };
    // Two retries, and no more.
    let world = World::start(&written("Drop")).await?;
    world.billing.upstream.answers(500);
    world.accepted("1").await?;
    world.counted("dropped").await?;
    assert_eq!(world.billing.upstream.requests(), 3);

    let world = World::start(&written("Block")).await?;
    world.billing.upstream.fails(5, 500);
    world.accepted("1").await?;
    world.counted("acknowledged").await?;
    assert_eq!(world.billing.upstream.requests(), 6);
    Ok(())
}

#[tokio::test]
async fn answers_mean_what_is_written_of_them() -> Result<()> {
    let responses = ", responses: [{ codes: [404], action: DeadLetter }, { codes: [422], action: Drop }, \
                     { codes: [400], action: Acknowledge }]";
    let world = World::subscribed(responses, "").await?;
    for status in [422, 400, 404] {
        world.billing.upstream.answers(status);
        world.accepted(&status.to_string()).await?;
        world.delivered(&[&status.to_string()]).await?;
    }
    let letters = world.dead_letters(1).await?;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].0.to_lowercase().contains("ce-id: 404"));
    assert_eq!(world.billing.upstream.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_has_the_beginning_of_the_answer_where_that_is_wanted_and_else_nothing_of_it()
-> Result<()> {
    let plain = subscription("", "");
    let wanted = plain.replace(
        "topic: stock.dlq",
        "topic: stock.dlq, includeErrorBody: true",
    );
    assert_ne!(wanted, plain);
    for (written, said) in [(plain, None), (wanted, Some("{  \"no\": \"sku a\" }"))] {
        let world = World::start(&written).await?;
        let upstream = &world.billing.upstream;
        upstream.says("{\n \"no\": \"sku a\"\n}".replace("\n}", " }"));
        upstream.answers(422);
        world.accepted("1").await?;
        let letters = world.dead_letters(1).await?;
        let body = letters[0].0.lines();
        let body = body.filter_map(|line| line.split_once(": "));
        let body = body.filter(|(name, _)| name.eq_ignore_ascii_case("ce-dlqbody"));
        let body = Vec::from_iter(body.map(|(_, value)| value.trim()));
        assert_eq!(
            body,
            Vec::from_iter(said.map(encoded).as_deref()),
            "{}",
            letters[0].0
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_is_refused_for_good_is_a_dead_letter_at_once_and_nobody_is_followed() -> Result<()> {
    let world = World::subscribed("", "").await?;
    for (place, (status, reason)) in [(400, "refused"), (422, "refused"), (302, "redirect")]
        .into_iter()
        .enumerate()
    {
        world.billing.upstream.answers(status);
        world.accepted(&status.to_string()).await?;
        let letters = world.dead_letters(place + 1).await?;
        let head = letters[place].0.to_lowercase();
        assert!(head.contains(&format!("ce-dlqreason: {reason}")), "{head}");
        assert!(head.contains(&format!("ce-dlqcode: {status}")), "{head}");
    }
    assert_eq!(world.billing.upstream.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn what_was_answered_is_done_however_long_the_rest_of_the_answer_takes() -> Result<()> {
    let world = World::subscribed(", timeout: 1s", "").await?;
    world.billing.upstream.says("begun");
    world
        .billing
        .upstream
        .dawdles(std::time::Duration::from_secs(30));
    world.accepted("1").await?;
    let acknowledged =
        "meshwright_events_delivered_total{subscription=\"shop/billing\",outcome=\"acknowledged\"}";
    wait_until("it is done", SOON, async || {
        let count = world.billing.sidecar.metric(acknowledged).await?;
        ensure!(count == Some(1.0), "{count:?}");
        Ok(())
    })
    .await?;
    assert_eq!(world.billing.upstream.requests(), 1);
    Ok(())
}

/// As CloudEvents writes it in a header.
fn encoded(text: &str) -> String {
    text.replace(' ', "%20").replace('"', "%22")
}
