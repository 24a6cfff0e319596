//! RateLimits among all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability};

use super::objects::Read;
use super::{Compilation, resource_id};
use crate::attach::{Claim, Precedence};
use crate::inputs::{ObjectKey, ObjectRef};
use crate::output::{Audience, AudienceKey};
use crate::rate_limit::{Limits, Reader, RouteServices};

impl Compilation<'_> {
    /// A RateLimit claims nothing: several may be for one Service, and all hold. `None` when there is
    /// none.
    pub(super) fn rate_limit_claims(
        &self,
        key: &ObjectKey,
    ) -> Option<(Precedence, BTreeSet<Claim>)> {
        let metadata = &self.inputs.rate_limits.get(key)?.metadata;
        let precedence = Precedence::of(&ObjectRef::rate_limit(key), metadata, self.inputs);
        Some((precedence, BTreeSet::new()))
    }

    /// Judges a RateLimit, and notes at which Services' pods it holds.
    pub(super) fn rate_limit(&mut self, key: &ObjectKey) -> BTreeSet<Precedence> {
        let Some(limits) = self.read_limits(key) else {
            return BTreeSet::new();
        };
        let generation = self.inputs.rate_limits.get(key);
        let generation = generation.and_then(|limit| limit.metadata.generation);
        let services = limits.services();
        let read = Read {
            object: &ObjectRef::rate_limit(key),
            mentions: limits.mentions,
            targets: services.iter().cloned().collect(),
            pods: None,
            calls: BTreeSet::new(),
            lost: limits.lost,
            refusal: limits.refusal,
            unresolved: limits.unresolved,
            yields: None,
            routes: Vec::new(),
            also: resource_id(Kind::RateLimit, key).into_iter().collect(),
            in_force: Vec::new(),
            note: None,
            remedy: "",
        };
        let in_force = self.conclude_for_pods(read, generation);
        let links = &mut self.out.memo.links;
        links.limited_routes.set(key, limits.routes);
        let services = if in_force { services } else { BTreeSet::new() };
        links.limits.set(key, services);
        self.dirty.limits.insert(key.clone());
        BTreeSet::new()
    }

    /// A RateLimit is gone.
    pub(super) fn forget_rate_limit(&mut self, key: &ObjectKey) {
        let links = &mut self.out.memo.links;
        links.limits.set(key, BTreeSet::new());
        links.limited_routes.set(key, BTreeSet::new());
    }

    /// An ApiRoute has changed: so may have what the RateLimits are for that name it.
    pub(super) fn limited(&mut self, route: &ObjectKey) {
        let limited_by = self.out.memo.links.limited_routes.to(route);
        let limited_by = limited_by.into_iter().flatten().map(ObjectRef::rate_limit);
        self.dirty.objects.extend(limited_by);
    }

    /// Compiles a RateLimit for the pods where it is enforced.
    pub(super) fn limits(&mut self, key: &ObjectKey) {
        self.count(Kind::RateLimit);
        let Some(id) = resource_id(Kind::RateLimit, key) else {
            return;
        };
        let services = self.out.memo.links.limits.from(key);
        let services = services.filter(|services| !services.is_empty());
        let Some((limits, services)) = self.read_limits(key).zip(services) else {
            return self.remove(id);
        };
        let audience = match limits.is_outside() {
            // Who may call it is not known before it does; whoever delivers the namespace's events may.
            true => {
                let mut all = Audience::from([AudienceKey::Namespace(key.namespace.clone())]);
                if self.delivers_outside(&key.namespace) {
                    all.extend(self.carriers());
                }
                all
            }
            false => self.pods_of(services),
        };
        if audience.is_empty() {
            return self.remove(id);
        }
        let capabilities = [
            Some(capability::RATE_LIMIT),
            limits
                .sent
                .store
                .as_ref()
                .map(|_| capability::RATE_LIMIT_SHARED),
            limits
                .is_outside()
                .then_some(capability::RATE_LIMIT_OUTSIDE),
        ];
        let capabilities = Vec::from_iter(capabilities.into_iter().flatten());
        let object = Some(ObjectRef::rate_limit(key));
        self.put(id, &capabilities, &limits.sent, audience, object);
    }

    /// Reads a RateLimit; `None` when there is none.
    fn read_limits(&self, key: &ObjectKey) -> Option<Limits> {
        let services_of = |route: &ObjectKey| self.services_of(route);
        let reader = Reader {
            key,
            spec: &self.inputs.rate_limits.get(key)?.spec,
            services: &self.inputs.services,
            suggestions: &self.suggestions,
            credentials: &self.inputs.credentials,
            unreadable: &self.inputs.unreadable,
            settings: &self.inputs.settings,
            services_of: &services_of,
        };
        Some(reader.limits())
    }

    /// The Services of its own namespace that an ApiRoute is for: those of its hosts, and those that
    /// its rules send to.
    fn services_of(&self, route: &ObjectKey) -> RouteServices {
        let reader = self.route_reader(route)?;
        let hosts = reader.hosts().services;
        let all = hosts.into_iter().chain(reader.sends_to());
        Some(all.filter(|one| one.namespace == route.namespace).collect())
    }
}
