//! `meshwright check --cluster`: what is wrong in a cluster, read through kubectl with the user's own
//! kubeconfig and rights.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use compiler::yaml::Document;
use compiler::{Inputs, ObjectKey};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::sent::differences;
use super::unmeshed;
use super::unwise;
use super::written::{Written, field_of};
use crate::certificates;
use crate::kubectl::{self, Pod};
use crate::sidecar::{Cluster, Reached, through};
use crate::up::callers::Caller;
use crate::up::stalls::{self, Stall};
use crate::up::{plain, table::say};

/// Sidecars that are asked: each costs a connection through the API server, some at a time.
const MOST_ASKED: usize = 64;
const AT_A_TIME: usize = 8;

/// Every kind that has a status of ours, by its full name: kubectl knows what is in a category from a
/// cache, which may be older than the chart.
const ENFORCED: &str =
    "apiroutes.meshwright.dev,ratelimits.meshwright.dev,retrypolicies.meshwright.dev";

/// How long a sidecar may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What a cluster says, as far as it is to be told.
#[derive(Debug, Default)]
struct Told {
    /// What is wrong.
    wrong: Vec<String>,
    /// What isn't, but has to be known.
    notes: Vec<String>,
}

#[derive(Deserialize)]
struct Callers {
    callers: Vec<Caller>,
}

/// Checks a cluster, and what of a folder is stored there; returns the exit code: 1 when anything is
/// wrong.
pub(super) fn run(folder: Option<&Path>, cluster: &Cluster) -> anyhow::Result<i32> {
    let mut told = Told::default();
    let written = folder.map(Written::of).unwrap_or_default();
    for problem in written.reading.problems.iter() {
        told.wrong.push(plain(&problem.to_string()).to_owned());
    }
    let documents = written.reading.documents().count();
    if documents > 0 {
        let stored = stored(cluster, written.reading.documents())?;
        told.wrong.extend(compared(&written, &stored));
    }
    let mut asking = kubectl::command(cluster, None);
    asking.args(["get", ENFORCED]);
    if cluster.namespace.is_none() {
        asking.arg("--all-namespaces");
    }
    let objects = kubectl::json(asking, None)?;
    told.wrong.extend(refused(&objects, &written));
    told.notes.extend(unwise(&inputs(&objects), &written));
    match unmeshed::lines(cluster) {
        Ok(lines) => told.wrong.extend(lines),
        Err(error) => {
            let why = format!("pods without a sidecar can't be looked for: {error:#}");
            told.notes.push(why);
        }
    }
    told.ask_operator(cluster);
    let asked = told.ask_sidecars(cluster, &written);
    for line in told.wrong.iter().chain(&told.notes) {
        say(plain(line));
    }
    say(conclusion(
        folder.map(|_| documents),
        items(&objects).count(),
        asked,
    ));
    Ok(i32::from(!told.wrong.is_empty()))
}

/// What was looked at, lest silence be taken for more than it is.
fn conclusion(documents: Option<usize>, objects: usize, (asked, all): (usize, usize)) -> String {
    let compared = documents.map_or_else(String::new, |documents| {
        format!("{documents} documents compared with what is stored, ")
    });
    format!("{compared}{objects} objects of the mesh looked at, {asked} of {all} sidecars asked")
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

/// Every condition that is False, in sentences.
fn refused(objects: &Value, written: &Written) -> Vec<String> {
    let mut sentences = Vec::new();
    for object in items(objects) {
        let (kind, namespace, name) = name(object);
        let conditions = object["status"]["conditions"].as_array();
        for condition in conditions.into_iter().flatten() {
            if condition["status"] != "False" {
                continue;
            }
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            sentences.push(format!(
                "{}{kind} {namespace}/{name}: {} is False: {} ({})",
                written.place(kind, namespace, name, field_of(text("message"))),
                text("type"),
                text("message"),
                text("reason"),
            ));
        }
    }
    sentences
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

/// What is stored otherwise than it is written, in sentences with file, line and field.
fn compared(written: &Written, stored: &Value) -> Vec<String> {
    let mut sentences = Vec::new();
    for document in written.reading.documents() {
        let (kind, key, file) = (&document.kind, &document.key, &document.file);
        let wanted = (kind.as_str(), key.namespace.as_str(), key.name.as_str());
        let Some(found) = items(stored).find(|object| name(object) == wanted) else {
            sentences.push(format!(
                "{}{kind} {key} is not in the cluster: `kubectl apply -f {file}` sends it",
                written.line(document, "")
            ));
            continue;
        };
        for difference in differences(&document.value, found) {
            sentences.push(format!(
                "{}{kind} {key}: {}: {}",
                written.line(document, &difference.field),
                difference.field,
                difference.in_words(file)
            ));
        }
    }
    sentences
}

// === impl Told ===

impl Told {
    /// Asks the operator for certificates that end soon. It is one for the whole cluster: who checks
    /// one namespace is not told. That somebody may not ask it is no fault of the cluster's.
    fn ask_operator(&mut self, cluster: &Cluster) {
        if cluster.namespace.is_some() {
            return;
        }
        match certificates::of_cluster(cluster) {
            Ok(report) => {
                let (wrong, notes) = certificates::findings(&report, SystemTime::now());
                self.wrong.extend(wrong);
                self.notes.extend(notes);
            }
            Err(error) => self.notes.push(format!(
                "the operator can't be asked for its certificates: {error:#}"
            )),
        }
    }

    /// Asks the sidecars for plaintext callers and for ports to declare; returns how many answered, of
    /// how many. That somebody may not ask them is no fault of the cluster's.
    fn ask_sidecars(&mut self, cluster: &Cluster, written: &Written) -> (usize, usize) {
        let everywhere = cluster.namespace.is_none();
        let pods = match kubectl::pods(cluster, None, everywhere) {
            Ok(pods) => pods,
            Err(error) => {
                self.notes.push(format!("{error:#}"));
                return (0, 0);
            }
        };
        let mut waited = Vec::new();
        let mut answered = 0;
        for some in pods.get(..MOST_ASKED).unwrap_or(&pods).chunks(AT_A_TIME) {
            let begun: Vec<_> = some
                .iter()
                .map(|pod| through(cluster, pod.namespace.as_deref(), &pod.name))
                .collect();
            for (pod, begun) in some.iter().zip(begun) {
                match begun.and_then(|begun| asked(&begun.reached()?)) {
                    Ok((callers, stalls)) => {
                        answered += 1;
                        self.notes.extend(lines(pod, &callers));
                        waited.push((pod.to_string(), stalls));
                    }
                    Err(error) => self
                        .notes
                        .push(format!("the sidecar of {pod} can't be asked: {error:#}")),
                }
            }
        }
        let place = |service: &str, port: u16| written.port(service, port);
        self.notes.extend(stalls::lines(&waited, place));
        (answered, pods.len())
    }
}

fn lines(pod: &Pod, callers: &[Caller]) -> Vec<String> {
    let pod = pod.to_string();
    callers.iter().map(|caller| caller.line(&pod)).collect()
}

fn asked(reached: &Reached) -> anyhow::Result<(Vec<Caller>, Vec<Stall>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let both = async {
            let callers: Callers = serde_json::from_value(reached.get("/plaintext").await?)?;
            let stalls: stalls::Answer = serde_json::from_value(reached.get("/stalls").await?)?;
            anyhow::Ok((callers.callers, stalls.stalls))
        };
        timeout(ANSWER, both).await?
    })
}
