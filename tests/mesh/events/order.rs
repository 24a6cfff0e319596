//! Events in order.

use std::collections::HashMap;

use anyhow::{Result, ensure};

use super::*;

/// Publishes an event with a key, until it is accepted.
async fn keyed(world: &World, key: &str, id: &str) -> Result<()> {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/stock"),
        ("ce-type", "com.shop.stock"),
        ("ce-partitionkey", key),
    ];
    wait_until("it is accepted", SOON, async || {
        let answer = world.publish(&headers, "").await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    })
    .await
}

/// The ids in the order in which they were posted, each attempt for itself.
fn posted(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(id_of).collect()
}

#[tokio::test]
async fn events_of_a_key_wait_for_one_another_and_for_no_other() -> Result<()> {
    let world = World::subscribed(", ordering: Key", "").await?;
    world.billing.upstream.fails_at(("ce-id", "a1"), 2, 503);
    for (key, id) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")] {
        keyed(&world, key, id).await?;
    }
    let seen = world.delivered(&["a1", "a2", "a3", "b1"]).await?;
    let posted = posted(&seen);
    let of_a = Vec::from_iter(posted.iter().filter(|id| id.starts_with('a')));
    assert_eq!(of_a, [&"a1", &"a1", &"a1", &"a2", &"a3"]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_fails_for_long_does_not_hold_up_the_others() -> Result<()> {
    let retries = "retries: { maxRetries: 2, backoff: { initial: 10ms, max: 50ms, jitter: None } }";
    let slow = "retries: { maxRetries: 2, backoff: { initial: 60s, max: 60s, jitter: None } }";
    let world = World::start(&subscription(", ordering: Key", "").replace(retries, slow)).await?;
    world.mesh.programmed("billing").await?;
    world.billing.upstream.fails_at(("ce-id", "a1"), 9, 503);
    for (key, id) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")] {
        keyed(&world, key, id).await?;
    }
    let seen = world.delivered(&["a1", "b1", "b2"]).await?;
    assert!(!posted(&seen).contains(&"a2"), "{:?}", posted(&seen));
    Ok(())
}

#[tokio::test]
async fn the_key_may_be_any_attribute_and_one_without_it_waits_for_nobody() -> Result<()> {
    let world = World::subscribed(", ordering: Key, orderingKey: subject", "").await?;
    world.billing.upstream.fails_at(("ce-id", "1"), 2, 503);
    let send = async |id: &str, more: &[(&str, &str)]| {
        let head = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/s"),
            ("ce-type", "t"),
        ];
        let answer = world.publish(&[&head, more].concat(), "").await?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    };
    send("1", &[("ce-subject", "x")]).await?;
    send("2", &[("ce-subject", "x")]).await?;
    send("3", &[("ce-partitionkey", "x")]).await?;
    let seen = world.delivered(&["1", "2", "3"]).await?;
    let posted = Vec::from_iter(posted(&seen).into_iter().filter(|id| *id != "3"));
    assert_eq!(posted, ["1", "1", "1", "2"]);
    Ok(())
}

#[tokio::test]
async fn in_a_global_order_every_event_waits_for_all_before_it() -> Result<()> {
    let world = World::subscribed(", ordering: Global", "").await?;
    world.billing.upstream.fails_at(("ce-id", "1"), 2, 503);
    // For good: it is a dead letter, and the next one follows.
    world.billing.upstream.fails_at(("ce-id", "2"), 1, 400);
    for id in ["1", "2", "3"] {
        keyed(&world, id, id).await?;
    }
    let seen = world.delivered(&["1", "2", "3"]).await?;
    assert_eq!(posted(&seen), ["1", "1", "1", "2", "3"]);
    assert_eq!(world.dead_letters(1).await?.len(), 1);
    Ok(())
}

/// Of each key, events are done in the order in which they were published, whoever delivers them: an event that comes
/// again was not known to be done, and so nothing after it was begun.
fn check_order(seen: &[Seen]) -> Result<()> {
    let mut newest: HashMap<&str, usize> = HashMap::new();
    for one in seen {
        let (key, number) = id_of(one).split_once('-').context("an id")?;
        let number = number.parse::<usize>()?;
        let newest = newest.entry(key).or_default();
        ensure!(
            number == *newest || number == *newest + 1,
            "{} came after {key}-{newest}",
            id_of(one)
        );
        *newest = number;
    }
    Ok(())
}

#[tokio::test]
async fn order_outlives_the_sidecar_that_is_killed_with_events_in_hand() -> Result<()> {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    const EACH: usize = 12;
    let world = World::subscribed(", ordering: Key", "").await?;
    let another = world.mesh.workload("billing").await?;
    world.mesh.programmed("billing").await?;
    for upstream in [&world.billing.upstream, &another.upstream] {
        upstream.takes(Duration::from_millis(20));
        upstream.fails_at(("ce-id", "b-2"), 1, 503);
    }
    let both = [&world.billing, &another];
    let mut active = 0;
    for number in 1..=EACH {
        for key in KEYS {
            keyed(&world, key, &format!("{key}-{number}")).await?;
        }
        if number == EACH / 2 {
            wait_until("one of them delivers", SOON, async || {
                let busy = both.map(|one| one.upstream.requests() > KEYS.len());
                ensure!(busy != [false, false]);
                active = usize::from(busy[1]);
                Ok(())
            })
            .await?;
            both[active].sidecar.kill().await?;
        }
    }
    // What the dead one has seen comes before what the other one has.
    let seen = || {
        [active, 1 - active]
            .map(|one| both[one].upstream.seen())
            .concat()
    };
    wait_until("every event is delivered", LEASE * 2 + SOON, async || {
        let seen = seen();
        for key in KEYS {
            for number in 1..=EACH {
                let id = format!("{key}-{number}");
                ensure!(seen.iter().any(|one| id_of(one) == id), "{id}");
            }
        }
        Ok(())
    })
    .await?;
    assert!(both[1 - active].upstream.requests() > 0);
    check_order(&seen())
}

#[tokio::test]
async fn the_status_says_which_replica_delivers_in_order_and_who_follows() -> Result<()> {
    let world = World::subscribed(", ordering: Global", "").await?;
    let another = world.mesh.workload("billing").await?;
    world.mesh.programmed("billing").await?;
    let active = async |other_than: &str| {
        let mut found = String::new();
        wait_until("it is told who delivers", LEASE + SOON, async || {
            let verdict = world.mesh.verdict("billing").await?;
            let active = verdict["events"]["active"].as_str().unwrap_or_default();
            ensure!(!active.is_empty() && active != other_than, "{verdict}");
            found = active.to_owned();
            Ok(())
        })
        .await?;
        anyhow::Ok(found)
    };
    keyed(&world, "a", "1").await?;
    let first = active("").await?;
    let both = [&world.billing, &another];
    let is_first = |one: &&&Workload| first == format!("shop/{}", one.sidecar.pod());
    let found = both.iter().find(is_first).context("a pod of this name")?;
    assert_eq!(found.upstream.requests(), 1);
    found.sidecar.terminate().await?;
    keyed(&world, "a", "2").await?;
    let second = active(&first).await?;
    let other = both.iter().find(|one| !is_first(one)).context("another")?;
    assert_eq!(second, format!("shop/{}", other.sidecar.pod()));
    wait_until("it has delivered", SOON, async || {
        ensure!(posted(&other.upstream.seen()) == ["2"]);
        Ok(())
    })
    .await
}
