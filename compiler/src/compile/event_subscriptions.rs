//! EventSubscriptions among all that is compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::EventSubscription;
use crds::event_subscription::EventTargetType;
use k8s_openapi::api::core::v1::Pod;
use wire::mesh::subscription::Target;
use wire::{Kind, capability};

use super::objects;
use super::publish::brokers_need;
use super::{Compilation, resource_id};
use crate::attach::{Claim, Precedence};
use crate::event_subscription::{Read, Reader, elsewhere, pods};
use crate::inputs::{ObjectKey, ObjectRef};
use crate::output::{Audience, AudienceKey};
use crate::workload::{self, CARRIES};

/// The value of the label of pods that carry out all EventSubscriptions that nobody else does.
const CARRIES_ALL: &str = "true";

/// The most bytes of labels that a target shows; those of pods are shorter. Nothing bounds the names of labels
/// in a schema, and a status has a place for 4096 bytes of a target.
const MAX_LABELS_BYTES: usize = 4000;

/// What is done for an EventSubscription whose target has no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carried {
    /// Its events are delivered.
    Delivered,
    /// Nobody is there to deliver to: what waits is counted.
    Counted,
}

/// Whether events go to a system outside the mesh.
pub(super) fn is_outside(subscription: &EventSubscription) -> bool {
    subscription.spec.target.type_ == EventTargetType::Url
}

impl Compilation<'_> {
    /// An EventSubscription claims nothing: several may deliver the same events to one workload. `None`
    /// when there is none.
    pub(super) fn subscription_claims(
        &self,
        key: &ObjectKey,
    ) -> Option<(Precedence, BTreeSet<Claim>)> {
        let metadata = &self.inputs.event_subscriptions.get(key)?.metadata;
        let object = ObjectRef::event_subscription(key);
        let precedence = Precedence::of(&object, metadata, self.inputs);
        Some((precedence, BTreeSet::new()))
    }

    /// Judges an EventSubscription, and notes whose pods carry it out.
    pub(super) fn subscription(&mut self, key: &ObjectKey) -> BTreeSet<Precedence> {
        let Some(reader) = self.subscription_reader(key) else {
            return BTreeSet::new();
        };
        let generation = self.inputs.event_subscriptions.get(key);
        let generation = generation.and_then(|one| one.metadata.generation);
        let service = reader.service();
        let labels = reader.selector().into_iter().flatten();
        let labels = labels.map(|(name, value)| format!("{name}={value}"));
        let selected = Vec::from_iter(labels).join(",");
        let elsewhere = elsewhere(reader.spec);
        let Read {
            lost,
            refusal,
            unresolved,
            ..
        } = reader.read();
        let read = objects::Read {
            object: &ObjectRef::event_subscription(key),
            mentions: service.iter().cloned().collect(),
            targets: service.iter().cloned().collect(),
            pods: match selected.len() {
                0 => elsewhere,
                1..=MAX_LABELS_BYTES => Some(format!("pods with {selected}")),
                _ => Some("pods with labels longer than those of any".to_owned()),
            },
            calls: BTreeSet::new(),
            lost,
            refusal,
            unresolved,
            yields: None,
            routes: Vec::new(),
            also: resource_id(Kind::Subscription, key).into_iter().collect(),
            in_force: Vec::new(),
            note: None,
            remedy: "",
        };
        self.conclude_for_pods(read, generation);
        let links = &mut self.out.memo.links;
        links.subscribed.set(key, service.into_iter().collect());
        self.dirty.subscriptions.insert(key.clone());
        BTreeSet::new()
    }

    /// An EventSubscription is gone.
    pub(super) fn forget_subscription(&mut self, key: &ObjectKey) {
        self.out.memo.links.subscribed.set(key, BTreeSet::new());
    }

    /// Whether events of a namespace go to a system outside the mesh.
    pub(super) fn delivers_outside(&self, namespace: &str) -> bool {
        let all = self
            .inputs
            .event_subscriptions
            .range(ObjectKey::new(namespace, "")..);
        let mut own = all.take_while(|(key, _)| key.namespace == namespace);
        own.any(|(_, one)| is_outside(one))
    }

    /// Compiles an EventSubscription for the pods that carry it out.
    pub(super) fn carried_out(&mut self, key: &ObjectKey) {
        self.count(Kind::Subscription);
        let Some(id) = resource_id(Kind::Subscription, key) else {
            return;
        };
        let Some(reader) = self.subscription_reader(key) else {
            return self.remove(id);
        };
        let mut read = reader.read();
        let (audience, carried) = self.carried_out_by(&reader);
        read.sent.counts_only = carried == Some(Carried::Counted);
        if audience.is_empty() || read.refusal.is_some() {
            return self.remove(id);
        }
        let mut capabilities = vec![capability::SUBSCRIPTION];
        capabilities.extend(brokers_need(read.sent.broker.as_slice()));
        let schedule = read.sent.schedule.as_ref();
        capabilities.extend(schedule.map(|_| capability::SUBSCRIPTION_SCHEDULE));
        capabilities.extend(carried.map(|_| capability::SUBSCRIPTION_ELSEWHERE));
        if let Some(Target::TopicTarget(topic)) = &read.sent.target {
            capabilities.extend(brokers_need(topic.broker.as_slice()));
            capabilities.sort_unstable();
            capabilities.dedup();
        }
        let object = Some(ObjectRef::event_subscription(key));
        self.put(id, &capabilities, &read.sent, audience, object);
    }

    /// Whose sidecars carry an EventSubscription out, and what they do for it if they are not those of its target.
    fn carried_out_by(&self, reader: &Reader<'_>) -> (Audience, Option<Carried>) {
        let links = &self.out.memo.links;
        let selected = match (reader.service(), reader.selector()) {
            (Some(service), _) => links.selected.from(&service).cloned().unwrap_or_default(),
            (None, Some(selector)) => {
                links.pods_with(&reader.key.namespace, selector, &self.inputs.pods)
            }
            (None, None) => BTreeSet::new(),
        };
        let pods = || selected.iter().filter_map(|key| self.inputs.pods.get(key));
        let own = self.meshed(selected.iter());
        // One that waits for a node, or for its image, delivers nothing yet.
        let runs = |pod: &&Arc<Pod>| workload::is_meshed(pod) && !workload::is_pending(pod);
        if pods().any(|pod| runs(&pod)) {
            return (own, None);
        }
        let carriers = self.carriers();
        if carriers.is_empty() {
            return (own, None);
        }
        // Pods without a sidecar are called through their Service, as by anybody.
        let called = |pod: &&Arc<Pod>| !workload::has_ended(pod) && !workload::is_meshed(pod);
        let carried = match reader.spec.target.type_ {
            EventTargetType::Url | EventTargetType::Topic => Carried::Delivered,
            EventTargetType::Service if own.is_empty() && pods().any(|pod| called(&pod)) => {
                Carried::Delivered
            }
            EventTargetType::Service | EventTargetType::Workload => Carried::Counted,
        };
        (carriers, Some(carried))
    }

    /// The pods that carry out what no pod does for itself.
    pub(super) fn carriers(&self) -> Audience {
        let namespace = &self.inputs.settings.namespace;
        let selector = BTreeMap::from([(CARRIES.to_owned(), CARRIES_ALL.to_owned())]);
        let links = &self.out.memo.links;
        let pods = links.pods_with(namespace, &selector, &self.inputs.pods);
        self.meshed(pods.iter())
    }

    /// Whether a pod is one of these, or would be with a sidecar.
    pub(super) fn carries(&self, key: &ObjectKey, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(CARRIES));
        key.namespace == self.inputs.settings.namespace
            && label.is_some_and(|label| label == CARRIES_ALL)
    }

    /// The EventSubscriptions of a namespace that are for pods by their labels, and for which `concerns` holds.
    pub(super) fn by_labels(
        &self,
        namespace: &str,
        concerns: impl Fn(&std::collections::BTreeMap<String, String>) -> bool,
    ) -> Vec<ObjectKey> {
        let all = &self.inputs.event_subscriptions;
        let all = all.range(ObjectKey::new(namespace, "")..);
        let own = all.take_while(|(key, _)| key.namespace == namespace);
        let concerned = own.filter(|(_, one)| pods(&one.spec).is_some_and(&concerns));
        concerned.map(|(key, _)| key.clone()).collect()
    }

    /// Those of the pods that have a sidecar.
    pub(super) fn meshed<'p>(&self, pods: impl Iterator<Item = &'p ObjectKey>) -> Audience {
        let meshed = pods.filter(|pod| {
            let pod = self.inputs.pods.get(*pod);
            pod.is_some_and(|pod| workload::is_meshed(pod))
        });
        meshed
            .map(|pod| AudienceKey::Pod(pod.namespace.clone(), pod.name.clone()))
            .collect()
    }

    fn subscription_reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        let object = self.inputs.event_subscriptions.get(key)?;
        Some(Reader {
            key,
            metadata: &object.metadata,
            spec: &object.spec,
            services: &self.inputs.services,
            suggestions: &self.suggestions,
            brokers: self.broker_reader(&key.namespace),
            credentials: &self.inputs.credentials,
        })
    }
}
