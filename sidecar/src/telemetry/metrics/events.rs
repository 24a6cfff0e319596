//! What became of events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use wire::discovery::{EventFailure, EventLag, ReplayReport, SubscriptionReport};
use wire::report::{MAX_WHY_CHARS, Reports};

use super::Shared;
use crate::config::broker::Broker;
use crate::events::broker::Lag;

/// What became of an event that was to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The broker holds it.
    Held,
    /// The broker held it already.
    Duplicate,
    /// It was none.
    Malformed,
    /// The broker does not take it.
    Refused,
    /// Nobody has confirmed it.
    Unconfirmed,
    /// Nobody waits for it, and there was no room.
    Dropped,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The target has taken it.
    Acknowledged,
    /// It comes again.
    Retried,
    /// No filter let it through.
    Filtered,
    /// It went to the dead letter topic.
    DeadLettered,
    /// It was dropped, as is written.
    Dropped,
    /// Its target was not reached.
    Unreached,
    /// It is done already.
    Duplicate,
}

/// Everything that is counted of events.
#[derive(Clone, Debug, Default)]
pub struct Events {
    published: Family<PublishedLabels, Counter>,
    delivered: Family<DeliveredLabels, Counter>,
    in_flight: Family<SubscriptionLabels, Gauge>,
    subscribed: Family<SubscriptionLabels, Gauge>,
    lag: Family<SubscriptionLabels, Gauge>,
    unacknowledged: Family<SubscriptionLabels, Gauge>,
    reports: Reports,
    not_deduplicated: Family<SubscriptionLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PublishedLabels {
    broker: String,
    topic: Shared,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DeliveredLabels {
    subscription: Shared,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SubscriptionLabels {
    subscription: Shared,
}

// === impl Published ===

impl Published {
    /// In metrics: snake_case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Duplicate => "duplicate",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::Unconfirmed => "unconfirmed",
            Self::Dropped => "dropped",
        }
    }
}

// === impl Delivered ===

impl Delivered {
    /// In metrics: snake_case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Retried => "retried",
            Self::Filtered => "filtered",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
            Self::Unreached => "unreached",
            Self::Duplicate => "duplicate",
        }
    }
}

// === impl Events ===

impl Events {
    /// All of it, registered.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let events = Self::default();
        registry.register(
            "events_published",
            "Events that were to be published, by what became of them",
            events.published.clone(),
        );
        registry.register(
            "events_delivered",
            "Events that an EventSubscription was given by its broker, by what became of them",
            events.delivered.clone(),
        );
        registry.register(
            "events_in_flight",
            "Events of an EventSubscription that are being delivered by this sidecar",
            events.in_flight.clone(),
        );
        registry.register(
            "events_subscribed",
            "Whether this sidecar is given the events of an EventSubscription that it is to carry out",
            events.subscribed.clone(),
        );
        registry.register(
            "events_lag",
            "Events before the group of an EventSubscription, of all its sidecars together, that were not delivered yet",
            events.lag.clone(),
        );
        registry.register(
            "events_unacknowledged",
            "Events of the group of an EventSubscription, of all its sidecars together, that were delivered and are not done",
            events.unacknowledged.clone(),
        );
        registry.register(
            "events_not_deduplicated",
            "Events of an EventSubscription of which the store did not say whether they are done already",
            events.not_deduplicated.clone(),
        );
        events
    }

    /// What the operator is told of EventSubscriptions.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// This became of an event that was to be published.
    pub fn published(&self, broker: &Broker, topic: &Arc<str>, outcome: Published) {
        let labels = PublishedLabels {
            broker: broker.name().to_owned(),
            topic: Shared(topic.clone()),
            outcome: outcome.name(),
        };
        self.published.get_or_create(&labels).inc();
    }

    /// This became of a delivery.
    pub fn delivered(&self, subscription: &Arc<str>, outcome: Delivered) {
        let labels = DeliveredLabels {
            subscription: Shared(subscription.clone()),
            outcome: outcome.name(),
        };
        self.delivered.get_or_create(&labels).inc();
        if outcome == Delivered::DeadLettered {
            self.report(subscription, |report| report.dead_lettered += 1);
        }
    }

    /// Whether its events are given to this sidecar; nothing is said of one that it does not carry out.
    pub fn subscribed(&self, subscription: &Arc<str>, is: Option<bool>) {
        let labels = SubscriptionLabels {
            subscription: Shared(subscription.clone()),
        };
        match is {
            Some(is) => {
                self.subscribed.get_or_create(&labels).set(i64::from(is));
                self.report(subscription, |report| {
                    report.subscribed = is;
                    if is {
                        report.why.clear();
                    }
                });
            }
            None => {
                for family in [&self.subscribed, &self.lag, &self.unacknowledged] {
                    family.remove(&labels);
                }
                let (namespace, name) = parts(subscription);
                self.reports.end(namespace, name);
            }
        }
    }

    /// The store did not say whether an event is done already.
    pub fn not_deduplicated(&self, subscription: &Arc<str>) {
        let labels = SubscriptionLabels {
            subscription: Shared(subscription.clone()),
        };
        self.not_deduplicated.get_or_create(&labels).inc();
    }

    /// It is carried out from now on, as it is written now: nothing that was told of it before holds but what was
    /// counted.
    pub fn begins(&self, subscription: &Arc<str>) {
        self.report(subscription, |report| *report = anew(report));
    }

    /// It is suspended.
    pub fn suspended(&self, subscription: &Arc<str>) {
        self.report(subscription, |report| {
            *report = SubscriptionReport {
                suspended: true,
                ..anew(report)
            };
        });
    }

    /// Why its events wait; nothing when they do not.
    pub fn waits(&self, subscription: &Arc<str>, why: &str) {
        let why = why.chars().map(|c| if c.is_control() { ' ' } else { c });
        let why = String::from_iter(why.take(MAX_WHY_CHARS));
        self.report(subscription, |report| report.why = why);
    }

    /// Nobody is there that its events are for.
    pub fn nobody(&self, subscription: &Arc<str>) {
        self.report(subscription, |report| report.nobody = true);
    }

    /// Whether its broker delivers to this sidecar and to no other.
    pub fn chosen(&self, subscription: &Arc<str>, is: bool) {
        self.report(subscription, |report| report.chosen = is);
    }

    /// Its target has said that it is gone.
    pub fn gone(&self, subscription: &Arc<str>) {
        self.report(subscription, |report| report.gone = true);
    }

    /// How it goes with what is delivered once more.
    pub fn replays(&self, subscription: &Arc<str>, replay: ReplayReport) {
        self.report(subscription, |report| report.replay = Some(replay));
    }

    /// A delivery failed: with this status, or without an answer.
    pub fn failed(&self, subscription: &Arc<str>, status: Option<StatusCode>, reason: &str) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let failure = EventFailure {
            status: status.map_or(0, |status| status.as_u16().into()),
            reason: reason.to_owned(),
            at_ms: millis(since.unwrap_or_default()),
        };
        self.report(subscription, |report| report.failure = Some(failure));
    }

    /// So much is before its group.
    pub fn lag(&self, subscription: &Arc<str>, lag: Option<Lag>) {
        let labels = SubscriptionLabels {
            subscription: Shared(subscription.clone()),
        };
        let number = |it: u64| i64::try_from(it).unwrap_or(i64::MAX);
        match lag {
            Some(lag) => {
                self.lag.get_or_create(&labels).set(number(lag.waiting));
                let unacknowledged = self.unacknowledged.get_or_create(&labels);
                unacknowledged.set(number(lag.unacknowledged));
            }
            // What is not known is not told as if it were.
            None => {
                self.lag.remove(&labels);
                self.unacknowledged.remove(&labels);
            }
        }
        let in_flight = u64::try_from(self.in_flight(subscription).get()).unwrap_or_default();
        self.report(subscription, |report| {
            report.in_flight = in_flight;
            report.lag = lag.map(|lag| EventLag {
                waiting: lag.waiting,
                unacknowledged: lag.unacknowledged,
            });
        });
    }

    fn report(&self, subscription: &str, change: impl FnOnce(&mut SubscriptionReport)) {
        let (namespace, name) = parts(subscription);
        // What takes results of an ApiRoute is no EventSubscription: nobody asks how it goes with one.
        if name.contains('/') {
            return;
        }
        self.reports.change(namespace, name, change);
    }

    /// So many more are being delivered, or fewer.
    pub fn in_flight(&self, subscription: &Arc<str>) -> Gauge {
        let labels = SubscriptionLabels {
            subscription: Shared(subscription.clone()),
        };
        self.in_flight.get_or_create(&labels).clone()
    }
}

/// What is counted of it, and nothing else.
fn anew(before: &SubscriptionReport) -> SubscriptionReport {
    SubscriptionReport {
        namespace: before.namespace.clone(),
        name: before.name.clone(),
        dead_lettered: before.dead_lettered,
        failure: before.failure.clone(),
        ..SubscriptionReport::default()
    }
}

/// `namespace/name` in its parts.
fn parts(subscription: &str) -> (&str, &str) {
    subscription.split_once('/').unwrap_or(("", subscription))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
