//! What an operator and a sidecar send each other, and what lies on a volume.

#![allow(
    clippy::needless_update,
    reason = "a field that a message gains needs no example to be sent"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use http::Request;
use prost::Message as _;
use sidecar::config::guard::{Guard, Workload};
use sidecar::config::retry_policy::RetryPolicy;
use sidecar::config::route::{Route, connections};
use sidecar::config::service::Service;
use wire::delta::{Apply, Change, Held, Rejected};
use wire::generation::{Generation, Input};
use wire::resource::Hash;
use wire::{Kind, Resource, ResourceId, discovery, mesh};

use crate::{fuzz, text};

/// A sidecar that enforces what it is given.
#[derive(Default)]
struct Enforced(BTreeMap<ResourceId, Hash>);

impl Apply for Enforced {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        for change in changes {
            match change {
                Change::Put(resource) => drop(self.0.insert(resource.id, resource.hash)),
                Change::Remove(id) => drop(self.0.remove(&id)),
            }
        }
        Vec::new()
    }
}

fn route() -> mesh::Route {
    let path = |path| mesh::Match {
        path: Some(path),
        method: "GET".into(),
        headers: vec![mesh::HeaderMatch {
            name: "x-a".into(),
            value: "1".into(),
            ..Default::default()
        }],
        query: vec![mesh::QueryMatch {
            name: "q".into(),
            value: "^a+$".into(),
            r#type: 1,
        }],
    };
    use mesh::r#match::Path;
    let service = || mesh::ServiceRef {
        namespace: "shop".into(),
        name: "orders".into(),
    };
    mesh::Route {
        namespace: "shop".into(),
        name: "orders".into(),
        services: vec![service()],
        rules: vec![mesh::Rule {
            name: "rule-0".into(),
            matches: vec![
                path(Path::Exact("/a/b".into())),
                path(Path::Prefix("/a".into())),
                path(Path::Pattern("/a/{id}/{rest...}".into())),
                path(Path::Regex("/a/[0-9]+".into())),
            ],
            backends: vec![mesh::Backend {
                service: Some(service()),
                port: 80,
                weight: 1,
                ..Default::default()
            }],
            request_timeout_ms: Some(1000),
            idle_timeout_ms: Some(30_000),
            compression: Some(mesh::Compression { min_bytes: 1024 }),
            concurrency: Some(mesh::Concurrency {
                max: 100,
                queue: 50,
                queue_timeout_ms: 1000,
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn endpoints() -> mesh::Endpoints {
    mesh::Endpoints {
        namespace: "shop".into(),
        service: "orders".into(),
        hosts: vec!["orders.shop".into(), "orders.shop.svc.cluster.local".into()],
        addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
        ports: vec![mesh::ServicePort {
            port: 80,
            name: "http".into(),
            protocol: 1,
            endpoints: vec![mesh::Endpoint {
                address: "10.1.0.1".into(),
                port: 8080,
                pod: "shop/orders-1".into(),
                identity: "spiffe://cluster.local/ns/shop/sa/orders".into(),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn delta() -> Vec<u8> {
    let seen = Input::ALL
        .into_iter()
        .fold(Generation::ZERO, |seen, input| seen.with(input, 7));
    let resource = |id: &str, message: &dyn Fn(ResourceId) -> Resource| {
        discovery::Resource::from(message(id.parse().expect("an id")))
    };
    let delta = discovery::Delta {
        nonce: 1,
        resources: vec![
            resource("route/shop/orders", &|id| {
                Resource::new(id, seen.of(Kind::Route), &[], &route())
            }),
            resource("endpoints/shop/orders", &|id| {
                Resource::new(id, seen.of(Kind::Endpoints), &["x"], &endpoints())
            }),
        ],
        removed: vec![discovery::Removed {
            id: "guard/shop/old".into(),
            generation: Some(seen.into()),
        }],
        complete: true,
        seen: Some(seen.into()),
        ..Default::default()
    };
    delta.encode_to_vec()
}

#[test]
fn fuzz_deltas() {
    fuzz(
        4_000,
        &[&delta()],
        &[b"route/shop/orders", b"guard/a/b"],
        |bytes| {
            let Ok(delta) = discovery::Delta::decode(bytes) else {
                return;
            };
            let (mut held, mut enforced) = (Held::new("1", &["x"]), Enforced::default());
            for _ in 0..2 {
                let mut delta = delta.clone();
                delta.nonce = held.hello().nonce.wrapping_add(1);
                held.receive(delta, &mut enforced).expect("the next one");
                let holds: BTreeMap<_, _> = held
                    .resources()
                    .map(|one| (one.id.clone(), one.hash))
                    .collect();
                assert_eq!(holds, enforced.0);
            }
            let restored = Held::from_bytes(&held.to_bytes()).expect("what was saved");
            assert_eq!(restored.resources().count(), held.resources().count());
        },
    );
}

#[test]
fn fuzz_what_lies_on_the_volume() {
    let (mut held, mut enforced) = (Held::new("1", &["x"]), Enforced::default());
    let mut delta = discovery::Delta::decode(&*delta()).expect("a delta");
    delta.nonce = held.hello().nonce.wrapping_add(1);
    held.receive(delta, &mut enforced).expect("the next one");
    let saved = held.to_bytes();
    fuzz(4_000, &[&saved], &[], |bytes| {
        // Torn is never taken for whole: what is read is what was written, or a beginning of it.
        if let Ok(read) = Held::from_bytes(bytes) {
            assert!(read.resources().all(|one| held.get(&one.id) == Some(one)));
        }
    });
}

#[test]
fn fuzz_resources_and_their_ids() {
    fuzz(
        20_000,
        &[b"route/shop/orders", b"identity/cluster.local/bundle"],
        &[b"guard/", b"endpoints/"],
        text(|text| {
            if let Ok(id) = text.parse::<ResourceId>() {
                assert_eq!(id.to_string(), text);
                let climbs = text.split('/').any(|part| part.starts_with('.'));
                assert!(text.len() < 600 && !climbs, "{text}");
            }
        }),
    );
    let sent = discovery::Delta::decode(&*delta())
        .expect("a delta")
        .resources
        .remove(0)
        .encode_to_vec();
    fuzz(4_000, &[&sent], &[], |bytes| {
        let Ok(sent) = discovery::Resource::decode(bytes) else {
            return;
        };
        if let Ok(resource) = Resource::try_from(sent.clone()) {
            assert_eq!(discovery::Resource::from(resource).hash, sent.hash);
        }
    });
}

#[test]
fn fuzz_generations() {
    let one = discovery::Generation {
        seen: vec![1, 2, 3, 4, 5],
    }
    .encode_to_vec();
    fuzz(10_000, &[&one], &[], |bytes| {
        let read = |bytes: &[u8]| discovery::Generation::decode(bytes).ok();
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let (Some(first), Some(second)) = (read(first), read(second)) else {
            return;
        };
        let (first, second) = (Generation::from(&first), Generation::from(&second));
        let both = first.merge(&second);
        assert!(both.covers(&first) && both.covers(&second));
        assert_eq!(both, second.merge(&first));
        assert_eq!(
            Generation::from(Some(discovery::Generation::from(both))),
            both
        );
        for kind in Kind::ALL {
            assert!(both.covers(&both.of(kind)));
        }
    });
}

#[test]
fn fuzz_routes() {
    let requests = ["/a/b?q=aa", "/a/1/2", "/", "/a/12"].map(|path| {
        let request = Request::get(path)
            .header("x-a", "1")
            .header("host", "orders");
        request.body(()).expect("a request").into_parts().0
    });
    let pieces: &[&[u8]] = &[b"{id}", b"{x...}", b"(a|b)*", b"[^/]+", b"\\", b"(?i)"];
    fuzz(4_000, &[&route().encode_to_vec()], pieces, |bytes| {
        let Ok(sent) = mesh::Route::decode(bytes) else {
            return;
        };
        let rules = sent.rules.len();
        let Ok(route) = Route::build(sent, None) else {
            return;
        };
        for head in &requests {
            assert!(route.find(head).is_none_or(|found| found.rule < rules));
        }
    });
}

#[test]
fn fuzz_routes_of_connections() {
    let rule = |names: &[&str]| mesh::ConnectionRule {
        name: "rule-0".into(),
        server_names: names.iter().map(|name| (*name).to_owned()).collect(),
        idle_timeout_ms: Some(1000),
        ..Default::default()
    };
    let route = mesh::Route {
        connections: vec![rule(&["db.example.com", "*.example.com"]), rule(&[])],
        rules: Vec::new(),
        ..route()
    };
    let pieces: &[&[u8]] = &[b"*.", b".", b"example"];
    fuzz(4_000, &[&route.encode_to_vec()], pieces, |bytes| {
        let Ok(sent) = mesh::Route::decode(bytes) else {
            return;
        };
        let Ok(route) = Route::build(sent, None) else {
            return;
        };
        for asked in [Some("db.example.com"), Some("."), Some(""), None] {
            let found = connections::find(route.connections(), asked);
            assert!(found.is_none_or(|place| place < route.connections().len()));
        }
    });
}

#[test]
fn fuzz_retry_policies() {
    use mesh::load_balancing::Algorithm;
    let hash = mesh::ConsistentHash {
        on: Some(mesh::consistent_hash::On::Header("x-user".into())),
    };
    let policy = mesh::RetryPolicy {
        namespace: "shop".into(),
        name: "orders".into(),
        services: vec![mesh::ServiceRef {
            namespace: "shop".into(),
            name: "orders".into(),
        }],
        load_balancing: Some(mesh::LoadBalancing {
            algorithm: Some(Algorithm::ConsistentHash(hash)),
            slow_start_ms: None,
        }),
        health_check: Some(mesh::HealthCheck {
            path: "/health".into(),
            interval_ms: 5000,
            timeout_ms: 1000,
            unhealthy_threshold: 2,
            healthy_threshold: 2,
        }),
        routes: vec![mesh::RouteTarget {
            route: Some(mesh::RouteRef {
                namespace: "shop".into(),
                name: "orders".into(),
            }),
            rule: "get".into(),
        }],
        retries: Some(mesh::Retries {
            max: 2,
            backoff: Some(mesh::Backoff {
                growth: 1,
                initial_ms: 100,
                multiplier: 2,
                max_ms: 5000,
                jitter: 1,
            }),
            per_try_timeout_ms: Some(1000),
            on: Some(mesh::RetryOn {
                statuses: vec![503],
                grpc_statuses: vec![14],
                reset: true,
                ..Default::default()
            }),
            methods: vec!["GET".into()],
            idempotency_key: "idempotency-key".into(),
            retry_after_max_ms: Some(30_000),
            max_replay_bytes: 65_536,
            hedging: Some(mesh::Hedging {
                after_ms: 100,
                max: 1,
            }),
        }),
        budget: Some(mesh::Budget {
            percent: 20,
            min_per_second: 10,
            window_ms: 10_000,
        }),
        circuit_breaker: Some(mesh::CircuitBreaker {
            consecutive_failures: 5,
            error_percent: 50,
            min_requests: 20,
            window_ms: 10_000,
            on_5xx: true,
            open_for_ms: 30_000,
            max_open_for_ms: 300_000,
            half_open_requests: 1,
            max_ejected_percent: 50,
            ..Default::default()
        }),
        ..Default::default()
    };
    fuzz(
        10_000,
        &[&policy.encode_to_vec()],
        &[b"/", b"//"],
        |bytes| {
            let Ok(sent) = mesh::RetryPolicy::decode(bytes) else {
                return;
            };
            if let Ok(policy) = RetryPolicy::build(sent) {
                if let Some(retries) = &policy.retries {
                    let wait = retries.wait(u32::MAX, Some(Duration::MAX));
                    assert!(wait <= Duration::from_secs(24 * 3600));
                }
                let destination = policy.destination.iter();
                let check = destination.flat_map(|one| &one.health_check);
                let mut bounds =
                    check.flat_map(|one| [one.unhealthy_threshold, one.healthy_threshold]);
                assert!(bounds.all(|bound| bound > 0));
            }
        },
    );
}

#[test]
fn fuzz_endpoints_guards_and_workloads() {
    fuzz(
        10_000,
        &[&endpoints().encode_to_vec()],
        &[b"::1", b"0.0.0.0"],
        |bytes| {
            let Ok(sent) = mesh::Endpoints::decode(bytes) else {
                return;
            };
            if let Ok(first) = Service::build(sent.clone(), None) {
                // An update of the same is the same.
                let again = Service::build(sent, Some(&first)).expect("it was right");
                assert_eq!(format!("{first:?}"), format!("{again:?}"));
            }
        },
    );
    let guard = mesh::Guard {
        namespace: "shop".into(),
        service: "orders".into(),
        ports: vec![mesh::GuardPort {
            port: 8080,
            protocol: 1,
        }],
        access: vec!["access/shop/orders".into()],
    };
    fuzz(10_000, &[&guard.encode_to_vec()], &[], |bytes| {
        if let Ok(sent) = mesh::Guard::decode(bytes) {
            let _ = Guard::build(sent);
        }
    });
    let workload = mesh::Workload {
        namespace: "shop".into(),
        pod: "orders-1".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/orders".into(),
        guards: vec!["guard/shop/orders".into()],
        ..Default::default()
    };
    fuzz(10_000, &[&workload.encode_to_vec()], &[], |bytes| {
        if let Ok(sent) = mesh::Workload::decode(bytes) {
            let _ = Workload::build(sent);
        }
    });
}
