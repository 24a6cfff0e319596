//! Small worlds at random: few names, so that objects meet often.

use std::collections::BTreeMap;
use std::sync::Arc;

use compiler::{Inputs, ObjectKey, ObjectKind, ObjectRef};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wire::generation::Input;

use self::events::{broker, event_subscription, publish};

mod events;

/// One object that comes, changes or goes; or something that holds for all of them.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    ApiRoute(ObjectKey, Option<Value>),
    RetryPolicy(ObjectKey, Option<Value>),
    RateLimit(ObjectKey, Option<Value>),
    EventSubscription(ObjectKey, Option<Value>),
    Service(ObjectKey, Option<Value>),
    EndpointSlice(ObjectKey, Option<Value>),
    Pod(ObjectKey, Option<Value>),
    Namespace(ObjectKey, Option<Value>),
    Consumer(ObjectKey, Option<Value>),
    Credential(ObjectKey, Option<Value>),
    Broker(ObjectKey, Option<Value>),
    Precedence(ObjectRef, Option<u64>),
    TrustDomain(&'static str),
    ClusterDomain(&'static str),
    OperatorNamespace(&'static str),
    Root(u8),
}

impl Edit {
    /// Makes the edit, at a moment that is later than every one before.
    pub(crate) fn apply(&self, inputs: &mut Inputs) {
        let input = match self {
            Edit::ApiRoute(key, value) => set(&mut inputs.api_routes, key, value, Input::ApiRoute),
            Edit::RetryPolicy(key, value) => {
                let place = Input::RetryPolicy;
                set(&mut inputs.retry_policies, key, value, place)
            }
            Edit::RateLimit(key, value) => {
                set(&mut inputs.rate_limits, key, value, Input::RateLimit)
            }
            Edit::EventSubscription(key, value) => {
                let place = Input::EventSubscription;
                set(&mut inputs.event_subscriptions, key, value, place)
            }
            Edit::Service(key, value) => set(&mut inputs.services, key, value, Input::Service),
            Edit::EndpointSlice(key, value) => {
                let place = Input::EndpointSlice;
                set(&mut inputs.endpoint_slices, key, value, place)
            }
            Edit::Pod(key, value) => set(&mut inputs.pods, key, value, Input::Pod),
            Edit::Namespace(key, value) => {
                set(&mut inputs.namespaces, key, value, Input::Namespace)
            }
            Edit::Consumer(key, value) => set(&mut inputs.consumers, key, value, Input::Consumer),
            Edit::Credential(key, value) => {
                set(&mut inputs.credentials, key, value, Input::Credential)
            }
            Edit::Broker(key, value) => set(&mut inputs.brokers, key, value, Input::Broker),
            Edit::Precedence(object, given) => {
                match given {
                    Some(given) => drop(inputs.precedence.insert(object.clone(), *given)),
                    None => drop(inputs.precedence.remove(object)),
                }
                object.kind.input()
            }
            Edit::TrustDomain(domain) => {
                (*domain).clone_into(&mut inputs.settings.trust_domain);
                Input::Settings
            }
            Edit::ClusterDomain(domain) => {
                (*domain).clone_into(&mut inputs.settings.cluster_domain);
                Input::Settings
            }
            Edit::OperatorNamespace(namespace) => {
                (*namespace).clone_into(&mut inputs.settings.namespace);
                Input::Settings
            }
            Edit::Root(root) => {
                inputs.settings.roots = vec![vec![*root]];
                Input::Settings
            }
        };
        inputs.seen.observe(input, inputs.seen.at(input) + 1);
    }
}

fn set<T: DeserializeOwned>(
    objects: &mut BTreeMap<ObjectKey, Arc<T>>,
    key: &ObjectKey,
    value: &Option<Value>,
    input: Input,
) -> Input {
    match value {
        None => drop(objects.remove(key)),
        Some(value) => {
            let mut value = value.clone();
            value["metadata"]["name"] = json!(key.name);
            value["metadata"]["namespace"] = json!(key.namespace);
            let object = serde_json::from_value(value).unwrap();
            objects.insert(key.clone(), Arc::new(object));
        }
    }
    input
}

/// Edits of small worlds.
pub(crate) fn edits(longest: usize) -> impl Strategy<Value = Vec<Edit>> {
    let routes = ["first", "second", "third", "fourth"];
    let services = ["orders", "order", "payments"];
    let slices = ["s1", "s2", "s3"];
    let pods = ["p1", "p2", "p3", "p4"];
    let edit = prop_oneof![
        6 => (key(&routes), option::weighted(0.8, api_route()))
            .prop_map(|(key, value)| Edit::ApiRoute(key, value)),
        4 => (key(&routes), option::weighted(0.8, retry_policy()))
            .prop_map(|(key, value)| Edit::RetryPolicy(key, value)),
        4 => (key(&routes), option::weighted(0.8, rate_limit()))
            .prop_map(|(key, value)| Edit::RateLimit(key, value)),
        4 => (key(&routes), option::weighted(0.8, event_subscription()))
            .prop_map(|(key, value)| Edit::EventSubscription(key, value)),
        4 => (key(&services), option::weighted(0.8, service()))
            .prop_map(|(key, value)| Edit::Service(key, value)),
        3 => (key(&slices), option::weighted(0.8, slice()))
            .prop_map(|(key, value)| Edit::EndpointSlice(key, value)),
        4 => (key(&pods), option::weighted(0.8, pod()))
            .prop_map(|(key, value)| Edit::Pod(key, value)),
        2 => (key(&slices), option::weighted(0.8, consumer()))
            .prop_map(|(key, value)| Edit::Consumer(key, value)),
        1 => (key(&slices), option::weighted(0.8, credential()))
            .prop_map(|(key, value)| Edit::Credential(key, value)),
        3 => (key(&slices), option::weighted(0.8, broker()))
            .prop_map(|(key, value)| Edit::Broker(key, value)),
        2 => (select(vec!["shop", "web"]), option::weighted(0.8, namespace()))
            .prop_map(|(name, value)| Edit::Namespace(ObjectKey::namespace(name), value)),
        1 => (select(Vec::from(ObjectKind::ALL)), key(&routes), option::of(0..3u64))
            .prop_map(|(kind, key, given)| Edit::Precedence(ObjectRef::new(kind, &key), given)),
        1 => select(vec!["cluster.local", "example.org"]).prop_map(Edit::TrustDomain),
        1 => select(vec!["cluster.local", "example.org"]).prop_map(Edit::ClusterDomain),
        1 => select(vec!["shop", "web", "meshwright-system"]).prop_map(Edit::OperatorNamespace),
        1 => (0..2u8).prop_map(Edit::Root),
    ];
    vec(edit, 1..longest)
}

fn key(names: &[&'static str]) -> impl Strategy<Value = ObjectKey> + use<> {
    (select(vec!["shop", "web"]), select(names.to_vec()))
        .prop_map(|(namespace, name)| ObjectKey::new(namespace, name))
}

fn api_route() -> impl Strategy<Value = Value> {
    let host = select(vec![
        "orders",
        "orders.shop",
        "payments.shop.svc",
        "payments.shop.svc.cluster.local",
        "order.web",
        "payments",
        "api.example.com",
    ]);
    let backend = (
        select(vec!["Service", "Service", "ApiRoute"]),
        select(vec![
            "orders", "orders", "payments", "nothing", "first", "second", "third",
        ]),
        option::of(select(vec!["shop", "web", "bank"])),
        select(vec![80, 81]),
        0..3u32,
    );
    let backend = backend.prop_map(|(kind, name, namespace, port, weight)| {
        json!({
            "kind": kind, "name": name, "namespace": namespace, "port": port, "weight": weight,
        })
    });
    // One that no sidecar could match makes the object as good as absent.
    let path = prop_oneof![
        9 => Just(json!(null)),
        2 => Just(json!({"type": "Regex", "value": "/a+"})),
        1 => Just(json!({"type": "Regex", "value": "/(a"})),
    ];
    let mirror = (
        select(vec!["orders", "payments", "nothing"]),
        select(vec!["shop", "web", "bank"]),
    );
    let mirror = mirror.prop_map(|(name, namespace)| {
        json!({"backendRef": {"name": name, "namespace": namespace, "port": 80}})
    });
    let mirror = option::weighted(0.3, mirror);
    let rule = (path, vec(backend, 0..3), mirror).prop_map(|(path, backends, mirror)| {
        json!({"matches": [{"path": path}], "backendRefs": backends, "mirror": mirror})
    });
    let rule = prop_oneof![2 => rule, 1 => publish()];
    (
        vec(host, 1..3),
        vec(rule, 0..3),
        select(vec!["Declared", "Declared", "HTTP", "GRPC", "TCP"]),
        select(vec![
            json!(null),
            json!("2026-01-01T00:00:00Z"),
            json!("2026-01-02T00:00:00Z"),
        ]),
        0..3,
        access(),
        cache(),
    )
        .prop_map(
            |(hosts, rules, protocol, created, generation, (auth, authorization), cache)| {
                json!({
                    "apiVersion": "meshwright.dev/v1alpha1",
                    "kind": "ApiRoute",
                    "metadata": {"creationTimestamp": created, "generation": generation},
                    "spec": {
                        "hosts": hosts, "rules": rules, "protocol": protocol,
                        "auth": auth, "authorization": authorization, "cache": cache,
                    },
                })
            },
        )
}

/// What it says of who may enter: mostly nothing, and sometimes what can't be understood.
fn access() -> impl Strategy<Value = (Value, Value)> {
    let auth = select(vec![
        json!(null),
        json!(null),
        json!({"apiKey": {}}),
        json!({"apiKey": {"plans": ["gold"]}}),
        json!({"introspection": {
            "endpoint": "http://issuer/i", "clientID": "a",
            "clientSecretRef": {"name": "s1", "key": "password"},
        }}),
    ]);
    let authorization = select(vec![
        json!(null),
        json!(null),
        json!({"rules": [{"principals": {"serviceAccounts": ["web"]}}]}),
        json!({"rules": [{"principals": {"roles": ["nobody"]}}]}),
    ]);
    (auth, authorization)
}

/// Which answers are kept: mostly none.
fn cache() -> impl Strategy<Value = Value> {
    select(vec![
        json!(null),
        json!(null),
        json!({}),
        json!({"defaultTTL": "30s", "keyHeaders": ["X-Tenant"], "keyQuery": []}),
        json!({"atCaller": {"maxAge": "20s"}}),
    ])
}

fn consumer() -> impl Strategy<Value = Value> {
    let hash = format!("sha256:{}", "0".repeat(64));
    let hash = select(vec![hash.clone(), hash, "none".to_owned()]);
    let (plan, id) = (select(vec!["gold", "free"]), select(vec!["key1", "key2"]));
    (plan, id, hash).prop_map(|(plan, id, hash)| {
        json!({
            "metadata": {"labels": {
                "meshwright.dev/consumer": "acme", "meshwright.dev/plan": plan,
            }},
            "stringData": {"keyID": id, "keyHash": hash},
        })
    })
}

fn credential() -> impl Strategy<Value = Value> {
    let text = select(vec!["hunter2", "redis://orders:6379"]);
    (select(vec!["password", "token"]), text).prop_map(|(key, text)| {
        json!({
            "metadata": {"labels": {"meshwright.dev/credential": ""}},
            "stringData": {key: text},
        })
    })
}

fn retry_policy() -> impl Strategy<Value = Value> {
    let target = (
        select(vec!["orders", "order", "payments"]),
        option::of(select(vec!["shop", "web"])),
    );
    let services = target.prop_map(
        |(name, namespace)| json!({"kind": "Service", "name": name, "namespace": namespace}),
    );
    let section = option::of(select(vec!["a", "rule-0", "rule-1"]));
    let route = (
        select(vec!["first", "second", "third"]),
        option::of(select(vec!["shop", "web"])),
        section,
    );
    let routes = route.prop_map(|(name, namespace, section)| {
        json!({
            "kind": "ApiRoute", "name": name, "namespace": namespace, "sectionName": section,
        })
    });
    let target = prop_oneof![2 => services, 1 => routes];
    let retries = select(vec![json!(null), json!(0), json!(3)]);
    let breaker = select(vec![json!(null), json!({})]);
    let balancing = select(vec![
        json!(null),
        json!({"type": "RoundRobin", "slowStart": "10s"}),
        json!({"type": "ConsistentHash", "hashOn": {"type": "Source"}}),
        json!({"type": "ConsistentHash", "hashOn": {"type": "Header", "name": "X-User"}}),
        // Refused by the schema, and by the compiler.
        json!({"type": "ConsistentHash"}),
    ]);
    let check = select(vec![
        json!(null),
        json!({"path": "/health"}),
        json!({"path": "/../health"}),
    ]);
    let created = select(vec![
        json!(null),
        json!("2026-01-01T00:00:00Z"),
        json!("2026-01-02T00:00:00Z"),
    ]);
    let fields = (balancing, check, retries, breaker);
    (vec(target, 1..3), fields, created, 0..3).prop_map(
        |(targets, (balancing, check, retries, breaker), created, generation)| {
            json!({
                "apiVersion": "meshwright.dev/v1alpha1",
                "kind": "RetryPolicy",
                "metadata": {"creationTimestamp": created, "generation": generation},
                "spec": {
                    "targetRefs": targets, "loadBalancing": balancing, "healthCheck": check,
                    "maxRetries": retries, "circuitBreaker": breaker,
                },
            })
        },
    )
}

fn rate_limit() -> impl Strategy<Value = Value> {
    let target = (
        select(vec!["Service", "Service", "ApiRoute"]),
        select(vec!["orders", "payments", "order", "first", "second"]),
    );
    let target = target.prop_map(|(kind, name)| match kind {
        "Service" => json!({"kind": kind, "name": name}),
        _ => json!({"group": "meshwright.dev", "kind": kind, "name": name}),
    });
    let limit = select(vec![
        json!({"name": "a", "requests": 1, "per": "1s"}),
        json!({"name": "a", "requests": 9, "per": "1m", "burst": 3, "key": {"type": "Consumer"}}),
        // Refused by the compiler.
        json!({"name": "a", "requests": 1, "per": "1s", "paths": [{"type": "Regex", "value": "/(a"}]}),
    ]);
    let store = select(vec![
        json!(null),
        json!({"redis": {"urlSecretRef": {"name": "s1", "key": "password"}}}),
    ]);
    (vec(target, 1..3), limit, store, 0..3).prop_map(|(targets, limit, store, generation)| {
        let scope = if store.is_null() {
            "PerReplica"
        } else {
            "Shared"
        };
        json!({
            "apiVersion": "meshwright.dev/v1alpha1",
            "kind": "RateLimit",
            "metadata": {"generation": generation},
            "spec": {"targetRefs": targets, "limits": [limit], "scope": scope, "store": store},
        })
    })
}

fn service() -> impl Strategy<Value = Value> {
    let ports = select(vec![
        json!([{"name": "http", "port": 80, "targetPort": "web"}]),
        json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81}]),
        json!([{"name": "tcp", "port": 80}]),
        json!([]),
    ]);
    let selector = select(vec![
        json!({"app": "a"}),
        json!({"app": "a", "track": "new"}),
        json!({"app": "b"}),
        json!({}),
        json!(null),
    ]);
    let type_ = prop_oneof![9 => Just("ClusterIP"), 1 => Just("ExternalName")];
    let address = select(vec!["10.0.0.1", "10.0.0.2", "None"]);
    let external = select(vec!["api.example.com", "orders.shop.svc.cluster.local"]);
    let all = (ports, selector, type_, address, external);
    all.prop_map(|(ports, selector, type_, address, external)| {
        let external = (type_ == "ExternalName").then_some(external);
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {},
            "spec": {
                "type": type_, "ports": ports, "selector": selector, "clusterIP": address,
                "externalName": external,
            },
        })
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint = (
        0..4u8,
        option::of(select(vec!["p1", "p2", "p3", "p4"])),
        option::of(any::<bool>()),
        option::of(0..2u8),
    );
    let endpoint = endpoint.prop_map(|(address, pod, ready, uid)| {
        let uid = uid.map(|uid| uid.to_string());
        let pod = pod.map(|pod| json!({"kind": "Pod", "name": pod, "uid": uid}));
        json!({
            "addresses": [format!("10.1.0.{address}")],
            "conditions": {"ready": ready},
            "targetRef": pod,
        })
    });
    (select(vec!["orders", "payments"]), vec(endpoint, 0..4)).prop_map(|(service, endpoints)| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "tcp", "port": 80}],
            "endpoints": endpoints,
        })
    })
}

fn namespace() -> impl Strategy<Value = Value> {
    let mode = select(vec![json!(null), json!("permissive"), json!("strict")]);
    let unknown = select(vec![json!(null), json!("refuse"), json!("allow")]);
    (mode, unknown).prop_map(|(mode, unknown)| {
        let mut labels = serde_json::Map::new();
        let pairs = [
            ("meshwright.dev/mode", mode),
            ("meshwright.dev/unknown-addresses", unknown),
        ];
        for (key, value) in pairs.into_iter().filter(|(_, value)| !value.is_null()) {
            labels.insert(key.to_owned(), value);
        }
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"labels": labels}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    (
        select(vec!["a", "b"]),
        select(vec!["old", "new"]),
        select(vec!["app", "meshwright-sidecar"]),
        select(vec!["Running", "Running", "Failed"]),
        0..2u8,
        select(vec!["true", "false"]),
    )
        .prop_map(|(app, track, container, phase, uid, carries)| {
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"uid": uid.to_string(), "labels": {
                    "app": app, "track": track, "meshwright.dev/carries-events": carries,
                }},
                "spec": {"serviceAccountName": app, "containers": [{
                    "name": container,
                    "ports": [{"name": "web", "containerPort": 8080 + u16::from(uid)}],
                }]},
                "status": {"phase": phase},
            })
        })
}
