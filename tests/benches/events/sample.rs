//! What something cost while it was at it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use crate::load::Count;
use crate::measure::{Watched, spread};

/// How long something is at it before it is measured.
const WARM: Duration = Duration::from_millis(500);

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU time of the process for an event (user and system), microseconds.
    pub(crate) cpu_us: f64,
    /// Events in a second.
    pub(crate) rate: f64,
}

/// Measures for so long, once it is warm.
pub(crate) async fn taken(
    processes: &[Watched],
    count: &Count,
    length: Duration,
) -> Result<Sample> {
    sleep(WARM).await;
    let used = || processes.iter().map(Watched::cpu_ns).sum::<Result<u64>>();
    let (begun, events, before) = (Instant::now(), count.now(), used()?);
    sleep(length).await;
    let (after, now) = (used()?, count.now());
    let (took, events) = (begun.elapsed(), now.saturating_sub(events) as f64);
    ensure!(events > 0.0, "there was no event in {took:?}");
    Ok(Sample {
        cpu_us: after.saturating_sub(before) as f64 / 1e3 / events,
        rate: events / took.as_secs_f64(),
    })
}

// === impl Sample ===

impl Sample {
    /// For the process that has asked for it.
    pub(crate) fn line(self) -> String {
        format!("{} {}", self.cpu_us, self.rate)
    }

    /// What a process has said.
    pub(crate) fn read(line: &str) -> Result<Self> {
        let (cpu_us, rate) = line.trim().split_once(' ').context("no sample")?;
        Ok(Self {
            cpu_us: cpu_us.parse()?,
            rate: rate.parse()?,
        })
    }

    /// The median of CPU for an event, the least and the greatest, and the median of events in a second.
    pub(crate) fn medians(samples: &[Self]) -> ((f64, f64, f64), f64) {
        let cpu_us = spread(samples.iter().map(|one| one.cpu_us));
        (cpu_us, spread(samples.iter().map(|one| one.rate)).0)
    }
}
