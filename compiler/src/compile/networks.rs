//! The networks of all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability, mesh};

use super::{Compilation, everyone, resource_id};
use crate::inputs::ObjectKey;
use crate::network::Network;

/// The most networks that are told one by one. With more, every address of their family is asked about:
/// that costs a question for each address outside, and is as true.
const MAX_NETWORKS: usize = 256;

impl Compilation<'_> {
    /// Notes the networks that the addresses lie in by which a Service is called.
    pub(super) fn lie_in(&mut self, service: &ObjectKey, networks: BTreeSet<Network>) {
        self.out.memo.links.networks.set(service, networks);
    }

    /// Compiles the networks, after all that they are gathered from.
    pub(super) fn networks(&mut self) {
        let Some(id) = resource_id(Kind::Networks, &ObjectKey::new("mesh", "addresses")) else {
            return;
        };
        let all: BTreeSet<Network> = self.out.memo.links.networks.ends().copied().collect();
        if all.is_empty() {
            return self.remove(id);
        }
        let networks: BTreeSet<String> = match all.len() > MAX_NETWORKS {
            true => all.iter().map(|one| one.whole().to_owned()).collect(),
            false => all.iter().map(ToString::to_string).collect(),
        };
        let message = mesh::Networks {
            networks: networks.into_iter().collect(),
        };
        self.put(id, &[capability::LOOKUP], &message, everyone(), None);
    }
}
