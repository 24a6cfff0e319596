//! What replicas keep together, in a real Redis.

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use tests::client::{Answer, Client};
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::wait_until;

use super::{documents, is_replayed, ledger, pay, until};
use crate::cache::app::App;
use crate::redis::{self, PASSWORD, Redis};

/// Two replicas of one ledger, which keep together.
struct World {
    mesh: Mesh,
    redis: Redis,
    app: App,
    sidecars: Vec<Sidecar>,
    web: Client,
}

fn yaml(spec: &str) -> String {
    let spec =
        format!("{{ store: {{ redis: {{ urlSecretRef: {{ name: store, key: url }} }} }}{spec} }}");
    format!(
        "{}{}---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {{ name: turns, namespace: shop }}\n\
         spec: {{ targetRefs: [{{ kind: Service, name: payments }}], loadBalancing: {{ type: RoundRobin }} }}\n",
        documents(&spec, ""),
        redis::documents(),
    )
}

async fn world(spec: &str) -> Result<World> {
    let mesh = Mesh::start(&yaml(spec)).await?;
    let redis = Redis::start(&mesh).await?;
    let app = ledger();
    let mut sidecars = Vec::new();
    for _ in 0..2 {
        let (listener, sidecar) = mesh.listener("payments").await?;
        app.listen(listener);
        sidecars.push(sidecar);
    }
    let web = mesh.client("web").await?;
    mesh.programmed("payments").await?;
    let world = World {
        mesh,
        redis,
        app,
        sidecars,
        web,
    };
    // Until connections to the store are there, nobody can tell what became of a key.
    for _ in 0..2 {
        known(&world, "warm").await?;
    }
    Ok(world)
}

/// Until both replicas have the store's answer.
async fn known(world: &World, key: &str) -> Result<Answer> {
    wait_until("the store answers", SOON, async || {
        let answer = pay(&world.web, key, "10 EUR").await?;
        ensure!(answer.reason() != "idempotency_unavailable", "{answer:?}");
        Ok(answer)
    })
    .await
}

#[tokio::test]
async fn a_key_is_carried_out_once_by_all_replicas_together() -> Result<()> {
    let world = world("").await?;
    let before = world.app.requests();
    for key in ["a", "b", "c"] {
        let first = known(&world, key).await?;
        for _ in 0..4 {
            let again = known(&world, key).await?;
            assert!(is_replayed(&again));
            assert_eq!((again.status, &again.body), (201, &first.body));
            assert_eq!(again.headers["location"], first.headers["location"]);
        }
    }
    assert_eq!(world.app.requests(), before + 3);
    let conflict = pay(&world.web, "a", "11 EUR").await?;
    assert_eq!(conflict.reason(), "idempotency_conflict");
    for sidecar in &world.sidecars {
        let series =
            "meshwright_idempotency_requests_total{route=\"shop/payments\",outcome=\"replayed\"}";
        ensure!(
            sidecar.metric(series).await? > Some(0.0),
            "both give what one has kept"
        );
        let config = sidecar.config().await?.to_string();
        assert!(!config.contains(PASSWORD) && !sidecar.log()?.contains(PASSWORD));
    }
    Ok(())
}

#[tokio::test]
async fn of_many_at_once_at_both_replicas_one_is_carried_out() -> Result<()> {
    let world = world("").await?;
    let before = world.app.requests();
    world.app.answers(false);
    let all = try_join_all((0..10).map(|_| pay(&world.web, "a", "10 EUR")));
    let opened = async {
        let asked = async || Ok(world.app.requests() > before);
        until("one is under way", asked).await?;
        world.app.answers(true);
        Ok(())
    };
    let (answers, ()) = futures::future::try_join(all, opened).await?;
    assert_eq!(world.app.requests(), before + 1);
    let bodies = answers.iter().map(|one| &*one.body);
    let bodies: std::collections::BTreeSet<_> = bodies.collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(answers.iter().filter(|one| is_replayed(one)).count(), 9);
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_dies_in_between_does_not_double_the_call() -> Result<()> {
    let world = world(", concurrent: Reject, timeout: 3s").await?;
    let before = world.app.requests();
    world.app.answers(false);
    let first = pay(&world.web, "a", "10 EUR");
    let dies = async {
        until(
            "it is under way",
            async || Ok(world.app.requests() > before),
        )
        .await?;
        // Whichever of the two carries it out: both die, and come back.
        for sidecar in &world.sidecars {
            sidecar.kill().await?;
            sidecar.start()?;
        }
        for sidecar in &world.sidecars {
            sidecar.ready().await?;
        }
        anyhow::Ok(())
    };
    let (first, died) = tokio::join!(first, dies);
    died?;
    if let Ok(first) = first {
        assert!(first.status >= 500, "{first:?}");
    }
    world.app.answers(true);
    let mut reasons = std::collections::BTreeSet::new();
    wait_until("nobody knows what became of it", SOON, async || {
        let answer = pay(&world.web, "a", "10 EUR").await?;
        reasons.insert(answer.reason().to_owned());
        ensure!(answer.reason() == "idempotency_unknown", "{answer:?}");
        Ok(())
    })
    .await?;
    assert_eq!(world.app.requests(), before + 1, "{reasons:?}");
    // What is not that key goes on.
    assert_eq!(known(&world, "b").await?.status, 201);
    Ok(())
}

#[tokio::test]
async fn what_is_kept_outlives_the_sidecars() -> Result<()> {
    let world = world("").await?;
    let first = known(&world, "a").await?;
    let before = world.app.requests();
    for sidecar in &world.sidecars {
        sidecar.kill().await?;
        sidecar.start()?;
        sidecar.ready().await?;
    }
    let again = known(&world, "a").await?;
    assert!(is_replayed(&again), "{again:?}");
    assert_eq!(again.body, first.body);
    assert_eq!(world.app.requests(), before);
    Ok(())
}

#[tokio::test]
async fn without_the_store_nothing_with_a_key_is_carried_out_unless_that_is_allowed() -> Result<()>
{
    let mut world = world("").await?;
    let before = world.app.requests();
    world.redis.kill();
    for _ in 0..4 {
        let refused = pay(&world.web, "a", "10 EUR").await?;
        assert_eq!(
            (refused.status, refused.reason()),
            (503, "idempotency_unavailable")
        );
        assert_eq!(refused.headers["retry-after"], "1");
    }
    assert_eq!(world.app.requests(), before);
    world
        .mesh
        .write("routes.yaml", &yaml(", onStoreFailure: Allow"))?;
    until("the edit is in force", async || {
        Ok(pay(&world.web, "a", "10 EUR").await?.status == 201)
    })
    .await?;
    assert!(!is_replayed(&pay(&world.web, "a", "10 EUR").await?));
    world.redis.run().await?;
    until("its return is noticed", async || {
        Ok(is_replayed(&pay(&world.web, "b", "10 EUR").await?))
    })
    .await
}

#[tokio::test]
async fn an_answer_that_the_store_did_not_hear_of_is_told_when_it_is_back() -> Result<()> {
    let world = world("").await?;
    let before = world.app.requests();
    world.app.answers(false);
    let first = pay(&world.web, "a", "10 EUR");
    let stops = async {
        until(
            "it is under way",
            async || Ok(world.app.requests() > before),
        )
        .await?;
        world.redis.signal(Signal::SIGSTOP)?;
        world.app.answers(true);
        Ok(())
    };
    let (first, ()) = futures::future::try_join(first, stops).await?;
    assert_eq!(first.status, 201);
    world.redis.signal(Signal::SIGCONT)?;
    until("it is given again", async || {
        Ok(is_replayed(&pay(&world.web, "a", "10 EUR").await?))
    })
    .await?;
    assert_eq!(world.app.requests(), before + 1);
    Ok(())
}

#[tokio::test]
async fn a_claim_that_was_not_answered_in_time_is_given_back() -> Result<()> {
    let world = world(", concurrent: Reject").await?;
    let before = world.app.requests();
    world.redis.signal(Signal::SIGSTOP)?;
    let refused = pay(&world.web, "a", "10 EUR").await?;
    assert_eq!(refused.reason(), "idempotency_unavailable");
    assert_eq!(world.app.requests(), before);
    // It hears of the claim now, and that nobody makes the call.
    world.redis.signal(Signal::SIGCONT)?;
    until("it is carried out", async || {
        Ok(pay(&world.web, "a", "10 EUR").await?.status == 201)
    })
    .await?;
    assert_eq!(world.app.requests(), before + 1);
    Ok(())
}
