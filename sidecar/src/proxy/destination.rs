//! Where a call leads, as one worker reaches it: the Service called, its route, and the balancers
//! and upstreams behind them.
//!
//! [`Destinations`] follows the shared [`State`], and keeps what that does not change.

mod balancers;
mod direct;
pub mod terms;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rand::Rng;

use balancers::{Balancers, Reached};
use terms::Terms;

use super::error::{Error, Reason};
use super::upstream::{Dial, Upstream};
use crate::config::State;
use crate::config::route::connections::{self, ConnectionRule};
use crate::config::route::filters::{self, Filters};
use crate::config::route::{self as config, Route, Rule};
use crate::config::service::{Endpoint, Port, Protocol, Service, ServiceKey};
use crate::policy::cache::at_caller::AtCaller;
use crate::policy::load_balancer::LoadBalancer;
use crate::policy::retry::Retries;

/// One port of one Service, as called.
#[derive(Debug)]
pub struct Destination {
    /// `namespace/service`.
    pub service: Arc<str>,
    /// The Service's port.
    pub port: u16,
    /// How its bytes are read.
    pub protocol: Protocol,
    own: Reached,
    /// The address of the one endpoint that it is, if it was called by that.
    endpoint: Option<SocketAddr>,
    route: Option<Rc<Linked>>,
    /// What governs connections whose bytes nobody reads.
    connections: Option<(Arc<Route>, Vec<Targets>)>,
}

/// An ApiRoute, and where the requests of each of its rules go.
#[derive(Debug)]
pub struct Linked {
    route: Arc<Route>,
    targets: Vec<Targets>,
}

/// Where one rule's requests or connections go.
#[derive(Debug)]
struct Targets {
    total_weight: u64,
    backends: Vec<(u32, Option<Backend>)>,
    mirror: Option<Backend>,
    /// When its requests are sent again, if the rule or its ApiRoute has a policy of its own.
    retries: Option<Arc<Retries>>,
}

/// One port of one Service, as sent to.
#[derive(Clone, Debug)]
pub struct Backend {
    /// `namespace/service`.
    pub service: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The address of the one endpoint that is meant, if it was called by that.
    pub endpoint: Option<SocketAddr>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Its endpoints.
    pub balancer: Rc<LoadBalancer<Upstream>>,
    /// What holds for attempts there.
    pub terms: Rc<Terms>,
    /// The ApiRoute whose rules govern requests from there on.
    pub route: Option<Rc<Linked>>,
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
    /// When it is sent again, if its rule or its ApiRoute has a policy of its own.
    pub retries: Option<Arc<Retries>>,
    /// What is kept here of the answers, where its ApiRoute says so.
    pub kept: Option<Arc<AtCaller>>,
}

/// A port of a Service.
type PortKey = (ServiceKey, u16);

/// An endpoint that was called by its own address, and its balancer.
type Held = (Endpoint, Reached);

/// A worker's destinations, for one state after another.
pub struct Destinations {
    state: RefCell<Rc<InForce>>,
    linked: RefCell<HashMap<PortKey, Rc<Destination>>>,
    /// ApiRoutes that others lead to; nothing for those that are being linked.
    layers: RefCell<HashMap<Arc<str>, Option<Rc<Linked>>>>,
    balancers: Balancers,
    /// Pods that were called by their own addresses.
    direct: RefCell<HashMap<SocketAddr, Rc<Destination>>>,
    /// What those destinations keep from one state to the next.
    held: RefCell<HashMap<SocketAddr, Held>>,
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
            layers: RefCell::default(),
            balancers: Balancers::new(dial),
            direct: RefCell::default(),
            held: RefCell::default(),
        }
    }

    /// The state in force. A request takes it once, without touching a count that other workers
    /// share.
    pub fn state(&self) -> Rc<InForce> {
        self.state.borrow().clone()
    }

    /// Puts another state in force.
    pub fn follow(&self, state: Arc<State>) {
        self.linked.borrow_mut().clear();
        self.layers.borrow_mut().clear();
        self.balancers.follow(&state);
        self.follow_direct(&state);
        *self.state.borrow_mut() = Rc::new(InForce(state));
        self.balancers.forget();
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
            port: port.number,
            protocol: port.protocol,
            own: self.balancers.of(&self.state(), &service.key, port),
            endpoint: None,
            route: self.route_of(service),
            connections: self.connections_of(service),
        }
    }

    fn route_of(&self, service: &Service) -> Option<Rc<Linked>> {
        let state = self.state();
        let route = state.route(&service.key)?;
        Some(Rc::new(self.link_route(&state, route)))
    }

    fn link_route(&self, state: &State, route: &Arc<Route>) -> Linked {
        let targets = route.rules().iter().map(|rule| {
            let mirror = rule.filters.mirror.as_ref();
            let mirror = mirror.and_then(|to| self.backend(state, &to.service, to.port));
            Targets {
                mirror,
                retries: state.policies.of_rule(&route.object, &rule.name).cloned(),
                ..self.targets(state, &rule.backends)
            }
        });
        Linked {
            targets: targets.collect(),
            route: route.clone(),
        }
    }

    fn connections_of(&self, service: &Service) -> Option<(Arc<Route>, Vec<Targets>)> {
        let state = self.state();
        let route = state.connections(&service.key)?;
        let rules = route.connections().iter();
        let targets = rules.map(|rule| self.targets(&state, &rule.backends));
        Some((route.clone(), targets.collect()))
    }

    /// An ApiRoute that another leads to, by `namespace/name`. None while it is being linked itself:
    /// between two deltas there may be a circle, which the compiler refuses.
    fn layer(&self, state: &State, object: &Arc<str>) -> Option<Rc<Linked>> {
        if let Some(linked) = self.layers.borrow().get(object) {
            return linked.clone();
        }
        let route = state.named_route(object);
        let route = route.filter(|route| !route.governs_connections())?;
        self.layers.borrow_mut().insert(object.clone(), None);
        let linked = Rc::new(self.link_route(state, route));
        let mut layers = self.layers.borrow_mut();
        layers.insert(object.clone(), Some(linked.clone()));
        Some(linked)
    }

    fn targets(&self, state: &State, backends: &[config::Backend]) -> Targets {
        let backends = backends.iter().map(|backend| {
            let found = self.backend(state, &backend.service, backend.port);
            let found = found.and_then(|found| match &backend.route {
                None => Some(found),
                // One that is not held is a backend that does not exist.
                Some(object) => Some(Backend {
                    route: Some(self.layer(state, object)?),
                    ..found
                }),
            });
            (backend.weight, found)
        });
        let backends: Vec<_> = backends.collect();
        Targets {
            total_weight: backends.iter().map(|(weight, _)| u64::from(*weight)).sum(),
            backends,
            mirror: None,
            retries: None,
        }
    }

    /// A port of a Service that may not exist.
    fn backend(&self, state: &State, service: &ServiceKey, port: u16) -> Option<Backend> {
        let service = state.service(service)?;
        let port = service.port(port)?;
        let Reached { balancer, terms } = self.balancers.of(state, &service.key, port);
        Some(Backend {
            service: service.key.text().clone(),
            port: port.number,
            endpoint: None,
            protocol: port.protocol,
            balancer,
            terms,
            route: None,
        })
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
    pub fn route(&self, head: &http::request::Parts) -> Result<Routed, Error> {
        match &self.route {
            Some(linked) => linked.route(head, || self.alone()),
            None => Ok(Routed {
                route: None,
                prefix: 0,
                mirror: None,
                backend: Some(self.alone()),
                retries: None,
                kept: None,
            }),
        }
    }

    /// `namespace/name` of the ApiRoute that governs requests to it.
    pub fn object(&self) -> Option<Arc<str>> {
        let linked = self.route.as_ref()?;
        Some(linked.route.object.clone())
    }

    /// How its bytes are read: where nothing is declared and an ApiRoute is about connections, that
    /// declares it for its callers.
    pub fn reads(&self) -> Protocol {
        self.protocol.with_connections(self.connections.is_some())
    }

    /// Whether the name that a client asks for must be known to govern its connection.
    pub fn asks_for_a_name(&self) -> bool {
        let route = self.connections.as_ref().map(|(route, _)| route);
        route.is_some_and(|route| route.connections().iter().any(ConnectionRule::is_named))
    }

    /// Where a connection goes whose bytes nobody reads, and how long no byte of it may move.
    ///
    /// # Errors
    /// `no_route` when an ApiRoute is about such connections and none of its rules fits;
    /// `backend_missing`.
    pub fn connect(
        &self,
        server_name: Option<&str>,
    ) -> Result<(Rc<LoadBalancer<Upstream>>, Option<Duration>), Error> {
        let Some((route, targets)) = &self.connections else {
            return Ok((self.own.balancer.clone(), None));
        };
        let place = connections::find(route.connections(), server_name);
        let place = place.ok_or(Reason::NoRoute)?;
        let (rule, targets) = (&route.connections()[place], &targets[place]);
        let balancer = match targets.backends.is_empty() {
            true => self.own.balancer.clone(),
            false => {
                let backend = targets.pick().ok_or(Reason::BackendMissing)?;
                backend.balancer.clone()
            }
        };
        Ok((balancer, rule.idle_timeout))
    }

    /// Itself, as sent to.
    fn alone(&self) -> Backend {
        Backend {
            service: self.service.clone(),
            port: self.port,
            endpoint: self.endpoint,
            protocol: self.protocol,
            balancer: self.own.balancer.clone(),
            terms: self.own.terms.clone(),
            route: None,
        }
    }
}

impl Backend {
    /// The same, with nothing that governs requests from there on.
    pub fn alone(&self) -> Backend {
        Backend {
            route: None,
            ..self.clone()
        }
    }
}

// === impl Linked ===

impl Linked {
    /// What governs a request; a rule without backends sends it to its `own` place.
    ///
    /// # Errors
    /// `no_route`, `bad_request`.
    pub fn route(
        &self,
        head: &http::request::Parts,
        own: impl FnOnce() -> Backend,
    ) -> Result<Routed, Error> {
        let Self { route, targets } = self;
        if head.method == Method::CONNECT {
            let why = "CONNECT names no path, and an ApiRoute governs this Service";
            return Err(Error::new(Reason::BadRequest, why));
        }
        let found = route.find_preflight(head).or_else(|| route.find(head));
        let found = found.ok_or(Reason::NoRoute)?;
        let (rule, targets) = (route.rules()[found.rule].clone(), &targets[found.rule]);
        Ok(Routed {
            route: Some((route.object.clone(), rule)),
            prefix: found.prefix,
            mirror: targets.mirror.clone(),
            retries: targets.retries.clone(),
            kept: route.kept.clone(),
            backend: match targets.backends.is_empty() {
                true => Some(own()),
                false => targets.pick().cloned(),
            },
        })
    }

    /// `namespace/name` of the ApiRoute.
    pub fn object(&self) -> &str {
        &self.route.object
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

    /// How long it may wait while no byte of it moves, if the rule says so.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.route.as_ref()?.1.idle_timeout
    }

    /// Whether the rules of another ApiRoute govern it from there on.
    pub fn leads_on(&self) -> bool {
        let backend = self.backend.as_ref();
        backend.is_some_and(|backend| backend.route.is_some())
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
