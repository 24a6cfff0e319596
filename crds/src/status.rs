//! What became of an object: the status that every kind has, and its words.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the object; written by the operator.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// `Accepted`, `ResolvedRefs` and `Programmed`, and of an EventSubscription `Ready`, each with a reason and a
    /// sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// How many of the sidecars that should enforce the object do, such as `3/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub programmed: Option<String>,

    /// What it is for, such as `orders.shop` for a Service, `ApiRoute orders.shop` for what an ApiRoute
    /// governs, and `ApiRoute orders.shop/get-order` for one of its rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub target: Option<String>,
}

/// What a condition is about.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ConditionType {
    /// The object is valid and in force; `False` means that it has no effect at all.
    Accepted,
    /// Everything that the object refers to exists and may be referred to.
    ResolvedRefs,
    /// The sidecars that should enforce it do.
    Programmed,
    /// Of an EventSubscription: events are delivered.
    Ready,
}

/// Why a condition is as it is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Reason {
    /// `Accepted=True`.
    Accepted,
    /// `Accepted=False`: an object that is older, or comes first, has the same host or target.
    Conflicted,
    /// `Accepted=False`: a host names no Service.
    HostNotFound,
    /// `Accepted=False`: a host that no ApiRoute can govern, such as one outside the cluster.
    UnsupportedHost,
    /// `Accepted=False`: a target names no Service, no ApiRoute, or no rule of it.
    TargetNotFound,
    /// `Accepted=False`: a target that nothing can be done about, such as a name outside the cluster.
    UnsupportedTarget,
    /// `Accepted=False` or `ResolvedRefs=False`: a Service whose ports don't speak HTTP.
    UnsupportedProtocol,
    /// `Accepted=False`: the object contradicts itself.
    Invalid,
    /// `ResolvedRefs=True`.
    ResolvedRefs,
    /// `ResolvedRefs=False`: a backend names no Service.
    BackendNotFound,
    /// `ResolvedRefs=False`: a backend's Service has no such port.
    PortNotFound,
    /// `ResolvedRefs=False`: a backend in a namespace that the object may not send to.
    RefNotPermitted,
    /// `ResolvedRefs=False`: an ApiRoute as backend that leads back, or on through too many.
    Cycle,
    /// `ResolvedRefs=False`: a Secret that is missing, or says nothing that can be read.
    SecretNotUsable,
    /// `ResolvedRefs=False`: a Service with more endpoints than a sidecar can be sent.
    TooManyEndpoints,
    /// `ResolvedRefs=False`: a Service whose pods exclude its port from their sidecars, where nobody enforces
    /// `auth` and `authorization`.
    PortExcluded,
    /// `Programmed=True`: every sidecar that should enforce the object does.
    Programmed,
    /// `Programmed=False` or `Ready=Unknown`: some sidecars have not answered yet.
    Pending,
    /// `Programmed=False`: a sidecar refused it.
    Rejected,
    /// `Programmed=False` or `Ready=False`: there is nothing to enforce, because the object isn't accepted.
    NotAccepted,
    /// `Ready=True`: a sidecar delivers events.
    Ready,
    /// `Ready=False`: no sidecar delivers for now, such as while the broker or the target can't be reached.
    NotDelivering,
    /// `Ready=False`: `spec.suspend` is true.
    Suspended,
    /// `Ready=False`: the target answered 410.
    TargetGone,
    /// `Ready=False`: no pod that the events are for has a sidecar, such as while there is none; what waits is counted.
    NoTarget,
    /// `Ready=False`: there is no sidecar that would carry it out, neither of a pod that the events are for nor of the
    /// Deployment `meshwright-events`.
    NotCarriedOut,
}

// === impl ConditionType ===

impl ConditionType {
    /// As written in a condition's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionType::Accepted => "Accepted",
            ConditionType::ResolvedRefs => "ResolvedRefs",
            ConditionType::Programmed => "Programmed",
            ConditionType::Ready => "Ready",
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Reason ===

impl Reason {
    /// As written in a condition's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Accepted => "Accepted",
            Reason::Conflicted => "Conflicted",
            Reason::HostNotFound => "HostNotFound",
            Reason::UnsupportedHost => "UnsupportedHost",
            Reason::TargetNotFound => "TargetNotFound",
            Reason::UnsupportedTarget => "UnsupportedTarget",
            Reason::UnsupportedProtocol => "UnsupportedProtocol",
            Reason::Invalid => "Invalid",
            Reason::ResolvedRefs => "ResolvedRefs",
            Reason::BackendNotFound => "BackendNotFound",
            Reason::PortNotFound => "PortNotFound",
            Reason::RefNotPermitted => "RefNotPermitted",
            Reason::Cycle => "Cycle",
            Reason::SecretNotUsable => "SecretNotUsable",
            Reason::TooManyEndpoints => "TooManyEndpoints",
            Reason::PortExcluded => "PortExcluded",
            Reason::Programmed => "Programmed",
            Reason::Pending => "Pending",
            Reason::Rejected => "Rejected",
            Reason::NotAccepted => "NotAccepted",
            Reason::Ready => "Ready",
            Reason::NotDelivering => "NotDelivering",
            Reason::Suspended => "Suspended",
            Reason::TargetGone => "TargetGone",
            Reason::NoTarget => "NoTarget",
            Reason::NotCarriedOut => "NotCarriedOut",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
