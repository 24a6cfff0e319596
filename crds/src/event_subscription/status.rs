//! What became of an EventSubscription, and how it goes with it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::ObjectStatus;

/// What became of the object, and how it goes with it; written by the operator. Figures are of the sidecars that
/// carry it out, and some seconds old.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventSubscriptionStatus {
    /// What every kind has.
    #[serde(flatten)]
    pub object: ObjectStatus,

    /// In order: the pod whose sidecar delivers, as `namespace/pod`; the others follow when it leaves. Absent where
    /// none has been given an event yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub active: Option<String>,

    /// How many events before its group were not delivered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub lag: Option<i64>,

    /// How many events were delivered and are not done: those being delivered, and those that come again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub unacknowledged: Option<i64>,

    /// How many events are being delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub in_flight: Option<i64>,

    /// How many events became dead letters, since the sidecars that carry it out began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub dead_lettered: Option<i64>,

    /// The last delivery that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<EventError>,

    /// How it goes with `spec.replay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayStatus>,
}

/// How it goes with what is delivered once more. Counted since the sidecars began that see to it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayStatus {
    /// Which one.
    #[schemars(length(max = 63))]
    pub request: String,

    /// Whether it goes on.
    pub phase: ReplayPhase,

    /// How many events were taken this time.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub done: i64,

    /// How many were exhausted anew.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub failed: i64,

    /// Why it does not go on for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// Whether a replay goes on.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayPhase {
    /// It does.
    Running,
    /// All that there was to replay was.
    Done,
}

/// A delivery that failed. Nothing of the event is in it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventError {
    /// The status of the answer; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 599))]
    pub code: Option<u16>,

    /// `Answer`, `NoAnswer`, or as `dlqreason` says it of an event that is exhausted.
    #[schemars(length(max = 64))]
    pub reason: String,

    /// When, in RFC 3339.
    #[schemars(length(max = 35))]
    pub time: String,
}

impl From<ObjectStatus> for EventSubscriptionStatus {
    /// The status that every kind has.
    fn from(status: ObjectStatus) -> Self {
        Self {
            object: status,
            ..Self::default()
        }
    }
}
