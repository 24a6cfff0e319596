//! Where a call comes to, as [`from_application`] and [`Captured`] have it.
//!
//! [`from_application`]: crate::proxy::from_application
//! [`Captured`]: crate::proxy::outbound::Captured

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::asked::Asked;
use crate::config::State;
use crate::config::service::{Port, Service};
use crate::config::state::Called;

/// Why nothing can be said of what another namespace may have.
const NOT_CALLED_YET: &str = "this sidecar has not called it yet: before its first call there it asks the \
                              operator what it is, and what governs calls to it";

/// Where it comes to.
#[derive(Debug)]
pub(super) enum Place {
    /// A port of a Service, or one endpoint behind it; and what is to be known about the way there.
    Service(Called, Vec<String>),
    /// No Service's. `named` where only the name is known, and not the address that it leads to.
    Unknown { why: String, named: bool },
    /// Nobody listens there.
    Nobody(String),
}

/// Finds it.
pub(super) fn find(state: &State, asked: &Asked) -> Place {
    let Asked { host, port, .. } = asked;
    if let Some(service) = state.named(host) {
        return by_name(state, service, *port);
    }
    match host.parse::<IpAddr>() {
        Ok(address) => by_address(state, SocketAddr::new(address, *port)),
        Err(_) => Place::Unknown {
            why: match state.question_of(host) {
                Some(_) => NOT_CALLED_YET,
                None => "no Service of the mesh has this name",
            }
            .to_owned(),
            named: true,
        },
    }
}

fn by_name(state: &State, service: &Arc<Service>, number: u16) -> Place {
    let own = |port: &Port| {
        let mut endpoints = port.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.address.port() == number);
        endpoint.and_then(|endpoint| state.called(endpoint.address))
    };
    let mut asides = Vec::new();
    let headless = service.is_headless();
    match service.port(number) {
        Some(port) => {
            if headless && port.endpoints.is_empty() {
                asides
                    .push("it has no virtual address: its name leads to its pods' own".to_owned());
            } else if headless && own(port).is_some() {
                asides.push(
                    "it has no virtual address: its name leads to a pod's own, with which a rule \
                     without backends stays"
                        .to_owned(),
                );
            } else if headless {
                asides.push(format!(
                    "it has no virtual address, so this is what a proxy that is asked does: its name \
                     leads to its pods' own addresses, and port {number} there is no Service's"
                ));
            }
            let called = Called {
                service: service.clone(),
                port: port.clone(),
                place: None,
            };
            Place::Service(called, asides)
        }
        None if headless => match service.ports.iter().find_map(|port| own(port)) {
            Some(called) => {
                asides.push("one of the pods that its name leads to".to_owned());
                Place::Service(called.clone(), asides)
            }
            None => Place::Unknown {
                why: format!(
                    "port {number} of the pods of Service {} is no Service's",
                    service.key
                ),
                named: true,
            },
        },
        None => Place::Nobody(format!("Service {} has no port {number}", service.key)),
    }
}

fn by_address(state: &State, address: SocketAddr) -> Place {
    match state.called(address) {
        Some(called) => Place::Service(called.clone(), Vec::new()),
        None if state.is_virtual(address.ip()) => Place::Nobody(format!(
            "{} is a Service's, which has no port {}",
            address.ip(),
            address.port()
        )),
        None => Place::Unknown {
            why: match state.is_endpoint(address.ip()) {
                true => {
                    "an endpoint of the mesh has this address, but not at this port: who listens \
                         there decides"
                }
                false if state.question(address).is_some() => NOT_CALLED_YET,
                false => "the mesh does not know this address",
            }
            .to_owned(),
            named: false,
        },
    }
}
