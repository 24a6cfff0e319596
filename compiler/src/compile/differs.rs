//! What differs from before, and what has to be compiled again because of it.

use std::collections::BTreeSet;

use wire::{Kind, capability, mesh};

use super::event_subscriptions::is_outside;
use super::{Compilation, everyone, resource_id};
use crate::cache::at_caller;
use crate::endpoints;
use crate::index::{Difference, Label, Neighbourhood, differences, selector, selects};
use crate::inputs::{ObjectKey, ObjectRef, Settings};

impl Compilation<'_> {
    /// Of resources and verdicts that nothing is remembered with, those whose objects are gone
    /// differ from nothing: all are compiled again, or removed.
    pub(super) fn what_is_not_remembered(&mut self) {
        if self.out.memo.settings.is_some() {
            return;
        }
        let domain = &self.inputs.settings.trust_domain;
        let ids = Vec::from_iter(self.out.resources.keys().cloned());
        for id in ids {
            let key = ObjectKey::new(&*id.namespace, &*id.name);
            match id.kind {
                Kind::Identity if *id.namespace != **domain => self.remove(id),
                Kind::Identity => {}
                // Compiled each time.
                Kind::Networks => {}
                // Made of what streams ask for.
                Kind::Lookup => self.remove(id),
                Kind::Workload => drop(self.dirty.workloads.insert(key)),
                Kind::Guard => drop(self.dirty.guards.insert(key)),
                Kind::Endpoints => drop(self.dirty.endpoints.insert(key)),
                Kind::Access | Kind::Keys => drop(self.dirty.access.insert(key)),
                Kind::Cache => drop(self.dirty.caches.insert(key)),
                Kind::Idempotency => drop(self.dirty.idempotency.insert(key)),
                Kind::Publish => drop(self.dirty.publish.insert(key)),
                Kind::Subscription => {
                    self.dirty
                        .objects
                        .insert(ObjectRef::event_subscription(&key));
                    self.dirty.subscriptions.insert(key);
                }
                Kind::Route => drop(self.dirty.objects.insert(ObjectRef::api_route(&key))),
                Kind::RetryPolicy => {
                    self.dirty.objects.insert(ObjectRef::retry_policy(&key));
                }
                Kind::RateLimit => {
                    self.dirty.objects.insert(ObjectRef::rate_limit(&key));
                    self.dirty.limits.insert(key);
                }
            }
        }
        let objects = self.out.verdicts.keys();
        self.dirty.objects.extend(objects.cloned());
    }

    pub(super) fn settings(&mut self) {
        let now = &self.inputs.settings;
        let before = self.out.memo.settings.replace(now.clone());
        if before.as_ref() == Some(now) {
            return;
        }
        let names = |settings: &Settings| {
            (
                settings.trust_domain.clone(),
                settings.cluster_domain.clone(),
                settings.namespace.clone(),
            )
        };
        if before.as_ref().map(names) != Some(names(now)) {
            // Every identity and every host has one of the first two in it; the third says who carries events.
            let memo = &self.out.memo;
            self.dirty.endpoints.extend(memo.services.keys().cloned());
            self.dirty.workloads.extend(memo.pods.keys().cloned());
            let routes = memo.api_routes.keys().map(ObjectRef::api_route);
            self.dirty.objects.extend(routes);
            let limits = memo.rate_limits.keys().map(ObjectRef::rate_limit);
            self.dirty.objects.extend(limits);
            let subscriptions = memo.event_subscriptions.keys();
            let subscriptions = subscriptions.map(ObjectRef::event_subscription);
            self.dirty.objects.extend(subscriptions);
        }
        let id = |settings: &Settings| {
            let domain = ObjectKey::new(&*settings.trust_domain, "bundle");
            resource_id(Kind::Identity, &domain)
        };
        if let Some(before) = before.as_ref().and_then(id) {
            self.remove_unless(before, id(now).as_ref());
        }
        if let Some(id) = id(now) {
            self.count(Kind::Identity);
            let message = mesh::Identity {
                trust_domain: now.trust_domain.clone(),
                roots: now.roots.iter().map(|root| root.clone().into()).collect(),
            };
            self.put(id, &[capability::IDENTITY], &message, everyone(), None);
        }
    }

    pub(super) fn services(&mut self) {
        let memo = &mut self.out.memo;
        for Difference { key, old, new } in differences(&mut memo.services, &self.inputs.services) {
            let selector = new.as_ref().and_then(|service| selector(service));
            memo.links.index_selector(&key, selector);
            let mentioned_by = memo.links.mentions.to(&key).into_iter().flatten();
            self.dirty.objects.extend(mentioned_by.cloned());
            if old.is_none() || new.is_none() {
                let around = Neighbourhood::of(&key);
                let lost = around
                    .iter()
                    .filter_map(|around| memo.links.lost.to(around));
                self.dirty.objects.extend(lost.flatten().cloned());
            }
            self.dirty.guards.insert(key.clone());
            self.dirty.endpoints.insert(key);
        }
    }

    pub(super) fn endpoint_slices(&mut self) {
        let memo = &mut self.out.memo;
        let now = &self.inputs.endpoint_slices;
        for Difference { key, new, .. } in differences(&mut memo.endpoint_slices, now) {
            let service = new.and_then(|slice| endpoints::service_of(&key, &slice));
            let before = memo
                .links
                .slices
                .set(&key, service.clone().into_iter().collect());
            self.dirty.endpoints.extend(before);
            self.dirty.endpoints.extend(service);
        }
    }

    pub(super) fn pods(&mut self) {
        let memo = &mut self.out.memo;
        let differences = differences(&mut memo.pods, &self.inputs.pods);
        for Difference { key, new, .. } in &differences {
            let links = &mut memo.links;
            let labels = new.iter().flat_map(|pod| &pod.metadata.labels);
            let labels = labels.flat_map(|labels| Label::each(&key.namespace, labels));
            links.pod_labels.set(key, labels.collect());
            let selected_by = links.selected.to(key).into_iter().flatten();
            self.dirty.guards.extend(selected_by.cloned());
            if let Some(pod) = new {
                let services = &self.inputs.services;
                let selected_by = links.services_selecting(key, pod, services);
                self.dirty.guards.extend(selected_by.cloned());
            }
            let named_by = links.endpoints.to(key).into_iter().flatten();
            self.dirty.endpoints.extend(named_by.cloned());
            self.dirty.workloads.insert(key.clone());
        }
        for Difference { key, old, new } in differences {
            let one = |selector: &_| {
                let mut both = old.iter().chain(&new);
                both.any(|pod| selects(selector, pod))
            };
            let subscribed = self.by_labels(&key.namespace, one);
            self.dirty.subscriptions.extend(subscribed);
            if old.iter().chain(&new).any(|pod| self.carries(&key, pod)) {
                let all = self.inputs.event_subscriptions.keys();
                self.dirty.subscriptions.extend(all.cloned());
                let limits = self.inputs.rate_limits.keys();
                self.dirty.limits.extend(limits.cloned());
            }
        }
    }

    pub(super) fn namespaces(&mut self) {
        let memo = &mut self.out.memo;
        let now = &self.inputs.namespaces;
        for Difference { key, .. } in differences(&mut memo.namespaces, now) {
            // Keys are in the order of namespaces: those of one stand together.
            let pods = memo.pods.range(ObjectKey::new(&*key.name, "")..);
            let pods = pods.map(|(pod, _)| pod);
            let pods = pods.take_while(|pod| pod.namespace == key.name);
            self.dirty.workloads.extend(pods.cloned());
        }
    }

    /// Secrets concern the ApiRoutes of their namespace that compare credentials with any, keep answers in a
    /// store or publish to a broker, its RateLimits that are counted in one, and its EventSubscriptions.
    pub(super) fn secrets(&mut self) {
        let (memo, inputs) = (&mut self.out.memo, self.inputs);
        let consumers = differences(&mut memo.consumers, &inputs.consumers);
        let credentials = differences(&mut memo.credentials, &inputs.credentials);
        let brokers = differences(&mut memo.brokers, &inputs.brokers);
        let changed = consumers.iter().chain(&credentials).chain(&brokers);
        let changed = changed.map(|one| one.key.namespace.as_str());
        let before = std::mem::replace(&mut memo.unreadable, inputs.unreadable.clone());
        let both = before.iter().chain(&inputs.unreadable);
        let differ = both
            .map(|(namespace, _)| namespace.as_str())
            .filter(|namespace| before.get(*namespace) != inputs.unreadable.get(*namespace));
        let namespaces: BTreeSet<&str> = changed.chain(differ).collect();
        for namespace in namespaces {
            let routes = inputs.api_routes.range(ObjectKey::new(namespace, "")..);
            let routes = routes.take_while(|(key, _)| key.namespace == namespace);
            let compares = routes.filter(|(_, route)| {
                let auth = route.spec.auth.as_ref();
                let compares =
                    auth.is_some_and(|auth| auth.api_key.is_some() || auth.introspection.is_some());
                let idempotency = route.spec.idempotency.as_ref();
                compares
                    || idempotency.is_some_and(|idempotency| idempotency.store.is_some())
                    || route
                        .spec
                        .rules
                        .iter()
                        .any(|rule| rule.publish.is_some() || rule.stream.is_some())
            });
            let compares = compares.map(|(key, _)| ObjectRef::api_route(key));
            self.dirty.objects.extend(compares);
            let limits = inputs.rate_limits.range(ObjectKey::new(namespace, "")..);
            let limits = limits.take_while(|(key, _)| key.namespace == namespace);
            let shared = limits.filter(|(_, limit)| limit.spec.store.is_some());
            let shared = shared.map(|(key, _)| ObjectRef::rate_limit(key));
            self.dirty.objects.extend(shared);
            let subscribed = inputs
                .event_subscriptions
                .range(ObjectKey::new(namespace, "")..);
            let subscribed = subscribed.take_while(|(key, _)| key.namespace == namespace);
            let subscribed = subscribed.map(|(key, _)| ObjectRef::event_subscription(key));
            self.dirty.objects.extend(subscribed);
        }
    }

    pub(super) fn written(&mut self) {
        let (memo, inputs) = (&mut self.out.memo, self.inputs);
        let routes = differences(&mut memo.api_routes, &inputs.api_routes);
        for Difference { key, old, new } in &routes {
            // Who keeps answers as a caller is told of all that is said of who may enter there.
            let both = [old, new].map(|one| one.as_ref().map(|route| &route.spec));
            let said = both.map(|spec| spec.map(|spec| (&spec.auth, &spec.authorization)));
            let mut there = both.into_iter().flatten();
            if said[0] != said[1] && there.any(at_caller::says_who_may_enter) {
                let around = at_caller::in_namespace(&key.namespace, &inputs.api_routes);
                let keeping = around.filter(|(_, route)| at_caller::is_at_caller(&route.spec));
                let keeping = keeping.map(|(key, _)| ObjectRef::api_route(key));
                self.dirty.objects.extend(keeping);
            }
            let policies = memo.links.governed.to(key).into_iter().flatten();
            let policies = policies.map(ObjectRef::retry_policy);
            self.dirty.objects.extend(policies);
            self.dirty.objects.insert(ObjectRef::api_route(key));
        }
        let policies = differences(&mut memo.retry_policies, &inputs.retry_policies);
        let policies = policies.iter().map(|one| ObjectRef::retry_policy(&one.key));
        self.dirty.objects.extend(policies);
        let limits = differences(&mut memo.rate_limits, &inputs.rate_limits);
        let limits = limits.iter().map(|one| ObjectRef::rate_limit(&one.key));
        self.dirty.objects.extend(limits);
        let subscriptions = differences(&mut memo.event_subscriptions, &inputs.event_subscriptions);
        for Difference { key, old, new } in &subscriptions {
            let outside = [old, new].map(|one| one.as_ref().is_some_and(|one| is_outside(one)));
            if outside[0] != outside[1] {
                // Who delivers to systems outside is held to what limits calls of these.
                let limits = inputs
                    .rate_limits
                    .range(ObjectKey::new(&*key.namespace, "")..);
                let own = limits.take_while(|(one, _)| one.namespace == key.namespace);
                self.dirty.limits.extend(own.map(|(key, _)| key.clone()));
            }
            let object = ObjectRef::event_subscription(key);
            self.dirty.objects.insert(object);
        }
        if memo.precedence != inputs.precedence {
            memo.precedence = inputs.precedence.clone();
            let routes = inputs.api_routes.keys().map(ObjectRef::api_route);
            let policies = inputs.retry_policies.keys().map(ObjectRef::retry_policy);
            self.dirty.objects.extend(routes.chain(policies));
        }
    }
}
