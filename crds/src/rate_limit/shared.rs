//! What replicas count together: where, and quotas.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LimitKey;
use crate::api_route::auth::SecretKeyRef;
use crate::api_route::{Method, PathMatch};

/// Where replicas count together.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// A Redis.
    pub redis: Redis,
}

/// A Redis: one server, or whatever answers as one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// Where its address stands: `redis://user:password@redis:6379/0` for a Service, or `rediss://`
    /// over TLS, in a Secret of the object's namespace with the label `meshwright.dev/credential`.
    pub url_secret_ref: SecretKeyRef,

    /// Who vouches for a `rediss://` server (PEM); the authorities of the public web when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65_536))]
    pub ca_certificates: Option<String>,
}

/// What becomes of requests while the store does not answer.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreFailure {
    /// Each sidecar counts on its own; quotas are not counted.
    #[default]
    LocalFallback,
    /// They pass.
    Allow,
    /// They are answered 429.
    Deny,
}

/// How many requests in a span of the calendar.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// The quota's name, in responses, metrics and logs; not one of a limit.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// How many requests.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,

    /// In which span, from its beginning in UTC.
    pub per: QuotaPeriod,

    /// Whose requests are counted together; all when absent.
    #[serde(default)]
    pub key: LimitKey,

    /// The methods that it is about; any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<Method>,

    /// The paths that it is about, as the application gets them; any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub paths: Vec<PathMatch>,

    /// Other numbers for consumers on a plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Cel::new("self.all(p, self.exists_one(o, o.name == p.name))")
        .message("two plans have the same name"))]
    pub plans: Vec<QuotaPlan>,
}

/// A span of the calendar.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaPeriod {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A month.
    Month,
}

/// Another number for consumers on a plan.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaPlan {
    /// The plan's name.
    #[schemars(
        length(min = 1, max = 63),
        pattern(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub name: String,

    /// In place of the quota's.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,
}
