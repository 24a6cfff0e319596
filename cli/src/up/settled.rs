//! Whether every sidecar knows where every workload is: only then does a first call succeed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use compiler::ObjectKey;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::fleet::Running;
use super::ground::Place;
use super::mesh::Mesh;
use super::pod::Phase;
use crate::http;

/// After that it is said to be ready all the same.
const PATIENCE: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(1);

/// What each sidecar should know.
pub(super) struct Expected {
    places: Vec<Arc<Place>>,
    /// The ready pods that a Service selects, as `namespace/name`.
    pods: BTreeSet<String>,
}

// === impl Mesh ===

impl Mesh {
    pub(super) fn expected(&self) -> Expected {
        let selected = |(key, pod): &(&ObjectKey, &Running)| {
            pod.phase == Phase::Ready
                && self
                    .plan
                    .services
                    .values()
                    .any(|service| super::written::selects(service, key, pod))
        };
        Expected {
            places: self.pods.values().map(|pod| pod.place.clone()).collect(),
            pods: self
                .pods
                .iter()
                .filter(selected)
                .map(|(key, _)| key.to_string())
                .collect(),
        }
    }
}

// === impl Expected ===

impl Expected {
    /// Waits until they know it, but not for ever.
    pub(super) async fn settle(self) {
        let until = Instant::now() + PATIENCE;
        for place in &self.places {
            while Instant::now() < until && !self.knows(place).await {
                sleep(ASK_EVERY).await;
            }
        }
    }

    async fn knows(&self, place: &Place) -> bool {
        let asked = async {
            let stream = place.connect_to_admin().await?;
            http::ask(stream, "localhost", "/config").await
        };
        let Ok(Ok((200, body))) = timeout(ANSWER, asked).await else {
            return false;
        };
        let Ok(config) = serde_json::from_slice::<Value>(&body) else {
            return false;
        };
        let services = config["inForce"]["services"]
            .as_array()
            .into_iter()
            .flatten();
        let ports = services.flat_map(|service| service["ports"].as_array().into_iter().flatten());
        let endpoints = ports.flat_map(|port| port["endpoints"].as_array().into_iter().flatten());
        let known: BTreeSet<_> = endpoints
            .filter_map(|endpoint| endpoint["pod"].as_str())
            .collect();
        self.pods.iter().all(|pod| known.contains(pod.as_str()))
    }
}
