//! Workload: what one pod is, for itself alone.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use wire::{Kind, ResourceId, mesh};

use crate::inputs::{ObjectKey, Settings};
use crate::permissive::{permissive, refuses_unknown};

/// The name of the container that makes a pod a member of the mesh.
pub const SIDECAR_CONTAINER: &str = "meshwright-sidecar";

/// The label, `"true"`, of pods in the operator's namespace whose sidecars carry out the EventSubscriptions whose
/// targets have none: of other namespaces' pods it says nothing.
pub const CARRIES: &str = "meshwright.dev/carries-events";

/// Whether the pod has a sidecar and has not ended. A pod that is being deleted is still meshed:
/// its sidecar serves until the last request has been answered.
pub fn is_meshed(pod: &Pod) -> bool {
    let has_sidecar = pod.spec.as_ref().is_some_and(|spec| {
        let init = spec.init_containers.iter().flatten();
        init.chain(&spec.containers)
            .any(|container| container.name == SIDECAR_CONTAINER)
    });
    has_sidecar && !has_ended(pod)
}

/// Whether nothing of it runs any more.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// Whether it waits for a node, for an image, or for what runs before its application.
pub(crate) fn is_pending(pod: &Pod) -> bool {
    phase(pod) == Some("Pending")
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// The SPIFFE id that the pod's sidecar proves.
pub(crate) fn identity(key: &ObjectKey, pod: &Pod, settings: &Settings) -> String {
    let service_account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    format!(
        "spiffe://{}/ns/{}/sa/{service_account}",
        settings.trust_domain, key.namespace
    )
}

/// The zone of the pod's node: Kubernetes copies the node's label to the pod (from 1.35 on without
/// being asked to). In a folder people write it.
fn zone(pod: &Pod) -> String {
    let labels = pod.metadata.labels.as_ref();
    let zone = labels.and_then(|labels| labels.get("topology.kubernetes.io/zone"));
    zone.cloned().unwrap_or_default()
}

/// What the pod is. `services` are those that select it: each has a Guard, because it selects at
/// least this meshed pod.
pub(crate) fn compile(
    key: &ObjectKey,
    pod: &Pod,
    namespace: Option<&Namespace>,
    services: &BTreeSet<ObjectKey>,
    settings: &Settings,
) -> mesh::Workload {
    let permissive = permissive(pod, namespace);
    mesh::Workload {
        namespace: key.namespace.clone(),
        pod: key.name.clone(),
        identity: identity(key, pod, settings),
        guards: services
            .iter()
            .map(|service| {
                ResourceId::new(Kind::Guard, &*service.namespace, &*service.name).to_string()
            })
            .collect(),
        refuse_unknown: refuses_unknown(namespace),
        permissive: permissive.all,
        permissive_ports: permissive.ports.into_iter().map(u32::from).collect(),
        zone: zone(pod),
    }
}
