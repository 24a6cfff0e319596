//! The balancers and upstreams of one worker, kept from one state to the next: what a state did not
//! change keeps its balancer, and an endpoint that is still there keeps its connections and counts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::terms::Terms;
use crate::config::State;
use crate::config::retry_policy::{Balancing, ForDestination};
use crate::config::service::{Endpoint, Port, Protocol, ServiceKey};
use crate::config::state::Called;
use crate::policy::circuit_breaker::{CircuitBreaker, Circuits};
use crate::policy::load_balancer::{Caller, LoadBalancer, Offered};
use crate::proxy::health::Asking;
use crate::proxy::upstream::{Dial, Speak, Upstream};

/// A port of a Service.
type PortKey = (ServiceKey, u16);

/// By port of a Service, and by endpoint.
pub(super) struct Balancers {
    known: RefCell<HashMap<PortKey, Balanced>>,
    upstreams: RefCell<HashMap<Endpoint, Weak<Upstream>>>,
    dial: Dial,
}

/// A balancer, and what it was made from.
struct Balanced {
    from: From,
    reached: Reached,
    asking: Option<Rc<Asking>>,
}

/// How the endpoints of a port are reached.
#[derive(Clone, Debug)]
pub(super) struct Reached {
    pub(super) balancer: Rc<LoadBalancer<Upstream>>,
    /// Held here too, so that the budget lives as long as the balancer.
    pub(super) terms: Rc<Terms>,
}

/// What a balancer is made from.
#[derive(Clone)]
struct From {
    port: Arc<Port>,
    policy: Option<Arc<ForDestination>>,
    /// The calling workload and its zone.
    caller: Option<(Arc<str>, Arc<str>)>,
}

// === impl Balancers ===

impl Balancers {
    pub(super) fn new(dial: Dial) -> Self {
        Self {
            known: RefCell::default(),
            upstreams: RefCell::default(),
            dial,
        }
    }

    /// The endpoints of a port of a Service, as `state` says that they are balanced.
    pub(super) fn of(&self, state: &State, service: &ServiceKey, port: &Arc<Port>) -> Reached {
        let from = From::of(state, service, port);
        let key = (service.clone(), port.number);
        let terms = Terms::of(state, service, &self.dial);
        let before = {
            let mut known = self.known.borrow_mut();
            match known.get_mut(&key) {
                Some(balanced) if balanced.from.is(&from) => {
                    balanced.reached.terms = terms;
                    return balanced.reached.clone();
                }
                Some(_) => known.remove(&key),
                None => None,
            }
        };
        let balanced = self.balance(service, from, terms, before);
        let reached = balanced.reached.clone();
        self.known.borrow_mut().insert(key, balanced);
        reached
    }

    /// One endpoint, called by its own address. Of a headless Service there is no other way to call it,
    /// so its circuit counts; elsewhere, whoever does this means the pod, whatever is known of it.
    pub(super) fn of_one(&self, state: &State, called: &Called) -> Reached {
        let service = &called.service.key;
        let terms = Terms::of(state, service, &self.dial);
        let headless = called.service.is_headless();
        let policy = state.policies.destination(service).filter(|_| headless);
        let breaker = policy.and_then(|policy| policy.circuit_breaker.clone());
        let offered = called.endpoint().map(|endpoint| Offered {
            endpoint: self.upstream(endpoint),
            address: endpoint.address,
            for_zones: &[],
            health: breaker
                .as_ref()
                .map(|_| self.dial.healths.of(service, called.port.number, endpoint)),
        });
        let offered = Vec::from_iter(offered);
        let circuits = breaker.map(|breaker| self.circuits(breaker, service, &offered));
        let (balancing, caller) = (Balancing::default(), Caller::default());
        let balancer = LoadBalancer::build(offered, balancing, caller, None);
        let balancer = balancer.with_circuits(circuits);
        Reached {
            balancer: Rc::new(balancer),
            terms,
        }
    }

    fn circuits(
        &self,
        breaker: CircuitBreaker,
        service: &ServiceKey,
        offered: &[Offered<'_, Upstream>],
    ) -> Rc<Circuits> {
        let healths = offered.iter().filter_map(|one| one.health.clone());
        let healths = healths.collect();
        Circuits::new(breaker, service.clone(), healths, self.dial.healths.clone())
    }

    fn balance(
        &self,
        service: &ServiceKey,
        from: From,
        terms: Rc<Terms>,
        before: Option<Balanced>,
    ) -> Balanced {
        let port = &from.port;
        let check = from.policy.as_ref().and_then(|p| p.health_check.clone());
        let check = check.filter(|_| port.protocol != Protocol::Tcp);
        let breaker = from.policy.as_ref().and_then(|p| p.circuit_breaker.clone());
        let breaker = breaker.filter(|_| port.protocol != Protocol::Tcp);
        let known = check.is_some() || breaker.is_some();
        let offered = port.hinted().map(|(endpoint, for_zones)| Offered {
            endpoint: self.upstream(endpoint),
            address: endpoint.address,
            for_zones,
            health: known.then(|| self.dial.healths.of(service, port.number, endpoint)),
        });
        let offered = Vec::from_iter(offered);
        if check.is_none() {
            let healths = offered.iter().filter_map(|one| one.health.as_ref());
            healths.for_each(|health| health.is_not_asked());
        }
        let circuits = breaker.map(|breaker| self.circuits(breaker, service, &offered));
        let balancing = from
            .policy
            .as_ref()
            .and_then(|policy| policy.balancing.clone());
        let caller = from
            .caller
            .as_ref()
            .map(|(workload, zone)| Caller { workload, zone });
        let balancer = LoadBalancer::build(
            offered,
            balancing.unwrap_or_default(),
            caller.unwrap_or_default(),
            before.as_ref().map(|before| &*before.reached.balancer),
        );
        let balancer = Rc::new(balancer.with_circuits(circuits));
        let speak = Speak::to_application(port.protocol, false);
        let asking = check.map(|check| match before.and_then(|before| before.asking) {
            Some(asking) if asking.speaks(speak) => {
                asking.follow(&balancer, check);
                asking
            }
            _ => Asking::begin(&balancer, check, speak, service.text(), self.dial.clone()),
        });
        Balanced {
            from,
            reached: Reached { balancer, terms },
            asking,
        }
    }

    /// Follows another state. Only what this worker has used is followed; the rest is balanced when
    /// first used, so that the cost of a change does not grow with the mesh.
    pub(super) fn follow(&self, state: &State) {
        let used = Vec::from_iter(self.known.borrow().keys().cloned());
        for (service, number) in used {
            let known = state.service(&service);
            match known.and_then(|service| service.port(number)) {
                // An endpoint that is in both finds its upstream again, connections and all.
                Some(port) => drop(self.of(state, &service, port)),
                None => drop(self.known.borrow_mut().remove(&(service, number))),
            }
        }
    }

    /// Forgets endpoints that nobody uses.
    pub(super) fn forget(&self) {
        let mut upstreams = self.upstreams.borrow_mut();
        upstreams.retain(|_, upstream| upstream.strong_count() > 0);
    }

    /// The connections to an endpoint.
    pub(super) fn upstream(&self, endpoint: &Endpoint) -> Rc<Upstream> {
        let mut upstreams = self.upstreams.borrow_mut();
        if let Some(known) = upstreams.get(endpoint).and_then(Weak::upgrade) {
            return known;
        }
        let upstream = Upstream::endpoint(endpoint.clone(), self.dial.clone());
        upstreams.insert(endpoint.clone(), Rc::downgrade(&upstream));
        upstream
    }
}

// === impl From ===

impl From {
    fn of(state: &State, service: &ServiceKey, port: &Arc<Port>) -> Self {
        let own = state.built.workload.as_ref();
        Self {
            port: port.clone(),
            policy: state.policies.destination(service).cloned(),
            caller: own.map(|own| (own.pod.clone(), own.zone.clone())),
        }
    }

    /// Whether a balancer that was made from the one would be the same as from the other.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.port, &other.port)
            && self.policy == other.policy
            && self.caller == other.caller
    }
}
