//! Which events are taken for the same: from `crds::Deduplication` to `mesh::EventDeduplication`.

use crds::event_subscription::{Deduplication, DeduplicationStore};
use crds::rate_limit::{Redis, Store};
use wire::mesh;

use super::{Reader, invalid};
use crate::api_route::Refusal;
use crate::store;

/// What is sent of it, what contradicts itself, and why its store can't be had.
#[derive(Default)]
pub(super) struct Compiled {
    pub(super) sent: Option<mesh::EventDeduplication>,
    pub(super) refusal: Option<Refusal>,
    pub(super) unresolved: Option<Refusal>,
}

impl Reader<'_> {
    pub(super) fn deduplication(&self) -> Compiled {
        let Some(written) = &self.spec.deduplication else {
            return Compiled::default();
        };
        let mut compiled = Compiled::default();
        let (mut key, mut store) = (written.key.clone(), None);
        key.sort_unstable();
        key.dedup();
        match (written.store, &written.redis) {
            (DeduplicationStore::Memory, None) => {}
            (DeduplicationStore::Redis, Some(redis)) => {
                let (sent, unresolved) = self.store(redis);
                (store, compiled.unresolved) = (Some(sent), unresolved);
            }
            _ => {
                compiled.refusal = Some(invalid(
                    "spec.deduplication.redis: it is written with store: Redis, and only there."
                        .to_owned(),
                ));
            }
        }
        compiled.sent = Some(sent(written, key, store));
        compiled
    }

    fn store(&self, redis: &Redis) -> (mesh::SharedStore, Option<Refusal>) {
        let reader = store::Reader {
            key: self.key,
            credentials: self.credentials,
            unreadable: self.brokers.unreadable,
            settings: self.brokers.settings,
        };
        let store = Store {
            redis: redis.clone(),
        };
        let (url, unresolved) = reader.url("spec.deduplication", &store);
        let sent = mesh::SharedStore {
            url,
            ca_certificates: redis.ca_certificates.clone().unwrap_or_default(),
            on_failure: mesh::StoreFailure::Allow.into(),
        };
        (sent, unresolved)
    }
}

fn sent(
    written: &Deduplication,
    attributes: Vec<String>,
    store: Option<mesh::SharedStore>,
) -> mesh::EventDeduplication {
    mesh::EventDeduplication {
        attributes,
        window_ms: written.window.millis(),
        store,
    }
}
