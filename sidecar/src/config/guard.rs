//! Guard → [`Guard`]: which ports of this workload are served, and Workload → [`Workload`]: the
//! complete set of Guards that must be held before any port is.

use std::sync::Arc;

use wire::mesh;

use super::service::{Protocol, parse_port};

/// Who may enter at a Service's ports in this pod.
#[derive(Debug)]
pub struct Guard {
    /// `namespace/name` of the Service.
    pub service: Arc<str>,
    /// Ports that the application listens on.
    pub ports: Vec<(u16, Protocol)>,
    /// Ids of the Access resources that must be held before anybody enters.
    pub access: Vec<String>,
}

/// What this workload is.
#[derive(Debug)]
pub struct Workload {
    /// `namespace/pod`.
    pub pod: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its own identity, as the operator sees it.
    pub identity: String,
    /// Ids of the Guards that make the set complete.
    pub guards: Vec<String>,
    /// Whether it may not call addresses that mean nothing in the mesh.
    pub refuse_unknown: bool,
    /// Whether every port that a Guard covers takes plaintext.
    pub permissive: bool,
    /// Ports that do, if a Guard covers them.
    pub permissive_ports: Vec<u16>,
    /// The zone that it runs in; empty when that is not known.
    pub zone: Arc<str>,
}

// === build ===

impl Guard {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Guard) -> Result<Self, String> {
        let ports = sent
            .ports
            .iter()
            .map(|port| Ok((parse_port(port.port)?, Protocol::build(port.protocol)?)))
            .collect::<Result<_, String>>()?;
        Ok(Self {
            service: format!("{}/{}", sent.namespace, sent.service).into(),
            ports,
            access: sent.access,
        })
    }
}

impl Workload {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Workload) -> Result<Self, String> {
        let ports = sent.permissive_ports.into_iter().map(parse_port);
        Ok(Self {
            refuse_unknown: sent.refuse_unknown,
            permissive: sent.permissive,
            permissive_ports: ports.collect::<Result<_, _>>()?,
            pod: format!("{}/{}", sent.namespace, sent.pod).into(),
            namespace: sent.namespace.into(),
            identity: sent.identity,
            guards: sent.guards,
            zone: sent.zone.into(),
        })
    }

    /// Whether a port that a Guard covers takes plaintext.
    pub fn takes_plaintext(&self, port: u16) -> bool {
        self.permissive || self.permissive_ports.contains(&port)
    }
}
