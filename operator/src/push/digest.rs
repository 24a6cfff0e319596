//! What one replica knows of its own sidecars, in the form in which replicas tell each other.

use std::collections::{BTreeMap, BTreeSet};

use compiler::{Audience, AudienceKey, ObjectKey, ObjectRef, is_meshed};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{EventsReport, Programmed, Streams};

/// Tells one form of an object's resources from another; equal on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);

/// How far an object has come among one replica's sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// Of the form that was counted. Zeros for an object that nothing is compiled of.
    pub fingerprint: Fingerprint,
    /// The counts.
    pub programmed: Programmed,
    /// Of an EventSubscription: how it goes.
    pub events: Option<EventsReport>,
}

/// A pod, told from its predecessors of the same name by its UID.
pub type PodId = (ObjectKey, String);

// === impl Streams ===

impl Streams {
    /// How far an object has come among this replica's sidecars, and in which form.
    pub fn digest(&self, object: &ObjectRef) -> Digest {
        // Between the two, a new form may be published: then its count is told with the old one's
        // name, counts for nothing, and is told again, for the publication has touched the object.
        let fingerprint = self.fingerprint(object);
        Digest {
            fingerprint,
            programmed: self.programmed(object),
            events: self.events(object),
        }
    }

    fn fingerprint(&self, object: &ObjectRef) -> Fingerprint {
        let inner = self.lock();
        let Some(ids) = inner.ledger.objects().get(object) else {
            return Fingerprint::default();
        };
        let mut hasher = blake3::Hasher::new();
        for compiled in ids.iter().filter_map(|id| inner.snapshot.get(id)) {
            // No id holds a line break, and hashes are of one length.
            hasher.update(compiled.resource.id.to_string().as_bytes());
            hasher.update(b"\n");
            hasher.update(compiled.resource.hash.as_ref());
        }
        let mut fingerprint = Fingerprint::default();
        hasher.finalize_xof().fill(&mut fingerprint.0);
        fingerprint
    }

    /// The objects that something is compiled of.
    pub fn objects(&self) -> BTreeSet<ObjectRef> {
        self.lock().ledger.objects().keys().cloned().collect()
    }

    /// Who is to receive an object's resources.
    pub fn audience(&self, object: &ObjectRef) -> Audience {
        let inner = self.lock();
        let ids = inner.ledger.objects().get(object).into_iter().flatten();
        let compiled = ids.filter_map(|id| inner.snapshot.get(id));
        compiled
            .flat_map(|compiled| compiled.audience.iter().cloned())
            .collect()
    }

    /// The pods whose sidecar is connected here, and since when.
    pub fn connected(&self) -> BTreeMap<PodId, Instant> {
        let inner = self.lock();
        let since = |id| inner.streams.get(id).map(|stream| stream.since);
        inner
            .pods
            .iter()
            .filter_map(|(pod, id)| Some((pod.clone(), since(id)?)))
            .collect()
    }

    /// The pods whose sidecar should be connected to some replica: it runs, and is not on its way out.
    pub fn expected(&self) -> BTreeSet<PodId> {
        let snapshot = self.lock().snapshot.clone();
        let pods = snapshot.pods().iter().filter(|(_, pod)| runs(pod));
        pods.filter_map(|(key, pod)| Some((key.clone(), pod.metadata.uid.clone()?)))
            .collect()
    }

    /// Word of streams that begin or end, and of pods that come or go.
    pub fn comings(&self) -> watch::Receiver<u64> {
        self.comings.subscribe()
    }

    /// What is to be said of the objects that concern these pods has changed.
    pub fn touch_meant<'a>(&self, pods: impl IntoIterator<Item = &'a PodId>) {
        let keys: BTreeSet<_> = pods
            .into_iter()
            .flat_map(|(pod, _)| AudienceKey::of_pod(&pod.namespace, &pod.name))
            .collect();
        let objects: BTreeSet<ObjectRef> = {
            let inner = self.lock();
            let ids = keys.iter().flat_map(|key| inner.snapshot.ids(key));
            ids.filter_map(|id| inner.ledger.object_of(id).cloned())
                .collect()
        };
        self.touch(objects);
    }

    /// Ends the pod's stream that began then: it has a newer one with another replica.
    pub fn end_moved(&self, pod: &PodId, since: Instant) {
        let mut inner = self.lock();
        let begun = |id: &_| {
            inner
                .streams
                .get(id)
                .is_some_and(|stream| stream.since == since)
        };
        if let Some(id) = inner.pods.get(pod).copied().filter(begun) {
            inner.end(id);
            drop(inner);
            self.tell_comings();
        }
    }
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
    running && pod.metadata.deletion_timestamp.is_none() && is_meshed(pod)
}
