//! Builds everything in the order of who needs whom, and takes it down again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Config;
use crate::ca::provided::Provider;
use crate::ca::secret::{InSecret, ProvidedSecret};
use crate::ca::store::{self, KeyStore};
use crate::ca::{self, Ca};
use crate::capacity;
use crate::certificates::Certificates;
use crate::claims::{Claims, folder, lease::Leases};
use crate::events::Events;
use crate::grpc::{self, Services};
use crate::http::Http;
use crate::issuer::Issuer;
use crate::issuer::review::Reviewer;
use crate::issuer::table::Table;
use crate::leader::{Election, Leader, Resignation};
use crate::push::{Discovery, Grpc, Streams};
use crate::reconcile::Reconciler;
use crate::replicas::Replicas;
use crate::replicas::duty::Duty;
use crate::replicas::follow::Follower;
use crate::replicas::service::Listener;
use crate::source::cluster::Cluster;
use crate::source::folder::Folder;
use crate::status::{Observed, Statuses};
use crate::telemetry::Metrics;
use crate::tls::Acceptor;
use crate::unmeshed::Watchdog;
use crate::verdicts::Verdicts;
use crate::webhook::Webhook;
use crate::webhook::certificate::Serving;
use crate::webhook::validate::Validator;

/// How long open requests and streams may take to end.
const DRAIN: Duration = Duration::from_secs(4);
/// How often streams whose certificate has ended are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// An operator at work. Dropping it stops everything at once; see [`Running::shutdown`].
#[derive(Debug)]
pub struct Running {
    /// Where sidecars reach discovery and certificates.
    pub grpc: SocketAddr,
    /// Where verdicts, readiness and metrics are.
    pub http: SocketAddr,
    /// The verdicts, for who lives in the same process.
    pub verdicts: Arc<Verdicts>,
    /// The streams, for who lives in the same process.
    pub streams: Arc<Streams>,
    /// The certificate authority, for who lives in the same process.
    pub ca: Arc<Ca>,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    /// Of the Lease, at the end.
    resignation: Option<Resignation>,
    /// What takes part in an orderly end.
    servers: JoinSet<()>,
    /// What is merely stopped. When one of these ends by itself the operator has failed.
    workers: JoinSet<()>,
}

/// What a cluster and a folder provide differently, but for the source.
struct Ground {
    keys: Box<dyn KeyStore>,
    provider: Option<Box<dyn Provider>>,
    issuer: Arc<dyn Issuer>,
    claims: Arc<Claims>,
    client: Option<Client>,
}

/// Starts an operator. It is ready somewhat later: see [`Running::ready`].
///
/// # Errors
/// When the settings contradict each other, an address is taken, the certificate authority's keys
/// can't be read or made, or there is no cluster to talk to.
pub async fn start(config: Config) -> Result<Running> {
    start_as(config, None).await
}

/// As [`start`], as one of several replicas that have folders, which have no Lease: `leader` says
/// which of them leads.
///
/// # Errors
/// As [`start`].
pub async fn start_among(config: Config, leader: watch::Receiver<Leader>) -> Result<Running> {
    start_as(config, Some(leader)).await
}

async fn start_as(config: Config, leader: Option<watch::Receiver<Leader>>) -> Result<Running> {
    let grpc_listener = bind(config.listen_grpc, "--listen-grpc").await?;
    let http = bind(config.listen_http, "--listen-http").await?;
    let (grpc_address, http_address) = (grpc_listener.local_addr()?, http.local_addr()?);
    let Ground {
        keys,
        provider,
        issuer,
        claims,
        client,
    } = ground(&config).await?;
    let settings = ca::Settings {
        trust_domain: config.trust_domain.clone(),
        leaf_life: config.leaf_life,
        root_life: config.root_life,
    };
    let ca = Ca::open_with(keys, provider, settings).await?;
    let acceptor = Acceptor::new(ca.clone())?;

    let streams = Arc::new(Streams::with_room(capacity::streams()));
    // In a folder alone nobody says which pods run beside a sidecar.
    let several = client.is_some() || leader.is_some();
    let (elected, election) = watch::channel(Leader::Nobody);
    let leader = match &client {
        Some(_) => election,
        None => leader.unwrap_or_else(Leader::alone),
    };
    let replicas = Replicas::new(streams.clone(), several.then(|| leader.clone()));
    let verdicts = Arc::new(Verdicts::new(replicas.clone()));
    let metrics = Metrics::new();
    let replica = config.pod_name.clone().unwrap_or_else(drawn_name);
    let (readiness, ready) = watch::channel(false);
    let (compiled, world) = watch::channel(None);
    let stop = CancellationToken::new();

    let mut workers = JoinSet::new();
    let told = streams.clone();
    workers.spawn(
        ca.clone()
            .keep_fresh(move |revision| told.without_bundle(revision)),
    );
    workers.spawn(sweep(streams.clone()));
    workers.spawn(replicas.clone().keep());
    let mut duty = Duty {
        statuses: None,
        follower: Follower {
            streams: streams.clone(),
            replica: replica.clone(),
            ca: ca.clone(),
            metrics: metrics.clone(),
        },
    };
    workers.spawn(claims.clone().tidy(leader.clone(), world.clone()));
    let mut resignation = None;
    let reconciler = Reconciler {
        compile: compiler::compile,
        trust_domain: config.trust_domain.clone(),
        cluster_domain: config.cluster_domain.clone(),
        namespace: config.namespace.clone(),
        streams: streams.clone(),
        verdicts: verdicts.clone(),
        metrics: metrics.clone(),
        watchdog: Watchdog::new(&config.namespace, metrics.clone()),
        world: compiled,
    };
    let mut injection = None;
    match &client {
        None => {
            let source = Folder::new(config.files.clone());
            workers.spawn(reconciler.run(source, ca.bundle(), readiness));
        }
        Some(client) => {
            let observed = Observed::new(streams.clone());
            let seen = observed.clone();
            let on_status = Arc::new(move |object: &_, stored| seen.saw(object, stored));
            let source = Cluster::new(client, &config.namespace, on_status);
            workers.spawn(reconciler.run(source, ca.bundle(), readiness));
            duty.statuses = Some(Arc::new(Statuses {
                client: client.clone(),
                verdicts: verdicts.clone(),
                streams: streams.clone(),
                observed,
                leader: leader.clone(),
                replicas: replicas.clone(),
                events: Events::new(client.clone(), &replica, metrics.clone()),
                metrics: metrics.clone(),
            }));
            let address = config.pod_ip.map(|ip| (ip, grpc_address.port()).into());
            let namespace = &config.namespace;
            let election = Election::new(
                client.clone(),
                namespace,
                &replica,
                address,
                metrics.clone(),
            );
            // Only who has read the cluster may lead.
            workers.spawn(elect(election, elected, ready.clone()));
            resignation = Some(Resignation::new(client.clone(), namespace, &replica));
            let validator = Validator::new(world);
            let webhook = webhook(&config, &ca, client, validator);
            injection = Some(webhook.clone());
            answer_reviews(&mut workers, &config, client, webhook, &metrics).await?;
        }
    }

    if several {
        workers.spawn(duty.run(leader.clone()));
    }

    let mut servers = JoinSet::new();
    let discovery = Discovery::new(streams.clone(), ready.clone(), claims);
    let certificates = Certificates::server(ca.clone(), issuer);
    let services = Services {
        discovery: Grpc(discovery),
        certificates,
        replicas: Listener::server(replicas.clone(), leader.clone()),
    };
    servers.spawn(grpc::serve(acceptor, grpc_listener, services, stop.clone()));
    let answers = Http {
        verdicts: verdicts.clone(),
        streams: streams.clone(),
        replicas,
        leader,
        ca: ca.clone(),
        metrics,
        ready: ready.clone(),
        injection,
    };
    let stopped = stop.clone();
    servers.spawn(async move { answers.serve(http, stopped).await });

    tracing::info!(grpc = %grpc_address, http = %http_address, "the operator has started");
    Ok(Running {
        grpc: grpc_address,
        http: http_address,
        verdicts,
        streams,
        ca,
        ready,
        stop,
        resignation,
        servers,
        workers,
    })
}

// === impl Running ===

impl Running {
    /// Waits until the first world was compiled and sidecars are served; `false` if that is never
    /// going to happen.
    pub async fn ready(&self) -> bool {
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }

    /// Waits until a part of the operator has ended that should not have. Cancel safe.
    pub async fn ended(&mut self) {
        tokio::select! {
            _ = self.workers.join_next() => {}
            _ = self.servers.join_next() => {}
        }
        tracing::error!("a part of the operator has ended; the rest is stopped");
    }

    /// Stops in an orderly way, within five seconds: accepts nothing more, ends the streams (their
    /// sidecars go to another replica, or keep what they have), lets requests end.
    ///
    /// # Errors
    /// When a server had failed.
    pub async fn shutdown(mut self) -> Result<()> {
        tracing::info!("stopping");
        // First of all it tells nobody any more what its sidecars hold: that they leave now, all at
        // once, is not what a status should say.
        self.workers.shutdown().await;
        self.stop.cancel();
        self.streams.close();
        if let Some(resignation) = self.resignation.take() {
            resignation.resign().await;
        }
        let drained = async {
            while let Some(ended) = self.servers.join_next().await {
                ended.context("a server")?;
            }
            Ok(())
        };
        match tokio::time::timeout(DRAIN, drained).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::warn!("some connections didn't end in {DRAIN:?} and are cut off");
                Ok(())
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Connections are tasks of their own.
        self.stop.cancel();
        self.streams.close();
    }
}

/// What answers reviews.
fn webhook(config: &Config, ca: &Ca, client: &Client, validator: Validator) -> Webhook {
    Webhook {
        sidecar: config.sidecar.clone(),
        operator: config.advertised(),
        trust_domain: config.trust_domain.clone(),
        bundle: ca.bundle(),
        client: client.clone(),
        validator,
    }
}

/// Serves the webhooks, and tells the API server how to know them.
async fn answer_reviews(
    workers: &mut JoinSet<()>,
    config: &Config,
    client: &Client,
    webhook: Webhook,
    metrics: &Arc<Metrics>,
) -> Result<()> {
    let listener = bind(config.listen_webhook, "--listen-webhook").await?;
    let (serving, tls) = Serving::new(client.clone(), &config.service, &config.namespace)?;
    workers.spawn(webhook.serve(listener, tls));
    workers.spawn(serving.keep(metrics.clone()));
    Ok(())
}

async fn ground(config: &Config) -> Result<Ground> {
    if config.is_local() {
        let (Some(state), Some(tokens)) = (&config.state, &config.tokens) else {
            bail!("--files needs --state (where the keys are kept) and --tokens (who is who)");
        };
        if config.ca_secret.is_some() {
            bail!(
                "--ca-secret names a Secret of a cluster; with --files the operator makes its own certificate authority"
            );
        }
        return Ok(Ground {
            keys: Box::new(local_keys(state)?),
            provider: None,
            issuer: Arc::new(Table::new(tokens)),
            claims: Claims::new(folder::Folder::new(state)),
            client: None,
        });
    }
    let client = Client::try_default()
        .await
        .context("there is no cluster to talk to (give --files to run from a folder)")?;
    Ok(Ground {
        keys: Box::new(InSecret::new(client.clone(), &config.namespace)),
        provider: config.ca_secret.as_deref().map(|name| {
            let secret = ProvidedSecret::new(client.clone(), &config.namespace, name);
            Box::new(secret) as Box<dyn Provider>
        }),
        issuer: Arc::new(Reviewer::new(client.clone())),
        claims: Claims::new(Leases::new(client.clone(), &config.namespace)),
        client: Some(client),
    })
}

fn local_keys(state: &Path) -> Result<store::Folder> {
    store::Folder::open(state).with_context(|| format!("--state {}", state.display()))
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag} {address}"))
}

/// Takes part in the election once this replica has read the cluster.
async fn elect(
    election: Election,
    elected: watch::Sender<Leader>,
    mut ready: watch::Receiver<bool>,
) {
    if ready.wait_for(|ready| *ready).await.is_ok() {
        election.run(elected).await;
    }
}

/// For who isn't told how it is called.
fn drawn_name() -> String {
    format!("operator-{:08x}", rand::random::<u32>())
}

/// A stream is open for longer than the handshake that proved who it is with.
async fn sweep(streams: Arc<Streams>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        streams.end_expired(SystemTime::now());
    }
}
