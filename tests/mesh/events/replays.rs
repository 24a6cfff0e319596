//! Dead letters and what a topic has held, delivered once more; with `spec.replay`.

use super::*;

/// What is written of the subscription besides, and the rest of the mesh.
fn written(spec: &str) -> String {
    format!(
        "{}{}{ROUTE}{}",
        services(&["stock", "billing"]),
        nats::documents(),
        subscription("", spec)
    )
}

fn replay(request: &str, from: &str, until: &str) -> String {
    format!("  replay: {{ request: {request}, from: {from}, until: \"{until}\" }}\n")
}

const LETTERS: &str = "{ type: DeadLetter }";

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// How it goes with a replay, once it is done.
async fn done(world: &World, request: &str) -> Result<Value> {
    wait_until("the replay is done", LEASE + SOON, async || {
        let verdict = world.mesh.verdict("billing").await?;
        let replay = verdict["events"]["replay"].clone();
        let is_done = replay["request"] == request && replay["phase"] == "Done";
        anyhow::ensure!(is_done, "{replay}");
        Ok(replay)
    })
    .await
}

#[tokio::test]
async fn dead_letters_are_replayed_to_whom_they_failed_at_and_are_gone_from_their_topic()
-> Result<()> {
    let world = World::subscribed("", "  deduplication: {}\n").await?;
    world.billing.upstream.answers(400);
    for key in ["a", "b", "c"] {
        world.accepted(key).await?;
    }
    world.dead_letters(3).await?;
    // One of somebody else's stays where it is.
    let other = "{\"specversion\":\"1.0\",\"id\":\"x\",\"source\":\"/x\",\"type\":\"t\",\
                 \"dlqsubscription\":\"shop/other\",\"dlqreason\":\"Refused\"}";
    let headers = [("content-type", "application/cloudevents+json")];
    world
        .nats
        .direct()
        .await?
        .publish("stock.dlq", &headers, other)
        .await?;
    world.billing.upstream.answers(204);
    let before = world.billing.upstream.requests();
    // They are done, and are asked for all the same.
    let spec = format!(
        "  deduplication: {{}}\n{}",
        replay("again", LETTERS, &now())
    );
    world.mesh.write("routes.yaml", &written(&spec))?;
    let status = done(&world, "again").await?;
    assert_eq!(
        (&status["done"], &status["failed"]),
        (&json!(3), &json!(0)),
        "{status}"
    );
    let seen = world.billing.upstream.seen().split_off(before);
    let mut ids = Vec::from_iter(seen.iter().map(id_of));
    ids.sort();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!(
        seen.iter()
            .all(|one| header(one, "ce-dlqreason").is_empty()),
        "as it was"
    );
    assert_eq!(world.nats.held("stock.dlq").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_replay_is_done_once_whatever_restarts_and_what_fails_again_is_a_dead_letter_anew()
-> Result<()> {
    let world = World::subscribed("", "").await?;
    world.billing.upstream.answers(400);
    world.accepted("a").await?;
    world.dead_letters(1).await?;
    let until = now();
    world
        .mesh
        .write("routes.yaml", &written(&replay("again", LETTERS, &until)))?;
    let status = done(&world, "again").await?;
    assert_eq!(
        (&status["done"], &status["failed"]),
        (&json!(0), &json!(1)),
        "{status}"
    );
    assert_eq!(world.nats.held("stock.dlq").await?, 1, "the new one");
    let before = world.billing.upstream.requests();
    world.billing.sidecar.kill().await?;
    world.billing.sidecar.start()?;
    world.billing.sidecar.ready().await?;
    let status = done(&world, "again").await?;
    assert_eq!(status["done"], 0, "{status}");
    assert_eq!(world.billing.upstream.requests(), before);
    // Under another name it is another run, of what failed until then.
    world.billing.upstream.answers(204);
    world.mesh.write(
        "routes.yaml",
        &written(&replay("once-more", LETTERS, &now())),
    )?;
    let status = done(&world, "once-more").await?;
    assert_eq!(status["done"], 1, "{status}");
    assert_eq!(world.nats.held("stock.dlq").await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_a_topic_has_held_since_a_moment_is_delivered_once_more_up_to_another() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.accepted("too-early").await?;
    world.delivered(&["too-early"]).await?;
    let since = now();
    for key in ["a", "b"] {
        world.accepted(key).await?;
    }
    world.delivered(&["a", "b"]).await?;
    let until = now();
    world.accepted("too-late").await?;
    world.delivered(&["too-late"]).await?;
    let before = world.billing.upstream.requests();
    let from = format!("{{ type: Time, time: \"{since}\" }}");
    world
        .mesh
        .write("routes.yaml", &written(&replay("again", &from, &until)))?;
    let status = done(&world, "again").await?;
    assert_eq!(status["done"], 2, "{status}");
    let seen = world.billing.upstream.seen().split_off(before);
    let mut ids = Vec::from_iter(seen.iter().map(id_of));
    ids.sort();
    assert_eq!(ids, ["a", "b"]);
    Ok(())
}

#[tokio::test]
async fn dead_letters_are_shown_counted_replayed_and_purged_as_people_ask() -> Result<()> {
    let world = World::subscribed("", "").await?;
    world.billing.upstream.answers(400);
    for key in ["a", "b", "c"] {
        world.accepted(key).await?;
    }
    world.dead_letters(3).await?;
    let shown = order(&world.billing.sidecar, "show=shop/billing limit=2").await?;
    let events = Vec::from_iter(
        shown
            .iter()
            .map(|line| &line["event"])
            .filter(|it| it.is_object()),
    );
    assert_eq!(events.len(), 2, "{shown:?}");
    assert_eq!(events[0]["dlqreason"], "Refused");
    assert!(
        events[0]["data"].is_null(),
        "nothing of what stands in it: {shown:?}"
    );
    let shown = order(
        &world.billing.sidecar,
        "show=shop/billing limit=1 data=true",
    )
    .await?;
    assert!(shown[0]["event"]["data"]["sku"].is_string(), "{shown:?}");
    let counted = order(&world.billing.sidecar, "count=shop/billing").await?;
    assert_eq!(
        (done_in(&counted)?, world.nats.held("stock.dlq").await?),
        (3, 3)
    );

    world.billing.upstream.answers(204);
    let before = world.billing.upstream.requests();
    let begun = std::time::Instant::now();
    let replayed = order(&world.billing.sidecar, "replay=shop/billing rate=2").await?;
    assert!(begun.elapsed() > Duration::from_millis(900));
    assert_eq!(done_in(&replayed)?, 3, "{replayed:?}");
    assert_eq!(world.billing.upstream.requests() - before, 3);
    assert_eq!(world.nats.held("stock.dlq").await?, 0);

    world.billing.upstream.answers(400);
    for key in ["d", "e"] {
        world.accepted(key).await?;
    }
    world.dead_letters(2).await?;
    let begun = std::time::Instant::now();
    let purged = order(&world.billing.sidecar, "purge=shop/billing rate=1").await?;
    assert!(begun.elapsed() > Duration::from_millis(900));
    assert_eq!(
        (done_in(&purged)?, world.nats.held("stock.dlq").await?),
        (2, 0)
    );
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_done_with_dead_letters_is_told_with_the_word_that_is_wrong() -> Result<()>
{
    let world = World::subscribed("", "").await?;
    for (words, status, told) in [
        (
            "show=shop/nobody",
            404,
            "EventSubscription shop/nobody is not carried out here",
        ),
        (
            "replay=shop/billing until=now",
            400,
            "until: write it as a moment",
        ),
        ("purge=billing", 400, "write what is to be done"),
    ] {
        let url = format!("http://{}:15000/events", world.billing.sidecar.address());
        let body = Bytes::from(words.to_owned());
        let answer = Client::direct().send(Method::PUT, &url, &[], body).await?;
        assert_eq!(answer.status, status, "{words}");
        assert!(answer.body.starts_with(told), "{words}: {}", answer.body);
    }
    Ok(())
}
