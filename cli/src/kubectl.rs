//! The way into a cluster: kubectl, with the user's own kubeconfig and rights.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::sidecar::Cluster;

/// What is said when there is no kubectl.
const NO_KUBECTL: &str = "no mesh runs on this machine (`meshwright up DIR` starts one), and kubectl, \
                          which is the way into a cluster, can't be started";

/// A `kubectl port-forward`, ended when dropped.
#[derive(Debug)]
pub struct Forward {
    kubectl: Child,
    /// Held open: kubectl says a line per connection, and would die of a closed pipe.
    says: Option<BufReader<ChildStdout>>,
}

/// A pod of a cluster that has a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace; the context's when nobody said.
    pub namespace: Option<String>,
    /// Its name, or what kubectl takes for one.
    pub name: String,
}

/// kubectl in the cluster that was asked for, and in `namespace` when nobody named one for all.
pub fn command(cluster: &Cluster, namespace: Option<&str>) -> Command {
    let mut command = Command::new("kubectl");
    if let Some(context) = &cluster.context {
        command.args(["--context", context]);
    }
    if let Some(namespace) = cluster.namespace.as_deref().or(namespace) {
        command.args(["--namespace", namespace]);
    }
    command
}

/// What kubectl answers as JSON; `input` is what it reads.
///
/// # Errors
/// What kubectl says, when it fails.
pub fn json(mut command: Command, input: Option<&Value>) -> anyhow::Result<Value> {
    let answer = answer(command.args(["-o", "json"]), input)?;
    // Nothing is what it says of objects that there aren't, where it may say so.
    if answer.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&answer).context("kubectl answered no JSON")
}

/// What the API server answers as JSON at a path of its own; none where it has nothing there.
///
/// # Errors
/// What kubectl says, when it fails otherwise.
pub fn raw(cluster: &Cluster, path: &str) -> anyhow::Result<Option<Value>> {
    let mut asking = command(cluster, None);
    match answer(asking.args(["get", "--raw", path]), None) {
        Ok(answer) => Ok(Some(
            serde_json::from_slice(&answer).context("kubectl answered no JSON")?,
        )),
        Err(error) if error.to_string().contains("(NotFound)") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has kubectl do something, of which no more is told than that it is done; `input` is what it reads.
///
/// # Errors
/// What kubectl says, when it fails.
pub fn done(mut command: Command, input: Option<&Value>) -> anyhow::Result<()> {
    answer(command.args(["-o", "name"]), input).map(drop)
}

fn answer(command: &mut Command, input: Option<&Value>) -> anyhow::Result<Vec<u8>> {
    let mut kubectl = command
        .stdin(match input {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl, which is the way into a cluster, can't be started")?;
    // What is asked for fits in a pipe or is read before kubectl answers: it needs all of it.
    if let (Some(mut stdin), Some(input)) = (kubectl.stdin.take(), input) {
        // Who ends without reading it all says in its own words what is wrong.
        let _ = stdin.write_all(input.to_string().as_bytes());
    }
    let output = kubectl.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("kubectl: {}", said.trim());
    }
    Ok(output.stdout)
}

/// `namespace/name`, as everywhere here, unless it is kubectl's `kind/name`.
pub fn split(workload: &str) -> (Option<&str>, &str) {
    match workload.split_once('/') {
        Some((first, rest)) if !is_kind(first) => (Some(first), rest),
        _ => (None, workload),
    }
}

/// The pods of a workload that have a sidecar; all of the namespace (or of all namespaces, if
/// `everywhere`) when none is named. A pod's own name is not looked up.
///
/// # Errors
/// When kubectl can't tell, or there is no such pod.
pub fn pods(
    cluster: &Cluster,
    workload: Option<&str>,
    everywhere: bool,
) -> anyhow::Result<Vec<Pod>> {
    let (namespace, name) = workload.map_or((None, None), |workload| {
        let (namespace, name) = split(workload);
        (namespace, Some(name))
    });
    let mut asking = command(cluster, namespace);
    asking.args(["get", "pods"]);
    match name {
        Some(name) => {
            let of_pods = ["pod/", "pods/", "po/"];
            let grouped = name.contains('/') && !of_pods.iter().any(|kind| name.starts_with(kind));
            if !grouped {
                return Ok(vec![Pod {
                    namespace: cluster.namespace.clone().or(namespace.map(str::to_owned)),
                    name: name.to_owned(),
                }]);
            }
            let mut asking_for = command(cluster, namespace);
            asking_for.args(["get", name]);
            let object = json(asking_for, None)?;
            asking.args(["--selector", &selector(&object)?]);
        }
        None if everywhere => {
            asking.arg("--all-namespaces");
        }
        None => {}
    }
    let found = in_the_mesh(&json(asking, None)?);
    if found.is_empty() && !everywhere {
        match name {
            Some(name) => bail!("no pod of {name} that runs has a sidecar"),
            None => bail!(
                "no pod that runs in this namespace has a sidecar: name a workload, or a namespace \
                 with --namespace"
            ),
        }
    }
    Ok(found)
}

/// The labels by which an object selects its pods, as kubectl takes them.
fn selector(object: &Value) -> anyhow::Result<String> {
    let selector = &object["spec"]["selector"];
    // Of a Service they stand there themselves.
    let labels = selector["matchLabels"].as_object().or(selector.as_object());
    let labels = labels.context("it selects no pods by their labels: name a pod")?;
    let pairs = labels
        .iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)));
    let pairs: Vec<_> = pairs.collect();
    if pairs.is_empty() {
        bail!("it selects no pods by their labels: name a pod");
    }
    Ok(pairs.join(","))
}

/// Those of a list of pods that run and have a sidecar.
pub(crate) fn in_the_mesh(list: &Value) -> Vec<Pod> {
    let has_sidecar = |pod: &Value| {
        ["containers", "initContainers"].iter().any(|kind| {
            let containers = pod["spec"][kind].as_array();
            let mut containers = containers.into_iter().flatten();
            containers.any(|one| one["name"] == operator::inject::SIDECAR)
        })
    };
    let items = list["items"].as_array().into_iter().flatten();
    items
        .filter(|pod| pod["status"]["phase"] == "Running" && has_sidecar(pod))
        .filter_map(|pod| {
            Some(Pod {
                namespace: pod["metadata"]["namespace"].as_str().map(str::to_owned),
                name: pod["metadata"]["name"].as_str()?.to_owned(),
            })
        })
        .collect()
}

fn is_kind(word: &str) -> bool {
    [
        "deployment",
        "deployments",
        "deploy",
        "pod",
        "pods",
        "po",
        "statefulset",
        "sts",
        "daemonset",
        "ds",
        "service",
        "svc",
    ]
    .contains(&word)
}

// === impl Pod ===

impl std::fmt::Display for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

// === impl Forward ===

impl Forward {
    /// Begins to forward ports, each `LOCAL:PORT` as kubectl takes them, to a workload of the cluster.
    ///
    /// # Errors
    /// When there is no kubectl.
    pub fn start(
        cluster: &Cluster,
        namespace: Option<&str>,
        workload: &str,
        ports: &[String],
    ) -> anyhow::Result<Self> {
        let mut kubectl = command(cluster, namespace)
            .args(["port-forward", "--address", "127.0.0.1", workload])
            .args(ports)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context(NO_KUBECTL)?;
        Ok(Self {
            says: kubectl.stdout.take().map(BufReader::new),
            kubectl,
        })
    }

    /// Waits until the next of the ports is forwarded; returns where it is heard here.
    ///
    /// # Errors
    /// When kubectl ends before; it says itself why.
    pub fn forwarded(&mut self) -> anyhow::Result<SocketAddr> {
        let mut line = String::new();
        if let Some(says) = &mut self.says {
            says.read_line(&mut line)?;
        }
        // "Forwarding from 127.0.0.1:40123 -> 15000"
        let to = line
            .split(' ')
            .find_map(|word| word.parse::<SocketAddr>().ok());
        let to = to.context("kubectl port-forward did not reach the workload")?;
        Ok((Ipv4Addr::LOCALHOST, to.port()).into())
    }

    /// Reads what kubectl says, a line per connection, so that its pipe never fills; returns when it
    /// has ended. Blocks.
    pub fn heard(says: BufReader<ChildStdout>) {
        for line in says.lines() {
            if line.is_err() {
                return;
            }
        }
    }

    /// What [`Forward::heard`] reads.
    pub fn take_output(&mut self) -> Option<BufReader<ChildStdout>> {
        self.says.take()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_namespace_stands_before_a_name_unless_it_is_a_kind() {
        assert_eq!(split("orders"), (None, "orders"));
        assert_eq!(split("shop/orders-1"), (Some("shop"), "orders-1"));
        assert_eq!(split("deployment/orders"), (None, "deployment/orders"));
        assert_eq!(
            split("shop/deployment/orders"),
            (Some("shop"), "deployment/orders")
        );
    }

    #[test]
    fn pods_of_the_mesh_run_and_have_a_sidecar() {
        let pod = |name: &str, phase: &str, kind: &str, container: &str| {
            json!({
                "metadata": { "namespace": "shop", "name": name },
                "spec": { kind: [{ "name": container }] },
                "status": { "phase": phase },
            })
        };
        let list = json!({ "items": [
            pod("web-1", "Running", "initContainers", "meshwright-sidecar"),
            pod("old-1", "Succeeded", "initContainers", "meshwright-sidecar"),
            pod("out-1", "Running", "containers", "app"),
        ] });
        let found: Vec<_> = in_the_mesh(&list).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["shop/web-1"]);
    }

    #[test]
    fn pods_are_selected_as_their_deployment_or_service_selects_them() {
        let deployment =
            json!({ "spec": { "selector": { "matchLabels": { "app": "web", "x": "1" } } } });
        assert_eq!(selector(&deployment).unwrap(), "app=web,x=1");
        let service = json!({ "spec": { "selector": { "app": "web" } } });
        assert_eq!(selector(&service).unwrap(), "app=web");
        assert!(selector(&json!({ "spec": {} })).is_err());
    }
}
