//! What becomes of the changes of a delta before anybody is asked to make them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Change, presentable, room::Room};
use crate::{
    Generation, ResourceId,
    discovery::{Delta, Rejected},
    id::MAX_ID_BYTES,
};

/// The changes of a delta that may be made, and the reasons why the others may not.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) accepted: BTreeMap<ResourceId, (Change, Generation)>,
    pub(super) rejected: Vec<Rejected>,
}

// === impl Sorted ===

impl Sorted {
    pub(super) fn accept(&mut self, change: Change, generation: Generation) {
        self.accepted
            .insert(change.id().clone(), (change, generation));
    }

    pub(super) fn reject(&mut self, id: &str, reason: &str) {
        self.rejected.push(Rejected {
            id: id.chars().take(MAX_ID_BYTES).collect(),
            reason: presentable(reason),
            needs: None,
        });
    }

    /// There is no room for it, and perhaps there will be.
    pub(super) fn reject_for_now(&mut self, id: &ResourceId, needs: Room) {
        self.rejected.push(Rejected {
            id: id.to_string(),
            reason: "the sidecar holds as much as it may".to_owned(),
            needs: Some(needs.into()),
        });
    }
}

/// The ids that more than one change of a delta names.
pub(super) fn named_twice(delta: &Delta) -> BTreeSet<String> {
    let removed = delta.removed.iter().map(|removed| &removed.id);
    let put = delta.resources.iter().map(|resource| &resource.id);
    let mut once = HashSet::new();
    let twice = removed.chain(put).filter(|id| !once.insert(*id));
    twice.cloned().collect()
}
