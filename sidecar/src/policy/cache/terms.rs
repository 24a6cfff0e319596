//! What is said of a cache, whichever side it stands at.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use wire::mesh;

use super::Cache;
use super::entry::Spans;
use super::key::Chosen;
use super::store::{Bounds, Store};
use crate::config::service::ServiceKey;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::cache::Counters;

/// What is said of a cache.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) object: Arc<str>,
    pub(super) services: Vec<ServiceKey>,
    pub(super) chosen: Chosen,
    pub(super) spans: Spans,
    pub(super) bounds: Bounds,
    pub(super) max_entry_bytes: u64,
    pub(super) revision: Option<u128>,
}

// === build ===

impl Terms {
    /// Reads what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub(super) fn read(sent: mesh::Cache) -> Result<Self, String> {
        let bounds = Bounds {
            bytes: sent.max_bytes,
            entries: sent.max_entries,
        };
        if bounds.bytes == 0 || bounds.entries == 0 || sent.max_entry_bytes == 0 {
            return Err("it has no room for any answer".to_owned());
        }
        let headers = sent.key_headers.iter().map(|name| {
            let header = HeaderName::from_bytes(name.as_bytes());
            header.map_err(|_| format!("key_headers: {name:?} is no name of a header"))
        });
        let revision: Option<[u8; 16]> = match sent.revision.len() {
            0 => None,
            _ => {
                let sent = sent.revision.as_ref().try_into();
                Some(sent.map_err(|_| "revision: it has not 16 bytes".to_owned())?)
            }
        };
        Ok(Self {
            revision: revision.map(u128::from_be_bytes),
            chosen: Chosen {
                headers: headers.collect::<Result<_, _>>()?,
                query: sent.key_query.map(|query| query.names),
                credentials: None,
            },
            object: format!("{}/{}", sent.namespace, sent.name).into(),
            services: sent
                .services
                .iter()
                .map(|service| ServiceKey::new(&service.namespace, &service.name))
                .collect(),
            spans: Spans {
                default_ttl: Duration::from_millis(sent.default_ttl_ms),
                stale_while_revalidate: Duration::from_millis(sent.stale_while_revalidate_ms),
                stale_if_error: Duration::from_millis(sent.stale_if_error_ms),
                at_caller: None,
            },
            max_entry_bytes: sent.max_entry_bytes.min(bounds.bytes),
            bounds,
        })
    }

    /// A cache of these terms.
    pub(super) fn cache(self, side: Direction, store: Arc<Store>, counters: &Counters) -> Cache {
        Cache {
            counts: counters.of(side, &self.object, &store),
            object: self.object,
            services: self.services,
            side,
            chosen: self.chosen,
            spans: self.spans,
            max_entry_bytes: self.max_entry_bytes,
            revision: self.revision,
            store,
        }
    }
}
