//! What is kept of an object: what somebody reads. A cluster has many pods.

use compiler::{ObjectKey, permissive, pod_settings};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(super) fn meta(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    // The place in the generation says how new it is; here it would only make every write of a
    // status look like a change.
    meta.resource_version = None;
    meta.owner_references = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.retain(|key, _| key.starts_with("meshwright.dev/"));
    }
}

/// What the mesh is told by it. Nobody else hears of what can't be read: it has no status of ours.
pub(super) fn namespace(key: &ObjectKey, namespace: &mut Namespace) {
    namespace.spec = None;
    namespace.status = None;
    if let Some(labels) = &mut namespace.metadata.labels {
        labels.retain(|key, _| key.starts_with("meshwright.dev/"));
    }
    if let Err(unreadable) = permissive::check_namespace(&namespace.metadata) {
        tracing::warn!(namespace = %key, "{unreadable}");
    }
}

/// What identifies a pod, which ports it names, whether it is meshed, alive and ready.
pub(super) fn pod(pod: &mut Pod) {
    let ports = |mut container: Container| {
        pod_settings::only_exclusions(&mut container);
        Container {
            name: container.name,
            ports: container.ports,
            restart_policy: container.restart_policy,
            args: container.args,
            env: container.env,
            ..Container::default()
        }
    };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        containers: spec.containers.into_iter().map(ports).collect(),
        init_containers: spec
            .init_containers
            .map(|all| all.into_iter().map(ports).collect()),
        service_account_name: spec.service_account_name,
        host_network: spec.host_network,
        node_name: spec.node_name,
        ..PodSpec::default()
    });
    pod.status = pod.status.take().map(|status| PodStatus {
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        conditions: status.conditions.map(|mut conditions| {
            conditions.retain(|condition| condition.type_ == "Ready");
            for condition in &mut conditions {
                condition.last_probe_time = None;
                condition.last_transition_time = None;
                condition.message = None;
                condition.reason = None;
            }
            conditions
        }),
        ..PodStatus::default()
    });
}
