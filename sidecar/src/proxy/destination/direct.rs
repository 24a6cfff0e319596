//! A pod called by its own address is a destination of its own: that endpoint and no other, over
//! the same connections as calls to its Services.

use std::net::SocketAddr;
use std::rc::Rc;

use super::{Destination, Destinations};
use crate::config::State;
use crate::config::state::Called;

impl Destinations {
    /// The destination that an address is: a port of a Service, or one endpoint behind it.
    pub fn at(&self, address: SocketAddr, called: &Called) -> Rc<Destination> {
        if called.place.is_none() {
            return self.find(&called.service, &called.port);
        }
        if let Some(linked) = self.direct.borrow().get(&address) {
            return linked.clone();
        }
        let linked = Rc::new(self.link_direct(address, called));
        self.direct.borrow_mut().insert(address, linked.clone());
        linked
    }

    /// A headless Service has no other address, so its ApiRoute governs the calls to this one; where
    /// there is a virtual address, whoever calls this one means the pod.
    fn link_direct(&self, address: SocketAddr, called: &Called) -> Destination {
        let endpoint = called.endpoint();
        let own = self.balancers.of_one(&self.state(), called);
        if let Some(endpoint) = endpoint {
            let held = (endpoint.clone(), own.clone());
            self.held.borrow_mut().insert(address, held);
        }
        Destination {
            route: match called.service.is_headless() {
                true => self.route_of(&called.service),
                false => None,
            },
            connections: match called.service.is_headless() {
                true => self.connections_of(&called.service),
                false => None,
            },
            service: called.service.key.text().clone(),
            port: called.port.number,
            protocol: called.port.protocol,
            endpoint: Some(address),
            own,
        }
    }

    /// Forgets what another state may have changed, but not the endpoints that are in it as they
    /// were: their connections last.
    pub(super) fn follow_direct(&self, state: &State) {
        self.direct.borrow_mut().clear();
        self.held.borrow_mut().retain(|address, (endpoint, _)| {
            let now = state.called(*address).and_then(Called::endpoint);
            now == Some(endpoint)
        });
    }
}
