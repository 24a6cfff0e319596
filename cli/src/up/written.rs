//! What a mesh keeps written for others to read: the operator, the sidecars, the workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::PoisonError;

use anyhow::Context as _;
use compiler::ObjectKey;
use k8s_openapi::api::core::v1::Service;

use super::fleet::Running;
use super::mesh::Mesh;
use super::pod::Phase;
use super::{hosts, runtime};

// === impl Mesh ===

impl Mesh {
    pub(super) fn write_tokens(&mut self) -> anyhow::Result<()> {
        let issued = self.pods.values().map(|pod| &pod.issued);
        runtime::write_tokens(&self.around.layout.tokens(), issued)
            .context("writing the table of tokens")?;
        self.tokens_written = true;
        Ok(())
    }

    /// Tells the operator what runs, and the workloads where it is.
    pub(super) fn write_runtime(&mut self) -> anyhow::Result<()> {
        let folder = self.around.layout.runtime();
        let pods: Vec<_> = self
            .pods
            .values()
            .map(|pod| {
                let ready = pod.phase == Phase::Ready;
                runtime::pod(
                    &pod.identity,
                    pod.template.as_ref(),
                    pod.place.address,
                    ready,
                )
            })
            .collect();
        runtime::write_documents(&folder.join("pods.yaml"), &pods).context("writing the Pods")?;
        let mut services = Vec::new();
        for (key, service) in &self.plan.services {
            let written = self
                .plan
                .documents
                .get(&("Service".to_owned(), key.clone()));
            if let (Some(address), Some(written)) = (self.addresses.service(key, service), written)
            {
                services.push(runtime::service(&written.value, address));
            }
        }
        runtime::write_documents(&folder.join("services.yaml"), &services)
            .context("writing the Services")?;
        let namespaces: BTreeSet<_> = self.pods.keys().map(|key| key.namespace.clone()).collect();
        for namespace in namespaces {
            self.write_hosts(&namespace)?;
        }
        Ok(())
    }

    pub(super) fn write_hosts(&mut self, namespace: &str) -> anyhow::Result<()> {
        let mut services = BTreeMap::new();
        for (key, service) in &self.plan.services {
            let addresses = match self.addresses.service(key, service) {
                Some(address) => vec![address],
                None => self.behind(service),
            };
            services.insert(key.clone(), addresses);
        }
        let domain = &self.around.cluster_domain;
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = services
            .iter()
            .map(|(key, addresses)| {
                (
                    format!("{}.{}.svc.{domain}", key.name, key.namespace),
                    addresses.clone(),
                )
            })
            .collect();
        let text = hosts::render(namespace, &services, domain);
        hosts::write(&self.around.layout.hosts(namespace), &text).context("writing a hosts file")
    }

    /// The addresses of the ready pods that a headless Service selects.
    fn behind(&self, service: &Service) -> Vec<Ipv4Addr> {
        let selected = |(key, pod): &(&ObjectKey, &Running)| {
            pod.phase == Phase::Ready && selects(service, key, pod)
        };
        self.pods
            .iter()
            .filter(selected)
            .map(|(_, pod)| pod.place.address)
            .collect()
    }
}

/// Whether a pod is one of those behind a Service.
pub(super) fn selects(service: &Service, key: &ObjectKey, pod: &Running) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    let (Some(selector), Some(template)) = (selector, &pod.template) else {
        return false;
    };
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    key.namespace == namespace
        && !selector.is_empty()
        && selector
            .iter()
            .all(|(name, value)| template.labels.get(name) == Some(value))
}
