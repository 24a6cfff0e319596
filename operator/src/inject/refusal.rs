//! Which pods can't have a sidecar, and why.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{REDIRECT, SIDECAR, UID};

/// The ports that the sidecar listens on.
pub(super) const PORTS: [i32; 6] = [15000, 15001, 15006, 15020, 15021, 15090];
/// Why a pod can't have a sidecar, for the person who made it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The redirect would be the whole node's.
    #[error(
        "it uses the host's network (hostNetwork: true), where a sidecar would redirect the whole node"
    )]
    HostNetwork,
    /// There is no sidecar for it.
    #[error("it is a Windows pod, for which there is no sidecar")]
    Windows,
    /// The container's connections would pass for the sidecar's own.
    #[error(
        "{0} runs as user {UID}, which is the sidecar's: its calls would go around the mesh; let it run as another user"
    )]
    SameUser(String),
    /// Two can't listen on one port.
    #[error(
        "container {container} has port {port}, which is the sidecar's; let it listen on another port"
    )]
    Port {
        /// Of the pod.
        container: String,
        /// One of the sidecar's.
        port: i32,
    },
    /// The sidecar could not ask what the kubelet would.
    #[error("container {container} has a {what} that can't be asked: {why}")]
    Probe {
        /// Of the pod.
        container: String,
        /// "readiness probe", …
        what: &'static str,
        /// A sentence, with the remedy.
        why: String,
    },
    /// All of them together are too much.
    #[error("{0}")]
    Probes(String),
    /// What one sidecar is to be like contradicts itself.
    #[error("metadata.annotations.{annotation} {why}")]
    Setting {
        /// Such as `meshwright.dev/sidecar-memory-limit`.
        annotation: String,
        /// A sentence, with the remedy.
        why: String,
    },
    /// What a label or an annotation says means nothing.
    #[error("{0}")]
    Unreadable(#[from] compiler::permissive::Unreadable),
    /// Who is to capture it means nothing.
    #[error("{place}.{} is {value:?}: write init or cni", super::capture::CAPTURE)]
    Capture {
        /// Whose labels.
        place: &'static str,
        /// What stands there.
        value: String,
    },
    /// It would run, and call others, before anything is captured.
    #[error(
        "its init container {0} comes before meshwright-sidecar, so that its calls would go around the mesh: let \
         whatever puts it there put it behind the others"
    )]
    Before(String),
    /// It has the name and the annotation of what injection puts there, and is something else.
    #[error(
        "it says that it was injected, but its container {container} is not as injection puts it there: {why}; inject \
         it anew from its original file, or call the container something else"
    )]
    Foreign {
        /// Of the pod.
        container: String,
        /// What is not as it would be.
        why: String,
    },
    /// It isn't ours, and would be taken for it.
    #[error(
        "it has a container called {0}, which is not one that injection puts there; call it something else"
    )]
    Name(String),
    /// It would never be ready.
    #[error(
        "the mesh's root has ended, at {0}, so that it would trust nobody; an operator that runs since there is another \
         root gives it one (docs/certificates.md, \"When a root has ended\")"
    )]
    RootsEnded(String),
}

// === what a sidecar can't do ===

/// Of a pod whose first `own` init containers are the mesh's.
///
/// # Errors
/// When a sidecar could not do in this pod what it promises.
pub(super) fn check(spec: &PodSpec, own: usize) -> Result<(), Refusal> {
    if spec.host_network == Some(true) {
        return Err(Refusal::HostNetwork);
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Err(Refusal::Windows);
    }
    let user = spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    if user == Some(UID) {
        return Err(Refusal::SameUser("the pod".into()));
    }
    spec.init_containers
        .iter()
        .flatten()
        .skip(own)
        .chain(&spec.containers)
        .try_for_each(check_container)
}

fn check_container(container: &Container) -> Result<(), Refusal> {
    let name = || container.name.clone();
    if [SIDECAR, REDIRECT].contains(&container.name.as_str()) {
        return Err(Refusal::Name(name()));
    }
    let user = container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    if user == Some(UID) {
        return Err(Refusal::SameUser(format!("container {}", container.name)));
    }
    let ports = container
        .ports
        .iter()
        .flatten()
        .map(|port| port.container_port);
    if let Some(port) = ports.into_iter().find(|port| PORTS.contains(port)) {
        return Err(Refusal::Port {
            container: name(),
            port,
        });
    }
    Ok(())
}
