//! One publication: everything that was compiled, found by who may receive it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use compiler::{Audience, AudienceKey, Compiled, Inputs, ObjectKey, Output};
use k8s_openapi::api::core::v1::Pod;
use wire::delta::View;
use wire::{Generation, Kind, Resource, ResourceId};

/// A consistent picture: resources, and what had been seen when they were compiled.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    resources: BTreeMap<ResourceId, Arc<Compiled>>,
    /// Shared with the snapshots before and after, but for what changed.
    by_key: HashMap<AudienceKey, Arc<BTreeSet<ResourceId>>>,
    pods: BTreeMap<ObjectKey, Arc<Pod>>,
    seen: Generation,
}

/// What one stream may receive of a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct StreamView {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) keys: Audience,
}

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
            pods: inputs.pods.clone(),
            seen: inputs.seen,
        }
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

    /// The resources that this key means.
    pub(super) fn ids(&self, key: &AudienceKey) -> impl Iterator<Item = &ResourceId> {
        self.by_key.get(key).into_iter().flat_map(|ids| ids.iter())
    }

    /// Whether `key` is what makes a pod with it receive the resource: not everyone in its
    /// namespace does.
    pub(super) fn means_alone(&self, id: &ResourceId, key: &AudienceKey) -> bool {
        let AudienceKey::Pod(namespace, _) = key else {
            return true;
        };
        let wider = [
            AudienceKey::Everyone,
            AudienceKey::Namespace(namespace.clone()),
        ];
        let audience = self.resources.get(id).map(|compiled| &compiled.audience);
        !audience.is_some_and(|audience| wider.iter().any(|key| audience.contains(key)))
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

// === impl StreamView ===

impl View for StreamView {
    fn get(&self, id: &ResourceId) -> Option<Resource> {
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
        all.into_iter().cloned().collect()
    }

    fn seen(&self, kind: Kind) -> Generation {
        self.snapshot.seen.of(kind)
    }
}
