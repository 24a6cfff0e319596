//! Streams: a topic that callers read while it is published to.

#![allow(
    unreachable_pub,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::event_subscription::StartFrom;

/// Requests are answered with a topic of a broker as server-sent events, or by WebSocket, instead of reaching the
/// application: each event as it is published, for as long as the caller listens.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// The broker: a Secret of the object's namespace with the label `meshwright.dev/broker: <name>`. NATS
    /// or Redis.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub broker: String,

    /// The topic.
    #[schemars(
        length(min = 1, max = 200),
        pattern(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")
    )]
    pub topic: String,

    /// Where a caller begins that brings no `Last-Event-ID`, or `lastEventId` in the query. One that does goes on
    /// behind that event.
    #[serde(default)]
    pub start_from: StartFrom,
}
