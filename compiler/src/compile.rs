//! One compilation: what differs from before, who depends on that, and those compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wire::resource::MAX_BODY_BYTES;
use wire::{Kind, Resource, ResourceId, capability};

use crate::host::Suggestions;
use crate::index::selector;
use crate::inputs::{Inputs, ObjectKey, ObjectRef};
use crate::network::Network;
use crate::output::{Around, Audience, AudienceKey, Compiled, Output};
use crate::verdict::Verdict;
use crate::{endpoints, guard, workload};

mod access;
mod cache;
mod differs;
mod event_subscriptions;
mod idempotency;
mod networks;
mod objects;
mod publish;
mod rate_limits;
mod retry_policies;
mod routes;

/// Compiles `inputs`, given what was compiled before (`Output::default()` at first). The resources
/// and verdicts are the same as from scratch, but for generations: a resource keeps the one it had
/// when its content last changed.
pub fn compile(inputs: &Inputs, before: Output) -> Output {
    let mut compilation = Compilation {
        inputs,
        out: before,
        dirty: Dirty::default(),
        before: BTreeMap::new(),
        verdicts_before: BTreeMap::new(),
        suggestions: Suggestions::new(&inputs.services),
    };
    compilation.out.changed.clear();
    compilation.out.changed_verdicts.clear();
    compilation.out.compiled.clear();
    compilation.what_is_not_remembered();
    compilation.settings();
    compilation.services();
    compilation.endpoint_slices();
    compilation.pods();
    compilation.namespaces();
    compilation.secrets();
    compilation.written();
    // A second time where what people wrote says what ports carry, and no more: what that changes
    // is not what decides who is in force.
    while compilation.dirty.any() {
        // Guards come before workloads: they decide which pods each Service selects.
        while let Some(service) = compilation.dirty.guards.pop_first() {
            compilation.guard(&service);
        }
        while let Some(pod) = compilation.dirty.workloads.pop_first() {
            compilation.workload(&pod);
        }
        while let Some(service) = compilation.dirty.endpoints.pop_first() {
            compilation.endpoints(&service);
        }
        compilation.objects();
        // Last, because it is for the pods that Guards have found, at the Services that objects name.
        while let Some(route) = compilation.dirty.access.pop_first() {
            compilation.access(&route);
        }
        while let Some(route) = compilation.dirty.caches.pop_first() {
            compilation.cache(&route);
        }
        while let Some(route) = compilation.dirty.idempotency.pop_first() {
            compilation.idempotency(&route);
        }
        while let Some(route) = compilation.dirty.publish.pop_first() {
            compilation.publish(&route);
        }
        while let Some(subscription) = compilation.dirty.subscriptions.pop_first() {
            compilation.carried_out(&subscription);
        }
        while let Some(limit) = compilation.dirty.limits.pop_first() {
            compilation.limits(&limit);
        }
    }
    compilation.networks();
    compilation.changed();
    compilation.out
}

struct Compilation<'a> {
    inputs: &'a Inputs,
    out: Output,
    dirty: Dirty,
    /// What was there before, of what was added, changed or removed.
    before: BTreeMap<ResourceId, Option<Arc<Compiled>>>,
    verdicts_before: BTreeMap<ObjectRef, Option<Verdict>>,
    suggestions: Suggestions<'a>,
}

/// What must be compiled again.
#[derive(Default)]
struct Dirty {
    /// By Service.
    guards: BTreeSet<ObjectKey>,
    /// By Service.
    endpoints: BTreeSet<ObjectKey>,
    /// By pod.
    workloads: BTreeSet<ObjectKey>,
    /// What people wrote.
    objects: BTreeSet<ObjectRef>,
    /// By ApiRoute: who may enter.
    access: BTreeSet<ObjectKey>,
    /// By ApiRoute: which answers are kept.
    caches: BTreeSet<ObjectKey>,
    /// By ApiRoute: which calls are carried out once.
    idempotency: BTreeSet<ObjectKey>,
    /// By ApiRoute: which requests become events.
    publish: BTreeSet<ObjectKey>,
    /// By EventSubscription: what is carried out of it.
    subscriptions: BTreeSet<ObjectKey>,
    /// By RateLimit: what is enforced of it.
    limits: BTreeSet<ObjectKey>,
}

// === impl Dirty ===

impl Dirty {
    fn any(&self) -> bool {
        !(self.guards.is_empty()
            && self.endpoints.is_empty()
            && self.workloads.is_empty()
            && self.objects.is_empty()
            && self.access.is_empty()
            && self.caches.is_empty()
            && self.idempotency.is_empty()
            && self.publish.is_empty()
            && self.subscriptions.is_empty()
            && self.limits.is_empty())
    }
}

// === impl Compilation: what follows from Services and Pods alone ===

impl Compilation<'_> {
    fn guard(&mut self, key: &ObjectKey) {
        self.count(Kind::Guard);
        let Some(id) = resource_id(Kind::Guard, key) else {
            return;
        };
        let service = self.inputs.services.get(key);
        let service = service.filter(|service| !endpoints::is_external_name(service));
        let selector = service.and_then(|service| selector(service));
        let links = &mut self.out.memo.links;
        let selected = selector.map_or_else(BTreeSet::new, |selector| {
            links.pods_with(&key.namespace, selector, &self.inputs.pods)
        });
        let before = links.selected.set(key, selected.clone());
        let joined_or_left = before.symmetric_difference(&selected);
        self.dirty.workloads.extend(joined_or_left.cloned());
        let guarded_by = links.access.to(key).into_iter().flatten();
        self.dirty.access.extend(guarded_by.cloned());
        let cached_by = links.cached.to(key).into_iter().flatten();
        self.dirty.caches.extend(cached_by.cloned());
        let idempotent_by = links.idempotent.to(key).into_iter().flatten();
        self.dirty.idempotency.extend(idempotent_by.cloned());
        let published_by = links.published.to(key).into_iter().flatten();
        self.dirty.publish.extend(published_by.cloned());
        let subscribed_by = links.subscribed.to(key).into_iter().flatten();
        self.dirty.subscriptions.extend(subscribed_by.cloned());
        let limited_by = links.limits.to(key).into_iter().flatten();
        self.dirty.limits.extend(limited_by.cloned());

        let meshed = || {
            let pods = selected.iter();
            pods.filter_map(|key| self.inputs.pods.get_key_value(key))
                .filter(|(_, pod)| workload::is_meshed(pod))
        };
        let audience: Audience = meshed()
            .map(|(key, _)| AudienceKey::Pod(key.namespace.clone(), key.name.clone()))
            .collect();
        match service {
            Some(service) if !audience.is_empty() => {
                let pods = meshed().map(|(_, pod)| pod.as_ref());
                let declared = self.declared(key);
                let mut guard = guard::compile(key, service, declared, pods);
                guard.access = self.access_at(key);
                let capabilities: &[&str] = match guard.access.is_empty() {
                    true => &[capability::GUARD],
                    false => &[capability::GUARD, capability::GUARD_ACCESS],
                };
                self.put(id, capabilities, &guard, audience, None);
            }
            _ => self.remove(id),
        }
    }

    fn workload(&mut self, key: &ObjectKey) {
        self.count(Kind::Workload);
        let Some(id) = resource_id(Kind::Workload, key) else {
            return;
        };
        let pod = self.inputs.pods.get(key);
        let Some(pod) = pod.filter(|pod| workload::is_meshed(pod)) else {
            return self.remove(id);
        };
        let none = BTreeSet::new();
        let services = self.out.memo.links.selected.to(key).unwrap_or(&none);
        let namespace = ObjectKey::namespace(&*key.namespace);
        let namespace = self.inputs.namespaces.get(&namespace).map(Arc::as_ref);
        let settings = &self.inputs.settings;
        let workload = workload::compile(key, pod, namespace, services, settings);
        let capabilities: &[&str] = match workload.refuse_unknown {
            true => &[capability::WORKLOAD, capability::REFUSE_UNKNOWN],
            false => &[capability::WORKLOAD],
        };
        let audience = AudienceKey::Pod(key.namespace.clone(), key.name.clone());
        let audience = BTreeSet::from([audience]);
        self.put(id, capabilities, &workload, audience, None);
    }

    fn endpoints(&mut self, key: &ObjectKey) {
        self.count(Kind::Endpoints);
        let Some(id) = resource_id(Kind::Endpoints, key) else {
            return;
        };
        let service = self.inputs.services.get(key);
        let Some(service) = service.filter(|service| !endpoints::is_external_name(service)) else {
            self.out.memo.links.endpoints.set(key, BTreeSet::new());
            self.lie_in(key, BTreeSet::new());
            self.fits(key, true);
            return self.remove(id);
        };
        let declared = self.declared(key);
        let links = &mut self.out.memo.links;
        let slices = links.slices.to(key).into_iter().flatten();
        let slices = slices.filter_map(|key| self.inputs.endpoint_slices.get(key).map(Arc::as_ref));
        let pods = endpoints::pods_of(&key.namespace, slices.clone());
        let settings = &self.inputs.settings;
        let compiled = endpoints::compile(
            (key, service, declared),
            slices,
            &self.inputs.pods,
            settings,
        );
        links.endpoints.set(key, pods);
        let own = AudienceKey::Namespace(key.namespace.clone());
        let audience = BTreeSet::from([own, AudienceKey::of_service(key)]);
        let around = Around {
            addresses: endpoints::addresses(&compiled),
            ..Around::default()
        };
        let networks = around.addresses.iter().map(Network::of).collect();
        self.put_around(
            (id.clone(), &[capability::ENDPOINTS]),
            &compiled,
            audience,
            None,
            around,
        );
        self.lie_in(key, networks);
        let sent = self.out.resources.get(&id);
        let fits = sent.is_none_or(|sent| sent.resource.body.len() <= MAX_BODY_BYTES);
        self.fits(key, fits);
    }

    /// Notes whether sidecars can be sent a Service's Endpoints: what names it says so.
    fn fits(&mut self, service: &ObjectKey, fits: bool) {
        let links = &mut self.out.memo.links;
        let changed = match fits {
            true => links.oversized.remove(service),
            false => links.oversized.insert(service.clone()),
        };
        if changed {
            let mentioned_by = links.mentions.to(service).into_iter().flatten();
            self.dirty.objects.extend(mentioned_by.cloned());
        }
    }
}

// === impl Compilation: resources ===

impl Compilation<'_> {
    fn count(&mut self, kind: Kind) {
        *self.out.compiled.entry(kind).or_default() += 1;
    }

    fn put(
        &mut self,
        id: ResourceId,
        capabilities: &[&str],
        message: &impl prost::Message,
        audience: Audience,
        object: Option<ObjectRef>,
    ) {
        let around = Around::default();
        self.put_around((id, capabilities), message, audience, object, around);
    }

    fn put_around(
        &mut self,
        (id, capabilities): (ResourceId, &[&str]),
        message: &impl prost::Message,
        mut audience: Audience,
        object: Option<ObjectRef>,
        around: Around,
    ) {
        let of_service = |key: &AudienceKey| matches!(key, AudienceKey::Service(..));
        if audience.iter().any(of_service) {
            audience.insert(AudienceKey::AnyService);
        }
        let generation = self.inputs.seen_in(&id.namespace).of(id.kind);
        let mut resource = Resource::new(id.clone(), generation, capabilities, message);
        if let Some(before) = self.out.resources.get(&id) {
            let same = before.resource.hash == resource.hash;
            if same {
                resource = before.resource.clone();
            }
        }
        let compiled = Compiled {
            resource,
            audience,
            object,
            around,
        };
        let before = self.out.resources.get(&id);
        if before.is_some_and(|before| before.is_same(&compiled)) {
            return;
        }
        let before = self.out.resources.insert(id.clone(), Arc::new(compiled));
        self.before.entry(id).or_insert(before);
    }

    fn remove(&mut self, id: ResourceId) {
        if let Some(before) = self.out.resources.remove(&id) {
            self.before.entry(id).or_insert(Some(before));
        }
    }

    /// Says what has changed in the end: what was compiled a second time may be what it was.
    fn changed(&mut self) {
        for (id, before) in std::mem::take(&mut self.before) {
            let now = self.out.resources.get_mut(&id);
            match (before, now) {
                (None, None) => {}
                (Some(before), Some(now)) if before.is_same(now) => *now = before,
                (before, now) => {
                    // What was compiled a second time may say what it said before, to others.
                    if let (Some(before), Some(now)) = (before, now)
                        && before.resource.hash == now.resource.hash
                    {
                        Arc::make_mut(now).resource = before.resource.clone();
                    }
                    self.out.changed.insert(id);
                }
            }
        }
        for (object, before) in std::mem::take(&mut self.verdicts_before) {
            if self.out.verdicts.get(&object) != before.as_ref() {
                self.out.changed_verdicts.insert(object);
            }
        }
    }

    fn remove_unless(&mut self, id: ResourceId, kept: Option<&ResourceId>) {
        if Some(&id) != kept {
            self.remove(id);
        }
    }
}

fn everyone() -> Audience {
    BTreeSet::from([AudienceKey::Everyone])
}

/// `None` for an object whose namespace or name no sidecar would take as part of an id. A cluster
/// has none of those.
fn resource_id(kind: Kind, key: &ObjectKey) -> Option<ResourceId> {
    format!("{kind}/{}/{}", key.namespace, key.name)
        .parse()
        .ok()
}
