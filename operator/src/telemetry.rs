//! Logs and metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::ca::Ca;
use crate::push::Streams;

/// What is counted. Cheap to share.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    compile: Histogram,
    /// Compilations that ended in a bug: what was compiled before holds on.
    pub compile_failures: Counter,
    streams: Gauge,
    resources: Gauge,
    rejections: Gauge,
    problems: Gauge,
    /// Pods that should have a sidecar and have none.
    pub unmeshed_pods: Gauge,
    expiry: Family<CertificateLabels, Gauge>,
    authority_problems: Gauge,
    /// Objects of a cluster that this build can't read: what it read of them before holds on.
    pub unreadable: Gauge,
    /// Status writes that succeeded.
    pub status_writes: Counter,
    /// Status writes that failed; each is tried again.
    pub status_failures: Counter,
    leader: Gauge,
    replicas: Gauge,
    /// Attempts to read, take or renew the Lease that failed.
    pub lease_failures: Counter,
    /// Messages that told the leader what this replica's sidecars hold.
    pub reports: Counter,
    /// Reports to the leader that broke off; each is begun anew.
    pub report_failures: Counter,
    /// Events written.
    pub events: Counter,
    /// Events that there were too many of, or that couldn't be written.
    pub events_dropped: Counter,
}

/// Which certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: &'static str,
    part: &'static str,
}

// === impl Metrics ===

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Arc<Metrics> {
        let mut registry = Registry::with_prefix("meshwright_operator");
        let compile = Histogram::new(exponential_buckets(0.000_1, 4.0, 9));
        let (streams, resources) = (Gauge::default(), Gauge::default());
        let (rejections, problems) = (Gauge::default(), Gauge::default());
        let (status_writes, status_failures) = (Counter::default(), Counter::default());
        registry.register_with_unit(
            "compile",
            "Time from a settled change to the compiled output",
            Unit::Seconds,
            compile.clone(),
        );
        let compile_failures = Counter::default();
        registry.register(
            "compile_failures",
            "Compilations that ended in a bug; what was published before holds on",
            compile_failures.clone(),
        );
        registry.register("streams", "Sidecars with an open stream", streams.clone());
        registry.register("resources", "Resources of all audiences", resources.clone());
        registry.register(
            "rejections",
            "Resources that a sidecar refuses, counted per sidecar",
            rejections.clone(),
        );
        registry.register(
            "problems",
            "Files or parts of files that can't be used (folder mode)",
            problems.clone(),
        );
        let unmeshed_pods = Gauge::default();
        registry.register(
            "unmeshed_pods",
            "Pods that should have a sidecar and have none",
            unmeshed_pods.clone(),
        );
        let (expiry, authority_problems) = (Family::default(), Gauge::default());
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When a certificate that the mesh hangs on ends",
            Unit::Seconds,
            Family::clone(&expiry),
        );
        registry.register(
            "certificate_authority_problems",
            "1 while the certificate authority's keys, or what is provided in their place, can't be used or looked at",
            authority_problems.clone(),
        );
        let unreadable = Gauge::default();
        registry.register(
            "unreadable_objects",
            "Objects that this version can't read; what it read of them before holds on",
            unreadable.clone(),
        );
        registry.register("status_writes", "Statuses written", status_writes.clone());
        registry.register(
            "status_write_failures",
            "Status writes that failed and are tried again",
            status_failures.clone(),
        );
        let (leader, replicas) = (Gauge::default(), Gauge::default());
        registry.register(
            "leader",
            "1 while this replica leads: it writes the statuses of all objects",
            leader.clone(),
        );
        registry.register(
            "replicas_reporting",
            "Other replicas that tell this one what their sidecars hold",
            replicas.clone(),
        );
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let lease_failures = counter(
            "lease_failures",
            "Attempts to read, take or renew the Lease that failed",
        );
        let reports = counter(
            "reports",
            "Messages that told the leading replica what sidecars hold",
        );
        let report_failures = counter(
            "report_failures",
            "Reports to the leading replica that broke off and are begun anew",
        );
        let events = counter("events", "Events written");
        let events_dropped = counter(
            "events_dropped",
            "Events that there were too many of, or that couldn't be written",
        );
        Arc::new(Metrics {
            registry,
            compile,
            compile_failures,
            streams,
            resources,
            rejections,
            problems,
            unmeshed_pods,
            expiry,
            authority_problems,
            unreadable,
            status_writes,
            status_failures,
            leader,
            replicas,
            lease_failures,
            reports,
            report_failures,
            events,
            events_dropped,
        })
    }

    /// A compilation took so long.
    pub fn compiled(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
    }

    /// Whether this replica leads now, and how many others report to it.
    pub fn led(&self, leads: bool, reporting: usize) {
        self.leader.set(i64::from(leads));
        self.replicas
            .set(i64::try_from(reporting).unwrap_or(i64::MAX));
    }

    /// The webhook's own certificate ends then.
    pub fn webhook_certificate(&self, ends: SystemTime) {
        self.expires("webhook", "signs", ends);
    }

    /// How the certificate authority is now.
    pub fn certificates(&self, ca: &Ca) {
        let expiries = ca.expiries();
        for certificate in ["root", "intermediate"] {
            for part in ["signs", "next", "previous"] {
                // What is no longer there must not stay.
                if !expiries
                    .iter()
                    .any(|(one, of, _)| (*one, *of) == (certificate, part))
                {
                    self.expiry.remove(&CertificateLabels { certificate, part });
                }
            }
        }
        for (certificate, part, ends) in expiries {
            self.expires(certificate, part, ends);
        }
        self.authority_problems.set(i64::from(ca.has_problem()));
    }

    fn expires(&self, certificate: &'static str, part: &'static str, ends: SystemTime) {
        let since = ends.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let labels = CertificateLabels { certificate, part };
        self.expiry.get_or_create(&labels).set(seconds);
    }

    /// Everything as OpenMetrics text; `streams` and `problems` as they are now.
    pub fn text(&self, streams: &Streams, problems: usize) -> String {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.streams.set(gauge(streams.len()));
        self.resources.set(gauge(streams.resources()));
        self.rejections.set(gauge(streams.rejections()));
        self.problems.set(gauge(problems));
        let mut text = String::new();
        // Writing to a String doesn't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Logs to standard error: JSON in a cluster, lines for people elsewhere. `RUST_LOG` filters.
pub fn log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call, in a process that embeds the operator, leaves the first logger in place.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const REFERENCE: &str = include_str!("../../docs/telemetry.md");

    /// Name and type of each metric, as its row of the table begins.
    fn rows(text: &str) -> BTreeSet<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let named = types.filter_map(|line| line.split_once(' '));
        let row = |(name, type_): (&str, &str)| {
            let total = if type_ == "counter" { "_total" } else { "" };
            format!("| `{name}{total}` | {type_} |")
        };
        named.map(row).collect()
    }

    #[test]
    fn the_operators_metrics_are_those_that_are_documented() {
        let lines = REFERENCE.lines();
        let table = lines.skip_while(|line| !line.starts_with("| metric of the operator |"));
        let table = table.skip(2).take_while(|line| line.starts_with('|'));
        let begins = |row: &str| row.split_inclusive('|').take(3).collect::<String>();
        let documented: BTreeSet<String> = table.map(begins).collect();
        let metrics = Metrics::new();
        metrics.webhook_certificate(UNIX_EPOCH);
        assert_eq!(rows(&metrics.text(&Streams::default(), 0)), documented);
    }
}
