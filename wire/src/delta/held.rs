//! The sidecar's end: what it holds, over all streams and restarts.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Apply, Change, MAX_CHANGES, MAX_REMOVED, Rejected,
    room::Room,
    saved::File,
    sorted::{Sorted, named_twice},
};
use crate::{
    Generation, Kind, Resource, ResourceId, capability, discovery,
    discovery::{Ack, Delta, Hello, Holding, Removed},
    resource::Hash,
};

/// What a sidecar holds. It outlives streams and, through [`save`](Held::save), restarts.
#[derive(Clone, Debug)]
pub struct Held {
    version: String,
    capabilities: BTreeSet<String>,
    pub(super) resources: BTreeMap<ResourceId, Resource>,
    /// When what is not held was last known, where the floor does not say as much: its removal is
    /// not to be undone by something older.
    pub(super) removed: BTreeMap<ResourceId, Generation>,
    /// What was rejected last when it was to be in force: what is in force instead need not be what is held, where
    /// that would let in whom the rejected one would not. It is taken again though it is held.
    rejected: BTreeSet<ResourceId>,
    /// How much may be held.
    all: Room,
    /// How much more.
    room: Room,
    /// What is on the volume; `None` where that is not known.
    pub(super) file: Option<File>,
    /// Up to where everything has been told: nothing that doesn't cover it is taken.
    pub(super) floor: Generation,
    pub(super) complete: bool,
    /// The nonce of the last delta taken on this stream; `None` before the first Hello.
    nonce: Option<u64>,
}

/// How many are remembered that were rejected. Their ids fit into a Hello beside what is counted there.
const MAX_REJECTED: usize = 1024;
/// The hash of no version.
const NO_VERSION: Hash = [0; 16];

// === impl Held ===

impl Default for Held {
    fn default() -> Self {
        Held::new(env!("CARGO_PKG_VERSION"), capability::ALL)
    }
}

impl Held {
    /// Holds nothing yet. `version` is announced for people to read; a resource that needs
    /// anything but `capabilities` is rejected. [`Default`] is the sidecar of this build.
    pub fn new(version: &str, capabilities: &[&str]) -> Held {
        Held {
            version: version.to_owned(),
            capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
            resources: BTreeMap::new(),
            removed: BTreeMap::new(),
            rejected: BTreeSet::new(),
            all: Room::ALL,
            room: Room::ALL,
            file: None,
            floor: Generation::ZERO,
            complete: false,
            nonce: None,
        }
    }

    /// The same, with room for so many resources and so many bytes of them, instead of
    /// [`MAX_HELD`](super::MAX_HELD) and [`MAX_HELD_BYTES`](super::MAX_HELD_BYTES).
    #[must_use]
    pub fn with_room(mut self, resources: usize, bytes: usize) -> Held {
        let taken = self.all - self.room;
        self.all = self.all.with(resources, bytes);
        self.room = self.all - taken;
        self
    }

    /// The same sidecar, holding nothing.
    pub(super) fn emptied(&self) -> Held {
        Held {
            version: self.version.clone(),
            capabilities: self.capabilities.clone(),
            all: self.all,
            room: self.all,
            ..Held::new("", &[])
        }
    }

    /// The resource that is held under `id`.
    pub fn get(&self, id: &ResourceId) -> Option<&Resource> {
        self.resources.get(id)
    }

    /// Everything that is held, in the order of ids.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    /// What is held from `first` on, in the order of ids.
    pub fn resources_from(&self, first: &ResourceId) -> impl Iterator<Item = &Resource> {
        self.resources.range(first..).map(|(_, resource)| resource)
    }

    /// Whether a complete set has been received, on this stream or ever before.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Up to where this sidecar has been told everything.
    pub fn seen(&self) -> Generation {
        self.floor
    }

    /// How new what is known of `id` is, held or not: nothing that doesn't cover it is taken.
    pub fn known(&self, id: &ResourceId) -> Generation {
        let floor = self.floor.of(id.kind);
        let own = match self.resources.get(id) {
            Some(resource) => Some(&resource.generation),
            None => self.removed.get(id),
        };
        own.map_or(floor, |own| floor.merge(own))
    }

    /// Begins a stream: the first message on it. Deltas of earlier streams are ignored from now on.
    pub fn hello(&mut self) -> Hello {
        let nonce = rand::random();
        self.nonce = Some(nonce);
        let resources = self.resources.values();
        let resources = resources.filter(|one| !self.rejected.contains(&one.id));
        let resources = resources.map(|resource| Holding {
            id: resource.id.to_string(),
            generation: Some(resource.generation.into()),
            hash: resource.hash.to_vec().into(),
        });
        // Whatever is wanted is to be sent, also that there is to be none. No more is named than an operator reads.
        let known =
            |id: &&ResourceId| self.resources.contains_key(*id) || self.removed.contains_key(*id);
        let left = MAX_REMOVED.saturating_sub(self.removed.len());
        let unknown = self.rejected.iter().filter(|id| !known(id)).take(left);
        let rejected = self.rejected.iter().filter(known).chain(unknown);
        let rejected = rejected.map(|id| Holding {
            id: id.to_string(),
            generation: Some(self.known(id).into()),
            hash: NO_VERSION.to_vec().into(),
        });
        let removed = self.removed.iter();
        let removed = removed.filter(|(id, _)| !self.rejected.contains(*id));
        let removed = removed.map(|(id, generation)| Holding {
            id: id.to_string(),
            generation: Some((*generation).into()),
            hash: Default::default(),
        });
        Hello {
            version: self.version.clone(),
            capabilities: self.capabilities.iter().cloned().collect(),
            holding: resources.chain(rejected).chain(removed).collect(),
            seen: Some(self.floor.into()),
            nonce,
        }
    }

    /// Takes what a delta says, through `apply`, and answers. A delta that is not the next of this
    /// stream, a duplicate or a leftover of an earlier stream, is ignored and has no answer.
    pub fn receive(&mut self, mut delta: Delta, apply: &mut impl Apply) -> Option<Ack> {
        let expected = self.nonce?.wrapping_add(1);
        if delta.nonce != expected {
            return None;
        }
        self.nonce = Some(expected);
        let (complete, seen) = (delta.complete, delta.seen.take());
        let mut sorted = self.sort(delta);
        if !sorted.rejected.is_empty() {
            apply.refused(sorted.rejected.len());
        }
        self.make(&mut sorted, apply);
        self.complete |= complete;
        if let Some(seen) = seen {
            self.raise_floor((&seen).into());
        }
        Some(Ack {
            nonce: expected,
            rejected: sorted.rejected,
            room: Some(self.room.into()),
        })
    }

    /// Hands everything that is held to `apply`: what was read from disk, to a sidecar that has
    /// just started. What it rejects is no longer held, so that the operator offers it again.
    pub fn replay(&mut self, apply: &mut impl Apply) -> Vec<Rejected> {
        let mut rejected = Vec::new();
        let mut changes = Vec::new();
        for resource in self.resources.values() {
            match self.missing(resource) {
                Some(reason) => rejected.push(Rejected {
                    id: resource.id.clone(),
                    reason,
                }),
                None => changes.push(Change::Put(resource.clone())),
            }
        }
        if !rejected.is_empty() {
            apply.refused(rejected.len());
        }
        if !changes.is_empty() {
            let mut more = apply.apply(changes);
            for one in &more {
                self.remember_rejected(&one.id);
            }
            rejected.append(&mut more);
        }
        for Rejected { id, .. } in &rejected {
            if let Some(resource) = self.let_go(id) {
                self.remember_removed(id.clone(), resource.generation);
            }
        }
        rejected
    }

    /// Gives up all of a kind, as if it had never been told of any: nobody keeps it up to date.
    pub fn forget(&mut self, kind: Kind, apply: &mut impl Apply) {
        let all = self.resources.keys().chain(&self.rejected);
        let ids: BTreeSet<_> = all.filter(|id| id.kind == kind).cloned().collect();
        if ids.is_empty() {
            return;
        }
        apply.apply(ids.iter().cloned().map(Change::Remove).collect());
        for id in &ids {
            self.let_go(id);
            self.rejected.remove(id);
        }
    }

    /// Tells changes that may be made from those that may not, and drops those that change nothing.
    fn sort(&mut self, delta: Delta) -> Sorted {
        let mut sorted = Sorted::default();
        let twice = named_twice(&delta);
        for id in &twice {
            // Which of the two is meant is anyone's guess.
            sorted.reject(id, "the delta names it twice");
        }
        let mut count = 0;
        let mut freed = Room::default();
        let removed = delta.removed.into_iter();
        for removed in removed.filter(|removed| !twice.contains(&removed.id)) {
            count += 1;
            match self.check_removal(&removed, count) {
                Ok((id, generation)) => match self.resources.get(&id) {
                    Some(before) => {
                        freed += Room::of(before) - Room::of_removal(&id);
                        sorted.accept(Change::Remove(id), generation);
                    }
                    // Nothing is held, but what was rejected may have something in force.
                    None if self.rejected.contains(&id) => {
                        sorted.accept(Change::Remove(id), generation);
                    }
                    None => self.remember_removed(id, generation),
                },
                Err(reason) => sorted.reject(&removed.id, &reason),
            }
        }
        let mut puts = Vec::new();
        let resources = delta.resources.into_iter();
        for message in resources.filter(|message| !twice.contains(&message.id)) {
            count += 1;
            let text = message.id.clone();
            match self.check_put(message, count) {
                Ok(resource) => match self.resources.get_mut(&resource.id) {
                    // The same as ever, but now known to be the present again.
                    Some(before)
                        if before.hash == resource.hash
                            && !self.rejected.contains(&resource.id) =>
                    {
                        before.generation = resource.generation;
                        self.touch(&resource.id);
                    }
                    _ => puts.push((self.needs(&resource), resource)),
                },
                Err(reason) => sorted.reject(&text, &reason),
            }
        }
        // What frees room comes before what takes it, in whatever order they were sent.
        puts.sort_by_key(|(needs, _)| needs.is_taken());
        let mut room = self.room + freed;
        for (needs, resource) in puts {
            if room.covers(&needs) {
                room -= needs;
                let generation = resource.generation;
                sorted.accept(Change::Put(resource), generation);
            } else {
                sorted.reject_for_now(&resource.id, needs);
            }
        }
        sorted
    }

    /// Has the accepted changes made, and notes those that were.
    fn make(&mut self, sorted: &mut Sorted, apply: &mut impl Apply) {
        if sorted.accepted.is_empty() {
            return;
        }
        let mut accepted = std::mem::take(&mut sorted.accepted);
        let changes = accepted
            .values()
            .map(|(change, _)| change.clone())
            .collect();
        for Rejected { id, reason } in apply.apply(changes) {
            if accepted.remove(&id).is_some() {
                sorted.reject(&id.to_string(), &reason);
                self.remember_rejected(&id);
            }
        }
        for (id, (change, generation)) in accepted {
            self.rejected.remove(&id);
            match change {
                Change::Put(resource) => self.hold(resource),
                Change::Remove(_) => {
                    self.let_go(&id);
                    self.remember_removed(id, generation);
                }
            }
        }
    }

    fn check_removal(
        &self,
        removed: &Removed,
        count: usize,
    ) -> Result<(ResourceId, Generation), String> {
        let id: ResourceId = removed.id.parse().map_err(text)?;
        let generation = Generation::from(removed.generation.clone()).of(id.kind);
        self.check_place(&id, generation, count)?;
        Ok((id, generation))
    }

    fn check_put(&self, message: discovery::Resource, count: usize) -> Result<Resource, String> {
        let mut resource = Resource::try_from(message).map_err(text)?;
        resource.generation = resource.generation.of(resource.id.kind);
        self.check_place(&resource.id, resource.generation, count)?;
        match self.missing(&resource) {
            Some(reason) => Err(reason),
            None => Ok(resource),
        }
    }

    fn check_place(&self, id: &ResourceId, at: Generation, count: usize) -> Result<(), String> {
        if count > MAX_CHANGES {
            return Err(format!("the delta has more than {MAX_CHANGES} changes"));
        }
        let known = self.known(id);
        if !at.is_present(&known, id.kind) {
            return Err(format!(
                "its generation {at} is older than {known}, which is known"
            ));
        }
        Ok(())
    }

    /// Why `resource` can't be enforced by this sidecar, if so.
    fn missing(&self, resource: &Resource) -> Option<String> {
        let needed = resource.capabilities.iter();
        let lacking: Vec<&str> = needed
            .filter(|name| !self.capabilities.contains(*name))
            .map(String::as_str)
            .collect();
        (!lacking.is_empty()).then(|| {
            format!(
                "it needs {} and the sidecar, version {}, can't do that: it must be updated",
                lacking.join(", "),
                self.version
            )
        })
    }

    /// Takes note of a position up to which everything has been told. One that doesn't cover the
    /// last is that of a replica that lags in some place, and says less.
    fn raise_floor(&mut self, seen: Generation) {
        if seen.covers(&self.floor) {
            self.floor = seen;
            self.forget_what_the_floor_says();
        }
    }

    /// How much room a resource needs beside what its predecessor has.
    fn needs(&self, resource: &Resource) -> Room {
        let id = &resource.id;
        let before = match self.resources.get(id) {
            Some(before) => Room::of(before),
            None if self.removed.contains_key(id) => Room::of_removal(id),
            None => Room::default(),
        };
        Room::of(resource) - before
    }

    pub(super) fn hold(&mut self, resource: Resource) {
        self.touch(&resource.id);
        self.room -= self.needs(&resource);
        self.removed.remove(&resource.id);
        self.resources.insert(resource.id.clone(), resource);
    }

    pub(super) fn let_go(&mut self, id: &ResourceId) -> Option<Resource> {
        let before = self.resources.remove(id)?;
        self.touch(id);
        self.room += Room::of(&before);
        Some(before)
    }

    pub(super) fn remember_removed(&mut self, id: ResourceId, generation: Generation) {
        self.touch(&id);
        let generation = generation.of(id.kind);
        if self.floor.of(id.kind).covers(&generation) {
            self.forget_removed(&id);
            return;
        }
        if self.removed.insert(id.clone(), generation).is_none() {
            self.room -= Room::of_removal(&id);
        }
        while self.removed.len() > MAX_REMOVED || self.room.is_hello_too_long() {
            let Some((_, generation)) = self.removed.first_key_value() else {
                break;
            };
            // Forgetting it could let it come back. A floor that is too high is safe: it only
            // makes a replica that lags wait until it has caught up.
            self.floor = self.floor.merge(generation);
            self.forget_what_the_floor_says();
        }
    }

    /// What is forgotten here keeps what is in force until its next version.
    fn remember_rejected(&mut self, id: &ResourceId) {
        if self.rejected.len() < MAX_REJECTED {
            self.rejected.insert(id.clone());
        }
    }

    fn forget_removed(&mut self, id: &ResourceId) {
        if self.removed.remove(id).is_some() {
            self.room += Room::of_removal(id);
        }
    }

    pub(super) fn forget_what_the_floor_says(&mut self) {
        let Held {
            removed,
            room,
            floor,
            ..
        } = self;
        removed.retain(|id, generation| {
            let said = floor.of(id.kind).covers(generation);
            if said {
                *room += Room::of_removal(id);
            }
            !said
        });
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
