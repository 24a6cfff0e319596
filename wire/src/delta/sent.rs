//! The operator's end of one stream: what the sidecar holds, and what it is to be sent next.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use super::{
    MAX_CHANGES, MAX_DELTA_BYTES, MAX_HELD, MAX_REMOVED, Outcome, View, inventory::Inventory,
    presentable, room::Room,
};
use crate::{
    Generation, Kind, Resource, ResourceId,
    discovery::{Ack, Delta, Grant, Grants, Hello, Rejected, Removed},
    id::{InvalidId, MAX_ID_BYTES},
    resource::{Hash, MAX_BODY_BYTES},
};

/// What an id, a generation and a hash add to a body, in bytes, roughly.
const OVERHEAD_BYTES: usize = 96;
/// The most answers to claims in one delta: each is bounded by what is open ([`crate::grant::MAX_OPEN`]).
const MAX_GRANTS: usize = 256;

/// The operator's end of one stream.
///
/// Changes are marked with [`changed`](Sent::changed) and cost one entry in a set; the resources
/// themselves are read from the view when the next delta is built, so a consumer that is slow
/// receives the newest version and not each of them.
#[derive(Debug)]
pub struct Sent {
    /// What the sidecar holds, as far as it has said so.
    held: Inventory,
    /// What the sidecar said it holds, or remembers the removal of, that is newer than this
    /// replica's position: the generation that the replica must reach.
    ahead: BTreeMap<ResourceId, Generation>,
    /// Up to where the sidecar has been told everything, by this stream or an earlier one.
    floor: Generation,
    /// What the sidecar rejected on this stream.
    refused: BTreeMap<ResourceId, Refusal>,
    /// What may differ between the view and the sidecar.
    dirty: BTreeSet<ResourceId>,
    /// What differs, but is not sent while this replica lags.
    withheld: BTreeSet<ResourceId>,
    /// Where the last delta ended: the next one goes on there, so that ids which change all the
    /// time don't starve the others.
    cursor: Option<ResourceId>,
    in_flight: Option<InFlight>,
    nonce: u64,
    /// Whether `complete` has been sent.
    complete: bool,
    /// Whether the floor is to be raised even if there is nothing else to say.
    refresh: bool,
    /// Answers to claims that were not sent.
    grants: Vec<Grant>,
}

/// Why a stream can't begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHello {
    /// A holding's id.
    #[error("holding {0:?}: {1}")]
    Id(String, InvalidId),
    /// A holding's hash is neither 16 bytes nor empty.
    #[error("holding {0}: a hash has 16 bytes, or none for a removal")]
    Hash(ResourceId),
    /// More than a sidecar ever holds.
    #[error("{0} holdings are more than a sidecar holds")]
    TooMany(usize),
}

/// A delta that has been sent and not acknowledged.
#[derive(Debug)]
struct InFlight {
    nonce: u64,
    changes: Vec<(ResourceId, Sending)>,
}

#[derive(Debug)]
struct Refusal {
    /// Of the version that was rejected; `None` for a removal.
    hash: Option<Hash>,
    /// The room that it takes, if that was all it lacked.
    needs: Option<Room>,
}

#[derive(Debug)]
enum Sending {
    Put(Hash),
    Remove,
    /// Not sent: no sidecar would take it.
    Oversized(Hash, usize),
}

// === impl Sent ===

impl Sent {
    /// Begins a stream with a sidecar that said `hello`. Everything that differs between it and
    /// the view is to be sent.
    pub fn new(hello: Hello, view: &impl View) -> Result<Sent, InvalidHello> {
        if hello.holding.len() > MAX_HELD + MAX_REMOVED {
            return Err(InvalidHello::TooMany(hello.holding.len()));
        }
        let mut held = BTreeMap::new();
        let mut ahead = BTreeMap::new();
        for holding in hello.holding {
            let id: ResourceId = match holding.id.parse() {
                Ok(id) => id,
                // A newer sidecar, with an operator that was rolled back: nothing can be said
                // about that kind, and the rest must go on.
                Err(InvalidId::Kind) => continue,
                Err(why) => return Err(InvalidHello::Id(excerpt(&holding.id), why)),
            };
            let generation = Generation::from(holding.generation).of(id.kind);
            if !view.seen(id.kind).covers(&generation) {
                ahead.insert(id.clone(), generation);
            }
            if !holding.hash.is_empty() {
                let Ok(hash) = Hash::try_from(holding.hash.as_ref()) else {
                    return Err(InvalidHello::Hash(id));
                };
                held.insert(id, hash);
            }
        }
        let mut sent = Sent {
            held: Inventory::default(),
            ahead,
            floor: hello.seen.into(),
            refused: BTreeMap::new(),
            dirty: BTreeSet::new(),
            withheld: BTreeSet::new(),
            cursor: None,
            in_flight: None,
            nonce: hello.nonce,
            complete: false,
            refresh: false,
            grants: Vec::new(),
        };
        let mut known = Vec::with_capacity(held.len());
        for id in view.ids() {
            match held.remove(&id) {
                Some(hash) => {
                    // The view's copy of the id: its text is shared among streams.
                    if view.get(&id).map(|resource| resource.hash) != Some(hash) {
                        sent.dirty.insert(id.clone());
                    }
                    known.push((id, hash));
                }
                None => {
                    sent.dirty.insert(id);
                }
            }
        }
        sent.dirty.extend(held.keys().cloned());
        known.extend(held);
        sent.held = known.into_iter().collect();
        Ok(sent)
    }

    /// What the sidecar holds: what it said at Hello, and what it acknowledged since.
    pub fn held(&self) -> impl Iterator<Item = (&ResourceId, &Hash)> {
        self.held.iter()
    }

    /// How many resources are not sent because this replica lags behind what the sidecar holds.
    pub fn withheld(&self) -> usize {
        self.withheld.len()
    }

    /// Whether a delta is waiting for its Ack.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// These have been added to the view, changed, or have left it.
    pub fn changed(&mut self, ids: impl IntoIterator<Item = ResourceId>) {
        self.dirty.extend(ids);
    }

    /// Anything may have changed: compares the whole view, as at Hello.
    pub fn everything_changed(&mut self, view: &impl View) {
        self.dirty.extend(view.ids());
        self.dirty
            .extend(self.held.iter().map(|(id, _)| id.clone()));
        self.dirty.extend(self.refused.keys().cloned());
    }

    /// This replica's position has advanced: reconsiders what was withheld.
    pub fn advanced(&mut self) {
        self.dirty.append(&mut self.withheld);
    }

    /// Lets the next delta raise the sidecar's floor to this replica's position even if there is
    /// nothing else to say. Call it now and then: a floor that is up to date is what keeps a
    /// lagging replica from bringing back what came and went unseen.
    pub fn refresh(&mut self) {
        self.refresh = true;
    }

    /// Answers to claims, which the next delta brings.
    pub fn grant(&mut self, grants: impl IntoIterator<Item = Grant>) {
        self.grants.extend(grants);
    }

    /// The next delta, if there is something to say and none is in flight.
    pub fn next(&mut self, view: &impl View) -> Option<Delta> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut delta = Delta {
            answers_lookups: true,
            reads_reports: true,
            ..Delta::default()
        };
        let mut changes = Vec::new();
        let mut bytes = 0;
        while let Some(id) = self.next_dirty() {
            let Some(resource) = self.consider(&id, view) else {
                self.dirty.remove(&id);
                continue;
            };
            let size = size(&id, resource.as_ref());
            let full = changes.len() >= MAX_CHANGES || bytes + size > MAX_DELTA_BYTES;
            if full && !changes.is_empty() {
                break;
            }
            self.dirty.remove(&id);
            self.cursor = Some(id.clone());
            let generation = view.seen(id.kind);
            let sending = match resource {
                Some(resource) if resource.body.len() > MAX_BODY_BYTES => {
                    Sending::Oversized(resource.hash, resource.body.len())
                }
                Some(mut resource) => {
                    bytes += size;
                    let hash = resource.hash;
                    resource.generation = generation;
                    delta.resources.push(resource.into());
                    Sending::Put(hash)
                }
                None => {
                    bytes += size;
                    delta.removed.push(Removed {
                        id: id.to_string(),
                        generation: Some(generation.into()),
                    });
                    Sending::Remove
                }
            };
            changes.push((id, sending));
        }
        if self.dirty.is_empty() {
            delta.complete = !self.complete;
            if delta.complete || self.refresh || !changes.is_empty() {
                delta.seen = self.raise_floor(view).map(Into::into);
            }
        }
        if changes.is_empty() && !delta.complete && delta.seen.is_none() && self.grants.is_empty() {
            return None;
        }
        let count = self.grants.len().min(MAX_GRANTS);
        let grants = self.grants.drain(..count).collect();
        delta.grants = Some(Grants { grants });
        self.complete |= delta.complete;
        self.nonce = self.nonce.wrapping_add(1);
        delta.nonce = self.nonce;
        self.in_flight = Some(InFlight {
            nonce: self.nonce,
            changes,
        });
        Some(delta)
    }

    /// What became of the delta in flight. An Ack of anything else says nothing.
    pub fn on_ack(&mut self, ack: Ack) -> Vec<(ResourceId, Outcome)> {
        let Some(flight) = self.in_flight.take_if(|flight| flight.nonce == ack.nonce) else {
            return Vec::new();
        };
        // By their text: the sidecar may have rejected an id because it could not parse it.
        let mut rejections: HashMap<String, Rejected> = ack
            .rejected
            .into_iter()
            .map(|rejected| (rejected.id.clone(), rejected))
            .collect();
        let mut outcomes = Vec::with_capacity(flight.changes.len());
        for (id, sending) in flight.changes {
            let rejected = match &sending {
                Sending::Oversized(_, size) => Some(Rejected {
                    reason: format!("it has {size} bytes, the limit is {MAX_BODY_BYTES}"),
                    ..Default::default()
                }),
                _ if rejections.is_empty() => None,
                _ => rejections.remove(&id.to_string()),
            };
            let outcome = self.settle(&id, sending, rejected);
            outcomes.push((id, outcome));
        }
        let settled = outcomes.iter().filter_map(|(id, outcome)| match outcome {
            Outcome::Held(hash) => Some((id.clone(), Some(*hash))),
            Outcome::Removed => Some((id.clone(), None)),
            Outcome::Rejected(_) => None,
        });
        self.held.settle(settled);
        if let Some(room) = ack.room {
            self.offer_again(room.into());
        }
        if self.dirty.is_empty() {
            // A set keeps the room of its last entry.
            self.dirty = BTreeSet::new();
        }
        outcomes
    }

    /// Marks what was rejected for lack of room, and has room now: as much of it as fits together.
    fn offer_again(&mut self, mut room: Room) {
        self.refused.retain(|id, refusal| {
            let fits = refusal.needs.is_some_and(|needs| room.covers(&needs));
            if fits {
                room -= refusal.needs.unwrap_or_default();
                self.dirty.insert(id.clone());
            }
            !fits
        });
    }

    /// What the sidecar has done with one change, but for what it holds now.
    fn settle(&mut self, id: &ResourceId, sending: Sending, rejected: Option<Rejected>) -> Outcome {
        let hash = match sending {
            Sending::Put(hash) | Sending::Oversized(hash, _) => Some(hash),
            Sending::Remove => None,
        };
        if let Some(Rejected { reason, needs, .. }) = rejected {
            let needs = needs.map(Room::from);
            self.refused.insert(id.clone(), Refusal { hash, needs });
            return Outcome::Rejected(presentable(&reason));
        }
        self.refused.remove(id);
        self.ahead.remove(id);
        match hash {
            Some(hash) => Outcome::Held(hash),
            None => Outcome::Removed,
        }
    }

    /// The next id after the cursor, in a circle; answers to lookups when there is nothing else, so that
    /// who has an answer has all that it leads to.
    fn next_dirty(&self) -> Option<ResourceId> {
        let after = self.cursor.as_ref().and_then(|cursor| {
            self.dirty
                .range((Bound::Excluded(cursor), Bound::Unbounded))
                .next()
        });
        let first = self.dirty.first();
        match after {
            Some(answer) if answer.kind == Kind::Lookup => first,
            Some(after) => Some(after),
            None => first,
        }
        .cloned()
    }

    /// What to send for a dirty id: the resource or (`Some(None)`) its removal; `None` if nothing.
    fn consider(&mut self, id: &ResourceId, view: &impl View) -> Option<Option<Resource>> {
        self.withheld.remove(id);
        let resource = view.get(id);
        let hash = resource.as_ref().map(|resource| resource.hash);
        // What the sidecar has in force since it rejected another version may be that one's, closed.
        if self.held.get(id) == hash.as_ref() && !self.refused.contains_key(id) {
            // Perhaps it changed and changed back; then the sidecar is to know that what it holds
            // is the present again.
            self.refresh = true;
            return None;
        }
        if self.refused.get(id).map(|refusal| refusal.hash) == Some(hash) {
            return None;
        }
        if !self.covered(id, view) {
            self.withheld.insert(id.clone());
            return None;
        }
        Some(resource)
    }

    /// Whether this replica is at least as new as what the sidecar knows of `id`.
    fn covered(&mut self, id: &ResourceId, view: &impl View) -> bool {
        let seen = view.seen(id.kind);
        if self.ahead.get(id).is_some_and(|known| seen.covers(known)) {
            self.ahead.remove(id);
        }
        !self.ahead.contains_key(id) && seen.covers(&self.floor.of(id.kind))
    }

    /// Raises the floor to this replica's position, if it is true that the sidecar has been told
    /// everything up to there: nothing withheld, nothing newer told by another replica. The caller
    /// knows that nothing is unsent.
    fn raise_floor(&mut self, view: &impl View) -> Option<Generation> {
        let seen = Kind::ALL
            .iter()
            .fold(Generation::ZERO, |seen, kind| seen.merge(&view.seen(*kind)));
        if !self.withheld.is_empty() || !seen.covers(&self.floor) {
            return None;
        }
        self.refresh = false;
        let raised = seen != self.floor;
        self.floor = seen;
        raised.then_some(seen)
    }
}

fn size(id: &ResourceId, resource: Option<&Resource>) -> usize {
    OVERHEAD_BYTES + id.text_len() + resource.map_or(0, Resource::size)
}

/// Enough of a text from the network to recognise it.
fn excerpt(text: &str) -> String {
    text.chars().take(MAX_ID_BYTES).collect()
}
