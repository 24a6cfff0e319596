//! EventSubscription: events of a topic or a schedule, delivered to a workload or a Service.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type; printer columns repeat their type"
)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

mod circuit_breaker;
mod deduplication;
mod delivery;
mod filter;
mod replay;
mod schedule;
mod source;
mod status;
mod target;

pub use circuit_breaker::EventCircuitBreaker;
pub use deduplication::{Deduplication, DeduplicationStore};
pub use delivery::{
    DeadLetter, Delivery, DeliveryMode, EventBatch, EventOrdering, OnExhausted, Redelivery,
    ResponseAction, ResponseRule,
};
pub use filter::{DataFilter, EventFilter, InnerFilter, InnermostFilter};
pub use replay::{EventReplay, ReplayFrom, ReplayType};
pub use schedule::{ConcurrencyPolicy, ScheduleSource, ScheduledEvent};
pub use source::{BrokerSource, Manage, Source, SourceType, StartFrom, StartType};
pub use status::{EventError, EventSubscriptionStatus, ReplayPhase, ReplayStatus};
pub use target::{
    EventTarget, EventTargetType, SecretName, ServiceTarget, TopicTarget, UrlTarget, WorkloadTarget,
};

/// Which events go where, and what becomes of those that can't be delivered.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meshwright.dev",
    version = "v1alpha1",
    kind = "EventSubscription",
    doc = "An EventSubscription delivers the events of a broker's topic, or of a schedule, to a workload or a Service of its own namespace: each at least once, again while it fails, and to a dead letter topic in the end. The sidecars of the pods that it is for carry it out, and share the work.",
    namespaced,
    plural = "eventsubscriptions",
    shortname = "es",
    category = "meshwright",
    derive = "PartialEq",
    status = "EventSubscriptionStatus",
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.target",
        description = "The Service that it delivers to."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the object is in force."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether events are delivered."
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lag",
        description = "How many events were not delivered yet."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.programmed",
        description = "How many of the sidecars that should carry it out do."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since the object was created."
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "!has(self.delivery.deadLetter) || !has(self.source.broker) || \
     self.delivery.deadLetter.topic != self.source.broker.topic"
).message("delivery.deadLetter.topic is the topic that the events come from: they would come again for ever"))]
#[x_kube(validation = Cel::new(
    "!has(self.reply) || !has(self.source.broker) || self.reply.topic != self.source.broker.topic"
).message("reply.topic is the topic that the events come from: each reply would be replied to for ever"))]
#[x_kube(validation = Cel::new("!has(self.reply) || !has(self.delivery.batch)")
    .message("a batch is not replied to: write reply without delivery.batch"))]
#[x_kube(validation = Cel::new("!has(self.reply) || !self.delivery.bodyStatus")
    .message("a body is a reply or says what becomes of the event: write reply, or delivery.bodyStatus"))]
#[x_kube(validation = Cel::new(
    "!has(self.replay) || self.replay.from.type != 'DeadLetter' || has(self.delivery.deadLetter)"
).message("dead letters are replayed from delivery.deadLetter.topic, and there is none"))]
#[x_kube(validation = Cel::new(
    "self.source.type != 'Schedule' || (!has(self.reply) && !has(self.replay) && \
     self.delivery.onExhausted != 'DeadLetter')"
).message("a schedule has no broker: write onExhausted: Drop or Block, and neither reply nor replay"))]
#[x_kube(validation = Cel::new(
    "self.source.type != 'Schedule' || (!has(self.filters) && !has(self.delivery.batch) && \
     self.delivery.ordering == 'None')"
).message("a schedule's events are alike, and one at a time: write no filters, no batch and ordering: None"))]
pub struct EventSubscriptionSpec {
    /// Whether nothing is delivered for now. What comes meanwhile stays in the broker, as long as that
    /// keeps it. What a schedule has due meanwhile is late.
    #[serde(default)]
    pub suspend: bool,

    /// Where the events come from.
    pub source: Source,

    /// Which events are delivered: those that pass every filter. The others are done with at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub filters: Vec<EventFilter>,

    /// Where they go.
    pub target: EventTarget,

    /// How they are delivered, and what becomes of those that can't be.
    pub delivery: Delivery,

    /// Which events are taken for the same, of which one is delivered; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deduplication: Option<Deduplication>,

    /// Where the events go that the target replies with: a 200 whose body is one event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<EventReply>,

    /// What is delivered once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<EventReplay>,
}

/// Where replies go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventReply {
    /// A topic of the same broker.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,
}
