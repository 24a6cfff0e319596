//! Who sends a pod's connections through its sidecar: an init container, or the node's CNI plugin.
//!
//! An init container where there may be one, which needs nothing of the nodes; the plugin where Pod
//! Security lets no container have NET_ADMIN. A label of the pod or its namespace says otherwise.
//! Either way the sidecar sees at its start whether it was done, and ends if it was not.

use std::collections::BTreeMap;

use clap::ValueEnum;
use compiler::pod_settings::EXCLUDE_INBOUND_FLAG;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::patch::Operations;
use super::{Config, Refusal};

/// The label, on a namespace or a pod; a pod's own outweighs its namespace's.
pub const CAPTURE: &str = "meshwright.dev/capture";

/// The Pod Security level that a namespace enforces, and those that let no container have NET_ADMIN.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce";
const WITHOUT_NET_ADMIN: [&str; 2] = ["baseline", "restricted"];

/// Who installs the redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capture {
    /// The init container `meshwright-redirect`.
    Init,
    /// The CNI plugin `meshwright-cni`, if the node has it.
    Cni,
}

// === impl Capture ===

impl Capture {
    /// Of this pod.
    ///
    /// # Errors
    /// When a label says neither.
    pub(super) fn of(pod: &ObjectMeta, config: &Config) -> Result<Self, Refusal> {
        let own = pod.labels.as_ref().and_then(|labels| labels.get(CAPTURE));
        if let Some(value) = own {
            return Self::read(value, "metadata.labels");
        }
        if let Some(value) = config.namespace.get(CAPTURE) {
            return Self::read(value, "its namespace's metadata.labels");
        }
        Ok(match forbids_net_admin(&config.namespace) {
            true => Self::Cni,
            false => config.sidecar.capture,
        })
    }

    fn read(value: &str, place: &'static str) -> Result<Self, Refusal> {
        Self::from_str(value, false).map_err(|_| Refusal::Capture {
            place,
            value: value.chars().take(63).collect(),
        })
    }

    /// What is put before the pod's own init containers. Where the plugin captures, the arguments of
    /// the init container become an annotation for it.
    pub(super) fn containers(
        self,
        redirect: Value,
        mut sidecar: Value,
        patch: &mut Operations,
    ) -> Vec<Value> {
        let by = match self {
            Self::Init => "init",
            Self::Cni => "cni",
        };
        if let Some(env) = sidecar.get_mut("env").and_then(Value::as_array_mut) {
            env.push(json!({ "name": "MESHWRIGHT_CAPTURED_BY", "value": by }));
        }
        match self {
            Self::Init => vec![redirect, sidecar],
            Self::Cni => {
                let arguments = redirect.get("args").and_then(Value::as_array);
                // The first is the command: `redirect`.
                let arguments: Vec<_> = arguments.into_iter().flatten().skip(1).collect();
                let annotation = json!(json!(arguments).to_string());
                // The annotation can be edited while the pod runs: what callers are told is read here.
                let values = arguments.iter().skip(1);
                let pairs = arguments.iter().zip(values);
                let excluded = pairs.filter(|(flag, _)| **flag == EXCLUDE_INBOUND_FLAG);
                let excluded = excluded.filter_map(|(_, port)| port.as_str());
                let excluded = excluded.collect::<Vec<_>>().join(",");
                if let Some(env) = sidecar.get_mut("env").and_then(Value::as_array_mut) {
                    env.push(json!({ "name": wire::capture::EXCLUDED_INBOUND, "value": excluded }));
                }
                // A sidecar that looks whether it is captured knows this page; one that is older does not, and is
                // never ready rather than around the mesh.
                for probe in ["startupProbe", "readinessProbe"] {
                    if let Some(probe) = sidecar.get_mut(probe) {
                        probe["httpGet"]["path"] = json!(wire::capture::READY);
                    }
                }
                // There is an annotation already: that the pod was injected.
                patch.insert(
                    "/metadata/annotations",
                    Some(1),
                    wire::capture::REDIRECT,
                    annotation,
                );
                vec![sidecar]
            }
        }
    }
}

fn forbids_net_admin(namespace: &BTreeMap<String, String>) -> bool {
    let level = namespace.get(ENFORCED);
    level.is_some_and(|level| WITHOUT_NET_ADMIN.contains(&level.as_str()))
}
