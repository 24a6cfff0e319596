//! RetryPolicy: what callers do when what they call fails, and how they pick its endpoints.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type; printer columns repeat their type"
)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub mod circuit_breaker;
pub mod retries;

pub use circuit_breaker::{Budget, CircuitBreaker, FailureOn};
pub use retries::{
    Backoff, BackoffType, Condition, GrpcCode, Hedging, IdempotencyKey, Jitter, RetryAfter,
    RetryOn, StatusClass,
};

use crate::api_route::Method;
use crate::status::ObjectStatus;
use crate::units::Duration;

/// What callers do when what they call fails. In the targets' own namespace it holds for every
/// caller; in another namespace for that namespace's callers only, and wins there.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meshwright.dev",
    version = "v1alpha1",
    kind = "RetryPolicy",
    doc = "A RetryPolicy says what callers do when what they call fails: whether and when they send a request again, within which budget, when they stop calling an endpoint, how they pick one, and whether they ask if it is well. In the targets' own namespace it holds for every caller; in another namespace it holds for that namespace's callers only, and wins there over one for the same target.",
    namespaced,
    plural = "retrypolicies",
    shortname = "rp",
    category = "meshwright",
    derive = "PartialEq",
    status = "ObjectStatus",
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.target",
        description = "What it is for."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the object is enforced."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.programmed",
        description = "How many of the sidecars that should enforce it do."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since the object was created; of two that conflict, the older one wins."
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.maxRetries) || has(self.backoff) || has(self.perTryTimeout) || has(self.retryOn) || has(self.methods) || has(self.idempotencyKey) || has(self.retryAfter) || has(self.maxReplayBytes) || has(self.hedging) || has(self.budget) || has(self.circuitBreaker) || has(self.loadBalancing) || has(self.healthCheck)")
    .message("write a field beside targetRefs: without any it says nothing"))]
#[x_kube(validation = Cel::new("!has(self.budget) || !self.targetRefs.exists(t, has(t.sectionName))")
    .message("budget is one for a whole destination: leave it out where targetRefs has a sectionName, and write it in a RetryPolicy for the Service or the ApiRoute"))]
#[x_kube(validation = Cel::new("!has(self.circuitBreaker) || !self.targetRefs.exists(t, has(t.sectionName))")
    .message("circuitBreaker is one for a whole destination: leave it out where targetRefs has a sectionName, and write it in a RetryPolicy for the Service or the ApiRoute"))]
#[x_kube(validation = Cel::new("!has(self.loadBalancing) || !self.targetRefs.exists(t, has(t.sectionName))")
    .message("loadBalancing is one for a whole destination: leave it out where targetRefs has a sectionName, and write it in a RetryPolicy for the Service or the ApiRoute"))]
#[x_kube(validation = Cel::new("!has(self.healthCheck) || !self.targetRefs.exists(t, has(t.sectionName))")
    .message("healthCheck is one for a whole destination: leave it out where targetRefs has a sectionName, and write it in a RetryPolicy for the Service or the ApiRoute"))]
#[x_kube(validation = Cel::new("!has(self.retryOn) || !has(self.retryOn.grpcCodes) || size(self.retryOn.grpcCodes) == 0 || has(self.idempotencyKey) || (has(self.methods) && self.methods.exists(m, m == 'POST'))")
    .message("every gRPC call is a POST: grpcCodes has an effect only with POST among methods, or with idempotencyKey"))]
pub struct RetryPolicySpec {
    /// The Services, ApiRoutes or rules of ApiRoutes whose calls it is for, all in one namespace. Of
    /// two objects of one namespace that name the same target the older one holds, and the other has
    /// no effect at all. What is written for a rule comes before what is written for its ApiRoute,
    /// and that before what is written for the Service.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,

    /// How often a request is sent again at most, the first time not counted; 0 is never. 2 when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub max_retries: Option<u32>,

    /// How long a caller waits before it sends a request again; as the fields of `backoff` say when
    /// absent. A request that surely reached nobody goes to another endpoint at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,

    /// How long one try may take until its response begins, from `1ms` to `1h`; absent, as long as
    /// the request. It never outlasts the request's own time limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1ms') && duration(self) <= duration('1h')"
    ).message("perTryTimeout is 1ms to 1h"))]
    pub per_try_timeout: Option<Duration>,

    /// After which failures a request is sent again; as the fields of `retryOn` say when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<RetryOn>,

    /// The methods of requests that may be sent again although an application may have got them:
    /// `GET`, `HEAD`, `OPTIONS`, `PUT` and `DELETE` when absent, which do the same however often they
    /// arrive. One that surely reached nobody is sent again whatever its method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub methods: Option<Vec<Method>>,

    /// Requests of other methods may be sent again too, if they have this header: the application
    /// promises to do nothing twice for the same value. Absent, none of them is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<IdempotencyKey>,

    /// Whether a caller waits as long as an answer of 429 or 503 asks with `Retry-After`; as the
    /// fields of `retryAfter` say when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<RetryAfter>,

    /// How many bytes of a request's body are kept to be sent again; of a larger one nothing is kept,
    /// and it is not sent again. 65536 when absent. The first try never waits for the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_048_576))]
    pub max_replay_bytes: Option<u64>,

    /// Sends a GET, HEAD or OPTIONS without a body a second time while the first is still unanswered,
    /// and takes what answers first; absent, never. Each counts as a retry in the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedging: Option<Hedging>,

    /// How many retries and hedges there may be beside the requests that a sidecar sends to a
    /// destination, of all its rules together; as the fields of `budget` say when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,

    /// When a caller's sidecar stops calling an endpoint that fails; absent, never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,

    /// How callers pick the endpoint that a request goes to; by `LeastRequest` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,

    /// Asks the endpoints whether they are well; absent, none is asked. Callers' sidecars send the
    /// checks, only to endpoints of Services that they called lately or that a route of such a Service
    /// names. The sidecar beside an endpoint
    /// passes on to its application about one a second at most for each path, whoever asks; an
    /// endpoint outside the mesh is asked by each caller. An endpoint that is not well is avoided,
    /// unless none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// What the object is for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("!has(self.group) || (self.group == 'meshwright.dev') == (self.kind == 'ApiRoute')")
    .message("ApiRoutes are of group meshwright.dev, and Services of the group without a name"))]
#[x_kube(validation = Cel::new("!has(self.sectionName) || self.kind == 'ApiRoute'")
    .message("sectionName names a rule of an ApiRoute, and a Service has none"))]
pub struct TargetRef {
    /// The API group of `kind`, which may be left out: `meshwright.dev` for an ApiRoute, empty for a
    /// Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<TargetGroup>,

    /// What is named: a `Service` means all calls to it, an `ApiRoute` the requests that it governs.
    pub kind: TargetKind,

    /// The name of the Service or ApiRoute.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The rule of the ApiRoute that alone is meant; all of its rules when absent. With it, only what
    /// is about retries can be written, not what is about a destination as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub section_name: Option<String>,

    /// Its namespace; the object's when absent. In another one it holds for the callers in the
    /// object's namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// An API group that targets are of.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetGroup {
    /// Kubernetes' own, without a name.
    #[serde(rename = "")]
    Core,
    /// That of ApiRoutes.
    #[serde(rename = "meshwright.dev")]
    Meshwright,
}

/// A kind that targets are of.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetKind {
    /// A Service.
    Service,
    /// An ApiRoute, or a rule of it.
    ApiRoute,
}

/// How callers pick the endpoint that a request goes to.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.hashOn) == (self.type == 'ConsistentHash')")
    .message("ConsistentHash has hashOn, which says what is hashed; the other types hash nothing"))]
#[x_kube(validation = Cel::new("!has(self.slowStart) || self.type != 'ConsistentHash'")
    .message("ConsistentHash has no slowStart: what is hashed says where a request goes at once"))]
pub struct LoadBalancing {
    /// `LeastRequest` draws two endpoints and takes the one that is expected to answer sooner: by a
    /// moving average of its answer times that rises at once and falls slowly (peak EWMA), times
    /// the requests that it has under way. `RoundRobin` takes one after the other. `ConsistentHash`
    /// always takes the same for the same value, from every caller that knows the same endpoints;
    /// when endpoints come or go, few values move.
    #[serde(default, rename = "type")]
    pub type_: BalancingType,

    /// What is hashed of a request; with `ConsistentHash`, and only there. A request that lacks it
    /// is balanced by `LeastRequest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,

    /// How long the share of an endpoint grows that appears while others are already known, from
    /// `1s` to `15m`; absent, it has its whole share at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('15m')"
    ).message("slowStart is 1s to 15m"))]
    pub slow_start: Option<Duration>,
}

/// How an endpoint is picked.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BalancingType {
    /// Of two drawn at random, the one that is expected to answer sooner.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Always the same for the same value.
    ConsistentHash,
}

/// What is hashed of a request.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.name) == (self.type != 'Source')")
    .message("Header and Cookie have a name, and Source has none"))]
#[x_kube(validation = Cel::new(
    "self.type != 'Header' || !has(self.name) || self.name.lowerAscii() != 'host'"
).message("the host is nearly the same for every request to a Service: hash something else"))]
pub struct HashOn {
    /// `Header` hashes a header's value, `Cookie` a cookie's, and `Source` which workload calls.
    #[serde(rename = "type")]
    pub type_: HashType,

    /// The name of the header, whose case makes no difference, or of the cookie, whose case does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub name: Option<String>,
}

/// Where the value comes from that is hashed.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HashType {
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// The workload that calls.
    Source,
}

/// How endpoints are asked whether they are well.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("duration(self.timeout) <= duration(self.interval)")
    .message("timeout is longer than interval: the next check would begin before the last one ends"))]
pub struct HealthCheck {
    /// The path that is asked for with GET, without query; an answer of 200 to 399 is good. It is
    /// sent in the normal form that the paths of requests have.
    #[schemars(
        length(min = 1, max = 1024),
        pattern(r"^/([A-Za-z0-9/\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*$")
    )]
    #[x_kube(validation = Cel::new("!self.contains('//')").message("a path can't contain //"))]
    #[x_kube(validation = Cel::new("!self.matches('/([.]|%2[eE]){1,2}(/|$)')")
        .message("a path can't have a segment that is . or .."))]
    pub path: String,

    /// From one check to the next, from `5s` to `10m`.
    #[serde(default = "HealthCheck::default_interval")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('5s') && duration(self) <= duration('10m')"
    ).message("interval is 5s to 10m"))]
    pub interval: Duration,

    /// How long an answer may take; one that takes longer is bad. Not longer than `interval`.
    #[serde(default = "HealthCheck::default_timeout")]
    #[x_kube(validation = Cel::new("duration(self) > duration('0s')")
        .message("timeout is longer than 0s"))]
    pub timeout: Duration,

    /// How many bad answers in a row make an endpoint one that is avoided.
    #[serde(default = "HealthCheck::default_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub unhealthy_threshold: u32,

    /// How many good answers in a row make it one that is used again.
    #[serde(default = "HealthCheck::default_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub healthy_threshold: u32,
}

// === impl RetryPolicySpec ===

impl RetryPolicySpec {
    /// The first field written that is about retries; none when nothing is.
    pub fn about_retries(&self) -> Option<&'static str> {
        let fields = [
            ("maxRetries", self.max_retries.is_some()),
            ("backoff", self.backoff.is_some()),
            ("perTryTimeout", self.per_try_timeout.is_some()),
            ("retryOn", self.retry_on.is_some()),
            ("methods", self.methods.is_some()),
            ("idempotencyKey", self.idempotency_key.is_some()),
            ("retryAfter", self.retry_after.is_some()),
            ("maxReplayBytes", self.max_replay_bytes.is_some()),
            ("hedging", self.hedging.is_some()),
        ];
        let mut written = fields.into_iter().filter(|(_, written)| *written);
        written.next().map(|(field, _)| field)
    }
}

// === impl HealthCheck ===

impl HealthCheck {
    fn default_interval() -> Duration {
        Duration::of_seconds(30)
    }

    fn default_timeout() -> Duration {
        Duration::of_seconds(1)
    }

    fn default_threshold() -> u32 {
        2
    }
}
