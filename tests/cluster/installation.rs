//! Meshwright in the cluster, installed once with Helm for all tests, as a platform team would.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tests::cluster::{Cluster, run, wait_until};
use tokio::process::Command;
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The namespace of the operator.
pub(crate) const SYSTEM: &str = "meshwright-system";

/// How long a pod may take to be there, on a machine with two cores.
pub(crate) const PODS: Duration = Duration::from_secs(90);

/// The version of everything: crates, chart, images.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// There is one operator for all tests: those that need it hold this to read, those that take it
/// away hold it to write.
static OPERATOR: RwLock<()> = RwLock::const_new(());

/// As long as one of its clones lives, no other test takes the operator away.
///
/// Who has one must not ask for a second: that would wait behind a test that waits for the first.
/// It is cloned instead.
pub(crate) type OperatorStays = Arc<RwLockReadGuard<'static, ()>>;

/// Waits until the operator is there, and keeps it there.
pub(crate) async fn operator_stays() -> OperatorStays {
    Arc::new(OPERATOR.read().await)
}

/// Waits until no other test needs the operator. Who holds [`OperatorStays`] waits for ever.
pub(crate) async fn nobody_needs_the_operator() -> RwLockWriteGuard<'static, ()> {
    OPERATOR.write().await
}

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

/// Waits until every replica that a rollout replaced has ended. In its last seconds such a one is still asked about
/// pods and still signs leaves, and does both as it was told.
pub(crate) async fn operator_before_it_has_gone(cluster: &Cluster) -> Result<()> {
    wait_until("the operator before it has gone", PODS, async || {
        let of = ["get", "pods", "-n", SYSTEM, "-l"];
        let operators = "app.kubernetes.io/component=operator";
        let pods = cluster.json(&[&of[..], &[operators]].concat()).await?;
        let pods = pods["items"].as_array().context("pods")?;
        let mut ending = pods.iter().map(|pod| &pod["metadata"]["deletionTimestamp"]);
        ensure!(ending.all(serde_json::Value::is_null), "{pods:?}");
        Ok(())
    })
    .await
}

async fn install(cluster: &Cluster) -> Result<()> {
    for part in ["operator", "sidecar"] {
        import_built(cluster, part).await?;
    }
    // As it is: its own values name these images.
    let chart = root().join("charts/meshwright");
    let chart = chart.to_str().context("a path in UTF-8")?;
    let install = ["install", "meshwright", chart, "--namespace", SYSTEM];
    let args = [&install[..], &["--create-namespace"]].concat();
    cluster.helm(&args).await?;
    cluster
        .ready(SYSTEM, "deployment/meshwright-operator", PODS)
        .await?;
    // The operator writes its certificate into the webhooks' configurations once it is up.
    wait_until("the webhooks have their certificate", PODS, async || {
        let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
        let of_ours = "app.kubernetes.io/name=meshwright";
        let configurations = cluster.json(&["get", kinds, "-l", of_ours]).await?;
        let configurations = configurations["items"].as_array().context("a list")?;
        ensure!(configurations.len() == 2, "{configurations:?}");
        for configuration in configurations {
            let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
            ensure!(
                bundle.as_str().is_some_and(|bundle| !bundle.is_empty()),
                "{configuration}"
            );
        }
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

/// Gives the node one of the images that `make images` builds, from its archive and under its own
/// name.
pub(crate) async fn import_built(cluster: &Cluster, image: &str) -> Result<()> {
    let name = format!("ghcr.io/meshwright/{image}:{VERSION}");
    cluster.import_archive(&name, &archive(image)?).await
}

/// Where `make images` has put an image.
pub(crate) fn archive(image: &str) -> Result<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let archive = target.join(format!("images/{image}-{VERSION}.tar"));
    let built = archive.exists();
    ensure!(built, "{} is not built: make images", archive.display());
    Ok(archive)
}

/// Copies the chart into a folder as a version of that name would have it, and returns where it is.
pub(crate) async fn chart_of(version: &str, folder: &Path) -> Result<PathBuf> {
    let chart = folder.join("meshwright");
    let mut copy = Command::new("cp");
    copy.arg("-R")
        .arg(root().join("charts/meshwright"))
        .arg(&chart);
    run(&mut copy, "").await?;
    let about = chart.join("Chart.yaml");
    let own = std::fs::read_to_string(&about)?;
    let named = own.replace(&format!("ersion: {VERSION}"), &format!("ersion: {version}"));
    ensure!(named.matches(version).count() == 2, "{named}");
    std::fs::write(about, named)?;
    Ok(chart)
}

/// The top of the checkout.
pub(crate) fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}
