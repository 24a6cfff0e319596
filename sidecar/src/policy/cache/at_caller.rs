//! What a caller's sidecar keeps of what one ApiRoute governs, so that who asks again asks nobody.
//!
//! Nobody decides then whether the caller may still enter. So nothing is given that was asked for
//! longer ago than the ApiRoute allows, nor anything that is not fresh; whatever credentials a request
//! has tell answers apart ([`super::principal`]), and the workload is the pod's own; and all goes when
//! the caller is told of another ApiRoute. Nor is anything kept that was answered by a sidecar that
//! was told something else of who may enter: one of the two may not know of all credentials.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wire::mesh;

use super::Cache;
use super::principal::Credentials;
use super::store::Store;
use super::terms::Terms;
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::cache::Counters;

/// What one ApiRoute may take in each caller's memory, whatever it says: callers are others' pods.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// The longest that is taken of what is allowed.
const LONGEST: Duration = Duration::from_secs(60);

/// The cache of one ApiRoute at a caller's side. Most callers are told of many and call few: it is made
/// for the first request.
#[derive(Debug)]
pub struct AtCaller {
    terms: Terms,
    cache: OnceLock<Arc<Cache>>,
}

impl AtCaller {
    /// Builds from what was sent, with nothing in it.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::CacheAtCaller) -> Result<Self, String> {
        let most = Duration::from_millis(sent.max_age_ms).min(LONGEST);
        if most.is_zero() {
            return Err("cache_at_caller: max_age_ms is 0".to_owned());
        }
        let how = sent.cache.ok_or("cache_at_caller: it has no cache")?;
        let within = |why| format!("cache_at_caller: {why}");
        let mut terms = Terms::read(how).map_err(within)?;
        if terms.revision.is_none() {
            return Err("cache_at_caller: it has no revision".to_owned());
        }
        let places = Credentials::build(&sent.credential_headers, sent.credential_query);
        let places =
            places.and_then(|places| places.and_decided_by(&sent.deciding_headers, sent.by_method));
        terms.chosen.credentials = Some(places.map_err(within)?);
        terms.spans.at_caller = Some(most);
        terms.bounds.bytes = terms.bounds.bytes.min(MOST_BYTES);
        terms.max_entry_bytes = terms.max_entry_bytes.min(terms.bounds.bytes / 4);
        Ok(Self {
            terms,
            cache: OnceLock::new(),
        })
    }

    /// How long ago what is given may have been asked for.
    pub fn max_age(&self) -> Duration {
        self.terms.spans.at_caller.unwrap_or_default()
    }

    /// What is kept, once something was asked.
    pub fn kept(&self) -> Option<&Arc<Cache>> {
        self.cache.get()
    }

    // === request ===

    /// The cache.
    pub fn cache(&self, counters: &Counters) -> &Arc<Cache> {
        self.cache.get_or_init(|| {
            let store = Store::new(self.terms.bounds);
            let terms = self.terms.clone();
            Arc::new(terms.cache(Direction::outbound, store, counters))
        })
    }
}
