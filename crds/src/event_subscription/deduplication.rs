//! Which events are taken for the same.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rate_limit::Redis;
use crate::units::Duration;

/// Which events are taken for the same. When one of them is done, delivered or a dead letter, the others are
/// acknowledged undelivered for as long as the window. One that was not done is never taken for one that was.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.store == 'Redis') == has(self.redis)")
    .message("redis is written with store: Redis, and only there"))]
pub struct Deduplication {
    /// The attributes whose values they have in common; an event that lacks one is like no other.
    #[serde(default = "Deduplication::default_key")]
    #[schemars(
        length(min = 1, max = 8),
        inner(length(min = 1, max = 20), pattern(r"^[a-z0-9]+$"))
    )]
    pub key: Vec<String>,

    /// For how long after the first was done.
    #[serde(default = "Deduplication::default_window")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('168h')"
    ).message("a window is 1s to 168h long"))]
    pub window: Duration,

    /// Where it is noted which are done.
    #[serde(default)]
    pub store: DeduplicationStore,

    /// The Redis, with `store: Redis`. While it does not answer events are delivered, perhaps twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
}

/// Where it is noted which events are done.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeduplicationStore {
    /// In each sidecar for itself, the last 100 000 at most, until it ends: with several pods, an event that comes
    /// twice may come to two of them.
    #[default]
    Memory,
    /// In a Redis, for all of them.
    Redis,
}

// === impl Deduplication ===

impl Deduplication {
    fn default_key() -> Vec<String> {
        vec!["source".to_owned(), "id".to_owned()]
    }

    fn default_window() -> Duration {
        Duration::of_seconds(600)
    }
}
