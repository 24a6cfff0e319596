//! All ways of calling at once, each at its own pace: what is asked for in a second is bounded,
//! however fast the answers are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result, anyhow};
use tests::client::Client;
use tests::mesh::SOON;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::flows::{KeepAlive, Streams, Way};

/// Failures that are told; the rest is counted.
const TOLD: usize = 20;

/// What became of every request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// By the way of calling: how many were right, and how many were not.
    by_way: BTreeMap<&'static str, (u64, u64)>,
    failures: Vec<String>,
}

/// The load, until it is told to end.
pub(crate) struct Load {
    client: Arc<Client>,
    tally: Tally,
    ends: watch::Receiver<bool>,
    end: watch::Sender<bool>,
    callers: JoinSet<()>,
}

// === impl Load ===

impl Load {
    /// Calls from now on, through the sidecar beside this client.
    pub(crate) fn start(client: Arc<Client>, tally: Tally) -> Self {
        let (end, ends) = watch::channel(false);
        let callers = JoinSet::new();
        let mut load = Self {
            client,
            tally,
            ends,
            end,
            callers,
        };
        for _ in 0..4 {
            load.spawn(Way::KeepAlive(KeepAlive::default()));
            load.spawn(Way::Stream(Streams::default()));
        }
        for _ in 0..2 {
            load.spawn(Way::Upgraded);
            load.spawn(Way::Opaque);
            load.spawn(Way::SlowReader);
        }
        load.spawn(Way::Fresh);
        load.spawn(Way::LargeBody);
        load.spawn(Way::GivenUp);
        load
    }

    fn spawn(&mut self, mut way: Way) {
        let (client, tally) = (self.client.clone(), self.tally.clone());
        let mut ends = self.ends.clone();
        self.callers.spawn(async move {
            let mut ticks = interval(way.pace());
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ends.wait_for(|end| *end) => return,
                    _ = ticks.tick() => {}
                }
                // What has begun is not cut off by the end of the load: it would be no failure of
                // anybody else.
                let begun = Instant::now();
                let called = timeout(SOON, way.call(&client)).await;
                let called = called.unwrap_or_else(|_| Err(anyhow!("no end within {SOON:?}")));
                tally.count(way.name(), called.map_err(|error| (begun.elapsed(), error)));
            }
        });
    }

    /// Lets everything under way end, and begins nothing new.
    pub(crate) async fn end(mut self) {
        self.end.send_replace(true);
        while self.callers.join_next().await.is_some() {}
    }
}

// === impl Tally ===

impl Tally {
    fn count(&self, way: &'static str, called: Result<(), (Duration, Error)>) {
        let mut counts = self.counts();
        let (right, wrong) = counts.by_way.entry(way).or_default();
        let Err((took, error)) = called else {
            *right += 1;
            return;
        };
        *wrong += 1;
        if counts.failures.len() < TOLD {
            // By the time, logs tell what else happened then.
            let at = SystemTime::now().duration_since(UNIX_EPOCH);
            let at = at.unwrap_or_default().as_secs_f64();
            let failure = format!("at {at:.3}, {way}, after {took:?}: {error:#}");
            counts.failures.push(failure);
        }
    }

    /// Requests that were right, and that were not.
    pub(crate) fn total(&self) -> (u64, u64) {
        let counts = self.counts();
        let all = counts.by_way.values();
        all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Ways of calling in which something was right.
    pub(crate) fn ways(&self) -> usize {
        let counts = self.counts();
        counts
            .by_way
            .values()
            .filter(|(right, _)| *right > 0)
            .count()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        for (way, (right, wrong)) in &counts.by_way {
            writeln!(f, "  {way:<12} {right:>7} right {wrong:>4} wrong")?;
        }
        counts
            .failures
            .iter()
            .try_for_each(|one| writeln!(f, "  {one}"))
    }
}
