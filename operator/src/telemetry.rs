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
    /// Status writes that succeeded.
    pub status_writes: Counter,
    /// Status writes that failed; each is tried again.
    pub status_failures: Counter,
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
        registry.register("status_writes", "Statuses written", status_writes.clone());
        registry.register(
            "status_write_failures",
            "Status writes that failed and are tried again",
            status_failures.clone(),
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
            status_writes,
            status_failures,
        })
    }

    /// A compilation took so long.
    pub fn compiled(&self, took: Duration) {
        self.compile.observe(took.as_secs_f64());
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

    #[test]
    fn the_reference_lists_every_metric_of_the_operator_with_its_type() {
        let text = Metrics::new().text(&Streams::default(), 0);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let ours: BTreeSet<_> = types
            .filter_map(|line| line.split_once(' '))
            .map(|(name, kind)| match kind {
                "counter" => (format!("{name}_total"), kind.to_owned()),
                _ => (name.to_owned(), kind.to_owned()),
            })
            .collect();
        let rows = REFERENCE
            .lines()
            .skip_while(|line| !line.starts_with("| metric of the operator |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<_> = rows
            .filter_map(|row| {
                let (name, rest) = row.split_once("` | ")?;
                let (kind, _) = rest.split_once(" | ")?;
                Some((name.to_owned(), kind.to_owned()))
            })
            .collect();
        assert_eq!(ours, listed);
    }
}
