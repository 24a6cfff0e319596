//! When nothing is delivered for a while, since the target fails.

use kube::KubeSchema;
use kube::core::Rule as Cel;
use serde::{Deserialize, Serialize};

use crate::retry_policy::CircuitBreaker;
use crate::units::Duration;

/// When nothing is delivered for a while, since the target fails: it answers 500 to 599, where that means that the event
/// comes again, or not in time, or breaks off. Meanwhile events wait without an attempt; then one is delivered,
/// and says whether the others follow. Each sidecar tells for itself.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("duration(self.openFor) <= duration(self.maxOpenFor)")
    .message("openFor is longer than maxOpenFor"))]
pub struct EventCircuitBreaker {
    /// After how many failures in a row.
    #[serde(default = "CircuitBreaker::default_consecutive_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: u32,

    /// Or after which share of the answers of the last `window` being failures, if there were `minRequests`.
    #[serde(default = "CircuitBreaker::default_error_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub error_percent: u32,

    /// How many answers of the last `window` the share is told from at least.
    #[serde(default = "CircuitBreaker::default_min_requests")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_requests: u32,

    /// The time that `errorPercent` looks back, from `1s` to `1m`; counted in tenths of it.
    #[serde(default = "CircuitBreaker::default_window")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('1m')"
    ).message("window is 1s to 1m"))]
    pub window: Duration,

    /// For how long, from `1s` to `10m`, and up to a quarter more, drawn at random. Twice as long each time that the event
    /// that is delivered then fails too.
    #[serde(default = "CircuitBreaker::default_open_for")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('10m')"
    ).message("openFor is 1s to 10m"))]
    pub open_for: Duration,

    /// The longest that this grows to, from `1s` to `1h`.
    #[serde(default = "CircuitBreaker::default_max_open_for")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')"
    ).message("maxOpenFor is 1s to 1h"))]
    pub max_open_for: Duration,
}
