//! What the API server is told of the webhooks: whether it is all there, and as the chart writes it.

use std::collections::BTreeSet;

use anyhow::Context as _;
use operator::webhook::certificate::{INJECTOR, VALIDATOR};
use serde_json::Value;

use super::cluster::items;
use super::told::{Page, Remedy, Told, remedy};
use crate::kubectl;
use crate::sidecar::Cluster;

/// A configuration that the chart makes.
struct Configuration {
    kind: &'static str,
    name: &'static str,
    /// The webhooks in it.
    webhooks: &'static [&'static str],
    failure_policy: &'static str,
    /// What comes of it when it is not there.
    without: &'static str,
    /// What comes of it when its failure policy is another.
    otherwise: &'static str,
}

const INJECTS: Configuration = Configuration {
    kind: "MutatingWebhookConfiguration",
    name: INJECTOR,
    webhooks: &[
        "namespaces.inject.meshwright.dev",
        "pods.inject.meshwright.dev",
    ],
    failure_policy: "Fail",
    without: "pods are created without a sidecar",
    otherwise: "while no operator answers, pods are created without a sidecar and nobody notices",
};
const VALIDATES: Configuration = Configuration {
    kind: "ValidatingWebhookConfiguration",
    name: VALIDATOR,
    webhooks: &["validate.meshwright.dev"],
    failure_policy: "Ignore",
    without: "nobody is told what is wrong with an object before it is stored",
    otherwise: "while no operator answers, nobody can change what the mesh is to do",
};

/// A Service by namespace and name.
type Service = (String, String);

/// Looks at both. `installed` is whether there is an operator that they could be of.
pub(super) fn look(cluster: &Cluster, installed: bool, told: &mut Told) {
    match asked(cluster) {
        Ok((configurations, gone)) => told.add(findings(&configurations, &gone, installed)),
        Err(error) => {
            let what = format_args!("the webhooks' configurations can't be looked at: {error:#}");
            let remedy = remedy!(
                "it takes the rights to get mutatingwebhookconfigurations, validatingwebhookconfigurations, and \
                 services in the operator's namespace"
            );
            told.note(Page::RIGHTS, what, remedy);
        }
    }
}

/// The configurations, and which of the Services that they name are not there.
fn asked(cluster: &Cluster) -> anyhow::Result<(Value, BTreeSet<Service>)> {
    let mut asking = kubectl::command(cluster, None);
    asking.arg("get");
    for Configuration { kind, name, .. } in [INJECTS, VALIDATES] {
        asking.arg(format!("{}/{name}", kind.to_lowercase()));
    }
    asking.arg("--ignore-not-found");
    let configurations = kubectl::json(asking, None)?;
    let mut gone = BTreeSet::new();
    for (namespace, name) in services(&configurations) {
        let mut asking = kubectl::command(cluster, Some(&namespace));
        asking.args(["get", "service", &name, "--ignore-not-found"]);
        let service = kubectl::json(asking, None)
            .with_context(|| format!("the Service {namespace}/{name} that they name"))?;
        if service.is_null() {
            gone.insert((namespace, name));
        }
    }
    Ok((configurations, gone))
}

fn services(configurations: &Value) -> BTreeSet<Service> {
    let webhooks = items(configurations).flat_map(webhooks_of);
    webhooks.filter_map(service_of).collect()
}

fn webhooks_of(configuration: &Value) -> impl Iterator<Item = &Value> {
    configuration["webhooks"].as_array().into_iter().flatten()
}

/// The Service that is asked; none where it is an address.
fn service_of(webhook: &Value) -> Option<Service> {
    let service = &webhook["clientConfig"]["service"];
    let part = |field: &str| service[field].as_str().map(str::to_owned);
    Some((part("namespace")?, part("name")?))
}

fn findings(configurations: &Value, gone: &BTreeSet<Service>, installed: bool) -> Told {
    let mut told = Told::default();
    for expected in [INJECTS, VALIDATES] {
        let Configuration {
            kind,
            name,
            without,
            ..
        } = expected;
        let mut there = items(configurations);
        let there = there.find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        match there {
            Some(there) if installed => expected.judge(there, gone, &mut told),
            Some(_) => expected.is_left(&mut told),
            None if installed => told.wrong(
                Page::WEBHOOKS,
                format_args!("there is no {kind} {name}, so that {without}"),
                put_back(),
            ),
            None => {}
        }
    }
    told
}

/// What puts back what the chart makes.
fn put_back() -> Remedy {
    remedy!("`meshwright upgrade` puts it back")
}

// === impl Configuration ===

impl Configuration {
    /// What is wrong with one that is there.
    fn judge(&self, there: &Value, gone: &BTreeSet<Service>, told: &mut Told) {
        let Self {
            kind,
            name,
            without,
            ..
        } = self;
        for expected in self.webhooks {
            let found = webhooks_of(there).find(|one| one["name"] == *expected);
            let Some(webhook) = found else {
                let what =
                    format_args!("{kind} {name} has no webhook {expected}, so that {without}");
                told.wrong(Page::WEBHOOKS, what, put_back());
                continue;
            };
            let bundle = webhook["clientConfig"]["caBundle"].as_str();
            if bundle.is_none_or(str::is_empty) {
                let what = format_args!(
                    "{kind} {name}: {expected} has no caBundle, so that the API server can't ask the operator"
                );
                let remedy = remedy!("the operator writes it, and its log says why it can't");
                told.wrong(Page::OPERATOR, what, remedy);
            }
            if let Some((namespace, service)) = service_of(webhook).filter(|one| gone.contains(one))
            {
                let what = format_args!(
                    "{kind} {name}: {expected} asks the Service {namespace}/{service}, which is not there"
                );
                told.wrong(Page::WEBHOOKS, what, put_back());
            }
            let policy = webhook["failurePolicy"].as_str().unwrap_or("Fail");
            if policy != self.failure_policy {
                let what = format_args!(
                    "{kind} {name}: the failurePolicy of {expected} is {policy} and not {}, so that {}",
                    self.failure_policy, self.otherwise
                );
                let remedy = remedy!("`meshwright upgrade` writes it again");
                // Closed where in doubt is safe, if not what was meant.
                match policy {
                    "Fail" => told.note(Page::WITHOUT_OPERATOR, what, remedy),
                    _ => told.wrong(Page::WITHOUT_OPERATOR, what, remedy),
                }
            }
        }
    }

    /// One is there without an operator.
    fn is_left(&self, told: &mut Told) {
        let Self { kind, name, .. } = self;
        let remedy = remedy!(
            "`meshwright install`, or `kubectl delete {} {name}`",
            kind.to_lowercase()
        );
        match self.failure_policy {
            "Fail" => told.wrong(
                Page::WITHOUT_OPERATOR,
                format_args!(
                    "{kind} {name} is there without an operator, so that no pod of a labelled namespace can be created"
                ),
                remedy,
            ),
            _ => told.note(
                Page::WITHOUT_OPERATOR,
                format_args!("{kind} {name} is there without an operator, and nobody answers"),
                remedy,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::chart::FILES;
    use serde_json::json;

    /// As the API server tells of them.
    fn both() -> Value {
        let configuration = |expected: Configuration| {
            let webhooks = expected.webhooks.iter().map(|name| {
                json!({
                    "name": name, "failurePolicy": expected.failure_policy, "admissionReviewVersions": ["v1"],
                    "clientConfig": { "caBundle": "LS0tLS1CRUdJTg==", "service": {
                        "name": "meshwright-operator", "namespace": "mesh", "path": "/inject", "port": 15017 } },
                })
            });
            json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": expected.kind,
                "metadata": { "name": expected.name }, "webhooks": webhooks.collect::<Vec<_>>(),
            })
        };
        json!({ "kind": "List", "items": [configuration(INJECTS), configuration(VALIDATES)] })
    }

    fn said(edit: impl FnOnce(&mut Value)) -> Told {
        let mut configurations = both();
        edit(&mut configurations);
        findings(&configurations, &BTreeSet::new(), true)
    }

    #[test]
    fn webhooks_are_expected_as_the_chart_writes_them() {
        let template = FILES
            .iter()
            .find(|(name, _)| *name == "templates/webhook.yaml");
        let text = template.unwrap().1;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- name: "));
        let expected: Vec<_> = [INJECTS, VALIDATES]
            .iter()
            .flat_map(|one| one.webhooks)
            .copied()
            .collect();
        assert_eq!(names.collect::<Vec<_>>(), expected);
        let policies = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("failurePolicy: "));
        // Both of the injector's are of one template.
        let expected = [INJECTS, VALIDATES].map(|one| one.failure_policy);
        assert_eq!(policies.collect::<Vec<_>>(), expected);
        assert_eq!(said(|_| {}), Told::default());
    }

    #[test]
    fn what_is_missing_of_a_webhook_is_wrong_and_told_with_what_comes_of_it() {
        let gone = said(|all| drop(all["items"].as_array_mut().unwrap().remove(0)));
        assert_eq!(
            gone.parts().0,
            [
                "there is no MutatingWebhookConfiguration meshwright-injector, so that pods are created without a \
                 sidecar: `meshwright upgrade` puts it back (docs/webhooks.md#what-the-api-server-asks-the-operator)"
            ]
        );
        let both = findings(&Value::Null, &BTreeSet::new(), true);
        assert_eq!(both.parts().0.len(), 2, "{both:?}");

        let half = said(|all| drop(all["items"][0]["webhooks"].as_array_mut().unwrap().pop()));
        let expected = "MutatingWebhookConfiguration meshwright-injector has no webhook pods.inject.meshwright.dev, ";
        assert!(half.parts().0[0].starts_with(expected), "{half:?}");

        let untold =
            said(|all| all["items"][1]["webhooks"][0]["clientConfig"]["caBundle"] = Value::Null);
        let expected = "ValidatingWebhookConfiguration meshwright-validator: validate.meshwright.dev has no caBundle, ";
        assert!(untold.parts().0[0].starts_with(expected), "{untold:?}");
    }

    #[test]
    fn a_service_that_is_asked_and_not_there_is_wrong() {
        let own = ("mesh".to_owned(), "meshwright-operator".to_owned());
        assert_eq!(services(&both()), BTreeSet::from([own.clone()]));
        let told = findings(&both(), &BTreeSet::from([own]), true);
        let (wrong, _) = told.parts();
        assert_eq!(wrong.len(), 3);
        assert!(wrong[0].contains("asks the Service mesh/meshwright-operator, which is not there"));
    }

    #[test]
    fn a_failure_policy_that_lets_pods_out_of_the_mesh_is_wrong_and_one_that_holds_edits_up_is_not()
    {
        let open = said(|all| all["items"][0]["webhooks"][1]["failurePolicy"] = json!("Ignore"));
        let (wrong, _) = open.parts();
        assert!(
            wrong[0]
                .contains("the failurePolicy of pods.inject.meshwright.dev is Ignore and not Fail")
        );
        let closed = said(|all| all["items"][1]["webhooks"][0]["failurePolicy"] = json!("Fail"));
        let (wrong, notes) = closed.parts();
        assert!(
            wrong.is_empty() && notes[0].contains("is Fail and not Ignore"),
            "{closed:?}"
        );
    }

    #[test]
    fn what_is_left_without_an_operator_is_told_with_what_removes_it() {
        assert_eq!(
            findings(&Value::Null, &BTreeSet::new(), false),
            Told::default()
        );
        let told = findings(&both(), &BTreeSet::new(), false);
        let (wrong, notes) = told.parts();
        assert!(
            wrong[0].contains("`kubectl delete mutatingwebhookconfiguration meshwright-injector`")
        );
        assert!(
            notes[0]
                .contains("`kubectl delete validatingwebhookconfiguration meshwright-validator`")
        );
    }
}
