//! ApiRoutes among all that is compiled.

use std::collections::BTreeSet;

use wire::mesh::{self, Protocol};
use wire::{Kind, capability};

use super::objects::{Place, Read, claims};
use super::{Compilation, resource_id};
use crate::api_route::layers::{Layer, Layers, that_lead_to};
use crate::api_route::{self, Reader, Refusal, filters};
use crate::attach::{Claim, Of, Precedence};
use crate::inputs::{ObjectKey, ObjectRef};

/// What becomes of calls that are to be carried out once, when the object is not in force.
const CARRIED_OUT_ONCE: &str =
    "What it says of calls that are carried out once is enforced all the same.";
/// What to do about a conflict of two.
const REMEDY: &str = "put the rules of both into one of them, or take the host out of this one.";

impl Compilation<'_> {
    /// What an ApiRoute claims; `None` when there is none.
    pub(super) fn route_claims(&self, key: &ObjectKey) -> Option<(Precedence, BTreeSet<Claim>)> {
        let hosts = self.route_hosts(key)?;
        let metadata = &self.inputs.api_routes.get(key)?.metadata;
        let precedence = Precedence::of(&ObjectRef::api_route(key), metadata, self.inputs);
        let mut claims = claims(key, &hosts.services, hosts.refusal.as_ref());
        if !self.route_reader(key)?.reads_requests() {
            let of_connections = |claim| Claim {
                of: Of::Connections,
                ..claim
            };
            claims = claims.into_iter().map(of_connections).collect();
        }
        Some((precedence, claims))
    }

    /// Compiles an ApiRoute; answers the younger ones whose case this changes.
    pub(super) fn route(&mut self, key: &ObjectKey) -> BTreeSet<Precedence> {
        self.count(Kind::Route);
        let (Some(reader), Some(hosts)) = (self.route_reader(key), self.route_hosts(key)) else {
            return BTreeSet::new();
        };
        let rules = reader.rules(&hosts.services);
        let named = hosts.services.iter().cloned().collect();
        let generation = self.inputs.api_routes.get(key);
        let generation = generation.and_then(|route| route.metadata.generation);
        let mut mentions = rules.services;
        mentions.extend(hosts.services.iter().cloned());
        let leads = reader.leads(&hosts.services);
        let guarded = self.guards(key, &hosts.services).unwrap_or_default();
        mentions.extend(guarded.services.iter().cloned());
        let cached = self.cached_at(key, &hosts);
        let yields = self.yielded(key, &cached);
        let keeps_some = cached.len() > yields.len();
        let idempotent = self.idempotent_at(key, &hosts);
        let idempotency = self.idempotency_reader(key);
        let unresolved = rules.refusal.into_iter().chain(guarded.unusable);
        let unresolved = unresolved.chain(idempotency.and_then(|one| one.unresolved()));
        let unresolved = unresolved.chain(self.not_enforced(key));
        let published = self.published_at(key, &hosts);
        let publish = self.publish_reader(key);
        let unresolved = unresolved.chain(publish.iter().flat_map(|one| one.unresolved()));
        let mut also = guarded.resources;
        if !idempotent.is_empty() {
            also.extend(resource_id(Kind::Idempotency, key));
        }
        let read = Read {
            object: &ObjectRef::api_route(key),
            targets: hosts.services,
            pods: None,
            routes: Vec::new(),
            mentions,
            calls: self.hosts_of(&leads),
            lost: &hosts.lost | &rules.lost,
            refusal: hosts.refusal,
            unresolved: Refusal::all(unresolved.collect()),
            yields: Refusal::all(yields),
            also,
            in_force: {
                let cache = resource_id(Kind::Cache, key).filter(|_| keeps_some);
                let publish = resource_id(Kind::Publish, key).filter(|_| !published.is_empty());
                cache.into_iter().chain(publish).collect()
            },
            note: match (guarded.note, idempotent.is_empty()) {
                (None, false) => Some(CARRIED_OUT_ONCE),
                (note, _) => note,
            },
            remedy: REMEDY,
        };
        let layer = Layer::of(key, reader.spec, reader.reads_requests(), reader.settings);
        let keeps = reader.spec.cache.is_some();
        let at_caller = self.cache_at_caller(key);
        let idempotency_key =
            idempotency.map_or_else(String::new, |one| one.written.header.to_ascii_lowercase());
        let says = (reader.declares(), read.targets.clone());
        let (rules, connections) = (rules.rules, rules.connections);
        let affected = self.conclude(read, generation, |Place { consumer, services }| {
            let mut capabilities = api_route::capabilities(&rules);
            let mut backends = rules.iter().flat_map(|rule| &rule.backends);
            if backends.any(|backend| backend.route.is_some()) {
                capabilities.push(capability::ROUTE_LAYERS);
            }
            capabilities.extend(filters::needed(&rules));
            if !connections.is_empty() {
                capabilities.push(capability::ROUTE_CONNECTIONS);
            }
            let route = mesh::Route {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                services,
                rules,
                connections,
                consumer,
                cached: keeps,
                cache_at_caller: at_caller,
                idempotency_key,
            };
            (capabilities, route)
        });
        self.declare(key, says);
        self.guarded(key, guarded.services);
        self.cached(key, cached);
        self.idempotent(key, idempotent);
        self.published(key, published);
        let layer = layer.filter(|_| self.is_in_force(key));
        self.lead(key, Some(layer), leads);
        self.named(key, named);
        self.limited(key);
        affected
    }

    /// Notes where an ApiRoute leads, and what it is to those that lead to it: they are compiled
    /// again when that changes. `layer` has nothing in it for one that is not in force, and is
    /// nothing for one that is gone.
    fn lead(&mut self, key: &ObjectKey, layer: Option<Option<Layer>>, leads: BTreeSet<ObjectKey>) {
        let memo = &mut self.out.memo;
        let before = match layer.clone() {
            Some(layer) => memo.layers.insert(key.clone(), layer),
            None => memo.layers.remove(key),
        };
        let led = memo.links.leads.set(key, leads.clone());
        if before != layer || led != leads {
            let leading = that_lead_to(key, &memo.links.leads);
            let leading = leading.iter().map(ObjectRef::api_route);
            self.dirty.objects.extend(leading);
        }
    }

    /// Notes which Services an ApiRoute's hosts name. Who receives what is told by it: policies for it
    /// go to the callers of those, and callers of what leads to it need them.
    fn named(&mut self, key: &ObjectKey, services: BTreeSet<ObjectKey>) {
        let links = &mut self.out.memo.links;
        if links.hosts.set(key, services.clone()) == services {
            return;
        }
        let policies = links.governed.to(key).into_iter().flatten();
        self.dirty
            .objects
            .extend(policies.map(ObjectRef::retry_policy));
        let leading = links.leads.to(key).into_iter().flatten();
        self.dirty.objects.extend(leading.map(ObjectRef::api_route));
    }

    /// The Services behind ApiRoutes.
    fn hosts_of(&self, routes: &BTreeSet<ObjectKey>) -> BTreeSet<ObjectKey> {
        let hosts = &self.out.memo.links.hosts;
        let hosts = routes.iter().filter_map(|route| hosts.from(route));
        hosts.flatten().cloned().collect()
    }

    pub(super) fn is_in_force(&self, key: &ObjectKey) -> bool {
        let id = resource_id(Kind::Route, key);
        id.is_some_and(|id| self.out.resources.contains_key(&id))
    }

    /// Notes what an ApiRoute says that undeclared ports of its Services carry, if it is in force
    /// and theirs to say: for everybody, only an object of the Services' own namespace speaks.
    fn declare(&mut self, key: &ObjectKey, (says, services): (Option<Protocol>, Vec<ObjectKey>)) {
        let says = says.filter(|_| self.is_in_force(key));
        let own = services.into_iter();
        let own = own.filter(|service| says.is_some() && service.namespace == key.namespace);
        let own: BTreeSet<_> = own.collect();
        let memo = &mut self.out.memo;
        let before = match says {
            Some(says) => memo.declared.insert(key.clone(), says),
            None => memo.declared.remove(key),
        };
        let declared = memo.links.declares.set(key, own.clone());
        let changed: BTreeSet<_> = match before == says {
            true => declared.symmetric_difference(&own).cloned().collect(),
            false => declared.union(&own).cloned().collect(),
        };
        self.dirty.guards.extend(changed.iter().cloned());
        self.dirty.endpoints.extend(changed);
    }

    /// An ApiRoute is gone, and so is what it said.
    pub(super) fn forget_route(&mut self, key: &ObjectKey) {
        self.declare(key, (None, Vec::new()));
        self.guarded(key, BTreeSet::new());
        self.cached(key, BTreeSet::new());
        self.idempotent(key, BTreeSet::new());
        self.published(key, BTreeSet::new());
        self.lead(key, None, BTreeSet::new());
        self.named(key, BTreeSet::new());
        self.limited(key);
    }

    /// What ports of a Service carry that declare nothing: what its ApiRoutes say, if they agree.
    pub(super) fn declared(&self, service: &ObjectKey) -> Option<Protocol> {
        let memo = &self.out.memo;
        let routes = memo.links.declares.to(service).into_iter().flatten();
        let mut said = routes.filter_map(|route| memo.declared.get(route).copied());
        let first = said.next()?;
        said.all(|other| other == first).then_some(first)
    }

    pub(super) fn route_reader<'k>(&'k self, key: &'k ObjectKey) -> Option<Reader<'k>> {
        Some(Reader {
            key,
            spec: &self.inputs.api_routes.get(key)?.spec,
            services: &self.inputs.services,
            suggestions: &self.suggestions,
            settings: &self.inputs.settings,
            layers: Layers {
                written: &self.inputs.api_routes,
                leads: &self.out.memo.links.leads,
                in_force: &self.out.memo.layers,
            },
        })
    }
}
