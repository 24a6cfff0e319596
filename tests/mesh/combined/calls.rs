//! Single calls through several policies.

use anyhow::Result;
use bytes::Bytes;
use futures::future::try_join;
use http::Method;
use tests::mesh::SOON;
use tests::wait_until;

use super::{World, documents};
use crate::cache::app::{App, reply};

const ALL: &str = "{ name: all, requests: 1000, per: 1s }";
const GENEROUS: &str = "budget: { percent: 100, minPerSecond: 1000 }, backoff: { initial: 1ms }";

fn counting() -> App {
    App::new(|_, number| reply(200, &[], format!("{number}")))
}

#[tokio::test]
async fn what_is_kept_counts_in_limits_and_no_retry_makes_up_for_a_refusal() -> Result<()> {
    let app = counting();
    let world = World::of(
        &documents(
            "cache: { defaultTTL: 10m }",
            "{ name: five, requests: 5, per: 1h }",
            &format!("maxRetries: 3, retryOn: {{ statusCodes: [503] }}, {GENEROUS}"),
        ),
        std::slice::from_ref(&app),
    )
    .await?;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(world.web.get("http://orders/").await?.status);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(app.requests(), 1, "the others were given what is kept");
    let limited = "meshwright_rate_limit_total{rate_limit=\"shop/limits\",limit=\"five\",outcome=\"limited\"}";
    assert_eq!(world.sum(limited).await?, 3.0);
    Ok(())
}

#[tokio::test]
async fn each_try_counts_in_limits_and_what_failed_is_not_kept() -> Result<()> {
    let app = App::new(|_, number| match number {
        0 | 1 => reply(503, &[], "no"),
        _ => reply(200, &[], format!("{number}")),
    });
    let world = World::of(
        &documents(
            "cache: { defaultTTL: 10m }",
            "{ name: four, requests: 4, per: 1h }",
            &format!("maxRetries: 1, retryOn: {{ statusCodes: [503] }}, {GENEROUS}"),
        ),
        std::slice::from_ref(&app),
    )
    .await?;
    // The first is tried twice.
    assert_eq!(world.web.get("http://orders/a").await?.status, 503);
    assert_eq!(app.requests(), 2);
    assert_eq!(world.web.get("http://orders/b").await?.body, "2");
    assert_eq!(world.web.get("http://orders/b").await?.body, "2");
    assert_eq!(app.requests(), 3);
    assert_eq!(world.web.get("http://orders/b").await?.status, 429);
    Ok(())
}

#[tokio::test]
async fn a_try_that_takes_too_long_and_the_next_one_are_one_call_where_it_has_a_key() -> Result<()>
{
    let app = counting();
    let world = World::of(
        &documents(
            "idempotency: { required: true }",
            ALL,
            &format!(
                "maxRetries: 10, perTryTimeout: 200ms, retryOn: {{ conditions: [PerTryTimeout] }}, \
                 idempotencyKey: {{}}, {GENEROUS}"
            ),
        ),
        std::slice::from_ref(&app),
    )
    .await?;
    app.answers(false);
    let key = [("idempotency-key", "a")];
    let pay = world.web.send(
        Method::POST,
        "http://orders/",
        &key,
        Bytes::from_static(b"10"),
    );
    let opened = async {
        let passed = "meshwright_rate_limit_total{rate_limit=\"shop/limits\",limit=\"all\",outcome=\"passed\"}";
        wait_until("it is tried again", SOON, async || {
            anyhow::ensure!(world.sum(passed).await? >= 3.0, "not yet");
            Ok(())
        })
        .await?;
        app.answers(true);
        Ok(())
    };
    let (paid, ()) = try_join(pay, opened).await?;
    assert_eq!((paid.status, &*paid.body), (200, "0"));
    assert_eq!(paid.headers["idempotent-replayed"], "true");
    assert_eq!(app.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn a_hedge_gets_what_another_replica_answers_and_each_fetches_for_its_own_cache() -> Result<()>
{
    let (slow, fast) = (counting(), counting());
    let world = World::of(
        &documents(
            "cache: { defaultTTL: 10m }",
            ALL,
            &format!(
                "hedging: {{ after: 50ms }}, loadBalancing: {{ type: RoundRobin }}, {GENEROUS}"
            ),
        ),
        &[slow.clone(), fast.clone()],
    )
    .await?;
    slow.answers(false);
    // Whichever of the two is asked first.
    for _ in 0..4 {
        let answer = world.web.get("http://orders/").await?;
        assert_eq!((answer.status, &*answer.body), (200, "0"));
    }
    assert_eq!(fast.requests(), 1, "it gives what it keeps from then on");
    slow.answers(true);
    wait_until("both give what they keep", SOON, async || {
        for _ in 0..4 {
            let answer = world.web.get("http://orders/").await?;
            let status = answer.headers["cache-status"].to_str()?.to_owned();
            anyhow::ensure!(status.contains("hit"), "{status}");
        }
        Ok(())
    })
    .await?;
    let before = (slow.requests(), fast.requests());
    for _ in 0..10 {
        assert_eq!(world.web.get("http://orders/").await?.status, 200);
    }
    assert_eq!((slow.requests(), fast.requests()), before);
    // What may change something is never hedged.
    slow.answers(false);
    let body = Bytes::from_static(b"one");
    let post = world
        .web
        .send(Method::POST, "http://orders/x", &[], body.clone());
    let other = world.web.send(Method::POST, "http://orders/x", &[], body);
    let opened = async {
        wait_until("one waits at the slow one", SOON, async || {
            anyhow::ensure!(slow.requests() > before.0, "not yet");
            Ok(())
        })
        .await?;
        slow.answers(true);
        Ok(())
    };
    let ((one, other), ()) = try_join(try_join(post, other), opened).await?;
    assert_eq!((one.status, other.status), (200, 200));
    let both = slow.requests() + fast.requests();
    assert_eq!(both, before.0 + before.1 + 2);
    Ok(())
}
