//! What became of requests that are carried out once, and how much is held for it.
//!
//! Counted with one addition to an atomic, in a place that the policy holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Shared;
use crate::policy::idempotency::memory::Memory;
use crate::policy::idempotency::outcome::Outcome;

/// The counts of every ApiRoute in force; of one that has gone, until nobody holds it.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<Arc<str>, Held>>);

/// The counts of one ApiRoute, and what it holds.
type Held = (Arc<ByOutcome>, Weak<Memory>);

type ByOutcome = [AtomicU64; Outcome::ALL.len()];

/// The counts of one ApiRoute.
#[derive(Debug)]
pub struct Counts(Arc<ByOutcome>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    route: Shared,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: Shared,
}

/// The series at the moment.
#[derive(Debug)]
pub(super) struct Rendered(pub(super) Arc<Counters>);

// === impl Counters ===

impl Counters {
    /// The counts of an ApiRoute: those that it had go on.
    pub fn of(&self, route: &Arc<str>, memory: &Arc<Memory>) -> Counts {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (counts, held) = all.entry(route.clone()).or_default();
        *held = Arc::downgrade(memory);
        Counts(counts.clone())
    }

    /// Each ApiRoute with its counts, how many keys it holds, and how many bytes.
    fn now(&self) -> Vec<(Shared, Arc<ByOutcome>, (usize, u64))> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (counts, _)| Arc::strong_count(counts) > 1);
        let now = all.iter().map(|(route, (counts, memory))| {
            let size = memory.upgrade().map_or((0, 0), |memory| memory.size());
            (Shared(route.clone()), counts.clone(), size)
        });
        now.collect()
    }
}

// === impl Counts ===

impl Counts {
    /// This became of a request.
    pub fn became(&self, outcome: Outcome) {
        if let Some(count) = self.0.get(outcome as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often this became of one.
    pub fn of(&self, outcome: Outcome) -> u64 {
        let count = self.0.get(outcome as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

// === impl Rendered ===

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.0.now();
        if now.is_empty() {
            return Ok(());
        }
        let help = "Requests that an ApiRoute's idempotency is about, by what became of them";
        let name = "idempotency_requests";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (route, counts, _) in &now {
            for (outcome, count) in Outcome::ALL.iter().zip(counts.iter()) {
                let labels = OutcomeLabels {
                    route: route.clone(),
                    outcome: outcome.name(),
                };
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let help =
            "Bytes held for an ApiRoute's idempotency, of calls under way and answers kept here";
        let name = "idempotency_bytes";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (route, _, (_, bytes)) in &now {
            let labels = RouteLabels {
                route: route.clone(),
            };
            let bytes = ConstGauge::new(i64::try_from(*bytes).unwrap_or(i64::MAX));
            bytes.encode(family.encode_family(&labels)?)?;
        }
        let help = "Keys kept here for an ApiRoute's idempotency";
        let name = "idempotency_keys";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (route, _, (keys, _)) in &now {
            let labels = RouteLabels {
                route: route.clone(),
            };
            let keys = ConstGauge::new(i64::try_from(*keys).unwrap_or(i64::MAX));
            keys.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
