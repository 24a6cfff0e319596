//! Asking the sidecar beside a workload: of a mesh that `meshwright up` runs, or of a pod.
//!
//! A sidecar answers on its own localhost alone. In a mesh on this machine this process enters the
//! workload's network and asks from there; in a cluster `kubectl port-forward` does, with the
//! user's own kubeconfig and rights.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

use crate::exec::find;
use crate::kubectl::{self, Forward};
use crate::up::control::{Entrance, Request, Status, ask};
use crate::up::state::{Layout, running};

/// Where a sidecar answers to people.
pub const ADMIN: u16 = 15000;

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
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: Cluster,
}

/// Which cluster.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Cluster {
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

/// A pod whose ports can be reached, and its sidecar's.
#[derive(Debug)]
pub struct Reached {
    /// Its namespace and name.
    pub pod: String,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Through its network namespace, in which this process has the rights.
    Inside(OwnedFd),
    /// Without networks of their own, sidecar and application each have an address on this machine.
    At {
        sidecar: IpAddr,
        application: IpAddr,
    },
    /// Through kubectl, to the sidecar alone.
    Forwarded { to: SocketAddr, _by: Forward },
}

/// A mesh on this machine, into which this process can go.
#[derive(Debug)]
pub struct Inside {
    mesh: Layout,
    entered: bool,
}

/// What the sidecar answers to a GET of `path`. Must be called while the process has one thread.
///
/// # Errors
/// When the workload or its sidecar can't be reached, or it answers with something else than 200.
pub fn get(beside: &Beside, path: &str) -> anyhow::Result<Value> {
    let reached = if beside.place.is_here()? {
        Inside::of(&beside.place)?.reach(&beside.workload)?
    } else {
        let (namespace, workload) = kubectl::split(&beside.workload);
        through(&beside.place.cluster, namespace, workload)?.reached()?
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(reached.get(path))
}

/// Asks the sidecars of several workloads, one after the other.
#[derive(Debug)]
pub struct Asking {
    place: Place,
    inside: Option<Inside>,
    runtime: tokio::runtime::Runtime,
}

/// One of them.
#[derive(Debug)]
pub struct One<'a> {
    reached: Reached,
    runtime: &'a tokio::runtime::Runtime,
}

// === impl Asking ===

impl Asking {
    /// Begins. Must be called, and [`Asking::of`] too, while the process has one thread.
    ///
    /// # Errors
    /// When no mesh runs, or several and none is named.
    pub fn begin(place: &Place) -> anyhow::Result<Self> {
        let inside = match place.is_here()? {
            true => Some(Inside::of(place)?),
            false => None,
        };
        Ok(Self {
            place: place.clone(),
            inside,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    /// The sidecar of a workload.
    ///
    /// # Errors
    /// When it can't be reached.
    pub fn of(&mut self, workload: &str) -> anyhow::Result<One<'_>> {
        let reached = match &mut self.inside {
            Some(inside) => inside.reach(workload)?,
            None => {
                let (namespace, workload) = kubectl::split(workload);
                through(&self.place.cluster, namespace, workload)?.reached()?
            }
        };
        Ok(One {
            reached,
            runtime: &self.runtime,
        })
    }
}

// === impl One ===

impl One<'_> {
    /// What it answers to a GET of `path`.
    ///
    /// # Errors
    /// When it can't be asked, or it answers with something else than 200.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.runtime.block_on(self.reached.get(path))
    }
}

/// Ways to the sidecars of all replicas of workloads; of all of the mesh on this machine, or of the
/// namespace of a cluster, when none is named. Must be called while the process has one thread.
///
/// # Errors
/// When there is no such workload, or its sidecar can't be reached.
pub fn reach_all(workloads: &[String], place: &Place) -> anyhow::Result<Vec<Reached>> {
    let named = workloads.iter().map(|name| Some(name.as_str()));
    let named: Vec<_> = match workloads.is_empty() {
        true => vec![None],
        false => named.collect(),
    };
    if place.is_here()? {
        let mut mesh = Inside::of(place)?;
        let mut pods = Vec::new();
        for workload in named {
            pods.extend(mesh.pods(workload)?);
        }
        // Named once or twice, it is asked once.
        pods.sort();
        pods.dedup();
        return pods.iter().map(|pod| mesh.reach(pod)).collect();
    }
    let cluster = &place.cluster;
    let mut pods = Vec::new();
    for workload in named {
        pods.extend(kubectl::pods(cluster, workload, false)?);
    }
    let begun = pods
        .iter()
        .map(|pod| through(cluster, pod.namespace.as_deref(), &pod.name));
    // All at a time, for each takes a while.
    let begun = begun.collect::<anyhow::Result<Vec<_>>>()?;
    begun.into_iter().map(|through| through.reached()).collect()
}

/// A way to a sidecar through kubectl that is being made: several can be at a time.
#[derive(Debug)]
pub struct Through {
    pod: String,
    by: Forward,
}

/// Begins to make a way to the sidecar of a workload of a cluster.
///
/// # Errors
/// When there is no kubectl.
pub fn through(
    cluster: &Cluster,
    namespace: Option<&str>,
    workload: &str,
) -> anyhow::Result<Through> {
    let pod = match cluster.namespace.as_deref().or(namespace) {
        Some(namespace) => format!("{namespace}/{workload}"),
        None => workload.to_owned(),
    };
    let ports = [format!(":{ADMIN}")];
    let by = Forward::start(cluster, namespace, workload, &ports)?;
    Ok(Through { pod, by })
}

// === impl Through ===

impl Through {
    /// Waits until it is made.
    ///
    /// # Errors
    /// When kubectl ends before; it says itself why.
    pub fn reached(mut self) -> anyhow::Result<Reached> {
        let to = self.by.forwarded()?;
        let way = Way::Forwarded { to, _by: self.by };
        Ok(Reached { pod: self.pod, way })
    }
}

// === impl Place ===

impl Place {
    /// Whether a mesh on this machine is meant, rather than a cluster.
    ///
    /// # Errors
    /// When it can't be seen which meshes run.
    pub fn is_here(&self) -> anyhow::Result<bool> {
        let elsewhere = self.cluster.is_named();
        Ok(!elsewhere && (self.up.is_some() || !running()?.is_empty()))
    }
}

// === impl Cluster ===

impl Cluster {
    /// Whether anything about a cluster was said.
    pub fn is_named(&self) -> bool {
        self.cluster || self.context.is_some() || self.namespace.is_some()
    }
}

// === impl Inside ===

impl Inside {
    /// The mesh that is meant.
    ///
    /// # Errors
    /// When none runs, or several and none is named.
    pub fn of(place: &Place) -> anyhow::Result<Self> {
        Ok(Self {
            mesh: find(place.up.as_deref())?,
            entered: false,
        })
    }

    /// The pods of a workload, by namespace and name: all of a Deployment's; all of the mesh when none
    /// is named.
    ///
    /// # Errors
    /// When there is no such workload.
    pub fn pods(&self, workload: Option<&str>) -> anyhow::Result<Vec<String>> {
        let asked = Request::Pods(workload.map(str::to_owned));
        Ok(ask(&self.mesh.control(), &asked)?.0)
    }

    /// A way to a pod, or to a Deployment's first. Must be called while the process has one thread, the
    /// first time.
    ///
    /// # Errors
    /// When there is no such workload, or it can't be entered.
    pub fn reach(&mut self, workload: &str) -> anyhow::Result<Reached> {
        let asked = Request::Enter(workload.to_owned());
        let (entrance, namespaces) = ask::<Entrance>(&self.mesh.control(), &asked)?;
        // As they come: user, processes, mounts, network. The right to enter the last comes with the
        // first, which is the same for all; the others are of no use here.
        let mut namespaces = namespaces.into_iter();
        let (user, network) = (namespaces.next(), namespaces.nth(2));
        let way = match (user, network) {
            (Some(user), Some(network)) => {
                if !self.entered {
                    setns(user, CloneFlags::CLONE_NEWUSER)
                        .with_context(|| format!("entering the network of {}", entrance.pod))?;
                    self.entered = true;
                }
                Way::Inside(network)
            }
            _ => self.on_loopback(&entrance)?,
        };
        let pod = entrance.pod;
        Ok(Reached { pod, way })
    }

    fn on_loopback(&self, entrance: &Entrance) -> anyhow::Result<Way> {
        let (status, _) = ask::<Status>(&self.mesh.control(), &Request::Status)?;
        let mut rows = status.pods.into_iter();
        let row = rows.find(|row| row.workload == entrance.pod);
        let sidecar = row.and_then(|row| row.address.parse().ok());
        let sidecar = sidecar.with_context(|| format!("{} has no address", entrance.pod))?;
        // Where its application was told to listen.
        let mut env = entrance.env.iter();
        let host = env.find(|(name, _)| name == "HOST");
        let application = host.and_then(|(_, host)| host.parse().ok());
        Ok(Way::At {
            sidecar,
            application: application.unwrap_or(sidecar),
        })
    }
}

// === impl Reached ===

impl Reached {
    /// Connects to the sidecar, where it answers people.
    ///
    /// # Errors
    /// The network's.
    pub async fn sidecar(&self) -> io::Result<TcpStream> {
        match &self.way {
            Way::Inside(network) => inside(network, Ipv4Addr::LOCALHOST.into(), ADMIN).await,
            Way::At { sidecar, .. } => TcpStream::connect((*sidecar, ADMIN)).await,
            Way::Forwarded { to, .. } => TcpStream::connect(to).await,
        }
    }

    /// Connects to a port of the application as another program beside it would, around the sidecar.
    ///
    /// # Errors
    /// The network's; that only the sidecar can be reached.
    pub async fn application(&self, port: u16) -> io::Result<TcpStream> {
        match &self.way {
            Way::Inside(network) => match inside(network, Ipv4Addr::LOCALHOST.into(), port).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let other = inside(network, Ipv6Addr::LOCALHOST.into(), port).await;
                    other.map_err(|_| error)
                }
                connected => connected,
            },
            Way::At { application, .. } => TcpStream::connect((*application, port)).await,
            Way::Forwarded { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What the sidecar answers to a GET of `path`.
    ///
    /// # Errors
    /// When it can't be asked, or it answers with something else than 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let stream = self.sidecar().await.context(ASKING)?;
        let asked = crate::http::ask(stream, "localhost", path).await;
        told(asked.context(ASKING)?)
    }

    /// What the sidecar answers to a PUT of `body` to `path`.
    ///
    /// # Errors
    /// As [`Reached::get`].
    pub async fn put(&self, path: &str, body: &str) -> anyhow::Result<Value> {
        let stream = self.sidecar().await.context(ASKING)?;
        let asked = crate::http::put(stream, "localhost", path, body).await;
        told(asked.context(ASKING)?)
    }
}

const ASKING: &str = "asking the sidecar";

fn told((status, body): (u16, bytes::Bytes)) -> anyhow::Result<Value> {
    match status {
        200 => Ok(serde_json::from_slice(&body)?),
        _ => bail!("{}", String::from_utf8_lossy(&body).trim()),
    }
}

/// Connects inside another network namespace. A socket stays in the namespace that it was made in; the
/// thread, which has no other work, goes there to make it.
async fn inside(network: &OwnedFd, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
    let socket = match address {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    };
    socket?.connect((address, port).into()).await
}
