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
//! A namespace that enforces the pod security level `baseline` or `restricted` refuses it.
//!
//! The sidecar itself fits `restricted`. The redirect knows it by its user id, so that no container
//! of the pod may have the same.

use k8s_openapi::api::core::v1::{Container, Lifecycle, Pod, PodSpec, Probe, ResourceRequirements};
use serde_json::{Value, json};

/// The label, on a namespace or a pod; a pod's own outweighs its namespace's.
pub const LABEL: &str = "meshwright.dev/inject";
/// The annotation of a pod that was injected.
pub const INJECTED: &str = "meshwright.dev/injected";
/// The container that makes a pod one of the mesh.
pub const SIDECAR: &str = "meshwright-sidecar";
/// The init container that installs the redirect.
pub const REDIRECT: &str = "meshwright-redirect";
/// The user that the sidecar runs as.
pub const UID: i64 = 1337;

/// The ports that the sidecar listens on.
const PORTS: [i32; 5] = [15000, 15001, 15006, 15020, 15021];
/// Where the sidecar looks for its token.
const TOKEN_FOLDER: &str = "/var/run/secrets/meshwright";
/// Where the sidecar keeps what it must have after a restart; it makes a folder in it that is its
/// own alone.
const STATE_FOLDER: &str = "/var/run/meshwright/state";
/// How long a token is valid, in seconds; the kubelet replaces it in time. The sidecar needs it
/// once, and again if it was away for longer than its certificate lives.
const TOKEN_SECONDS: i64 = 3600;
/// How often the kubelet asks a sidecar that starts whether it is ready, before it kills it: a day
/// of seconds. One that waits for its operator must not be killed for it: each time would be
/// followed by a longer pause, and it is to be ready within seconds of the operator's return.
const STARTUP_TRIES: i32 = 86_400;

/// What a sidecar is to be like, from the operator's command line.
#[derive(Clone, Debug, clap::Args)]
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
}

/// What every sidecar is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it is to be like.
    pub sidecar: SidecarArgs,
    /// The operator's gRPC address, host:port.
    pub operator: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// The trust bundle at this moment, PEM: what the sidecar trusts first.
    pub roots: String,
}

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
    /// The kubelet has no identity in the mesh, and the sidecar lets no one else in.
    #[error(
        "container {container} has a {what} by {how}, which the sidecar would refuse as plaintext; use exec instead, or none"
    )]
    Kubelet {
        /// Of the pod.
        container: String,
        /// "readiness probe", …
        what: &'static str,
        /// "httpGet", …
        how: &'static str,
    },
    /// What it says of plaintext means nothing.
    #[error("{0}")]
    Mode(#[from] compiler::permissive::Unreadable),
    /// It isn't ours, and would be taken for it.
    #[error(
        "it has a container called {0}, which is not one that injection puts there; call it something else"
    )]
    Name(String),
}

/// The patch that puts a sidecar into the pod; empty if it has one already, or is labelled
/// `meshwright.dev/inject: disabled`.
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
    if label.is_some_and(|label| label == "disabled") || is_injected(pod, spec) {
        return Ok(none);
    }
    compiler::permissive::check_pod(metadata)?;
    check(spec)?;
    let mut patch = Operations::default();
    let annotations = metadata.annotations.as_ref().map(|all| all.len());
    patch.insert(
        "/metadata/annotations",
        annotations,
        INJECTED,
        json!("true"),
    );
    let volumes = spec.volumes.as_ref().map(Vec::len);
    patch.append("/spec/volumes", volumes, &[token_volume(), state_volume()]);
    let init = spec.init_containers.as_ref().map(Vec::len);
    patch.prepend(
        "/spec/initContainers",
        init,
        &[redirect(config), sidecar(config)],
    );
    Ok(patch.into())
}

fn is_injected(pod: &Pod, spec: &PodSpec) -> bool {
    let annotated = pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(INJECTED));
    let mut init = spec.init_containers.iter().flatten();
    annotated && init.any(|container| container.name == SIDECAR)
}

// === what a sidecar can't do ===

fn check(spec: &PodSpec) -> Result<(), Refusal> {
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
    if let Some((what, how)) = kubelets_calls(container).next() {
        return Err(Refusal::Kubelet {
            container: name(),
            what,
            how,
        });
    }
    Ok(())
}

/// What the kubelet does to this container over the network.
fn kubelets_calls(container: &Container) -> impl Iterator<Item = (&'static str, &'static str)> {
    let probes = [
        ("startup probe", &container.startup_probe),
        ("readiness probe", &container.readiness_probe),
        ("liveness probe", &container.liveness_probe),
    ];
    let probes = probes.map(|(what, probe)| Some((what, by_network(probe.as_ref()?)?)));
    let hooks = container.lifecycle.as_ref().map(hooks).unwrap_or_default();
    probes.into_iter().chain(hooks).flatten()
}

/// How a probe reaches the pod, unless it does so by a command or asks another host.
fn by_network(probe: &Probe) -> Option<&'static str> {
    match probe {
        Probe {
            http_get: Some(get),
            ..
        } if get.host.is_none() => Some("httpGet"),
        Probe {
            tcp_socket: Some(tcp),
            ..
        } if tcp.host.is_none() => Some("tcpSocket"),
        Probe { grpc: Some(_), .. } => Some("grpc"),
        _ => None,
    }
}

fn hooks(lifecycle: &Lifecycle) -> [Option<(&'static str, &'static str)>; 2] {
    [
        ("postStart hook", &lifecycle.post_start),
        ("preStop hook", &lifecycle.pre_stop),
    ]
    .map(|(what, hook)| {
        let get = hook.as_ref()?.http_get.as_ref()?;
        get.host.is_none().then_some((what, "httpGet"))
    })
}

// === what is put in ===

fn redirect(config: &Config) -> Value {
    json!({
        "name": REDIRECT,
        "image": config.sidecar.sidecar_image,
        "imagePullPolicy": config.sidecar.sidecar_pull_policy,
        "args": ["redirect", "--uid", UID.to_string()],
        "resources": config.sidecar.sidecar_resources,
        // A pod that fails here says why in its status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            // Said because the pod may say otherwise for all of its containers.
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

fn sidecar(config: &Config) -> Value {
    let ready = json!({ "path": "/ready", "port": 15021 });
    json!({
        "name": SIDECAR,
        "image": config.sidecar.sidecar_image,
        "imagePullPolicy": config.sidecar.sidecar_pull_policy,
        "restartPolicy": "Always",
        "env": [
            { "name": "MESHWRIGHT_OPERATOR", "value": config.operator },
            { "name": "MESHWRIGHT_TRUST_DOMAIN", "value": config.trust_domain },
            { "name": "MESHWRIGHT_BUNDLE", "value": config.roots },
            { "name": "MESHWRIGHT_LOG", "value": config.sidecar.sidecar_log },
        ],
        "ports": [{ "name": "mw-metrics", "containerPort": 15020, "protocol": "TCP" }],
        "resources": config.sidecar.sidecar_resources,
        "startupProbe": { "httpGet": ready, "periodSeconds": 1, "failureThreshold": STARTUP_TRIES },
        "readinessProbe": { "httpGet": ready, "periodSeconds": 2, "failureThreshold": 2 },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": [
            { "name": "meshwright-token", "mountPath": TOKEN_FOLDER, "readOnly": true },
            { "name": "meshwright-state", "mountPath": STATE_FOLDER },
        ],
    })
}

/// Only the sidecar mounts it. Who else in the pod gets at it can ask for this pod's identity, and
/// no other.
fn token_volume() -> Value {
    let token = json!({
        "path": "token",
        "audience": crate::issuer::review::AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
    });
    json!({ "name": "meshwright-token", "projected": { "sources": [{ "serviceAccountToken": token }] } })
}

/// In memory: keys are on no disk, and a sidecar that is killed comes back with what it had. Of
/// mode 0777, which lets the sidecar's user write whatever fsGroup the pod has; what the sidecar
/// makes in it is its own alone.
fn state_volume() -> Value {
    // A sidecar holds 64 MiB of configuration at most, and a file that replaces another is there
    // beside it for a moment.
    json!({ "name": "meshwright-state", "emptyDir": { "medium": "Memory", "sizeLimit": "160Mi" } })
}

// === the patch ===

/// A JSON patch in the making. `there` is the length of what the pod has; `None` if it has none.
#[derive(Default)]
struct Operations(Vec<Value>);

impl Operations {
    fn add(&mut self, path: String, value: Value) {
        self.0
            .push(json!({ "op": "add", "path": path, "value": value }));
    }

    fn insert(&mut self, path: &str, there: Option<usize>, key: &str, value: Value) {
        match there {
            Some(_) => self.add(format!("{path}/{}", key.replace('/', "~1")), value),
            None => self.add(path.to_owned(), json!({ key: value })),
        }
    }

    fn append(&mut self, path: &str, there: Option<usize>, values: &[Value]) {
        match there {
            Some(_) => values
                .iter()
                .for_each(|value| self.add(format!("{path}/-"), value.clone())),
            None => self.add(path.to_owned(), json!(values)),
        }
    }

    fn prepend(&mut self, path: &str, there: Option<usize>, values: &[Value]) {
        match there {
            Some(_) => values
                .iter()
                .enumerate()
                .for_each(|(at, value)| self.add(format!("{path}/{at}"), value.clone())),
            None => self.add(path.to_owned(), json!(values)),
        }
    }
}

impl From<Operations> for json_patch::Patch {
    fn from(operations: Operations) -> Self {
        // Written above, so it is a patch.
        serde_json::from_value(Value::Array(operations.0)).unwrap_or_default()
    }
}

fn resources(text: &str) -> Result<ResourceRequirements, String> {
    serde_json::from_str(text).map_err(|error| format!("no resource requirements in JSON: {error}"))
}

#[cfg(test)]
mod tests;
