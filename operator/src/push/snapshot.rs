//! One publication: everything that was compiled, found by who may receive it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use compiler::{Audience, AudienceKey, Compiled, Inputs, ObjectKey, Output, seen_in};
use k8s_openapi::api::core::v1::Pod;
use wire::delta::View;
use wire::lookup::Question;
use wire::{Generation, Kind, Resource, ResourceId, capability, mesh};

use super::ledger::StreamId;

/// A consistent picture: resources, and what had been seen when they were compiled.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    resources: BTreeMap<ResourceId, Arc<Compiled>>,
    /// Shared with the snapshots before and after, but for what changed.
    by_key: HashMap<AudienceKey, Arc<BTreeSet<ResourceId>>>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    /// The Services that have an address, virtual or a pod's own.
    by_address: Arc<HashMap<IpAddr, BTreeSet<ObjectKey>>>,
    seen: Generation,
    /// By namespace, how far its Secrets had been seen.
    seen_secrets: BTreeMap<String, Generation>,
}

/// What one stream may receive of a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct StreamView {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) keys: Audience,
    pub(super) asked: Asked,
}

/// What a stream has asked about, by ids of kind Lookup. Cheap to clone.
pub(super) type Asked = Arc<BTreeSet<ResourceId>>;

// === impl Snapshot ===

impl Snapshot {
    /// The publication after `self`.
    pub(super) fn next(&self, inputs: &Inputs, output: &Output) -> Snapshot {
        let mut by_key = self.by_key.clone();
        let none = Audience::new();
        for id in &output.changed {
            let before = self.resources.get(id).map_or(&none, |old| &old.audience);
            let after = output.resources.get(id).map_or(&none, |new| &new.audience);
            for key in before.difference(after) {
                if let Some(ids) = by_key.get_mut(key) {
                    Arc::make_mut(ids).remove(id);
                    if ids.is_empty() {
                        by_key.remove(key);
                    }
                }
            }
            for key in after.difference(before) {
                Arc::make_mut(by_key.entry(key.clone()).or_default()).insert(id.clone());
            }
        }
        Snapshot {
            resources: output.resources.clone(),
            by_key,
            by_address: self.next_addresses(output),
            pods: inputs.pods.clone(),
            seen: inputs.seen,
            seen_secrets: inputs.seen_secrets.clone(),
        }
    }

    fn next_addresses(&self, output: &Output) -> Arc<HashMap<IpAddr, BTreeSet<ObjectKey>>> {
        let mut by_address = self.by_address.clone();
        let none = BTreeSet::new();
        let of_services = output.changed.iter();
        for id in of_services.filter(|id| id.kind == Kind::Endpoints) {
            let before = self.resources.get(id);
            let before = before.map_or(&none, |one| &one.around.addresses);
            let after = output.resources.get(id);
            let after = after.map_or(&none, |one| &one.around.addresses);
            if before == after {
                continue;
            }
            let service = service(id);
            let by_address = Arc::make_mut(&mut by_address);
            for address in before.difference(after) {
                if let Some(services) = by_address.get_mut(address) {
                    services.remove(&service);
                    if services.is_empty() {
                        by_address.remove(address);
                    }
                }
            }
            for address in after.difference(before) {
                let services = by_address.entry(*address).or_default();
                services.insert(service.clone());
            }
        }
        by_address
    }

    /// The Services that a question is about.
    pub(super) fn services(&self, question: &Question) -> BTreeSet<ObjectKey> {
        match question {
            Question::Address(address) => self.by_address.get(address).cloned().unwrap_or_default(),
            Question::Service { namespace, name } => {
                let id = ResourceId::new(Kind::Endpoints, &**namespace, &**name);
                let found = self.resources.contains_key(&id).then(|| service(&id));
                found.into_iter().collect()
            }
        }
    }

    /// The answer to a question, as a resource.
    fn answer(&self, id: &ResourceId) -> Option<Resource> {
        let services = self.services(&Question::of(id)?);
        let services = services.into_iter().map(|service| mesh::ServiceRef {
            namespace: service.namespace,
            name: service.name,
        });
        let lookup = mesh::Lookup {
            services: services.collect(),
        };
        let generation = self.seen.of(Kind::Lookup);
        let needs = &[capability::LOOKUP];
        Some(Resource::new(id.clone(), generation, needs, &lookup))
    }

    /// The questions whose answers differ from those of the snapshot before, of those in `asked`.
    pub(super) fn answered_anew<'a>(
        &self,
        before: &Snapshot,
        changed: &BTreeSet<ResourceId>,
        asked: &'a BTreeMap<ResourceId, BTreeSet<StreamId>>,
    ) -> impl Iterator<Item = (&'a ResourceId, &'a BTreeSet<StreamId>)> {
        let mut about = BTreeSet::new();
        for id in changed.iter().filter(|id| id.kind == Kind::Endpoints) {
            let ObjectKey { namespace, name } = service(id);
            about.insert(Question::Service { namespace, name }.id());
            for snapshot in [before, self] {
                let compiled = snapshot.resources.get(id).into_iter();
                let addresses = compiled.flat_map(|compiled| &compiled.around.addresses);
                about.extend(addresses.map(|address| Question::Address(*address).id()));
            }
        }
        let asked = about.into_iter().filter_map(|id| asked.get_key_value(&id));
        asked.filter(|(id, _)| {
            let services = |of: &Snapshot| Question::of(id).map(|asked| of.services(&asked));
            services(before) != services(self)
        })
    }

    /// What someone with these keys who asked that receives beside: the Services that it calls, those
    /// that these lead to, and so on. Those of its own namespace it receives in any case.
    pub(super) fn reach(&self, keys: &mut Audience, asked: &Asked, own_namespace: &str) {
        // It has them all.
        if keys.contains(&AudienceKey::AnyService) {
            return;
        }
        let questions = asked.iter().filter_map(Question::of);
        let mut found: Vec<_> = questions.flat_map(|asked| self.services(&asked)).collect();
        found.extend(keys.iter().flat_map(|key| self.around(key)));
        while let Some(service) = found.pop() {
            let key = AudienceKey::of_service(&service);
            if service.namespace != own_namespace && keys.insert(key.clone()) {
                found.extend(self.around(&key));
            }
        }
    }

    /// The Services that whoever has the key calls on account of what it receives by it.
    fn around(&self, key: &AudienceKey) -> impl Iterator<Item = ObjectKey> {
        let compiled = self.ids(key).filter_map(|id| self.resources.get(id));
        compiled.flat_map(|compiled| compiled.around.services.iter().cloned())
    }

    /// The resource, whoever may receive it.
    pub(super) fn get(&self, id: &ResourceId) -> Option<&Arc<Compiled>> {
        self.resources.get(id)
    }

    /// All resources, whoever may receive them.
    pub(super) fn resources(&self) -> &BTreeMap<ResourceId, Arc<Compiled>> {
        &self.resources
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether nothing was compiled yet.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// How far each kind had been seen.
    pub(super) fn seen(&self) -> Generation {
        self.seen
    }

    /// Whether more had been seen, or less, of anything.
    pub(super) fn has_seen_the_same(&self, other: &Snapshot) -> bool {
        self.seen == other.seen && self.seen_secrets == other.seen_secrets
    }

    /// The resources that this key means.
    pub(super) fn ids(&self, key: &AudienceKey) -> impl Iterator<Item = &ResourceId> {
        self.by_key.get(key).into_iter().flat_map(|ids| ids.iter())
    }

    /// What `keys` mean that `others` don't.
    pub(super) fn ids_beside<'a>(
        &'a self,
        keys: impl IntoIterator<Item = &'a AudienceKey>,
        others: &Audience,
    ) -> BTreeSet<&'a ResourceId> {
        let ids = keys.into_iter().flat_map(|key| self.ids(key));
        let beside = ids.filter(|id| {
            let audience = self.resources.get(id).map(|compiled| &compiled.audience);
            audience.is_none_or(|audience| audience.is_disjoint(others))
        });
        beside.collect()
    }

    /// Every pod.
    pub(super) fn pods(&self) -> &BTreeMap<ObjectKey, Arc<Pod>> {
        &self.pods
    }

    /// The pod of this name.
    pub(super) fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key).map(|pod| &**pod)
    }
}

/// The Service that Endpoints are of.
fn service(endpoints: &ResourceId) -> ObjectKey {
    ObjectKey::new(&*endpoints.namespace, &*endpoints.name)
}

// === impl StreamView ===

impl StreamView {
    /// Whether the sidecar is older than this kind, and could not even read its name.
    fn is_beyond(&self, id: &ResourceId) -> bool {
        id.kind == Kind::Networks && self.keys.contains(&AudienceKey::AnyService)
    }
}

impl View for StreamView {
    fn get(&self, id: &ResourceId) -> Option<Resource> {
        if id.kind == Kind::Lookup {
            let asked = self.asked.contains(id);
            return asked.then(|| self.snapshot.answer(id)).flatten();
        }
        if self.is_beyond(id) {
            return None;
        }
        let compiled = self.snapshot.get(id)?;
        let meant = !self.keys.is_disjoint(&compiled.audience);
        meant.then(|| compiled.resource.clone())
    }

    fn ids(&self) -> Vec<ResourceId> {
        let all: BTreeSet<_> = self
            .keys
            .iter()
            .flat_map(|key| self.snapshot.ids(key))
            .collect();
        let asked = self.asked.iter();
        let all = all.into_iter().filter(|id| !self.is_beyond(id));
        all.chain(asked).cloned().collect()
    }

    /// Of Secrets, those of the pod's namespace count: nothing else is compiled for it from any. Who carries out the
    /// EventSubscriptions of other namespaces is told of theirs as well, which count for nothing: moved to a replica
    /// that lags, it may hold what stood there before until that one has caught up.
    fn seen(&self, kind: Kind) -> Generation {
        let namespace = self.keys.iter().find_map(|key| match key {
            AudienceKey::Namespace(namespace) => Some(&**namespace),
            AudienceKey::Everyone
            | AudienceKey::Service(..)
            | AudienceKey::AnyService
            | AudienceKey::Pod(..) => None,
        });
        let Snapshot {
            seen, seen_secrets, ..
        } = &*self.snapshot;
        seen_in(*seen, seen_secrets, namespace.unwrap_or_default()).of(kind)
    }
}
