//! What the mesh does when something dies.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::load::{CALLERS, Load};
use crate::processes::{family, with};
use crate::shop::Shop;
use crate::{chapter, quote, say};

/// The load ends after this, whatever happens.
const LONGEST: Duration = Duration::from_secs(40);
/// Answers before the kill and after the return: enough to see that requests flow.
const ENOUGH: u64 = 50;
/// How long it may take until a dead replica gets no more requests.
const WITHDRAWN: Duration = Duration::from_secs(10);
/// How long it may take until it is back.
const BACK: Duration = Duration::from_secs(25);

/// A replica is killed under load.
pub(super) async fn kill(shop: &mut Shop, url: &str) -> anyhow::Result<()> {
    chapter("A death: one of two replicas of orders-v1 is killed under load (kill -9)");
    let endpoints = shop.config("web").await?.endpoints("shop/orders-v1");
    let victim = endpoints.first().context("orders-v1 has no endpoint")?;
    let mesh = shop.mesh.id().context("`meshwright up` has ended")?;
    let process = with(
        &family(mesh),
        "shop",
        &format!("HOSTNAME={}", victim.name()),
    )
    .with_context(|| format!("no process is the application of {}", victim.pod))?;
    let from = shop.mesh.mark();
    let load = Load::start(&format!("{url}/"), LONGEST);
    answers(&load, ENOUGH).await?;
    process.signal(Signal::KILL)?;
    let killed = Instant::now();
    let count = |n: usize| {
        move |config: &crate::figures::Config| config.endpoints("shop/orders-v1").len() == n
    };
    shop.config_when(
        "web",
        &format!("that {} is dead", victim.pod),
        WITHDRAWN,
        count(1),
    )
    .await?;
    let withdrawn = killed.elapsed();
    shop.config_when(
        "web",
        &format!("that {} is back", victim.pod),
        BACK,
        count(2),
    )
    .await?;
    let back = killed.elapsed();
    answers(&load, load.answered() + ENOUGH).await?;
    let tally = load.stop().await;
    quote(&shop.mesh.said(from));
    say(&format!(
        "Process {} of {} was killed. Within {:.2} s web's sidecar sent it nothing any more; after \
         {:.1} s it was back.",
        process.id,
        victim.name(),
        withdrawn.as_secs_f32(),
        back.as_secs_f32(),
    ));
    say(&format!(
        "Of {} pages requested from before until after, {CALLERS} at a time, {} failed.{}",
        tally.answered() + tally.failed(),
        tally.failed(),
        tally.complaints()
    ));
    let late = tally.last_failure.filter(|sent| *sent > killed + withdrawn);
    ensure!(
        late.is_none(),
        "requests failed though they were sent after {} had been withdrawn",
        victim.pod
    );
    if tally.failed() > 0 {
        say(
            "All of those were sent before its death was known to web's sidecar, and none after. They had \
             begun, so that they may have done something there: without a RetryPolicy only what surely \
             reached nobody is sent again.",
        );
    }
    Ok(())
}

/// Waits until so many requests were answered.
async fn answers(load: &Load, count: u64) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(15);
    while load.answered() < count {
        ensure!(
            Instant::now() < until,
            "requests aren't answered any more: {} in 15 s",
            load.answered()
        );
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
