//! Endpoints: the addresses that mean a Service, and who answers behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};
use wire::mesh::{self, Protocol};

use crate::host;
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings};
use crate::pod_settings;
use crate::workload;

/// The label by which a slice names its Service.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// How the bytes of a Service's port are read: as it is declared, else as the first bytes tell. What
/// is encrypted by the application (`https`, `tls`) is opaque.
pub fn protocol(port: &ServicePort) -> Protocol {
    declared(port).unwrap_or(Protocol::Detect)
}

/// The same, where an ApiRoute has said what ports carry that declare nothing.
pub(crate) fn carries(port: &ServicePort, said: Option<Protocol>) -> Protocol {
    declared(port).or(said).unwrap_or(Protocol::Detect)
}

/// Whether what a port carries is declared to be encrypted by the application.
pub(crate) fn is_tls(port: &ServicePort) -> bool {
    word(port, |word| {
        matches!(word, "https" | "tls" | "wss").then_some(())
    })
    .is_some()
}

fn declared(port: &ServicePort) -> Option<Protocol> {
    word(port, |word| match word {
        "http" | "ws" | "grpc-web" => Some(Protocol::Http),
        "http2" | "h2c" | "grpc" => Some(Protocol::Http2),
        "tcp" | "https" | "tls" | "wss" | "mongo" | "mysql" | "postgres" | "postgresql"
        | "redis" | "amqp" | "nats" | "kafka" | "smtp" => Some(Protocol::Tcp),
        _ => None,
    })
}

/// What is known by `appProtocol`, else by the first word of the port's name.
fn word<T>(port: &ServicePort, known: impl Fn(&str) -> Option<T>) -> Option<T> {
    let declared = port.app_protocol.as_deref().map(str::to_ascii_lowercase);
    let declared = declared
        .as_deref()
        .map(|name| name.strip_prefix("kubernetes.io/").unwrap_or(name));
    let first_word = port.name.as_deref().and_then(|name| {
        // gRPC-Web is HTTP/1.1 like any other; gRPC is not.
        let web = name == "grpc-web" || name.starts_with("grpc-web-");
        if web {
            Some("grpc-web")
        } else {
            name.split('-').next()
        }
    });
    declared
        .and_then(&known)
        .or_else(|| first_word.and_then(&known))
}

/// Whether a name in DNS stands for the Service and nothing more: nothing of it can be governed.
pub(crate) fn is_external_name(service: &Service) -> bool {
    let type_ = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    type_ == Some("ExternalName")
}

/// A Service's ports that carry TCP, with their numbers.
pub(crate) fn tcp_ports(service: &Service) -> impl Iterator<Item = (u16, &ServicePort)> {
    service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((u16::try_from(port.port).ok().filter(|n| *n != 0)?, port)))
}

/// Whether some port of a Service may carry HTTP, as far as is declared. Of one without ports nothing
/// is known.
pub(crate) fn speaks_http(service: &Service) -> bool {
    let mut ports = tcp_ports(service).peekable();
    ports.peek().is_none() || ports.any(|(_, port)| protocol(port) != Protocol::Tcp)
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(&*key.namespace, name))
}

/// The pods that slices name.
pub(crate) fn pods_of<'a>(
    namespace: &str,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeSet<ObjectKey> {
    slices
        .flat_map(|slice| &slice.endpoints)
        .filter_map(|endpoint| pod_of(namespace, endpoint))
        .collect()
}

/// The addresses by which a Service is called: virtual ones, and those of its pods.
pub(crate) fn addresses(compiled: &mesh::Endpoints) -> BTreeSet<IpAddr> {
    let endpoints = compiled.ports.iter().flat_map(|port| &port.endpoints);
    let own = endpoints.filter(|endpoint| endpoint.own_address);
    let own = own.map(|endpoint| &endpoint.address);
    let all = compiled.addresses.iter().chain(own);
    all.filter_map(|address| address.parse().ok()).collect()
}

/// The Endpoints of a Service.
pub(crate) fn compile<'a>(
    (key, service, said): (&ObjectKey, &Service, Option<Protocol>),
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    pods: &Objects<Pod>,
    settings: &Settings,
) -> mesh::Endpoints {
    let family = family(service);
    let ports = tcp_ports(service)
        .map(|(number, port)| mesh::ServicePort {
            port: number.into(),
            name: port.name.clone().unwrap_or_default(),
            protocol: carries(port, said).into(),
            endpoints: endpoints(key, port, family, slices.clone(), pods, settings),
        })
        .collect();
    mesh::Endpoints {
        namespace: key.namespace.clone(),
        service: key.name.clone(),
        hosts: host::names(key, &settings.cluster_domain),
        addresses: cluster_ips(service),
        ports,
    }
}

/// The ready endpoints of one port, in the order of addresses.
fn endpoints<'a>(
    service: &ObjectKey,
    port: &ServicePort,
    family: &str,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    pods: &Objects<Pod>,
    settings: &Settings,
) -> Vec<mesh::Endpoint> {
    // While the endpoint controller moves an endpoint between slices it is in both.
    let mut found: BTreeMap<(IpAddr, u16), mesh::Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type == family) {
        let Some(number) = number_in(slice, port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().filter(|endpoint| is_ready(endpoint)) {
            // All addresses of an endpoint mean the same; the first is the one in use.
            let address = endpoint.addresses.first().map(|address| address.parse());
            let Some(Ok(address)) = address else {
                continue;
            };
            if let Some(compiled) = compiled(service, endpoint, address, number, pods, settings) {
                found.entry((address, number)).or_insert(compiled);
            }
        }
    }
    found.into_values().collect()
}

/// The addresses by which a Service's endpoints are called: of its first family. A Service of both
/// has each of its pods twice; each counts once.
fn family(service: &Service) -> &str {
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.as_ref());
    if let Some(first) = families.and_then(|families| families.first()) {
        return first;
    }
    // In a folder nobody filled it in.
    let address = spec.and_then(|spec| spec.cluster_ip.as_ref());
    match address.and_then(|address| address.parse().ok()) {
        Some(IpAddr::V6(_)) => "IPv6",
        Some(IpAddr::V4(_)) | None => "IPv4",
    }
}

/// `None` for an endpoint whose pod hasn't been seen, or was replaced by another of its name, or is
/// another namespace's: not knowing whether it is meshed, its callers would send it plaintext. A
/// pod that hasn't been seen is seen in a moment.
fn compiled(
    service: &ObjectKey,
    endpoint: &discovery::Endpoint,
    address: IpAddr,
    port: u16,
    pods: &Objects<Pod>,
    settings: &Settings,
) -> Option<mesh::Endpoint> {
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    let zones = zones.into_iter().flatten().map(|zone| zone.name.clone());
    let mut compiled = mesh::Endpoint {
        address: address.to_string(),
        port: port.into(),
        for_zones: zones.collect(),
        ..mesh::Endpoint::default()
    };
    if !names_pod(endpoint) {
        return Some(compiled);
    }
    let key = pod_of(&service.namespace, endpoint)?;
    let pod = pods.get(&key)?;
    let named = endpoint.target_ref.as_ref()?.uid.as_deref();
    let seen = pod.metadata.uid.as_deref();
    if let (Some(named), Some(seen)) = (named, seen)
        && named != seen
    {
        return None;
    }
    compiled.pod = key.to_string();
    compiled.own_address = has_address(pod, address);
    // At a port that is excluded there is the application itself, which proves nothing.
    let excluded = || pod_settings::excluded_inbound(pod).contains(&port);
    if workload::is_meshed(pod) && !excluded() {
        compiled.identity = workload::identity(&key, pod, settings);
    }
    Some(compiled)
}

/// Whether the address is one that the pod was given.
fn has_address(pod: &Pod, address: IpAddr) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let given = status.pod_ips.iter().flatten().map(|given| &given.ip);
    let mut given = given.chain(&status.pod_ip);
    // On the host's network it is the node's, where others listen too.
    let on_the_host = pod.spec.as_ref().and_then(|spec| spec.host_network);
    on_the_host != Some(true) && given.any(|given| given.parse() == Ok(address))
}

fn names_pod(endpoint: &discovery::Endpoint) -> bool {
    let target = endpoint.target_ref.as_ref();
    target.is_some_and(|target| target.kind.as_deref() == Some("Pod"))
}

/// The pod that an endpoint of a slice in `namespace` names.
fn pod_of(namespace: &str, endpoint: &discovery::Endpoint) -> Option<ObjectKey> {
    let target = endpoint.target_ref.as_ref()?;
    let name = target.name.as_deref()?;
    // A slice can name pods of its own namespace only: whoever may write slices in one namespace
    // could otherwise lend their addresses another namespace's identity.
    let here = target
        .namespace
        .as_deref()
        .is_none_or(|named| named == namespace);
    (here && names_pod(endpoint)).then(|| ObjectKey::new(namespace, name))
}

/// Absent means ready; what is ending is not, whatever it says.
fn is_ready(endpoint: &discovery::Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|conditions| {
        conditions.ready != Some(false) && conditions.terminating != Some(true)
    })
}

/// The number that the slice has for a Service's port; the two go by the same name.
fn number_in(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    slice
        .ports
        .iter()
        .flatten()
        .filter(|candidate| is_tcp(candidate.protocol.as_deref()))
        .find(|candidate| candidate.name.as_deref().unwrap_or_default() == name)
        .and_then(|candidate| u16::try_from(candidate.port?).ok())
        .filter(|number| *number != 0)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// The virtual addresses; none for a headless Service.
fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let one = spec.cluster_ip.iter();
    let all = spec.cluster_ips.iter().flatten();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in one.chain(all).filter_map(|address| address.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.iter().map(IpAddr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: Option<&str>, app_protocol: Option<&str>) -> ServicePort {
        ServicePort {
            port: 80,
            name: name.map(str::to_owned),
            app_protocol: app_protocol.map(str::to_owned),
            ..ServicePort::default()
        }
    }

    #[test]
    fn the_declared_protocol_comes_before_the_name_and_without_either_the_bytes_tell() {
        for (name, app_protocol, expected) in [
            (None, None, Protocol::Detect),
            (Some("http"), None, Protocol::Http),
            (Some("grpc-web"), None, Protocol::Http),
            (Some("grpc-web-public"), None, Protocol::Http),
            (Some("tcp"), Some("grpc-web"), Protocol::Http),
            (Some("admin"), None, Protocol::Detect),
            (Some("tcp-admin"), None, Protocol::Tcp),
            (Some("https"), None, Protocol::Tcp),
            (Some("http"), Some("tcp"), Protocol::Tcp),
            (Some("tcp"), Some("http"), Protocol::Http),
            (Some("tcp"), Some("kubernetes.io/ws"), Protocol::Http),
            (Some("tcp"), Some("example.com/own"), Protocol::Tcp),
            (None, Some("example.com/own"), Protocol::Detect),
            (None, Some("HTTP"), Protocol::Http),
            (Some("grpc"), None, Protocol::Http2),
            (Some("grpc-api"), None, Protocol::Http2),
            (Some("grpc-webhook"), None, Protocol::Http2),
            (Some("h2c"), None, Protocol::Http2),
            (Some("http2"), None, Protocol::Http2),
            (None, Some("gRPC"), Protocol::Http2),
            (Some("http"), Some("grpc"), Protocol::Http2),
            (Some("http"), Some("http2"), Protocol::Http2),
            (Some("http"), Some("kubernetes.io/h2c"), Protocol::Http2),
        ] {
            assert_eq!(
                protocol(&port(name, app_protocol)),
                expected,
                "{name:?} {app_protocol:?}"
            );
        }
    }
}
