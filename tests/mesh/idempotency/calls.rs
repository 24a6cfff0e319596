//! Calls under way: who comes meanwhile, and who goes.

use anyhow::Result;
use futures::future::try_join_all;
use tests::client::Client;

use super::{World, is_replayed, ledger, pay, until};

/// As many requests as this are in flight at the called workload.
async fn in_flight(world: &World, count: f64) -> Result<()> {
    let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
    until("they are in flight", async || {
        Ok(world.sidecar.metric(series).await? == Some(count))
    })
    .await
}

#[tokio::test]
async fn who_comes_while_the_call_is_under_way_waits_for_the_same_answer() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    world.app.answers(false);
    let all = try_join_all((0..8).map(|_| pay(&world.web, "a", "10 EUR")));
    let opened = async {
        in_flight(&world, 8.0).await?;
        // One with another body does not wait to be told.
        let other = pay(&world.web, "a", "11 EUR").await?;
        assert_eq!(other.reason(), "idempotency_conflict");
        world.app.answers(true);
        Ok(())
    };
    let (answers, ()) = futures::future::try_join(all, opened).await?;
    assert_eq!(world.app.requests(), 1);
    assert!(
        answers.iter().all(|one| one.body == "payment 0"),
        "{answers:?}"
    );
    assert_eq!(answers.iter().filter(|one| is_replayed(one)).count(), 7);
    Ok(())
}

#[tokio::test]
async fn who_comes_meanwhile_is_409_where_nobody_is_to_wait() -> Result<()> {
    let world = World::of("{ concurrent: Reject }", "", ledger()).await?;
    world.app.answers(false);
    let first = pay(&world.web, "a", "10 EUR");
    let meanwhile = async {
        until("the first is under way", async || {
            Ok(world.app.requests() == 1)
        })
        .await?;
        let other = pay(&world.web, "a", "10 EUR").await?;
        assert_eq!(
            (other.status, other.reason()),
            (409, "idempotency_in_progress")
        );
        assert_eq!(other.headers["retry-after"], "1");
        world.app.answers(true);
        Ok(())
    };
    let (first, ()) = futures::future::try_join(first, meanwhile).await?;
    assert_eq!(first.body, "payment 0");
    assert!(is_replayed(&pay(&world.web, "a", "10 EUR").await?));
    assert_eq!(world.app.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn the_call_goes_on_when_its_caller_hangs_up() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    world.app.answers(false);
    hung_up(&world, &world.web).await?;
    // Whoever asks again waits for the call that goes on.
    let again = pay(&world.web, "a", "10 EUR");
    let opened = async {
        in_flight(&world, 1.0).await?;
        world.app.answers(true);
        Ok(())
    };
    let (again, ()) = futures::future::try_join(again, opened).await?;
    assert!(is_replayed(&again), "{again:?}");
    assert_eq!(again.body, "payment 0");
    assert_eq!(world.app.requests(), 1);
    Ok(())
}

/// A caller has asked, and has gone before it was answered.
async fn hung_up(world: &World, client: &Client) -> Result<()> {
    let asked = async { until("it was asked", async || Ok(world.app.requests() == 1)).await };
    tokio::select! {
        answer = pay(client, "a", "10 EUR") => panic!("{answer:?}"),
        asked = asked => asked?,
    }
    in_flight(world, 0.0).await
}

#[tokio::test]
async fn a_call_that_takes_longer_than_it_may_is_not_made_again() -> Result<()> {
    let world = World::of("{ timeout: 1s }", "", ledger()).await?;
    world.app.answers(false);
    let late = pay(&world.web, "a", "10 EUR").await?;
    assert_eq!((late.status, late.reason()), (504, "request_timeout"));
    world.app.answers(true);
    let again = pay(&world.web, "a", "10 EUR").await?;
    assert_eq!((again.status, again.reason()), (409, "idempotency_unknown"));
    assert_eq!(world.app.requests(), 1);
    assert_eq!(world.became("unkept").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_is_to_end_waits_for_the_call() -> Result<()> {
    let world = World::of("{}", "", ledger()).await?;
    world.app.answers(false);
    hung_up(&world, &world.web).await?;
    let ending = async { world.sidecar.terminate().await };
    let opened = async {
        until("it ends", async || {
            Ok(world.sidecar.log()?.contains("draining"))
        })
        .await?;
        world.app.answers(true);
        Ok(())
    };
    let (code, ()) = futures::future::try_join(ending, opened).await?;
    assert_eq!(code, Some(0));
    Ok(())
}
