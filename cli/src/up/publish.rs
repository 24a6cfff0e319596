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
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

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

/// A port that is published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) at: SocketAddr,
    accepting: JoinHandle<()>,
}

/// How a published connection reaches a Service from inside the ingress.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    /// For explicit proxying.
    pub(super) host: String,
}

// === impl Publish ===

impl Publish {
    /// What to publish and on which port, for [`str::parse`] on the other side.
    pub(super) fn to_parts(&self) -> (String, u16) {
        let namespace = self.namespace.as_ref().map_or_else(String::new, |namespace| format!("{namespace}/"));
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
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
        Ok(Self { namespace, service: service.to_owned(), port, on: on.parse().map_err(|_| wrong())? })
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
                let Ok(number) = u16::try_from(port.port) else { continue };
                let on = port.node_port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
                wanted.insert(Target { service: key.clone(), port: number }, on);
            }
        }
    }
    for publish in asked {
        let fits: Vec<_> = services
            .iter()
            .filter(|(key, _)| {
                key.name == publish.service && publish.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            })
            .collect();
        let [(key, service)] = fits.as_slice() else {
            let known: Vec<_> = services.keys().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
            bail!(
                "--publish: {} Service is named `{}`; there are {}",
                if fits.is_empty() { "no" } else { "more than one" },
                publish.service,
                known.join(", ")
            );
        };
        let first = || {
            let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
            u16::try_from(port).ok()
        };
        let port = publish.port.or_else(first).with_context(|| format!("--publish: Service `{}` has no port", publish.service))?;
        wanted.insert(Target { service: (*key).clone(), port }, publish.on);
    }
    Ok(wanted)
}

/// Publishes one port from now on, until it is dropped.
pub(super) async fn publish(
    host: &mut HostLink,
    target: &Target,
    on: u16,
    ingress: Arc<Place>,
    destination: Destination,
) -> anyhow::Result<Published> {
    // Not on other addresses: what is tried out is nobody else's business.
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, on));
    let Target { service, port } = target;
    let listener = host.bind(wanted).await.map_err(|error| match error {
        BindError::Taken => anyhow::anyhow!(
            "Service {}/{} wants to be at {wanted}, but that is taken (by another `meshwright up`, perhaps); \
             choose another port with `--publish {}/{}:{port}={}`",
            service.namespace,
            service.name,
            service.namespace,
            service.name,
            on.checked_add(1).unwrap_or(8080),
        ),
        BindError::Other(why) => anyhow::anyhow!("Service {}/{} can't be at {wanted}: {why}", service.namespace, service.name),
    })?;
    let listener = TcpListener::from_std(listener)?;
    let at = listener.local_addr()?;
    let accepting = tokio::spawn(async move {
        loop {
            // Out of descriptors, say: the next one may work.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let (ingress, destination) = (ingress.clone(), destination.clone());
            tokio::spawn(async move {
                // A caller is told by its connection's end.
                let _ = relay(stream, &ingress, &destination).await;
            });
        }
    });
    Ok(Published { at, accepting })
}

async fn relay(mut stream: TcpStream, ingress: &Place, to: &Destination) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut inside = if ingress.namespaces.is_some() {
        ingress.connect_as_application((to.address, to.port).into()).await?
    } else {
        through_proxy(ingress, to).await?
    };
    inside.set_nodelay(true)?;
    copy_bidirectional(&mut stream, &mut inside).await?;
    Ok(())
}

/// A connection through the ingress's sidecar as an explicit proxy.
async fn through_proxy(ingress: &Place, to: &Destination) -> std::io::Result<TcpStream> {
    /// The head of a proxy's answer is short.
    const LONGEST_HEAD: usize = 4096;
    let mut stream = TcpStream::connect((ingress.address, 15001)).await?;
    let Destination { host, port, .. } = to;
    stream.write_all(format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    // One byte at a time: what follows the head is the caller's.
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 2") {
        Ok(stream)
    } else {
        Err(std::io::Error::other("the ingress's sidecar refused the connection"))
    }
}

// === impl Published ===

impl Drop for Published {
    fn drop(&mut self) {
        self.accepting.abort();
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
            (ObjectKey::new("shop", "orders"), service(serde_json::json!({ "spec": { "ports": [{ "port": 8080 }] } }))),
        ])
    }

    fn target(service: &str, port: u16) -> Target {
        Target { service: ObjectKey::new("shop", service), port }
    }

    #[test]
    fn a_node_port_is_published_and_a_cluster_ip_is_not() {
        assert_eq!(wanted(&services(), &[]).unwrap(), BTreeMap::from([(target("web", 80), 30080)]));
    }

    #[test]
    fn what_is_asked_for_on_the_command_line_wins() {
        let asked = ["web=8080".parse().unwrap(), "shop/orders=0".parse().unwrap()];
        let wanted = wanted(&services(), &asked).unwrap();
        assert_eq!(wanted, BTreeMap::from([(target("web", 80), 8080), (target("orders", 8080), 0)]));
    }

    #[test]
    fn a_service_that_is_not_there_is_answered_with_those_that_are() {
        let error = wanted(&services(), &["billing=1".parse().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("shop/orders, shop/web"), "{error}");
    }
}
