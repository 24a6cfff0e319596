//! What is said of the own application's ports: who may enter, and what is done with what enters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use http::request::Parts;

use super::Built;
use crate::config::access::{Access, Enforced};
use crate::config::guard::Guard;
use crate::config::publish::{Does, Publish};
use crate::config::rate_limit::Limited;
use crate::config::service::Protocol;
use crate::policy::cache::Cache;
use crate::policy::idempotency::Idempotency;

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
    /// What says which requests become events, the first by name first.
    publish: Arc<[Arc<Publish>]>,
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

    /// What is done with a request instead of its reaching the application.
    pub fn publishing(&self, head: &Parts) -> Option<&Does> {
        if self.protocol == Protocol::Tcp {
            return None;
        }
        self.publish.iter().find_map(|one| one.of(head))
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
            publish: Inbound::publish(built, &self.services),
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

    /// What says which calls by these Services' names become events.
    fn publish(built: &Built, services: &BTreeSet<&str>) -> Arc<[Arc<Publish>]> {
        let mut all = Vec::from_iter(built.publish.values().filter(|one| {
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

    /// Who may enter at a port.
    pub(super) fn served(&self, port: u16) -> Result<&Served, NotServed> {
        if !self.complete {
            return Err(NotServed::Incomplete);
        }
        match self.ports.get(&port) {
            Some(served) if served.lacks => Err(NotServed::Incomplete),
            Some(served) => Ok(served),
            None => Err(NotServed::NoGuard),
        }
    }

    /// Whether every Guard of the complete set is held.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn link(built: &Built) -> Self {
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
                        publish: Arc::default(),
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
