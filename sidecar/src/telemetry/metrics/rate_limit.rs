//! What became of requests that limits are about.
//!
//! Counted with one addition to an atomic, in a place that the limit holds: nothing is looked up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::Shared;

/// The counts of every limit in force; of one that has gone, until nobody holds it.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<Name, Arc<Counted>>>);

/// A limit: RateLimit and name.
type Name = (Arc<str>, Arc<str>);

/// The counts of one limit.
#[derive(Clone, Debug)]
pub struct Counts(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    passed: AtomicU64,
    limited: AtomicU64,
    delayed: AtomicU64,
    would_limit: AtomicU64,
    unasked: AtomicU64,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    rate_limit: Shared,
    limit: Shared,
    outcome: &'static str,
}

/// The series at the moment.
#[derive(Debug)]
pub(super) struct Rendered(pub(super) Arc<Counters>);

// === impl Counters ===

impl Counters {
    /// The counts of a limit: those that it had go on.
    pub fn of(&self, rate_limit: &Arc<str>, limit: &Arc<str>) -> Counts {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = all.entry((rate_limit.clone(), limit.clone())).or_default();
        Counts(counted.clone())
    }

    /// What is counted, without what never was; a limit that nobody holds is forgotten.
    fn now(&self) -> Vec<(Name, &'static str, u64)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, counted| Arc::strong_count(counted) > 1);
        let each = all.iter().flat_map(|(name, counted)| {
            let outcomes = [
                ("passed", &counted.passed),
                ("limited", &counted.limited),
                ("delayed", &counted.delayed),
                ("would_limit", &counted.would_limit),
                ("unasked", &counted.unasked),
            ];
            outcomes.map(|(outcome, count)| (name.clone(), outcome, count.load(Ordering::Relaxed)))
        });
        each.filter(|(_, _, count)| *count > 0).collect()
    }
}

// === impl Counts ===

impl Counts {
    /// It was within the limit.
    pub fn passed(&self) {
        self.0.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// It was too much.
    pub fn limited(&self) {
        self.0.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// It waited until it was within the limit.
    pub fn delayed(&self) {
        self.0.delayed.fetch_add(1, Ordering::Relaxed);
    }

    /// The store did not answer, and it was decided without.
    pub fn unasked(&self) {
        self.0.unasked.fetch_add(1, Ordering::Relaxed);
    }

    /// It was too much, and passed all the same.
    pub fn would_limit(&self) {
        self.0.would_limit.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Rendered ===

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.0.now();
        if now.is_empty() {
            return Ok(());
        }
        let help = "Requests that a limit is about, by what became of them";
        let mut family =
            encoder.encode_descriptor("rate_limit", help, None, MetricType::Counter)?;
        for ((rate_limit, limit), outcome, count) in now {
            let labels = Labels {
                rate_limit: Shared(rate_limit),
                limit: Shared(limit),
                outcome,
            };
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_outlive_an_edit_and_end_with_their_limit() {
        let counters = Counters::default();
        let name: Name = ("shop/orders".into(), "all".into());
        let first = counters.of(&name.0, &name.1);
        first.passed();
        let second = counters.of(&name.0, &name.1);
        drop(first);
        second.passed();
        second.limited();
        assert_eq!(
            counters.now(),
            [(name.clone(), "passed", 2), (name, "limited", 1)]
        );
        drop(second);
        assert_eq!(counters.now(), []);
    }
}
