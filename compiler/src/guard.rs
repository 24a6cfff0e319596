//! Guard: who may enter at which ports of the pods behind a Service.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wire::mesh::{self, Protocol};

use crate::endpoints::{carries, tcp_ports};
use crate::inputs::ObjectKey;

/// The Guard of a Service, from the meshed pods that it selects. Its ports are those that any of
/// the pods listens on for the Service: a rolling update may move a named port.
pub(crate) fn compile<'a>(
    key: &ObjectKey,
    service: &Service,
    declared: Option<Protocol>,
    pods: impl Iterator<Item = &'a Pod>,
) -> mesh::Guard {
    let mut ports: BTreeMap<u16, Protocol> = BTreeMap::new();
    for pod in pods {
        for (number, port) in tcp_ports(service) {
            let Some(target) = target_port(number, port, pod) else {
                continue;
            };
            // Where two of the Service's ports mean one port of the pod and differ, that holds on
            // which more can be enforced.
            let entry = ports.entry(target).or_insert(Protocol::Tcp);
            let protocol = carries(port, declared);
            if enforceable(protocol) > enforceable(*entry) {
                *entry = protocol;
            }
        }
    }
    mesh::Guard {
        namespace: key.namespace.clone(),
        service: key.name.clone(),
        ports: ports
            .into_iter()
            .map(|(port, protocol)| mesh::GuardPort {
                port: port.into(),
                protocol: protocol.into(),
            })
            .collect(),
        access: Vec::new(),
    }
}

/// How much can be enforced on what a port carries.
fn enforceable(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Unspecified | Protocol::Tcp => 0,
        Protocol::Detect => 1,
        Protocol::Http2 => 2,
        // The application is spoken to as its caller speaks, so it holds for HTTP/2 as well.
        Protocol::Http => 3,
    }
}

/// The port of the pod that a Service's port means; `None` when it is named and the pod has no port
/// of that name.
pub(crate) fn target_port(number: u16, port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None => Some(number),
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok().filter(|port| *port != 0),
        Some(IntOrString::String(name)) => named_port(name, pod),
    }
}

/// As Kubernetes' endpoint controller looks: containers, then init containers that stay running.
fn named_port(name: &str, pod: &Pod) -> Option<u16> {
    let spec = pod.spec.as_ref()?;
    let staying = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(staying)
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .find(|port| port.name.as_deref() == Some(name))
        .and_then(|port| u16::try_from(port.container_port).ok())
        .filter(|port| *port != 0)
}
