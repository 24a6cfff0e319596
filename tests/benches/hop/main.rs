//! What a proxied call costs in CPU, beside a bare TCP relay and Envoy: `cargo bench -p tests
//! --bench hop`.
//!
//! A benchmark and not a test: it measures and never fails for a figure. Everything is interleaved
//! in one run, because only ratios of one run mean anything: another machine, or the same one with
//! a neighbour, has other microseconds. Client and upstream share one CPU, proxies have the other.
//!
//! - *hop*: client → proxy → upstream, plaintext HTTP/1.1 on both sides;
//! - *pair*: client → proxy → HTTP/2 over mutual TLS 1.3 → proxy → upstream;
//! - *saturated*: every connection sends its next call as soon as the last is answered;
//! - *paced*: calls are due at a fixed rate, and latency counts from when they were.
//!
//! All proxies have one worker, a route that matches by prefix, a timeout and counters, and no
//! access log. What else than small calls passes a pair is in [`protocols`], and a table of its own.
//! Options: `--quick` (to see that it works; the figures mean little), `--repetitions N`, `--out FILE`
//! (the same as JSON), `--only calls` (or `protocols`, or one of them as the table calls it),
//! `--profile 'Meshwright pair paced'` or `'Meshwright download'` (nothing but that load for half a
//! minute, for `perf` and `strace`). The release binaries of operator and sidecar must be built.

#![allow(
    clippy::print_stdout,
    reason = "a table on standard output is what it is for"
)]

mod child;
mod envoy;
mod load;
mod measure;
mod mesh;
mod protocols;
mod relay;
mod report;
mod subject;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use load::{Client, Upstream};
use measure::Cpus;
use subject::{Subject, Way};

/// How long `--profile` keeps a load up.
const PROFILE: Duration = Duration::from_secs(30);

/// How much is measured.
struct Plan {
    repetitions: usize,
    /// Calls of one saturated measurement.
    calls: u32,
    /// Length of one paced measurement.
    paced: Duration,
    /// Bytes of one measurement of bulk.
    bulk_bytes: u64,
    /// Not everything: `calls`, `protocols`, or one of these.
    only: Option<String>,
    out: Option<PathBuf>,
    /// Not to measure, but to keep up this load: proxy, call and load as in the table.
    profile: Option<String>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, listen, to] = arguments.as_slice()
        && role == relay::ROLE
    {
        return relay::run(listen.parse()?, to.parse()?);
    }
    // Sidecars inherit it. A variable of a running process cannot be set safely: begin again.
    if std::env::var_os(mesh::ACCESS_LOG).is_none_or(|value| value != "off") {
        let again = Command::new(std::env::current_exe()?)
            .args(&arguments)
            .env(mesh::ACCESS_LOG, "off")
            .exec();
        return Err(again).context("cannot start again");
    }
    let plan = Plan::parse(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Whoever ends it early finds no proxies left: they end when `bench` is dropped.
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
    let envoy = match envoy::install().await {
        Ok(binary) => Some(binary),
        Err(error) => {
            println!("Envoy's rows stay empty, for it is not to be had: {error:#}\n");
            None
        }
    };
    let environment = report::Environment::read(&cpus)?;
    let mut out = json!({});
    if plan.wants_calls() {
        let report = calls(plan, &cpus, environment, envoy.as_deref()).await?;
        println!("{}", report.table());
        out = report.json();
    } else {
        println!("{}\n", environment.line());
    }
    if plan.wants_protocols() {
        let report = protocols::bench(plan, &cpus, envoy.as_deref()).await?;
        println!("{}", report.table());
        out["protocols"] = report.json();
    }
    if let Some(path) = &plan.out {
        std::fs::write(path, format!("{out:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Small HTTP/1.1 calls through a hop and a pair.
async fn calls(
    plan: &Plan,
    cpus: &Cpus,
    environment: report::Environment,
    envoy: Option<&Path>,
) -> Result<report::Report> {
    // What is started now inherits the proxies' CPU.
    cpus.pin_to_proxies()?;
    let upstream = Upstream::start("127.0.0.1:0".parse()?).await?;
    let relay = relay::start(upstream.address()).await?;
    let envoy = match envoy {
        Some(binary) => {
            let envoys = envoy::Envoys::new(binary.to_owned())?;
            let hop = envoys.hop(upstream.address()).await?;
            let pair = envoys.pair(upstream.address(), envoy::Carries::Http1);
            Some((hop, pair.await?))
        }
        None => None,
    };
    let mesh = mesh::Ours::start().await?;
    let empty_kib = mesh::empty_sidecar_kib().await?;
    cpus.pin_to_peers()?;

    let mut subjects = vec![
        Subject::new("direct", Way::Direct, upstream.address(), vec![]),
        Subject::new("TCP relay", Way::Hop, relay.address, vec![relay.process()]),
    ];
    if let Some((hop, pair)) = &envoy {
        subjects.push(Subject::new(
            "Envoy",
            Way::Hop,
            hop.address,
            vec![hop.process()],
        ));
        let (address, pair) = (pair.client.address, pair.processes());
        subjects.push(Subject::new("Envoy", Way::Pair, address, pair));
    }
    let (hop, pair) = (vec![mesh.hop_process], mesh.pair_processes.clone());
    subjects.push(Subject::new("Meshwright", Way::Hop, mesh.hop, hop));
    subjects.push(Subject::new("Meshwright", Way::Pair, mesh.pair, pair));

    for subject in &mut subjects {
        subject.idle_kib = subject.resident_kib()?;
    }
    for subject in &subjects {
        let ready = tests::wait_until(subject.name, tests::mesh::SOON, async || {
            Client::open(subject.address, subject.host(), 1)
                .await?
                .call_once()
                .await
        });
        ready.await?;
    }
    if let Some(name) = &plan.profile {
        profile(&subjects, name).await?;
        subjects.clear();
    }
    for repetition in 0..plan.repetitions {
        eprintln!("repetition {} of {}", repetition + 1, plan.repetitions);
        for place in 0..subjects.len() {
            // Each repetition begins with another one, so that none always follows the same.
            let place = (place + repetition) % subjects.len();
            subjects[place].measure(plan).await?;
        }
    }
    for subject in &mut subjects {
        subject.loaded_kib = subject.resident_kib()?;
    }
    Ok(report::Report {
        environment,
        subjects,
        empty_kib,
        repetitions: plan.repetitions,
    })
}

/// Keeps one load up, for another program to look at the processes.
async fn profile(subjects: &[Subject], name: &str) -> Result<()> {
    for subject in subjects {
        let of = |load: &str| format!("{} {} {load}", subject.name, subject.way.name()) == name;
        let (saturated, paced) = (of("saturated"), of("paced"));
        if !saturated && !paced {
            continue;
        }
        let ids: Vec<String> = subject
            .processes
            .iter()
            .map(|one| one.0.to_string())
            .collect();
        println!("processes {}", ids.join(" "));
        let mut client = Client::open(subject.address, subject.host(), load::CONNECTIONS).await?;
        let end = Instant::now() + PROFILE;
        while Instant::now() < end {
            if saturated {
                client.saturate(10_000).await?;
            } else {
                client.pace(subject.rate(), Duration::from_secs(5)).await?;
            }
        }
        return Ok(());
    }
    bail!("nothing is called `{name}`: proxy, call and load, as in the table")
}

// === impl Plan ===

impl Plan {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut plan = Self {
            repetitions: 7,
            calls: 40_000,
            paced: Duration::from_secs(2),
            bulk_bytes: 1 << 30,
            only: None,
            out: None,
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
                    plan.repetitions = 2;
                    plan.calls = 8_000;
                    plan.paced = Duration::from_millis(500);
                    plan.bulk_bytes = 1 << 27;
                }
                "--repetitions" => plan.repetitions = value()?.parse()?,
                "--only" => plan.only = Some(value()?.clone()),
                "--out" => plan.out = Some(value()?.into()),
                "--profile" => plan.profile = Some(value()?.clone()),
                _ => bail!(
                    "unknown option {argument}: --quick, --repetitions N, --only NAME, --out FILE, \
                     --profile NAME"
                ),
            }
        }
        if plan.repetitions == 0 {
            bail!("--repetitions must be at least 1");
        }
        Ok(plan)
    }
    fn wants_calls(&self) -> bool {
        match &self.profile {
            Some(name) => name.ends_with(" saturated") || name.ends_with(" paced"),
            None => matches!(self.only.as_deref(), None | Some("calls")),
        }
    }

    fn wants_protocols(&self) -> bool {
        match &self.profile {
            Some(_) => !self.wants_calls(),
            None => self.only.as_deref() != Some("calls"),
        }
    }
}
