//! Rules about connections whose bytes nobody reads: `protocol: TCP` and `TLS`.

use crds::{ApiProtocol, BackendRef, RouteRule};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use wire::mesh::{self, Protocol};

use super::{Reader, Refusal, Rules, rule_name};
use crate::endpoints::{protocol, tcp_ports};
use crate::inputs::ObjectKey;

// === impl Reader ===

impl Reader<'_> {
    /// Whether the object's rules are about requests.
    pub(crate) fn reads_requests(&self) -> bool {
        !matches!(self.spec.protocol, ApiProtocol::Tcp | ApiProtocol::Tls)
    }

    /// What the object says that ports carry which declare nothing.
    pub(crate) fn declares(&self) -> Option<Protocol> {
        match self.spec.protocol {
            ApiProtocol::Declared => None,
            ApiProtocol::Http => Some(Protocol::Http),
            ApiProtocol::Grpc => Some(Protocol::Http2),
            ApiProtocol::Tcp | ApiProtocol::Tls => Some(Protocol::Tcp),
        }
    }

    /// Reads `spec.rules`, given the Services that the hosts name.
    pub(super) fn connections(
        &self,
        hosts: &[ObjectKey],
        compiled: &mut Rules,
        refusals: &mut Vec<Refusal>,
    ) {
        for (index, rule) in self.spec.rules.iter().enumerate() {
            let backends = self.backends(index, rule, hosts, compiled, refusals);
            compiled.connections.push(mesh::ConnectionRule {
                name: rule.name.clone().unwrap_or_else(|| rule_name(index)),
                server_names: server_names(rule),
                backends,
                idle_timeout_ms: self.idle_timeout(rule.timeouts.as_ref()),
            });
        }
        if compiled.connections.is_empty() {
            compiled.connections.push(mesh::ConnectionRule {
                name: rule_name(0),
                idle_timeout_ms: self.idle_timeout(None),
                ..mesh::ConnectionRule::default()
            });
        }
    }

    /// Why connections can't go to a backend's port.
    pub(super) fn reads_otherwise(&self, port: &ServicePort, to: &BackendRef) -> Option<String> {
        let of = |what: &str, word: &str| {
            format!(
                "port {} of Service {:?} in namespace {} is declared {what}: set its appProtocol to \
                 {word} if it does",
                to.port,
                to.name,
                to.namespace.as_ref().unwrap_or(&self.key.namespace),
            )
        };
        match (self.reads_requests(), protocol(port)) {
            (true, Protocol::Tcp) => Some(of("not to speak HTTP", "http")),
            (false, Protocol::Http | Protocol::Http2) => Some(of("to speak HTTP", "tcp")),
            _ => None,
        }
    }
}

/// Whether a Service has a port that may carry other bytes than requests.
pub(super) fn carries_bytes(service: &Service) -> bool {
    let mut ports = tcp_ports(service).peekable();
    let is_http = |port| matches!(protocol(port), Protocol::Http | Protocol::Http2);
    ports.peek().is_none() || ports.any(|(_, port)| !is_http(port))
}

fn server_names(rule: &RouteRule) -> Vec<String> {
    let names = rule.matches.iter().filter_map(|one| one.sni.as_ref());
    names.map(|name| name.to_ascii_lowercase()).collect()
}
