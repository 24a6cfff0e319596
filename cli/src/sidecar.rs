//! Asking the sidecar beside a workload: of a mesh that `meshwright up` runs, or of a pod.
//!
//! A sidecar answers on its own localhost alone. In a mesh on this machine this process enters the
//! workload's network and asks from there; in a cluster `kubectl port-forward` does, with the
//! user's own kubeconfig and rights.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::exec::find;
use crate::up::control::{Entrance, Request, Status, ask};
use crate::up::state::running;

/// Where a sidecar answers to people.
const ADMIN: u16 = 15000;

/// Which sidecar.
#[derive(Clone, Debug, clap::Args)]
pub struct Beside {
    /// A Deployment (its first replica) or a pod: `orders`, `shop/orders`, `shop/orders-1`; in a
    /// cluster as kubectl takes it: `deployment/orders`, `pod/orders-5d9f`, or a pod's name.
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub place: Place,
}

/// Where to look for a workload.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Which mesh on this machine, when several run: the name that `meshwright up` tells.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["cluster", "context", "namespace"])]
    pub up: Option<String>,
    /// In the cluster of the current kubeconfig, also while a mesh runs on this machine.
    #[arg(long)]
    pub cluster: bool,
    /// In the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// In this namespace of the cluster.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
}

/// A `kubectl port-forward`, ended when dropped.
struct Forward {
    kubectl: Child,
    /// Held open: kubectl says a line per connection, and would die of a closed pipe.
    says: Option<BufReader<ChildStdout>>,
    to: SocketAddr,
}

/// What the sidecar answers to a GET of `path`. Must be called while the process has one thread.
///
/// # Errors
/// When the workload or its sidecar can't be reached, or it answers with something else than 200.
pub fn get(beside: &Beside, path: &str) -> anyhow::Result<Value> {
    let place = &beside.place;
    let elsewhere = place.cluster || place.context.is_some() || place.namespace.is_some();
    if !elsewhere && (place.up.is_some() || !running()?.is_empty()) {
        return here(beside, path);
    }
    let forward = forward(beside)?;
    request(forward.to, path)
}

/// From inside the workload's network.
fn here(beside: &Beside, path: &str) -> anyhow::Result<Value> {
    let mesh = find(beside.place.up.as_deref())?;
    let asked = Request::Enter(beside.workload.clone());
    let (entrance, namespaces) = ask::<Entrance>(&mesh.control(), &asked)?;
    // As they come: user, processes, mounts, network. The right to enter the last comes with the
    // first; the others are of no use here.
    let mut namespaces = namespaces.into_iter();
    let (user, network) = (namespaces.next(), namespaces.nth(2));
    let address = match (user, network) {
        (Some(user), Some(network)) => {
            let entering = || format!("entering the network of {}", entrance.pod);
            setns(user, CloneFlags::CLONE_NEWUSER).with_context(entering)?;
            setns(network, CloneFlags::CLONE_NEWNET).with_context(entering)?;
            Ipv4Addr::LOCALHOST
        }
        // Without networks of their own, each has an address of its own on this machine.
        _ => {
            let (status, _) = ask::<Status>(&mesh.control(), &Request::Status)?;
            let row = status
                .pods
                .into_iter()
                .find(|row| row.workload == entrance.pod);
            let address = row.and_then(|row| row.address.parse().ok());
            address.with_context(|| format!("{} has no address", entrance.pod))?
        }
    };
    request(SocketAddr::new(address.into(), ADMIN), path)
}

fn request(address: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, body) = runtime
        .block_on(crate::http::get(address, path))
        .context("asking the sidecar")?;
    match status {
        200 => Ok(serde_json::from_slice(&body)?),
        _ => bail!("{}", String::from_utf8_lossy(&body).trim()),
    }
}

fn forward(beside: &Beside) -> anyhow::Result<Forward> {
    let mut command = Command::new("kubectl");
    if let Some(context) = &beside.place.context {
        command.args(["--context", context]);
    }
    // `namespace/name`, as everywhere here, unless it is kubectl's `kind/name`.
    let (namespace, workload) = match beside.workload.split_once('/') {
        Some((first, rest)) if !is_kind(first) => (Some(first), rest),
        _ => (None, beside.workload.as_str()),
    };
    if let Some(namespace) = beside.place.namespace.as_deref().or(namespace) {
        command.args(["--namespace", namespace]);
    }
    let mut kubectl = command
        .args(["port-forward", "--address", "127.0.0.1", workload])
        .arg(format!(":{ADMIN}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context(
            "no mesh runs on this machine (`meshwright up DIR` starts one), and kubectl, which is \
             the way into a cluster, can't be started",
        )?;
    let mut forward = Forward {
        says: kubectl.stdout.take().map(BufReader::new),
        kubectl,
        to: (Ipv4Addr::LOCALHOST, 0).into(),
    };
    let mut line = String::new();
    if let Some(says) = &mut forward.says {
        says.read_line(&mut line)?;
    }
    // "Forwarding from 127.0.0.1:40123 -> 15000"
    let to = line.split(' ').find_map(|word| word.parse().ok());
    forward.to = to.context("kubectl port-forward did not reach the workload")?;
    Ok(forward)
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

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
