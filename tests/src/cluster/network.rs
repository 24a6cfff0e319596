//! What of this machine is in a network of the cluster's.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Result, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::net::TcpListener;

use super::Cluster;

/// By nsenter and not `ip netns exec`, which also hides /sys/fs/cgroup.
pub(crate) fn enter(netns: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut net = OsString::from("--net=");
    net.push(netns);
    let mut command = Command::new("nsenter");
    command.arg(net).arg("--").arg(program);
    command
}

impl Cluster {
    /// A port of the node's address at which this process listens, as a system beside the cluster would.
    pub fn listen(&self) -> Result<TcpListener> {
        let (netns, address) = (self.netns.clone(), self.node_ip.clone());
        // The network is the thread's, and the socket's for good.
        let bound = thread::spawn(move || bind(&netns, &address)).join();
        let listener = bound.map_err(|_| anyhow!("nobody listens at the node"))??;
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }
}

fn bind(netns: &Path, address: &str) -> Result<std::net::TcpListener> {
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    Ok(std::net::TcpListener::bind((address, 0))?)
}
