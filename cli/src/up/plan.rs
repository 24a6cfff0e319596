//! What is to run: a folder's documents as workloads, Services and routes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use compiler::yaml::{self, Document, Object};
use compiler::{ObjectKey, pod_settings};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use operator::source::Problem;
use operator::source::reading::Reading;

use super::addresses::{is_for_workloads, written};
use super::carrier;

/// What a pod is given between SIGTERM and SIGKILL when it doesn't say; Kubernetes' default.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// More replicas of one Deployment are a slip of the finger on one machine.
const MOST_REPLICAS: i32 = 50;

/// Kinds that a cluster would run.
const NOT_RUN: [&str; 5] = ["Pod", "StatefulSet", "DaemonSet", "Job", "CronJob"];

/// Everything a folder asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(super) workloads: BTreeMap<ObjectKey, Arc<Workload>>,
    pub(super) services: BTreeMap<ObjectKey, Arc<Service>>,
    /// Every document, for telling in words what changed.
    pub(super) documents: BTreeMap<(String, ObjectKey), Document>,
    /// What is ignored, in sentences.
    pub(super) notes: Vec<String>,
}

/// A Deployment, as far as it matters on one machine. Equal means: nothing need be restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) key: ObjectKey,
    pub(super) replicas: usize,
    pub(super) template: Template,
}

/// What each replica of a workload is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) service_account: String,
    pub(super) container: String,
    /// Empty for a sidecar without an application.
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, Value)>,
    pub(super) cwd: PathBuf,
    pub(super) ports: Vec<Port>,
    pub(super) grace: Duration,
}

/// A port that an application listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: Option<String>,
    pub(super) number: u16,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Field(Field),
}

/// What a pod can be told about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Name,
    Namespace,
    Uid,
    Address,
    ServiceAccount,
    Node,
}

/// Collects what is wrong with one document.
struct Complaints<'a> {
    document: &'a Document,
    problems: Vec<yaml::Problem>,
}

// === impl Plan ===

impl Plan {
    /// What was read, if it is whole and can be run; else everything that is wrong with it.
    ///
    /// `folder` is what a container's relative working directory is relative to.
    pub(crate) fn of(reading: &Reading, folder: &Path) -> Result<Self, Vec<Problem>> {
        let plan = Self::new(reading.documents().cloned(), folder);
        if reading.problems.is_empty() {
            return plan.map_err(|problems| problems.into_iter().map(Problem::from).collect());
        }
        let mut problems = reading.problems.to_vec();
        problems.extend(plan.err().into_iter().flatten().map(Problem::from));
        Err(problems)
    }

    pub(super) fn new(
        documents: impl Iterator<Item = Document>,
        folder: &Path,
    ) -> Result<Self, Vec<yaml::Problem>> {
        let mut plan = Self::default();
        let mut problems = Vec::new();
        for document in documents {
            let mut complaints = Complaints {
                document: &document,
                problems: Vec::new(),
            };
            if !matches!(document.object, Object::Namespace(_)) {
                complaints.name("metadata.namespace", &document.key.namespace);
            }
            complaints.name("metadata.name", &document.key.name);
            match &document.object {
                Object::Deployment(deployment) => {
                    if let Some(workload) =
                        plan.workload(&document.key, deployment, folder, &mut complaints)
                    {
                        plan.workloads
                            .insert(document.key.clone(), Arc::new(workload));
                    }
                }
                Object::Service(service) => {
                    plan.cluster_ip(&document.key, service, &mut complaints);
                    plan.services.insert(document.key.clone(), service.clone());
                }
                Object::ApiRoute(_)
                | Object::RetryPolicy(_)
                | Object::RateLimit(_)
                | Object::EventSubscription(_)
                | Object::EndpointSlice(_)
                | Object::Pod(_)
                | Object::Namespace(_)
                | Object::Secret(_)
                | Object::Ignored => {}
            }
            problems.extend(complaints.problems);
            plan.documents
                .insert((document.kind.clone(), document.key.clone()), document);
        }
        let not_run = plan.documents.keys();
        let not_run = not_run.filter(|(kind, _)| NOT_RUN.contains(&kind.as_str()));
        let not_run: Vec<_> = not_run.map(|(kind, key)| format!("{kind} {key}")).collect();
        if !not_run.is_empty() {
            plan.notes.push(format!(
                "not run here, for only Deployments are: {}",
                not_run.join(", ")
            ));
        }
        if let Some(carrier) = carrier::of(&plan) {
            plan.workloads
                .insert(carrier.key.clone(), Arc::new(carrier));
        }
        if plan.workloads.is_empty() {
            plan.notes
                .push("there is no Deployment in the folder: nothing runs yet".to_owned());
        }
        if problems.is_empty() {
            Ok(plan)
        } else {
            Err(problems)
        }
    }

    /// Every pod that is to be, by name, and what it is like.
    pub(super) fn replicas(&self) -> impl Iterator<Item = (ObjectKey, &Template)> {
        self.workloads
            .values()
            .flat_map(|workload| workload.pods().map(|pod| (pod, &workload.template)))
    }

    /// The Deployment that a pod is of.
    pub(super) fn workload_of(&self, pod: &ObjectKey) -> Option<ObjectKey> {
        let of = self
            .workloads
            .values()
            .find(|workload| workload.pods().any(|own| own == *pod));
        of.map(|workload| workload.key.clone())
    }

    /// An address that was written must be one that calls reach this Service by, and no other.
    fn cluster_ip(&self, key: &ObjectKey, service: &Service, complaints: &mut Complaints<'_>) {
        let Some(text) = written(service) else { return };
        let mut others = self.services.iter().filter(|(other, _)| *other != key);
        let fault = match text.parse() {
            Err(_) => format!("`{text}` is no IPv4 address"),
            Ok(address) if is_for_workloads(address) => {
                format!("{address} is in the network of the workloads here")
            }
            Ok(_) => match others.find(|(_, other)| written(other) == Some(text)) {
                Some((other, _)) => format!("{text} is written in Service {other} as well"),
                None => return,
            },
        };
        complaints.add(
            "spec.clusterIP",
            format!("{fault}; leave it out, and one is given"),
        );
    }

    fn workload(
        &mut self,
        key: &ObjectKey,
        deployment: &Deployment,
        folder: &Path,
        complaints: &mut Complaints<'_>,
    ) -> Option<Workload> {
        let Some(spec) = &deployment.spec else {
            complaints.add(
                "spec",
                "is missing: a Deployment needs a selector and a template",
            );
            return None;
        };
        let replicas = spec.replicas.unwrap_or(1);
        if !(0..=MOST_REPLICAS).contains(&replicas) {
            complaints.add(
                "spec.replicas",
                format!("must be between 0 and {MOST_REPLICAS} on one machine"),
            );
        }
        let metadata = spec.template.metadata.clone().unwrap_or_default();
        let labels = metadata.labels.clone().unwrap_or_default();
        let mut annotations = metadata.annotations.clone().unwrap_or_default();
        // Not enforced here, so that nobody must believe it: callers would find the sidecar.
        annotations.remove(pod_settings::EXCLUDE_INBOUND_PORTS);
        for (name, value) in spec.selector.match_labels.iter().flatten() {
            if labels.get(name) != Some(value) {
                complaints.add(
                    "spec.selector.matchLabels",
                    format!("wants the label `{name}: {value}`, which spec.template.metadata.labels doesn't have"),
                );
            }
        }
        let Some(pod) = &spec.template.spec else {
            complaints.add(
                "spec.template.spec",
                "is missing: it lists the container to run",
            );
            return None;
        };
        let container = match pod.containers.as_slice() {
            [container] => container,
            [] => {
                complaints.add(
                    "spec.template.spec.containers",
                    "is empty: name the container to run",
                );
                return None;
            }
            several => {
                let others: Vec<_> = several[1..]
                    .iter()
                    .map(|other| format!("`{}`", other.name))
                    .collect();
                complaints.add(
                    "spec.template.spec.containers",
                    format!(
                        "has {} containers; `meshwright up` runs one per workload: make a Deployment of its own for {}",
                        several.len(),
                        others.join(", ")
                    ),
                );
                return None;
            }
        };
        self.note_what_is_ignored(key, &metadata, pod, container);
        let argv = argv(container, complaints)?;
        let env = container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| env(variable, complaints))
            .collect();
        let cwd = folder.join(container.working_dir.as_deref().unwrap_or_default());
        if !cwd.is_dir() {
            complaints.add(
                "spec.template.spec.containers[0].workingDir",
                format!(
                    "names {}, which is no folder on this machine",
                    cwd.display()
                ),
            );
        }
        let template = Template {
            labels,
            annotations,
            service_account: pod
                .service_account_name
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            container: container.name.clone(),
            argv,
            env,
            cwd,
            ports: ports(container, complaints),
            grace: pod
                .termination_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(GRACE, Duration::from_secs),
        };
        Some(Workload {
            key: key.clone(),
            replicas: usize::try_from(replicas).unwrap_or_default(),
            template,
        })
    }

    fn note_what_is_ignored(
        &mut self,
        key: &ObjectKey,
        metadata: &ObjectMeta,
        pod: &PodSpec,
        container: &Container,
    ) {
        let mut ignored = Vec::new();
        // Its sidecar is a process like others, and no connection goes around it.
        let annotations = metadata.annotations.iter().flat_map(|all| all.keys());
        let of_sidecar = |name: &&String| pod_settings::ALL.contains(&name.as_str());
        ignored.extend(annotations.filter(of_sidecar).map(String::as_str));
        if container
            .volume_mounts
            .as_ref()
            .is_some_and(|mounts| !mounts.is_empty())
        {
            ignored.push("volumes");
        }
        if pod
            .init_containers
            .as_ref()
            .is_some_and(|containers| !containers.is_empty())
        {
            ignored.push("init containers");
        }
        let probes = [
            &container.startup_probe,
            &container.readiness_probe,
            &container.liveness_probe,
        ];
        if probes.iter().any(|probe| probe.is_some()) {
            ignored.push("probes (ready means: it accepts connections on its ports)");
        }
        if container.lifecycle.is_some() {
            ignored.push("hooks");
        }
        if !ignored.is_empty() {
            self.notes.push(format!(
                "Deployment {}/{}: {} are ignored here",
                key.namespace,
                key.name,
                ignored.join(", ")
            ));
        }
    }
}

// === impl Workload ===

impl Workload {
    /// The names of its replicas, as of a StatefulSet: the same in each life.
    pub(super) fn pods(&self) -> impl Iterator<Item = ObjectKey> {
        let ObjectKey { namespace, name } = &self.key;
        (0..self.replicas).map(move |nth| ObjectKey::new(namespace, format!("{name}-{nth}")))
    }
}

fn argv(container: &Container, complaints: &mut Complaints<'_>) -> Option<Vec<String>> {
    let mut argv = container.command.clone().unwrap_or_default();
    if argv.is_empty() {
        complaints.add(
            "spec.template.spec.containers[0].command",
            format!(
                "is missing: `meshwright up` runs programs of this machine, not images, so container `{}` needs a command",
                container.name
            ),
        );
        return None;
    }
    argv.extend(container.args.iter().flatten().cloned());
    Some(argv)
}

fn env(variable: &EnvVar, complaints: &mut Complaints<'_>) -> Option<(String, Value)> {
    let Some(source) = &variable.value_from else {
        return Some((
            variable.name.clone(),
            Value::Text(variable.value.clone().unwrap_or_default()),
        ));
    };
    let path = source
        .field_ref
        .as_ref()
        .map(|field| field.field_path.as_str());
    let field = match path {
        Some("metadata.name") => Field::Name,
        Some("metadata.namespace") => Field::Namespace,
        Some("metadata.uid") => Field::Uid,
        Some("status.podIP") => Field::Address,
        Some("spec.serviceAccountName") => Field::ServiceAccount,
        Some("spec.nodeName") => Field::Node,
        _ => {
            complaints.add(
                "spec.template.spec.containers[0].env",
                format!(
                    "takes `{}` from a source that isn't here; write a value, or a fieldRef to metadata.name, \
                     metadata.namespace, metadata.uid, status.podIP, spec.nodeName or spec.serviceAccountName",
                    variable.name
                ),
            );
            return None;
        }
    };
    Some((variable.name.clone(), Value::Field(field)))
}

fn ports(container: &Container, complaints: &mut Complaints<'_>) -> Vec<Port> {
    let mut ports = Vec::new();
    for port in container.ports.iter().flatten() {
        match u16::try_from(port.container_port) {
            Ok(number) if (15000..=15099).contains(&number) => complaints.add(
                "spec.template.spec.containers[0].ports",
                format!("declares {number}; the ports from 15000 to 15099 are the sidecar's"),
            ),
            Ok(number) if number > 0 => ports.push(Port {
                name: port.name.clone(),
                number,
            }),
            _ => complaints.add(
                "spec.template.spec.containers[0].ports",
                format!(
                    "declares {}, which is no port: ports are 1 to 65535",
                    port.container_port
                ),
            ),
        }
    }
    ports
}

// === impl Complaints ===

impl Complaints<'_> {
    /// Names become names of files.
    fn name(&mut self, field: &str, name: &str) {
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if name.is_empty()
            || name.len() > 253
            || name.starts_with('.')
            || !name.chars().all(allowed)
        {
            self.add(
                field,
                format!("`{name}` is no name: use up to 253 of a-z, 0-9, '-' and '.'"),
            );
        }
    }

    fn add(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(yaml::Problem {
            file: self.document.file.clone(),
            line: self.document.line,
            field: field.to_owned(),
            message: message.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<Plan, Vec<String>> {
        let file = compiler::yaml::parse("shop.yaml", text);
        assert_eq!(file.problems, []);
        Plan::new(file.documents.into_iter(), Path::new("/"))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    fn deployment(pod: &str) -> String {
        format!(
            "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: web, namespace: shop }}
spec:
  replicas: 2
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec: {pod}
"
        )
    }

    #[test]
    fn a_deployment_becomes_as_many_pods_as_it_has_replicas() {
        let plan = plan(&deployment(
            "{ containers: [{ name: app, command: [serve], args: [-v], ports: [{ containerPort: 80 }] }] }",
        ))
        .unwrap();
        let pods: Vec<_> = plan.replicas().map(|(key, _)| key.to_string()).collect();
        assert_eq!(pods, ["shop/web-0", "shop/web-1"]);
        let (_, template) = plan.replicas().next().unwrap();
        assert_eq!(template.argv, ["serve", "-v"]);
        assert_eq!(
            (template.service_account.as_str(), template.grace),
            ("default", GRACE)
        );
    }

    #[test]
    fn what_can_not_be_run_is_refused_with_what_to_write_instead() {
        for (pod, wanted) in [
            (
                "{ containers: [{ name: app, image: web }] }",
                "needs a command",
            ),
            (
                "{ containers: [{ name: app, command: [a] }, { name: log, command: [b] }] }",
                "make a Deployment of its own for `log`",
            ),
            (
                "{ containers: [{ name: app, command: [a], ports: [{ containerPort: 15006 }] }] }",
                "the sidecar's",
            ),
            (
                "{ containers: [{ name: app, command: [a], env: [{ name: KEY, valueFrom: { secretKeyRef: { name: k, key: k } } }] }] }",
                "write a value, or a fieldRef",
            ),
            (
                "{ containers: [{ name: app, command: [a], workingDir: /no/such }] }",
                "is no folder on this machine",
            ),
        ] {
            let problems = plan(&deployment(pod)).unwrap_err();
            assert!(problems[0].contains(wanted), "{problems:?}");
        }
    }

    #[test]
    fn a_cluster_ip_that_calls_could_not_reach_the_service_by_is_refused() {
        let service = |name: &str, address: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\n\
                 spec: {{ clusterIP: {address}, ports: [{{ port: 80 }}] }}\n---\n"
            )
        };
        for (address, wanted) in [
            (
                "10.96.0.10",
                "10.96.0.10 is written in Service default/a as well",
            ),
            ("10.244.3.4", "is in the network of the workloads"),
            ("'fd00::1'", "is no IPv4 address"),
        ] {
            let problems = plan(&(service("a", "10.96.0.10") + &service("b", address)));
            let problems = problems.unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(wanted), "{problems:?}");
        }
        assert!(plan(&(service("a", "10.96.0.10") + &service("b", "None"))).is_ok());
    }

    #[test]
    fn what_a_pod_says_of_its_sidecar_and_its_probes_is_told_to_be_ignored() {
        let text = deployment(
            "{ containers: [{ name: app, command: [serve], startupProbe: { tcpSocket: { port: 80 } }, \
             lifecycle: { preStop: { httpGet: { port: 80 } } } }] }",
        );
        let annotations = "annotations: { meshwright.dev/exclude-inbound-ports: '9090', \
                           meshwright.dev/sidecar-log: debug, meshwright.dev/permissive-ports: '80' }";
        let text = text.replace(
            "metadata: { labels",
            &format!("metadata: {{ {annotations}, labels"),
        );
        let plan = plan(&text).unwrap();
        assert_eq!(
            plan.notes,
            [
                "Deployment shop/web: meshwright.dev/exclude-inbound-ports, meshwright.dev/sidecar-log, \
              probes (ready means: it accepts connections on its ports), hooks are ignored here"
            ]
        );
        // Nor are its callers told that a port has no sidecar before it.
        let (_, template) = plan.replicas().next().unwrap();
        let kept: Vec<_> = template.annotations.keys().collect();
        assert_eq!(
            kept,
            [
                "meshwright.dev/permissive-ports",
                "meshwright.dev/sidecar-log"
            ]
        );
    }

    #[test]
    fn what_only_a_cluster_would_run_is_named() {
        let text = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: { name: db, namespace: shop }\n\
                    ---\napiVersion: batch/v1\nkind: Job\nmetadata: { name: fill, namespace: shop }\n\
                    ---\napiVersion: v1\nkind: Pod\nmetadata: { name: once }\n\
                    ---\napiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";
        assert_eq!(
            plan(text).unwrap().notes[0],
            "not run here, for only Deployments are: Job shop/fill, Pod default/once, StatefulSet shop/db"
        );
    }

    #[test]
    fn a_selector_that_misses_its_own_pods_is_refused() {
        let text = deployment("{ containers: [{ name: app, command: [a] }] }");
        let problems =
            plan(&text.replace("labels: { app: web }", "labels: { app: webb }")).unwrap_err();
        assert!(problems[0].contains("`app: web`"), "{problems:?}");
    }
}
