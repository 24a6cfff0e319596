//! What pages say to do with a whole installation, done as it is written, each in a cluster of its own: every
//! line for a shell is taken from its page and typed, in the page's order.

mod certificates;
mod everything;
mod installing;
mod upgrade;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tests::cluster::Cluster;
use tokio::sync::{Mutex, MutexGuard};

use crate::installation::{PODS, SYSTEM, import_built, root};
use crate::life::back;
use crate::shop::{Shop, application};

const INJECT: &str = "meshwright.dev/inject=enabled";

/// A cluster that no other test shares, without a mesh. There is one at a time, and it goes when this does.
struct Own {
    cluster: &'static Cluster,
    _turn: MutexGuard<'static, ()>,
}

// === impl Own ===

impl Own {
    async fn start() -> Result<Self> {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        // Shops borrow their cluster for ever; its processes end all the same, see below.
        let cluster = Box::leak(Box::new(Cluster::alone().await?));
        Ok(Self {
            cluster,
            _turn: turn,
        })
    }

    /// Gives the node the images of this version.
    async fn imports(&self) -> Result<()> {
        for part in ["operator", "sidecar"] {
            import_built(self.cluster, part).await?;
        }
        Ok(())
    }

    /// Installs the chart of a folder with these values.
    async fn installs(&self, chart: &Path, values: &[&str]) -> Result<()> {
        let chart = chart.to_str().context("a path in UTF-8")?;
        let how = ["-n", SYSTEM, "--create-namespace", "--wait"];
        let values = values.iter().flat_map(|value| ["--set", value]);
        let args = ["install", "meshwright", chart].into_iter().chain(how);
        let args: Vec<&str> = args.chain(values).collect();
        self.cluster.helm(&args).await.map(drop)
    }

    /// Opens meshed namespaces with applications, each with its number of pods, and gives `orders` of `shop` a
    /// route.
    async fn applications(&self, all: &[(&str, &str, u32)]) -> Result<()> {
        let cluster = self.cluster;
        let image = cluster.web_image().await?;
        let namespaces: BTreeSet<&str> = all.iter().map(|(namespace, ..)| *namespace).collect();
        for namespace in namespaces {
            cluster.kubectl(&["create", "namespace", namespace]).await?;
            let label = ["label", "namespace", namespace, INJECT];
            cluster.kubectl(&label).await?;
        }
        back(&Shop::apart(cluster, "shop")).await?;
        let yaml: String = all
            .iter()
            .map(|(namespace, name, replicas)| application(name, namespace, image, *replicas))
            .collect();
        cluster.apply(&yaml).await?;
        for (namespace, name, _) in all {
            let deployment = format!("deployment/{name}");
            cluster.ready(namespace, &deployment, PODS).await?;
        }
        let shop = Shop::apart(cluster, "shop");
        cluster.apply(&shop.route("orders")).await?;
        shop.programmed("orders").await.map(drop)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let down = root().join("tests/cluster/down");
        // What it leaves, the next `up` takes away.
        let _ = Command::new(down).arg(self.cluster.state()).status();
    }
}
