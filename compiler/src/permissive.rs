//! What labels and annotations say of a workload's ways around mutual TLS: whether it takes
//! plaintext, and whether it may call what the mesh doesn't know.
//!
//! What can't be read is taken for the stricter of what it could mean.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::pod_settings::PodSettings;

/// The label, on a namespace or a pod, that says `permissive` or `strict`; a pod's own outweighs
/// its namespace's, and without either it is strict.
pub const MODE: &str = "meshwright.dev/mode";

/// The annotation of a pod that names ports which take plaintext in any mode: `8080,9090`.
pub const PERMISSIVE_PORTS: &str = "meshwright.dev/permissive-ports";

/// The label or annotation of a namespace that says whether its pods may call addresses that the
/// mesh doesn't know: `allow`, as without it, or `refuse`.
pub const UNKNOWN_ADDRESSES: &str = "meshwright.dev/unknown-addresses";

/// The most ports that a pod can name: it is written by hand, while callers move.
const MAX_PORTS: usize = 32;

/// Why a label or an annotation can't be read, for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Such as `metadata.labels.meshwright.dev/mode`.
    pub field: String,
    /// What is wrong, what holds meanwhile, and what to write.
    pub message: String,
}

/// In which ways a pod takes plaintext.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permissive {
    /// At every port.
    pub(crate) all: bool,
    /// At these, in order.
    pub(crate) ports: Vec<u16>,
}

// === impl Unreadable ===

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.message)
    }
}

impl std::error::Error for Unreadable {}

/// What can't be read of a pod's own labels and annotations: the pod is strict meanwhile.
///
/// # Errors
/// The first that can't be.
pub fn check_pod(metadata: &ObjectMeta) -> Result<(), Unreadable> {
    own_mode(metadata)?;
    own_ports(metadata)?;
    PodSettings::read(metadata).map(drop)
}

/// What can't be read of a namespace's labels and annotations.
///
/// # Errors
/// The first that can't be.
pub fn check_namespace(metadata: &ObjectMeta) -> Result<(), Unreadable> {
    own_mode(metadata)?;
    refuses(metadata).map(drop)
}

/// In which ways a pod takes plaintext: strict when anything of its own can't be read.
pub(crate) fn permissive(pod: &Pod, namespace: Option<&Namespace>) -> Permissive {
    let own = &pod.metadata;
    let (Ok(mode), Ok(ports)) = (own_mode(own), own_ports(own)) else {
        return Permissive::default();
    };
    let inherited = || {
        let mode = own_mode(&namespace?.metadata);
        mode.ok().flatten()
    };
    Permissive {
        all: mode.or_else(inherited).unwrap_or(false),
        ports,
    }
}

/// Whether the pods of a namespace may not call what the mesh doesn't know.
pub(crate) fn refuses_unknown(namespace: Option<&Namespace>) -> bool {
    namespace.is_some_and(|namespace| refuses(&namespace.metadata).unwrap_or(true))
}

/// Whether the label says permissive.
fn own_mode(metadata: &ObjectMeta) -> Result<Option<bool>, Unreadable> {
    match text(metadata.labels.as_ref(), MODE) {
        None => Ok(None),
        Some("permissive") => Ok(Some(true)),
        Some("strict") => Ok(Some(false)),
        Some(other) => Err(Unreadable {
            field: format!("metadata.labels.{MODE}"),
            message: format!(
                "is {}: write permissive or strict; until then it is strict",
                shown(other)
            ),
        }),
    }
}

fn own_ports(metadata: &ObjectMeta) -> Result<Vec<u16>, Unreadable> {
    ports(metadata, PERMISSIVE_PORTS, "the pod is strict")
}

/// The ports that an annotation of a pod names, in order, once each; `meanwhile` says what holds while
/// it can't be read.
pub(crate) fn ports(
    metadata: &ObjectMeta,
    annotation: &str,
    meanwhile: &str,
) -> Result<Vec<u16>, Unreadable> {
    let Some(written) = text(metadata.annotations.as_ref(), annotation) else {
        return Ok(Vec::new());
    };
    let unreadable = |what: String| Unreadable {
        field: format!("metadata.annotations.{annotation}"),
        message: format!(
            "{what}: write up to {MAX_PORTS} port numbers with commas between them, such as \
             \"8080,9090\"; until then {meanwhile}"
        ),
    };
    let mut ports = Vec::new();
    for part in written.split(',').map(str::trim) {
        let number = part.parse::<u16>().ok().filter(|number| *number != 0);
        match number {
            Some(_) if ports.len() == MAX_PORTS => {
                return Err(unreadable("names too many ports".to_owned()));
            }
            Some(number) => ports.push(number),
            None => return Err(unreadable(format!("has {}, which is no port", shown(part)))),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// The stricter of label and annotation.
fn refuses(metadata: &ObjectMeta) -> Result<bool, Unreadable> {
    let mut refuses = false;
    for (place, all) in [
        ("labels", &metadata.labels),
        ("annotations", &metadata.annotations),
    ] {
        match text(all.as_ref(), UNKNOWN_ADDRESSES) {
            None | Some("allow") => {}
            Some("refuse") => refuses = true,
            Some(other) => {
                return Err(Unreadable {
                    field: format!("metadata.{place}.{UNKNOWN_ADDRESSES}"),
                    message: format!(
                        "is {}: write allow or refuse; until then they are refused",
                        shown(other)
                    ),
                });
            }
        }
    }
    Ok(refuses)
}

pub(crate) fn text<'a>(all: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    all?.get(key).map(String::as_str)
}

/// As in a sentence, however long and odd it is.
pub(crate) fn shown(value: &str) -> String {
    let short: String = value.chars().take(40).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(mode: Option<&str>, ports: Option<&str>) -> Pod {
        let metadata = json!({
            "labels": mode.map(|mode| json!({ MODE: mode })),
            "annotations": ports.map(|ports| json!({ PERMISSIVE_PORTS: ports })),
        });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn namespace(labels: serde_json::Value) -> Namespace {
        serde_json::from_value(json!({ "metadata": { "labels": labels } })).unwrap()
    }

    #[test]
    fn a_pods_own_mode_outweighs_its_namespaces_and_without_either_it_is_strict() {
        let eased = namespace(json!({ MODE: "permissive" }));
        let all = |mode, namespace| permissive(&pod(mode, None), namespace).all;
        assert!(!all(None, None));
        assert!(all(None, Some(&eased)));
        assert!(!all(Some("strict"), Some(&eased)));
        assert!(all(Some("permissive"), None));
    }

    #[test]
    fn what_cannot_be_read_is_strict_and_says_what_to_write() {
        let eased = namespace(json!({ MODE: "permissive" }));
        for (mode, ports) in [
            (Some("Permissive"), None),
            (Some(""), None),
            (None, Some("")),
            (None, Some("8080,")),
            (None, Some("0")),
            (None, Some("65536")),
            (Some("permissive"), Some("http")),
        ] {
            let pod = pod(mode, ports);
            assert_eq!(permissive(&pod, Some(&eased)), Permissive::default());
            let why = check_pod(&pod.metadata).unwrap_err().to_string();
            assert!(
                why.contains("meshwright.dev/") && why.contains("write"),
                "{why}"
            );
        }
        let many: Vec<String> = (1..=33).map(|port: u16| port.to_string()).collect();
        assert!(check_pod(&pod(None, Some(&many.join(","))).metadata).is_err());
        let wrong = namespace(json!({ MODE: "open" }));
        assert!(!permissive(&pod(None, None), Some(&wrong)).all);
        assert!(check_namespace(&wrong.metadata).is_err());
    }

    #[test]
    fn ports_are_taken_in_any_order_once_each() {
        let ports = |text| permissive(&pod(None, Some(text)), None).ports;
        assert_eq!(ports("9090, 8080,9090"), [8080, 9090]);
    }

    #[test]
    fn unknown_addresses_are_refused_where_that_is_said_or_what_is_said_cannot_be_read() {
        let says =
            |text: &str| refuses_unknown(Some(&namespace(json!({ UNKNOWN_ADDRESSES: text }))));
        assert!(!refuses_unknown(None));
        assert!(!refuses_unknown(Some(&namespace(json!({})))));
        assert!(!says("allow"));
        assert!(says("refuse"));
        assert!(says("never"));
        let annotated = json!({ "metadata": { "annotations": { UNKNOWN_ADDRESSES: "refuse" } } });
        let annotated: Namespace = serde_json::from_value(annotated).unwrap();
        assert!(refuses_unknown(Some(&annotated)));
    }
}
