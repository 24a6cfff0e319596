//! The CNI plugin, where the chart has put it on the nodes: whether it is on all of them.

use serde_json::Value;

use super::cluster::items;
use super::told::{Page, Told, remedy};
use crate::kubectl;
use crate::sidecar::Cluster;

/// By what the chart's DaemonSet is known.
const LABELS: &str = "app.kubernetes.io/name=meshwright,app.kubernetes.io/component=cni";

/// Looks at the DaemonSet in the operator's namespace. That somebody may not look is no fault of the cluster's.
pub(super) fn look(cluster: &Cluster, namespace: &str, told: &mut Told) {
    let mut asking = kubectl::command(cluster, Some(namespace));
    asking.args(["get", "daemonsets.apps", "--selector", LABELS]);
    match kubectl::json(asking, None) {
        Ok(sets) => told.add(findings(&sets)),
        Err(error) => {
            let what = format_args!("the CNI plugin can't be looked at: {error:#}");
            let remedy = remedy!("it takes the right to list daemonsets in {namespace}");
            told.note(Page::RIGHTS, what, remedy);
        }
    }
}

fn findings(sets: &Value) -> Told {
    let mut told = Told::default();
    for set in items(sets) {
        let part = |field: &str| set["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name) = (part("namespace"), part("name"));
        let count = |field: &str| set["status"][field].as_u64().unwrap_or_default();
        let (wanted, ready) = (count("desiredNumberScheduled"), count("numberReady"));
        if ready >= wanted {
            continue;
        }
        told.wrong(
            Page::PLUGIN,
            format_args!(
                "the CNI plugin is ready on {ready} of {wanted} nodes, and pods that need it and start on another are \
                 not captured, so that they never become ready"
            ),
            remedy!(
                "`kubectl rollout status -n {namespace} daemonset/{name}` waits for the others, and `kubectl logs -n \
                 {namespace} -l app.kubernetes.io/component=cni --prefix` says what they wait for"
            ),
        );
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(status: Value) -> Told {
        findings(&json!({ "kind": "List", "items": [{
            "kind": "DaemonSet", "metadata": { "name": "meshwright-cni", "namespace": "mesh" }, "status": status,
        }] }))
    }

    #[test]
    fn a_plugin_that_is_not_ready_on_every_node_is_wrong_and_told_with_where_its_log_is() {
        let told = of(json!({ "desiredNumberScheduled": 3, "numberReady": 2 }));
        let (wrong, notes) = told.parts();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(
            wrong,
            [
                "the CNI plugin is ready on 2 of 3 nodes, and pods that need it and start on another are not captured, \
                 so that they never become ready: `kubectl rollout status -n mesh daemonset/meshwright-cni` waits for \
                 the others, and `kubectl logs -n mesh -l app.kubernetes.io/component=cni --prefix` says what they \
                 wait for (docs/pod-security.md#installing-the-plugin)"
            ]
        );
        assert!(of(json!({ "desiredNumberScheduled": 1 })).is_wrong());
    }

    #[test]
    fn a_plugin_that_is_on_every_node_or_not_installed_is_not_worth_a_word() {
        let told = of(json!({ "desiredNumberScheduled": 3, "numberReady": 3 }));
        assert_eq!(told, Told::default());
        assert_eq!(findings(&json!({ "items": [] })), Told::default());
    }

    #[test]
    fn the_plugin_is_looked_for_by_the_labels_that_the_chart_gives_it() {
        let chart = include_str!("../../../charts/meshwright/templates/cni.yaml");
        for label in LABELS.split(',') {
            let label = label.replace('=', ": ");
            assert!(chart.lines().any(|line| line == label), "{label}");
        }
    }
}
