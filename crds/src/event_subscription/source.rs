//! Where events come from.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schedule::ScheduleSource;

/// Where the events come from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.type == 'Broker') == has(self.broker)")
    .message("broker is written with type Broker, and only there"))]
#[x_kube(validation = Cel::new("(self.type == 'Schedule') == has(self.schedule)")
    .message("schedule is written with type Schedule, and only there"))]
pub struct Source {
    /// What it is.
    #[serde(rename = "type")]
    pub type_: SourceType,

    /// The topic of a broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<BrokerSource>,

    /// Times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSource>,
}

/// What events come from.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceType {
    /// A topic of a broker.
    Broker,
    /// Times: an event is due at each.
    Schedule,
}

/// A topic of a broker.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerSource {
    /// The broker: a Secret of the object's namespace with the label `meshwright.dev/broker: <name>`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The topic.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,

    /// The group whose position the broker keeps; `<namespace>.<name>` of this object when absent. With
    /// another one it starts anew, as `startFrom` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9_.-]+$"))]
    pub consumer_group: Option<String>,

    /// Where the group starts when the broker has none of its name. After that it goes on where it was.
    #[serde(default)]
    pub start_from: StartFrom,

    /// Whether what is missing in the broker is made: the topics, and the group.
    #[serde(default)]
    pub manage: Manage,
}

/// Where a group starts that is new.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.type == 'Time') == has(self.time)")
    .message("time is written with type Time, and only there"))]
#[x_kube(validation = Cel::new("(self.type == 'Sequence') == has(self.sequence)")
    .message("sequence is written with type Sequence, and only there"))]
pub struct StartFrom {
    /// From what on.
    #[serde(default, rename = "type")]
    pub type_: StartType,

    /// With `Time`: the moment, in RFC 3339, such as `2026-11-20T08:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 35),
        pattern(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$")
    )]
    pub time: Option<String>,

    /// With `Sequence`: the first event that is wanted, by its place at the broker: its number in the stream of NATS, such as
    /// `1042`, or its id in Redis, such as `1763625600000-0`. Where it is gone, the next one is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 41), pattern(r"^[0-9]{1,20}(-[0-9]{1,20})?$"))]
    pub sequence: Option<String>,
}

/// From what on a group starts that is new.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartType {
    /// From what is published from then on.
    #[default]
    New,
    /// From the oldest that the broker still has.
    Earliest,
    /// From what was published at a moment on.
    Time,
    /// From an event on.
    Sequence,
}

/// Whether what is missing in a broker is made.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manage {
    /// What is missing is made; what is there stays as it is.
    #[default]
    CreateIfMissing,
    /// Nothing is made: for credentials that may not.
    Never,
}
