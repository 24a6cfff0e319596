//! How it goes with what a sidecar carries out, on its way to the operator.
//!
//! Whoever carries out something says so in [`Reports`] whenever it likes, which costs a lock; the stream
//! sends what has changed since it last did, and everything when it begins. Between two Reports
//! [`SPACING`] passes: what changes all the time is told now and then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::discovery::{Report, SubscriptionReport};

/// The most that one Report tells of.
pub const MAX_REPORTED: usize = 256;

/// Between two Reports of a stream.
pub const SPACING: Duration = Duration::from_secs(5);

/// From a change to the Report of it, so that what changes together is told together.
pub const GATHER: Duration = Duration::from_millis(100);

/// The longest sentence in a Report, in characters.
pub const MAX_WHY_CHARS: usize = 256;

/// What there is to tell. Cheap to share.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<Told>,
    changed: Notify,
}

/// By namespace and name.
type Told = BTreeMap<(String, String), SubscriptionReport>;

/// What one stream has told.
#[derive(Debug, Default)]
pub struct Sent(Told);

// === impl Reports ===

impl Reports {
    /// Changes what is told of an EventSubscription.
    pub fn change(
        &self,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut SubscriptionReport),
    ) {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        let is_new = !all.contains_key(&key);
        let report = all.entry(key).or_insert_with(|| SubscriptionReport {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..SubscriptionReport::default()
        });
        let before = report.clone();
        change(report);
        let differs = is_new || *report != before;
        drop(all);
        if differs {
            self.0.changed.notify_one();
        }
    }

    /// Nothing is told of it any more.
    pub fn end(&self, namespace: &str, name: &str) {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all
            .remove(&(namespace.to_owned(), name.to_owned()))
            .is_some()
        {
            drop(all);
            self.0.changed.notify_one();
        }
    }

    /// All that is told.
    pub fn all(&self) -> Vec<SubscriptionReport> {
        let all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }

    /// Returns when something has changed since it last returned.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What has changed since it was sent, as messages that are no longer than they may be. It counts as sent.
    pub fn news(&self, sent: &mut Sent) -> Vec<Report> {
        let all = self
            .0
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let changed = all.iter();
        let changed = changed.filter(|(key, report)| sent.0.get(*key) != Some(report));
        let changed = changed.map(|(_, report)| report.clone());
        let over = sent.0.keys().filter(|key| !all.contains_key(*key));
        let over = over.map(|(namespace, name)| SubscriptionReport {
            namespace: namespace.clone(),
            name: name.clone(),
            over: true,
            ..SubscriptionReport::default()
        });
        let news = Vec::from_iter(changed.chain(over));
        sent.0 = all;
        let reports = news.chunks(MAX_REPORTED).map(|some| Report {
            subscriptions: some.to_vec(),
        });
        reports.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reports: &[Report]) -> Vec<(&str, bool, u64)> {
        let all = reports.iter().flat_map(|report| &report.subscriptions);
        all.map(|one| (one.name.as_str(), one.over, one.in_flight))
            .collect()
    }

    #[tokio::test]
    async fn what_has_changed_is_told_once_and_all_of_it_on_a_new_stream() {
        let (reports, mut sent) = (Reports::default(), Sent::default());
        reports.change("shop", "a", |report| report.in_flight = 1);
        reports.change("shop", "b", |_| {});
        reports.changed().await;
        assert_eq!(
            told(&reports.news(&mut sent)),
            [("a", false, 1), ("b", false, 0)]
        );
        assert_eq!(told(&reports.news(&mut sent)), []);
        reports.change("shop", "a", |report| report.in_flight = 2);
        reports.end("shop", "b");
        assert_eq!(
            told(&reports.news(&mut sent)),
            [("a", false, 2), ("b", true, 0)]
        );
        assert_eq!(told(&reports.news(&mut Sent::default())), [("a", false, 2)]);
    }

    #[test]
    fn a_message_tells_of_no_more_than_it_may() {
        let reports = Reports::default();
        for number in 0..=MAX_REPORTED {
            reports.change("shop", &number.to_string(), |_| {});
        }
        let news = reports.news(&mut Sent::default());
        let counts = news.iter().map(|report| report.subscriptions.len());
        assert_eq!(Vec::from_iter(counts), [MAX_REPORTED, 1]);
    }
}
