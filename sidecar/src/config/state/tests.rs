//! What a state says, once linked.

use super::*;
use crate::config::service::Protocol;
use wire::mesh;

fn service(namespace: &str, name: &str, address: &str) -> Arc<Service> {
    let sent = mesh::Endpoints {
        namespace: namespace.into(),
        service: name.into(),
        hosts: vec![format!("{name}.{namespace}")],
        addresses: vec![address.into()],
        ports: vec![mesh::ServicePort {
            port: 80,
            protocol: mesh::Protocol::Http.into(),
            ..Default::default()
        }],
    };
    Arc::new(Service::build(sent, None).unwrap())
}

fn workload(namespace: &str, guards: &[&str]) -> Arc<Workload> {
    let sent = mesh::Workload {
        namespace: namespace.into(),
        pod: "web-1".into(),
        guards: guards.iter().map(|id| (*id).to_owned()).collect(),
        ..Default::default()
    };
    Arc::new(Workload::build(sent).unwrap())
}

fn guard(port: u32) -> Arc<Guard> {
    let port = mesh::GuardPort {
        port,
        protocol: mesh::Protocol::Http.into(),
    };
    Arc::new(
        Guard::build(mesh::Guard {
            ports: vec![port],
            ..Default::default()
        })
        .unwrap(),
    )
}

#[test]
fn no_port_is_served_until_every_guard_of_the_set_is_held() {
    let mut built = Built::default();
    assert!(matches!(
        State::link(built.clone()).served(8080),
        Err(NotServed::Incomplete)
    ));

    built.workload = Some(workload("shop", &["guard/shop/a", "guard/shop/b"]));
    built.guards.insert("guard/shop/a".into(), guard(8080));
    assert!(matches!(
        State::link(built.clone()).served(8080),
        Err(NotServed::Incomplete)
    ));

    built.guards.insert("guard/shop/b".into(), guard(9090));
    let state = State::link(built);
    assert!(state.served(8080).is_ok());
    assert!(state.served(9090).is_ok());
    assert!(matches!(state.served(22), Err(NotServed::NoGuard)));
}

/// A Guard of `shop/<name>` over port 8080 of this protocol.
fn guard_of(name: &str, protocol: mesh::Protocol) -> Arc<Guard> {
    let sent = mesh::Guard {
        namespace: "shop".into(),
        service: name.into(),
        ports: vec![mesh::GuardPort {
            port: 8080,
            protocol: protocol.into(),
        }],
        ..Default::default()
    };
    Arc::new(Guard::build(sent).unwrap())
}

fn access(service: &str, connections: bool) -> (String, Arc<Access>) {
    let sent = mesh::Access {
        namespace: "shop".into(),
        name: format!("{service}-{connections}"),
        services: vec![mesh::ServiceRef {
            namespace: "shop".into(),
            name: service.into(),
        }],
        connections,
        authorization: Some(mesh::Authorization::default()),
        ..Default::default()
    };
    let built = Access::build(sent, None, &Default::default()).unwrap();
    (format!("access/{}", built.object), Arc::new(built))
}

#[test]
fn who_may_enter_is_asked_whatever_another_service_declares_the_port_to_be() {
    use mesh::Protocol::{Detect, Http, Http2, Tcp};
    // (protocols of the ports of Services a and b, who has a policy, and whether it is for
    // connections) → (policies for requests, for connections, whether bytes are refused unread)
    for (protocols, policies, expected) in [
        ([Http, Tcp], vec![("a", false)], (1, 0, true)),
        ([Tcp, Http], vec![("a", false)], (1, 0, true)),
        ([Tcp, Http], vec![("b", false)], (1, 0, true)),
        ([Http2, Tcp], vec![("b", true)], (1, 1, false)),
        ([Tcp, Detect], vec![("a", true)], (1, 1, false)),
        ([Detect, Detect], vec![("b", true)], (1, 1, false)),
        ([Tcp, Tcp], vec![("a", false)], (1, 0, true)),
        // Rules for requests, and others for connections to another port of the same Service.
        ([Http, Http], vec![("a", false), ("a", true)], (1, 1, true)),
        ([Tcp, Tcp], vec![("a", false), ("a", true)], (2, 1, false)),
        ([Detect, Tcp], vec![("a", false), ("a", true)], (2, 1, true)),
        ([Http, Tcp], vec![("a", false), ("b", true)], (2, 1, true)),
    ] {
        let mut built = Built {
            workload: Some(workload("shop", &["guard/shop/a", "guard/shop/b"])),
            ..Built::default()
        };
        for (name, protocol) in ["a", "b"].into_iter().zip(protocols) {
            let id = format!("guard/shop/{name}");
            built.guards.insert(id, guard_of(name, protocol));
        }
        built.access.extend(
            policies
                .iter()
                .map(|(service, connections)| access(service, *connections)),
        );
        let state = State::link(built);
        let served = state.served(8080).unwrap();
        let found = (
            served.for_requests().len(),
            served.for_connections().len(),
            served.reads_requests(),
        );
        assert_eq!(found, expected, "{protocols:?} {policies:?}");
        // Bytes that nobody reads do not enter where one of them reads requests.
        let http = protocols.iter().any(|one| matches!(one, Http | Http2));
        let declared = matches!(served.protocol, Protocol::Http | Protocol::Http2);
        assert_eq!(declared, http, "{protocols:?}");
    }
}

#[test]
fn plaintext_is_taken_where_that_is_said_and_a_guard_covers_the_port_and_no_sooner() {
    let mut built = Built::default();
    let says = |permissive: bool, ports: &[u32]| {
        let sent = mesh::Workload {
            guards: vec!["guard/shop/a".into(), "guard/shop/b".into()],
            permissive,
            permissive_ports: ports.to_vec(),
            ..Default::default()
        };
        Some(Arc::new(Workload::build(sent).unwrap()))
    };
    let taken = |built: &Built| {
        let state = State::link(built.clone());
        let taken = |port: &u16| state.served(*port).is_ok_and(|served| served.permissive);
        Vec::from_iter([8080, 9090, 22].into_iter().filter(taken))
    };
    built.workload = says(true, &[8080]);
    built.guards.insert("guard/shop/a".into(), guard(8080));
    assert!(taken(&built).is_empty(), "the set is not complete");
    built.guards.insert("guard/shop/b".into(), guard(9090));
    assert_eq!(taken(&built), [8080, 9090]);
    built.workload = says(false, &[9090, 22]);
    assert_eq!(taken(&built), [9090], "no Guard covers the other");
    built.workload = says(false, &[]);
    assert!(taken(&built).is_empty());
    let wrong = mesh::Workload {
        permissive_ports: vec![65536],
        ..Default::default()
    };
    assert!(Workload::build(wrong).is_err());
}

#[test]
fn the_bare_name_means_the_own_namespace_and_addresses_select_whatever_the_host() {
    let mut built = Built::default();
    for service in [
        service("shop", "orders", "10.0.0.1"),
        service("other", "orders", "10.0.0.2"),
    ] {
        built.services.insert(service.key.to_string(), service);
    }
    built.workload = Some(workload("other", &[]));
    let state = State::link(built);
    assert_eq!(
        state.named("orders").unwrap().key.to_string(),
        "other/orders"
    );
    assert_eq!(
        state.named("Orders.Shop").unwrap().key.to_string(),
        "shop/orders"
    );
    let called = state.called("10.0.0.1:80".parse().unwrap()).unwrap();
    assert_eq!(called.service.key.to_string(), "shop/orders");
    assert!(state.called("10.0.0.1:81".parse().unwrap()).is_none());
    assert!(state.is_virtual("10.0.0.1".parse().unwrap()));
}

#[test]
fn a_consumers_route_wins_over_the_producers_in_either_order() {
    let route = |name: &str, consumer: bool| {
        let sent = mesh::Route {
            namespace: "x".into(),
            name: name.into(),
            services: vec![mesh::ServiceRef {
                namespace: "shop".into(),
                name: "orders".into(),
            }],
            consumer,
            ..Default::default()
        };
        (name.to_owned(), Arc::new(Route::build(sent, None).unwrap()))
    };
    let mut built = Built::default();
    built.routes.extend([route("a", true), route("b", false)]);
    let state = State::link(built);
    let route = state.route(&ServiceKey::new("shop", "orders")).unwrap();
    assert_eq!(route.object.as_ref(), "x/a");
}
