//! What the sidecar at the other end of a stream holds.

use crate::{ResourceId, resource::Hash};

/// Ids with their hashes in as little memory as that takes: it stays for hours, and for thousands of
/// streams. What is read often and changes seldom is kept sorted.
#[derive(Debug, Default)]
pub(super) struct Inventory(Vec<(ResourceId, Hash)>);

// === impl Inventory ===

impl Inventory {
    pub(super) fn get(&self, id: &ResourceId) -> Option<&Hash> {
        let found = self.find(id).ok()?;
        Some(&self.0[found].1)
    }

    /// In the order of the ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ResourceId, &Hash)> {
        self.0.iter().map(|(id, hash)| (id, hash))
    }

    /// Notes what has become of each of these, which are all different: `None` for what is gone.
    pub(super) fn settle(&mut self, changes: impl IntoIterator<Item = (ResourceId, Option<Hash>)>) {
        let (mut added, mut gone) = (Vec::new(), Vec::new());
        for (id, hash) in changes {
            match (self.find(&id), hash) {
                (Ok(found), Some(hash)) => self.0[found].1 = hash,
                (Ok(found), None) => gone.push(found),
                (Err(_), Some(hash)) => added.push((id, hash)),
                (Err(_), None) => {}
            }
        }
        if !gone.is_empty() {
            gone.sort_unstable();
            let mut gone = gone.into_iter().peekable();
            let mut next = 0;
            self.0.retain(|_| {
                let at = next;
                next += 1;
                gone.next_if_eq(&at).is_none()
            });
            self.0.shrink_to_fit();
        }
        if !added.is_empty() {
            self.0.reserve_exact(added.len());
            self.0.append(&mut added);
            // Of two sorted parts this is a merge.
            self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
    }

    fn find(&self, id: &ResourceId) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(id))
    }
}

impl FromIterator<(ResourceId, Hash)> for Inventory {
    fn from_iter<I: IntoIterator<Item = (ResourceId, Hash)>>(entries: I) -> Inventory {
        let mut inventory = Inventory::default();
        inventory.settle(entries.into_iter().map(|(id, hash)| (id, Some(hash))));
        inventory
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> ResourceId {
        format!("route/shop/r{number}").parse().unwrap()
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(
            steps in prop::collection::vec(prop::collection::btree_map(0_u8..40, any::<Option<u8>>(), 0..20), 0..12)
        ) {
            let (mut inventory, mut map) = (Inventory::default(), BTreeMap::new());
            for step in steps {
                let changes = step.into_iter().rev().map(|(number, hash)| (id(number), hash.map(|hash| [hash; 16])));
                let changes = Vec::from_iter(changes);
                for (id, hash) in changes.clone() {
                    match hash {
                        Some(hash) => map.insert(id, hash),
                        None => map.remove(&id),
                    };
                }
                inventory.settle(changes);
                prop_assert!(inventory.iter().eq(map.iter()));
                for number in 0..40 {
                    prop_assert_eq!(inventory.get(&id(number)), map.get(&id(number)));
                }
            }
        }
    }
}
