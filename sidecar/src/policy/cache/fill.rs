//! An answer on its way through, until all of it is there to be kept.

use std::sync::Arc;

use bytes::Bytes;

use super::Cache;
use super::entry::{Body, Draft};
use super::flight::{Lead, Wanted};
use super::store::Room;

/// An answer that is being kept while it passes.
#[derive(Debug)]
pub struct Fill {
    pub(super) cache: Arc<Cache>,
    pub(super) wanted: Wanted,
    pub(super) draft: Draft,
    pub(super) body: Vec<u8>,
    pub(super) begun: u64,
    pub(super) lead: Option<Lead>,
    pub(super) room: Room,
    /// How much of the room is not used yet.
    pub(super) left: u64,
}

// === impl Fill ===

impl Fill {
    /// More of the body; whether it can still be kept.
    pub fn more(&mut self, data: &[u8]) -> bool {
        let (length, more) = (self.body.len() as u64, data.len() as u64);
        let unused = self.left.min(more);
        self.left -= unused;
        let room = self.room.more(more - unused);
        if !room || length + more > self.cache.max_entry_bytes {
            return false;
        }
        self.body.extend_from_slice(data);
        true
    }

    /// The body has ended: it is kept, and who waits for it has it. Not if it has broken off: then who
    /// waits asks for itself. `told` as [`Draft::is_whole`] has it.
    pub fn complete(self, told: bool) {
        if !self.draft.is_whole(self.body.len() as u64, told) {
            return;
        }
        let body = Body {
            bytes: Bytes::from(self.body.into_boxed_slice()),
            room: Arc::new(self.room),
        };
        let entry = self.draft.into_entry(body, self.begun);
        self.cache.store.keep(&self.wanted.key, entry);
        if let Some(lead) = self.lead {
            lead.kept();
        }
    }

    /// Room for what waits to be read.
    pub fn queue(&self) -> Room {
        self.cache.store.room()
    }

    /// It is not kept after all.
    pub fn give_up(self) {
        self.cache.alone(&self.wanted, self.lead);
    }
}
