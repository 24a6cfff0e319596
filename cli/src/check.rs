//! `meshwright check`: what is wrong with a folder, without running it, or in a cluster.

mod cluster;
mod definitions;
mod expiry;
mod images;
mod installation;
mod objects;
mod plugin;
mod sent;
mod sidecars;
mod skew;
mod told;
mod unmeshed;
mod unstarted;
mod webhooks;
mod written;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use compiler::{Inputs, ObjectKey, ObjectRef, Output};
use operator::source::reading::Reading;

use self::told::{Remedy, remedy};
use self::written::{Written, field_of};
use crate::sidecar::Cluster;
use crate::up::plan::Plan;
use crate::up::{callers, plain, stalls, table::say};

/// Says what is wrong with a folder of documents, or in a cluster; exit code 1 when anything is.
///
/// Reads every file as `meshwright up` does and compiles it as the operator does. In a cluster the
/// same is done by `kubectl apply` (fields that don't exist are refused by its strict validation)
/// and by the status of each object.
///
/// Where `meshwright up` runs the folder, it also tells who calls its workloads in plaintext: those
/// that have to become members before a workload that is permissive can be strict; and which ports have
/// to be declared, because their servers speak first and callers wait for it.
///
/// With --cluster, --context or --namespace it asks a cluster through kubectl instead: which fields of
/// the folder, if one is named, are stored otherwise than they were sent; which objects of the mesh have
/// a condition that is False, and why; which pods should have a sidecar and have none, or have one that
/// doesn't start; and of the sidecars that can be reached the same as above, and whether they hear of an
/// operator. Of a whole cluster it also looks at its version, the operator, the CNI plugin, the webhooks, the
/// definitions of the kinds, certificates, and versions that don't go together; before there is a mesh, at
/// whether it can be installed.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// The folder of documents.
    #[arg(value_name = "DIR", required_unless_present_any = ["cluster", "context", "namespace"])]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: Cluster,
}

/// What nobody who checked a folder should conclude about a cluster.
const IN_A_CLUSTER: &str = "in a cluster, fields that don't exist are refused by kubectl's strict \
                            validation, not by Meshwright";

/// Checks; returns the exit code.
pub fn run(args: &CheckArgs) -> anyhow::Result<i32> {
    let folder = args.folder.as_deref();
    if args.cluster.is_named() {
        return cluster::run(folder, &args.cluster);
    }
    check(folder.context("name the folder to check")?)
}

fn check(named: &Path) -> anyhow::Result<i32> {
    let folder = named.canonicalize()?;
    // By the name that the user gave it, and so are the files in it.
    let written = Written::of(named);
    let reading = &written.reading;
    let (sentences, unwise) = match Plan::of(reading, &folder) {
        Err(problems) => (
            problems.iter().map(ToString::to_string).collect(),
            Vec::new(),
        ),
        // Of documents that are not all there, too much would be missing.
        Ok(_) => (refused(&written), unwise(&reading.inputs, &written)),
    };
    for sentence in &sentences {
        say(plain(sentence));
    }
    say(conclusion(reading, sentences.is_empty()));
    // Legal: whoever wrote it may have their reasons.
    for sentence in &unwise {
        say(plain(sentence));
    }
    // Not wrong, but what has to end before the workload can be strict.
    for line in callers::lines(&folder) {
        say(line);
    }
    // Not wrong either, but slow.
    let waited = stalls::where_it_runs(&folder);
    for what in stalls::lines(&waited, |service, port| written.port(service, port)) {
        say(plain(&format!("{what}: {}", declare())));
    }
    Ok(i32::from(!sentences.is_empty()))
}

/// What ends that callers wait at a port, in a folder and in a cluster.
fn declare() -> Remedy {
    remedy!("write `appProtocol: tcp` at the port, or begin its name with `tcp-`")
}

/// What is said last, whether something is wrong or not.
fn conclusion(reading: &Reading, in_order: bool) -> String {
    if !in_order {
        return IN_A_CLUSTER.to_owned();
    }
    format!(
        "{} documents, {} of them ApiRoutes, {} RetryPolicies, {} RateLimits and \
         {} EventSubscriptions: nothing is wrong\n\
         {IN_A_CLUSTER}",
        reading.documents().count(),
        reading.inputs.api_routes.len(),
        reading.inputs.retry_policies.len(),
        reading.inputs.rate_limits.len(),
        reading.inputs.event_subscriptions.len()
    )
}

/// What the compiler refuses, in sentences.
fn refused(written: &Written) -> Vec<String> {
    let mut inputs = written.reading.inputs.clone();
    inputs.settings.trust_domain = "cluster.local".to_owned();
    inputs.settings.cluster_domain = "cluster.local".to_owned();
    let output = compiler::compile(&inputs, Output::default());
    let mut sentences = Vec::new();
    for verdict in output.verdicts.values() {
        let key = ObjectKey::new(&verdict.object.namespace, &verdict.object.name);
        let kind = verdict.object.kind.as_str();
        for condition in verdict
            .conditions
            .iter()
            .filter(|condition| !condition.status)
        {
            let message = &condition.message;
            let place = written.place(kind, &key.namespace, &key.name, field_of(message));
            sentences.push(format!(
                "{place}{kind} {key}: {message} ({})",
                condition.reason
            ));
        }
    }
    sentences
}

/// What is legal and unwise, in the sentences that whoever applies it to a cluster is told.
fn unwise(inputs: &Inputs, written: &Written) -> Vec<String> {
    let routes = inputs.api_routes.keys().map(ObjectRef::api_route);
    let policies = inputs.retry_policies.keys().map(ObjectRef::retry_policy);
    let limits = inputs.rate_limits.keys().map(ObjectRef::rate_limit);
    let subscriptions = inputs.event_subscriptions.keys();
    let limits = limits.chain(subscriptions.map(ObjectRef::event_subscription));
    let mut sentences = Vec::new();
    for object in routes.chain(policies).chain(limits) {
        for advice in compiler::advice(inputs, &object) {
            let ObjectRef {
                kind,
                namespace,
                name,
            } = &object;
            let place = written.place(kind.as_str(), namespace, name, field_of(&advice));
            sentences.push(format!("{place}{object}: {advice} (not wrong)"));
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
            format!(
                "0 documents, 0 of them ApiRoutes, 0 RetryPolicies, 0 RateLimits and 0 \
                 EventSubscriptions: nothing is wrong\n\
                 {in_a_cluster}"
            )
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

        let written = Written::of(folder.path());
        assert_eq!(*written.reading.problems, []);
        let sentences = refused(&written);
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

    #[test]
    fn what_is_refused_has_the_line_of_its_field() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {name: orders, \
                    namespace: shop}\nspec:\n  hosts: [orders]\n  rules:\n  - name: all\n    \
                    backendRefs:\n    - {name: elsewhere, port: 80}\n---\napiVersion: v1\nkind: \
                    Service\nmetadata: {name: orders, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let written = Written::of(folder.path());
        assert_eq!(*written.reading.problems, []);
        let sentences = refused(&written);
        let place = format!("{}:9: ", folder.path().join("a.yaml").display());
        assert!(sentences[0].starts_with(&place), "{sentences:?}");
        assert!(sentences[0].contains("spec.rules[0].backendRefs[0].name: "));
    }

    #[test]
    fn what_is_legal_and_unwise_is_said_with_its_line_and_is_not_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let text = "apiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {name: orders, \
                    namespace: shop}\nspec:\n  targetRefs: [{kind: Service, name: orders}]\n  methods: \
                    [POST]\n---\napiVersion: v1\nkind: Service\nmetadata: {name: orders, namespace: \
                    shop}\nspec: {ports: [{port: 80}]}\n";
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let written = Written::of(folder.path());
        assert_eq!(*written.reading.problems, []);
        assert_eq!(refused(&written), [""; 0]);
        let file = folder.path().join("a.yaml");
        assert_eq!(
            unwise(&written.reading.inputs, &written),
            [format!(
                "{}:6: RetryPolicy shop/orders: spec.methods: an application may carry out a POST twice \
                 that is sent again: write idempotencyKey instead, unless it bears that. (not wrong)",
                file.display()
            )]
        );
    }

    #[test]
    fn a_ring_of_replies_is_told_by_its_file_and_line_and_is_not_wrong() {
        let folder = tempfile::tempdir().unwrap();
        for (name, from, to) in [("asks", "order", "price"), ("tells", "price", "order")] {
            let text = format!(
                "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\nmetadata: {{name: {name}, \
                 namespace: shop}}\nspec:\n  source: {{type: Broker, broker: {{name: events, topic: {from}}}}}\n  \
                 target: {{type: Workload, workload: {{selector: {{app: a}}, port: 80}}, path: /}}\n  delivery: \
                 {{onExhausted: Drop}}\n  reply:\n    topic: {to}\n"
            );
            fs::write(folder.path().join(format!("{name}.yaml")), text).unwrap();
        }
        let written = Written::of(folder.path());
        assert_eq!(*written.reading.problems, []);
        let said = unwise(&written.reading.inputs, &written);
        for ((name, way), said) in [
            ("asks", "order -> price -> order"),
            ("tells", "price -> order -> price"),
        ]
        .iter()
        .zip(&said)
        {
            let file = folder.path().join(format!("{name}.yaml"));
            let begins = format!(
                "{}:9: EventSubscription shop/{name}: spec.reply.topic: ",
                file.display()
            );
            assert!(said.starts_with(&begins), "{said}");
            assert!(
                said.contains(way) && said.ends_with("(not wrong)"),
                "{said}"
            );
        }
        assert_eq!(said.len(), 2);
    }
}
