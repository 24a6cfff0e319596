//! What replicas count together, in a real Redis.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::future::try_join_all;
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Workload};
use tests::wait_until;

use super::{calls, header, holds, pass};
use crate::redis::{self, PASSWORD, Redis};
use crate::routing::services;

struct World {
    mesh: Mesh,
    redis: Redis,
    orders: [Workload; 2],
    client: Client,
}

fn yaml(spec: &str) -> String {
    format!(
        "{}{}---\napiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
         metadata: {{ name: turns, namespace: shop }}\n\
         spec: {{ targetRefs: [{{ kind: Service, name: orders }}], loadBalancing: {{ type: RoundRobin }} }}\n\
         ---\napiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\n\
         metadata: {{ name: limits, namespace: shop }}\n\
         spec:\n  targetRefs: [{{ kind: Service, name: orders }}]\n  scope: Shared\n  \
         store: {{ redis: {{ urlSecretRef: {{ name: store, key: url }} }} }}\n{spec}",
        services(&["orders"]),
        redis::documents()
    )
}

/// Two replicas of `orders` that count together.
async fn world(spec: &str) -> Result<World> {
    let mesh = Mesh::start(&yaml(spec)).await?;
    let redis = Redis::start(&mesh).await?;
    let orders = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("limits").await?;
    for one in &orders {
        holds(one, |limits| !limits.is_empty()).await?;
    }
    Ok(World {
        mesh,
        redis,
        orders,
        client,
    })
}

#[tokio::test]
async fn replicas_count_together_exactly_near_the_limit() -> Result<()> {
    let spec = "  onStoreFailure: Deny\n  limits:\n    - { name: all, requests: 12, per: 1h }\n    \
                - { name: posts, requests: 1, per: 1h, methods: [POST] }\n";
    let world = world(spec).await?;
    // Until connections are there, nobody can tell.
    answers(&world.client).await?;
    let before = seen(&world);
    let passed: usize = try_join_all((0..6).map(|_| counted(&world.client, 10)))
        .await?
        .into_iter()
        .sum();
    assert_eq!(passed + before, 12);
    assert_eq!(seen(&world), 12);
    assert!(
        world.orders.iter().all(|one| one.upstream.requests() > 0),
        "both replicas got some"
    );
    let refused = world.client.get("http://orders/").await?;
    let after: u64 = header(&refused, "retry-after")?.parse()?;
    assert!((200..=300).contains(&after), "{after}");
    // What stands in the Secret is not shown.
    let config = world.orders[0].sidecar.config().await?.to_string();
    assert!(!config.contains(PASSWORD), "{config}");
    for one in &world.orders {
        assert!(!one.sidecar.log()?.contains(PASSWORD));
    }
    Ok(())
}

fn seen(world: &World) -> usize {
    let orders = world.orders.iter();
    orders.map(|one| one.upstream.requests()).sum()
}

/// Until the store answers: then the limit is known.
async fn answers(client: &Client) -> Result<()> {
    wait_until("the store answers", SOON, async || {
        let answer = client.get("http://orders/").await?;
        ensure!(answer.reason() != "limit_unknown", "{answer:?}");
        Ok(())
    })
    .await
}

/// How many of so many pass; one that finds no answer is asked again.
async fn counted(client: &Client, count: usize) -> Result<usize> {
    let mut passed = 0;
    for _ in 0..count {
        wait_until("the store answers", SOON, async || {
            let answer = client.get("http://orders/").await?;
            match (answer.status, answer.reason()) {
                (200, "") => passed += 1,
                (429, "rate_limited") => {}
                other => bail!("{other:?}"),
            }
            Ok(())
        })
        .await?;
    }
    Ok(passed)
}

#[tokio::test]
async fn far_from_the_limit_replicas_differ_by_their_leases_at_most() -> Result<()> {
    // A lease is a 16th of the burst, which the rate gives in a second too.
    const LEASE: usize = 20;
    let spec = "  onStoreFailure: Deny\n  limits:\n    - { name: all, requests: 50, per: 1s, burst: 320 }\n";
    let world = world(spec).await?;
    answers(&world.client).await?;
    let (begun, before) = (Instant::now(), seen(&world));
    let load = (0..8).map(|_| counted(&world.client, 100));
    let passed: usize = try_join_all(load).await?.into_iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let most = 320 + (seconds * 50.0) as usize + 2 * LEASE;
    assert!(passed <= most, "{passed} of {most} in {seconds} s");
    assert_eq!(seen(&world) - before, passed);
    // Less by leases that nobody uses, and what passed before.
    let least = (320 + (seconds * 50.0) as usize).min(800) - 2 * LEASE - before;
    assert!(passed >= least, "{passed} of {least} in {seconds} s");
    Ok(())
}

#[tokio::test]
async fn a_store_that_dies_is_no_error_and_its_return_is_noticed() -> Result<()> {
    let limit = "  limits:\n    - { name: all, requests: 5, per: 1h }\n";
    let mut world = world(&format!("  onStoreFailure: Deny\n{limit}")).await?;
    answers(&world.client).await?;
    world.redis.kill();
    wait_until("both know that it is away", SOON, async || {
        for (status, reason) in calls(&world.client, 10, &[]).await? {
            ensure!(status < 500, "{status} {reason}");
            ensure!(reason == "limit_unknown", "{reason}");
        }
        Ok(())
    })
    .await?;
    let answer = world.client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (429, "limit_unknown"));
    assert_eq!(header(&answer, "retry-after")?, "1");
    let grpc = [("content-type", "application/grpc")];
    let answer = world.client.get_with("http://orders/", &grpc).await?;
    assert_eq!(header(&answer, "grpc-status")?, "8");
    assert_eq!(header(&answer, "retry-after")?, "1");
    assert_eq!(header(&answer, "grpc-retry-pushback-ms")?, "1000");
    let begun = Instant::now();
    calls(&world.client, 30, &[]).await?;
    // Nobody waits for a store that is known to be away: thirty times the patience is three seconds.
    assert!(begun.elapsed() < Duration::from_secs(2));

    let change = |on: &str| {
        let spec = format!(
            "  onStoreFailure: {on}\n{}",
            limit.replace("all", on.to_lowercase().as_str())
        );
        world.mesh.write("routes.yaml", &yaml(&spec))
    };
    change("Allow")?;
    wait_until("the edit is in force", SOON, async || {
        let all = calls(&world.client, 20, &[]).await?;
        ensure!(all.iter().all(|(status, _)| *status == 200), "{all:?}");
        Ok(())
    })
    .await?;

    change("LocalFallback")?;
    for one in &world.orders {
        holds(one, |limits| limits[0]["limit"] == "localfallback").await?;
    }
    // Five in each of the two.
    assert_eq!(pass(&world.client, 40, &[]).await?, 10);

    world.redis.run().await?;
    // Nobody has used any there: five for both together.
    wait_until("its return is noticed", SOON, async || {
        ensure!(pass(&world.client, 1, &[]).await? == 1);
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_store_that_takes_nothing_is_as_one_that_does_not_answer_and_no_storm() -> Result<()> {
    let spec = "  onStoreFailure: Deny\n  limits: [{ name: all, requests: 1000, per: 1h }]\n";
    let world = world(spec).await?;
    let redis = &world.redis;
    let connections = async || {
        let stats = redis.tell(&["INFO", "stats"]).await?;
        let count = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        Ok::<u64, anyhow::Error>(count.unwrap_or_default().parse()?)
    };
    // It has no room; it is somebody's copy, in which nothing is written.
    for (spoil, mend) in [
        (
            &["CONFIG", "SET", "maxmemory", "1"][..],
            &["CONFIG", "SET", "maxmemory", "0"][..],
        ),
        (
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
        ),
    ] {
        answers(&world.client).await?;
        redis.tell(spoil).await?;
        let (begun, before) = (Instant::now(), connections().await?);
        // For as long as tells a storm from pauses that grow.
        while begun.elapsed() < Duration::from_secs(3) {
            for (status, reason) in calls(&world.client, 20, &[]).await? {
                assert_eq!((status, &*reason), (429, "limit_unknown"), "{spoil:?}");
            }
        }
        // Each pause is twice as long as the one before, from 50 ms to 1 s, or half of that as chance
        // has it: five in the first second, two in any other, of each sidecar; and the question itself.
        let most = 2 * (5 + 2 * begun.elapsed().as_secs()) + 1;
        let opened = connections().await? - before;
        assert!(opened <= most, "{opened} of {most} connections: {spoil:?}");
        redis.tell(mend).await?;
    }
    answers(&world.client).await
}

#[tokio::test]
async fn a_quota_counts_in_a_month_and_says_when_it_ends() -> Result<()> {
    let spec = "  onStoreFailure: Deny\n  quotas:\n    - { name: monthly, requests: 4, per: Month }\n    \
                - { name: daily, requests: 100, per: Day }\n";
    let world = world(spec).await?;
    answers(&world.client).await?;
    let before = seen(&world);
    assert_eq!(before + counted(&world.client, 8).await?, 4);
    let answer = world.client.get("http://orders/").await?;
    let after: u64 = header(&answer, "retry-after")?.parse()?;
    assert!((1..=31 * 86_400).contains(&after), "{after}");
    assert_eq!(header(&answer, "ratelimit-policy")?, "\"monthly\";q=4");
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_missing_is_said_and_is_as_a_store_that_does_not_answer() -> Result<()> {
    let spec = "  onStoreFailure: Allow\n  limits: [{ name: all, requests: 1, per: 1h }]\n";
    let yaml = yaml(spec).replace("name: store\n", "name: other\n");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("limits").await?;
    holds(&orders, |limits| !limits.is_empty()).await?;
    assert_eq!(pass(&client, 3, &[]).await?, 3);
    let verdict = mesh.verdict("limits").await?;
    let resolved = &verdict["conditions"][1];
    assert_eq!(resolved["reason"], "SecretNotUsable", "{verdict}");
    let series =
        "meshwright_rate_limit_total{rate_limit=\"shop/limits\",limit=\"all\",outcome=\"unasked\"}";
    assert_eq!(orders.sidecar.metric(series).await?, Some(3.0));
    Ok(())
}
