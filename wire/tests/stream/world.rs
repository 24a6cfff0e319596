//! A model world: inputs with histories, replicas at positions of their own, sidecars that move
//! between them over streams that break.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wire::{
    Generation, Kind, Resource, ResourceId,
    delta::{Apply, Change, Held, Rejected, Sent, View},
    discovery::{Ack, Delta, Room},
    generation::Input,
    mesh,
    resource::Hash,
};

use crate::snapshot::Volume;

pub(crate) const SLOTS: usize = 2;
pub(crate) const REPLICAS: usize = 3;
pub(crate) const SIDECARS: usize = 2;

/// Everything that was ever written, by input: a revision is the number of writes so far.
#[derive(Default)]
pub(crate) struct World {
    log: [Vec<(usize, Option<u8>)>; Input::ALL.len()],
}

/// How one replica sees the world.
pub(crate) struct Position<'a> {
    pub(crate) world: &'a World,
    pub(crate) seen: Generation,
}

#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) seen: Generation,
    /// Changed, but the streams have not been told.
    pub(crate) unannounced: BTreeSet<ResourceId>,
}

/// The most that a sidecar of this world holds: what there is in one slot, but not all of both.
const ROOM: (usize, usize) = (Kind::ALL.len(), 60 * Kind::ALL.len());

/// A sidecar, and its stream.
pub(crate) struct Sidecar {
    pub(crate) held: Held,
    pub(crate) enforced: Picky,
    volume: Volume,
    pub(crate) stream: Option<Stream>,
    /// What has been rejected, ever, for want of room or of mood.
    pub(crate) rejected: BTreeSet<ResourceId>,
    /// Deltas that have been delivered, or were lost with their stream.
    pub(crate) stale: Vec<Delta>,
}

pub(crate) struct Stream {
    pub(crate) replica: usize,
    pub(crate) sent: Sent,
    /// Marked by the replica, not yet read by the stream's task.
    pub(crate) mailbox: BTreeSet<ResourceId>,
    pub(crate) advanced: bool,
    pub(crate) to_sidecar: VecDeque<Delta>,
    pub(crate) to_operator: VecDeque<Ack>,
    /// What was rejected last on this stream, and not for want of room.
    pub(crate) disliked: BTreeMap<ResourceId, Hash>,
    /// And for want of room, with what it needs.
    pub(crate) too_much: BTreeMap<ResourceId, (Hash, Room)>,
    /// What the last Ack said.
    pub(crate) room: Room,
}

/// Enforces everything, but in a bad mood not what has a body of even length.
#[derive(Default)]
pub(crate) struct Picky {
    pub(crate) resources: BTreeMap<ResourceId, Hash>,
    /// What lets nobody in since something was rejected.
    pub(crate) closed: BTreeSet<ResourceId>,
    pub(crate) bad_mood: bool,
}

pub(crate) fn universe() -> impl Iterator<Item = ResourceId> {
    Kind::ALL.into_iter().flat_map(|kind| {
        (0..SLOTS).map(move |slot| ResourceId::new(kind, "shop", format!("slot{slot}")))
    })
}

// === impl World ===

impl World {
    pub(crate) fn write(&mut self, input: Input, slot: usize, value: Option<u8>) {
        self.log[input as usize].push((slot, value));
    }

    /// What the newest replica could have seen.
    pub(crate) fn newest(&self) -> Generation {
        Input::ALL
            .into_iter()
            .fold(Generation::ZERO, |seen, input| {
                seen.with(input, self.log[input as usize].len() as u64)
            })
    }

    /// The resource as compiled from the world as of `at`: a pure function of its kind's inputs.
    /// Few values, so that a resource often comes back to what it was.
    pub(crate) fn compile(&self, id: &ResourceId, at: Generation) -> Option<Resource> {
        let slot: usize = id.name.trim_start_matches("slot").parse().unwrap();
        let values: Vec<Option<u8>> = id
            .kind
            .inputs()
            .iter()
            .map(|input| {
                let writes = &self.log[*input as usize][..at.at(*input) as usize];
                let last = writes.iter().rev().find(|(to, _)| *to == slot);
                last.and_then(|(_, value)| *value)
            })
            .collect();
        // Without its first input the resource is not there.
        values[0]?;
        let message = mesh::Route {
            namespace: id.kind.to_string(),
            name: format!("{slot} {values:?}"),
            ..Default::default()
        };
        Some(Resource::new(id.clone(), at.of(id.kind), &[], &message))
    }
}

// === impl Position ===

impl View for Position<'_> {
    fn get(&self, id: &ResourceId) -> Option<Resource> {
        self.world.compile(id, self.seen)
    }

    fn ids(&self) -> Vec<ResourceId> {
        universe().filter(|id| self.get(id).is_some()).collect()
    }

    fn seen(&self, kind: Kind) -> Generation {
        self.seen.of(kind)
    }
}

// === impl Picky ===

impl Apply for Picky {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        for change in changes {
            match change {
                Change::Put(resource) if self.bad_mood && resource.body.len() % 2 == 0 => {
                    self.closed.insert(resource.id.clone());
                    rejected.push(Rejected {
                        id: resource.id,
                        reason: "even".to_owned(),
                    });
                }
                Change::Put(resource) => {
                    self.closed.remove(&resource.id);
                    self.resources.insert(resource.id, resource.hash);
                }
                Change::Remove(id) => {
                    self.closed.remove(&id);
                    self.resources.remove(&id);
                }
            }
        }
        rejected
    }
}

// === impl Sidecar ===

impl Sidecar {
    pub(crate) fn new() -> Sidecar {
        Sidecar {
            held: Sidecar::empty(),
            enforced: Picky::default(),
            volume: Volume::default(),
            stream: None,
            rejected: BTreeSet::new(),
            stale: Vec::new(),
        }
    }

    fn empty() -> Held {
        let (resources, bytes) = ROOM;
        Held::default().with_room(resources, bytes)
    }

    pub(crate) fn connect(&mut self, replica: usize, view: &Position<'_>) {
        self.disconnect();
        self.stream = Some(Stream {
            replica,
            sent: Sent::new(self.held.hello(), view).unwrap(),
            mailbox: BTreeSet::new(),
            advanced: false,
            to_sidecar: VecDeque::new(),
            to_operator: VecDeque::new(),
            disliked: BTreeMap::new(),
            too_much: BTreeMap::new(),
            room: Room::default(),
        });
    }

    pub(crate) fn disconnect(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.stale.extend(stream.to_sidecar);
        }
    }

    /// The operator's task: reads its mailbox and sends.
    pub(crate) fn send(&mut self, view: &Position<'_>) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        stream.sent.changed(std::mem::take(&mut stream.mailbox));
        if std::mem::take(&mut stream.advanced) {
            stream.sent.advanced();
        }
        let delta = stream.sent.next(view);
        let sent = delta.is_some();
        stream.to_sidecar.extend(delta);
        sent
    }

    pub(crate) fn deliver(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let Some(delta) = stream.to_sidecar.pop_front() else {
            return false;
        };
        self.stale.push(delta.clone());
        self.receive(delta);
        true
    }

    pub(crate) fn deliver_stale(&mut self, which: usize) {
        if self.stale.is_empty() {
            return;
        }
        let delta = self.stale[which % self.stale.len()].clone();
        self.receive(delta);
    }

    fn receive(&mut self, delta: Delta) {
        let Some(ack) = self.held.receive(delta.clone(), &mut self.enforced) else {
            return;
        };
        self.volume.save(&mut self.held);
        let rejected = ack.rejected.iter().map(|rejected| rejected.id.parse());
        self.rejected.extend(rejected.map(Result::unwrap));
        if let Some(stream) = &mut self.stream {
            stream.note(&delta, &ack);
            stream.to_operator.push_back(ack);
        }
    }

    pub(crate) fn acknowledge(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let ack = stream.to_operator.pop_front();
        ack.map(|ack| stream.sent.on_ack(ack)).is_some()
    }

    /// Killed, and started again with what was on its volume.
    pub(crate) fn restart(&mut self) {
        self.disconnect();
        self.held = Sidecar::empty();
        if !self.volume.file.is_empty() {
            self.held.restore(&self.volume.file).unwrap();
        }
        self.enforced.resources.clear();
        self.enforced.closed.clear();
        self.held.replay(&mut self.enforced);
    }
}

// === impl Stream ===

impl Stream {
    /// Notes what was rejected, and what no longer is.
    fn note(&mut self, delta: &Delta, ack: &Ack) {
        self.room = ack.room.unwrap();
        for resource in &delta.resources {
            let id: ResourceId = resource.id.parse().unwrap();
            let hash = Hash::try_from(&*resource.hash).unwrap();
            self.disliked.remove(&id);
            self.too_much.remove(&id);
            let rejected = ack.rejected.iter().find(|r| r.id == resource.id);
            match rejected.map(|rejected| rejected.needs) {
                Some(Some(needs)) => drop(self.too_much.insert(id, (hash, needs))),
                Some(None) => drop(self.disliked.insert(id, hash)),
                None => {}
            }
        }
    }
}
