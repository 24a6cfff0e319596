//! Which answers are kept, among all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability};

use super::{Compilation, resource_id};
use crate::api_route::Hosts;
use crate::cache::Reader;
use crate::inputs::{ObjectKey, ObjectRef};

impl Compilation<'_> {
    /// The Services at whose pods answers are kept as an ApiRoute says.
    pub(super) fn cached_at(&self, key: &ObjectKey, hosts: &Hosts) -> BTreeSet<ObjectKey> {
        let reader = self.cache_reader(key);
        reader.map_or_else(BTreeSet::new, |reader| reader.services(&hosts.services))
    }

    /// Notes at which Services' pods answers are kept as an ApiRoute says; at none when it is gone.
    pub(super) fn cached(&mut self, key: &ObjectKey, services: BTreeSet<ObjectKey>) {
        let before = self.out.memo.links.cached.set(key, services.clone());
        if !(before.is_empty() && services.is_empty()) {
            self.dirty.caches.insert(key.clone());
        }
    }

    /// Compiles which answers are kept, for the pods that keep them.
    pub(super) fn cache(&mut self, key: &ObjectKey) {
        self.count(Kind::Cache);
        let Some(id) = resource_id(Kind::Cache, key) else {
            return;
        };
        let services = self.out.memo.links.cached.from(key);
        let services = services.cloned().unwrap_or_default();
        let audience = self.pods_of(&services);
        let reader = self.cache_reader(key);
        let reader = reader.filter(|_| !audience.is_empty() && self.is_in_force(key));
        match reader.and_then(|reader| reader.cache(&services)) {
            Some(cache) => {
                let object = Some(ObjectRef::api_route(key));
                self.put(id, &[capability::CACHE], &cache, audience, object);
            }
            None => self.remove(id),
        }
    }

    pub(super) fn cache_reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        Some(Reader {
            key,
            spec: &self.inputs.api_routes.get(key)?.spec,
        })
    }
}
