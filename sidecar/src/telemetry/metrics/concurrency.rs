//! Places of rules that bound their concurrency: read where they are counted, whenever metrics are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Shared;
use super::labels::RuleLabels;
use crate::config::route::Route;
use crate::policy::concurrency::Places;

/// The places of every rule in force, and of those that have gone until their last request has.
#[derive(Debug, Default)]
pub struct Concurrency(Mutex<Vec<Watched>>);

#[derive(Debug)]
struct Watched {
    route: Arc<str>,
    rule: Arc<str>,
    places: Weak<Places>,
}

/// The series at the moment.
#[derive(Debug)]
pub(super) struct Rendered(pub(super) Arc<Concurrency>);

// === impl Concurrency ===

impl Concurrency {
    /// The rules of a route that was built: those that bound their concurrency are told of.
    pub fn watch(&self, route: &Route) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.places.strong_count() > 0);
        for rule in route.rules() {
            let Some(concurrency) = &rule.filters.concurrency else {
                continue;
            };
            let places = Arc::downgrade(concurrency.places());
            if !all.iter().any(|one| one.places.ptr_eq(&places)) {
                all.push(Watched {
                    route: route.object.clone(),
                    rule: rule.name.clone(),
                    places,
                });
            }
        }
    }

    /// Places taken and requests that wait, by route and rule.
    fn now(&self) -> BTreeMap<(Arc<str>, Arc<str>), (i64, i64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeMap::new();
        for one in all.iter() {
            if let Some(places) = one.places.upgrade() {
                let names = (one.route.clone(), one.rule.clone());
                let (taken, waiting) = now.entry(names).or_default();
                *taken += i64::from(places.taken());
                *waiting += i64::from(places.waiting());
            }
        }
        now
    }
}

// === impl Rendered ===

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = self.0.now();
        if now.is_empty() {
            return Ok(());
        }
        let taken: fn(&(i64, i64)) -> i64 = |now| now.0;
        let waiting: fn(&(i64, i64)) -> i64 = |now| now.1;
        for (name, help, of) in [
            (
                "concurrency_under_way",
                "Requests of a rule that bounds its concurrency that are under way.",
                taken,
            ),
            (
                "concurrency_waiting",
                "Requests of a rule that bounds its concurrency that wait for their turn.",
                waiting,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for ((route, rule), now) in &now {
                let labels = RuleLabels {
                    route: Shared(route.clone()),
                    rule: Shared(rule.clone()),
                };
                ConstGauge::new(of(now)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::timeout::Deadline;
    use wire::mesh;

    fn route(rule: &str, max: u32, old: Option<&Route>) -> Route {
        let rule = mesh::Rule {
            name: rule.into(),
            concurrency: Some(mesh::Concurrency {
                max,
                ..Default::default()
            }),
            ..Default::default()
        };
        let sent = mesh::Route {
            namespace: "shop".into(),
            name: "orders".into(),
            rules: vec![rule],
            ..Default::default()
        };
        Route::build(sent, old).unwrap()
    }

    #[tokio::test]
    async fn a_rule_is_counted_once_however_often_it_is_edited_and_no_longer_than_it_is_there() {
        let counts = Concurrency::default();
        let now = |counts: &Concurrency| Vec::from_iter(counts.now().into_values());
        let first = route("few", 2, None);
        counts.watch(&first);
        let concurrency = first.rules()[0].filters.concurrency.as_ref();
        let no_deadline = Deadline::start(None, tokio::time::Instant::now());
        let place = concurrency.unwrap().enter(no_deadline).await.unwrap();
        assert_eq!(now(&counts), [(1, 0)]);
        let edited = route("few", 3, Some(&first));
        counts.watch(&edited);
        assert_eq!(now(&counts), [(1, 0)]);
        drop((first, edited));
        // What was begun under it is still under way.
        assert_eq!(now(&counts), [(1, 0)]);
        drop(place);
        assert!(counts.now().is_empty());
        // A rule that comes back while requests of its predecessor are under way is one series.
        let (gone, back) = (route("few", 1, None), route("few", 1, None));
        counts.watch(&gone);
        counts.watch(&back);
        assert_eq!(now(&counts), [(0, 0)]);
    }
}
