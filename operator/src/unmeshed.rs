//! Pods that should have a sidecar and have none: those that were there before their namespace was
//! labelled, or were made while nobody asked the webhook.

use std::collections::BTreeSet;
use std::sync::Arc;

use compiler::{Inputs, ObjectKey, is_meshed};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::inject::LABEL;
use crate::telemetry::Metrics;

/// Namespaces whose pods the webhook is never asked about, beside the operator's own.
const NEVER: [&str; 2] = ["kube-system", "kube-node-lease"];

/// How many are named in one line of the log.
const MOST_NAMED: usize = 10;

/// Looks for them, and tells.
#[derive(Debug)]
pub struct Watchdog {
    /// The operator's own, whose pods are no part of the mesh.
    namespace: String,
    metrics: Arc<Metrics>,
    known: BTreeSet<ObjectKey>,
}

// === impl Watchdog ===

impl Watchdog {
    /// Knows of none yet. `namespace` is the operator's.
    pub fn new(namespace: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            metrics,
            known: BTreeSet::new(),
        }
    }

    /// Counts them, and logs those that are new.
    pub fn look(&mut self, inputs: &Inputs) {
        let found = unmeshed(inputs, &self.namespace);
        let number = i64::try_from(found.len()).unwrap_or(i64::MAX);
        self.metrics.unmeshed_pods.set(number);
        let new: Vec<_> = found.difference(&self.known).collect();
        if let Some(named) = new
            .get(..MOST_NAMED.min(new.len()))
            .filter(|new| !new.is_empty())
        {
            let names: Vec<_> = named.iter().map(ToString::to_string).collect();
            tracing::warn!(
                pods = names.join(", "),
                others = new.len() - named.len(),
                "pods should have a sidecar and have none: restart them, or label them {LABEL}: disabled"
            );
        } else if found.is_empty() && !self.known.is_empty() {
            tracing::info!("every pod that should have a sidecar has one");
        }
        self.known = found;
    }
}

/// Pods that should have a sidecar and have none, but for those of the namespace `own`, the operator's.
pub fn unmeshed(inputs: &Inputs, own: &str) -> BTreeSet<ObjectKey> {
    let in_labelled = |key: &ObjectKey| {
        let namespace = inputs
            .namespaces
            .get(&ObjectKey::namespace(&*key.namespace));
        namespace.is_some_and(|namespace| label(&namespace.metadata) == Some("enabled"))
    };
    let pods = inputs.pods.iter().filter(|(key, pod)| {
        key.namespace != own
            && !NEVER.contains(&&*key.namespace)
            && is_wanting(pod, || in_labelled(key))
    });
    pods.map(|(key, _)| key.clone()).collect()
}

/// As the webhook's selectors have it: a pod's own label outweighs its namespace's.
fn is_wanting(pod: &Pod, in_labelled: impl FnOnce() -> bool) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let lives =
        !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none();
    let wanted = || match label(&pod.metadata) {
        Some("disabled") => false,
        Some("enabled") => true,
        _ => in_labelled(),
    };
    lives && !is_meshed(pod) && wanted()
}

fn label(metadata: &ObjectMeta) -> Option<&str> {
    metadata.labels.as_ref()?.get(LABEL).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn world() -> Inputs {
        let mut inputs = Inputs::default();
        for (name, label) in [
            ("shop", "enabled"),
            ("bank", "off"),
            ("mesh", "enabled"),
            ("kube-system", "enabled"),
        ] {
            let namespace = json!({ "metadata": { "name": name, "labels": { LABEL: label } } });
            let namespace = Arc::new(serde_json::from_value(namespace).unwrap());
            inputs
                .namespaces
                .insert(ObjectKey::namespace(name), namespace);
        }
        let mut add = |namespace: &str,
                       name: &str,
                       labels: Value,
                       containers: Value,
                       more: Value| {
            let mut metadata = json!({ "namespace": namespace, "name": name, "labels": labels });
            let mut status = json!({ "phase": "Running" });
            for (field, value) in more.as_object().unwrap() {
                match field.as_str() {
                    "phase" => status["phase"] = value.clone(),
                    _ => metadata[field] = value.clone(),
                }
            }
            let pod = json!({ "metadata": metadata, "spec": { "containers": containers }, "status": status });
            let pod = Arc::new(serde_json::from_value(pod).unwrap());
            inputs.pods.insert(ObjectKey::new(namespace, name), pod);
        };
        let app = || json!([{ "name": "app" }]);
        let meshed = json!([{ "name": "app" }, { "name": "meshwright-sidecar" }]);
        let plain = || json!({});
        add("shop", "forgotten", plain(), app(), plain());
        add("shop", "meshed", plain(), meshed, plain());
        add(
            "shop",
            "opted-out",
            json!({ LABEL: "disabled" }),
            app(),
            plain(),
        );
        add(
            "shop",
            "done",
            plain(),
            app(),
            json!({ "phase": "Succeeded" }),
        );
        add(
            "shop",
            "leaving",
            plain(),
            app(),
            json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }),
        );
        add("bank", "elsewhere", plain(), app(), plain());
        add(
            "bank",
            "asked-for",
            json!({ LABEL: "enabled" }),
            app(),
            plain(),
        );
        add("mesh", "operator", plain(), app(), plain());
        add("kube-system", "dns", plain(), app(), plain());
        inputs
    }

    #[test]
    fn pods_that_should_have_a_sidecar_and_do_not_are_counted_until_they_have() {
        let metrics = Metrics::new();
        let mut watchdog = Watchdog::new("mesh", metrics.clone());
        let mut inputs = world();
        watchdog.look(&inputs);
        let found: Vec<_> = watchdog.known.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["bank/asked-for", "shop/forgotten"]);
        let counted = |count: usize| {
            let streams = crate::push::Streams::default();
            let text = metrics.text(&streams, 0);
            let line = format!("meshwright_operator_unmeshed_pods {count}\n");
            assert!(text.contains(&line), "{text}");
        };
        counted(2);
        inputs.pods.remove(&ObjectKey::new("shop", "forgotten"));
        watchdog.look(&inputs);
        counted(1);
        inputs.pods.clear();
        watchdog.look(&inputs);
        counted(0);
    }
}
