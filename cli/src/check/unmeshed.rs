//! Pods of a cluster that should have a sidecar and have none, each with its remedy.

use std::sync::Arc;

use compiler::{Inputs, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use operator::inject::LABEL;
use operator::unmeshed::unmeshed;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cluster::items;
use super::told::{Page, Remedy, Told, remedy};
use crate::kubectl;
use crate::sidecar::Cluster;

/// Where the operator's own pods are, if nobody chose otherwise; they are labelled as well.
const OPERATOR: &str = "meshwright-system";

/// Looks for them among `pods`.
///
/// # Errors
/// When namespaces can't be read.
pub(super) fn look(cluster: &Cluster, pods: &Value) -> anyhow::Result<Told> {
    let mut namespaces = kubectl::command(
        &Cluster {
            namespace: None,
            ..cluster.clone()
        },
        None,
    );
    namespaces.args(["get", "namespaces"]);
    // One by its name needs fewer rights than all.
    namespaces.args(&cluster.namespace);
    Ok(findings(&kubectl::json(namespaces, None)?, pods))
}

fn findings(namespaces: &Value, pods: &Value) -> Told {
    let mut told = Told::default();
    let mut inputs = Inputs::default();
    inputs.namespaces.extend(read::<Namespace>(namespaces));
    inputs.pods.extend(read::<Pod>(pods));
    for key in unmeshed(&inputs, OPERATOR) {
        let what = format_args!(
            "Pod {key} should have a sidecar and has none, for it is older than the label or was made while the \
             operator was away"
        );
        let pod = inputs.pods.get(&key).map(|pod| &**pod);
        told.wrong(Page::UNMESHED, what, made_anew(&key, pod));
    }
    told
}

/// What makes the pod anew, through the webhook, or has it meant so.
fn made_anew(key: &ObjectKey, pod: Option<&Pod>) -> Remedy {
    let anew = pod.map_or_else(|| "make it anew".to_owned(), |pod| anew(key, pod));
    remedy!("{anew}, or label it {LABEL}: disabled")
}

fn anew(key: &ObjectKey, pod: &Pod) -> String {
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true));
    let labels = pod.metadata.labels.as_ref();
    let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
    let restart = |kind: &str, name: &str| {
        format!(
            "`kubectl rollout restart {kind}/{name} -n {}`",
            key.namespace
        )
    };
    match owner.map(|owner| (&*owner.kind, &*owner.name)) {
        Some(("ReplicaSet", name)) => {
            let deployment =
                hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            match deployment {
                Some(deployment) => restart("deployment", deployment),
                None => format!("`kubectl delete pod {} -n {}`", key.name, key.namespace),
            }
        }
        Some(("StatefulSet", name)) => restart("statefulset", name),
        Some(("DaemonSet", name)) => restart("daemonset", name),
        Some((kind, name)) => format!("make {kind} {name} anew"),
        None => "make it anew".to_owned(),
    }
}

fn read<K>(list: &Value) -> impl Iterator<Item = (ObjectKey, Arc<K>)>
where
    K: DeserializeOwned
        + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
{
    // What a newer API server has and this can't read is no pod that this could judge.
    let objects = items(list).filter_map(|item| serde_json::from_value::<K>(item.clone()).ok());
    objects.map(|object| {
        let metadata = object.metadata();
        let key = ObjectKey {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        };
        (key, Arc::new(object))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_pod_without_a_sidecar_is_told_with_what_makes_it_anew() {
        let namespaces = json!({ "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": { LABEL: "enabled" } } },
        ] });
        let pod = |name: &str, owner: Option<(&str, &str)>| {
            let owners = owner.map(|(kind, name)| {
                json!([{ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true }])
            });
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "namespace": "shop", "name": name, "ownerReferences": owners,
                              "labels": { "pod-template-hash": "5d9f" } },
                "spec": { "containers": [{ "name": "app" }] },
            })
        };
        let pods = json!({ "items": [
            pod("web-5d9f-1", Some(("ReplicaSet", "web-5d9f"))),
            pod("db-0", Some(("StatefulSet", "db"))),
            pod("log-1", Some(("DaemonSet", "log"))),
            pod("once-1", Some(("Job", "once"))),
            pod("alone", None),
        ] });
        let told = findings(&namespaces, &pods);
        let (wrong, notes) = told.parts();
        assert!(notes.is_empty(), "{notes:?}");
        let told = wrong.join("\n");
        for says in [
            "Pod shop/web-5d9f-1 should have a sidecar and has none",
            "`kubectl rollout restart deployment/web -n shop`, or label it meshwright.dev/inject: disabled",
            "`kubectl rollout restart statefulset/db -n shop`",
            "`kubectl rollout restart daemonset/log -n shop`",
            "was away: make Job once anew, or label it ",
            "was away: make it anew, or label it meshwright.dev/inject: disabled (docs/troubleshooting.md#",
            "Pod shop/alone",
        ] {
            assert!(told.contains(says), "{told}");
        }
        // One namespace, asked for by its name.
        let elsewhere = json!({ "metadata": { "name": "shop" } });
        assert_eq!(findings(&elsewhere, &pods), Told::default());
    }
}
