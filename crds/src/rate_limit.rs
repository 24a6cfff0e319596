//! RateLimit: how much of a Service its callers may use.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type; printer columns repeat their type"
)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_route::{Method, PathMatch};
use crate::status::ObjectStatus;
use crate::units::Duration;

mod shared;

pub use shared::{Quota, QuotaPeriod, QuotaPlan, Redis, Store, StoreFailure};

/// How much of one or more Services their callers may use, as the sidecars of the Services' own pods
/// enforce it; of names outside the cluster, as those of the callers do.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meshwright.dev",
    version = "v1alpha1",
    kind = "RateLimit",
    doc = "A RateLimit says how much of a Service its callers may use. It is written in the Service's own namespace and enforced by the sidecars of the Service's pods, after authentication and authorization; a request that is too much is answered 429. For a Service of type ExternalName, the sidecars of the namespace's pods enforce it where they call. Several RateLimits may be for one Service: all of them hold.",
    namespaced,
    plural = "ratelimits",
    shortname = "rl",
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
        description = "Time since the object was created."
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.limits) || has(self.quotas)")
    .message("write limits or quotas: without either it says nothing"))]
#[x_kube(validation = Cel::new("(self.scope == 'Shared') == has(self.store)")
    .message("store is written with scope Shared, and only there"))]
#[x_kube(validation = Cel::new("self.scope == 'Shared' || !has(self.quotas)")
    .message("quotas need scope Shared: a sidecar that starts anew would forget what was used"))]
#[x_kube(validation = Cel::new("self.scope == 'Shared' || !has(self.onStoreFailure)")
    .message("onStoreFailure is written with scope Shared, and only there"))]
#[x_kube(validation = Cel::new("self.scope != 'Shared' || !has(self.limits) || self.limits.all(l, l.action != 'Delay')")
    .message("requests wait in a sidecar's own queue: write action Delay with scope PerReplica"))]
#[x_kube(validation = Cel::new("self.scope != 'Shared' || !has(self.limits) || self.limits.all(l, !has(l.cost) || l.cost.type != 'Bytes')")
    .message("bytes are counted as they pass a sidecar: write cost Bytes with scope PerReplica"))]
pub struct RateLimitSpec {
    /// What it is for, in the object's own namespace: Services, or ApiRoutes, which stand for the
    /// Services of that namespace that their hosts name and their rules send to. Services of type
    /// ExternalName stand for names outside the cluster, and stand alone.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<RateLimitTarget>,

    /// The limits; a request must be within all of those that are about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Cel::new("self.all(l, self.exists_one(o, o.name == l.name))")
        .message("two limits have the same name"))]
    pub limits: Vec<Limit>,

    /// How many requests in an hour, a day or a month of the calendar (UTC), with `scope: Shared`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(validation = Cel::new("self.all(q, self.exists_one(o, o.name == q.name))")
        .message("two quotas have the same name"))]
    pub quotas: Vec<Quota>,

    /// Where requests are counted.
    #[serde(default)]
    pub scope: Scope,

    /// Where replicas count together, with `scope: Shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,

    /// What becomes of requests while the store does not answer; `LocalFallback` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_store_failure: Option<StoreFailure>,

    /// What responses say of the limits.
    #[serde(default)]
    pub headers: LimitHeaders,
}

/// What a RateLimit is for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.kind == 'Service') == (!has(self.group) || self.group == '')")
    .message("a Service has no group, and an ApiRoute has the group meshwright.dev"))]
pub struct RateLimitTarget {
    /// The API group of `kind`: empty for a Service, `meshwright.dev` for an ApiRoute.
    #[serde(default)]
    pub group: LimitedGroup,

    /// A Service, or an ApiRoute.
    pub kind: LimitedKind,

    /// Its name.
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// An API group that limits are for.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitedGroup {
    /// Kubernetes' own, without a name.
    #[default]
    #[serde(rename = "")]
    Core,
    /// Meshwright's.
    #[serde(rename = "meshwright.dev")]
    Meshwright,
}

/// A kind that limits are for.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitedKind {
    /// A Service.
    Service,
    /// The Services of an ApiRoute.
    ApiRoute,
}

/// Where requests are counted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// In each pod's sidecar on its own: so many replicas, so many times what is written.
    #[default]
    PerReplica,
    /// In a store, by all pods together.
    Shared,
}

/// What responses say of the limits.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    #[default]
    Draft,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, of the limit that is
    /// nearest to its end.
    Legacy,
    /// Nothing. A 429 has `Retry-After` all the same.
    None,
}

/// One limit.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.action == 'Delay') == has(self.delay)")
    .message("delay is written with action Delay, and only there"))]
#[x_kube(validation = Cel::new("!has(self.overrides) || !(self.key.type in ['Route', 'Global', 'Compound'])")
    .message("overrides are for values of the key: Route and Global have none, and Compound has several"))]
#[x_kube(validation = Cel::new("!has(self.cost) || self.cost.type != 'Bytes' || self.action != 'Delay'")
    .message("bytes are slowed down as they come whatever the action: write Reject or Shadow"))]
pub struct Limit {
    /// The limit's name, in responses, metrics and logs.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// How many requests in each `per`; of `cost` in another unit, how many of these.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,

    /// In which time, from `100ms` to `24h`.
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('100ms') && duration(self) <= duration('24h')"
    ).message("per is 100ms to 24h"))]
    pub per: Duration,

    /// How many may come at once; as many as `requests` when absent. In any span of time, no more are
    /// let through than `burst` and what `requests` and `per` give for that span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,

    /// Whose requests are counted together; all when absent.
    #[serde(default)]
    pub key: LimitKey,

    /// The methods that it is about; any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<Method>,

    /// The paths that it is about, as the application gets them, after a route's `rewrite`; any when
    /// absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub paths: Vec<PathMatch>,

    /// What a request counts; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,

    /// What becomes of a request that is too much.
    #[serde(default)]
    pub action: LimitAction,

    /// How long requests wait, with `action: Delay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,

    /// Other numbers for some values of the key: the first that names the value counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32))]
    pub overrides: Vec<LimitOverride>,

    /// Other numbers for consumers on a plan (the label `meshwright.dev/plan` of their key); an
    /// override wins over a plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Cel::new("self.all(p, self.exists_one(o, o.name == p.name))")
        .message("two plans have the same name"))]
    pub plans: Vec<LimitPlan>,
}

/// Whose requests are counted together.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.name) == (self.type in ['Header', 'JWTClaim'])")
    .message("Header and JWTClaim have a name, and the others have none"))]
#[x_kube(validation = Cel::new("!has(self.trustedHops) || self.type == 'ClientIP'")
    .message("trustedHops is written with ClientIP, and only there"))]
#[x_kube(validation = Cel::new("has(self.parts) == (self.type == 'Compound')")
    .message("parts are written with Compound, and only there"))]
pub struct LimitKey {
    /// `Consumer`: the consumer whose key a request was sent with. `Identity`: the workload that
    /// calls, as its certificate proves. `ClientIP`: an address. `Header`: a header's value.
    /// `JWTClaim`: a claim of the token. `Route`: the entry of `targetRefs`. `Global`: everybody
    /// together. `Compound`: several of these. Requests of which nothing of the kind is known are
    /// counted together.
    #[serde(default, rename = "type")]
    pub type_: KeyType,

    /// The header's or the claim's name; a claim's that begins with `/` is a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub name: Option<String>,

    /// How many proxies before the Service append to `X-Forwarded-For` and are trusted with that:
    /// the address is as many entries from its end. With 0 it is that of whoever connects, which in
    /// the mesh is the calling pod. An IPv6 address counts by its first 64 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8))]
    pub trusted_hops: Option<u32>,

    /// What is taken together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 2, max = 4))]
    pub parts: Vec<KeyPart>,
}

/// A part of a compound key.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.name) == (self.type in ['Header', 'JWTClaim'])")
    .message("Header and JWTClaim have a name, and the others have none"))]
#[x_kube(validation = Cel::new("!has(self.trustedHops) || self.type == 'ClientIP'")
    .message("trustedHops is written with ClientIP, and only there"))]
#[x_kube(validation = Cel::new("!(self.type in ['Compound', 'Global'])")
    .message("a part is one thing of a request: Compound is none, and Global makes no difference"))]
pub struct KeyPart {
    /// As in a key.
    #[serde(rename = "type")]
    pub type_: KeyType,

    /// As in a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub name: Option<String>,

    /// As in a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8))]
    pub trusted_hops: Option<u32>,
}

/// What of a request tells whose it is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyType {
    /// The consumer.
    Consumer,
    /// The calling workload.
    Identity,
    /// An address.
    ClientIP,
    /// A header.
    Header,
    /// A claim of the token.
    JWTClaim,
    /// The entry of `targetRefs`.
    Route,
    /// Nothing.
    #[default]
    Global,
    /// Several.
    Compound,
}

/// What a request counts.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.name) == (self.type == 'Header') && has(self.max) == (self.type == 'Header')")
    .message("Header has a name and a max, and the others have neither"))]
pub struct Cost {
    /// `Request`: 1. `Bytes`: the bytes of its body; one that says how long it is is refused when it
    /// is too much, the others are slowed down as they come. `Header`: the number in a header, from
    /// 1 to `max`; 1 without it, and `max` when it is none.
    #[serde(rename = "type")]
    pub type_: CostType,

    /// The header's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub name: Option<String>,

    /// What one request can count at most; not more than any `burst` of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: Option<u32>,
}

/// What is counted.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CostType {
    /// Requests.
    Request,
    /// Bytes of bodies.
    Bytes,
    /// What a header says.
    Header,
}

/// What becomes of a request that is too much.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitAction {
    /// It is answered 429.
    #[default]
    Reject,
    /// It waits in order until it is not too much any more.
    Delay,
    /// It is counted as too much and let through.
    Shadow,
}

/// How long requests wait.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// The longest that one waits, from `1ms` to `1m`; one that would wait longer is answered 429 at
    /// once.
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1ms') && duration(self) <= duration('1m')"
    ).message("max is 1ms to 1m"))]
    pub max: Duration,

    /// How many wait at once in one sidecar; one more is answered 429.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_queue: u32,
}

/// Other numbers for some values of the key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitOverride {
    /// The values: names of consumers, identities in full, addresses, or whatever the header or claim
    /// holds.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 512)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub values: Vec<String>,

    /// In place of the limit's.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,

    /// In place of the limit's; as many as `requests` here when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
}

/// Other numbers for consumers on a plan.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitPlan {
    /// The plan's name.
    #[schemars(
        length(min = 1, max = 63),
        pattern(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub name: String,

    /// In place of the limit's.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,

    /// In place of the limit's; as many as `requests` here when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
}
