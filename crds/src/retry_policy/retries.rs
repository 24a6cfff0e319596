//! When a request is sent again.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// How long a caller waits before it sends a request again.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("duration(self.initial) <= duration(self.max)")
    .message("initial is longer than max"))]
#[x_kube(validation = Cel::new("!has(self.multiplier) || self.type == 'Exponential'")
    .message("multiplier is what Exponential multiplies by: the other types have none"))]
pub struct Backoff {
    /// How the wait grows: `Exponential` multiplies it each time, `Linear` adds `initial` each time,
    /// `Constant` leaves it as it is.
    #[serde(default, rename = "type")]
    pub type_: BackoffType,

    /// The wait before the first retry, from `1ms` to `1m`.
    #[serde(default = "Backoff::default_initial")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1ms') && duration(self) <= duration('1m')"
    ).message("initial is 1ms to 1m"))]
    pub initial: Duration,

    /// What the wait is multiplied by from one retry to the next, with `Exponential` only; 2 when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub multiplier: Option<u32>,

    /// The longest wait, from `1ms` to `5m`.
    #[serde(default = "Backoff::default_max")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1ms') && duration(self) <= duration('5m')"
    ).message("max is 1ms to 5m"))]
    pub max: Duration,

    /// How the wait is drawn, so that callers that failed together don't come back together: `Full`
    /// from nothing to the whole, `Equal` from half to the whole, `None` is the whole.
    #[serde(default)]
    pub jitter: Jitter,
}

/// How a wait grows.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackoffType {
    /// It is multiplied each time.
    #[default]
    Exponential,
    /// `initial` is added each time.
    Linear,
    /// It does not grow.
    Constant,
}

/// How a wait is drawn.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Jitter {
    /// From nothing to the whole.
    #[default]
    Full,
    /// From half to the whole.
    Equal,
    /// The whole.
    None,
}

/// After which failures a request is sent again.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryOn {
    /// Statuses of responses; an empty list is none.
    #[serde(default = "RetryOn::default_status_codes")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub status_codes: Vec<u32>,

    /// Classes of statuses, beside `statusCodes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub status_classes: Vec<StatusClass>,

    /// gRPC statuses that come in place of any message of the response. Every gRPC call is a POST:
    /// `methods` must name it, or `idempotencyKey` be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub grpc_codes: Vec<GrpcCode>,

    /// Failures without a response of the application; an empty list is none. `ConnectFailure`: the
    /// endpoint can't be connected to. `RefusedStream`: the endpoint, or the sidecar beside it, says
    /// that its application never got the request, or ended a kept connection or itself with one that
    /// may be carried out twice. `Reset`: the connection ended before the response began otherwise.
    /// `PerTryTimeout`: the try took longer than `perTryTimeout`.
    #[serde(default = "RetryOn::default_conditions")]
    #[schemars(length(max = 4))]
    pub conditions: Vec<Condition>,
}

/// A class of statuses.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusClass {
    /// 400 to 499.
    #[serde(rename = "4xx")]
    ClientError,
    /// 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
}

/// A failure without a response of the application.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// The endpoint can't be connected to.
    ConnectFailure,
    /// The connection ended before the response began.
    Reset,
    /// The application never got the request, as the endpoint or its sidecar says.
    RefusedStream,
    /// The try took too long.
    PerTryTimeout,
}

/// A gRPC status (google.rpc.Code), but for OK.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrpcCode {
    /// 1.
    Cancelled = 1,
    /// 2.
    Unknown = 2,
    /// 3.
    InvalidArgument = 3,
    /// 4.
    DeadlineExceeded = 4,
    /// 5.
    NotFound = 5,
    /// 6.
    AlreadyExists = 6,
    /// 7.
    PermissionDenied = 7,
    /// 8.
    ResourceExhausted = 8,
    /// 9.
    FailedPrecondition = 9,
    /// 10.
    Aborted = 10,
    /// 11.
    OutOfRange = 11,
    /// 12.
    Unimplemented = 12,
    /// 13.
    Internal = 13,
    /// 14.
    Unavailable = 14,
    /// 15.
    DataLoss = 15,
    /// 16.
    Unauthenticated = 16,
}

/// The header that makes a request safe to send again.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdempotencyKey {
    /// The header's name, whose case makes no difference.
    #[serde(default = "IdempotencyKey::default_header")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub header: String,
}

/// Whether an answer's `Retry-After` counts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryAfter {
    /// Whether a caller waits as long as an answer of 429 or 503 asks, if that is longer than its own
    /// backoff.
    #[serde(default = "RetryAfter::default_respect")]
    pub respect: bool,

    /// The longest wait that an answer can ask for, from `1s` to `5m`; more counts as that.
    #[serde(default = "RetryAfter::default_max")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('5m')"
    ).message("max is 1s to 5m"))]
    pub max: Duration,
}

/// When a request is sent a second time while the first is unanswered.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hedging {
    /// How long the answer may take until the next is sent, from `1ms` to `1m`.
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1ms') && duration(self) <= duration('1m')"
    ).message("after is 1ms to 1m"))]
    pub after: Duration,

    /// How many more are sent at most, each to an endpoint of its own.
    #[serde(default = "Hedging::default_max")]
    #[schemars(range(min = 1, max = 3))]
    pub max: u32,
}

// === impl Backoff ===

impl Backoff {
    fn default_initial() -> Duration {
        Duration::of_millis(100)
    }

    fn default_max() -> Duration {
        Duration::of_seconds(5)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            type_: BackoffType::default(),
            initial: Self::default_initial(),
            multiplier: None,
            max: Self::default_max(),
            jitter: Jitter::default(),
        }
    }
}

// === impl RetryOn ===

impl RetryOn {
    fn default_status_codes() -> Vec<u32> {
        vec![502, 503, 504]
    }

    fn default_conditions() -> Vec<Condition> {
        vec![
            Condition::ConnectFailure,
            Condition::Reset,
            Condition::RefusedStream,
            Condition::PerTryTimeout,
        ]
    }
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            status_codes: Self::default_status_codes(),
            status_classes: Vec::new(),
            grpc_codes: Vec::new(),
            conditions: Self::default_conditions(),
        }
    }
}

// === impl IdempotencyKey ===

impl IdempotencyKey {
    fn default_header() -> String {
        "Idempotency-Key".to_owned()
    }
}

// === impl RetryAfter ===

impl RetryAfter {
    fn default_respect() -> bool {
        true
    }

    fn default_max() -> Duration {
        Duration::of_seconds(30)
    }
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self {
            respect: Self::default_respect(),
            max: Self::default_max(),
        }
    }
}

// === impl Hedging ===

impl Hedging {
    fn default_max() -> u32 {
        1
    }
}
