//! Publish: requests that become events.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests are published to a topic of a broker instead of reaching the application. Whoever sent one
/// is answered 202 once the broker holds it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// The broker: a Secret of the object's namespace with the label `meshwright.dev/broker: <name>`.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub broker: String,

    /// The topic.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,

    /// What events are called that come as plain bodies. CloudEvents say so themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<PublishedEvent>,

    /// The most bytes of a request's body; a larger one is answered 413. A broker may take less.
    #[serde(default = "Publish::default_max_bytes")]
    #[schemars(range(min = 1, max = 8_388_608))]
    pub max_bytes: u64,

    /// What is waited for before 202 is answered.
    #[serde(default)]
    pub ack: PublishAck,
}

/// What is waited for before whoever sent something is answered.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishAck {
    /// That the broker holds the event.
    #[default]
    Broker,
    /// Nothing: 202 says that an event was read. It is lost, and counted, when the broker does not take it, or when
    /// too many wait for the broker.
    None,
}

/// Attributes of events that come as plain bodies.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedEvent {
    /// Their `type`; the topic when absent.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub type_: Option<String>,

    /// Their `source`; `/apiroutes/<namespace>/<name>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), pattern(r"^[!-~]+$"))]
    pub source: Option<String>,
}

// === impl Publish ===

impl Publish {
    fn default_max_bytes() -> u64 {
        1024 * 1024
    }
}
