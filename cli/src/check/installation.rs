//! The operator of a cluster: whether there is one, whether it is ready, and of which version it is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cluster::items;
use super::images;
use super::told::{Page, Told, remedy};
use crate::certificates::SYSTEM;
use crate::install::chart::VERSION;
use crate::install::cluster::{forbidden, some};
use crate::kubectl;
use crate::sidecar::Cluster;

/// By what the chart's own objects are known, in whatever namespace.
const LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "meshwright"),
    ("app.kubernetes.io/component", "operator"),
];
/// As much of what a pod says of its end is passed on, in characters: it may be its log.
const LONGEST: usize = 300;

/// Whether the mesh is installed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Installation {
    /// It is.
    There(Operator),
    /// It is not.
    Missing,
    /// Nobody was asked, or who asked may not know.
    Unknown,
}

/// The operator, as the API server tells of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Operator {
    pub(super) namespace: String,
    /// The versions that its pods are of, as far as they are known: several while it is upgraded.
    pub(super) versions: BTreeSet<String>,
    wanted: u64,
    ready: u64,
    /// Why it is not ready, in the words of the cluster.
    why: Vec<String>,
}

/// Looks for the operator in all namespaces. Of its pods no more is known than `pods` has.
pub(super) fn look(cluster: &Cluster, pods: &Value, told: &mut Told) -> Installation {
    let labels = LABELS.map(|(name, value)| format!("{name}={value}"));
    let mut asking = kubectl::command(cluster, None);
    asking.args(["get", "deployments.apps", "--all-namespaces", "--selector"]);
    asking.arg(labels.join(","));
    match kubectl::json(asking, None) {
        Ok(deployments) => match found(&deployments, pods) {
            Some(operator) => Installation::There(operator),
            None => Installation::Missing,
        },
        Err(error) => {
            let what = format_args!("the operator can't be looked for: {error:#}");
            let remedy = remedy!("it takes the right to list deployments in all namespaces");
            told.note(Page::RIGHTS, what, remedy);
            Installation::Unknown
        }
    }
}

/// What is to be said where there is none: how to have one, and whether the user may.
pub(super) fn missing(cluster: &Cluster, meshed: usize, told: &mut Told) {
    let may = match forbidden(cluster, SYSTEM) {
        Ok(forbidden) if forbidden.is_empty() => "and you may create all that it makes".to_owned(),
        Ok(forbidden) => format!(
            "but you may not {}: somebody with these rights has to install it, or to give them to you",
            forbidden.join(", ")
        ),
        Err(error) => format!("and it can't be told whether you may: {error:#}"),
    };
    told.note(
        Page::INSTALLING,
        "no Meshwright is installed here",
        remedy!("`meshwright install` does that, {may}"),
    );
    if meshed > 0 {
        told.wrong(
            Page::UNINSTALLED,
            format_args!(
                "{meshed} pods have a sidecar and there is no operator: their certificates end unrenewed within a day, \
                 and they call each other no more"
            ),
            remedy!(
                "`meshwright install`, or take the label meshwright.dev/inject off their namespaces and restart them"
            ),
        );
    }
}

fn found(deployments: &Value, pods: &Value) -> Option<Operator> {
    let deployment = items(deployments).next()?;
    let namespace = deployment["metadata"]["namespace"].as_str()?;
    let own: Vec<_> = items(pods).filter(|pod| is_own(pod, namespace)).collect();
    let versions = own.iter().filter_map(|pod| images::of_the_operator(pod));
    let mut versions: BTreeSet<_> = versions.collect();
    if own.is_empty() {
        versions.extend(images::of_the_operator(&deployment["spec"]["template"]));
    }
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    let mut why: Vec<_> = own.iter().filter_map(|pod| why_not_ready(pod)).collect();
    if why.is_empty() {
        let conditions = deployment["status"]["conditions"].as_array();
        let conditions = conditions.into_iter().flatten();
        let against = conditions.filter(|one| {
            let good = if one["type"] == "ReplicaFailure" {
                "False"
            } else {
                "True"
            };
            one["status"] != good
        });
        why.extend(against.filter_map(|one| one["message"].as_str().map(shortened)));
    }
    Some(Operator {
        namespace: namespace.to_owned(),
        versions,
        wanted: count(&deployment["spec"]["replicas"]),
        ready: count(&deployment["status"]["readyReplicas"]),
        why,
    })
}

/// Whether it is one of the operator's pods that is not about to end.
fn is_own(pod: &Value, namespace: &str) -> bool {
    let metadata = &pod["metadata"];
    let ended = ["Succeeded", "Failed"]
        .iter()
        .any(|phase| pod["status"]["phase"] == *phase);
    metadata["namespace"] == namespace
        && LABELS
            .iter()
            .all(|(name, value)| metadata["labels"][name] == *value)
        && !ended
}

/// Why a pod is not ready, as the kubelet or the scheduler says it.
fn why_not_ready(pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str()?;
    let status = &pod["status"];
    let containers = status["containerStatuses"].as_array();
    let waits = containers.into_iter().flatten().find_map(|one| {
        let reason = one["state"]["waiting"]["reason"].as_str()?;
        // What it said when it ended last says more than that it did.
        let ended = one["lastState"]["terminated"]["message"].as_str();
        let message = ended.or(one["state"]["waiting"]["message"].as_str())?;
        Some(format!("{reason}: {}", shortened(message)))
    });
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.filter(|one| one["status"] == "False");
    let why = waits.or_else(|| {
        let told = conditions.find(|one| one["message"].is_string())?;
        told["message"].as_str().map(shortened)
    })?;
    Some(format!("{name}: {why}"))
}

/// The last line of a text, or its end. Somebody else wrote it: nothing of it moves a terminal's cursor.
pub(super) fn shortened(text: &str) -> String {
    let line = text.trim().lines().next_back().unwrap_or_default();
    let shown = || line.chars().filter(|c| !c.is_control());
    let skipped = shown().count().saturating_sub(LONGEST);
    shown().skip(skipped).collect()
}

// === impl Installation ===

impl Installation {
    /// The versions of the operator, as far as they are known.
    pub(super) fn versions(&self) -> BTreeSet<String> {
        match self {
            Self::There(operator) => operator.versions.clone(),
            Self::Missing | Self::Unknown => BTreeSet::new(),
        }
    }
}

// === impl Operator ===

impl Operator {
    /// Whether any replica of it is ready to be asked.
    pub(super) fn answers(&self) -> bool {
        self.ready > 0
    }

    /// Whether it is of this program's version, and of no other.
    pub(super) fn is_of_this_version(&self) -> bool {
        self.versions.len() == 1 && self.versions.contains(VERSION)
    }

    pub(super) fn findings(&self) -> Told {
        let mut told = Told::default();
        let Self {
            namespace,
            wanted,
            ready,
            ..
        } = self;
        let deployment = format!("deployment/meshwright-operator -n {namespace}");
        if *wanted == 0 {
            told.wrong(
                Page::OPERATOR,
                "no replica of the operator is wanted",
                remedy!("`kubectl scale --replicas=1 {deployment}` brings it back"),
            );
        } else if ready < wanted {
            let why = match self.why.is_empty() {
                true => String::new(),
                false => format!(" ({})", some(self.why.iter().cloned())),
            };
            told.wrong(
                Page::OPERATOR,
                format_args!("{ready} of {wanted} replicas of the operator are ready{why}"),
                remedy!(
                    "`kubectl describe pods -n {namespace} -l app.kubernetes.io/component=operator` and `kubectl logs \
                     {deployment}` say what they wait for"
                ),
            );
        }
        let versions: Vec<_> = self.versions.iter().map(String::as_str).collect();
        match versions.as_slice() {
            [] => told.note(
                Page::UPGRADE,
                "the version of the operator can't be told by its image, so that versions of sidecars are not compared \
                 with it",
                remedy!("give the image a version as its tag"),
            ),
            [version] if *version != VERSION => told.note(
                Page::UPGRADE,
                format_args!("this is meshwright {VERSION}, and the operator is of {version}"),
                remedy!("use the meshwright of that version, or, if it is older, `meshwright upgrade`"),
            ),
            [_] => {}
            several => told.note(
                Page::UPGRADE,
                format_args!(
                    "replicas of the operator are of versions {}, as while an upgrade is under way",
                    several.join(" and ")
                ),
                remedy!("`kubectl rollout status {deployment}` waits for its end"),
            ),
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels() -> Value {
        json!({
            "app.kubernetes.io/name": "meshwright", "app.kubernetes.io/component": "operator",
            "app.kubernetes.io/version": VERSION, "pod-template-hash": "7d4b9c6f5d",
        })
    }

    fn deployment(wanted: u64, ready: u64) -> Value {
        let mut status = json!({
            "observedGeneration": 1, "replicas": wanted, "updatedReplicas": wanted, "unavailableReplicas": wanted - ready,
            "conditions": [
                { "type": "Available", "status": if ready == wanted { "True" } else { "False" },
                  "reason": "MinimumReplicasUnavailable", "message": "Deployment does not have minimum availability." },
                { "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable",
                  "message": "ReplicaSet \"meshwright-operator-7d4b9c6f5d\" has successfully progressed." },
            ],
        });
        if ready > 0 {
            status["readyReplicas"] = json!(ready);
        }
        json!({ "kind": "List", "items": [{
            "kind": "Deployment", "metadata": { "name": "meshwright-operator", "namespace": "mesh", "labels": labels() },
            "spec": { "replicas": wanted, "template": template(VERSION) }, "status": status,
        }] })
    }

    fn template(version: &str) -> Value {
        let image = format!("ghcr.io/meshwright/operator:{version}");
        json!({
            "metadata": { "labels": labels() },
            "spec": { "containers": [{ "name": "operator", "image": image }] },
        })
    }

    fn pod(name: &str, version: &str, status: Value) -> Value {
        let mut pod = template(version);
        pod["metadata"]["namespace"] = json!("mesh");
        pod["metadata"]["name"] = json!(name);
        pod["status"] = status;
        pod
    }

    fn running() -> Value {
        json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
                "containerStatuses": [{ "name": "operator", "ready": true, "state": { "running": {} } }] })
    }

    fn list(pods: &[Value]) -> Value {
        json!({ "kind": "List", "items": pods })
    }

    #[test]
    fn an_operator_that_is_ready_and_of_this_version_is_not_worth_a_word() {
        let pods = list(&[pod("a", VERSION, running())]);
        let operator = found(&deployment(1, 1), &pods).unwrap();
        assert_eq!(operator.namespace, "mesh");
        assert!(operator.answers() && operator.is_of_this_version());
        assert_eq!(operator.findings(), Told::default());
        // Who may not see its pods goes by what they are made from.
        let operator = found(&deployment(1, 1), &Value::Null).unwrap();
        assert_eq!(operator.findings(), Told::default());
        assert_eq!(found(&list(&[]), &pods), None);
    }

    #[test]
    fn what_keeps_an_operator_from_being_ready_is_said_in_its_own_words() {
        let crashes = json!({ "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady",
                             "message": "containers with unready status: [operator]" }],
            "containerStatuses": [{ "name": "operator", "ready": false,
                "state": { "waiting": { "reason": "CrashLoopBackOff",
                    "message": "back-off 40s restarting failed container=operator" } },
                "lastState": { "terminated": { "reason": "Error", "exitCode": 1,
                    "message": "it starts\nError: the Secret mesh/mesh-ca can't be used: it has no tls.key\n" } } }] });
        let unplaced = json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
              "message": "0/1 nodes are available: 1 Insufficient memory." }] });
        let pods = list(&[
            pod("a", VERSION, running()),
            pod("b", VERSION, crashes),
            pod("c", VERSION, unplaced),
        ]);
        let told = found(&deployment(3, 1), &pods).unwrap().findings();
        let (wrong, notes) = told.parts();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(
            wrong,
            [
                "1 of 3 replicas of the operator are ready (b: CrashLoopBackOff: Error: the Secret mesh/mesh-ca can't \
                 be used: it has no tls.key, c: 0/1 nodes are available: 1 Insufficient memory.): `kubectl describe \
                 pods -n mesh -l app.kubernetes.io/component=operator` and `kubectl logs deployment/meshwright-operator \
                 -n mesh` say what they wait for (docs/troubleshooting.md#the-operator-is-away)"
            ]
        );
        let operator = found(&deployment(1, 0), &list(&[])).unwrap();
        assert!(!operator.answers());
        let told = operator.findings();
        assert!(
            told.parts().0[0].contains("does not have minimum availability"),
            "{told:?}"
        );
        let told = found(&deployment(0, 0), &list(&[])).unwrap().findings();
        assert!(
            told.parts().0[0].contains("`kubectl scale --replicas=1 "),
            "{told:?}"
        );
    }

    #[test]
    fn what_a_container_said_is_told_by_its_last_line_and_moves_no_cursor() {
        assert_eq!(shortened("it starts\n\u{1b}[2Jit ends\r\n"), "[2Jit ends");
        let long = "é".repeat(LONGEST) + "end";
        assert_eq!(shortened(&long), "é".repeat(LONGEST - 3) + "end");
    }

    #[test]
    fn replicas_of_several_versions_are_an_upgrade_under_way_and_pods_that_end_do_not_count() {
        let pods = [pod("a", "0.7.0", running()), pod("b", "0.8.0", running())];
        let told = found(&deployment(2, 2), &list(&pods)).unwrap().findings();
        let (wrong, notes) = told.parts();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(notes[0].starts_with("replicas of the operator are of versions 0.7.0 and 0.8.0"));

        let mut elsewhere = pod("a", "0.7.0", running());
        elsewhere["metadata"]["namespace"] = json!("other");
        let pods = list(&[elsewhere, pod("b", "0.8.0", running())]);
        let operator = found(&deployment(1, 1), &pods).unwrap();
        assert_eq!(operator.versions, BTreeSet::from(["0.8.0".to_owned()]));
        assert!(!operator.is_of_this_version());
        let told = operator.findings();
        let expected = format!("this is meshwright {VERSION}, and the operator is of 0.8.0: ");
        assert!(told.parts().1[0].starts_with(&expected), "{told:?}");

        let pods = list(&[pod("a", "next", running())]);
        let told = found(&deployment(1, 1), &pods).unwrap().findings();
        assert!(told.parts().1[0].starts_with("the version of the operator can't be told"));
    }
}
