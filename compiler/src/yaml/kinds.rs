//! The kinds that a folder may hold.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Fault, Object, labels, strict};
use crate::host;

/// The one kind that is in no namespace.
pub(super) const NAMESPACE: &str = "Namespace";

/// A kind that a folder may hold: its `apiVersion`, and how its documents are read.
pub(super) struct Known {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) read: fn(&Value) -> Result<Object, Vec<Fault>>,
}

const KINDS: &[Known] = &[
    Known {
        api_version: crds::API_VERSION,
        kind: "ApiRoute",
        read: |value| typed(value).map(Object::ApiRoute),
    },
    Known {
        api_version: crds::API_VERSION,
        kind: "RetryPolicy",
        read: |value| typed(value).map(Object::RetryPolicy),
    },
    Known {
        api_version: crds::API_VERSION,
        kind: "RateLimit",
        read: |value| typed(value).map(Object::RateLimit),
    },
    Known {
        api_version: crds::API_VERSION,
        kind: "EventSubscription",
        read: |value| typed(value).map(Object::EventSubscription),
    },
    Known {
        api_version: "v1",
        kind: "Service",
        read: |value| typed(value).map(Object::Service),
    },
    Known {
        api_version: "apps/v1",
        kind: "Deployment",
        read: |value| typed(value).and_then(labels::deployment),
    },
    Known {
        api_version: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        read: |value| typed(value).map(Object::EndpointSlice),
    },
    Known {
        api_version: "v1",
        kind: "Pod",
        read: |value| typed(value).and_then(labels::pod),
    },
    Known {
        api_version: "apps/v1",
        kind: "StatefulSet",
        read: ignored::<StatefulSet>,
    },
    Known {
        api_version: "apps/v1",
        kind: "DaemonSet",
        read: ignored::<DaemonSet>,
    },
    Known {
        api_version: "batch/v1",
        kind: "Job",
        read: ignored::<Job>,
    },
    Known {
        api_version: "batch/v1",
        kind: "CronJob",
        read: ignored::<CronJob>,
    },
    Known {
        api_version: "v1",
        kind: NAMESPACE,
        read: |value| typed(value).and_then(labels::namespace),
    },
    Known {
        api_version: "v1",
        kind: "ServiceAccount",
        read: ignored::<ServiceAccount>,
    },
    Known {
        api_version: "v1",
        kind: "Secret",
        read: |value| typed(value).map(Object::Secret),
    },
    Known {
        api_version: "v1",
        kind: "ConfigMap",
        read: ignored::<ConfigMap>,
    },
];

/// The kind of a document.
pub(super) fn of(value: &Value) -> Result<&'static Known, Fault> {
    if !value.is_object() {
        return Err(Fault::new(
            "",
            "this is no object: write apiVersion, kind, metadata and spec".to_owned(),
        ));
    }
    let Some(kind) = value.get("kind").and_then(Value::as_str) else {
        return Err(Fault::new(
            "kind",
            format!("is missing: write one of {}", kinds()),
        ));
    };
    let Some(known) = KINDS.iter().find(|known| known.kind == kind) else {
        let names = KINDS.iter().map(|known| known.kind);
        let remedy = match host::nearest(kind, names) {
            Some(name) => format!("did you mean {name}?"),
            None => format!("a folder holds {}", kinds()),
        };
        return Err(Fault::new("kind", format!("unknown kind {kind}; {remedy}")));
    };
    match value.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version == known.api_version => Ok(known),
        Some(version) => Err(Fault::new(
            "apiVersion",
            format!("{kind} has {}, not {version}", known.api_version),
        )),
        None => Err(Fault::new(
            "apiVersion",
            format!("is missing: write apiVersion: {}", known.api_version),
        )),
    }
}

fn kinds() -> String {
    Vec::from_iter(KINDS.iter().map(|known| known.kind)).join(", ")
}

/// The value as an object of its type.
fn typed<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, Vec<Fault>> {
    strict::read(value, "").map(Arc::new)
}

/// Makes sure that the value has its type's form, of which nothing is used here.
fn ignored<T: DeserializeOwned>(value: &Value) -> Result<Object, Vec<Fault>> {
    strict::read::<T>(value, "").map(|_| Object::Ignored)
}
