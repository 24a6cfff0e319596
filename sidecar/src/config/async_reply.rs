//! AsyncReply → [`AsyncReply`]: where what is replied to events is kept, for whoever published them.

use std::sync::Arc;
use std::time::Duration;

use wire::mesh;

use super::broker::Broker;
use super::store::Address;
use super::subscription::Subscription;

/// Where what is replied to the events of a rule is kept, and fetched.
#[derive(Debug)]
pub struct AsyncReply {
    /// What is kept there, and by whom it is shared.
    pub kept: Arc<Kept>,
    /// By which replies are taken from their topic.
    pub taking: Arc<Subscription>,
}

/// What is kept of jobs.
#[derive(Debug)]
pub struct Kept {
    /// `namespace/name` of the ApiRoute, and the path that results are fetched below.
    pub name: Arc<str>,
    /// That path.
    pub path: String,
    /// For how long a job waits, and a result is kept.
    pub time_to_live: Duration,
    /// The store; `None` when it can't be had.
    pub store: Option<Arc<Address>>,
}

// === build ===

impl AsyncReply {
    /// Builds from what was sent of an ApiRoute (`namespace/name`).
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(
        object: &str,
        broker: &Arc<Broker>,
        sent: mesh::AsyncReply,
    ) -> Result<Self, String> {
        if !sent.result_path.starts_with('/') || sent.time_to_live_ms == 0 {
            return Err("it has no path, or keeps nothing".to_owned());
        }
        let store = sent.store.ok_or("store: it is missing")?;
        let store = match store.url.is_empty() {
            true => None,
            false => Some(Arc::new(Address::build(store.url, store.ca_certificates)?)),
        };
        let kept = Arc::new(Kept {
            name: format!("{object}{}", sent.result_path).into(),
            path: sent.result_path,
            time_to_live: Duration::from_millis(sent.time_to_live_ms),
            store,
        });
        let taking = Subscription::of_results(&kept, broker, (sent.topic, sent.group));
        Ok(Self {
            kept,
            taking: Arc::new(taking),
        })
    }
}
