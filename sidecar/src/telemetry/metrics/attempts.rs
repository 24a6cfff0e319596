//! Attempts: what was sent again and why, what was not, what is left of budgets, and how circuits are.
//! Budgets and circuits are read where they are counted, whenever metrics are.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::{Metrics, Shared};
use crate::config::service::ServiceKey;
use crate::policy::budget::Budgets;
use crate::policy::circuit_breaker::CircuitState;
use crate::policy::health_check::Healths;
use crate::policy::retry::Failure;

/// What is counted of attempts.
#[derive(Debug, Default)]
pub struct Attempts {
    /// How endpoints are.
    pub healths: Arc<Healths>,
    /// How many retries there may be.
    pub budgets: Arc<Budgets>,
    retries: Family<RetryLabels, Counter>,
    given_up: Family<GivenUpLabels, Counter>,
    hedges: Family<ServiceLabels, Counter>,
}

/// Labels of retries.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    service: Shared,
    /// After what.
    after: &'static str,
    /// The status, 0 for what has none.
    code: u16,
}

/// Labels of attempts that were wanted and not made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GivenUpLabels {
    service: Shared,
    why: &'static str,
}

/// Labels of what is counted by Service alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: Shared,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    service: Shared,
    port: u16,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    service: Shared,
    to: &'static str,
}

/// Budgets and circuits at the moment.
#[derive(Debug)]
struct Rendered(Arc<Healths>, Arc<Budgets>);

// === impl Attempts ===

impl Attempts {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let attempts = Self::default();
        registry.register(
            "retries",
            "Attempts after the first, by what they followed",
            attempts.retries.clone(),
        );
        registry.register(
            "retries_given_up",
            "Requests that would have been sent again, by why they were not",
            attempts.given_up.clone(),
        );
        registry.register(
            "hedges",
            "Attempts beside one that was still unanswered",
            attempts.hedges.clone(),
        );
        let rendered = Rendered(attempts.healths.clone(), attempts.budgets.clone());
        registry.register_collector(Box::new(rendered));
        attempts
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts a request that is sent again. `service` is configuration's.
    pub fn retried(&self, service: &Arc<str>, after: Failure) {
        let (after, code) = after.names();
        let labels = RetryLabels {
            service: Shared(service.clone()),
            after,
            code,
        };
        self.attempts.retries.get_or_create(&labels).inc();
    }

    /// Counts one that would have been.
    pub fn not_retried(&self, service: &Arc<str>, why: &'static str) {
        let service = Shared(service.clone());
        let labels = GivenUpLabels { service, why };
        self.attempts.given_up.get_or_create(&labels).inc();
    }

    /// Counts an attempt beside another.
    pub fn hedged(&self, service: &Arc<str>) {
        let service = Shared(service.clone());
        let labels = ServiceLabels { service };
        self.attempts.hedges.get_or_create(&labels).inc();
    }
}

// === impl Rendered ===

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Self(healths, budgets) = self;
        let shared = |service: &ServiceKey| Shared(service.text().clone());
        let left = budgets.left(Instant::now());
        if !left.is_empty() {
            let mut family = encoder.encode_descriptor(
                "retry_budget_left",
                "Retries that there may be at the moment.",
                None,
                MetricType::Gauge,
            )?;
            for (service, left) in left {
                let service = shared(&service);
                let labels = ServiceLabels { service };
                let left = i64::try_from(left).unwrap_or(i64::MAX);
                ConstGauge::new(left).encode(family.encode_family(&labels)?)?;
            }
        }
        let states = healths.states();
        if !states.is_empty() {
            let mut family = encoder.encode_descriptor(
                "circuit_endpoints",
                "Endpoints of ports with a circuit breaker, by how their circuits are.",
                None,
                MetricType::Gauge,
            )?;
            for ((service, port), states) in states {
                for (state, name) in [
                    (CircuitState::Closed, "closed"),
                    (CircuitState::Open, "open"),
                    (CircuitState::HalfOpen, "half_open"),
                ] {
                    let labels = StateLabels {
                        service: shared(&service),
                        port,
                        state: name,
                    };
                    let count = states.get(&state).copied().unwrap_or_default();
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let changes = healths.changes();
        if !changes.is_empty() {
            let mut family = encoder.encode_descriptor(
                "circuit_changes",
                "How often circuits of endpoints have opened and closed.",
                None,
                MetricType::Counter,
            )?;
            for (service, counts) in changes {
                for (to, count) in ["open", "closed"].into_iter().zip(counts) {
                    let service = shared(&service);
                    let labels = ChangeLabels { service, to };
                    ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::budget::Allowance;
    use crate::telemetry::metrics::text::Format;

    #[test]
    fn what_is_sent_again_is_counted_by_what_it_followed_and_what_is_not_by_why() {
        let metrics = Metrics::new();
        let orders = "shop/orders".into();
        let status = http::StatusCode::SERVICE_UNAVAILABLE;
        metrics.retried(&orders, Failure::Status(status));
        metrics.retried(&orders, Failure::ConnectFailure);
        metrics.not_retried(&orders, "budget");
        metrics.hedged(&orders);
        let key = ServiceKey::new("shop", "orders");
        let _held = metrics.attempts.budgets.of(&key, Allowance::default());
        metrics.attempts.healths.opened(&key);
        let text = metrics.render(Format::OpenMetrics);
        for line in [
            "meshwright_retries_total{service=\"shop/orders\",after=\"status\",code=\"503\"} 1",
            "meshwright_retries_total{service=\"shop/orders\",after=\"connect_failure\",code=\"0\"} 1",
            "meshwright_retries_given_up_total{service=\"shop/orders\",why=\"budget\"} 1",
            "meshwright_hedges_total{service=\"shop/orders\"} 1",
            "meshwright_retry_budget_left{service=\"shop/orders\"} 10",
            "meshwright_circuit_changes_total{service=\"shop/orders\",to=\"open\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
