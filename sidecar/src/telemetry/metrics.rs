//! Metrics in the Prometheus text format, all named `meshwright_…`.
//!
//! Series live in one registry; each worker keeps handles to the series it has used
//! ([`RequestMetrics`]), so that a request looks nothing up in what workers share. What is left is
//! an atomic for its count, and the histogram's lock for one addition.
//! Labels come from configuration or are small closed sets: no client can make up a new series.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::plaintext::Callers;
use crate::proxy::error::Reason;

/// Upper bounds of the duration buckets, seconds: half a millisecond to a minute.
const DURATION_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0,
];

/// What is counted, and the registry that renders it. Shared by all workers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    connections: Family<ConnectionLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    plaintext: Family<PlaintextLabels, Counter>,
    /// Who called in plaintext.
    pub plaintext_callers: Callers,
    /// Connections open now.
    pub connections_open: Family<DirectionLabels, Gauge>,
    /// When the own leaf ends, unix seconds; 0 without one.
    pub certificate_expiry: Gauge,
    /// 1 while the stream to the operator is up.
    pub operator_connected: Gauge,
    /// Resources held, by kind.
    pub resources: Family<KindLabels, Gauge>,
    /// Resources rejected since start.
    pub rejected: Counter,
    /// Lines of the access log that were dropped because nobody took them fast enough.
    pub access_log_dropped: Counter,
}

/// Labels of one request series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Which way.
    pub direction: Direction,
    /// `namespace/service`; empty when no Service was found.
    pub service: Shared,
    /// `namespace/name` of the ApiRoute; empty without one.
    pub route: Shared,
    /// Its rule.
    pub rule: Shared,
    /// The status sent, 0 when none was.
    pub code: u16,
    /// Why the mesh answered itself; empty when it did not.
    pub reason: ReasonLabel,
}

/// Labels of one duration series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    direction: Direction,
    service: Shared,
    route: Shared,
    rule: Shared,
}

/// Labels of connection counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabels {
    /// Which way.
    pub direction: Direction,
    /// What it carried.
    pub kind: ConnectionKind,
}

/// Labels of refused connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    direction: Direction,
    reason: ReasonLabel,
}

/// Labels of what came in plaintext: a Guard's Service and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PlaintextLabels {
    service: Shared,
    port: u16,
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabels {
    /// Which way.
    pub direction: Direction,
}

/// One kind of resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// As in resource ids.
    pub kind: &'static str,
}

/// Which way a connection goes, seen from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Direction {
    /// The application calls.
    outbound,
    /// The application is called.
    inbound,
}

/// What a connection carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum ConnectionKind {
    /// HTTP/1.1 or HTTP/2 from or to the application.
    http,
    /// HTTP/2 over mutual TLS from or to a peer.
    mtls_http,
    /// Opaque bytes of a known service, over mutual TLS.
    mtls_tcp,
    /// HTTP/1.1 or HTTP/2 from a caller outside the mesh, at a port that takes plaintext.
    plaintext_http,
    /// Opaque bytes of such a caller.
    plaintext_tcp,
    /// Opaque bytes to an address that the mesh does not know.
    passthrough,
}

/// A text from configuration, shared instead of copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared(pub Arc<str>);

/// A reason, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReasonLabel(pub Option<Reason>);

/// A worker's handles to request series. Not shared between threads.
#[derive(Debug)]
pub struct RequestMetrics {
    metrics: Arc<Metrics>,
    used: RefCell<HashMap<RequestLabels, (Counter, Histogram)>>,
}

// === impl labels ===

impl Direction {
    /// As in labels and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::outbound => "outbound",
            Self::inbound => "inbound",
        }
    }
}

impl EncodeLabelValue for Shared {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

impl EncodeLabelValue for ReasonLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.0.map_or("", Reason::name), encoder)
    }
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
        let durations = Family::new_with_constructor(
            (|| Histogram::new(DURATION_BUCKETS)) as fn() -> Histogram,
        );
        let metrics = Self {
            requests: Family::default(),
            durations,
            connections: Family::default(),
            refused: Family::default(),
            plaintext: Family::default(),
            plaintext_callers: Callers::default(),
            connections_open: Family::default(),
            certificate_expiry: Gauge::<i64, AtomicI64>::default(),
            operator_connected: Gauge::default(),
            resources: Family::default(),
            rejected: Counter::<u64, AtomicU64>::default(),
            access_log_dropped: Counter::default(),
            registry: Registry::default(),
        };
        registry.register(
            "requests",
            "Requests, counted when their response has ended",
            metrics.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "From a request's head to its response's last byte",
            metrics.durations.clone(),
        );
        registry.register(
            "connections",
            "Connections accepted",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections refused before a request was read",
            metrics.refused.clone(),
        );
        registry.register(
            "plaintext_requests",
            "Requests and opaque connections taken from callers outside the mesh",
            metrics.plaintext.clone(),
        );
        registry.register(
            "connections_open",
            "Connections open now",
            metrics.connections_open.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When the workload's certificate ends; 0 without one",
            metrics.certificate_expiry.clone(),
        );
        registry.register(
            "operator_connected",
            "1 while the configuration stream is up",
            metrics.operator_connected.clone(),
        );
        registry.register(
            "config_resources",
            "Resources held",
            metrics.resources.clone(),
        );
        registry.register(
            "config_rejected",
            "Resources rejected",
            metrics.rejected.clone(),
        );
        registry.register(
            "access_log_dropped",
            "Access-log lines dropped because nobody took them fast enough",
            metrics.access_log_dropped.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }

    /// Counts a connection.
    pub fn connection(&self, direction: Direction, kind: ConnectionKind) {
        self.connections
            .get_or_create(&ConnectionLabels { direction, kind })
            .inc();
    }

    /// Counts a refused connection.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        let reason = ReasonLabel(Some(reason));
        self.refused
            .get_or_create(&RefusedLabels { direction, reason })
            .inc();
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

    /// Renders all series (OpenMetrics text).
    pub fn render(&self) -> String {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing into a String does not fail; an empty page would say so if it did.
            Err(_) => String::new(),
        }
    }
}

// === impl RequestMetrics ===

impl RequestMetrics {
    /// A worker's own view.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            used: RefCell::default(),
        }
    }

    /// The shared series.
    pub fn all(&self) -> &Metrics {
        &self.metrics
    }

    /// Counts one request that has ended.
    pub fn observe(&self, labels: RequestLabels, duration: Duration) {
        let mut used = self.used.borrow_mut();
        let (count, durations) = used.entry(labels).or_insert_with_key(|labels| {
            let durations = DurationLabels {
                direction: labels.direction,
                service: labels.service.clone(),
                route: labels.route.clone(),
                rule: labels.rule.clone(),
            };
            (
                self.metrics.requests.get_or_create_owned(labels),
                self.metrics.durations.get_or_create_owned(&durations),
            )
        });
        count.inc();
        durations.observe(duration.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_with_its_route_and_reason() {
        let metrics = Arc::new(Metrics::new());
        let worker = RequestMetrics::new(metrics.clone());
        let labels = RequestLabels {
            direction: Direction::outbound,
            service: Shared("shop/orders".into()),
            route: Shared("shop/orders".into()),
            rule: Shared("canary".into()),
            code: 504,
            reason: ReasonLabel(Some(Reason::RequestTimeout)),
        };
        worker.observe(labels.clone(), Duration::from_millis(3));
        worker.observe(labels, Duration::from_millis(3));
        let text = metrics.render();
        assert!(
            text.contains(
                r#"meshwright_requests_total{direction="outbound",service="shop/orders",route="shop/orders",rule="canary",code="504",reason="request_timeout"} 2"#
            ),
            "{text}"
        );
        assert!(
            text.contains("meshwright_request_duration_seconds_bucket"),
            "{text}"
        );
    }
}
