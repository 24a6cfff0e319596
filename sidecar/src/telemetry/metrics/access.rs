//! What became of requests and connections that somebody may enter with, or not.
//!
//! Counted with one addition to an atomic, in a place that the policy holds: nothing is looked up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::Shared;
use crate::policy::authorization::{Decision, Rule};

/// The counts of every ApiRoute in force; of one that has gone, until nobody holds it.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<Series, Arc<AtomicU64>>>);

/// A series: ApiRoute, rule, outcome and why.
type Series = (Arc<str>, Arc<str>, &'static str, &'static str);

/// The counts of one ApiRoute.
#[derive(Debug)]
pub struct Counts {
    route: Arc<str>,
    /// By rule, in the order of the rules.
    rules: Vec<Arc<AtomicU64>>,
    /// What the rules would have said, where they are told only.
    would: Vec<Arc<AtomicU64>>,
    not_allowed: Arc<AtomicU64>,
    would_not_allow: Arc<AtomicU64>,
    authenticated: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    route: Shared,
    rule: Shared,
    outcome: &'static str,
    why: &'static str,
}

/// What came of asking: a fetch of an issuer's keys, or a question to the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// `good` or `failed`; `answered` or `unanswered`.
    pub outcome: &'static str,
}

/// The series at the moment.
#[derive(Debug)]
pub(super) struct Rendered(pub(super) Arc<Counters>);

// === impl Counters ===

impl Counters {
    /// The counts of an ApiRoute that has these rules: those that it had go on.
    pub fn of(&self, route: &Arc<str>, rules: &[Rule]) -> Counts {
        let of = |rule: &Arc<str>, outcome| self.series((route.clone(), rule.clone(), outcome, ""));
        let none: Arc<str> = "".into();
        let outcome = |rule: &Rule| if rule.deny { "denied" } else { "allowed" };
        let would = |rule: &Rule| if rule.deny { "would_deny" } else { "allowed" };
        Counts {
            route: route.clone(),
            rules: rules
                .iter()
                .map(|rule| of(&rule.name, outcome(rule)))
                .collect(),
            would: rules
                .iter()
                .map(|rule| of(&rule.name, would(rule)))
                .collect(),
            not_allowed: of(&none, "denied"),
            would_not_allow: of(&none, "would_deny"),
            authenticated: of(&none, "authenticated"),
            closed: of(&none, "closed"),
        }
    }

    /// A request of an ApiRoute was refused for its credentials.
    pub fn refused(&self, counts: &Counts, why: &'static str) {
        let series = (counts.route.clone(), "".into(), "refused", why);
        self.series(series).fetch_add(1, Ordering::Relaxed);
    }

    fn series(&self, series: Series) -> Arc<AtomicU64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(series).or_default().clone()
    }

    /// What is counted, without what never was; an ApiRoute that nobody holds is forgotten.
    fn now(&self) -> Vec<(Series, u64)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held: std::collections::BTreeSet<Arc<str>> = all
            .iter()
            .filter(|(_, count)| Arc::strong_count(count) > 1)
            .map(|((route, ..), _)| route.clone())
            .collect();
        all.retain(|(route, ..), _| held.contains(route));
        let counted = all
            .iter()
            .map(|(series, count)| (series.clone(), count.load(Ordering::Relaxed)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

// === impl Counts ===

impl Counts {
    /// Who calls is known, and nothing else is asked.
    pub fn authenticated(&self) {
        self.authenticated.fetch_add(1, Ordering::Relaxed);
    }

    /// Nobody may enter.
    pub fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// It was decided; carried out or told only.
    pub fn decided(&self, decision: Decision, told_only: bool) {
        let rules = if told_only { &self.would } else { &self.rules };
        let count = match decision {
            Decision::Allowed(place) | Decision::Denied(place) => rules.get(place),
            Decision::NotAllowed if told_only => Some(&self.would_not_allow),
            Decision::NotAllowed => Some(&self.not_allowed),
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Rendered ===

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.0.now();
        if now.is_empty() {
            return Ok(());
        }
        let help = "Requests and connections that an ApiRoute let in or not, by rule and outcome";
        let mut family = encoder.encode_descriptor("access", help, None, MetricType::Counter)?;
        for ((route, rule, outcome, why), count) in now {
            let labels = Labels {
                route: Shared(route),
                rule: Shared(rule),
                outcome,
                why,
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
    fn counts_outlive_an_edit_and_end_with_their_route() {
        let counters = Counters::default();
        let route: Arc<str> = "shop/orders".into();
        let first = counters.of(&route, &[]);
        first.authenticated();
        counters.refused(&first, "expired");
        let second = counters.of(&route, &[]);
        drop(first);
        second.authenticated();
        let of = |outcome: &str| {
            let now = counters.now();
            let found = now.iter().find(|((_, _, one, _), _)| *one == outcome);
            found.map(|(_, count)| *count)
        };
        assert_eq!(of("authenticated"), Some(2));
        assert_eq!(of("refused"), Some(1));
        drop(second);
        assert_eq!(counters.now(), []);
    }
}
