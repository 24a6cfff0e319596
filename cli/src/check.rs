//! `meshwright check`: what is wrong with a folder, without running it.

use std::path::PathBuf;

use compiler::yaml::{Document, Object};
use compiler::{Inputs, ObjectKey, Output};

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
        let routes = reading
            .documents
            .iter()
            .filter(|document| document.kind == "ApiRoute")
            .count();
        say(format_args!(
            "{} documents, {routes} of them ApiRoutes: nothing is wrong",
            reading.documents.len()
        ));
    }
    Ok(i32::from(!sentences.is_empty()))
}

/// What the compiler refuses, in sentences.
fn refused(documents: &[Document]) -> Vec<String> {
    let mut inputs = Inputs::default();
    inputs.settings.trust_domain = "cluster.local".to_owned();
    inputs.settings.cluster_domain = "cluster.local".to_owned();
    for document in documents {
        let key = document.key.clone();
        match &document.object {
            Object::ApiRoute(route) => drop(inputs.api_routes.insert(key, route.clone())),
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
