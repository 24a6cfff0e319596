//! Which answers are kept, among all that is compiled.

use std::collections::BTreeSet;

use crds::status::Reason;
use wire::{Kind, capability, mesh};

use super::{Compilation, resource_id};
use crate::api_route::{Hosts, Refusal};
use crate::attach::Precedence;
use crate::cache::Reader;
use crate::inputs::{ObjectKey, ObjectRef};

impl Compilation<'_> {
    /// The Services at whose pods answers are kept as an ApiRoute says.
    pub(super) fn cached_at(&self, key: &ObjectKey, hosts: &Hosts) -> BTreeSet<ObjectKey> {
        let reader = self.cache_reader(key);
        reader.map_or_else(BTreeSet::new, |reader| reader.services(&hosts.services))
    }

    /// What is said of Services at whose pods an ApiRoute would have answers kept, one for each where
    /// another one comes before it: the rest of the object is in force there.
    pub(super) fn yielded(&self, key: &ObjectKey, services: &BTreeSet<ObjectKey>) -> Vec<Refusal> {
        let Some(own) = self.precedence(key) else {
            return Vec::new();
        };
        let lost = services.iter().filter_map(|service| {
            // Not itself: it may be remembered as it was before it was removed and made anew.
            let first = self.keepers(service).filter(|other| other.key != own.key);
            let first = first.min().filter(|first| **first < own)?;
            let wins = match first.is_older_than(&own) {
                true => "is older",
                false => "comes first",
            };
            Some(Refusal {
                reason: Reason::Conflicted,
                message: format!(
                    "spec.cache: ApiRoute {} {wins} and already says which answers the pods of \
                     Service {:?} keep: write cache in one of the two, or send there by one of them.",
                    first.key, service.name
                ),
            })
        });
        lost.collect()
    }

    /// The ApiRoutes that say which answers a Service's pods keep; the first of them is obeyed.
    fn keepers(&self, service: &ObjectKey) -> impl Iterator<Item = &Precedence> {
        let memo = &self.out.memo;
        let keeping = memo.links.cached.to(service).into_iter().flatten();
        keeping.filter_map(|route| memo.caches.get(route))
    }

    fn precedence(&self, key: &ObjectKey) -> Option<Precedence> {
        let metadata = &self.inputs.api_routes.get(key)?.metadata;
        let object = ObjectRef::api_route(key);
        Some(Precedence::of(&object, metadata, self.inputs))
    }

    /// Notes at which Services' pods answers are kept as an ApiRoute says, if it is in force; at none
    /// when it is gone. Others that say it there are compiled again when that changes.
    pub(super) fn cached(&mut self, key: &ObjectKey, services: BTreeSet<ObjectKey>) {
        let own = self.precedence(key).filter(|_| self.is_in_force(key));
        let own = own.filter(|_| !services.is_empty());
        let services = match own {
            Some(_) => services,
            None => BTreeSet::new(),
        };
        let memo = &mut self.out.memo;
        let before = match own.clone() {
            Some(own) => memo.caches.insert(key.clone(), own),
            None => memo.caches.remove(key),
        };
        let kept = memo.links.cached.set(key, services.clone());
        if kept.is_empty() && services.is_empty() {
            return;
        }
        self.dirty.caches.insert(key.clone());
        if before == own && kept == services {
            return;
        }
        let others = kept.union(&services);
        let others = others.filter_map(|service| memo.links.cached.to(service));
        let others = others.flatten().filter(|other| *other != key);
        self.dirty.objects.extend(others.map(ObjectRef::api_route));
    }

    /// Which answers the callers of what an ApiRoute governs keep.
    pub(super) fn cache_at_caller(&self, key: &ObjectKey) -> Option<mesh::CacheAtCaller> {
        let reader = self.cache_reader(key)?;
        reader.at_caller(&self.inputs.api_routes)
    }

    /// Compiles which answers are kept, for the pods that keep them.
    pub(super) fn cache(&mut self, key: &ObjectKey) {
        self.count(Kind::Cache);
        let Some(id) = resource_id(Kind::Cache, key) else {
            return;
        };
        let services = self.out.memo.links.cached.from(key).into_iter().flatten();
        let first = |service: &&ObjectKey| {
            let first = self.keepers(service).min();
            first.is_some_and(|first| first.key == *key)
        };
        let services: BTreeSet<_> = services.filter(first).cloned().collect();
        let audience = self.pods_of(&services);
        let reader = self.cache_reader(key);
        let reader = reader.filter(|_| !audience.is_empty() && self.is_in_force(key));
        match reader.and_then(|reader| reader.cache(&services, &self.inputs.api_routes)) {
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
