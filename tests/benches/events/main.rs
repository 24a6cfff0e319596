//! What an event costs a sidecar in CPU, beside the loop that an application would be with the same client of the
//! broker: `cargo bench -p tests --bench events`.
//!
//! A benchmark and not a test: it measures and never fails for a figure. Sidecar and loop take turns in one run, because
//! only ratios of one run mean anything. The process that is measured has one CPU for itself, and producer, application
//! and broker share the other.
//!
//! - *publish*: an application posts events of 1 KiB on 32 kept connections, and each is answered when the broker has
//!   confirmed it;
//! - *deliver*: what waits for a group is posted to an application, ten at a time, and acknowledged;
//! - *idle*: a sidecar with a thousand subscriptions to which nothing comes, beside the same one without any, and what
//!   these cost the operator.
//!
//! Sidecars have one worker and no access log. Options: `--quick` (to see that it works; the figures mean little),
//! `--repetitions N`, `--only NAME` (a broker, `events` or `idle`), `--profile 'NATS publish'` (nothing but that load for
//! half a minute, for `perf`). The release binaries of operator and sidecar must be built.

#![allow(
    clippy::print_stdout,
    reason = "a table on standard output is what it is for"
)]

mod bare;
mod broker;
#[path = "../hop/child.rs"]
mod child;
mod cost;
mod idle;
mod load;
#[path = "../hop/measure.rs"]
#[expect(dead_code, reason = "calls have latencies as well")]
mod measure;
mod sample;
mod world;

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use broker::Kind;
use measure::Cpus;

/// How much is measured.
struct Plan {
    repetitions: usize,
    /// Length of one measurement.
    length: Duration,
    /// Length of one measurement of a sidecar at rest.
    rest: Duration,
    /// How many subscriptions are idle.
    subscriptions: usize,
    /// Not everything.
    only: Option<String>,
    /// Not to measure, but to keep up this load.
    profile: Option<String>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = arguments.as_slice()
        && role == bare::ROLE
    {
        return bare::run(rest);
    }
    // Sidecars inherit it. A variable of a running process cannot be set safely: begin again.
    if std::env::var_os(world::ACCESS_LOG).is_none_or(|value| value != "off") {
        let again = Command::new(std::env::current_exe()?)
            .args(&arguments)
            .env(world::ACCESS_LOG, "off")
            .exec();
        return Err(again).context("cannot start again");
    }
    let plan = Plan::parse(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Whoever ends it early finds nothing left: all ends when `bench` is dropped.
        tokio::select! {
            ended = bench(&plan) => ended,
            told = told_to_end() => told,
        }
    })
}

async fn told_to_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        told = tokio::signal::ctrl_c() => told?,
        _ = terminate.recv() => {}
    }
    bail!("ended early");
}

async fn bench(plan: &Plan) -> Result<()> {
    let cpus = Cpus::choose()?;
    if let Some(named) = &plan.profile {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| named.starts_with(kind.name()));
        let kind = kind.with_context(|| format!("{named} begins with no broker"))?;
        return cost::profile(kind, named.ends_with(" deliver"), &cpus).await;
    }
    println!(
        "{} cores, load {}; {}\n",
        std::thread::available_parallelism()?,
        load_now(),
        cpus.describe()
    );
    if plan.wants("events") {
        println!("{}", cost::heading());
        for kind in plan.brokers() {
            print!("{}", cost::of(kind, plan, &cpus).await?);
        }
        println!(
            "\nmedians of {} repetitions (least..greatest), which take turns\n",
            plan.repetitions
        );
    }
    if plan.wants("idle") {
        println!("{}", idle::heading(plan));
        for kind in plan.brokers() {
            // A broker that takes long for so many groups is no reason to say nothing of the next.
            match idle::of(kind, plan, &cpus).await {
                Ok(line) => println!("{line}"),
                Err(error) => println!("{:<9} is not measured: {error:#}", kind.name()),
            }
        }
    }
    println!("\nload {} at the end", load_now());
    Ok(())
}

/// The load average of the last minute.
fn load_now() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

// === impl Plan ===

impl Plan {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut plan = Self {
            repetitions: 3,
            length: Duration::from_secs(3),
            rest: Duration::from_secs(20),
            subscriptions: 1_000,
            only: None,
            profile: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => {}
                "--quick" => {
                    plan.repetitions = 1;
                    plan.length = Duration::from_secs(1);
                    plan.rest = Duration::from_secs(3);
                    plan.subscriptions = 20;
                }
                "--repetitions" => plan.repetitions = value()?.parse()?,
                "--only" => plan.only = Some(value()?.clone()),
                "--profile" => plan.profile = Some(value()?.clone()),
                _ => bail!(
                    "unknown option {argument}: --quick, --repetitions N, --only NAME, --profile NAME"
                ),
            }
        }
        ensure!(plan.repetitions > 0, "--repetitions must be at least 1");
        Ok(plan)
    }

    fn wants(&self, what: &str) -> bool {
        let only = self.only.as_deref();
        only.is_none_or(|only| only == what || !["events", "idle"].contains(&only))
    }

    fn brokers(&self) -> impl Iterator<Item = Kind> {
        let only = self.only.as_deref();
        let wanted = move |kind: &Kind| {
            only.is_none_or(|only| only == kind.name() || ["events", "idle"].contains(&only))
        };
        Kind::ALL.into_iter().filter(wanted)
    }
}
