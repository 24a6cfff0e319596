//! `meshwright check --cluster`: what is wrong in a cluster, read through kubectl with the user's own
//! kubeconfig and rights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use compiler::yaml::Document;
use compiler::{Inputs, ObjectKey};
use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::definitions;
use super::expiry;
use super::images;
use super::installation::{self, Installation};
use super::objects::{self, ENFORCED};
use super::plugin;
use super::sent::differences;
use super::sidecars::{self, Asked};
use super::skew::{self, Sidecar};
use super::told::{Page, Remedy, Told, remedy};
use super::unmeshed;
use super::unstarted;
use super::unwise;
use super::webhooks;
use super::written::{Written, field_of};
use crate::certificates;
use crate::install;
use crate::kubectl;
use crate::sidecar::Cluster;
use crate::up::{plain, table::say};

/// Checks a cluster, and what of a folder is stored there; returns the exit code: 1 when anything is
/// wrong.
pub(super) fn run(folder: Option<&Path>, cluster: &Cluster) -> anyhow::Result<i32> {
    let mut told = Told::default();
    match install::cluster::fits(install::cluster::kubernetes(cluster)?) {
        Ok(None) => {}
        Ok(Some(untried)) => told.note(
            Page::INSTALLING,
            untried,
            remedy!("upgrade Meshwright once one of its versions was tried there"),
        ),
        Err(too_old) => told.wrong(
            Page::INSTALLING,
            too_old,
            remedy!("upgrade the cluster first"),
        ),
    }
    let kinds = definitions::there(cluster)?;
    // What the rest hangs on comes first.
    let pods = told.pods(cluster);
    let installation = told.installation(cluster, &pods, &kinds);
    let written = folder.map(Written::of).unwrap_or_default();
    for problem in written.reading.problems.iter() {
        let what = problem.to_string();
        let file = problem.file.to_string_lossy();
        let remedy = remedy!("correct {} and check again", plain(&file));
        told.wrong(Page::ACCEPTED, plain(&what), remedy);
    }
    let documents = told.compare(cluster, &written, &kinds)?;
    let objects = objects::read(cluster, &kinds)?;
    told.add(refused(&objects, &written));
    for what in unwise(&inputs(&objects), &written) {
        let remedy = remedy!("change it and apply it again, unless it is meant so");
        told.note(Page::ADVICE, what, remedy);
    }
    told.add(unstarted::findings(&pods, Timestamp::now()));
    let mut asked = Asked::default();
    // Without an operator nobody would answer a sidecar, and restarts would give nobody one.
    if installation != Installation::Missing {
        told.unmeshed(cluster, &pods);
        let meshed = kubectl::in_the_mesh(&pods);
        asked = sidecars::ask(cluster, &meshed, &written, &mut told);
        let sidecars = with_versions(&pods, &asked);
        told.add(skew::findings(&sidecars, &installation.versions()));
    }
    told.say();
    say(conclusion(
        folder.map(|_| documents),
        items(&objects).count(),
        (asked.answered, asked.all),
    ));
    Ok(i32::from(told.is_wrong()))
}

/// What was looked at, lest silence be taken for more than it is.
fn conclusion(documents: Option<usize>, objects: usize, (asked, all): (usize, usize)) -> String {
    let compared = documents.map_or_else(String::new, |documents| {
        format!("{documents} documents compared with what is stored, ")
    });
    format!("{compared}{objects} objects of the mesh looked at, {asked} of {all} sidecars asked")
}

/// The sidecars of pods, with the versions that their images are of, as the operator's is, and otherwise those
/// that they say.
fn with_versions(pods: &Value, asked: &Asked) -> Vec<Sidecar> {
    let images = images::of_sidecars(pods).into_iter();
    let sidecars = images.map(|(of, image)| {
        let says = asked.versions.get(&of).map(String::as_str);
        let version = images::version_of(&image).or(says);
        Sidecar {
            version: version.map(str::to_owned),
            namespace: of.0,
            image,
        }
    });
    sidecars.collect()
}

/// The objects of the cluster that documents describe.
fn stored<'a>(
    cluster: &Cluster,
    documents: impl Iterator<Item = &'a Document>,
) -> anyhow::Result<Value> {
    let names = documents.map(|document| {
        let metadata = &document.value["metadata"];
        let mut name = json!({ "name": metadata["name"] });
        if metadata["namespace"].is_string() {
            name["namespace"] = metadata["namespace"].clone();
        }
        json!({ "apiVersion": document.api_version, "kind": document.kind, "metadata": name })
    });
    let names = json!({ "apiVersion": "v1", "kind": "List", "items": names.collect::<Vec<_>>() });
    // Each says its namespace itself.
    let everywhere = Cluster {
        namespace: None,
        ..cluster.clone()
    };
    let mut asking = kubectl::command(&everywhere, None);
    asking.args(["get", "--ignore-not-found", "-f", "-"]);
    kubectl::json(asking, Some(&names))
}

/// Without those that end: after a rollout they are there for some time, and nobody needs to do anything.
fn remaining(mut pods: Value) -> Value {
    if let Some(items) = pods.get_mut("items").and_then(Value::as_array_mut) {
        items.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    }
    pods
}

/// The objects of an answer: of a list, or the only one.
pub(super) fn items(answer: &Value) -> impl Iterator<Item = &Value> {
    let list = answer["items"].as_array();
    let one = (list.is_none() && answer.is_object()).then_some(answer);
    list.into_iter().flatten().chain(one)
}

/// What stands under a name in the cluster: kind, namespace and name.
fn name(object: &Value) -> (&str, &str, &str) {
    let part = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    (
        object["kind"].as_str().unwrap_or_default(),
        part("namespace"),
        part("name"),
    )
}

/// Every condition that is False.
fn refused(objects: &Value, written: &Written) -> Told {
    let mut told = Told::default();
    for object in items(objects) {
        let (kind, namespace, name) = name(object);
        let conditions = object["status"]["conditions"].as_array();
        for condition in conditions.into_iter().flatten() {
            if condition["status"] != "False" {
                continue;
            }
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            // It is to be so, or another condition says why.
            if text("type") == "Ready" && matches!(text("reason"), "Suspended" | "NotAccepted") {
                continue;
            }
            let page = match text("type") {
                "Programmed" => Page::PROGRAMMED,
                "Ready" => Page::READY,
                _ => Page::ACCEPTED,
            };
            let field = field_of(text("message"));
            let what = format_args!(
                "{}{kind} {namespace}/{name}: {} is False: {} ({})",
                written.place(kind, namespace, name, field),
                text("type"),
                text("message"),
                text("reason"),
            );
            told.wrong(page, what, made_true(text("type"), field));
        }
    }
    told
}

/// What makes a condition True. More is in its own sentence, which is the one that the compiler has for it.
fn made_true(condition: &str, field: &str) -> Remedy {
    match (condition, field) {
        ("Programmed", _) => {
            remedy!("it follows once the object is accepted, and if not, sidecars' logs say why")
        }
        (_, "") => remedy!("correct the object, or what it names, and apply it again"),
        (_, field) => remedy!("correct {field}, or what it names, and apply it again"),
    }
}

/// What people wrote, as far as this build can read it.
fn inputs(objects: &Value) -> Inputs {
    let mut inputs = Inputs::default();
    for object in items(objects) {
        let (kind, namespace, name) = name(object);
        let key = ObjectKey::new(namespace, name);
        match kind {
            "ApiRoute" => keep(&mut inputs.api_routes, key, object),
            "RetryPolicy" => keep(&mut inputs.retry_policies, key, object),
            "RateLimit" => keep(&mut inputs.rate_limits, key, object),
            "EventSubscription" => keep(&mut inputs.event_subscriptions, key, object),
            _ => {}
        }
    }
    inputs
}

fn keep<K: DeserializeOwned>(
    objects: &mut BTreeMap<ObjectKey, Arc<K>>,
    key: ObjectKey,
    object: &Value,
) {
    if let Ok(object) = serde_json::from_value(object.clone()) {
        objects.insert(key, Arc::new(object));
    }
}

/// What is stored otherwise than it is written, with file, line and field.
fn compared(written: &Written, stored: &Value) -> Told {
    let mut told = Told::default();
    for document in written.reading.documents() {
        let (kind, key, file) = (&document.kind, &document.key, &document.file);
        let wanted = (kind.as_str(), key.namespace.as_str(), key.name.as_str());
        let Some(found) = items(stored).find(|object| name(object) == wanted) else {
            let place = written.line(document, "");
            let what = format_args!("{place}{kind} {key} is not in the cluster");
            let remedy = remedy!("`kubectl apply -f {file}` sends it");
            told.wrong(Page::STORED, what, remedy);
            continue;
        };
        for difference in differences(&document.value, found) {
            let field = &difference.field;
            let place = written.line(document, field);
            let what = format_args!("{place}{kind} {key}: {field}: {}", difference.in_words());
            told.wrong(Page::STORED, what, difference.remedy(file));
        }
    }
    told
}

// === impl Told ===

impl Told {
    /// Compares what is written with what is stored; returns how many documents were compared.
    fn compare(
        &mut self,
        cluster: &Cluster,
        written: &Written,
        kinds: &BTreeSet<String>,
    ) -> anyhow::Result<usize> {
        let documents = written.reading.documents().count();
        if documents == 0 {
            return Ok(0);
        }
        // kubectl fails at the first whose kind the API server doesn't know.
        if ENFORCED.iter().any(|kind| !kinds.contains(*kind)) {
            self.note(
                Page::INSTALLING,
                "the folder is not compared with the cluster, which lacks definitions of the mesh's kinds",
                remedy!("`meshwright check DIR` alone says what is wrong with it"),
            );
            return Ok(0);
        }
        let stored = stored(cluster, written.reading.documents())?;
        self.add(compared(written, &stored));
        Ok(documents)
    }

    /// The pods that are looked at, which are all that the user may see and that stay.
    fn pods(&mut self, cluster: &Cluster) -> Value {
        let mut asking = kubectl::command(cluster, None);
        asking.args(["get", "pods"]);
        if cluster.namespace.is_none() {
            asking.arg("--all-namespaces");
        }
        kubectl::json(asking, None)
            .map(remaining)
            .unwrap_or_else(|error| {
                let what = format_args!(
                    "pods without a sidecar can't be looked for, and no sidecar be asked: {error:#}"
                );
                let remedy = remedy!("it takes the right to list pods");
                self.note(Page::RIGHTS, what, remedy);
                Value::Null
            })
    }

    /// Looks at what the mesh itself is made of. There is one for the whole cluster: who checks one namespace
    /// is told of no more than kinds that are missing. That somebody may not look is no fault of the
    /// cluster's.
    fn installation(
        &mut self,
        cluster: &Cluster,
        pods: &Value,
        kinds: &BTreeSet<String>,
    ) -> Installation {
        let installation = match cluster.namespace {
            Some(_) => Installation::Unknown,
            None => installation::look(cluster, pods, self),
        };
        match &installation {
            Installation::There(operator) => {
                self.add(operator.findings());
                plugin::look(cluster, &operator.namespace, self);
                webhooks::look(cluster, true, self);
                self.add(definitions::missing(kinds));
                if operator.is_of_this_version() {
                    definitions::compare(cluster, kinds, self);
                }
                if operator.answers() {
                    self.ask_operator(cluster, Some(&operator.namespace));
                }
            }
            Installation::Missing => {
                installation::missing(cluster, kubectl::in_the_mesh(pods).len(), self);
                if !kinds.is_empty() {
                    self.note(
                        Page::UNINSTALLED,
                        "there are definitions of the mesh's kinds, which an earlier installation has left or somebody \
                         else applies",
                        remedy!("a new one goes on with them, and with all objects"),
                    );
                }
                webhooks::look(cluster, false, self);
            }
            Installation::Unknown if kinds.is_empty() => self.note(
                Page::INSTALLING,
                "there are no definitions of the mesh's kinds: no Meshwright is installed here, or somebody has \
                 deleted them",
                remedy!("`meshwright check --cluster`, by somebody who may see all of it, says which"),
            ),
            Installation::Unknown => {
                self.add(definitions::missing(kinds));
                if cluster.namespace.is_none() {
                    webhooks::look(cluster, true, self);
                    self.ask_operator(cluster, None);
                }
            }
        }
        installation
    }

    /// Asks the operator for certificates that end soon.
    fn ask_operator(&mut self, cluster: &Cluster, namespace: Option<&str>) {
        let there = Cluster {
            namespace: namespace.map(str::to_owned),
            ..cluster.clone()
        };
        match certificates::of_cluster(&there) {
            Ok(report) => self.add(expiry::findings(&report, SystemTime::now())),
            Err(error) => self.note(
                Page::RIGHTS,
                format_args!("the operator can't be asked for its certificates: {error:#}"),
                remedy!(
                    "it takes the rights to get deployments, get and list pods and create pods/portforward in its \
                     namespace, and an operator that is ready and not older than this command"
                ),
            ),
        }
    }

    /// Looks for pods that should have a sidecar and have none.
    fn unmeshed(&mut self, cluster: &Cluster, pods: &Value) {
        match unmeshed::look(cluster, pods) {
            Ok(found) => self.add(found),
            Err(error) => self.note(
                Page::RIGHTS,
                format_args!("pods without a sidecar can't be looked for: {error:#}"),
                match &cluster.namespace {
                    Some(namespace) => {
                        remedy!("it takes the right to get the namespace {namespace}")
                    }
                    None => remedy!("it takes the right to list namespaces"),
                },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(condition: &str, reason: &str, message: &str) -> String {
        let object = json!({
            "kind": "ApiRoute", "metadata": { "namespace": "shop", "name": "orders" },
            "status": { "conditions": [
                { "type": condition, "status": "False", "reason": reason, "message": message },
                { "type": "Other", "status": "True", "reason": "Other", "message": "" },
            ] },
        });
        let (wrong, notes) = refused(&object, &Written::default()).parts();
        assert!(wrong.len() == 1 && notes.is_empty(), "{wrong:?} {notes:?}");
        wrong.concat()
    }

    #[test]
    fn a_pod_that_ends_is_no_longer_looked_at() {
        let pod = |name: &str, ends: Value| json!({ "metadata": { "name": name, "deletionTimestamp": ends } });
        let ends = json!("2026-01-31T08:00:00Z");
        let pods = json!({ "items": [pod("old", ends), pod("new", Value::Null)] });
        let names: Vec<_> = items(&remaining(pods))
            .map(|pod| pod["metadata"]["name"].clone())
            .collect();
        assert_eq!(names, ["new"]);
        assert_eq!(remaining(Value::Null), Value::Null);
    }

    #[test]
    fn what_is_refused_is_told_in_its_own_words_with_what_has_it_accepted() {
        let field = "spec.rules[0].backendRefs[0].name";
        let message = format!("{field}: there is no Service \"elsewhere\".");
        assert_eq!(
            said("ResolvedRefs", "BackendNotFound", &message),
            format!(
                "ApiRoute shop/orders: ResolvedRefs is False: {message} (BackendNotFound): correct {field}, or what it \
                 names, and apply it again (docs/troubleshooting.md#an-object-is-not-accepted)"
            )
        );
        assert_eq!(
            said("Accepted", "OfALaterVersion", "so it is"),
            "ApiRoute shop/orders: Accepted is False: so it is (OfALaterVersion): correct the object, or what it names, \
             and apply it again (docs/troubleshooting.md#an-object-is-not-accepted)"
        );
        assert_eq!(
            said("Programmed", "Rejected", "so it is"),
            "ApiRoute shop/orders: Programmed is False: so it is (Rejected): it follows once the object is accepted, and \
             if not, sidecars' logs say why (docs/troubleshooting.md#programmed-stays-below-what-it-should-be)"
        );
    }
}
