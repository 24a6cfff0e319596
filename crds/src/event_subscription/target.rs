//! Where events go.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where events go: each as a POST.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("(self.type == 'Workload') == has(self.workload)")
    .message("workload is written with type Workload, and only there"))]
#[x_kube(validation = Cel::new("(self.type == 'Service') == has(self.service)")
    .message("service is written with type Service, and only there"))]
pub struct EventTarget {
    /// What it is.
    #[serde(rename = "type")]
    pub type_: EventTargetType,

    /// Pods, each of which gets its share from its own sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadTarget>,

    /// A Service, which is called as any caller calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTarget>,

    /// The path that events are posted to.
    #[serde(default = "EventTarget::default_path")]
    #[schemars(
        length(min = 1, max = 1024),
        pattern(r"^/[A-Za-z0-9/._~!$&'()*+,;=:@-]*$")
    )]
    pub path: String,
}

/// What events go to.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventTargetType {
    /// Pods: each sidecar delivers to the application beside it.
    Workload,
    /// A Service: the sidecars of its pods deliver to it by its name, with all that governs calls to it.
    Service,
}

/// Pods of the object's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadTarget {
    /// Labels that the pods have, all of them.
    #[schemars(schema_with = "crate::schema::labels")]
    #[x_kube(validation = Cel::new("self.size() > 0").message("without a label it selects nothing"))]
    pub selector: BTreeMap<String, String>,

    /// The port that the application listens on.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// A Service of the object's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTarget {
    /// Its name.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The Service's port, by number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

// === impl EventTarget ===

impl EventTarget {
    fn default_path() -> String {
        "/".to_owned()
    }
}
