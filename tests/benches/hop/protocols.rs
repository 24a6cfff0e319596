//! What else applications speak than small HTTP/1.1 calls, through a pair: gRPC, opaque bytes,
//! upgraded connections, and bodies in bulk. Each beside Envoy set up to do the same.
//!
//! Our sidecars are explicit proxies here, as in the tests, so an opaque connection begins with
//! `CONNECT`, which a captured one does not. Envoy has it both ways.

mod grpc;
mod raw;
mod report;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tests::mesh::{Mesh, Sidecar};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::child::Proxy;
use crate::envoy::{self, Carries, Envoys};
use crate::measure::{self, Cpus, Done, Sample, Watched};
use crate::{Plan, mesh, relay};
use raw::{Bulk, Way};

pub(crate) use report::Report;

/// The Service that speaks HTTP/1.1: bodies in bulk, and what is upgraded.
const FILES: &str = "files";
/// The Service that speaks HTTP/2.
const ORDERS: &str = "orders";
/// The Service whose bytes nobody reads.
const LEDGER: &str = "ledger";

/// No measurement takes longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(120);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Small unary calls, 32 at a time over one connection.
    Grpc,
    /// Exchanges of 64 bytes over 32 connections.
    Opaque,
    /// Connections with one such exchange, 32 at a time.
    SetUp,
    /// Exchanges of 64 bytes over 32 connections that were HTTP/1.1.
    Upgraded,
    /// Bodies, so many at a time.
    Bulk(Bulk, usize),
    /// The same as opaque bytes.
    OpaqueBulk(Bulk),
}

/// A scenario through a proxy.
pub(crate) struct Subject {
    pub(crate) scenario: Scenario,
    /// The proxy's, in the table.
    pub(crate) name: &'static str,
    way: Way,
    processes: Vec<Watched>,
    /// The most that its processes had after a measurement, KiB.
    pub(crate) resident_kib: u64,
    /// One for each repetition.
    pub(crate) samples: Vec<Sample>,
}

/// Where calls to one Service go in, and whose CPU time counts.
struct Place {
    name: &'static str,
    service: &'static str,
    address: SocketAddr,
    tunnel: bool,
    processes: Vec<Watched>,
}

/// Ends when dropped.
struct Running {
    _relays: Vec<Proxy>,
    _envoys: Vec<envoy::Pair>,
    _client: tests::client::Client,
    _sidecars: Vec<Sidecar>,
    _upstreams: JoinSet<()>,
    _mesh: Mesh,
}

/// Measures all of it, or what `plan` names.
pub(crate) async fn bench(plan: &Plan, cpus: &Cpus, envoy: Option<&Path>) -> Result<Report> {
    cpus.pin_to_proxies()?;
    let (places, _running) = start(envoy).await?;
    cpus.pin_to_peers()?;
    let mut subjects = subjects(&places);
    if let Some(name) = plan.only.as_deref().filter(|&name| name != "protocols") {
        subjects.retain(|subject| subject.scenario.name() == name);
        ensure!(
            !subjects.is_empty(),
            "nothing is called `{name}`: see the table"
        );
    }
    for subject in &subjects {
        let ready = tests::wait_until(subject.name, tests::mesh::SOON, async || {
            subject.load(32, 1 << 20).await
        });
        ready.await?;
    }
    if let Some(name) = &plan.profile {
        profile(&subjects, name, plan).await?;
        subjects.clear();
    }
    for repetition in 0..plan.repetitions {
        eprintln!(
            "protocols: repetition {} of {}",
            repetition + 1,
            plan.repetitions
        );
        for of_scenario in subjects.chunk_by_mut(|one, next| one.scenario == next.scenario) {
            let count = of_scenario.len();
            for place in 0..count {
                // Each repetition begins with another one, so that none always follows the same.
                of_scenario[(place + repetition) % count]
                    .measure(plan)
                    .await?;
            }
        }
    }
    Ok(Report {
        subjects,
        bulk_bytes: plan.bulk_bytes,
    })
}

/// Everything that bytes pass, started where the proxies are to be.
async fn start(envoy: Option<&Path>) -> Result<(Vec<Place>, Running)> {
    let yaml = [
        mesh::service(FILES, "http", "/api"),
        mesh::service(ORDERS, "kubernetes.io/h2c", "/api.Orders"),
        mesh::opaque_service(LEDGER),
    ];
    let mesh = Mesh::start(&yaml.join("---\n")).await?;
    let client = mesh.client("web").await?;
    let near = mesh::process(client.sidecar())?;
    let envoys = envoy
        .map(|binary| Envoys::new(binary.to_owned()))
        .transpose()?;
    let mut places = Vec::new();
    let (mut relays, mut pairs, mut sidecars) = (Vec::new(), Vec::new(), Vec::new());
    let mut upstreams = JoinSet::new();
    for (service, carries) in [
        (
            FILES,
            &[
                ("Envoy", Carries::Http1),
                ("Envoy, 1.1", Carries::Http1AsItIs),
            ][..],
        ),
        (ORDERS, &[("Envoy", Carries::Http2)]),
        (
            LEDGER,
            &[("Envoy", Carries::Tcp), ("Envoy, CONNECT", Carries::Tunnel)],
        ),
    ] {
        let (listener, sidecar) = mesh.listener(service).await?;
        let upstream = listener.local_addr()?;
        let mut place = |name, address, tunnel, processes| {
            places.push(Place {
                name,
                service,
                address,
                tunnel,
                processes,
            });
        };
        place("direct", upstream, false, vec![]);
        let relay = relay::start(upstream).await?;
        place("TCP relay", relay.address, false, vec![relay.process()]);
        relays.push(relay);
        if let Some(envoys) = &envoys {
            for &(name, carries) in carries {
                let pair = envoys.pair(upstream, carries).await?;
                let tunnel = carries == Carries::Tunnel;
                place(name, pair.client.address, tunnel, pair.processes());
                pairs.push(pair);
            }
        }
        let processes = vec![near, mesh::process(&sidecar)?];
        let outbound = mesh::outbound(client.sidecar());
        place("Meshwright", outbound, service == LEDGER, processes);
        sidecars.push(sidecar);
        serve(&mut upstreams, service, listener);
    }
    for route in [FILES, ORDERS] {
        mesh.programmed(route)
            .await
            .context("the mesh is not ready")?;
    }
    let running = Running {
        _relays: relays,
        _envoys: pairs,
        _client: client,
        _sidecars: sidecars,
        _upstreams: upstreams,
        _mesh: mesh,
    };
    Ok((places, running))
}

fn serve(upstreams: &mut JoinSet<()>, service: &str, listener: TcpListener) {
    if service == ORDERS {
        upstreams.spawn(grpc::upstream(listener));
    } else {
        upstreams.spawn(raw::upstream(listener));
    }
}

/// Every scenario through every place of its Service, scenario by scenario.
fn subjects(places: &[Place]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for scenario in Scenario::ALL {
        for place in places {
            if place.service != scenario.service() || !scenario.is_told_apart_by(place.name) {
                continue;
            }
            subjects.push(Subject {
                scenario,
                // Nothing of it is carried as HTTP/2 between.
                name: match (scenario, place.name) {
                    (Scenario::Upgraded, "Envoy, 1.1") => "Envoy",
                    (_, name) => name,
                },
                way: Way {
                    address: place.address,
                    host: place.service,
                    tunnel: place.tunnel,
                },
                processes: place.processes.clone(),
                resident_kib: 0,
                samples: Vec::new(),
            });
        }
    }
    subjects
}

/// Keeps one load up, for another program to look at the processes.
async fn profile(subjects: &[Subject], name: &str, plan: &Plan) -> Result<()> {
    let named = |one: &&Subject| format!("{} {}", one.name, one.scenario.name()) == name;
    let subject = subjects.iter().find(named);
    let subject = subject
        .with_context(|| format!("nothing is called `{name}`: proxy and what, as in the table"))?;
    let ids: Vec<String> = subject
        .processes
        .iter()
        .map(|one| one.0.to_string())
        .collect();
    println!("processes {}", ids.join(" "));
    let end = Instant::now() + crate::PROFILE;
    while Instant::now() < end {
        subject
            .load(subject.scenario.calls(plan), plan.bulk_bytes)
            .await?;
    }
    Ok(())
}

/// Makes so many calls, each of `own` one after the other without a pause, and charges what
/// `processes` used meanwhile to them. What `own` needs has been opened before.
async fn saturate<T, F>(
    processes: &[Watched],
    own: Vec<T>,
    calls: u32,
    call: impl Fn(T) -> F + Copy + Send + 'static,
) -> Result<Sample>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let left = Arc::new(AtomicU32::new(calls));
    let load = async {
        let start = Instant::now();
        let mut working = JoinSet::new();
        for mut one in own {
            let left = left.clone();
            working.spawn(async move {
                let mut latencies = Vec::new();
                let take = |left: u32| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    let sent = Instant::now();
                    one = call(one).await?;
                    latencies.push(u64::try_from(sent.elapsed().as_nanos())?);
                }
                anyhow::Ok(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(ended) = working.join_next().await {
            latencies.append(&mut ended??);
        }
        Done::new(start, latencies)
    };
    measure::during(processes, load).await
}

// === impl Scenario ===

impl Scenario {
    const ALL: [Self; 10] = [
        Self::Grpc,
        Self::Opaque,
        Self::SetUp,
        Self::Upgraded,
        Self::Bulk(Bulk::Down, 1),
        Self::Bulk(Bulk::Down, 4),
        Self::Bulk(Bulk::Up, 1),
        Self::Bulk(Bulk::Up, 4),
        Self::OpaqueBulk(Bulk::Down),
        Self::OpaqueBulk(Bulk::Up),
    ];

    /// For the report, and to choose it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "gRPC",
            Self::Opaque => "opaque",
            Self::SetUp => "opaque-set-up",
            Self::Upgraded => "websocket",
            Self::Bulk(Bulk::Down, 1) => "download",
            Self::Bulk(Bulk::Down, _) => "downloads",
            Self::Bulk(Bulk::Up, 1) => "upload",
            Self::Bulk(Bulk::Up, _) => "uploads",
            Self::OpaqueBulk(Bulk::Down) => "opaque-download",
            Self::OpaqueBulk(Bulk::Up) => "opaque-upload",
        }
    }

    /// Whether bytes are counted, and not calls.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::Bulk(..) | Self::OpaqueBulk(_))
    }

    /// How many bodies at a time share the bytes.
    pub(crate) fn bodies(self) -> usize {
        match self {
            Self::Bulk(_, bodies) => bodies,
            _ => 1,
        }
    }

    fn service(self) -> &'static str {
        match self {
            Self::Grpc => ORDERS,
            Self::Opaque | Self::SetUp | Self::OpaqueBulk(_) => LEDGER,
            Self::Upgraded | Self::Bulk(..) => FILES,
        }
    }

    /// Whether a proxy's row says something that no other says.
    fn is_told_apart_by(self, name: &str) -> bool {
        match name {
            // HTTP/2 between carries no upgrade unless asked to, and ours does not either.
            "Envoy" => self != Self::Upgraded,
            "Envoy, CONNECT" => self == Self::SetUp,
            _ => true,
        }
    }

    fn calls(self, plan: &Plan) -> u32 {
        match self {
            // A handshake costs as much as some ten calls.
            Self::SetUp => plan.calls / 20,
            _ => plan.calls,
        }
    }
}

// === impl Subject ===

impl Subject {
    async fn load(&self, calls: u32, bytes: u64) -> Result<Sample> {
        let (way, of) = (self.way, self.processes.as_slice());
        let load = async {
            match self.scenario {
                Scenario::Grpc => grpc::calls(of, way, calls).await,
                Scenario::Opaque => raw::ping_pong(of, way, false, calls).await,
                Scenario::SetUp => raw::set_up(of, way, calls).await,
                Scenario::Upgraded => raw::ping_pong(of, way, true, calls).await,
                Scenario::Bulk(bulk, bodies) => raw::bulk(of, way, bulk, bodies, bytes).await,
                Scenario::OpaqueBulk(bulk) => raw::bulk(of, way, bulk, 1, bytes).await,
            }
        };
        let ended = tokio::time::timeout(LIMIT, load).await;
        ended.unwrap_or_else(|_| bail!("not done within {LIMIT:?}"))
    }

    async fn measure(&mut self, plan: &Plan) -> Result<()> {
        let context = || format!("{} ({})", self.name, self.scenario.name());
        let calls = self.scenario.calls(plan);
        // Pools and caches fill before anything is counted.
        let warm = self.load(calls / 10, plan.bulk_bytes / 16).await;
        warm.with_context(context)?;
        let sample = self.load(calls, plan.bulk_bytes).await;
        let sample = sample.with_context(context)?;
        let resident = self.processes.iter().map(Watched::resident_kib);
        let resident = resident.sum::<Result<u64>>()?;
        self.resident_kib = self.resident_kib.max(resident);
        self.samples.push(sample);
        Ok(())
    }
}
