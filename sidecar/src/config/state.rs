//! The state that requests read: immutable, linked, shared by all workers.

mod policies;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;

use super::access::{Access, Enforced, Keys};
use super::addresses;
use super::guard::{Guard, Workload};
use super::lookup::{Answer, Answers, Networks};
use super::outside::Outside;
use super::rate_limit::{Limited, RateLimit};
use super::retry_policy::RetryPolicy;
use super::route::Route;
use super::service::{Endpoint, Port, Protocol, Service, ServiceKey};
use crate::policy::authentication::issuer::IssuerKeys;
use crate::policy::cache::Cache;
use crate::policy::idempotency::Idempotency;
use policies::Policies;

/// Everything that the sidecar was told, built and linked.
#[derive(Debug, Default)]
pub struct State {
    /// Built resources by id, as they were sent.
    pub built: Built,
    /// Counts the states of this process, from 1; 0 is before the first.
    pub number: u64,
    /// Where an address leads: a virtual one, or a pod's own.
    by_address: HashMap<SocketAddr, Called>,
    /// Virtual addresses with any port: a call to a port that the Service lacks is not a call to
    /// the outside.
    virtual_addresses: HashMap<IpAddr, ServiceKey>,
    /// Addresses that some Service's endpoint has.
    endpoint_addresses: HashSet<IpAddr>,
    by_host: HashMap<String, Arc<Service>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    routes: HashMap<ServiceKey, Arc<Route>>,
    /// Those that are about connections whose bytes nobody reads.
    connections: HashMap<ServiceKey, Arc<Route>>,
    /// What callers do when what they call fails.
    pub policies: Policies,
    /// What is called outside the cluster within limits.
    pub outside: Outside,
    /// What was asked about.
    pub answers: Answers,
    inbound: Inbound,
}

/// Built resources by id. Cloning copies pointers.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// `endpoints/…`
    pub services: HashMap<String, Arc<Service>>,
    /// `route/…`
    pub routes: HashMap<String, Arc<Route>>,
    /// `retry-policy/…`
    pub retry_policies: HashMap<String, Arc<RetryPolicy>>,
    /// `rate-limit/…`
    pub rate_limits: HashMap<String, Arc<RateLimit>>,
    /// `access/…`
    pub access: HashMap<String, Arc<Access>>,
    /// `cache/…`
    pub caches: HashMap<String, Arc<Cache>>,
    /// `idempotency/…`
    pub idempotency: HashMap<String, Arc<Idempotency>>,
    /// `keys/…`
    pub keys: HashMap<String, Arc<Keys>>,
    /// `guard/…`
    pub guards: HashMap<String, Arc<Guard>>,
    /// `workload/…`: the own one.
    pub workload: Option<Arc<Workload>>,
    /// `identity/…`: trust bundle roots, DER.
    pub roots: Option<Arc<Vec<Vec<u8>>>>,
    /// `networks/…`
    pub networks: Option<Arc<Networks>>,
    /// `lookup/…`
    pub answers: HashMap<String, Arc<Answer>>,
}

/// A Service and the port of it that was called.
#[derive(Clone, Debug)]
pub struct Called {
    /// The Service.
    pub service: Arc<Service>,
    /// Its port.
    pub port: Arc<Port>,
    /// Which of the port's endpoints, when it was called by its own address.
    pub place: Option<usize>,
}

/// Which ports of the own application are served.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Every Guard of the complete set is held.
    complete: bool,
    ports: HashMap<u16, Served>,
}

/// A port that a Guard covers.
#[derive(Clone, Debug)]
pub struct Served {
    /// The Guard.
    pub guard: Arc<Guard>,
    /// How its bytes are read.
    pub protocol: Protocol,
    /// Whether it takes plaintext beside mutual TLS.
    pub permissive: bool,
    /// What says who may enter with a request.
    requests: Arc<[Enforced]>,
    /// What says who may enter with a connection whose bytes nobody reads.
    connections: Arc<[Enforced]>,
    /// Who may enter can only be told of a request.
    reads_requests: bool,
    /// What says which answers are kept.
    cache: Option<Arc<Cache>>,
    /// What says which calls are carried out once, the first by name first.
    idempotency: Arc<[Arc<Idempotency>]>,
    /// How much callers may use. One that has not come limits nothing.
    limits: Arc<[Limited]>,
    /// Something that says who may enter has not come.
    lacks: bool,
}

/// Why a port is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// The complete set of Guards is not held yet.
    Incomplete,
    /// No Guard covers it.
    NoGuard,
}

// === impl State ===

impl State {
    /// Links what was built.
    pub fn link(built: Built) -> Self {
        let mut state = Self::default();
        for service in built.services.values() {
            state.link_service(service);
        }
        let own = built.workload.as_ref().map(|own| &*own.namespace);
        addresses::link(&mut state.by_address, built.services.values(), own);
        let own_namespace = built.workload.as_ref().map(|own| own.namespace.clone());
        if let Some(own) = own_namespace.as_deref() {
            // The bare name of a Service means the one of the own namespace.
            for service in built.services.values() {
                let (namespace, name) = service.key.parts();
                if namespace == own {
                    state.by_host.insert(name.to_owned(), service.clone());
                }
            }
        }
        for route in built.routes.values() {
            let routes = match route.governs_connections() {
                true => &mut state.connections,
                false => &mut state.routes,
            };
            for service in &route.services {
                let held = routes.get(service);
                if held.is_none_or(|other| route.consumer && !other.consumer) {
                    routes.insert(service.clone(), route.clone());
                }
            }
        }
        state.policies = Policies::link(built.retry_policies.values(), &state.routes);
        state.outside = Outside::link(&built.rate_limits);
        state.answers = Answers::link(built.networks.as_ref(), built.answers.values());
        state.inbound = Inbound::link(&built);
        state.built = built;
        state
    }

    fn link_service(&mut self, service: &Arc<Service>) {
        for host in &service.hosts {
            self.by_host.insert(host.clone(), service.clone());
        }
        for address in &service.addresses {
            self.virtual_addresses.insert(*address, service.key.clone());
            for port in &service.ports {
                let called = Called {
                    service: service.clone(),
                    port: port.clone(),
                    place: None,
                };
                self.by_address
                    .insert(SocketAddr::new(*address, port.number), called);
            }
        }
        let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
        self.endpoint_addresses
            .extend(endpoints.map(|endpoint| endpoint.address.ip()));
        self.services.insert(service.key.clone(), service.clone());
    }

    /// What an address means: a Service, or one endpoint of it.
    pub fn called(&self, address: SocketAddr) -> Option<&Called> {
        self.by_address.get(&address)
    }

    /// Whether an address belongs to a Service, whatever the port.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.virtual_addresses.contains_key(&address)
    }

    /// Whether an address is an endpoint's own.
    pub fn is_endpoint(&self, address: IpAddr) -> bool {
        self.endpoint_addresses.contains(&address)
    }

    /// The Service that a host name means, for explicit proxying. `host` without port.
    pub fn named(&self, host: &str) -> Option<&Arc<Service>> {
        match self.by_host.get(host) {
            None => self.by_host.get(&host.to_ascii_lowercase()),
            found => found,
        }
    }

    /// A Service by key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Every Service.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The route that governs calls to a Service, if there is one.
    pub fn route(&self, service: &ServiceKey) -> Option<&Arc<Route>> {
        self.routes.get(service)
    }

    /// The route that governs connections to a Service whose bytes nobody reads, if there is one.
    pub fn connections(&self, service: &ServiceKey) -> Option<&Arc<Route>> {
        self.connections.get(service)
    }

    /// An ApiRoute, by `namespace/name`.
    pub fn named_route(&self, object: &str) -> Option<&Arc<Route>> {
        self.built.routes.get(&format!("route/{object}"))
    }

    /// Who may enter at a port of the own application.
    ///
    /// # Errors
    /// When the port must refuse, and why.
    pub fn served(&self, port: u16) -> Result<&Served, NotServed> {
        if !self.inbound.complete {
            return Err(NotServed::Incomplete);
        }
        match self.inbound.ports.get(&port) {
            Some(served) if served.lacks => Err(NotServed::Incomplete),
            Some(served) => Ok(served),
            None => Err(NotServed::NoGuard),
        }
    }

    /// The keys of every issuer of tokens.
    pub fn issuer_keys(&self) -> impl Iterator<Item = &Arc<IssuerKeys>> {
        let access = self.built.access.values();
        let asking = access.filter_map(|access| access.authentication.as_ref());
        asking.flat_map(|asking| asking.issuers().iter().map(|issuer| &issuer.keys))
    }

    /// Whether the own application may not call addresses that mean nothing here.
    pub fn refuses_unknown(&self) -> bool {
        let own = self.built.workload.as_ref();
        own.is_some_and(|own| own.refuse_unknown)
    }

    /// Whether the complete set of Guards is held.
    pub fn is_complete(&self) -> bool {
        self.inbound.complete
    }
}

// === impl Called ===

impl Called {
    /// The endpoint that was called by its own address; `None` for a virtual address.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.port.endpoints.get(self.place?)
    }
}

// === impl Served ===

impl Served {
    /// What says who may enter with a request.
    pub fn for_requests(&self) -> &[Enforced] {
        &self.requests
    }

    /// What says who may enter with a connection whose bytes nobody reads.
    pub fn for_connections(&self) -> &[Enforced] {
        &self.connections
    }

    /// What says which answers to requests are kept.
    pub fn cache(&self) -> Option<&Arc<Cache>> {
        let cache = self.cache.as_ref();
        cache.filter(|_| self.protocol != Protocol::Tcp)
    }

    /// What says that a request is carried out once: of several ApiRoutes that do, the first by name.
    pub fn idempotency(&self, head: &Parts) -> Option<&Arc<Idempotency>> {
        self.idempotency.iter().find(|one| one.is_about(head))
    }

    /// What says which calls are carried out once.
    pub fn carries_out_once(&self) -> &[Arc<Idempotency>] {
        &self.idempotency
    }

    /// How much callers may use.
    pub fn limits(&self) -> &[Limited] {
        &self.limits
    }

    /// Whether who may enter can only be told of a request.
    pub fn reads_requests(&self) -> bool {
        self.reads_requests
    }
}

// === impl Inbound ===

/// A port, while what is said of it is gathered.
struct Gathered<'b> {
    served: Served,
    requests: BTreeSet<&'b str>,
    connections: BTreeSet<&'b str>,
    /// Whose port it is.
    services: BTreeSet<&'b str>,
}

impl<'b> Gathered<'b> {
    /// Takes in what one Service says of the port: a Guard names what must be there, and what is there
    /// names its Services, so that it holds as soon as it comes.
    fn add(&mut self, built: &'b Built, guard: &'b Guard, protocol: Protocol) {
        // By whichever Service's name a pod is called, all that is said of it holds; of how its bytes
        // are read, what lets most be enforced.
        let is_http = |protocol| matches!(protocol, Protocol::Http | Protocol::Http2);
        let rank = |protocol| match protocol {
            Protocol::Http => 3,
            Protocol::Http2 => 2,
            Protocol::Detect => 1,
            Protocol::Tcp => 0,
        };
        if rank(protocol) > rank(self.served.protocol) {
            self.served.protocol = protocol;
        }
        let here = |(_, access): &(&String, &Arc<Access>)| {
            let mut services = access.services.iter();
            services.any(|service| *service.text() == guard.service)
        };
        let named = guard.access.iter().filter_map(|id| {
            let held = built.access.get_key_value(id);
            self.served.lacks |= held.is_none();
            held
        });
        let held = built.access.iter().filter(here).chain(named);
        let (connections, requests): (Vec<_>, Vec<_>) =
            held.partition(|(_, access)| access.connections);
        let ids = |held: &[(&'b String, _)]| held.iter().map(|(id, _)| id.as_str()).collect();
        let (connections, requests): (BTreeSet<_>, BTreeSet<_>) =
            (ids(&connections), ids(&requests));
        // Where there is a rule for requests and none for connections, bytes that nobody reads would
        // pass it by, whatever the port is declared.
        self.served.reads_requests |=
            !requests.is_empty() && (protocol != Protocol::Tcp || connections.is_empty());
        // Whoever sends a request to a port for connections is a caller like any other. On a port
        // declared HTTP with rules of its own, those for connections are about other ports.
        if requests.is_empty() || !is_http(protocol) {
            self.requests.extend(&connections);
        }
        self.requests.extend(requests);
        self.connections.extend(connections);
    }

    fn served(self, built: &Built) -> Served {
        let enforced = |ids: &BTreeSet<&str>| {
            let held = ids.iter().filter_map(|id| built.access.get(*id));
            let enforced = held.map(|access| Enforced {
                access: access.clone(),
                keys: built.keys.get(&format!("keys/{}", access.object)).cloned(),
            });
            enforced.collect::<Arc<[_]>>()
        };
        Served {
            requests: enforced(&self.requests),
            connections: enforced(&self.connections),
            limits: Inbound::limits(built, &self.services),
            idempotency: Inbound::idempotency(built, &self.services),
            ..self.served
        }
    }
}

impl Inbound {
    /// What says which answers of a Service's pods are kept; of several ApiRoutes that do, the first by
    /// name.
    fn cache(built: &Built, guard: &Guard) -> Option<Arc<Cache>> {
        let caches = built.caches.values().filter(|cache| {
            let mut services = cache.services.iter();
            services.any(|service| *service.text() == guard.service)
        });
        let caches = caches.map(|cache| Some(cache.clone()));
        caches.fold(None, first_of)
    }

    /// What says which calls by these Services' names are carried out once.
    fn idempotency(built: &Built, services: &BTreeSet<&str>) -> Arc<[Arc<Idempotency>]> {
        let mut all = Vec::from_iter(built.idempotency.values().filter(|one| {
            let mut at = one.services.iter();
            at.any(|service| services.contains(&**service.text()))
        }));
        all.sort_by(|one, other| one.object.cmp(&other.object));
        all.into_iter().cloned().collect()
    }

    /// What limits calls by these Services' names.
    fn limits(built: &Built, services: &BTreeSet<&str>) -> Arc<[Limited]> {
        // By id, so that who refuses does not depend on the order sent.
        let all: BTreeMap<_, _> = built.rate_limits.iter().collect();
        let limited = all.into_values().filter_map(|rate_limit| {
            let target = services.iter().find_map(|one| rate_limit.target(one))?;
            Some(Limited {
                rate_limit: rate_limit.clone(),
                target: target.clone(),
            })
        });
        limited.collect()
    }

    fn link(built: &Built) -> Self {
        let Some(workload) = &built.workload else {
            return Self::default();
        };
        let mut ids: Vec<_> = workload.guards.iter().collect();
        // Two Services may cover one port; which one labels it must not depend on the order sent.
        ids.sort_unstable();
        let mut ports: HashMap<u16, Gathered<'_>> = HashMap::new();
        for id in ids {
            let Some(guard) = built.guards.get(id) else {
                return Self::default();
            };
            let cache = Self::cache(built, guard);
            for (port, protocol) in &guard.ports {
                let first = || Gathered {
                    served: Served {
                        guard: guard.clone(),
                        protocol: *protocol,
                        permissive: workload.takes_plaintext(*port),
                        requests: Arc::default(),
                        connections: Arc::default(),
                        reads_requests: false,
                        cache: None,
                        idempotency: Arc::default(),
                        limits: Arc::default(),
                        lacks: false,
                    },
                    requests: BTreeSet::new(),
                    connections: BTreeSet::new(),
                    services: BTreeSet::new(),
                };
                let gathered = ports.entry(*port).or_insert_with(first);
                gathered.services.insert(&*guard.service);
                let before = gathered.served.cache.take();
                gathered.served.cache = first_of(before, cache.clone());
                gathered.add(built, guard, *protocol);
            }
        }
        let ports = ports.into_iter();
        Self {
            complete: true,
            ports: ports
                .map(|(port, gathered)| (port, gathered.served(built)))
                .collect(),
        }
    }
}

/// Of two caches, the one whose ApiRoute comes first by name.
fn first_of(one: Option<Arc<Cache>>, other: Option<Arc<Cache>>) -> Option<Arc<Cache>> {
    let both = [one, other].into_iter().flatten();
    both.min_by(|one, other| one.object.cmp(&other.object))
}

#[cfg(test)]
mod tests;
