//! What is published while a sidecar ends.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::*;

#[tokio::test]
async fn an_application_publishes_at_a_sidecar_that_ends_for_as_long_as_anything_is_under_way()
-> Result<()> {
    let world = World::subscribed("", "").await?;
    let web = world.mesh.client("web").await?;
    let release = world.stock.upstream.holds();
    let ending = async {
        wait_until("a call is under way", SOON, async || {
            ensure!(world.stock.upstream.requests() == 1);
            Ok(())
        })
        .await?;
        world.stock.sidecar.signal(Signal::SIGTERM)?;
        wait_until("it ends", SOON, async || {
            ensure!(world.stock.sidecar.log()?.contains("\"draining\""));
            Ok(())
        })
        .await?;
        // Each on a connection of its own, opened since.
        for key in ["1", "2"] {
            let headers = [("idempotency-key", key)];
            let answer = world.publish(&headers, "{}").await?;
            ensure!(answer.status == 202, "{answer:?}");
        }
        release.send(())?;
        anyhow::Ok(())
    };
    let (answer, ended) = tokio::join!(web.get("http://stock.shop/slow"), ending);
    ended?;
    assert_eq!(answer?.status, 200);
    world.delivered(&["1", "2"]).await?;
    wait_until("nobody is there any more", SOON, async || {
        let answer = world.publish(&[], "{}").await;
        ensure!(answer.is_err(), "{answer:?}");
        ensure!(world.stock.sidecar.log()?.contains("\"drained\""));
        Ok(())
    })
    .await
}
