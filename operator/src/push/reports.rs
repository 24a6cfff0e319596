//! How it goes with EventSubscriptions, as the sidecars that carry them out say.
//!
//! A sidecar is believed of what it is sent, and of nothing else. What it says goes with its stream.

use std::collections::BTreeMap;

use compiler::{ObjectKey, ObjectKind, ObjectRef};
use tokio::time::Instant;
use wire::discovery::{EventFailure, EventLag, ReplayReport, Report, SubscriptionReport};
use wire::report::MAX_WHY_CHARS;
use wire::{Kind, ResourceId};

use super::Streams;
use super::ledger::StreamId;

/// The longest word for why a delivery failed, and the longest name of a replay, in characters: as long as they
/// may be in a status, which could not be written with more.
const MAX_REASON_CHARS: usize = 64;
const MAX_REQUEST_CHARS: usize = 63;

/// How it goes with an EventSubscription at all the sidecars that say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsReport {
    /// How many say so.
    pub sidecars: usize,
    /// How many of these are given events and have no reason to wait.
    pub delivering: usize,
    /// How many are told to deliver nothing for now.
    pub suspended: usize,
    /// How many were told by the target that it is gone.
    pub gone: usize,
    /// How many only count what waits, as nobody is there that it is for.
    pub nobody: usize,
    /// In order: whom the broker has chosen, as `namespace/pod`; empty where nobody has said so.
    pub chosen: String,
    /// Why one of the others does not deliver, in a sentence.
    pub why: String,
    /// What is before the group; none where nobody knows.
    pub lag: Option<EventLag>,
    /// What is being delivered.
    pub in_flight: u64,
    /// What became a dead letter, since those that say so began.
    pub dead_lettered: u64,
    /// The last delivery that failed.
    pub failure: Option<EventFailure>,
    /// How it goes with what is delivered once more.
    pub replay: Option<ReplayReport>,
}

/// What one stream has said.
pub(super) type Reported = BTreeMap<ObjectKey, (EventsReport, Instant)>;

// === impl EventsReport ===

impl EventsReport {
    /// As the sidecar of `pod` (`namespace/pod`) says.
    fn of(report: SubscriptionReport, pod: &str) -> Self {
        let delivers =
            report.subscribed && report.why.is_empty() && !report.gone && !report.suspended;
        let one = |is: bool| usize::from(is);
        Self {
            sidecars: 1,
            delivering: one(delivers),
            suspended: one(report.suspended),
            gone: one(report.gone),
            nobody: one(report.nobody),
            chosen: match report.chosen && delivers {
                true => pod.to_owned(),
                false => String::new(),
            },
            why: presentable(&report.why, MAX_WHY_CHARS),
            lag: report.lag,
            in_flight: report.in_flight,
            dead_lettered: report.dead_lettered,
            failure: report.failure.map(|failure| EventFailure {
                reason: presentable(&failure.reason, MAX_REASON_CHARS),
                ..failure
            }),
            replay: report.replay.map(|replay| ReplayReport {
                request: presentable(&replay.request, MAX_REQUEST_CHARS),
                why: presentable(&replay.why, MAX_WHY_CHARS),
                ..replay
            }),
        }
    }

    /// Both together. Each knows all that is before the group; who knows more of it knows it sooner.
    pub fn add(&mut self, other: Self) {
        let lag = |of: &Self| of.lag.map_or(0, |lag| lag.waiting + lag.unacknowledged);
        if self.lag.is_none() || lag(&other) > lag(self) {
            self.lag = other.lag.or(self.lag);
        }
        let at = |of: &Self| of.failure.as_ref().map(|failure| failure.at_ms);
        if at(&other) > at(self) {
            self.failure = other.failure;
        }
        if self.why.is_empty() {
            self.why = other.why;
        }
        if self.chosen.is_empty() {
            self.chosen = other.chosen;
        }
        match (&mut self.replay, other.replay) {
            (Some(sum), Some(more)) if sum.request == more.request => {
                sum.done = sum.done.saturating_add(more.done);
                sum.failed = sum.failed.saturating_add(more.failed);
                sum.finished &= more.finished;
                if sum.why.is_empty() {
                    sum.why = more.why;
                }
            }
            (sum @ None, more) => *sum = more,
            // Who has not heard of the newest yet says something else.
            _ => {}
        }
        self.sidecars += other.sidecars;
        self.delivering += other.delivering;
        self.suspended += other.suspended;
        self.gone += other.gone;
        self.nobody += other.nobody;
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.dead_lettered = self.dead_lettered.saturating_add(other.dead_lettered);
    }
}

fn presentable(text: &str, most: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    shown.take(most).collect()
}

fn resource(key: &ObjectKey) -> ResourceId {
    ResourceId::new(Kind::Subscription, &*key.namespace, &*key.name)
}

// === impl Streams ===

impl Streams {
    /// A stream says how it goes with what it is sent.
    pub(super) fn reported(&self, id: StreamId, report: Report) {
        let now = Instant::now();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(stream) = inner.streams.get_mut(&id) else {
            return;
        };
        let pod = stream.subscriber.pod.to_string();
        let mut touched = Vec::new();
        for one in report.subscriptions {
            let key = ObjectKey::new(&*one.namespace, &*one.name);
            let compiled = inner.snapshot.get(&resource(&key));
            if !compiled.is_some_and(|it| inner.subscribers.meant(&it.audience, id)) {
                continue;
            }
            match one.over {
                true => drop(stream.reports.remove(&key)),
                false => drop(
                    stream
                        .reports
                        .insert(key.clone(), (EventsReport::of(one, &pod), now)),
                ),
            }
            touched.push(ObjectRef::new(ObjectKind::EventSubscription, &key));
        }
        let snapshot = &inner.snapshot;
        stream
            .reports
            .retain(|key, _| snapshot.get(&resource(key)).is_some());
        inner.ledger.touch(touched);
        self.tell_touched();
    }

    /// How it goes with an object at this replica's sidecars; none for what is no EventSubscription.
    pub(super) fn events(&self, object: &ObjectRef) -> Option<EventsReport> {
        if object.kind != ObjectKind::EventSubscription {
            return None;
        }
        let inner = self.lock();
        let key = ObjectKey::new(&*object.namespace, &*object.name);
        let compiled = inner.snapshot.get(&resource(&key));
        let streams = compiled.map(|compiled| inner.subscribers.of(&compiled.audience));
        let streams = streams.into_iter().flatten();
        let said = streams.filter_map(|id| inner.streams.get(&id)?.reports.get(&key));
        let mut said = Vec::from_iter(said);
        // What was counted last comes nearest to what is before the group.
        said.sort_by_key(|(_, at)| std::cmp::Reverse(*at));
        let mut sum = EventsReport::default();
        for (one, _) in said {
            let mut one = one.clone();
            if sum.lag.is_some() {
                one.lag = None;
            }
            sum.add(one);
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(waiting: u64, at_ms: u64) -> EventsReport {
        EventsReport::of(
            SubscriptionReport {
                subscribed: true,
                lag: Some(EventLag {
                    waiting,
                    unacknowledged: 1,
                }),
                in_flight: 2,
                dead_lettered: 3,
                failure: Some(EventFailure {
                    status: 500,
                    reason: "Answer".to_owned(),
                    at_ms,
                }),
                ..SubscriptionReport::default()
            },
            "shop/a",
        )
    }

    #[test]
    fn what_is_before_the_group_is_no_sum_and_what_each_does_is() {
        let mut sum = EventsReport::default();
        sum.add(report(7, 20));
        sum.add(report(5, 30));
        assert_eq!((sum.sidecars, sum.delivering), (2, 2));
        assert_eq!((sum.in_flight, sum.dead_lettered), (4, 6));
        assert_eq!(sum.lag.map(|lag| lag.waiting), Some(7));
        assert_eq!(sum.failure.map(|failure| failure.at_ms), Some(30));
    }

    #[test]
    fn in_order_it_is_told_which_pod_delivers() {
        let of = |chosen, why: &str, pod| {
            let report = SubscriptionReport {
                subscribed: true,
                chosen,
                why: why.to_owned(),
                ..SubscriptionReport::default()
            };
            EventsReport::of(report, pod)
        };
        let mut sum = of(false, "", "shop/a");
        assert_eq!(sum.chosen, "");
        // One that waits delivers nothing, whatever it knew last.
        sum.add(of(true, "the broker is away", "shop/b"));
        assert_eq!(sum.chosen, "");
        sum.add(of(true, "", "shop/c"));
        assert_eq!(sum.chosen, "shop/c");
    }

    #[test]
    fn who_waits_or_is_told_that_the_target_is_gone_does_not_deliver() {
        let of = |change: fn(&mut SubscriptionReport)| {
            let mut report = SubscriptionReport {
                subscribed: true,
                ..SubscriptionReport::default()
            };
            change(&mut report);
            EventsReport::of(report, "shop/a").delivering
        };
        assert_eq!(of(|_| {}), 1);
        assert_eq!(of(|it| it.subscribed = false), 0);
        assert_eq!(of(|it| it.why = "the broker is away".to_owned()), 0);
        assert_eq!(of(|it| it.gone = true), 0);
        assert_eq!(of(|it| it.suspended = true), 0);
    }

    #[test]
    fn what_a_sidecar_says_is_one_line_and_bounded() {
        let said = EventsReport::of(
            SubscriptionReport {
                why: format!("a\n{}", "b".repeat(1000)),
                ..SubscriptionReport::default()
            },
            "shop/a",
        );
        assert!(said.why.starts_with("a b"));
        assert_eq!(said.why.len(), MAX_WHY_CHARS);
    }
}
