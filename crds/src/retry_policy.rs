//! RetryPolicy: what the callers of a Service do about its endpoints.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type; printer columns repeat their type"
)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::ObjectStatus;
use crate::units::Duration;

/// What the callers of one or more Services do about their endpoints. In the Services' own namespace
/// it holds for every caller; in another namespace for that namespace's callers only, and wins there.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meshwright.dev",
    version = "v1alpha1",
    kind = "RetryPolicy",
    doc = "A RetryPolicy says what the callers of a Service do about its endpoints: how they pick one, and whether they ask if it is well. In the Service's own namespace it holds for every caller; in another namespace it holds for that namespace's callers only, and wins there as a whole.",
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
        description = "The Services that it is for."
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
#[x_kube(validation = Cel::new("has(self.loadBalancing) || has(self.healthCheck)")
    .message("write loadBalancing or healthCheck: without either it says nothing"))]
pub struct RetryPolicySpec {
    /// The Services whose callers it is for, all in one namespace. Of two objects of one namespace
    /// that name the same Service the older one holds, and the other has no effect at all.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,

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

/// A Service that the object is for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// The API group of `kind`: that of Services, which is empty.
    #[serde(default)]
    pub group: TargetGroup,

    /// What is named: a Service.
    pub kind: TargetKind,

    /// The Service's name.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The Service's namespace; the object's when absent. In another one it holds for the callers in
    /// the object's namespace only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// An API group that targets are of.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetGroup {
    /// Kubernetes' own, without a name.
    #[default]
    #[serde(rename = "")]
    Core,
}

/// A kind that targets are of.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetKind {
    /// A Service.
    Service,
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
