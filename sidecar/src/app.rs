//! Builds everything in dependency order, runs it, and ends it.
//!
//! Two kinds of threads: the control thread here (certificates, configuration, admin), and the
//! workers (requests). A scrape, a renewal or a large update takes no time from a request.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use wire::client::Says;
use wire::delta::{Held, Save};
use wire::probe::Probes;

use crate::admin::probes::Prober;
use crate::admin::{self, Admin, Readiness};
use crate::args::{AccessLogFormat, Args};
use crate::capture::in_force;
use crate::config::State;
use crate::config::apply::Applier;
use crate::config::followers::Followers;
use crate::config::lookup::{self, Asking};
use crate::events::desk::Desk;
use crate::identity::certs::{Certs, Credentials};
use crate::identity::store::{self, Store};
use crate::net::connect::Connector;
use crate::net::to_operator::Operator;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::access_log::selection::Selection;
use crate::telemetry::metrics::Metrics;
use crate::{drain, worker};

/// How long the last lines of the access log may take to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the sidecar until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// What keeps it from starting: an address in use, no trust bundle, a state folder that cannot be
/// made.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(run_until(args, ended()))
}

/// Takes as many descriptors as the process may have: the bounds on connections are ours to keep
/// (`proxy/limits.rs`), and a soft limit of 1024, which many a host starts with, is less than they
/// are.
fn raise_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// As [`run`], ending with `stop` instead of a signal; needs a runtime that can spawn locally.
///
/// # Errors
/// As [`run`].
pub async fn run_until(args: &Args, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    raise_descriptors();
    let connector = Connector {
        mark: args.mark,
        application: args.application_address,
        way_out: args.way_out.clone(),
    };
    if let Some(by) = args.captured_by {
        let inbound = args.listen_inbound.first();
        let inbound = inbound.context("--captured-by needs --listen-inbound")?;
        in_force::verify(by, inbound.port(), &connector).await?;
    }
    let store = Store::open(&args.state)
        .with_context(|| format!("cannot make the state folder {}", args.state.display()))?;
    let first_roots = match store.roots() {
        Some(kept) => kept,
        None => first_trust(args)?,
    };
    let metrics = Arc::new(Metrics::new());
    let (access_log, written) = match args.access_log {
        AccessLogFormat::Json => {
            let selection = Selection {
                sample: args.access_log_sample,
                filter: args.access_log_filter,
            };
            let dropped = metrics.access_log_dropped.clone();
            let (log, written) = AccessLog::to_stdout(selection, dropped)?;
            (log, Some(written))
        }
        AccessLogFormat::Off => (AccessLog::off(), None),
    };
    let prober = prober(args, &connector)?;
    let operator = Operator {
        address: args.operator.clone(),
        trust_domain: args.trust_domain.clone(),
        connector: connector.clone(),
    };
    let (draining, drain) = drain::new();
    let (state, state_changes) = watch::channel(Arc::new(State::default()));
    let (credentials, credentials_changes) = watch::channel(None);
    let (roots, newer_roots) = watch::channel(None);
    let (stop_workers, stopped) = watch::channel(false);
    let followers = Arc::new(Followers::new(args.workers()));

    let (questions, asked) = mpsc::channel(lookup::WAITING);
    let (claims, claimed) = mpsc::channel(lookup::WAITING);
    let asking = Asking::new(questions, claims, state_changes.clone(), metrics.clone());

    let shared = worker::Shared {
        asking,
        outbound: args.listen_outbound,
        publish: args.listen_publish,
        inbound: args.listen_inbound.clone(),
        connector,
        state: state_changes.clone(),
        credentials: credentials_changes.clone(),
        followers: followers.clone(),
        metrics: metrics.clone(),
        access_log,
        healths: metrics.attempts.healths.clone(),
        budgets: metrics.attempts.budgets.clone(),
        drain: drain.clone(),
        desk: Desk::default(),
    };
    let workers = worker::start(&shared, args.workers(), &stopped)?;

    let certs = Certs {
        operator: operator.clone(),
        token_file: args.token_file.clone(),
        first_roots,
        store: store.clone(),
        trust_domain: args.trust_domain.clone(),
        publish: credentials,
        newer_roots,
    };
    let certs = tokio::task::spawn_local(certs.run());
    let expiry =
        tokio::task::spawn_local(report_expiry(metrics.clone(), credentials_changes.clone()));

    let idle = tokio::task::spawn_local(metrics.clone().drop_idle());

    let applier = Applier::new(state, roots, followers.clone(), metrics.clone());
    let (shown, held) = watch::channel(Arc::default());
    let (stream_state, stream) = watch::channel(wire::client::State::default());
    let configuration = tokio::task::spawn_local({
        let (credentials, metrics) = (credentials_changes.clone(), metrics.clone());
        async move {
            let held = restored(&store);
            let connect = || connect(operator.clone(), credentials.clone());
            let persist = |held: &mut Held| {
                keep(&store, held);
                shown.send_replace(Arc::new(held.resources().cloned().collect()));
            };
            let reports = metrics.events.reports().clone();
            let says = Says {
                questions: asked,
                claims: claimed,
                reports,
            };
            let connected = report_connection(&metrics, stream_state.subscribe());
            tokio::select! {
                never = wire::client::run(connect, held, applier, persist, &stream_state, says) => match never {},
                () = connected => {}
            }
        }
    });

    let admin = Admin {
        readiness: Readiness {
            state: state_changes,
            credentials: credentials_changes,
            stream,
            followers,
            drain,
        },
        held,
        metrics,
        access_log: shared.access_log.selected(),
        taps: shared.access_log.taps().clone(),
        prober,
        desk: shared.desk.clone(),
    };
    let servers = admin::start(
        admin,
        args.listen_admin,
        args.listen_metrics,
        args.listen_ready,
    )?;
    tracing::info!(
        workers = args.workers(),
        outbound = %args.listen_outbound,
        "listening"
    );

    stop.await;
    tracing::info!(connections = draining.under_way(), "draining");
    if tokio::time::timeout(args.drain_timeout, draining.begin())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = draining.under_way(),
            "not all connections ended in time"
        );
    }
    for task in [certs, expiry, idle, configuration]
        .into_iter()
        .chain(servers)
    {
        task.abort();
    }
    stop_workers.send_replace(true);
    for worker in workers {
        // A worker that panicked has logged it; the others still end in order.
        let _ = worker.join();
    }
    drop(shared);
    if let Some(written) = written {
        // Told by hanging up. Whoever reads our output may be stuck: then the lines are lost.
        let _ = written.recv_timeout(LAST_LINES);
    }
    tracing::info!("drained");
    Ok(())
}

fn first_trust(args: &Args) -> anyhow::Result<Vec<Vec<u8>>> {
    match &args.bundle {
        Some(pem) => store::parse_bundle(pem.as_bytes()).context("MESHWRIGHT_BUNDLE"),
        None => store::read_bundle(&args.bundle_file).with_context(|| {
            format!(
                "no trust bundle at {}: without roots nobody can be trusted",
                args.bundle_file.display()
            )
        }),
    }
}

/// Who asks the application for the kubelet, where the kubelet asks.
fn prober(args: &Args, connector: &Connector) -> anyhow::Result<Option<Rc<Prober>>> {
    let Some(text) = &args.probes else {
        return Ok(None);
    };
    let probes = Probes::parse(text).context("MESHWRIGHT_PROBES")?;
    Ok(Some(Rc::new(Prober::new(probes, connector.clone())?)))
}

/// What an earlier life held; nothing when it is torn or there was none.
fn restored(store: &Store) -> Held {
    let mut held = Held::new(env!("CARGO_PKG_VERSION"), wire::capability::ALL);
    if let Some(bytes) = store.config()
        && let Err(error) = held.restore(&bytes)
    {
        tracing::warn!(%error, "the configuration of an earlier life cannot be used");
    }
    held
}

/// Keeps what is held for a restart.
fn keep(store: &Store, held: &mut Held) {
    let kept = match held.save() {
        Save::Whole(bytes) => store.save_config(&bytes),
        Save::Append(bytes) => store.append_config(&bytes).or_else(|_| {
            // Perhaps there is no file any more.
            held.save_failed();
            store.save_config(&held.to_bytes())
        }),
    };
    if let Err(error) = kept {
        held.save_failed();
        tracing::warn!(%error, "cannot keep the configuration for a restart");
    }
}

/// Opens a connection to the operator once there is a leaf to show.
async fn connect(
    operator: Operator,
    mut credentials: watch::Receiver<Option<Arc<Credentials>>>,
) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    let ready = |credentials: &Option<Arc<Credentials>>| {
        credentials
            .as_ref()
            .is_some_and(|credentials| credentials.in_force())
    };
    let tls = match credentials.wait_for(ready).await {
        Ok(credentials) => credentials.as_ref().map(|c| c.tls.client_grpc.clone()),
        Err(_) => None,
    };
    match tls {
        Some(tls) => operator.connect(tls).await,
        // The certificate task is gone: the process is ending.
        None => std::future::pending().await,
    }
}

async fn report_connection(metrics: &Metrics, mut stream: watch::Receiver<wire::client::State>) {
    loop {
        let connected = stream.borrow_and_update().connected;
        metrics.operator_connected.set(i64::from(connected));
        if stream.changed().await.is_err() {
            return;
        }
    }
}

async fn report_expiry(
    metrics: Arc<Metrics>,
    mut credentials: watch::Receiver<Option<Arc<Credentials>>>,
) {
    loop {
        let until = credentials.borrow_and_update().as_ref().map(|c| c.valid.1);
        let seconds = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok());
        let seconds = seconds.map_or(0, |since| since.as_secs());
        metrics
            .certificate_expiry
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
        if credentials.changed().await.is_err() {
            return;
        }
    }
}

/// Returns on SIGTERM or SIGINT.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the default action ends the process.
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::delta::{Apply, Change, Rejected};
    use wire::discovery::Delta;
    use wire::generation::Input;
    use wire::{Generation, Resource, mesh};

    struct Anything;

    impl Apply for Anything {
        fn apply(&mut self, _: Vec<Change>) -> Vec<Rejected> {
            Vec::new()
        }
    }

    /// A delta of this revision, with a route of so many bytes or none.
    fn receive(held: &mut Held, revision: u64, bytes: Option<usize>) {
        let seen = Generation::ZERO
            .with(Input::ApiRoute, revision)
            .with(Input::Service, revision);
        let route = |bytes| {
            let route = mesh::Route {
                name: "x".repeat(bytes),
                ..Default::default()
            };
            let id = "route/shop/orders".parse().unwrap();
            Resource::new(id, seen, &[], &route).into()
        };
        let delta = Delta {
            nonce: held.hello().nonce.wrapping_add(1),
            resources: bytes.map(route).into_iter().collect(),
            seen: Some(seen.into()),
            ..Default::default()
        };
        let ack = held.receive(delta, &mut Anything).unwrap();
        assert!(ack.rejected.is_empty(), "{ack:?}");
    }

    #[test]
    fn what_is_held_is_kept_and_a_newer_position_adds_little_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut held = restored(&store);
        receive(&mut held, 1, Some(1_000_000));
        keep(&store, &mut held);
        let whole = store.config().unwrap();

        receive(&mut held, 2, None);
        keep(&store, &mut held);

        let file = store.config().unwrap();
        assert!(file.starts_with(&whole) && file.len() < whole.len() + 200);
        assert_eq!(restored(&store).to_bytes(), held.to_bytes());
        assert_eq!(restored(&store).seen().at(Input::ApiRoute), 2);
    }

    #[test]
    fn a_file_that_is_gone_or_was_cut_off_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut held = restored(&store);
        receive(&mut held, 1, Some(10));
        keep(&store, &mut held);
        std::fs::remove_file(folder.path().join("config.bin")).unwrap();
        receive(&mut held, 2, Some(20));
        keep(&store, &mut held);
        assert_eq!(restored(&store).to_bytes(), held.to_bytes());

        // Killed while it appended.
        store.append_config(&[9; 5]).unwrap();
        let mut held = restored(&store);
        receive(&mut held, 3, Some(30));
        keep(&store, &mut held);
        receive(&mut held, 4, Some(40));
        keep(&store, &mut held);
        assert_eq!(restored(&store).to_bytes(), held.to_bytes());
    }
}
