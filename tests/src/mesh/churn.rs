//! Pods that come and go as in a cluster: called only once they are ready, ended while they are
//! being called, and gone then. And what the processes of a mesh take meanwhile.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Child;

use super::{APPLICATION_PORT, Mesh, Sidecar, Workload, lock};
use crate::upstream::Upstream;

/// What a process has of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is in RAM, in bytes.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

// === impl Usage ===

impl Usage {
    /// That of a process now.
    pub fn of(process: &Child) -> Result<Self> {
        let id = process.id().context("it does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(Self {
            resident: kib.context("no VmRSS")?.parse::<u64>()? * 1024,
            descriptors: std::fs::read_dir(format!("/proc/{id}/fd"))?.count(),
        })
    }
}

// === impl Mesh ===

impl Mesh {
    /// As [`Mesh::listener`], but nobody is sent to it before its sidecar is ready.
    pub async fn arriving(&self, app: &str) -> Result<(TcpListener, Sidecar)> {
        let (address, application) = self.addresses();
        let listener = TcpListener::bind((application, APPLICATION_PORT)).await?;
        let sidecar = self.arrives(app, address, application).await?;
        Ok((listener, sidecar))
    }

    /// As [`Mesh::workload`], but nobody is sent to it before its sidecar is ready.
    pub async fn arriving_workload(&self, app: &str) -> Result<Workload> {
        let (address, application) = self.addresses();
        let upstream =
            Upstream::start(SocketAddr::new(application.into(), APPLICATION_PORT)).await?;
        let sidecar = self.arrives(app, address, application).await?;
        Ok(Workload { upstream, sidecar })
    }

    async fn arrives(
        &self,
        app: &str,
        address: Ipv4Addr,
        application: Ipv4Addr,
    ) -> Result<Sidecar> {
        let inbound = format!("--listen-inbound={address}:{APPLICATION_PORT}");
        let to = format!("--application-address={application}");
        // What it has when it is to end may be an answer that is read slowly, and its callers may hear
        // of the end late: as long as a pod has by default, not the little that other tests give.
        let drains = "--drain-timeout=25s".to_owned();
        let sidecar = self.sidecar(app, address, &[inbound, to, drains]).await?;
        self.set_pod(sidecar.pod(), app, address, true)?;
        self.not_ready(sidecar.pod())?;
        sidecar.ready().await?;
        if let Some(pod) = lock(&self.pods).get_mut(sidecar.pod()) {
            pod["status"]["conditions"][0]["status"] = json!("True");
        }
        self.write_pods()?;
        Ok(sidecar)
    }

    /// Ends a pod as the kubelet does: that it is no longer ready and that it is to end is said at
    /// the same moment, while it is being called. Returns its exit code; the pod is gone then.
    pub async fn leaves(&self, sidecar: &Sidecar) -> Result<Option<i32>> {
        self.not_ready(sidecar.pod())?;
        let code = sidecar.terminate().await?;
        lock(&self.pods).remove(sidecar.pod());
        self.write_pods()?;
        Ok(code)
    }

    /// What the operator takes.
    pub fn operator_usage(&self) -> Result<Usage> {
        Usage::of(lock(&self.operator).as_ref().context("it does not run")?)
    }
}
