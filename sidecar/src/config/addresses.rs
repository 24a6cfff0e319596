//! Pods' own addresses: which endpoint of which Service one is, when it is called itself.
//!
//! Callers come to them by the names of headless Services and StatefulSets, or have been told them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use super::service::{Endpoint, Port, Protocol, Service};
use super::state::Called;

/// Adds every endpoint whose address is its pod's own. One that no pod stands behind counts for
/// callers of the Service's own namespace alone: anybody can write any address into a slice of
/// theirs, and must not decide by it where other namespaces' calls go.
pub(super) fn link<'a>(
    by_address: &mut HashMap<SocketAddr, Called>,
    services: impl Iterator<Item = &'a Arc<Service>>,
    own_namespace: Option<&str>,
) {
    for service in services {
        let own = own_namespace == Some(service.key.parts().0);
        for port in &service.ports {
            for (place, endpoint) in port.endpoints.iter().enumerate() {
                if !own && !endpoint.own_address {
                    continue;
                }
                let called = || Called {
                    service: service.clone(),
                    port: port.clone(),
                    place: Some(place),
                };
                match by_address.entry(endpoint.address) {
                    Entry::Vacant(vacant) => drop(vacant.insert(called())),
                    Entry::Occupied(mut held) => {
                        if comes_before(service, port, endpoint, held.get()) {
                            held.insert(called());
                        }
                    }
                }
            }
        }
    }
}

/// Of several Services over one pod: whose address it is comes first, then the headless one, whose
/// names lead here; then the first by name, and of one Service the port on which more can be
/// enforced. A virtual address is nobody else's.
fn comes_before(service: &Service, port: &Port, endpoint: &Endpoint, held: &Called) -> bool {
    let Some(other) = held.endpoint() else {
        return false;
    };
    let order = |service: &Service, port: &Port, endpoint: &Endpoint| {
        let key = service.key.clone();
        let protocol = enforceable(port.protocol);
        (
            !endpoint.own_address,
            !service.is_headless(),
            key,
            protocol,
            port.number,
        )
    };
    order(service, port, endpoint) < order(&held.service, &held.port, other)
}

/// The less the more can be enforced, as Guards have it.
fn enforceable(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Http => 0,
        Protocol::Http2 => 1,
        Protocol::Detect => 2,
        Protocol::Tcp => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::super::guard::Workload;
    use super::super::state::{Built, State};
    use super::*;
    use wire::mesh;

    struct World(Built);

    impl World {
        fn of(own_namespace: &str) -> Self {
            let own = mesh::Workload {
                namespace: own_namespace.into(),
                ..Default::default()
            };
            Self(Built {
                workload: Some(Arc::new(Workload::build(own).unwrap())),
                ..Built::default()
            })
        }

        /// A Service with one endpoint at each of its ports; each port is (number, protocol).
        fn service(
            mut self,
            key: &str,
            virtual_address: &str,
            ports: &[(u32, mesh::Protocol)],
            (address, own_address): (&str, bool),
        ) -> Self {
            let (namespace, name) = key.split_once('/').unwrap();
            let endpoint = mesh::Endpoint {
                address: address.into(),
                port: 8080,
                pod: format!("{namespace}/pod"),
                identity: String::new(),
                own_address,
                for_zones: Vec::new(),
            };
            let sent = mesh::Endpoints {
                namespace: namespace.into(),
                service: name.into(),
                hosts: Vec::new(),
                addresses: Vec::from_iter(
                    (!virtual_address.is_empty()).then(|| virtual_address.into()),
                ),
                ports: Vec::from_iter(ports.iter().map(|(port, protocol)| mesh::ServicePort {
                    port: *port,
                    protocol: (*protocol).into(),
                    endpoints: vec![endpoint.clone()],
                    ..Default::default()
                })),
            };
            let service = Arc::new(Service::build(sent, None).unwrap());
            self.0.services.insert(key.into(), service);
            self
        }

        /// The Service and the port that a call to an address means.
        fn called(&self, address: &str) -> Option<String> {
            let state = State::link(self.0.clone());
            let called = state.called(address.parse().unwrap())?;
            let itself = if called.endpoint().is_some() {
                "itself"
            } else {
                "any"
            };
            Some(format!(
                "{}:{} {itself}",
                called.service.key, called.port.number
            ))
        }
    }

    const HTTP: &[(u32, mesh::Protocol)] = &[(80, mesh::Protocol::Http)];
    const POD: &str = "10.1.0.1:8080";
    const OWN: (&str, bool) = ("10.1.0.1", true);

    #[test]
    fn an_endpoints_address_is_that_endpoint_and_a_virtual_address_any() {
        let world = World::of("web").service("shop/orders", "10.0.0.1", HTTP, OWN);
        assert_eq!(world.called(POD).as_deref(), Some("shop/orders:80 itself"));
        assert_eq!(
            world.called("10.0.0.1:80").as_deref(),
            Some("shop/orders:80 any")
        );
        assert_eq!(world.called("10.1.0.1:80"), None, "another port of the pod");
    }

    #[test]
    fn of_several_services_over_a_pod_the_headless_one_is_meant_then_the_first_by_name() {
        // Maps are walked in another order each time: what is decided must not be.
        for _ in 0..20 {
            let world = World::of("web")
                .service("shop/a", "10.0.0.1", HTTP, OWN)
                .service("shop/b", "10.0.0.2", HTTP, OWN);
            assert_eq!(world.called(POD).as_deref(), Some("shop/a:80 itself"));
            let world = world
                .service("shop/d", "", HTTP, OWN)
                .service("shop/c", "", HTTP, OWN);
            assert_eq!(world.called(POD).as_deref(), Some("shop/c:80 itself"));
        }
    }

    #[test]
    fn of_two_ports_that_are_one_in_the_pod_that_on_which_more_can_be_enforced_is_meant() {
        let ports = &[
            (80, mesh::Protocol::Tcp),
            (81, mesh::Protocol::Http),
            (82, mesh::Protocol::Detect),
        ];
        let world = World::of("web").service("shop/orders", "", ports, OWN);
        assert_eq!(world.called(POD).as_deref(), Some("shop/orders:81 itself"));
    }

    #[test]
    fn a_slice_decides_for_its_own_namespace_alone_where_calls_to_others_addresses_go() {
        let stolen = |own: &str| {
            World::of(own)
                .service("aaa/trap", "", HTTP, ("10.1.0.1", false))
                .called(POD)
        };
        assert_eq!(stolen("web"), None);
        assert_eq!(stolen("aaa").as_deref(), Some("aaa/trap:80 itself"));
        // And not even for that where the pod itself is known.
        for own in ["web", "aaa"] {
            let world = World::of(own)
                .service("aaa/trap", "", HTTP, ("10.1.0.1", false))
                .service("shop/orders", "10.0.0.1", HTTP, OWN);
            assert_eq!(world.called(POD).as_deref(), Some("shop/orders:80 itself"));
        }
    }

    #[test]
    fn nobody_takes_a_virtual_address() {
        let world = World::of("web")
            .service(
                "shop/orders",
                "10.0.0.1",
                &[(8080, mesh::Protocol::Http)],
                OWN,
            )
            .service("aaa/trap", "", HTTP, ("10.0.0.1", true));
        assert_eq!(
            world.called("10.0.0.1:8080").as_deref(),
            Some("shop/orders:8080 any")
        );
    }
}
