//! One fetch for all who ask at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;

use super::app::{App, reply};
use super::{World, is_hit, status, until};

#[tokio::test]
async fn of_all_who_ask_for_the_same_at_once_one_asks_the_application() -> Result<()> {
    let world = World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?;
    world.app.answers(false);
    let asking = join_all((0..20).map(|_| world.get("/a")));
    let opening = async {
        until("one has come", async || Ok(world.app.requests() == 1)).await?;
        // The others have come to the sidecar, and none of them further.
        until("they wait", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(20.0))
        })
        .await?;
        assert_eq!(world.app.requests(), 1);
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (answers, opened) = tokio::join!(asking, opening);
    opened?;
    let mut collapsed = 0;
    for answer in answers {
        let answer = answer?;
        assert_eq!(answer.body, "0");
        collapsed += usize::from(status(&answer).ends_with("; collapsed"));
    }
    assert_eq!((world.app.requests(), collapsed), (1, 19));
    let series = r#"meshwright_cache_requests_total{route="shop/orders",outcome="collapsed"}"#;
    assert_eq!(world.sidecar.metric(series).await?, Some(19.0));
    Ok(())
}

#[tokio::test]
async fn who_waits_for_what_is_for_nobody_else_goes_on_at_once() -> Result<()> {
    let app =
        App::new(|_, number| reply(200, &[("cache-control", "private")], format!("{number}")));
    let world = Arc::new(World::of("{}", "", app).await?);
    world.app.answers(false);
    let asking = join_all((0..10).map(|_| world.get("/a")));
    let opening = async {
        until("they have come", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(10.0))
        })
        .await?;
        assert_eq!(world.app.requests(), 1);
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (answers, opened) = tokio::join!(asking, opening);
    opened?;
    let mut bodies = Vec::new();
    for answer in answers {
        bodies.push(answer?.body);
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 10, "each has its own");
    // The next ones do not even wait for the first of them.
    world.app.answers(false);
    let before = world.app.requests();
    let asking = join_all((0..5).map(|_| world.get("/a")));
    let opening = async {
        until("all have come", async || {
            Ok(world.app.requests() == before + 5)
        })
        .await?;
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let (_, opened) = tokio::join!(asking, opening);
    opened
}

#[tokio::test]
async fn who_goes_away_while_others_wait_leaves_its_place_to_the_next() -> Result<()> {
    let world = Arc::new(World::of("{}", "", App::saying(("cache-control", "max-age=600"))).await?);
    world.app.answers(false);
    let first = tokio::spawn({
        let world = world.clone();
        async move { world.get("/a").await }
    });
    until("one has come", async || Ok(world.app.requests() == 1)).await?;
    let asking = join_all((0..5).map(|_| world.get("/a")));
    let leaving = async {
        until("they wait", async || {
            let series = "meshwright_requests_in_flight{direction=\"inbound\"}";
            Ok(world.sidecar.metric(series).await? == Some(6.0))
        })
        .await?;
        first.abort();
        until("the next one asks", async || Ok(world.app.requests() == 2)).await?;
        world.app.answers(true);
        Ok::<_, anyhow::Error>(())
    };
    let begun = std::time::Instant::now();
    let (answers, left) = tokio::join!(asking, leaving);
    left?;
    for answer in answers {
        assert_eq!(answer?.status, 200);
    }
    assert_eq!(world.app.requests(), 2);
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "nobody waits in vain"
    );
    assert!(is_hit(&world.get("/a").await?));
    Ok(())
}
