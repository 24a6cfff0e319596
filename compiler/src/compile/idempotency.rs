//! Which calls are carried out once, among all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability};

use super::{Compilation, resource_id};
use crate::api_route::Hosts;
use crate::idempotency::Reader;
use crate::inputs::{ObjectKey, ObjectRef};

impl Compilation<'_> {
    /// The Services at whose pods an ApiRoute's calls are carried out once.
    pub(super) fn idempotent_at(&self, key: &ObjectKey, hosts: &Hosts) -> BTreeSet<ObjectKey> {
        let reader = self.idempotency_reader(key);
        reader.map_or_else(BTreeSet::new, |reader| reader.services(&hosts.services))
    }

    /// Notes at which Services' pods an ApiRoute's calls are carried out once; at none when it is gone.
    pub(super) fn idempotent(&mut self, key: &ObjectKey, services: BTreeSet<ObjectKey>) {
        let before = self.out.memo.links.idempotent.set(key, services.clone());
        if !(before.is_empty() && services.is_empty()) {
            self.dirty.idempotency.insert(key.clone());
        }
    }

    /// Compiles which calls are carried out once, for the pods that see to it.
    pub(super) fn idempotency(&mut self, key: &ObjectKey) {
        self.count(Kind::Idempotency);
        let Some(id) = resource_id(Kind::Idempotency, key) else {
            return;
        };
        let services = self.out.memo.links.idempotent.from(key);
        let services = services.cloned().unwrap_or_default();
        let audience = self.pods_of(&services);
        let reader = self.idempotency_reader(key);
        match reader.filter(|_| !audience.is_empty()) {
            Some(reader) => {
                let sent = reader.idempotency(&services);
                let object = Some(ObjectRef::api_route(key));
                self.put(id, &[capability::IDEMPOTENCY], &sent, audience, object);
            }
            None => self.remove(id),
        }
    }

    pub(super) fn idempotency_reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        let spec = &self.inputs.api_routes.get(key)?.spec;
        Some(Reader {
            key,
            spec,
            written: spec.idempotency.as_ref()?,
            credentials: &self.inputs.credentials,
            unreadable: &self.inputs.unreadable,
            settings: &self.inputs.settings,
        })
    }
}
