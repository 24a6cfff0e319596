//! What the tests stand on: a view that is written by hand, and a sidecar that records.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use wire::{
    Generation, Kind, Resource, ResourceId,
    delta::{Apply, Change, Held, Outcome, Rejected, Save, Sent, View},
    discovery::Delta,
    generation::Input,
    mesh,
    resource::Hash,
};

/// One replica's output at one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) resources: BTreeMap<ResourceId, Resource>,
    pub(crate) seen: Generation,
}

/// A sidecar that enforces whatever it is given, but for what a test forbids.
#[derive(Default)]
pub(crate) struct Enforced {
    pub(crate) resources: BTreeMap<ResourceId, Hash>,
    /// Every call, by the ids that it changed.
    pub(crate) calls: Vec<Vec<ResourceId>>,
    /// Rejected whenever it is to be changed.
    pub(crate) forbidden: BTreeSet<ResourceId>,
}

/// What a sidecar starts from again.
#[derive(Clone, Default)]
pub(crate) struct Volume {
    pub(crate) file: Vec<u8>,
}

/// Both ends of a stream, without a network between them.
pub(crate) struct Stream {
    pub(crate) sent: Sent,
}

/// What went over a stream until there was nothing more to say.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) deltas: Vec<Delta>,
    pub(crate) outcomes: Vec<(ResourceId, Outcome)>,
}

pub(crate) fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

/// A body that says `text`. Any message will do: the stream doesn't look into bodies.
pub(crate) fn body(text: &str) -> mesh::Route {
    mesh::Route {
        name: text.to_owned(),
        ..Default::default()
    }
}

pub(crate) fn hash_of(text: &str) -> Hash {
    Resource::new(id("route/a/b"), Generation::ZERO, &[], &body(text)).hash
}

// === impl Snapshot ===

impl Snapshot {
    /// At `revision` in every place.
    pub(crate) fn at(revision: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.advance(revision);
        snapshot
    }

    pub(crate) fn advance(&mut self, revision: u64) {
        for input in Input::ALL {
            self.seen.observe(input, revision);
        }
    }

    pub(crate) fn with(mut self, id: &str, text: &str) -> Snapshot {
        self.put(id, text);
        self
    }

    /// The same with a resource of any kind.
    pub(crate) fn with_message(mut self, id: &str, message: &impl prost::Message) -> Snapshot {
        let id: ResourceId = id.parse().unwrap();
        let resource = Resource::new(id.clone(), self.seen.of(id.kind), &[], message);
        self.resources.insert(id, resource);
        self
    }

    pub(crate) fn put(&mut self, id: &str, text: &str) {
        self.put_needing(id, text, &[]);
    }

    pub(crate) fn put_needing(&mut self, id: &str, text: &str, capabilities: &[&str]) {
        let id: ResourceId = id.parse().unwrap();
        let generation = self.seen.of(id.kind);
        let resource = Resource::new(id.clone(), generation, capabilities, &body(text));
        self.resources.insert(id, resource);
    }

    pub(crate) fn put_bytes(&mut self, id: &str, bytes: usize) {
        let text = "x".repeat(bytes);
        self.put(id, &text);
    }

    pub(crate) fn remove(&mut self, id: &str) {
        self.resources.remove(&id.parse().unwrap());
    }

    pub(crate) fn hashes(&self) -> BTreeMap<ResourceId, Hash> {
        let resources = self.resources.iter();
        resources
            .map(|(id, resource)| (id.clone(), resource.hash))
            .collect()
    }
}

impl View for Snapshot {
    fn get(&self, id: &ResourceId) -> Option<Resource> {
        self.resources.get(id).cloned()
    }

    fn ids(&self) -> Vec<ResourceId> {
        self.resources.keys().cloned().collect()
    }

    fn seen(&self, kind: Kind) -> Generation {
        self.seen.of(kind)
    }
}

// === impl Enforced ===

impl Apply for Enforced {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        self.calls
            .push(changes.iter().map(|change| change.id().clone()).collect());
        let mut rejected = Vec::new();
        for change in changes {
            if self.forbidden.contains(change.id()) {
                rejected.push(Rejected {
                    id: change.id().clone(),
                    reason: "forbidden by the test".to_owned(),
                });
                continue;
            }
            match change {
                Change::Put(resource) => {
                    self.resources.insert(resource.id, resource.hash);
                }
                Change::Remove(id) => {
                    self.resources.remove(&id);
                }
            }
        }
        rejected
    }
}

// === impl Volume ===

impl Volume {
    /// Writes what has changed; how much that was.
    pub(crate) fn save(&mut self, held: &mut Held) -> usize {
        match held.save() {
            Save::Whole(bytes) => {
                self.file = bytes;
                self.file.len()
            }
            Save::Append(bytes) => {
                self.file.extend_from_slice(&bytes);
                bytes.len()
            }
        }
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) fn open(held: &mut Held, view: &Snapshot) -> Stream {
        Stream {
            sent: Sent::new(held.hello(), view).unwrap(),
        }
    }

    /// Sends and acknowledges until there is nothing more to say.
    pub(crate) fn settle(
        &mut self,
        held: &mut Held,
        view: &Snapshot,
        apply: &mut Enforced,
    ) -> Traffic {
        let mut traffic = Traffic::default();
        while let Some(delta) = self.sent.next(view) {
            traffic.deltas.push(delta.clone());
            let ack = held.receive(delta, apply).unwrap();
            traffic.outcomes.extend(self.sent.on_ack(ack));
        }
        traffic
    }
}

// === impl Traffic ===

impl Traffic {
    /// The ids of resources that were sent, in order.
    pub(crate) fn put(&self) -> Vec<&str> {
        let resources = self.deltas.iter().flat_map(|delta| &delta.resources);
        resources.map(|resource| resource.id.as_str()).collect()
    }

    pub(crate) fn removed(&self) -> Vec<&str> {
        let removed = self.deltas.iter().flat_map(|delta| &delta.removed);
        removed.map(|removed| removed.id.as_str()).collect()
    }

    pub(crate) fn completes(&self) -> Vec<bool> {
        self.deltas.iter().map(|delta| delta.complete).collect()
    }

    pub(crate) fn outcome(&self, id: &str) -> Option<&Outcome> {
        let mut outcomes = self.outcomes.iter();
        outcomes
            .find(|(of, _)| of.to_string() == id)
            .map(|(_, outcome)| outcome)
    }
}

/// A sidecar that has received all of `view`.
pub(crate) fn sidecar_with(view: &Snapshot) -> (Held, Enforced) {
    let (mut held, mut enforced) = (Held::default(), Enforced::default());
    Stream::open(&mut held, view).settle(&mut held, view, &mut enforced);
    enforced.calls.clear();
    (held, enforced)
}

/// The same view on another encoding of bodies, as bytes, for damaged messages.
pub(crate) fn bytes(text: &str) -> Bytes {
    use prost::Message;
    body(text).encode_to_vec().into()
}
