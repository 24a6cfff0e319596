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
#[x_kube(validation = Cel::new("(self.type == 'URL') == has(self.url)")
    .message("url is written with type URL, and only there"))]
#[x_kube(validation = Cel::new("(self.type == 'Topic') == has(self.topic)")
    .message("topic is written with type Topic, and only there"))]
#[x_kube(validation = Cel::new("self.path == '/' || self.type in ['Workload', 'Service']")
    .message("path is written with type Workload or Service: a url has one of its own, and a topic has none"))]
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

    /// A system outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<UrlTarget>,

    /// Another topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicTarget>,

    /// The path that events are posted to, with type Workload or Service.
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
    /// A system outside the mesh: the pods of the chart's Deployment `meshwright-events` post to it.
    #[serde(rename = "URL")]
    Url,
    /// Another topic, of the same broker or another one: the pods of the chart's Deployment `meshwright-events` publish to it.
    Topic,
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

/// A system outside the mesh.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UrlTarget {
    /// Where events are posted to: `https://host[:port]/path?query`; `http://` is refused. Whatever leaves the mesh is encrypted, and its receiver proved.
    #[schemars(
        length(min = 9, max = 2048),
        pattern(r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9/._~!$&'()*+,;=:@%-]*)?(\?[A-Za-z0-9/._~!$&'()*+,;=:@%?-]*)?$")
    )]
    pub address: String,

    /// A Secret of the object's namespace, with the label `meshwright.dev/credential`, that holds what the system asks for: `token`, sent as `Authorization: Bearer`, or
    /// `username` and `password`, sent as `Authorization: Basic`; `tls.crt` and `tls.key`, the certificate that is shown to
    /// it; `ca.crt`, what its own certificate is below, if that is none of the public web's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretName>,
}

/// A Secret, by its name.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
}

/// A topic that events are copied to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicTarget {
    /// The broker: the value of the label `meshwright.dev/broker` of a Secret in the object's namespace. When absent, that
    /// which the events come from; a schedule has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub broker: Option<String>,

    /// The topic's name.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub name: String,
}

// === impl EventTarget ===

impl EventTarget {
    fn default_path() -> String {
        "/".to_owned()
    }
}
