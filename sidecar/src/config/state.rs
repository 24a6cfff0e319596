//! The state that requests read: immutable, linked, shared by all workers.

mod inbound;
mod policies;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::access::{Access, Keys};
use super::addresses;
use super::guard::{Guard, Workload};
use super::lookup::{Answer, Answers, Networks};
use super::outside::Outside;
use super::publish::Publish;
use super::rate_limit::RateLimit;
use super::retry_policy::RetryPolicy;
use super::route::Route;
use super::service::{Endpoint, Port, Service, ServiceKey};
use super::subscription::Subscription;
use crate::policy::authentication::issuer::IssuerKeys;
use crate::policy::cache::Cache;
use crate::policy::idempotency::Idempotency;
pub use inbound::{Inbound, NotServed, Served};
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
    /// `publish/…`
    pub publish: HashMap<String, Arc<Publish>>,
    /// `subscription/…`
    pub subscriptions: HashMap<String, Arc<Subscription>>,
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
        self.inbound.served(port)
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
        self.inbound.is_complete()
    }
}

// === impl Called ===

impl Called {
    /// The endpoint that was called by its own address; `None` for a virtual address.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.port.endpoints.get(self.place?)
    }
}

#[cfg(test)]
mod tests;
