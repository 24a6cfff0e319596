//! Metrics, all named `meshwright_…`; docs/telemetry.md lists them.
//!
//! Series live in one registry; each worker keeps handles to the request series it has used
//! ([`RequestMetrics`]), so that a request looks nothing up in what workers share. What is left is
//! an atomic for each count, and the histogram's lock for one addition.
//!
//! Labels come from configuration and proved identities or are small closed sets, the series of
//! requests are bounded, and those that are idle are dropped: nobody fills the memory by calling.

pub mod access;
mod attempts;
pub mod cache;
mod concurrency;
pub mod events;
pub mod idempotency;
pub mod labels;
pub mod rate_limit;
mod requests;
mod series;
pub mod text;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wire::generation::{Generation, Input};

use self::access::OutcomeLabels;
use self::labels::{
    BytesLabels, ConnectionLabels, HandshakeLabels, InputLabels, PlaintextLabels, RefusedLabels,
    StallLabels, UpstreamLabels,
};
pub use self::labels::{
    Code, CodeClass, ConnectionKind, Direction, DirectionLabels, GrpcStatus, KindLabels,
    MirrorLabels, MirrorOutcome, ReasonLabel, RequestLabels, Shared, Source, Way,
};
use self::requests::Rendered;
pub use self::requests::{Ended, RequestMetrics, Requests};
use self::text::Format;
use super::plaintext::Callers;
use super::stalls::Stalls;
use crate::proxy::error::{Error, Reason};

/// How often idle series are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// What is counted, and the registry that renders it. Shared by all workers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What is counted of requests.
    pub requests: Arc<Requests>,
    /// Places of rules that bound their concurrency.
    pub concurrency: Arc<concurrency::Concurrency>,
    /// Who may enter, and who may not.
    pub access: Arc<access::Counters>,
    /// What became of requests where answers are kept.
    pub cache: Arc<cache::Counters>,
    /// What became of calls that are carried out once.
    pub idempotency: Arc<idempotency::Counters>,
    /// What became of events.
    pub events: events::Events,
    /// What became of requests that limits are about.
    pub rate_limit: Arc<rate_limit::Counters>,
    issuer_keys: Family<OutcomeLabels, Counter>,
    /// What is counted of attempts.
    pub attempts: attempts::Attempts,
    connections: Family<ConnectionLabels, Counter>,
    closed: Family<ConnectionLabels, Counter>,
    open: Family<ConnectionLabels, Gauge>,
    bytes: Family<BytesLabels, Counter>,
    upstreams: Family<UpstreamLabels, Gauge>,
    refused: Family<RefusedLabels, Counter>,
    handshakes: Family<HandshakeLabels, Counter>,
    plaintext: Family<PlaintextLabels, Counter>,
    mirror: Family<MirrorLabels, Counter>,
    /// Who called in plaintext.
    pub plaintext_callers: Callers,
    stalled: Family<StallLabels, Counter>,
    /// Which ports made callers wait for a server that speaks first.
    pub stalls: Stalls,
    /// Accepted sockets open now.
    pub sockets_open: Family<DirectionLabels, Gauge>,
    /// Endpoints that are avoided because they do not answer health checks well.
    pub endpoints_avoided: Gauge,
    /// When the own leaf ends, unix seconds; 0 without one.
    pub certificate_expiry: Gauge,
    /// 1 while the stream to the operator is up.
    pub operator_connected: Gauge,
    /// States put in force since start.
    pub config_version: Gauge,
    /// When the last one was, unix seconds.
    pub config_changed: Gauge,
    revisions: Family<InputLabels, Gauge>,
    /// Resources held, by kind.
    pub resources: Family<KindLabels, Gauge>,
    /// Resources rejected since start.
    pub rejected: Counter,
    /// Calls that waited for an answer of the operator's.
    lookups: Family<OutcomeLabels, Counter>,
    /// Lines of the access log that were dropped because nobody took them fast enough.
    pub access_log_dropped: Counter,
}

/// A connection to an upstream, counted until it is dropped.
#[derive(Debug)]
pub struct UpstreamConnection(Gauge);

/// A connection while it is carried: counted as open, and when dropped as closed.
#[derive(Debug)]
pub struct Connection {
    closed: Counter,
    open: Gauge,
    to_destination: Counter,
    to_source: Counter,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All series, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("meshwright");
        let overflow = Counter::default();
        let requests = Arc::new(Requests::new(overflow.clone()));
        registry.register_collector(Box::new(Rendered(requests.clone())));
        let concurrency = Arc::<concurrency::Concurrency>::default();
        registry.register_collector(Box::new(concurrency::Rendered(concurrency.clone())));
        let rate_limit = Arc::<rate_limit::Counters>::default();
        registry.register_collector(Box::new(rate_limit::Rendered(rate_limit.clone())));
        let access = Arc::<access::Counters>::default();
        registry.register_collector(Box::new(access::Rendered(access.clone())));
        let attempts = attempts::Attempts::register(&mut registry);
        let cache = Arc::<cache::Counters>::default();
        registry.register_collector(Box::new(cache::Rendered(cache.clone())));
        let idempotency = Arc::<idempotency::Counters>::default();
        registry.register_collector(Box::new(idempotency::Rendered(idempotency.clone())));
        let events = events::Events::register(&mut registry);
        /// Makes a metric and registers it.
        macro_rules! register {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                register(&mut registry, $name, $help, &metric);
                metric
            }};
        }
        registry.register(
            "series_overflow",
            "Requests counted under source=\"other\" because there were too many series",
            overflow,
        );
        Self {
            requests,
            concurrency,
            access,
            cache,
            idempotency,
            events,
            rate_limit,
            issuer_keys: register!(
                "issuer_key_fetches",
                "Fetches of the keys of issuers of tokens, by what they brought"
            ),
            attempts,
            connections: register!(
                "connections",
                "Connections carried, counted when they begin"
            ),
            closed: register!("connections_closed", "Connections carried that have ended"),
            open: register!("connections_open", "Connections carried now"),
            sockets_open: register!(
                "sockets_open",
                "Accepted sockets open now, whatever they carry"
            ),
            upstreams: register!(
                "upstream_connections_open",
                "Connections for requests to peers, applications and outside, kept or in use"
            ),
            refused: register!(
                "connections_refused",
                "Connections refused before a request was read"
            ),
            bytes: register!("opaque_bytes", "Bytes of connections that nobody reads"),
            handshakes: register!("tls_handshakes", "TLS handshakes that have ended"),
            plaintext: register!(
                "plaintext_requests",
                "Requests and opaque connections taken from callers outside the mesh"
            ),
            mirror: register!("mirror", "Copies of requests, by what became of them"),
            plaintext_callers: Callers::default(),
            stalled: register!(
                "stalls",
                "Connections to ports of which nothing is declared that waited for a server that speaks first"
            ),
            stalls: Stalls::default(),
            endpoints_avoided: register!(
                "endpoints_avoided",
                "Endpoints that are avoided because they do not answer health checks well"
            ),
            certificate_expiry: register!(
                "certificate_expiry_timestamp_seconds",
                "When the workload's certificate ends; 0 without one"
            ),
            operator_connected: register!(
                "operator_connected",
                "1 while the configuration stream is up"
            ),
            config_version: register!(
                "config_version",
                "Configurations put in force since the process started"
            ),
            config_changed: register!(
                "config_changed_timestamp_seconds",
                "When the last one was put in force; 0 before the first"
            ),
            revisions: register!(
                "config_revision",
                "The newest revision of each kind of input that is in force"
            ),
            resources: register!("config_resources", "Resources held"),
            rejected: register!("config_rejected", "Resources rejected, for whatever reason"),
            lookups: register!(
                "lookups",
                "Calls that waited until the operator said what an address or a name means"
            ),
            access_log_dropped: register!(
                "access_log_dropped",
                "Access-log lines dropped because nobody took them fast enough"
            ),
            registry,
        }
    }

    /// A connection is carried from now on, until what is returned is dropped.
    #[must_use]
    pub fn connection(&self, direction: Direction, kind: ConnectionKind) -> Connection {
        let labels = ConnectionLabels { direction, kind };
        self.connections.get_or_create(&labels).inc();
        let bytes = |way| {
            let labels = BytesLabels {
                direction,
                kind,
                way,
            };
            self.bytes.get_or_create_owned(&labels)
        };
        let (to_destination, to_source) = match kind {
            // Counted request by request.
            ConnectionKind::http | ConnectionKind::mtls_http | ConnectionKind::plaintext_http => {
                Default::default()
            }
            ConnectionKind::mtls_tcp
            | ConnectionKind::plaintext_tcp
            | ConnectionKind::passthrough => (bytes(Way::to_destination), bytes(Way::to_source)),
        };
        let open = self.open.get_or_create_owned(&labels);
        open.inc();
        Connection {
            closed: self.closed.get_or_create_owned(&labels),
            open,
            to_destination,
            to_source,
        }
    }

    /// Connections carried now.
    pub fn connections_open(&self, direction: Direction, kind: ConnectionKind) -> i64 {
        let labels = ConnectionLabels { direction, kind };
        self.open.get(&labels).map_or(0, |open| open.get())
    }

    /// A connection for requests is open from now on, until what is returned is dropped.
    #[must_use]
    pub fn upstream(&self, is_peer: bool, protocol: &'static str) -> UpstreamConnection {
        let labels = UpstreamLabels {
            to: if is_peer { "peer" } else { "plaintext" },
            protocol,
        };
        let open = self.upstreams.get_or_create_owned(&labels);
        open.inc();
        UpstreamConnection(open)
    }

    /// Connections for requests that are open, by where they lead and protocol.
    pub fn upstreams_open(&self) -> BTreeMap<String, i64> {
        let labels = ["peer", "plaintext"]
            .into_iter()
            .flat_map(|to| ["http1", "http2"].map(|protocol| UpstreamLabels { to, protocol }));
        let open = labels.map(|labels| {
            let open = self.upstreams.get(&labels).map_or(0, |open| open.get());
            (format!("{} {}", labels.to, labels.protocol), open)
        });
        open.collect()
    }

    /// Counts a refused connection.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        let reason = ReasonLabel(Some(reason));
        self.refused
            .get_or_create(&RefusedLabels { direction, reason })
            .inc();
    }

    /// Counts a TLS handshake by how it ended.
    ///
    /// # Errors
    /// Those that it is given.
    pub fn handshake<T>(&self, direction: Direction, ended: Result<T, Error>) -> Result<T, Error> {
        let outcome = match &ended {
            Ok(_) => "ok",
            Err(error) => error.reason.name(),
        };
        let labels = HandshakeLabels { direction, outcome };
        self.handshakes.get_or_create(&labels).inc();
        ended
    }

    /// Counts a request or an opaque connection that was taken in plaintext. `service` and `port`
    /// are a Guard's, so that no caller can make up a series.
    pub fn plaintext(&self, service: &Arc<str>, port: u16, from: IpAddr) {
        let labels = PlaintextLabels {
            service: Shared(service.clone()),
            port,
        };
        self.plaintext.get_or_create(&labels).inc();
        let now = SystemTime::now();
        self.plaintext_callers.called(from, service, now);
    }

    /// Counts a connection that waited because nothing is declared of the port and its server speaks
    /// first. Service and port are configuration's, so that no caller can make up a series.
    pub fn stalled(&self, service: &Arc<str>, port: u16) {
        let labels = StallLabels {
            service: Shared(service.clone()),
            port,
        };
        self.stalled.get_or_create(&labels).inc();
        self.stalls.waited(service, port, SystemTime::now());
    }

    /// Counts a copy of a request by what became of it.
    pub fn mirrored(&self, labels: &MirrorLabels) {
        self.mirror.get_or_create(labels).inc();
    }

    /// A call has waited until the operator said what an address or a name means, or has not said it.
    pub fn looked_up(&self, answered: bool) {
        let outcome = match answered {
            true => "answered",
            false => "unanswered",
        };
        self.lookups.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// The keys of an issuer were fetched, or could not be.
    pub fn issuer_keys_fetched(&self, good: bool) {
        let outcome = if good { "good" } else { "failed" };
        self.issuer_keys
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// A state of this number is in force, made of inputs up to these revisions.
    pub fn config_in_force(&self, number: u64, newest: &Generation) {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.config_version, number);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        set(&self.config_changed, now.map_or(0, |now| now.as_secs()));
        for input in Input::ALL {
            let name = match input {
                Input::ApiRoute => "api_route",
                Input::Service => "service",
                Input::EndpointSlice => "endpoint_slice",
                Input::Pod => "pod",
                Input::Namespace => "namespace",
                Input::Settings => "settings",
                Input::RetryPolicy => "retry_policy",
                Input::Consumer => "consumer",
                Input::Credential => "credential",
                Input::RateLimit => "rate_limit",
                Input::EventSubscription => "event_subscription",
                Input::Broker => "broker",
            };
            let gauge = self.revisions.get_or_create(&InputLabels { input: name });
            set(&gauge, newest.at(input));
        }
    }

    /// Drops the series of requests that have been idle, again and again.
    pub async fn drop_idle(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.requests.sweep();
        }
    }

    /// Renders all series.
    pub fn render(&self, format: Format) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => format.of(text),
            // Writing into a String does not fail; an empty page would say so if it did.
            Err(_) => String::new(),
        }
    }
}

fn register<M>(registry: &mut Registry, name: &str, help: &str, metric: &M)
where
    M: prometheus_client::registry::Metric + Clone,
{
    registry.register(name, help, metric.clone());
}

// === impl Connection ===

impl Connection {
    /// Bytes of who connected were passed on, or are about to be.
    pub fn to_destination(&self, bytes: usize) {
        self.to_destination.inc_by(bytes as u64);
    }

    /// Bytes of the other side were.
    pub fn to_source(&self, bytes: usize) {
        self.to_source.inc_by(bytes as u64);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
        self.closed.inc();
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
