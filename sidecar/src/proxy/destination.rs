//! Where a call leads, as one worker reaches it: the Service called, its route, and the balancers
//! and upstreams behind them.
//!
//! [`Destinations`] follows the shared [`State`]: what a new state did not change keeps its
//! balancer, and an endpoint that is still there keeps its connections and counts.

mod direct;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rand::Rng;

use super::error::{Error, Reason};
use super::upstream::{Dial, Upstream};
use crate::config::State;
use crate::config::route::filters::{self, Filters};
use crate::config::route::{Route, Rule};
use crate::config::service::{Endpoint, Port, Protocol, Service, ServiceKey};
use crate::policy::load_balancer::LoadBalancer;

/// One port of one Service, as called.
#[derive(Debug)]
pub struct Destination {
    /// `namespace/service`.
    pub service: Arc<str>,
    /// How its bytes are read.
    pub protocol: Protocol,
    own: Rc<LoadBalancer<Upstream>>,
    route: Option<(Arc<Route>, Vec<Targets>)>,
}

/// Where one rule's requests go.
#[derive(Debug)]
struct Targets {
    total_weight: u64,
    backends: Vec<(u32, Option<Backend>)>,
    mirror: Option<Backend>,
}

/// One port of one Service, as sent to.
#[derive(Clone, Debug)]
pub struct Backend {
    /// `namespace/service`.
    pub service: Arc<str>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Its endpoints.
    pub balancer: Rc<LoadBalancer<Upstream>>,
}

/// What governs one request: the rule, and who answers.
#[derive(Debug)]
pub struct Routed {
    /// `namespace/name` of the ApiRoute and its rule; `None` without an ApiRoute.
    pub route: Option<(Arc<str>, Arc<Rule>)>,
    /// How many bytes of the path are the prefix by which the rule was found.
    pub prefix: usize,
    /// Where the rule's copies go; nowhere when it makes none, or to a Service that does not exist.
    pub mirror: Option<Backend>,
    /// Who answers; nobody when the backend that was drawn does not exist.
    pub backend: Option<Backend>,
}

/// A port of a Service.
type PortKey = (ServiceKey, u16);

/// The port that a balancer was made for, and the balancer.
type Balanced = (Arc<Port>, Rc<LoadBalancer<Upstream>>);

/// An endpoint that was called by its own address, and its balancer.
type Held = (Endpoint, Rc<LoadBalancer<Upstream>>);

/// A worker's destinations, for one state after another.
pub struct Destinations {
    state: RefCell<Rc<InForce>>,
    linked: RefCell<HashMap<PortKey, Rc<Destination>>>,
    balancers: RefCell<HashMap<PortKey, Balanced>>,
    upstreams: RefCell<HashMap<Endpoint, Weak<Upstream>>>,
    /// Pods that were called by their own addresses.
    direct: RefCell<HashMap<SocketAddr, Rc<Destination>>>,
    /// What those destinations keep from one state to the next.
    held: RefCell<HashMap<SocketAddr, Held>>,
    dial: Dial,
}

/// The state in force, counted by this worker alone.
#[derive(Debug, Default)]
pub struct InForce(Arc<State>);

impl std::ops::Deref for InForce {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

// === impl Destinations ===

impl Destinations {
    /// Follows from an empty state.
    pub fn new(dial: Dial) -> Self {
        Self {
            state: RefCell::default(),
            linked: RefCell::default(),
            balancers: RefCell::default(),
            upstreams: RefCell::default(),
            direct: RefCell::default(),
            held: RefCell::default(),
            dial,
        }
    }

    /// The state in force. A request takes it once, without touching a count that other workers
    /// share.
    pub fn state(&self) -> Rc<InForce> {
        self.state.borrow().clone()
    }

    /// Puts another state in force. Only what this worker has used is followed; the rest is linked
    /// when first used, so that the cost of a change does not grow with the mesh.
    pub fn follow(&self, state: Arc<State>) {
        self.linked.borrow_mut().clear();
        let used: Vec<_> = {
            let balancers = self.balancers.borrow();
            let ports = balancers
                .iter()
                .map(|(key, (port, _))| (key.clone(), port.clone()));
            ports.collect()
        };
        for (key, known) in used {
            let now = state
                .service(&key.0)
                .and_then(|service| service.port(key.1));
            match now {
                // An endpoint that is in both finds its upstream again, connections and all.
                Some(now) if !Arc::ptr_eq(now, &known) => drop(self.balancer(&key.0, now)),
                Some(_) => {}
                None => drop(self.balancers.borrow_mut().remove(&key)),
            }
        }
        self.follow_direct(&state);
        *self.state.borrow_mut() = Rc::new(InForce(state));
        self.upstreams
            .borrow_mut()
            .retain(|_, upstream| upstream.strong_count() > 0);
    }

    /// The destination that a port of a Service is.
    pub fn find(&self, service: &Service, port: &Arc<Port>) -> Rc<Destination> {
        let key = (service.key.clone(), port.number);
        if let Some(linked) = self.linked.borrow().get(&key) {
            return linked.clone();
        }
        let linked = Rc::new(self.link(service, port));
        self.linked.borrow_mut().insert(key, linked.clone());
        linked
    }

    fn link(&self, service: &Service, port: &Arc<Port>) -> Destination {
        Destination {
            service: service.key.text().clone(),
            protocol: port.protocol,
            own: self.balancer(&service.key, port),
            route: self.route_of(service),
        }
    }

    fn route_of(&self, service: &Service) -> Option<(Arc<Route>, Vec<Targets>)> {
        let state = self.state();
        let route = state.route(&service.key)?;
        let targets = route.rules().iter().map(|rule| self.targets(&state, rule));
        Some((route.clone(), targets.collect()))
    }

    fn targets(&self, state: &State, rule: &Rule) -> Targets {
        let backends = rule.backends.iter().map(|backend| {
            let found = self.backend(state, &backend.service, backend.port);
            (backend.weight, found)
        });
        let backends: Vec<_> = backends.collect();
        let mirror = rule.filters.mirror.as_ref();
        Targets {
            total_weight: backends.iter().map(|(weight, _)| u64::from(*weight)).sum(),
            backends,
            mirror: mirror.and_then(|to| self.backend(state, &to.service, to.port)),
        }
    }

    /// A port of a Service that may not exist.
    fn backend(&self, state: &State, service: &ServiceKey, port: u16) -> Option<Backend> {
        let service = state.service(service)?;
        let port = service.port(port)?;
        Some(Backend {
            service: service.key.text().clone(),
            protocol: port.protocol,
            balancer: self.balancer(&service.key, port),
        })
    }

    fn balancer(&self, service: &ServiceKey, port: &Arc<Port>) -> Rc<LoadBalancer<Upstream>> {
        let key = (service.clone(), port.number);
        let mut balancers = self.balancers.borrow_mut();
        if let Some((known, balancer)) = balancers.get(&key)
            && Arc::ptr_eq(known, port)
        {
            return balancer.clone();
        }
        let endpoints = port
            .endpoints
            .iter()
            .map(|endpoint| self.upstream(endpoint));
        let balancer = Rc::new(LoadBalancer::new(endpoints.collect()));
        balancers.insert(key, (port.clone(), balancer.clone()));
        balancer
    }

    fn upstream(&self, endpoint: &Endpoint) -> Rc<Upstream> {
        let mut upstreams = self.upstreams.borrow_mut();
        if let Some(known) = upstreams.get(endpoint).and_then(Weak::upgrade) {
            return known;
        }
        let upstream = Upstream::endpoint(endpoint.clone(), self.dial.clone());
        upstreams.insert(endpoint.clone(), Rc::downgrade(&upstream));
        upstream
    }
}

impl std::fmt::Debug for Destinations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destinations").finish_non_exhaustive()
    }
}

// === impl Destination ===

impl Destination {
    /// What governs a request to this destination.
    ///
    /// # Errors
    /// `no_route` when there is an ApiRoute and none of its rules fits; `bad_request` for a CONNECT
    /// where there is an ApiRoute.
    pub fn route(&self, head: &http::request::Parts) -> Result<Routed, (Error, Option<Arc<str>>)> {
        let own = || Backend {
            service: self.service.clone(),
            protocol: self.protocol,
            balancer: self.own.clone(),
        };
        let Some((route, targets)) = &self.route else {
            return Ok(Routed {
                route: None,
                prefix: 0,
                mirror: None,
                backend: Some(own()),
            });
        };
        let object = || Some(route.object.clone());
        if head.method == Method::CONNECT {
            let why = "CONNECT names no path, and an ApiRoute governs this Service";
            return Err((Error::new(Reason::BadRequest, why), object()));
        }
        let found = route
            .find_preflight(head)
            .or_else(|| route.find(head))
            .ok_or_else(|| (Reason::NoRoute.into(), object()))?;
        let (rule, targets) = (route.rules()[found.rule].clone(), &targets[found.rule]);
        Ok(Routed {
            route: Some((route.object.clone(), rule)),
            prefix: found.prefix,
            mirror: targets.mirror.clone(),
            backend: match targets.backends.is_empty() {
                true => Some(own()),
                false => targets.pick().cloned(),
            },
        })
    }

    /// The endpoints of the Service itself, for bytes that have no route.
    pub fn balancer(&self) -> &Rc<LoadBalancer<Upstream>> {
        &self.own
    }
}

impl Routed {
    /// The ApiRoute and its rule, as logs and metrics name them.
    pub fn names(&self) -> Option<(Arc<str>, Arc<str>)> {
        let (object, rule) = self.route.as_ref()?;
        Some((object.clone(), rule.name.clone()))
    }

    /// How long the whole request may take.
    pub fn request_timeout(&self) -> Option<Duration> {
        self.route.as_ref()?.1.request_timeout
    }

    /// What the rule does beside routing.
    pub fn filters(&self) -> &Filters {
        let rule = self.route.as_ref().map(|(_, rule)| &rule.filters);
        rule.unwrap_or(&filters::NONE)
    }
}

impl Targets {
    /// One of the backends, each as often as its weight says; `None` for one that does not exist,
    /// whose share is answered with an error, and when all weights are zero.
    fn pick(&self) -> Option<&Backend> {
        let mut drawn = match self.total_weight {
            0 => return None,
            total => rand::rng().random_range(0..total),
        };
        for (weight, backend) in &self.backends {
            match drawn.checked_sub(u64::from(*weight)) {
                None => return backend.as_ref(),
                Some(rest) => drawn = rest,
            }
        }
        None
    }
}
