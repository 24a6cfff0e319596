//! `meshwright check`: what is wrong with a folder, without running it.

use std::path::PathBuf;

use compiler::{ObjectKey, Output};
use operator::source::reading::{Reading, read_folder};

use crate::up::plan::Plan;
use crate::up::{callers, plain, table::say};

/// Says what is wrong with a folder of documents; exit code 1 when anything is.
///
/// Reads every file as `meshwright up` does and compiles it as the operator does. In a cluster the
/// same is done by `kubectl apply` (fields that don't exist are refused by its strict validation)
/// and by the status of each object.
///
/// Where `meshwright up` runs the folder, it also tells who calls its workloads in plaintext: those
/// that have to become members before a workload that is permissive can be strict.
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
    // By the name that the user gave it, and so are the files in it.
    let reading = read_folder(std::slice::from_ref(&args.folder), &Reading::default());
    let sentences = match Plan::of(&reading, &folder) {
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
        // Of documents that are not all there, too much would be missing.
        Ok(_) => refused(&reading),
    };
    for sentence in &sentences {
        say(plain(sentence));
    }
    say(conclusion(&reading, sentences.is_empty()));
    // Not wrong, but what has to end before the workload can be strict.
    for line in callers::lines(&folder) {
        say(line);
    }
    Ok(i32::from(!sentences.is_empty()))
}

/// What is said last, whether something is wrong or not.
fn conclusion(reading: &Reading, in_order: bool) -> String {
    if !in_order {
        return IN_A_CLUSTER.to_owned();
    }
    format!(
        "{} documents, {} of them ApiRoutes: nothing is wrong\n{IN_A_CLUSTER}",
        reading.documents().count(),
        reading.inputs.api_routes.len()
    )
}

/// What the compiler refuses, in sentences.
fn refused(reading: &Reading) -> Vec<String> {
    let mut inputs = reading.inputs.clone();
    inputs.settings.trust_domain = "cluster.local".to_owned();
    inputs.settings.cluster_domain = "cluster.local".to_owned();
    let output = compiler::compile(&inputs, Output::default());
    let mut sentences = Vec::new();
    for verdict in output.verdicts.values() {
        let key = ObjectKey::new(&verdict.object.namespace, &verdict.object.name);
        let place = reading.origins.get(&verdict.object);
        let place = place.map_or_else(String::new, |origin| {
            format!("{}:{}: ", origin.file.display(), origin.line)
        });
        for condition in verdict
            .conditions
            .iter()
            .filter(|condition| !condition.status)
        {
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
    fn right_or_wrong_it_is_said_what_refuses_unknown_fields_in_a_cluster() {
        let in_a_cluster = "in a cluster, fields that don't exist are refused by kubectl's strict \
                            validation, not by Meshwright";
        assert_eq!(
            conclusion(&Reading::default(), true),
            format!("0 documents, 0 of them ApiRoutes: nothing is wrong\n{in_a_cluster}")
        );
        assert_eq!(conclusion(&Reading::default(), false), in_a_cluster);
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

        let reading = read_folder(&[folder.path().to_owned()], &Reading::default());
        assert_eq!(*reading.problems, []);
        let sentences = refused(&reading);
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
