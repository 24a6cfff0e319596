//! Puts a sidecar into a pod: a pure function from the pod to a JSON patch.
//!
//! ```text
//! init containers, in this order:
//!   meshwright-redirect   once: sends the pod's connections through the sidecar
//!   meshwright-sidecar    stays (restartPolicy Always), ready before anything else starts
//!   the pod's own         and then its containers: their calls are the mesh's from the first on
//! ```
//!
//! The redirect needs NET_ADMIN, and it runs as user 0: the kernel gives a process of another user
//! none of the capabilities that a container is granted, unless they are ambient, which Kubernetes
//! can't ask for. It has no other capability, and ends before the first line of the pod's own runs.
//! A namespace that enforces the Pod Security level `baseline` or `restricted` refuses it: there the
//! node's CNI plugin does the same, and the pod has no such container ([`capture`]).
//!
//! The kubelet's probes and hooks that go over the network are rewritten to ask the sidecar, which
//! asks the application: see [`probes`].
//!
//! The sidecar itself fits `restricted`. The redirect knows it by its user id, so that no container
//! of the pod may have the same.

mod again;
pub mod capture;
mod containers;
mod patch;
mod probes;
mod refusal;
mod sidecar;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use serde_json::json;

use compiler::pod_settings::PodSettings;
use compiler::pod_settings::REDIRECT_CONTAINER;

use again::Before;
use capture::Capture;
use patch::Operations;
pub use refusal::Refusal;
use sidecar::Own;

/// The label, on a namespace or a pod; a pod's own outweighs its namespace's.
pub const LABEL: &str = "meshwright.dev/inject";
/// The annotation of a pod that was injected.
pub const INJECTED: &str = "meshwright.dev/injected";
/// The container that makes a pod one of the mesh.
pub const SIDECAR: &str = "meshwright-sidecar";
/// The init container that installs the redirect.
pub const REDIRECT: &str = REDIRECT_CONTAINER;
/// The user that the sidecar runs as.
pub const UID: i64 = 1337;

/// What a sidecar is to be like, from the operator's command line.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarArgs {
    /// The image of the sidecars that are injected.
    #[arg(long, env = "MESHWRIGHT_SIDECAR_IMAGE", default_value = concat!("ghcr.io/meshwright/sidecar:", env!("CARGO_PKG_VERSION")))]
    pub sidecar_image: String,
    /// When the kubelet pulls it: Always, IfNotPresent or Never.
    #[arg(long, env = "MESHWRIGHT_SIDECAR_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub sidecar_pull_policy: String,
    /// Requests and limits of a sidecar, as JSON.
    #[arg(long, env = "MESHWRIGHT_SIDECAR_RESOURCES", default_value = r#"{"requests":{"cpu":"10m","memory":"32Mi"},"limits":{"memory":"256Mi"}}"#, value_parser = resources)]
    pub sidecar_resources: ResourceRequirements,
    /// What a sidecar logs, as in its own --log.
    #[arg(long, env = "MESHWRIGHT_SIDECAR_LOG", default_value = "info")]
    pub sidecar_log: String,
    /// Who redirects the connections of pods, unless a label says otherwise (meshwright.dev/capture)
    /// or their namespace lets no container have NET_ADMIN: an init container, or the CNI plugin,
    /// which has to be on every node.
    #[arg(long, env = "MESHWRIGHT_CAPTURE", value_enum, default_value_t = Capture::Init)]
    pub capture: Capture,
}

/// What every sidecar is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// What it is to be like.
    pub sidecar: SidecarArgs,
    /// The operator's gRPC address, host:port.
    pub operator: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// The trust bundle at this moment, PEM: what the sidecar trusts first.
    pub roots: String,
    /// When the last of those roots ended, RFC 3339, if it has: a sidecar would trust nobody, nor ever be told of
    /// others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots_ended: Option<String>,
    /// The labels of the pod's namespace.
    #[serde(skip)]
    pub namespace: BTreeMap<String, String>,
    /// What the kubelet shows the sidecar, that nobody else can: letters and digits, another for each
    /// pod.
    #[serde(skip)]
    pub probe_token: String,
}

/// The patch that puts a sidecar into the pod; empty if it is labelled `meshwright.dev/inject: disabled`.
/// Where it has one already, what others have added to the pod since is still refused where it can't be
/// captured, and its probes go to the sidecar: empty if there is nothing of that.
///
/// # Errors
/// When a sidecar could not do there what it promises.
pub fn inject(pod: &Pod, config: &Config) -> Result<json_patch::Patch, Refusal> {
    let metadata = &pod.metadata;
    let label = metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(LABEL));
    let none = json_patch::Patch::default();
    let Some(spec) = &pod.spec else {
        return Ok(none);
    };
    if label.is_some_and(|label| label == "disabled") {
        return Ok(none);
    }
    let before = Before::of(pod, spec, config)?;
    let own = before.as_ref().map_or(0, |before| before.own);
    compiler::permissive::check_pod(metadata)?;
    refusal::check(spec, own)?;
    let settings = PodSettings::read(metadata)?;
    let mut patch = Operations::default();
    // Before anything is put in, by the places that its containers have now.
    let excluded = &settings.exclude_inbound_ports;
    if let Some(before) = before {
        let known = before.probes(config)?;
        let asked = probes::rewrite(spec, own, excluded, known.clone(), &mut patch)?;
        if asked != known
            && let Some(json) = probes::written(&asked)?
        {
            before.ask(json, &mut patch);
        }
        return Ok(patch.into());
    }
    if let Some(when) = &config.roots_ended {
        return Err(Refusal::RootsEnded(when.clone()));
    }
    let probes = probes::rewrite(spec, own, excluded, probes::none(config), &mut patch)?;
    let probes = probes::written(&probes)?;
    let annotations = metadata.annotations.as_ref().map(|all| all.len());
    patch.insert(
        "/metadata/annotations",
        annotations,
        INJECTED,
        json!("true"),
    );
    let volumes = spec.volumes.as_ref().map(Vec::len);
    patch.append(
        "/spec/volumes",
        volumes,
        &[containers::token_volume(), containers::state_volume()],
    );
    let init = spec.init_containers.as_ref().map(Vec::len);
    let own = Own::of(settings, probes, config)?;
    let redirect = containers::redirect(config, &own);
    let sidecar = containers::sidecar(config, &own);
    let put_in = Capture::of(metadata, config)?.containers(redirect, sidecar, &mut patch);
    patch.prepend("/spec/initContainers", init, &put_in);
    Ok(patch.into())
}

fn resources(text: &str) -> Result<ResourceRequirements, String> {
    serde_json::from_str(text).map_err(|error| format!("no resource requirements in JSON: {error}"))
}

#[cfg(test)]
mod tests;
