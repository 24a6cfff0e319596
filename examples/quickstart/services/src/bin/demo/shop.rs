//! The shop while it runs: what it is asked, and what its sidecars say of it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use crate::figures::{Config, Figures};
use crate::folder::Folder;
use crate::mesh::Mesh;

/// How often a condition that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The shop.
#[derive(Debug)]
pub(crate) struct Shop {
    /// Its documents. Declared first: the mesh ends before its folder is removed.
    pub(crate) mesh: Mesh,
    pub(crate) folder: Folder,
}

// === impl Shop ===

impl Shop {
    /// The counters of a workload's sidecar.
    pub(crate) async fn figures(&self, workload: &str) -> anyhow::Result<Figures> {
        Ok(Figures::parse(
            &self.mesh.ask_sidecar(workload, "/metrics").await?,
        ))
    }

    /// What is in force in a workload's sidecar.
    pub(crate) async fn config(&self, workload: &str) -> anyhow::Result<Config> {
        Config::parse(&self.mesh.ask_sidecar(workload, "/config").await?)
    }

    /// Waits until a workload's sidecar has a configuration as wanted; returns it.
    pub(crate) async fn config_when(
        &self,
        workload: &str,
        what: &str,
        longest: Duration,
        wanted: impl Fn(&Config) -> bool,
    ) -> anyhow::Result<Config> {
        let until = Instant::now() + longest;
        loop {
            let config = self.config(workload).await;
            match config {
                Ok(config) if wanted(&config) => return Ok(config),
                // A workload that is being started can't be asked yet.
                Err(error) if Instant::now() >= until => return Err(error),
                Ok(_) if Instant::now() >= until => {
                    bail!(
                        "after {} s the sidecar of {workload} still doesn't know {what}",
                        longest.as_secs()
                    )
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    /// Waits until a counter of a workload's sidecar, less what it was `before`, is `wanted`.
    /// Requests are counted when the last byte of their response has gone, which may be a moment
    /// after the caller has it.
    pub(crate) async fn figures_when(
        &self,
        workload: &str,
        wanted: impl Fn(&Figures) -> bool,
    ) -> anyhow::Result<Figures> {
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            let figures = self.figures(workload).await?;
            // What it is by then is for the caller to judge.
            if wanted(&figures) || Instant::now() >= until {
                return Ok(figures);
            }
            sleep(LOOK).await;
        }
    }

    /// `meshwright status`, line by line.
    pub(crate) async fn status(&self) -> anyhow::Result<Vec<String>> {
        let printed = self.mesh.meshwright(&["status"]).await?;
        if !printed.status.success() {
            bail!(
                "`meshwright status` ended with {}: {}",
                printed.status,
                printed.errors.trim()
            );
        }
        Ok(printed.output.lines().map(str::to_owned).collect())
    }

    /// The line of `meshwright status` about an ApiRoute, once it says that all sidecars enforce it.
    pub(crate) async fn enforced_everywhere(
        &self,
        route: &str,
        longest: Duration,
    ) -> anyhow::Result<String> {
        let until = Instant::now() + longest;
        loop {
            let status = self.status().await?;
            let line = status
                .iter()
                .find(|line| line.contains("ApiRoute") && line.contains(route));
            let programmed = line.and_then(|line| line.split_whitespace().find_map(all_of_them));
            match (line, programmed) {
                (Some(line), Some(true)) => return Ok(line.trim().to_owned()),
                _ if Instant::now() < until => sleep(LOOK).await,
                (line, _) => {
                    return line
                        .cloned()
                        .with_context(|| {
                            format!(
                                "`meshwright status` doesn't mention {route}:\n  {}",
                                status.join("\n  ")
                            )
                        })
                        .and_then(|line| bail!("{route} is not enforced by all sidecars: {line}"));
                }
            }
        }
    }
}

/// Whether a word such as `7/7` says that there are as many as there should be.
fn all_of_them(word: &str) -> Option<bool> {
    let (n, m) = word.split_once('/')?;
    let (n, m): (u32, u32) = (n.parse().ok()?, m.parse().ok()?);
    Some(n == m && m > 0)
}
