//! Which endpoints are not called at the moment, as the sidecars of their callers know it.

use std::sync::Arc;
use std::time::Duration;

use compiler::ObjectKey;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::ground::Place;
use crate::http;

/// How long a sidecar may take to answer; one that doesn't has nothing to tell.
const ANSWER: Duration = Duration::from_secs(2);

/// An endpoint that a sidecar does not call, or avoids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trouble {
    /// The pod whose sidecar it is.
    #[serde(default)]
    pub seen_by: String,
    /// `namespace/service` that it is an endpoint of.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// `namespace/pod`, or empty for an endpoint that no pod stands behind.
    pub pod: String,
    /// Where it listens.
    pub address: String,
    /// `open`, `half open` or `unhealthy`.
    pub state: String,
}

/// What a sidecar answers.
#[derive(Deserialize)]
struct Answer {
    endpoints: Vec<Trouble>,
}

/// Asks every sidecar.
pub(super) async fn gather(pods: Vec<(ObjectKey, Arc<Place>)>) -> Vec<Trouble> {
    let asked = pods.into_iter().map(|(key, place)| async move {
        let answer = timeout(ANSWER, of(&place)).await;
        let mut troubles = answer.map(Result::unwrap_or_default).unwrap_or_default();
        for trouble in &mut troubles {
            trouble.seen_by = key.to_string();
        }
        troubles
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn of(place: &Place) -> anyhow::Result<Vec<Trouble>> {
    let stream = place.connect_to_admin().await?;
    let (_, body) = http::ask(stream, "localhost", "/endpoints").await?;
    Ok(serde_json::from_slice::<Answer>(&body)?.endpoints)
}
