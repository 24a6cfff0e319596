//! Endpoints → [`Service`]: the addresses that mean a Service, and who answers behind them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use wire::mesh;

use crate::identity::SpiffeId;

/// `namespace/name` of a Service. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey(Arc<str>);

/// A Service as its callers see it.
#[derive(Debug)]
pub struct Service {
    /// Which Service.
    pub key: ServiceKey,
    /// Every name that means it from anywhere, lower case.
    pub hosts: Vec<String>,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports, at most one for each number.
    pub ports: Vec<Arc<Port>>,
}

/// One port of a Service.
#[derive(Debug)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// How its bytes are read.
    pub protocol: Protocol,
    /// Who is ready to answer.
    pub endpoints: Vec<Endpoint>,
    /// The zones whose callers are to prefer each of them; empty: every zone's. Not in [`Endpoint`]:
    /// one that is hinted elsewhere keeps its connections.
    for_zones: Vec<Vec<String>>,
}

/// How the bytes of a port are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, declared: HTTP/1.1, or HTTP/2 with prior knowledge where the caller speaks it.
    Http,
    /// HTTP/2, declared: the application speaks nothing else (h2c, gRPC).
    Http2,
    /// Opaque, declared.
    Tcp,
    /// Not declared: the first bytes tell.
    Detect,
}

/// One address that answers. Equal endpoints are reached over the same connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who it must prove to be; `None` is outside the mesh and reached in plaintext.
    pub identity: Option<SpiffeId>,
    /// `namespace/pod`, or empty.
    pub pod: Arc<str>,
    /// Whether the address is that pod's own: whoever calls it means the pod.
    pub own_address: bool,
}

// === impl ServiceKey ===

impl ServiceKey {
    /// The key of a Service.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// `namespace/name`, shared.
    pub fn text(&self) -> &Arc<str> {
        &self.0
    }

    /// The namespace and the name.
    pub fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === build ===

impl Service {
    /// Builds from what was sent.
    ///
    /// A port that did not change keeps its `Arc`, and with it the connections behind it.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Endpoints, old: Option<&Service>) -> Result<Self, String> {
        let addresses = sent
            .addresses
            .iter()
            .map(|text| parse_ip(text))
            .collect::<Result<_, _>>()?;
        let ports = sent
            .ports
            .into_iter()
            .map(|port| {
                let built = Port::build(port)?;
                let same = old
                    .and_then(|old| old.port(built.number))
                    .filter(|old| old.protocol == built.protocol)
                    .filter(|old| old.endpoints == built.endpoints)
                    .filter(|old| old.for_zones == built.for_zones);
                Ok(same.cloned().unwrap_or_else(|| Arc::new(built)))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self {
            key: ServiceKey::new(&sent.namespace, &sent.service),
            hosts: sent
                .hosts
                .into_iter()
                .map(|h| h.to_ascii_lowercase())
                .collect(),
            addresses,
            ports,
        })
    }

    /// Whether it has no virtual address: its names lead to its pods' own.
    pub fn is_headless(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&Arc<Port>> {
        self.ports.iter().find(|port| port.number == number)
    }
}

impl Port {
    fn build(sent: mesh::ServicePort) -> Result<Self, String> {
        let number = parse_port(sent.port)?;
        let protocol = Protocol::build(sent.protocol)?;
        let hints = sent.endpoints.iter().map(|one| one.for_zones.clone());
        let for_zones = hints.collect();
        let endpoints = sent
            .endpoints
            .into_iter()
            .map(Endpoint::build)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            number,
            protocol,
            endpoints,
            for_zones,
        })
    }

    /// Each endpoint, and the zones that it is hinted to.
    pub fn hinted(&self) -> impl Iterator<Item = (&Endpoint, &[String])> {
        let for_zones = self.for_zones.iter().map(Vec::as_slice);
        self.endpoints.iter().zip(for_zones)
    }
}

impl Protocol {
    /// Builds from the number sent.
    ///
    /// # Errors
    /// A protocol that this version does not know.
    pub fn build(sent: i32) -> Result<Self, String> {
        match mesh::Protocol::try_from(sent) {
            Ok(mesh::Protocol::Http) => Ok(Self::Http),
            Ok(mesh::Protocol::Http2) => Ok(Self::Http2),
            Ok(mesh::Protocol::Tcp) => Ok(Self::Tcp),
            Ok(mesh::Protocol::Detect) => Ok(Self::Detect),
            Ok(mesh::Protocol::Unspecified) | Err(_) => {
                Err(format!("protocol {sent} is not known to this sidecar"))
            }
        }
    }

    /// How the bytes are read, as the callers of a Service have it: where nothing is declared and an
    /// ApiRoute is about its connections, that declares it.
    pub fn with_connections(self, governed: bool) -> Self {
        match (self, governed) {
            (Self::Detect, true) => Self::Tcp,
            (declared, _) => declared,
        }
    }
}

impl Endpoint {
    fn build(sent: mesh::Endpoint) -> Result<Self, String> {
        let identity = match sent.identity.as_str() {
            "" => None,
            text => Some(
                text.parse::<SpiffeId>()
                    .map_err(|error| error.to_string())?,
            ),
        };
        Ok(Self {
            address: SocketAddr::new(parse_ip(&sent.address)?, parse_port(sent.port)?),
            identity,
            pod: sent.pod.into(),
            own_address: sent.own_address,
        })
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is no IP address"))
}

/// A port number as sent.
///
/// # Errors
/// When it is not between 1 and 65535.
pub fn parse_port(sent: u32) -> Result<u16, String> {
    u16::try_from(sent)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{sent} is no port"))
}
