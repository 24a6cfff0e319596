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
        "{:<9} {:>26} {:>26} {:>26} {:>26} {:>12} {:>12}\n{:<9} {:>26} {:>26} {:>26} {:>26} {:>12} {:>12}",
        "idle",
        "sidecar with none",
        format!("with {count}"),
        "operator with none",
        format!("with {count}"),
        "programmed",
        "joined",
        "",
        "% of a CPU, MiB",
        "% of a CPU, MiB",
        "% of a CPU, MiB",
        "% of a CPU, MiB",
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
    let none = at_rest([sidecar, operator], plan.rest).await?;
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
    let all = at_rest([sidecar, operator], plan.rest).await?;
    let (sidecar, operator) = ([&none[0], &all[0]], [&none[1], &all[1]]);
    let shown = [sidecar, operator].concat();
    let shown = shown.iter().map(|rest| format!(" {:>26}", rest.shown()));
    let shown = String::from_iter(shown);
    Ok(format!(
        "{:<9}{shown} {programmed:>12.1} {joined:>12.1}",
        kind.name()
    ))
}

/// What these processes use in the same time.
async fn at_rest<const N: usize>(processes: [Watched; N], length: Duration) -> Result<Vec<Rest>> {
    let used = || {
        let used = processes.iter().map(Watched::cpu_ns);
        used.collect::<Result<Vec<u64>>>()
    };
    let (begun, before) = (Instant::now(), used()?);
    sleep(length).await;
    let (now, took) = (used()?, begun.elapsed().as_nanos() as f64);
    let rests = processes.iter().zip(before.iter().zip(now));
    let rest = |(process, (before, now)): (&Watched, (&u64, u64))| {
        anyhow::Ok(Rest {
            cpu: now.saturating_sub(*before) as f64 / took,
            kib: process.resident_kib()?,
        })
    };
    rests.map(rest).collect()
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
