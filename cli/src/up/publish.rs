//! Ports of Services published on this machine.
//!
//! A published connection enters the mesh at the ingress, a workload that has a sidecar and no
//! application: so routes, policies and mutual TLS hold for it as for any other call.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use compiler::ObjectKey;
use k8s_openapi::api::core::v1::Service;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::gate::{Destination, Gate};
use super::ground::Place;
use super::link::{BindError, HostLink};

/// A request to publish: `[NAMESPACE/]SERVICE[:SERVICE-PORT]=PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Any, when not said.
    namespace: Option<String>,
    service: String,
    /// The Service's first, when not said.
    port: Option<u16>,
    /// On this machine.
    on: u16,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) service: ObjectKey,
    pub(super) port: u16,
}

/// A port that is published. Connections wait until it is opened.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) at: SocketAddr,
    listener: Option<std::net::TcpListener>,
    accepting: Option<Accepting>,
}

/// Connections being let in.
#[derive(Debug)]
struct Accepting {
    task: JoinHandle<()>,
    to: watch::Sender<Destination>,
}

// === impl Publish ===

impl Publish {
    /// What to publish and on which port, for [`str::parse`] on the other side.
    pub(super) fn to_parts(&self) -> (String, u16) {
        let namespace = self
            .namespace
            .as_ref()
            .map_or_else(String::new, |namespace| format!("{namespace}/"));
        let port = self
            .port
            .map_or_else(String::new, |port| format!(":{port}"));
        (format!("{namespace}{}{port}", self.service), self.on)
    }
}

impl std::str::FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` should look like web=8080 or shop/web:80=8080");
        let (service, on) = text.split_once('=').ok_or_else(wrong)?;
        let (namespace, service) = match service.split_once('/') {
            Some((namespace, service)) => (Some(namespace.to_owned()), service),
            None => (None, service),
        };
        let (service, port) = match service.split_once(':') {
            Some((service, port)) => (service, Some(port.parse().map_err(|_| wrong())?)),
            None => (service, None),
        };
        if service.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            namespace,
            service: service.to_owned(),
            port,
            on: on.parse().map_err(|_| wrong())?,
        })
    }
}

/// What is to be published where, by the Services' node ports and by what was asked for on the
/// command line, which wins. Port 0 stands for any.
pub(super) fn wanted(
    services: &BTreeMap<ObjectKey, Arc<Service>>,
    asked: &[Publish],
) -> anyhow::Result<BTreeMap<Target, u16>> {
    let mut wanted = BTreeMap::new();
    for (key, service) in services {
        let Some(spec) = &service.spec else { continue };
        if matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
            for port in spec.ports.iter().flatten() {
                let Ok(number) = u16::try_from(port.port) else {
                    continue;
                };
                let on = port
                    .node_port
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(0);
                wanted.insert(
                    Target {
                        service: key.clone(),
                        port: number,
                    },
                    on,
                );
            }
        }
    }
    for publish in asked {
        let fits: Vec<_> = services
            .iter()
            .filter(|(key, _)| {
                key.name == publish.service
                    && publish
                        .namespace
                        .as_ref()
                        .is_none_or(|namespace| *namespace == key.namespace)
            })
            .collect();
        let [(key, service)] = fits.as_slice() else {
            let known: Vec<_> = services
                .keys()
                .map(|key| format!("{}/{}", key.namespace, key.name))
                .collect();
            bail!(
                "--publish: {} Service is named `{}`; there are {}",
                if fits.is_empty() {
                    "no"
                } else {
                    "more than one"
                },
                publish.service,
                known.join(", ")
            );
        };
        let first = || {
            let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
            u16::try_from(port).ok()
        };
        let port = publish
            .port
            .or_else(first)
            .with_context(|| format!("--publish: Service `{}` has no port", publish.service))?;
        wanted.insert(
            Target {
                service: (*key).clone(),
                port,
            },
            publish.on,
        );
    }
    Ok(wanted)
}

/// Takes a port of this machine for a Service.
pub(super) async fn take(
    host: &mut HostLink,
    target: &Target,
    on: u16,
) -> anyhow::Result<Published> {
    // Not on other addresses: what is tried out is nobody else's business.
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, on));
    let Target { service, port } = target;
    let listener = host.bind(wanted).await.map_err(|error| match error {
        BindError::Taken => anyhow::anyhow!(
            "Service {service} wants to be at {wanted}, but that is taken (by another `meshwright up`, perhaps); \
             choose another port with `--publish {service}:{port}={}`",
            on.checked_add(1).unwrap_or(8080),
        ),
        BindError::Other(why) => anyhow::anyhow!("Service {service} can't be at {wanted}: {why}"),
    })?;
    let at = listener.local_addr()?;
    Ok(Published {
        at,
        listener: Some(listener),
        accepting: None,
    })
}

// === impl Published ===

impl Published {
    /// Lets connections in from now on, until it is dropped or the gate is closed.
    pub(super) fn open(
        &mut self,
        gate: &Gate,
        ingress: Arc<Place>,
        destination: Destination,
    ) -> std::io::Result<()> {
        if let Some(accepting) = &self.accepting {
            accepting.to.send_replace(destination);
        } else if let Some(listener) = self.listener.take() {
            let listener = TcpListener::from_std(listener)?;
            let (to, leads) = watch::channel(destination);
            let task = tokio::spawn(gate.clone().let_in(listener, ingress, leads));
            self.accepting = Some(Accepting { task, to });
        }
        Ok(())
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> BTreeMap<ObjectKey, Arc<Service>> {
        let service = |document| Arc::new(serde_json::from_value(document).unwrap());
        BTreeMap::from([
            (
                ObjectKey::new("shop", "web"),
                service(serde_json::json!({
                    "spec": { "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30080 }] }
                })),
            ),
            (
                ObjectKey::new("shop", "orders"),
                service(serde_json::json!({ "spec": { "ports": [{ "port": 8080 }] } })),
            ),
        ])
    }

    fn target(service: &str, port: u16) -> Target {
        Target {
            service: ObjectKey::new("shop", service),
            port,
        }
    }

    #[test]
    fn a_node_port_is_published_and_a_cluster_ip_is_not() {
        assert_eq!(
            wanted(&services(), &[]).unwrap(),
            BTreeMap::from([(target("web", 80), 30080)])
        );
    }

    #[test]
    fn what_is_asked_for_on_the_command_line_wins() {
        let asked = [
            "web=8080".parse().unwrap(),
            "shop/orders=0".parse().unwrap(),
        ];
        let wanted = wanted(&services(), &asked).unwrap();
        assert_eq!(
            wanted,
            BTreeMap::from([(target("web", 80), 8080), (target("orders", 8080), 0)])
        );
    }

    #[test]
    fn a_service_that_is_not_there_is_answered_with_those_that_are() {
        let error = wanted(&services(), &["billing=1".parse().unwrap()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("shop/orders, shop/web"), "{error}");
    }
}
