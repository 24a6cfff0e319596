//! Meshwright in the cluster, installed once with Helm for all tests, as a platform team would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tests::cluster::{Cluster, wait_until};
use tokio::sync::OnceCell;

/// The namespace of the operator.
pub(crate) const SYSTEM: &str = "meshwright-system";

/// How long a pod may take to be there, on a machine with two cores.
pub(crate) const PODS: Duration = Duration::from_secs(90);

const OPERATOR: &str = "localhost/meshwright-operator:test";
const SIDECAR: &str = "localhost/meshwright-sidecar:test";

/// The cluster, with Meshwright installed and its operator ready.
pub(crate) async fn installed() -> Result<&'static Cluster> {
    static INSTALLED: OnceCell<Result<(), String>> = OnceCell::const_new();
    let cluster = Cluster::start().await?;
    INSTALLED
        .get_or_init(async || install(cluster).await.map_err(|error| format!("{error:#}")))
        .await
        .as_ref()
        .map_err(|error| anyhow!("Meshwright is not installed: {error}"))?;
    Ok(cluster)
}

async fn install(cluster: &Cluster) -> Result<()> {
    let binaries = static_binaries();
    for (image, name) in [
        (OPERATOR, "meshwright-operator"),
        (SIDECAR, "meshwright-sidecar"),
    ] {
        let binary = binaries.join(name);
        ensure!(
            binary.exists(),
            "{} is not built: make images",
            binary.display()
        );
        cluster.import_image(image, &[&binary]).await?;
    }
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let image = |what: &str| {
        format!("{what}.image.repository=localhost/meshwright-{what},{what}.image.tag=test")
    };
    let set = format!("{},{}", image("operator"), image("sidecar"));
    cluster
        .helm(&[
            "install",
            "meshwright",
            chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--set",
            &set,
        ])
        .await?;
    cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    // The operator writes its certificate into the webhook's configuration once it is up.
    wait_until("the webhook has its certificate", PODS, async || {
        let webhook = cluster
            .json(&[
                "get",
                "mutatingwebhookconfigurations",
                "-l",
                "app.kubernetes.io/name=meshwright",
            ])
            .await?;
        let bundle = &webhook["items"][0]["webhooks"][0]["clientConfig"]["caBundle"];
        ensure!(
            bundle.as_str().is_some_and(|bundle| !bundle.is_empty()),
            "{webhook}"
        );
        Ok(())
    })
    .await
}

/// A namespace whose pods get a sidecar.
pub(crate) async fn meshed_namespace(cluster: &Cluster, prefix: &str) -> Result<String> {
    let namespace = cluster.namespace(prefix).await?;
    cluster
        .kubectl(&[
            "label",
            "namespace",
            &namespace,
            "meshwright.dev/inject=enabled",
        ])
        .await?;
    Ok(namespace)
}

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Where `make images` puts static binaries.
fn static_binaries() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let arch = std::env::consts::ARCH;
    target.join(format!("{arch}-unknown-linux-gnu/release"))
}
