//! One compilation: what differs from before, who depends on that, and those compiled again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::status::{ConditionType, Reason};
use wire::resource::MAX_BODY_BYTES;
use wire::{Kind, Resource, ResourceId, capability, mesh};

use crate::api_route::{Hosts, Reader, Refusal, filters};
use crate::attach::{Claim, Precedence};
use crate::host::Suggestions;
use crate::index::{Neighbourhood, selector};
use crate::inputs::{Inputs, ObjectKey, ObjectRef};
use crate::output::{Audience, AudienceKey, Compiled, Output};
use crate::verdict::{Condition, Verdict};
use crate::{endpoints, guard, workload};

mod differs;

/// Compiles `inputs`, given what was compiled before (`Output::default()` at first). The resources
/// and verdicts are the same as from scratch, but for generations: a resource keeps the one it had
/// when its content last changed.
pub fn compile(inputs: &Inputs, before: Output) -> Output {
    let mut compilation = Compilation {
        inputs,
        out: before,
        dirty: Dirty::default(),
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
    compilation.api_routes();
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
    compilation.routes();
    compilation.out
}

/// The schema's bound of `status.target`: with a longer one the API server refuses the status.
const MAX_TARGET_BYTES: usize = 4096;

struct Compilation<'a> {
    inputs: &'a Inputs,
    out: Output,
    dirty: Dirty,
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
    /// By ApiRoute.
    routes: BTreeSet<ObjectKey>,
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
                let guard = guard::compile(key, service, meshed().map(|(_, pod)| pod.as_ref()));
                self.put(id, &[capability::GUARD], &guard, audience, None);
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
            self.fits(key, true);
            return self.remove(id);
        };
        let links = &mut self.out.memo.links;
        let slices = links.slices.to(key).into_iter().flatten();
        let slices = slices.filter_map(|key| self.inputs.endpoint_slices.get(key).map(Arc::as_ref));
        let pods = endpoints::pods_of(&key.namespace, slices.clone());
        let settings = &self.inputs.settings;
        let compiled = endpoints::compile(key, service, slices, &self.inputs.pods, settings);
        links.endpoints.set(key, pods);
        self.put(
            id.clone(),
            &[capability::ENDPOINTS],
            &compiled,
            everyone(),
            None,
        );
        let sent = self.out.resources.get(&id);
        let fits = sent.is_none_or(|sent| sent.resource.body.len() <= MAX_BODY_BYTES);
        self.fits(key, fits);
    }

    /// Notes whether sidecars can be sent a Service's Endpoints: the ApiRoutes that name it say so.
    fn fits(&mut self, service: &ObjectKey, fits: bool) {
        let links = &mut self.out.memo.links;
        let changed = match fits {
            true => links.oversized.remove(service),
            false => links.oversized.insert(service.clone()),
        };
        if changed {
            let mentioned_by = links.mentions.to(service).into_iter().flatten();
            self.dirty.routes.extend(mentioned_by.cloned());
        }
    }
}

// === impl Compilation: what people wrote ===

impl Compilation<'_> {
    fn routes(&mut self) {
        // The oldest first: whether a younger one is in force depends on the older ones.
        let mut undecided: BTreeSet<Precedence> = BTreeSet::new();
        while let Some(key) = self.dirty.routes.pop_first() {
            let claims = self.reader(&key).map(|reader| {
                let route = &self.inputs.api_routes[&key];
                let precedence = Precedence::of(&key, route, self.inputs);
                (precedence, claims(&key, &reader.hosts()))
            });
            if claims.is_none() {
                self.forget(&key);
            }
            undecided.extend(self.out.memo.attachments.claim(&key, claims));
        }
        while let Some(Precedence { key, .. }) = undecided.pop_first() {
            undecided.extend(self.route(&key));
        }
    }

    /// Compiles an ApiRoute; answers the younger ones whose case this changes.
    fn route(&mut self, key: &ObjectKey) -> BTreeSet<Precedence> {
        self.count(Kind::Route);
        let Some(reader) = self.reader(key) else {
            return BTreeSet::new();
        };
        let hosts = reader.hosts();
        let rules = reader.rules(&hosts.services);
        let links = &mut self.out.memo.links;
        let mut mentions = rules.services;
        mentions.extend(hosts.services.iter().cloned());
        let oversized = mentions.intersection(&links.oversized).map(oversized);
        let unresolved = Refusal::all(rules.refusal.into_iter().chain(oversized).collect());
        links.mentions.set(key, mentions);
        let lost = hosts.lost.iter().chain(&rules.lost);
        links
            .lost
            .set(key, lost.flat_map(Neighbourhood::of).collect());

        let id = resource_id(Kind::Route, key);
        let (affected, conflict) = self.out.memo.attachments.decide(key);
        let refusal = hosts.refusal.or_else(|| {
            let conflict = conflict?;
            let wins = match conflict.by_age {
                true => "is older",
                false => "comes first",
            };
            Some(Refusal {
                reason: Reason::Conflicted,
                message: format!(
                    "ApiRoute {} {wins} and already governs {}: put the rules of both into one of \
                     them, or take the host out of this one.",
                    conflict.winner, conflict.claim
                ),
            })
        });
        let refusal = refusal.or_else(|| {
            id.is_none().then(|| Refusal {
                reason: Reason::Invalid,
                message: "metadata.name or metadata.namespace is no valid name.".to_owned(),
            })
        });

        let object = ObjectRef::api_route(key);
        let namespace = hosts.services.first().map(|host| &host.namespace);
        let consumer = namespace.is_some_and(|namespace| *namespace != key.namespace);
        let mut resources = Vec::new();
        match (id, &refusal) {
            (Some(id), None) => {
                resources.push(id.clone());
                let mut capabilities = crate::api_route::capabilities(&rules.rules);
                capabilities.extend(filters::needed(&rules.rules));
                let route = mesh::Route {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    services: hosts
                        .services
                        .iter()
                        .map(crate::api_route::service_ref)
                        .collect(),
                    rules: rules.rules,
                    consumer,
                };
                let audience = match consumer {
                    true => BTreeSet::from([AudienceKey::Namespace(key.namespace.clone())]),
                    false => everyone(),
                };
                self.put(id, &capabilities, &route, audience, Some(object.clone()));
            }
            (Some(id), Some(_)) => self.remove(id),
            (None, _) => {}
        }
        let generation = self.inputs.api_routes[key].metadata.generation;
        self.decided(Verdict {
            object,
            generation: generation.unwrap_or_default(),
            target: target(&hosts.services),
            conditions: vec![
                condition(ConditionType::Accepted, Reason::Accepted, refusal),
                condition(
                    ConditionType::ResolvedRefs,
                    Reason::ResolvedRefs,
                    unresolved,
                ),
            ],
            resources,
        });
        affected
    }

    fn reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        Some(Reader {
            key,
            spec: &self.inputs.api_routes.get(key)?.spec,
            services: &self.inputs.services,
            suggestions: &self.suggestions,
            settings: &self.inputs.settings,
        })
    }

    /// The ApiRoute is gone.
    fn forget(&mut self, key: &ObjectKey) {
        let links = &mut self.out.memo.links;
        links.mentions.set(key, BTreeSet::new());
        links.lost.set(key, BTreeSet::new());
        if let Some(id) = resource_id(Kind::Route, key) {
            self.remove(id);
        }
        let object = ObjectRef::api_route(key);
        if self.out.verdicts.remove(&object).is_some() {
            self.out.changed_verdicts.insert(object);
        }
    }

    fn decided(&mut self, verdict: Verdict) {
        if self.out.verdicts.get(&verdict.object) != Some(&verdict) {
            self.out.changed_verdicts.insert(verdict.object.clone());
            self.out.verdicts.insert(verdict.object.clone(), verdict);
        }
    }
}

/// What an ApiRoute with these hosts claims; nothing when they are refused.
fn claims(key: &ObjectKey, hosts: &Hosts) -> BTreeSet<Claim> {
    let services = match hosts.refusal {
        None => hosts.services.as_slice(),
        Some(_) => &[],
    };
    services
        .iter()
        .map(|service| Claim {
            service: service.clone(),
            consumer: (service.namespace != key.namespace).then(|| key.namespace.clone()),
        })
        .collect()
}

/// What is wrong with a Service whose Endpoints are too large to be sent.
fn oversized(service: &ObjectKey) -> Refusal {
    let ObjectKey { namespace, name } = service;
    Refusal {
        reason: Reason::TooManyEndpoints,
        message: format!(
            "Service {name:?} in namespace {namespace} has more endpoints than the {MAX_BODY_BYTES} \
             bytes hold that a sidecar is sent of one Service: sidecars keep those that they have \
             had, or none. Spread its pods over several Services, or remove ports from it."
        ),
    }
}

/// The Services, as many as a status holds.
fn target(services: &[ObjectKey]) -> String {
    let names = services
        .iter()
        .map(|service| format!("{}.{}", service.name, service.namespace));
    let mut names = Vec::from_iter(names);
    let mut target = names.join(", ");
    while target.len() > MAX_TARGET_BYTES && names.pop().is_some() {
        let more = services.len() - names.len();
        target = format!("{} and {more} more", names.join(", "));
    }
    target
}

fn condition(type_: ConditionType, good: Reason, refusal: Option<Refusal>) -> Condition {
    match refusal {
        None => Condition::holds(type_, good),
        Some(Refusal { reason, message }) => Condition::fails(type_, reason, message),
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
        let generation = self.inputs.seen.of(id.kind);
        let mut resource = Resource::new(id.clone(), generation, capabilities, message);
        if let Some(before) = self.out.resources.get(&id) {
            let same = before.resource.hash == resource.hash;
            if same && before.audience == audience && before.object == object {
                return;
            }
            if same {
                resource = before.resource.clone();
            }
        }
        let compiled = Compiled {
            resource,
            audience,
            object,
        };
        self.out.changed.insert(id.clone());
        self.out.resources.insert(id, Arc::new(compiled));
    }

    fn remove(&mut self, id: ResourceId) {
        if self.out.resources.remove(&id).is_some() {
            self.out.changed.insert(id);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shortened_to_what_a_status_holds() {
        let schema = crds::schema::of_kind("ApiRoute").unwrap();
        let most = schema.pointer("/properties/status/properties/target/maxLength");
        assert_eq!(most.unwrap(), MAX_TARGET_BYTES);

        let namespace = "n".repeat(63);
        let service = |number| ObjectKey::new(&*namespace, format!("{number:0253}"));
        let services: Vec<ObjectKey> = (0..16).map(service).collect();
        let shortened = target(&services);
        assert!(shortened.len() <= MAX_TARGET_BYTES, "{}", shortened.len());
        assert!(shortened.ends_with(&format!(".{namespace} and 4 more")));
        assert_eq!(shortened.matches(", ").count(), 11);

        let few = [ObjectKey::new("shop", "a"), ObjectKey::new("shop", "b")];
        assert_eq!(target(&few), "a.shop, b.shop");
    }
}
