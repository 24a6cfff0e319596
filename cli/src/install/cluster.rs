//! What a cluster is and has, before and after: asked with kubectl, as the user.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use operator::ca::secret::REQUEST;
use operator::leader::NAME as LEASE;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::chart;
use super::version::Version;
use crate::kubectl::{self, Pod};
use crate::sidecar::Cluster;

/// The oldest Kubernetes that the chart takes.
const OLDEST: Version = Version::new(1, 31);
/// The newest that the mesh was tried in.
const NEWEST: Version = Version::new(1, 35);
/// How often the webhook is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long the operator may take to tell the API server who it is.
const TOLD: Duration = Duration::from_secs(60);
/// What the chart makes outside of any namespace, as RBAC names it.
const EVERYWHERE: &[&str] = &[
    "namespaces",
    "customresourcedefinitions.apiextensions.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];
/// What it makes in the operator's, with one value or another, and Helm's own note of the release.
const INSIDE: &[&str] = &[
    "deployments.apps",
    "daemonsets.apps",
    "poddisruptionbudgets.policy",
    "services",
    "serviceaccounts",
    "secrets",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

/// What a mesh leaves in a cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Webhooks' configurations, of which there must be none.
    pub webhooks: Vec<String>,
    /// Definitions of resources, and how many objects there are of each.
    pub definitions: Vec<(String, usize)>,
    /// Whether the certificate authority's keys are there.
    pub authority: bool,
    /// Whether the request for a rotation of its root is there that was last written.
    pub request: bool,
    /// Whether the Lease is there of the operator that leads.
    pub lease: bool,
    /// Where the nodes have the CNI plugin's program, if they have it.
    pub plugin: Option<String>,
    /// Whether the operator's namespace is there, and was made for it.
    pub namespace: bool,
    /// Namespaces that are labelled for injection.
    pub labelled: Vec<String>,
    /// Pods that have a sidecar.
    pub pods: Vec<Pod>,
}

/// The version of the cluster, and a sentence when it was not tried.
///
/// # Errors
/// When it can't be asked, or is too old.
pub fn version(cluster: &Cluster) -> anyhow::Result<(Version, Option<String>)> {
    let version = kubernetes(cluster)?;
    match fits(version) {
        Ok(untried) => Ok((version, untried)),
        Err(too_old) => bail!(too_old),
    }
}

/// The version of the cluster.
///
/// # Errors
/// When it can't be asked.
pub fn kubernetes(cluster: &Cluster) -> anyhow::Result<Version> {
    let mut asking = kubectl::command(cluster, None);
    asking.arg("version");
    let said = kubectl::json(asking, None)?;
    let text = said["serverVersion"]["gitVersion"].as_str();
    text.and_then(Version::read).context(
        "the cluster does not say its version: check with `kubectl version` that it can be reached",
    )
}

/// Whether a cluster of this version can have the mesh: a sentence when that was not tried.
///
/// # Errors
/// A sentence, when it is too old.
pub fn fits(version: Version) -> Result<Option<String>, String> {
    if version < OLDEST {
        return Err(format!(
            "the cluster is Kubernetes {version}, and Meshwright needs {OLDEST} to {NEWEST}"
        ));
    }
    let newer = version > NEWEST;
    Ok(newer.then(|| {
        format!(
            "the cluster is Kubernetes {version}, which is newer than what was tried: {OLDEST} to {NEWEST}"
        )
    }))
}

/// What the user may not create of what an installation is made of, in kubectl's words for it.
///
/// # Errors
/// When kubectl can't ask.
pub fn forbidden(cluster: &Cluster, namespace: &str) -> anyhow::Result<Vec<String>> {
    let mut forbidden = Vec::new();
    for (resources, namespace) in [(EVERYWHERE, None), (INSIDE, Some(namespace))] {
        for resource in resources {
            let mut asking = kubectl::command(cluster, namespace);
            asking.args(["auth", "can-i", "create", resource]);
            if !may(&mut asking)? {
                let place = namespace.map_or(String::new(), |name| format!(" in {name}"));
                forbidden.push(format!("create {resource}{place}"));
            }
        }
    }
    Ok(forbidden)
}

fn may(asking: &mut Command) -> anyhow::Result<bool> {
    let output = asking
        .stdin(Stdio::null())
        .output()
        .context("kubectl, which is the way into a cluster, can't be started")?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Ok(true),
        said if said.starts_with("no") => Ok(false),
        _ => bail!(
            "kubectl: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

/// Waits until the API server knows the webhooks' certificate: until then no pod of a meshed
/// namespace can be created.
///
/// # Errors
/// When that takes too long.
pub fn injects(cluster: &Cluster) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let until_known = async {
        while !is_known(cluster)? {
            sleep(LOOK).await;
        }
        anyhow::Ok(())
    };
    match runtime.block_on(async { timeout(TOLD, until_known).await }) {
        Ok(known) => known,
        Err(_) => bail!(
            "the operator is ready and has not told the API server its certificate within {TOLD:?}: \
             its log says why"
        ),
    }
}

fn is_known(cluster: &Cluster) -> anyhow::Result<bool> {
    let mut asking = kubectl::command(cluster, None);
    asking.args(["get", "mutatingwebhookconfiguration"]);
    asking.arg(operator::webhook::certificate::INJECTOR);
    let found = kubectl::json(asking, None)?;
    let webhooks = found["webhooks"].as_array();
    Ok(webhooks.is_some_and(|all| {
        all.iter().all(|one| {
            let bundle = one["clientConfig"]["caBundle"].as_str();
            bundle.is_some_and(|bundle| !bundle.is_empty())
        })
    }))
}

/// The pods that have a sidecar.
///
/// # Errors
/// What kubectl says.
pub fn meshed(cluster: &Cluster) -> anyhow::Result<Vec<Pod>> {
    kubectl::pods(cluster, None, true)
}

/// The folder of the nodes to which the DaemonSet of the release copies the CNI plugin's program.
///
/// # Errors
/// What kubectl says.
pub fn plugin(cluster: &Cluster, namespace: &str) -> anyhow::Result<Option<String>> {
    let mut asking = kubectl::command(cluster, None);
    asking.args(["get", "daemonset", "meshwright-cni", "--ignore-not-found"]);
    asking.args(["--namespace", namespace]);
    let found = kubectl::json(asking, None)?;
    let volumes = found["spec"]["template"]["spec"]["volumes"].as_array();
    let mut volumes = volumes.into_iter().flatten();
    let folder = volumes.find(|volume| volume["name"] == "programs");
    let folder = folder.and_then(|volume| volume["hostPath"]["path"].as_str());
    Ok(folder.map(str::to_owned))
}

/// What there is of a mesh whose release is gone, or is about to go; `plugin` is known only before.
///
/// # Errors
/// What kubectl says.
pub fn remains(
    cluster: &Cluster,
    namespace: &str,
    plugin: Option<String>,
) -> anyhow::Result<Remains> {
    let get = |words: &[&str]| {
        let mut asking = kubectl::command(cluster, None);
        asking.arg("get").args(words).arg("--ignore-not-found");
        kubectl::json(asking, None)
    };
    let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let webhooks = get(&[kinds, "--selector", "app.kubernetes.io/name=meshwright"])?;
    let mut definitions = Vec::new();
    for name in chart::definitions() {
        if get(&["customresourcedefinition", &name])?.is_null() {
            continue;
        }
        let objects = get(&[&name, "--all-namespaces"])?;
        definitions.push((name, objects["items"].as_array().map_or(0, Vec::len)));
    }
    let authority = get(&["secret", "meshwright-ca", "--namespace", namespace])?;
    let request = get(&["configmap", REQUEST, "--namespace", namespace])?;
    let lease = get(&["lease", LEASE, "--namespace", namespace])?;
    let own = get(&["namespace", namespace])?;
    let labelled = get(&["namespaces", "--selector", "meshwright.dev/inject=enabled"])?;
    Ok(Remains {
        webhooks: names(&webhooks),
        definitions,
        authority: !authority.is_null(),
        request: !request.is_null(),
        lease: !lease.is_null(),
        plugin,
        namespace: !own.is_null() && !namespace.starts_with("kube-") && namespace != "default",
        labelled: names(&labelled),
        pods: meshed(cluster)?,
    })
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    let names = items.filter_map(|item| item["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}

// === impl Remains ===

impl Remains {
    /// What is there and how to remove it, in lines; none when nothing is.
    pub fn lines(&self, namespace: &str) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.pods.is_empty() {
            lines.push(format!(
                "{} of pods that run ({}): they go on with what they have until their certificates end, a day after \
                 they were issued at the latest, and then call each other no more. Without them:",
                counted(self.pods.len(), "sidecar"),
                some(self.pods.iter().map(ToString::to_string)),
            ));
            let namespaces = self.pods.iter().filter_map(|pod| pod.namespace.clone());
            for name in namespaces.collect::<std::collections::BTreeSet<_>>() {
                lines.push(format!(
                    "  kubectl rollout restart deployment,statefulset,daemonset -n {name}"
                ));
            }
        }
        if !self.labelled.is_empty() {
            lines.push(format!(
                "the label meshwright.dev/inject of {} ({}), which does nothing any more:",
                counted(self.labelled.len(), "namespace"),
                some(self.labelled.iter().cloned()),
            ));
            lines.push(
                "  kubectl label namespace --selector meshwright.dev/inject meshwright.dev/inject-"
                    .to_owned(),
            );
        }
        if !self.definitions.is_empty() {
            let objects = self.definitions.iter().map(|(_, count)| count).sum();
            let names: Vec<_> = self
                .definitions
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            lines.push(format!(
                "{} of resources, and {} written in them. A new installation finds them again; \
                 this deletes them all:",
                counted(names.len(), "definition"),
                counted(objects, "object"),
            ));
            lines.push(format!(
                "  kubectl delete customresourcedefinition {}",
                names.join(" ")
            ));
        }
        if self.authority {
            lines.push(format!(
                "the certificate authority's keys, in the Secret {namespace}/meshwright-ca. A new installation goes on \
                 with them; this deletes them:"
            ));
            lines.push(format!(
                "  kubectl delete secret meshwright-ca -n {namespace}"
            ));
        }
        if self.request {
            lines.push(format!(
                "the last request for a rotation of the root, in the ConfigMap {namespace}/{REQUEST}. With the keys it is \
                 known as carried out; without them it means nothing. This deletes it:"
            ));
            lines.push(format!(
                "  kubectl delete configmap {REQUEST} -n {namespace}"
            ));
        }
        if self.lease {
            lines.push(format!(
                "the Lease {namespace}/{LEASE}, which says which replica led last. A new installation takes it; this \
                 deletes it:"
            ));
            lines.push(format!("  kubectl delete lease {LEASE} -n {namespace}"));
        }
        if let Some(folder) = &self.plugin {
            lines.push(format!(
                "the program {folder}/meshwright-cni on each node, with which pods that run are taken down. Once none is \
                 left, remove it there"
            ));
        }
        if self.namespace {
            lines.push(format!(
                "the namespace {namespace}; this deletes it, with all that is in it:"
            ));
            lines.push(format!("  kubectl delete namespace {namespace}"));
        }
        lines
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// The first few of a list.
pub fn some(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<_> = names.collect();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_named_with_what_removes_it() {
        let pod = |name: &str| Pod {
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
        };
        let remains = Remains {
            webhooks: Vec::new(),
            definitions: vec![("apiroutes.meshwright.dev".to_owned(), 2)],
            authority: true,
            request: true,
            lease: true,
            plugin: Some("/opt/cni/bin".to_owned()),
            namespace: true,
            labelled: vec!["shop".to_owned()],
            pods: vec![pod("a"), pod("b")],
        };
        let lines = remains.lines("mesh").join("\n");
        for expected in [
            "2 sidecars of pods that run (shop/a, shop/b)",
            "  kubectl rollout restart deployment,statefulset,daemonset -n shop\n",
            "of 1 namespace (shop)",
            "1 definition of resources, and 2 objects",
            "  kubectl delete customresourcedefinition apiroutes.meshwright.dev\n",
            "  kubectl delete secret meshwright-ca -n mesh\n",
            "  kubectl delete configmap meshwright-rotation -n mesh\n",
            "  kubectl delete lease meshwright-operator -n mesh\n",
            "the program /opt/cni/bin/meshwright-cni on each node",
            "  kubectl delete namespace mesh",
        ] {
            assert!(lines.contains(expected), "{lines}");
        }
        // Once for its namespace.
        assert_eq!(lines.matches("rollout restart").count(), 1);
        assert!(Remains::default().lines("mesh").is_empty());
    }

    #[test]
    fn it_is_asked_beforehand_whether_all_that_the_chart_makes_may_be_made() {
        let optional = ["monitoring.yaml", "network-policy.yaml", "tests/"];
        let mut kinds = 0;
        for (name, text) in chart::FILES {
            let template = name.strip_prefix("templates/");
            if template.is_none_or(|name| optional.iter().any(|one| name.starts_with(one))) {
                continue;
            }
            for kind in text.lines().filter_map(|line| line.strip_prefix("kind: ")) {
                let plural = format!("{}s", kind.to_lowercase());
                let mut asked = EVERYWHERE.iter().chain(INSIDE);
                let asked = asked.any(|one| one.split('.').next() == Some(plural.as_str()));
                assert!(asked, "{name}: {kind}");
                kinds += 1;
            }
        }
        assert!(kinds > 5, "only {kinds} kinds");
    }

    #[test]
    fn a_cluster_that_is_too_old_is_refused_and_one_that_was_not_tried_is_told() {
        assert!(
            fits(Version::new(1, 30))
                .unwrap_err()
                .contains("needs 1.31 to 1.35")
        );
        assert_eq!(fits(OLDEST), Ok(None));
        assert_eq!(fits(NEWEST), Ok(None));
        let untried = fits(Version::new(1, 36)).unwrap().unwrap();
        assert!(
            untried.contains("1.36, which is newer than what was tried"),
            "{untried}"
        );
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let names = |count: usize| some((0..count).map(|number| number.to_string()));
        assert_eq!(names(2), "0, 1");
        assert!(names(12).ends_with("9 and 2 more"), "{}", names(12));
    }
}
