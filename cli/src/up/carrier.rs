//! The pod that carries out EventSubscriptions for whom no workload of the folder is there, as those of the chart's Deployment
//! `meshwright-events` do in a cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ::crds::EventSubscriptionSpec;
use compiler::yaml::Object;
use compiler::{CARRIES, ObjectKey};

use super::plan::{GRACE, Plan, Template, Workload};

/// Where the operator is, as far as its folder says.
const NAMESPACE: &str = "meshwright-system";
/// What the Deployment is called in a cluster, and its service account.
const NAME: &str = "meshwright-events";

/// The workload, if anything in the plan needs it.
pub(super) fn of(plan: &Plan) -> Option<Workload> {
    let mut documents = plan.documents.values();
    let needs = documents.any(|document| match &document.object {
        Object::EventSubscription(one) => !has_own_pods(plan, &document.key.namespace, &one.spec),
        _ => false,
    });
    needs.then(|| Workload {
        key: ObjectKey::new(NAMESPACE, NAME),
        replicas: 1,
        template: Template {
            labels: BTreeMap::from([(CARRIES.to_owned(), "true".to_owned())]),
            annotations: BTreeMap::new(),
            service_account: NAME.to_owned(),
            container: String::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            ports: Vec::new(),
            grace: GRACE,
        },
    })
}

/// Whether a workload of the folder carries it out itself.
fn has_own_pods(plan: &Plan, namespace: &str, spec: &EventSubscriptionSpec) -> bool {
    let target = &spec.target;
    let service = target.service.as_ref().and_then(|service| {
        let key = ObjectKey::new(namespace, &*service.name);
        plan.services.get(&key)?.spec.as_ref()?.selector.as_ref()
    });
    let workload = target.workload.as_ref().map(|workload| &workload.selector);
    let Some(selector) = workload.or(service) else {
        return false;
    };
    let mut running = plan
        .workloads
        .values()
        .filter(|workload| workload.key.namespace == namespace && workload.replicas > 0);
    running.any(|workload| {
        let labels = &workload.template.labels;
        let mut wanted = selector.iter();
        wanted.all(|(name, value)| labels.get(name) == Some(value))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn carried(target: &str, deployment: &str) -> bool {
        let text = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\n\
             metadata: {{ name: stock, namespace: shop }}\n\
             spec:\n  source: {{ type: Broker, broker: {{ name: nats, topic: stock }} }}\n  \
             target: {target}\n  delivery: {{ onExhausted: Drop }}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{ name: web, namespace: shop }}\n\
             spec: {{ selector: {{ app: web }}, ports: [{{ port: 80 }}] }}\n{deployment}"
        );
        let file = compiler::yaml::parse("shop.yaml", &text);
        assert_eq!(file.problems, []);
        let plan = Plan::new(file.documents.into_iter(), Path::new("/")).unwrap();
        let key = ObjectKey::new(NAMESPACE, NAME);
        let carrier = plan.workloads.get(&key);
        carrier.is_some_and(|carrier| carrier.template.labels[CARRIES] == "true")
    }

    #[test]
    fn there_is_a_pod_that_carries_out_what_no_workload_of_the_folder_does() {
        let deployment = |replicas: u8, app: &str| {
            format!(
                "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {app}, namespace: shop }}\n\
                 spec:\n  replicas: {replicas}\n  selector: {{ matchLabels: {{ app: {app} }} }}\n  template:\n    \
                 metadata: {{ labels: {{ app: {app} }} }}\n    \
                 spec: {{ containers: [{{ name: app, command: [serve] }}] }}\n"
            )
        };
        let workload = "{ type: Workload, workload: { selector: { app: web }, port: 80 } }";
        let service = "{ type: Service, service: { name: web, port: 80 } }";
        for target in [workload, service] {
            assert!(!carried(target, &deployment(1, "web")), "{target}");
            assert!(carried(target, &deployment(0, "web")), "{target}");
            assert!(carried(target, &deployment(1, "other")), "{target}");
        }
        let url = "{ type: URL, url: { address: \"https://partner.example.com\" } }";
        let topic = "{ type: Topic, topic: { name: copies } }";
        for target in [url, topic] {
            assert!(carried(target, &deployment(1, "web")), "{target}");
        }
    }
}
