//! Events that are delivered once more.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is delivered once more, to this target alone and beside what is new. It is done once: what was
/// replayed under this `request` is not again, whatever is restarted, until another one is written.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventReplay {
    /// What this run is called. Another name is another run.
    #[schemars(length(min = 1, max = 63), pattern(r"^[A-Za-z0-9_.-]+$"))]
    pub request: String,

    /// What is replayed.
    pub from: ReplayFrom,

    /// The moment up to which, in RFC 3339, such as `2026-11-20T08:00:00Z`: what was published, or became a
    /// dead letter, later is left alone.
    #[schemars(
        length(min = 20, max = 35),
        pattern(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$")
    )]
    pub until: String,

    /// How many of them each sidecar begins in a second.
    #[serde(default = "EventReplay::default_max_per_second")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_per_second: u32,
}

/// What is replayed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.type == 'Time') == has(self.time)")
    .message("time is written with type Time, and only there"))]
pub struct ReplayFrom {
    /// What it is.
    #[serde(rename = "type")]
    pub type_: ReplayType,

    /// With `Time`: the moment from which on, in RFC 3339, such as `2026-11-20T08:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 20, max = 35),
        pattern(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$")
    )]
    pub time: Option<String>,
}

/// What is replayed.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayType {
    /// The dead letters of this EventSubscription. They are taken out of their topic as they are replayed; one
    /// that fails again becomes a new one.
    DeadLetter,
    /// What the topic still has of what was published at a moment or later.
    Time,
}

// === impl EventReplay ===

impl EventReplay {
    fn default_max_per_second() -> u32 {
        50
    }
}
