//! What became of requests in the caches of ApiRoutes, and how much these hold.
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

use super::{Direction, Shared};
use crate::policy::cache::status::Outcome;
use crate::policy::cache::store::Store;

/// The counts of every cache in force; of one that has gone, until nobody holds it.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<(Arc<str>, Direction), Held>>);

/// The counts of one ApiRoute, and what it keeps.
type Held = (Arc<ByOutcome>, Weak<Store>);

type ByOutcome = [AtomicU64; Outcome::ALL.len()];

/// The counts of one ApiRoute.
#[derive(Debug)]
pub struct Counts(Arc<ByOutcome>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    direction: Direction,
    route: Shared,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    direction: Direction,
    route: Shared,
}

/// One ApiRoute's at the moment.
struct Now {
    labels: RouteLabels,
    counts: Arc<ByOutcome>,
    entries: usize,
    bytes: u64,
}

/// The series at the moment.
#[derive(Debug)]
pub(super) struct Rendered(pub(super) Arc<Counters>);

// === impl Counters ===

impl Counters {
    /// The counts of an ApiRoute whose answers are kept here, of requests that come or go: those that
    /// it had go on.
    pub fn of(&self, side: Direction, route: &Arc<str>, store: &Arc<Store>) -> Counts {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (counts, held) = all.entry((route.clone(), side)).or_default();
        *held = Arc::downgrade(store);
        Counts(counts.clone())
    }

    /// Each ApiRoute with its counts, how many answers it keeps, and how many bytes.
    fn now(&self) -> Vec<Now> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (counts, _)| Arc::strong_count(counts) > 1);
        let now = all.iter().map(|((route, side), (counts, store))| {
            let (entries, bytes) = store.upgrade().map_or((0, 0), |store| store.size());
            Now {
                labels: RouteLabels {
                    direction: *side,
                    route: Shared(route.clone()),
                },
                counts: counts.clone(),
                entries,
                bytes,
            }
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
        let help = "Requests that an ApiRoute's cache has seen, by what became of them";
        let name = "cache_requests";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for one in &now {
            for (outcome, count) in Outcome::ALL.iter().zip(one.counts.iter()) {
                let labels = OutcomeLabels {
                    direction: one.labels.direction,
                    route: one.labels.route.clone(),
                    outcome: outcome.name(),
                };
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Bytes that the answers count for that an ApiRoute's cache keeps";
        let mut family = encoder.encode_descriptor("cache_bytes", help, None, MetricType::Gauge)?;
        for one in &now {
            let bytes = ConstGauge::new(i64::try_from(one.bytes).unwrap_or(i64::MAX));
            bytes.encode(family.encode_family(&one.labels)?)?;
        }
        let help = "Requests that an ApiRoute's cache keeps answers to";
        let name = "cache_entries";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for one in &now {
            let entries = ConstGauge::new(i64::try_from(one.entries).unwrap_or(i64::MAX));
            entries.encode(family.encode_family(&one.labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cache::store::Bounds;

    #[test]
    fn counts_outlive_an_edit_and_end_with_their_route() {
        let counters = Counters::default();
        let route: Arc<str> = "shop/orders".into();
        let store = Store::new(Bounds {
            bytes: 1 << 20,
            entries: 10,
        });
        let of = |side| counters.of(side, &route, &store);
        let first = of(Direction::inbound);
        first.became(Outcome::Hit);
        let second = of(Direction::inbound);
        drop(first);
        second.became(Outcome::Hit);
        assert_eq!(second.of(Outcome::Hit), 2);
        assert_eq!(counters.now().len(), 1);
        // What it keeps of its own calls to the same is counted apart.
        let calls = of(Direction::outbound);
        assert_eq!((calls.of(Outcome::Hit), counters.now().len()), (0, 2));
        drop((second, calls));
        assert!(counters.now().is_empty());
    }
}
