//! Both ends of the delta stream as plain state machines: no I/O, no clock, no threads.
//!
//! The operator's end is [`Sent`], the sidecar's [`Held`]. A stream begins with the sidecar's
//! Hello, which says what it holds; then Deltas go one way and Acks the other, one Delta in flight
//! at a time. While one is in flight, changes only mark ids: a slow consumer has one pending
//! update, and receives the newest version of what changed meanwhile.
//!
//! **What is held never goes back**, although sidecars move between replicas of the operator that
//! each see the world with another delay. Three rules see to it:
//!
//! 1. A change is applied only if its generation covers what is known of that id: the generation
//!    of what is held, or of its removal, and the floor.
//! 2. The floor is the newest position up to which the sidecar has been told *everything*
//!    (`Delta.seen`). Generations of single resources are not enough: a resource that became open
//!    and then closed again, or came and went, while this sidecar looked the other way is held with an old
//!    generation, and a replica that is still at the open state would cover it.
//! 3. The operator's end knows the same from the Hello and *withholds* what its replica's position
//!    does not cover, until the replica has caught up.
//!
//! **What is held always converges.** What a sidecar rejects is not sent again on the stream until it
//! changes, because the answer would be the same, but for one case: there was no room for it. Then the
//! sidecar says how much it takes, each Ack says how much there is, and it is sent again once it fits.
//!
//! A change is stamped with its replica's position when it is sent, not when it was compiled: a
//! resource compiled long ago is still the present one.

mod held;
mod inventory;
mod room;
mod saved;
mod sent;
mod sorted;

pub use held::Held;
pub use saved::{Save, Torn};
pub use sent::{InvalidHello, Sent};

use crate::{Generation, Kind, Resource, ResourceId, resource::Hash};

/// The most changes in one delta: an Ack that rejects all of them stays small too.
pub const MAX_CHANGES: usize = 1000;

/// The size of a delta's changes, in bytes, unless a single one is larger: small enough that a
/// sidecar links it in a few milliseconds, large enough that a whole configuration is few of them.
pub const MAX_DELTA_BYTES: usize = 1024 * 1024;

/// The most resources that a sidecar holds: ten times what the largest mesh we know of would send
/// to one.
pub const MAX_HELD: usize = 50_000;

/// The most bytes of bodies that a sidecar holds: it shares a pod with an application and must
/// not be driven out of memory by a wrong view.
pub const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;

/// The most removals that a sidecar remembers one by one. They are forgotten whenever the floor
/// passes them, which is at the end of each batch.
pub const MAX_REMOVED: usize = 4096;

/// The most bytes of names, generations and hashes in a Hello: [`MAX_HELD`] resources and
/// [`MAX_REMOVED`] removals with ids of some 75 characters. A sidecar takes no more than it can
/// name, because the operator reads no more from it.
pub const MAX_HELLO_BYTES: usize = 8 * 1024 * 1024;

/// How many capabilities a sidecar announces at most.
pub const MAX_ANNOUNCED: usize = 256;

/// The longest reason of a rejection, in characters: it is copied into objects' status.
pub const MAX_REASON_CHARS: usize = 512;

/// What one stream may receive, at one moment: a consistent snapshot of one replica's output.
pub trait View {
    /// The resource, if it is in this view.
    fn get(&self, id: &ResourceId) -> Option<Resource>;

    /// Everything in this view.
    fn ids(&self) -> Vec<ResourceId>;

    /// What this replica had seen when it compiled this snapshot, masked to the inputs of `kind`
    /// (`generation.of(kind)`). Never goes backward from one snapshot of a replica to its next.
    /// Everything in the snapshot, and what is absent from it, is as of this position.
    fn seen(&self, kind: Kind) -> Generation;
}

/// What the sidecar does with what it receives.
pub trait Apply {
    /// Takes all of `changes` at once, but for those named in the answer, whose predecessors stay
    /// in force. Called once per delta that changes anything, so that links between resources are
    /// made once. Where a predecessor stays that was to be removed or to become smaller, more may
    /// be held for a while than there is room for: a delta's worth, for then nothing more is taken.
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected>;

    /// So many changes were rejected before it was asked: what they need this sidecar can't do, they
    /// are older than what it knows, or there is no room. For whoever counts rejections.
    fn refused(&mut self, _count: usize) {}
}

/// One change of what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// New, or instead of the one with the same id.
    Put(Resource),
    /// No longer there.
    Remove(ResourceId),
}

/// A change that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What was to be changed.
    pub id: ResourceId,
    /// A sentence for a person; it becomes part of the object's status.
    pub reason: String,
}

/// What became of one resource that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sidecar enforces the version with this hash.
    Held(Hash),
    /// The sidecar no longer has it.
    Removed,
    /// The sidecar keeps what it had; why.
    Rejected(String),
}

// === impl Change ===

impl Change {
    /// What is changed.
    pub fn id(&self) -> &ResourceId {
        match self {
            Change::Put(resource) => &resource.id,
            Change::Remove(id) => id,
        }
    }
}

/// A reason as it may travel and be shown: one line, bounded.
fn presentable(reason: &str) -> String {
    reason
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_REASON_CHARS)
        .collect()
}
