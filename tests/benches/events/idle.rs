//! What subscriptions cost to which nothing comes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::mesh::SOON;
use tests::wait_until;
use tokio::time::sleep;

use crate::Plan;
use crate::broker::Kind;
use crate::measure::{Cpus, Watched};
use crate::world::{World, process};

/// How long it may take until all groups are joined.
const JOINS: Duration = Duration::from_secs(240);
/// How long nothing is looked at then: what was done to join ends.
const SETTLES: Duration = Duration::from_secs(3);

/// A process at rest.
struct Rest {
    /// CPU time of it, as a share of one CPU.
    cpu: f64,
    kib: u64,
}

/// Of the table.
pub(crate) fn heading(plan: &Plan) -> String {
    let count = plan.subscriptions;
    format!(
        "{:<9} {:>26} {:>26} {:>26} {:>12} {:>12}\n{:<9} {:>26} {:>26} {:>26} {:>12} {:>12}",
        "idle",
        "sidecar with none",
        format!("with {count}"),
        "operator, with none and all",
        "programmed",
        "joined",
        "",
        "% of a CPU, MiB",
        "% of a CPU, MiB",
        "MiB",
        "after s",
        "after s"
    )
}

/// Measures a broker; returns its line of the table.
pub(crate) async fn of(kind: Kind, plan: &Plan, cpus: &Cpus) -> Result<String> {
    eprintln!("{}: idle", kind.name());
    let (world, _listener) = World::start(kind, cpus).await?;
    let sidecar = process(&world.billing)?;
    let operator = world.operator()?;
    sleep(SETTLES).await;
    let (none, before) = (at_rest(sidecar, plan.rest).await?, operator.resident_kib()?);
    let begun = Instant::now();
    world.subscribe_often(plan.subscriptions)?;
    let last = format!("billing-{}", plan.subscriptions - 1);
    wait_until("all of them are programmed", SOON, async || {
        let verdict = world.mesh.verdict(&last).await?;
        let programmed = &verdict["programmed"];
        let all = programmed["m"].as_u64().is_some_and(|m| m > 0);
        ensure!(all && programmed["n"] == programmed["m"], "{verdict}");
        Ok(())
    })
    .await?;
    let programmed = begun.elapsed().as_secs_f64();
    world.joined(plan.subscriptions, JOINS).await?;
    let joined = begun.elapsed().as_secs_f64();
    sleep(SETTLES).await;
    let all = at_rest(sidecar, plan.rest).await?;
    let operator = format!("{}, {}", mib(before), mib(operator.resident_kib()?));
    Ok(format!(
        "{:<9} {:>26} {:>26} {operator:>26} {programmed:>12.1} {joined:>12.1}",
        kind.name(),
        none.shown(),
        all.shown(),
    ))
}

async fn at_rest(process: Watched, length: Duration) -> Result<Rest> {
    let (begun, before) = (Instant::now(), process.cpu_ns()?);
    sleep(length).await;
    let used = process.cpu_ns()?.saturating_sub(before);
    Ok(Rest {
        cpu: used as f64 / begun.elapsed().as_nanos() as f64,
        kib: process.resident_kib()?,
    })
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

// === impl Rest ===

impl Rest {
    fn shown(&self) -> String {
        format!("{:.2} %, {}", self.cpu * 100.0, mib(self.kib))
    }
}
