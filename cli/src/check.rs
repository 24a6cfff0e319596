//! `meshwright check`: what is wrong with a folder, without running it.

use std::path::PathBuf;

use compiler::yaml::{Document, Object};
use compiler::{Inputs, ObjectKey, ObjectRef, Output};

use crate::folder;
use crate::up::plan::Plan;
use crate::up::{shown, table::say};

/// Says what is wrong with a folder of documents; exit code 1 when anything is.
///
/// Reads every file as `meshwright up` does and compiles it as the operator does. In a cluster the
/// same is done by `kubectl apply` (fields that don't exist are refused by its strict validation)
/// and by the status of each object.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The folder of documents.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// What nobody who checked a folder should conclude about a cluster.
const IN_A_CLUSTER: &str = "in a cluster, fields that don't exist are refused by kubectl's strict \
                            validation, not by Meshwright";

/// Checks; returns the exit code.
pub fn run(args: &CheckArgs) -> anyhow::Result<i32> {
    let folder = args.folder.canonicalize()?;
    let reading = folder::read(&folder);
    let mut sentences: Vec<_> = reading
        .problems
        .iter()
        .map(|problem| shown(problem, &folder, &args.folder))
        .collect();
    if let Err(problems) = Plan::new(reading.documents.clone(), &folder) {
        sentences.extend(
            problems
                .iter()
                .map(|problem| shown(problem, &folder, &args.folder)),
        );
    }
    // Of documents that are not all there, too much would be missing.
    if sentences.is_empty() {
        sentences = refused(&reading.documents);
    }
    for sentence in &sentences {
        say(sentence);
    }
    if sentences.is_empty() {
        say(nothing_wrong(&reading.documents));
    }
    Ok(i32::from(!sentences.is_empty()))
}

fn nothing_wrong(documents: &[Document]) -> String {
    let routes = documents
        .iter()
        .filter(|document| document.kind == "ApiRoute")
        .count();
    format!(
        "{} documents, {routes} of them ApiRoutes: nothing is wrong\n{IN_A_CLUSTER}",
        documents.len()
    )
}

/// What the compiler refuses, in sentences.
fn refused(documents: &[Document]) -> Vec<String> {
    let mut inputs = Inputs::default();
    inputs.settings.trust_domain = "cluster.local".to_owned();
    inputs.settings.cluster_domain = "cluster.local".to_owned();
    for document in documents {
        let key = document.key.clone();
        match &document.object {
            Object::ApiRoute(route) => {
                // As the operator does: of two that conflict, the one that comes first wins.
                let order = inputs.api_routes.len() as u64;
                inputs.precedence.insert(ObjectRef::api_route(&key), order);
                inputs.api_routes.insert(key, route.clone());
            }
            Object::Service(service) => drop(inputs.services.insert(key, service.clone())),
            Object::EndpointSlice(slice) => drop(inputs.endpoint_slices.insert(key, slice.clone())),
            Object::Pod(pod) => drop(inputs.pods.insert(key, pod.clone())),
            Object::Deployment(_) | Object::Ignored => {}
        }
    }
    let output = compiler::compile(&inputs, Output::default());
    let mut sentences = Vec::new();
    for verdict in output.verdicts.values() {
        let key = ObjectKey::new(&verdict.object.namespace, &verdict.object.name);
        let written = documents
            .iter()
            .find(|document| document.key == key && document.kind == verdict.object.kind.as_str());
        for condition in verdict
            .conditions
            .iter()
            .filter(|condition| !condition.status)
        {
            let place = written.map_or_else(String::new, |document| {
                format!("{}:{}: ", document.file, document.line)
            });
            let (object, message) = (&verdict.object, &condition.message);
            sentences.push(format!(
                "{place}{} {key}: {message} ({})",
                object.kind, condition.reason
            ));
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn where_nothing_is_wrong_it_is_said_what_refuses_unknown_fields_in_a_cluster() {
        assert_eq!(
            nothing_wrong(&[]),
            "0 documents, 0 of them ApiRoutes: nothing is wrong\n\
             in a cluster, fields that don't exist are refused by kubectl's strict validation, not \
             by Meshwright"
        );
    }

    #[test]
    fn of_two_that_conflict_the_one_in_the_first_file_wins_whatever_its_name_and_age() {
        let folder = tempfile::tempdir().unwrap();
        let route = |name: &str, created: &str| {
            format!(
                "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: {name}, \
                 namespace: shop, creationTimestamp: \"{created}\"}}\nspec: {{hosts: [orders]}}\n"
            )
        };
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: shop}\n\
                       spec: {ports: [{port: 80}]}\n";
        let first = route("zebra", "2026-02-01T00:00:00Z");
        let second = route("ant", "2026-01-01T00:00:00Z") + service;
        fs::write(folder.path().join("1.yaml"), first).unwrap();
        fs::write(folder.path().join("2.yaml"), second).unwrap();

        let reading = folder::read(folder.path());
        assert_eq!(reading.problems, []);
        let sentences = refused(&reading.documents);
        let [sentence] = sentences.as_slice() else {
            panic!("{sentences:?}");
        };
        let place = format!("{}:1: ", folder.path().join("2.yaml").display());
        assert_eq!(
            sentence.strip_prefix(&place),
            Some(
                "ApiRoute shop/ant: ApiRoute shop/zebra comes first and already governs the calls to \
                 orders.shop: put the rules of both into one of them, or take the host out of this \
                 one. (Conflicted)"
            ),
            "{sentence}"
        );
    }
}
