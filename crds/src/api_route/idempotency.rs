//! Idempotency: calls that are carried out once, however often they are sent.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PathMatch;
use crate::rate_limit::Store;
use crate::units::Duration;

/// A call with a key that its caller chose is carried out once: whoever sends the same again is given
/// the first answer, and nothing is asked of the application.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.store) || !has(self.onStoreFailure)")
    .message("onStoreFailure is written with store, and only there"))]
pub struct Idempotency {
    /// The header that the key is in.
    #[serde(default = "Idempotency::default_header")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub header: String,

    /// Whether a request that this is about must have a key; one without is answered 400.
    #[serde(default)]
    pub required: bool,

    /// The methods that it is about.
    #[serde(default = "Idempotency::default_methods")]
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<UnsafeMethod>,

    /// The paths that it is about, as the application gets them; any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub paths: Vec<PathMatch>,

    /// For how long a key stands for its first call, from when that came.
    #[serde(default = "Idempotency::default_window")]
    #[x_kube(validation = Cel::new("duration(self) >= duration('1s') && duration(self) <= duration('168h')")
        .message("a key stands for its first call for 1s to 168h"))]
    pub window: Duration,

    /// What becomes of a request whose key is that of a call under way.
    #[serde(default)]
    pub concurrent: Concurrent,

    /// How long the application may take, whether or not its caller still waits; at most as long as
    /// `window`. What becomes of a call that takes longer is not known.
    #[serde(default = "Idempotency::default_timeout")]
    #[x_kube(validation = Cel::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')")
        .message("the application may take 1s to 10m"))]
    pub timeout: Duration,

    /// Statuses by which the application says that it has not carried out the call: they are not
    /// kept, and the next request with the key is a first one. 429 when absent.
    #[serde(default = "Idempotency::default_release_on")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub release_on: Vec<u16>,

    /// The most bytes that the body of a request with a key may have; a larger one is answered 413.
    #[serde(default = "Idempotency::default_max_request_bytes")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_request_bytes: u64,

    /// The most bytes that an answer may have to be kept, with its headers. A larger one is passed on
    /// once, and who sends the request again is told that the answer is not kept.
    #[serde(default = "Idempotency::default_max_answer_bytes")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_answer_bytes: u64,

    /// The most bytes that one sidecar holds: of the calls under way, and without `store` of the
    /// answers that are kept. Nothing that is kept makes way: when all is taken, calls with new keys
    /// are answered 503.
    #[serde(default = "Idempotency::default_max_bytes")]
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub max_bytes: u64,

    /// Where replicas keep answers together. Without it each sidecar keeps its own, in memory: the
    /// same call sent to another replica is carried out there, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,

    /// What becomes of requests with a key while the store does not answer; `Deny` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<KeptFailure>,
}

/// A method that may change something.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UnsafeMethod {
    /// POST.
    Post,
    /// PATCH.
    Patch,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
}

/// What becomes of a request whose key is that of a call under way.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Concurrent {
    /// It waits, and is given the same answer.
    #[default]
    Wait,
    /// It is answered 409.
    Reject,
}

/// What becomes of requests with a key while the store does not answer.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptFailure {
    /// They are answered 503.
    #[default]
    Deny,
    /// They pass, and what is sent twice may be carried out twice.
    Allow,
}

// === impl Idempotency ===

impl Idempotency {
    fn default_header() -> String {
        "Idempotency-Key".to_owned()
    }

    fn default_methods() -> Vec<UnsafeMethod> {
        vec![UnsafeMethod::Post, UnsafeMethod::Patch]
    }

    fn default_window() -> Duration {
        Duration::of_seconds(24 * 60 * 60)
    }

    fn default_timeout() -> Duration {
        Duration::of_seconds(60)
    }

    fn default_release_on() -> Vec<u16> {
        vec![429]
    }

    fn default_max_request_bytes() -> u64 {
        1024 * 1024
    }

    fn default_max_answer_bytes() -> u64 {
        64 * 1024
    }

    fn default_max_bytes() -> u64 {
        16 * 1024 * 1024
    }
}

// === impl UnsafeMethod ===

impl UnsafeMethod {
    /// As it is written in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}
