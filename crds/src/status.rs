//! The words of a status: condition types and reasons.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// The object is valid and in force; `False` means that it has no effect at all.
    Accepted,
    /// Everything that the object refers to exists and may be referred to.
    ResolvedRefs,
    /// The sidecars that should enforce it do.
    Programmed,
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// `Accepted=True`.
    Accepted,
    /// `Accepted=False`: an object that is older, or comes first, has the same host.
    Conflicted,
    /// `Accepted=False`: a host names no Service.
    HostNotFound,
    /// `Accepted=False`: a host that no ApiRoute can govern, such as one outside the cluster.
    UnsupportedHost,
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
    /// `ResolvedRefs=False`: a Service with more endpoints than a sidecar can be sent.
    TooManyEndpoints,
    /// `Programmed=True`: every sidecar that should enforce the object does.
    Programmed,
    /// `Programmed=False`: some sidecars have not answered yet.
    Pending,
    /// `Programmed=False`: a sidecar refused it.
    Rejected,
    /// `Programmed=False`: there is nothing to enforce, because the object isn't accepted.
    NotAccepted,
}

// === impl ConditionType ===

impl ConditionType {
    /// As written in a condition's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionType::Accepted => "Accepted",
            ConditionType::ResolvedRefs => "ResolvedRefs",
            ConditionType::Programmed => "Programmed",
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
            Reason::UnsupportedProtocol => "UnsupportedProtocol",
            Reason::Invalid => "Invalid",
            Reason::ResolvedRefs => "ResolvedRefs",
            Reason::BackendNotFound => "BackendNotFound",
            Reason::PortNotFound => "PortNotFound",
            Reason::RefNotPermitted => "RefNotPermitted",
            Reason::TooManyEndpoints => "TooManyEndpoints",
            Reason::Programmed => "Programmed",
            Reason::Pending => "Pending",
            Reason::Rejected => "Rejected",
            Reason::NotAccepted => "NotAccepted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
