//! What bounds calls to a destination: the budget of retries, and the circuit breaker.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// How many retries and hedges there may be beside the requests to a destination.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// So many for each hundred requests, first tries only.
    #[serde(default = "Budget::default_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,

    /// And so many each second, however few requests there are.
    #[serde(default = "Budget::default_min_per_second")]
    #[schemars(range(min = 0, max = 10_000))]
    pub min_per_second: u32,

    /// How long what `percent` of a request allows can be used, from `1s` to `1m`.
    #[serde(default = "Budget::default_window")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('1m')"
    ).message("window is 1s to 1m"))]
    pub window: Duration,
}

/// When a caller's sidecar stops calling an endpoint.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("duration(self.openFor) <= duration(self.maxOpenFor)")
    .message("openFor is longer than maxOpenFor"))]
pub struct CircuitBreaker {
    /// How many failures in a row open the circuit of an endpoint.
    #[serde(default = "CircuitBreaker::default_consecutive_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: u32,

    /// Which share of an endpoint's answers in the last `window` being failures opens it, if there
    /// were `minRequests`.
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

    /// What counts as a failure. `5xx`: a status of 500 to 599, or a gRPC status that says that the
    /// server failed (Unknown, DeadlineExceeded, Internal, Unavailable, DataLoss). `Timeout`: no
    /// answer in time. `Connect`: the endpoint can't be connected to, or says that its application
    /// can't. `Reset`: the connection ended early. What is the caller's own fault never counts.
    #[serde(default = "CircuitBreaker::default_failure_on")]
    #[schemars(length(min = 1, max = 4))]
    pub failure_on: Vec<FailureOn>,

    /// How long the endpoint is not called, from `1s` to `10m`, and up to a quarter more, drawn at
    /// random. Twice as long each time that it still fails afterwards.
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

    /// How many requests then try the endpoint, and must all succeed before the others come back.
    #[serde(default = "CircuitBreaker::default_half_open_requests")]
    #[schemars(range(min = 1, max = 100))]
    pub half_open_requests: u32,

    /// Which share of the endpoints of a port can be open at once; one always can. With 100 all can,
    /// and requests are answered 503 at once while they are.
    #[serde(default = "CircuitBreaker::default_max_ejected_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub max_ejected_percent: u32,
}

/// What counts as a failure of an endpoint.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureOn {
    /// A status of 500 to 599, or a gRPC status that means as much.
    #[serde(rename = "5xx")]
    ServerError,
    /// No answer in time.
    Timeout,
    /// The endpoint, or the application behind its sidecar, can't be connected to.
    Connect,
    /// The connection ended early.
    Reset,
}

// === impl Budget ===

impl Budget {
    fn default_percent() -> u32 {
        20
    }

    fn default_min_per_second() -> u32 {
        10
    }

    fn default_window() -> Duration {
        Duration::of_seconds(10)
    }
}

// === impl CircuitBreaker ===

impl CircuitBreaker {
    pub(crate) fn default_consecutive_failures() -> u32 {
        5
    }

    pub(crate) fn default_error_percent() -> u32 {
        50
    }

    pub(crate) fn default_min_requests() -> u32 {
        20
    }

    pub(crate) fn default_window() -> Duration {
        Duration::of_seconds(10)
    }

    fn default_failure_on() -> Vec<FailureOn> {
        use FailureOn::{Connect, Reset, ServerError, Timeout};
        vec![ServerError, Timeout, Connect, Reset]
    }

    pub(crate) fn default_open_for() -> Duration {
        Duration::of_seconds(30)
    }

    pub(crate) fn default_max_open_for() -> Duration {
        Duration::of_seconds(300)
    }

    fn default_half_open_requests() -> u32 {
        1
    }

    fn default_max_ejected_percent() -> u32 {
        50
    }
}
