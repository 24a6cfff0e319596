//! How much passes, under load and through edits.

use std::time::Instant;

use anyhow::Result;
use futures::future::try_join_all;
use sidecar::net::tls::ALPN_H1;
use tests::mesh::SOON;
use tests::raw::peer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{holds, pass, rate_limit, world};
use crate::routing::services;

#[tokio::test]
async fn under_concurrent_load_across_workers_exactly_what_is_promised_passes() -> Result<()> {
    const RATE: usize = 50;
    let limit = format!("    - {{ name: all, requests: {RATE}, per: 1s, burst: 40 }}\n");
    let (mesh, orders, client) = world(&limit, "").await?;
    let others: Vec<_> = try_join_all((0..3).map(|_| mesh.client("web"))).await?;
    let clients: Vec<_> = others.iter().chain([&client]).collect();
    let begun = Instant::now();
    // From four pods, eight at once each, over connections that the kernel spreads over workers.
    let load = clients
        .iter()
        .flat_map(|client| (0..8).map(|_| pass(client, 25, &[])));
    let passed: usize = try_join_all(load).await?.into_iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let most = 40 + (seconds * RATE as f64) as usize;
    assert!(passed <= most, "{passed} of {most} in {seconds} s");
    // All the while there was more to do than may pass: 800 calls.
    assert!(passed >= 40, "{passed}");
    assert_eq!(orders.upstream.requests(), passed);
    Ok(())
}

#[tokio::test]
async fn whoever_claims_to_check_health_gets_around_no_limit() -> Result<()> {
    let (_mesh, orders, client) = world("    - { name: all, requests: 1, per: 1h }\n", "").await?;
    let begun = Instant::now();
    let ask = async |number: usize| {
        let mut io = peer(client.sidecar(), &orders.sidecar, ALPN_H1).await?;
        let request =
            format!("GET /{number} HTTP/1.1\r\nhost: orders\r\nmeshwright-health-check: 1\r\n\r\n");
        io.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        timeout(SOON, io.read_exact(&mut answer)).await??;
        anyhow::Ok(answer.ends_with(b"200"))
    };
    let answers = try_join_all((0..60).map(ask)).await?;
    // Eight paths a second are asked for all of them, and one request is let through.
    let most = 1 + 8 * (1 + usize::try_from(begun.elapsed().as_secs())?);
    let heard = orders.upstream.requests();
    assert!((9..=most).contains(&heard), "{heard} of at most {most}");
    let passed = answers.iter().filter(|passed| **passed).count();
    // What was asked of the application and failed there is no answer of 200.
    assert!((1..=heard).contains(&passed), "{passed} of {heard}");
    Ok(())
}

#[tokio::test]
async fn several_rate_limits_hold_for_one_service_and_what_one_refuses_counts_in_none() -> Result<()>
{
    let second = rate_limit(
        "    - { name: posts, requests: 1, per: 1m, methods: [POST] }\n    \
             - { name: few, requests: 3, per: 1h }\n",
    )
    .replace("name: limits", "name: more");
    let (mesh, orders, client) =
        world("    - { name: all, requests: 4, per: 1m }\n", &second).await?;
    mesh.programmed("more").await?;
    holds(&orders, |limits| limits.len() == 3).await?;
    // Three by `few`; the others leave one of `all`.
    assert_eq!(pass(&client, 10, &[]).await?, 3);
    mesh.write(
        "routes.yaml",
        &format!(
            "{}{}",
            services(&["orders"]),
            rate_limit("    - { name: all, requests: 4, per: 1m }\n")
        ),
    )?;
    holds(&orders, |limits| limits.len() == 1).await?;
    assert_eq!(pass(&client, 10, &[]).await?, 1);
    Ok(())
}

#[tokio::test]
async fn what_was_used_outlives_an_edit_of_another_object_and_of_the_limit_itself() -> Result<()> {
    let limit = "    - { name: all, requests: 3, per: 1h }\n";
    let (mesh, orders, client) = world(limit, "").await?;
    assert_eq!(pass(&client, 5, &[]).await?, 3);
    let other = services(&["orders", "stock"]) + &rate_limit(limit);
    mesh.write("routes.yaml", &other)?;
    mesh.workload("stock").await?;
    assert_eq!(pass(&client, 2, &[]).await?, 0);

    let edited = "    - { name: all, requests: 6, per: 1h }\n    \
                  - { name: new, requests: 9, per: 1h }\n";
    mesh.write(
        "routes.yaml",
        &(services(&["orders"]) + &rate_limit(edited)),
    )?;
    holds(&orders, |limits| limits.len() == 2).await?;
    assert_eq!(
        pass(&client, 2, &[]).await?,
        0,
        "its burst is used up still"
    );

    // Without it, nothing is too much.
    mesh.write("routes.yaml", &services(&["orders"]))?;
    holds(&orders, <[_]>::is_empty).await?;
    assert_eq!(pass(&client, 5, &[]).await?, 5);
    Ok(())
}
