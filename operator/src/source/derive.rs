//! EndpointSlices from Services and Pods, as Kubernetes' endpoint controller makes them: a folder
//! has no controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use compiler::{Inputs, ObjectKey};
use k8s_openapi::api::core::v1::{
    Container, ObjectReference, Pod, PodStatus, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that Kubernetes copies from a node to its pods.
const ZONE: &str = "topology.kubernetes.io/zone";

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The ports of a slice, as numbers: pods that resolve a named port differently need slices of
/// their own, and so do the two families of addresses.
type Group = (bool, Vec<Option<i32>>);

/// The slices of every Service that has a selector and no slice in `inputs`.
pub(crate) fn endpoint_slices(inputs: &Inputs) -> BTreeMap<ObjectKey, EndpointSlice> {
    // Explicit slices win: whoever wrote one wants exactly those endpoints.
    let written: BTreeSet<ObjectKey> = inputs
        .endpoint_slices
        .iter()
        .filter_map(|(key, slice)| {
            let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
            Some(ObjectKey {
                namespace: key.namespace.clone(),
                name,
            })
        })
        .collect();
    inputs
        .services
        .iter()
        .filter(|(key, _)| !written.contains(key))
        .flat_map(|(key, service)| slices_of(key, service, &inputs.pods))
        .collect()
}

fn slices_of(
    key: &ObjectKey,
    service: &Service,
    pods: &BTreeMap<ObjectKey, Arc<Pod>>,
) -> Vec<(ObjectKey, EndpointSlice)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(selector) = spec.selector.as_ref().filter(|s| !s.is_empty()) else {
        return Vec::new();
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let first = ObjectKey {
        namespace: key.namespace.clone(),
        name: String::new(),
    };
    for (pod_key, pod) in pods
        .range(first..)
        .take_while(|(k, _)| k.namespace == key.namespace)
    {
        let labels = pod.metadata.labels.as_ref();
        let selected = selector
            .iter()
            .all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v));
        if !selected || !takes_traffic(pod, spec) {
            continue;
        }
        let numbers: Vec<_> = ports.iter().map(|port| target(port, pod)).collect();
        for address in addresses(pod) {
            groups
                .entry((address.is_ipv6(), numbers.clone()))
                .or_default()
                .push(endpoint(pod_key, pod, address));
        }
    }
    groups.values_mut().for_each(|group| hint(spec, group));
    groups
        .into_iter()
        .enumerate()
        .map(|(n, ((v6, numbers), endpoints))| {
            let name = format!("{}-{n}", key.name);
            let slice = slice(key, &name, v6, ports, &numbers, endpoints);
            (
                ObjectKey {
                    namespace: key.namespace.clone(),
                    name,
                },
                slice,
            )
        })
        .collect()
}

fn slice(
    service: &ObjectKey,
    name: &str,
    v6: bool,
    ports: &[ServicePort],
    numbers: &[Option<i32>],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let ports = ports
        .iter()
        .zip(numbers)
        .filter_map(|(port, number)| {
            Some(EndpointPort {
                // A Service's only port may be without a name; in a slice that is the empty name.
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some((*number)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(service.namespace.clone()),
            labels: Some(BTreeMap::from([
                (SERVICE_NAME.to_owned(), service.name.clone()),
                (MANAGED_BY.to_owned(), "meshwright".to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints,
        ports: Some(ports),
    }
}

/// Hints endpoints to their own zones where the Service asks for it and all of them have one, as
/// Kubernetes' controller does.
fn hint(service: &ServiceSpec, endpoints: &mut [Endpoint]) {
    let asked = matches!(
        service.traffic_distribution.as_deref(),
        Some("PreferClose" | "PreferSameZone" | "PreferSameNode")
    );
    if !asked || endpoints.iter().any(|endpoint| endpoint.zone.is_none()) {
        return;
    }
    for endpoint in endpoints {
        let zone = endpoint.zone.clone().map(|name| ForZone { name });
        endpoint.hints = Some(EndpointHints {
            for_zones: Some(Vec::from_iter(zone)),
            ..EndpointHints::default()
        });
    }
}

fn endpoint(key: &ObjectKey, pod: &Pod, address: IpAddr) -> Endpoint {
    let labels = pod.metadata.labels.as_ref();
    Endpoint {
        zone: labels.and_then(|labels| labels.get(ZONE)).cloned(),
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// Not finished, not on its way out, and ready unless the Service doesn't care.
fn takes_traffic(pod: &Pod, service: &ServiceSpec) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let asked = service.publish_not_ready_addresses == Some(true);
    !finished && !leaving && (asked || is_ready(status))
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// One address of each family at most, as in a Pod's status.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all: Vec<IpAddr> = status
        .pod_ip
        .as_deref()
        .into_iter()
        .chain(listed)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    all.sort();
    all.dedup_by_key(|ip| ip.is_ipv6());
    all
}

/// The number that a Service's port has in this pod; none when the pod has no port of that name.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            // Init containers that keep running (native sidecars) may be named too.
            let lasting = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(lasting)
                .find_map(|c| named_port(c, name, protocol))
        }
    }
}

fn named_port(container: &Container, name: &str, protocol: &str) -> Option<i32> {
    let mut ports = container.ports.iter().flatten();
    let port = ports.find(|p| {
        p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    })?;
    Some(port.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        }
    }

    fn pod(inputs: &mut Inputs, name: &str, ip: &str, ready: &str, port: u16) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "shop", "labels": { "app": "orders" }, "uid": name },
            "spec": { "containers": [{
                "name": "app", "ports": [{ "name": "web", "containerPort": port }] }] },
            "status": { "podIP": ip, "phase": "Running",
                        "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap();
        inputs.pods.insert(key(name), Arc::new(pod));
    }

    fn service(inputs: &mut Inputs, spec: serde_json::Value) {
        let service =
            json!({ "metadata": { "name": "orders", "namespace": "shop" }, "spec": spec });
        let service: Service = serde_json::from_value(service).unwrap();
        inputs.services.insert(key("orders"), Arc::new(service));
    }

    fn summary(inputs: &Inputs) -> Vec<String> {
        let slices = endpoint_slices(inputs);
        let line = |slice: &EndpointSlice| {
            let ports: Vec<_> = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|p| p.port)
                .collect();
            let addresses: Vec<_> = slice.endpoints.iter().flat_map(|e| &e.addresses).collect();
            format!(
                "{:?} {ports:?} {addresses:?}",
                slice.metadata.name.as_deref().unwrap()
            )
        };
        slices.values().map(line).collect()
    }

    #[test]
    fn a_service_gets_the_ready_pods_that_it_selects() {
        let mut inputs = Inputs::default();
        pod(&mut inputs, "orders-1", "10.0.0.1", "True", 8080);
        pod(&mut inputs, "orders-2", "10.0.0.2", "False", 8080);
        pod(&mut inputs, "orders-3", "10.0.0.3", "True", 8080);
        service(
            &mut inputs,
            json!({
            "selector": { "app": "orders" }, "ports": [{ "port": 80, "targetPort": 8080 }] }),
        );
        assert_eq!(
            summary(&inputs),
            [r#""orders-0" [8080] ["10.0.0.1", "10.0.0.3"]"#]
        );
    }

    #[test]
    fn pods_that_name_a_port_differently_are_told_apart() {
        let mut inputs = Inputs::default();
        pod(&mut inputs, "orders-1", "10.0.0.1", "True", 8080);
        pod(&mut inputs, "orders-2", "10.0.0.2", "True", 9090);
        service(
            &mut inputs,
            json!({
            "selector": { "app": "orders" }, "ports": [{ "port": 80, "targetPort": "web" }] }),
        );
        assert_eq!(
            summary(&inputs),
            [
                r#""orders-0" [8080] ["10.0.0.1"]"#,
                r#""orders-1" [9090] ["10.0.0.2"]"#
            ]
        );
    }

    #[test]
    fn an_explicit_slice_wins() {
        let mut inputs = Inputs::default();
        pod(&mut inputs, "orders-1", "10.0.0.1", "True", 8080);
        service(
            &mut inputs,
            json!({
            "selector": { "app": "orders" }, "ports": [{ "port": 80 }] }),
        );
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "name": "mine", "namespace": "shop",
                          "labels": { "kubernetes.io/service-name": "orders" } },
            "addressType": "IPv4", "endpoints": [] }))
        .unwrap();
        inputs.endpoint_slices.insert(key("mine"), Arc::new(slice));
        assert!(summary(&inputs).is_empty());
    }

    #[test]
    fn a_service_without_a_selector_gets_none() {
        let mut inputs = Inputs::default();
        pod(&mut inputs, "orders-1", "10.0.0.1", "True", 8080);
        service(&mut inputs, json!({ "ports": [{ "port": 80 }] }));
        assert!(summary(&inputs).is_empty());
    }

    #[test]
    fn a_pod_on_its_way_out_takes_no_traffic() {
        let mut inputs = Inputs::default();
        pod(&mut inputs, "orders-1", "10.0.0.1", "True", 8080);
        let leaving = inputs.pods.get_mut(&key("orders-1")).unwrap();
        let now = k8s_openapi::jiff::Timestamp::now();
        Arc::make_mut(leaving).metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        service(
            &mut inputs,
            json!({
            "selector": { "app": "orders" }, "ports": [{ "port": 80 }] }),
        );
        assert!(summary(&inputs).is_empty());
    }
}
