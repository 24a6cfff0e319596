//! Which requests become events, among all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability, mesh};

use super::{Compilation, resource_id};
use crate::api_route::{Hosts, match_capabilities};
use crate::broker;
use crate::inputs::{ObjectKey, ObjectRef};
use crate::publish::Reader;

impl Compilation<'_> {
    /// The Services at whose pods an ApiRoute's requests become events.
    pub(super) fn published_at(&self, key: &ObjectKey, hosts: &Hosts) -> BTreeSet<ObjectKey> {
        let reader = self.publish_reader(key);
        reader.map_or_else(BTreeSet::new, |reader| reader.services(&hosts.services))
    }

    /// Notes at which Services' pods an ApiRoute's requests become events, if it is in force; at none when
    /// it is gone.
    pub(super) fn published(&mut self, key: &ObjectKey, services: BTreeSet<ObjectKey>) {
        let services = match self.is_in_force(key) {
            true => services,
            false => BTreeSet::new(),
        };
        let before = self.out.memo.links.published.set(key, services.clone());
        if !(before.is_empty() && services.is_empty()) {
            self.dirty.publish.insert(key.clone());
        }
    }

    /// Compiles which requests become events, for the pods that publish them.
    pub(super) fn publish(&mut self, key: &ObjectKey) {
        self.count(Kind::Publish);
        let Some(id) = resource_id(Kind::Publish, key) else {
            return;
        };
        let services = self.out.memo.links.published.from(key);
        let services = services.cloned().unwrap_or_default();
        let audience = self.pods_of(&services);
        let reader = self.publish_reader(key);
        match reader.filter(|_| !audience.is_empty()) {
            Some(reader) => {
                let sent = reader.publish(&services);
                let mut capabilities = vec![capability::PUBLISH];
                capabilities.extend(brokers_need(&sent.brokers));
                let publishing = || sent.rules.iter().filter_map(|rule| rule.publish.as_ref());
                if publishing().any(|one| one.unwaited) {
                    capabilities.push(capability::PUBLISH_UNWAITED);
                }
                if publishing().any(|one| one.split.is_some()) {
                    capabilities.push(capability::PUBLISH_SPLIT);
                }
                if publishing().any(|one| one.async_reply.is_some()) {
                    capabilities.push(capability::PUBLISH_ASYNC_REPLY);
                }
                if sent.rules.iter().any(|rule| rule.stream.is_some()) {
                    capabilities.push(capability::STREAM);
                }
                let matches = sent.rules.iter().flat_map(|rule| &rule.matches);
                capabilities.extend(match_capabilities(matches));
                let object = Some(ObjectRef::api_route(key));
                self.put(id, &capabilities, &sent, audience, object);
            }
            None => self.remove(id),
        }
    }

    pub(super) fn publish_reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        let spec = &self.inputs.api_routes.get(key)?.spec;
        let mut rules = spec.rules.iter();
        let publishes = rules.any(|rule| rule.publish.is_some() || rule.stream.is_some());
        publishes.then(|| Reader {
            key,
            spec,
            brokers: self.broker_reader(&key.namespace),
            credentials: &self.inputs.credentials,
        })
    }

    pub(super) fn broker_reader<'k>(&'k self, namespace: &'k str) -> broker::Reader<'k> {
        broker::Reader {
            namespace,
            brokers: &self.inputs.brokers,
            unreadable: &self.inputs.unreadable,
            settings: &self.inputs.settings,
        }
    }
}

/// What a sidecar must be able to speak. Of one that can't be had nothing is known.
pub(super) fn brokers_need(brokers: &[mesh::Broker]) -> impl Iterator<Item = &'static str> {
    let nats = brokers.iter().any(|broker| !broker.url.is_empty());
    nats.then_some(capability::BROKER_NATS).into_iter()
}
