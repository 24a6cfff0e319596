//! What became of events.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Shared;
use crate::config::broker::Broker;

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
}

/// Everything that is counted of events.
#[derive(Clone, Debug, Default)]
pub struct Events {
    published: Family<PublishedLabels, Counter>,
    delivered: Family<DeliveredLabels, Counter>,
    in_flight: Family<SubscriptionLabels, Gauge>,
    subscribed: Family<SubscriptionLabels, Gauge>,
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
        events
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
    }

    /// Whether its events are given to this sidecar; nothing is said of one that it does not carry out.
    pub fn subscribed(&self, subscription: &Arc<str>, is: Option<bool>) {
        let labels = SubscriptionLabels {
            subscription: Shared(subscription.clone()),
        };
        match is {
            Some(is) => drop(self.subscribed.get_or_create(&labels).set(i64::from(is))),
            None => drop(self.subscribed.remove(&labels)),
        }
    }

    /// So many more are being delivered, or fewer.
    pub fn in_flight(&self, subscription: &Arc<str>) -> Gauge {
        let labels = SubscriptionLabels {
            subscription: Shared(subscription.clone()),
        };
        self.in_flight.get_or_create(&labels).clone()
    }
}
