//! How long a compilation takes: `cargo bench -p compiler`. A plain program, whose medians are
//! comparable on one machine only.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use compiler::{Inputs, ObjectKey, Output, compile};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use wire::generation::Input;

const NAMESPACES: usize = 10;
const SERVICES_IN_EACH: usize = 100;
const PODS_OF_EACH: usize = 10;

fn main() {
    let mut inputs = world();
    println!(
        "{} routes, {} services, {} endpoints",
        inputs.api_routes.len(),
        inputs.services.len(),
        inputs.pods.len()
    );
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok());
    let rounds: usize = rounds.unwrap_or(200);

    let whole = (0..rounds.div_ceil(10)).map(|_| {
        let start = Instant::now();
        let output = compile(&inputs, Output::default());
        let took = start.elapsed();
        assert!(output.resources.len() > inputs.pods.len());
        took
    });
    report("everything, from scratch", whole.collect());

    let mut output = compile(&inputs, Output::default());
    let mut measure = |what: &str, expected: usize, change: &dyn Fn(&mut Inputs, usize)| {
        let mut times = Vec::new();
        for round in 0..rounds {
            change(&mut inputs, round);
            let before = std::mem::take(&mut output);
            let start = Instant::now();
            output = compile(&inputs, before);
            times.push(start.elapsed());
            assert_eq!(output.changed.len(), expected, "{what}");
        }
        report(what, times);
    };
    measure("nothing changed", 0, &|_, _| {});
    measure(
        "one endpoint unready, or ready again",
        1,
        &|inputs, round| {
            let key = slice_key(round / 2);
            let slice = inputs.endpoint_slices.get_mut(&key).unwrap();
            let mut changed = EndpointSlice::clone(slice);
            let conditions = changed.endpoints[3].conditions.as_mut().unwrap();
            conditions.ready = Some(round % 2 == 1);
            *slice = Arc::new(changed);
        },
    );
    measure(
        "one pod's status, which means nothing",
        0,
        &|inputs, round| {
            let pod = inputs.pods.get_mut(&pod_key(round % 500, 3)).unwrap();
            let mut changed = Pod::clone(pod);
            changed.metadata.resource_version = Some(round.to_string());
            *pod = Arc::new(changed);
        },
    );
    measure(
        "one pod loses its identity to another",
        2,
        &|inputs, round| {
            let pod = inputs.pods.get_mut(&pod_key(round % 500, 3)).unwrap();
            let mut changed = Pod::clone(pod);
            changed.spec.as_mut().unwrap().service_account_name = Some(format!("sa-{round}"));
            *pod = Arc::new(changed);
        },
    );
    measure("one route's weight", 1, &|inputs, round| {
        let key = service_key(round % 500);
        let route = inputs.api_routes.get_mut(&key).unwrap();
        let mut changed = crds::ApiRoute::clone(route);
        changed.spec.rules[0].backend_refs[0].weight = round as u32 + 100;
        *route = Arc::new(changed);
    });
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what:40} median {:>10.1?}  p99 {:>10.1?}", at(50), at(99));
}

fn service_key(number: usize) -> ObjectKey {
    let namespace = format!("team-{:02}", number / SERVICES_IN_EACH);
    ObjectKey::new(
        namespace,
        format!("service-{:03}", number % SERVICES_IN_EACH),
    )
}

fn slice_key(service: usize) -> ObjectKey {
    let ObjectKey { namespace, name } = service_key(service);
    ObjectKey::new(namespace, format!("{name}-x7f4k"))
}

fn pod_key(service: usize, number: usize) -> ObjectKey {
    let ObjectKey { namespace, name } = service_key(service);
    ObjectKey::new(namespace, format!("{name}-6d8f9c7b5-{number:05}"))
}

fn world() -> Inputs {
    let mut inputs = Inputs::default();
    for number in 0..NAMESPACES * SERVICES_IN_EACH {
        let ObjectKey { namespace, name } = service_key(number);
        let other = service_key((number + 1) % SERVICES_IN_EACH).name;
        insert(
            &mut inputs.api_routes,
            json!({
                "apiVersion": "meshwright.dev/v1alpha1",
                "kind": "ApiRoute",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"hosts": [name], "rules": [
                    {"matches": [{"path": {"type": "Prefix", "value": "/v2"}}], "backendRefs": [
                        {"name": name, "port": 80, "weight": 90},
                        {"name": other, "port": 80, "namespace": namespace, "weight": 10},
                    ]},
                    {"timeouts": {"request": "1s"}},
                ]},
            }),
        );
        insert(
            &mut inputs.services,
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"namespace": namespace, "name": name},
                "spec": {
                    "clusterIP": format!("10.96.{}.{}", number / 250, number % 250),
                    "selector": {"app.kubernetes.io/part-of": "shop", "app": name},
                    "ports": [{"name": "http", "port": 80, "targetPort": "web"}],
                },
            }),
        );
        let mut endpoints = Vec::new();
        for place in 0..PODS_OF_EACH {
            let ObjectKey { name: pod, .. } = pod_key(number, place);
            let address = number * PODS_OF_EACH + place;
            let address = format!("10.0.{}.{}", address / 250, address % 250);
            endpoints.push(json!({
                "addresses": [address],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
            }));
            insert(
                &mut inputs.pods,
                json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"namespace": namespace, "name": pod, "labels": {
                        "app.kubernetes.io/part-of": "shop",
                        "app": name,
                        "pod-template-hash": "6d8f9c7b5",
                    }},
                    "spec": {"serviceAccountName": name, "containers": [
                        {"name": "app", "ports": [{"name": "web", "containerPort": 8080}]},
                        {"name": "meshwright-sidecar"},
                    ]},
                    "status": {"phase": "Running", "podIP": address},
                }),
            );
        }
        insert(
            &mut inputs.endpoint_slices,
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": namespace,
                    "name": slice_key(number).name,
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": endpoints,
            }),
        );
    }
    for input in Input::ALL {
        inputs.seen.observe(input, 1);
    }
    inputs
}

fn insert<T: serde::de::DeserializeOwned + kube::Resource>(
    objects: &mut std::collections::BTreeMap<ObjectKey, Arc<T>>,
    value: serde_json::Value,
) {
    let object: T = serde_json::from_value(value).unwrap();
    objects.insert(ObjectKey::of(&object), Arc::new(object));
}
