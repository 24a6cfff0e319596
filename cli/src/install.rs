//! `meshwright install`, `upgrade` and `uninstall`: the mesh into a cluster, on, and out of it.
//!
//! The chart is in the program, Helm installs it. What is done here beside it is what Helm can't:
//! to look before whether it can succeed, and to say after what is next, or what remains.

pub mod chart;
pub mod cluster;
pub mod helm;
pub mod version;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use self::chart::{Chart, VERSION};
use self::helm::{Helm, Release};
use self::version::{Step, Version};
use crate::sidecar::Cluster;
use crate::up::table::say;

/// The release's name, unless somebody has installed the chart under another.
const RELEASE: &str = "meshwright";
/// For which Kubernetes the chart is rendered without one.
const RENDERED_FOR: &str = "1.35.0";

/// What the chart is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Values {
    /// A file of values, as Helm takes it; a later one outweighs an earlier.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One value, which outweighs the files: `operator.replicas=2`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Three operators on three nodes, below whatever else is said.
    #[arg(long)]
    pub ha: bool,
}

/// Installs the mesh into a cluster, with the chart that this program brings.
///
/// Looks first whether the cluster's version is one that was tried, whether you may create what is
/// needed, and whether a mesh is there already. Then Helm installs the chart, and it waits until pods
/// can be created. Needs helm and kubectl in PATH, which act with your kubeconfig and rights.
#[derive(Clone, Debug, clap::Args)]
pub struct InstallArgs {
    /// In the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The operator's namespace, which is made where it is not there.
    #[arg(short, long, value_name = "NAME", default_value = "meshwright-system")]
    pub namespace: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub values: Values,
    /// Print what would be applied, as YAML, and do nothing; asks no cluster.
    #[arg(long, conflicts_with_all = ["dry_run", "context"])]
    pub render: bool,
    /// Look whether it would succeed, the API server included, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How long the operator may take to be ready, as Helm takes it.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub timeout: String,
}

/// Upgrades the mesh in a cluster to this program's version, or changes its values.
///
/// Keeps the values that were set before. Refuses to skip more than two minor versions, or to go
/// back. Sidecars keep their version until their pods are made anew.
#[derive(Clone, Debug, clap::Args)]
pub struct UpgradeArgs {
    /// In the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub values: Values,
    /// Print what would be applied, as YAML, and do nothing.
    #[arg(long)]
    pub render: bool,
    /// How long the operator may take to be ready, as Helm takes it.
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub timeout: String,
}

/// Takes the mesh out of a cluster, and says what remains and how to remove that.
///
/// Webhooks, the operator and its rights go. Objects that were written, their definitions and the
/// certificate authority's keys stay, so that a new installation goes on where this one ended.
#[derive(Clone, Debug, clap::Args)]
pub struct UninstallArgs {
    /// In the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Also while pods have a sidecar.
    #[arg(long)]
    pub yes: bool,
    /// Say what would remain, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Installs; returns the exit code.
pub fn install(args: &InstallArgs) -> anyhow::Result<i32> {
    let helm = Helm::find(args.context.as_deref())?;
    let chart = Chart::write()?;
    let path = utf8(&chart)?;
    let namespace = args.namespace.as_str();
    let at = ["--namespace", namespace];
    if args.render {
        let mut rendering = helm.command(&["template", RELEASE, path, "--kube-version"]);
        rendering.arg(RENDERED_FOR).args(at);
        say(helm::run(args.values.tell(&mut rendering, &chart))?.trim_end());
        return Ok(0);
    }
    let cluster = clusters(args.context.as_deref());
    preflight(&helm, &cluster, namespace)?;
    let mut installing = helm.command(&["install", RELEASE, path, "--create-namespace"]);
    installing.args(at);
    args.values.tell(&mut installing, &chart);
    if args.dry_run {
        helm::run(installing.arg("--dry-run=server"))?;
        say(format_args!(
            "Meshwright {VERSION} can be installed into {namespace}"
        ));
        return Ok(0);
    }
    say(format_args!(
        "installing Meshwright {VERSION} into {namespace}, and waiting until it is ready"
    ));
    installing.args(["--wait", "--timeout", &args.timeout]);
    helm::run(&mut installing).with_context(|| {
        format!(
            "it is not installed, or not ready: `kubectl get pods,events -n {namespace}` shows why; \
             `meshwright uninstall` takes away what there is of it"
        )
    })?;
    cluster::injects(&cluster)?;
    say(
        "it is ready. Label a namespace, and its pods have a sidecar from their next start on:\n\n  \
         kubectl label namespace NAME meshwright.dev/inject=enabled\n  \
         kubectl rollout restart deployment -n NAME\n\n\
         `meshwright check --cluster` says what is wrong; pods outside of the mesh can't call into it unless it \
         is permissive (docs/moving-in.md)",
    );
    Ok(0)
}

/// Upgrades; returns the exit code.
pub fn upgrade(args: &UpgradeArgs) -> anyhow::Result<i32> {
    let helm = Helm::find(args.context.as_deref())?;
    let cluster = clusters(args.context.as_deref());
    let release = helm.release()?;
    let release = release.context("no Meshwright is installed here: meshwright install")?;
    may_follow(&release)?;
    cluster_fits(&cluster)?;
    let chart = Chart::write()?;
    let mut upgrading = helm.command(&["upgrade", &release.name, utf8(&chart)?]);
    upgrading.args(["--namespace", &release.namespace]);
    // What the user has set before, over what this version's chart says.
    upgrading.arg("--reset-then-reuse-values");
    args.values.tell(&mut upgrading, &chart);
    if args.render {
        let said = helm::run(upgrading.args(["--dry-run=server", "-o", "json"]))?;
        let said: Value = serde_json::from_str(&said).context("helm answered no JSON")?;
        let manifest = said["manifest"].as_str();
        say(manifest
            .context("helm says nothing of what it would apply")?
            .trim_end());
        return Ok(0);
    }
    let (from, namespace) = (&release.version, &release.namespace);
    say(format_args!(
        "upgrading Meshwright {from} in {namespace} to {VERSION}, and waiting until it is ready"
    ));
    upgrading.args(["--wait", "--timeout", &args.timeout]);
    helm::run(&mut upgrading).with_context(|| {
        format!(
            "it is not upgraded, or not ready: `kubectl get pods,events -n {namespace}` shows why; \
             `helm rollback {} -n {namespace}` goes back",
            release.name
        )
    })?;
    cluster::injects(&cluster)?;
    let meshed = cluster::meshed(&cluster)?.len();
    say(format_args!(
        "it is ready. {meshed} pods keep the sidecars that they have until they are made anew: kubectl rollout \
         restart deployment -n NAME"
    ));
    Ok(0)
}

/// Uninstalls; returns the exit code.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<i32> {
    let helm = Helm::find(args.context.as_deref())?;
    let cluster = clusters(args.context.as_deref());
    let release = helm.release()?;
    let release = release.context("no Meshwright is installed here, by Helm or by meshwright")?;
    let namespace = &release.namespace;
    let plugin = cluster::plugin(&cluster, namespace)?;
    if args.dry_run {
        say(format_args!(
            "release {} in {namespace} would be removed. This would remain:",
            release.name
        ));
        tell(&cluster::remains(&cluster, namespace, plugin)?, namespace);
        return Ok(0);
    }
    let meshed = cluster::meshed(&cluster)?;
    if !meshed.is_empty() && !args.yes {
        bail!(
            "{} pods have a sidecar, which nobody would renew the certificate of any more: {}. Take the label \
             meshwright.dev/inject off their namespaces and restart them first, or say --yes",
            meshed.len(),
            cluster::some(meshed.iter().map(ToString::to_string)),
        );
    }
    let mut uninstalling = helm.command(&["uninstall", &release.name, "--wait"]);
    helm::run(uninstalling.args(["--namespace", namespace]))?;
    let remains = cluster::remains(&cluster, namespace, plugin)?;
    if !remains.webhooks.is_empty() {
        bail!(
            "these webhooks are still there, and nobody answers them any more: kubectl delete \
             mutatingwebhookconfigurations,validatingwebhookconfigurations {}",
            remains.webhooks.join(" ")
        );
    }
    say(format_args!(
        "Meshwright {} is uninstalled, and no webhook is left. This remains:",
        release.version
    ));
    tell(&remains, namespace);
    Ok(0)
}

fn tell(remains: &cluster::Remains, namespace: &str) {
    let lines = remains.lines(namespace);
    if lines.is_empty() {
        say("nothing");
    }
    for line in lines {
        say(line);
    }
}

fn clusters(context: Option<&str>) -> Cluster {
    Cluster {
        cluster: true,
        context: context.map(str::to_owned),
        namespace: None,
    }
}

fn utf8(chart: &Chart) -> anyhow::Result<&str> {
    chart.path().to_str().context("a path in UTF-8")
}

/// Whether an installation can succeed, as far as that can be seen before.
fn preflight(helm: &Helm, cluster: &Cluster, namespace: &str) -> anyhow::Result<()> {
    cluster_fits(cluster)?;
    let forbidden = cluster::forbidden(cluster, namespace)?;
    if !forbidden.is_empty() {
        bail!(
            "you may not {}: somebody with these rights has to install it, or to give them to you",
            forbidden.join(", ")
        );
    }
    if let Some(release) = helm.release()? {
        let Release {
            name,
            namespace,
            version,
            status,
        } = release;
        let next = match status.as_str() {
            "deployed" => "`meshwright upgrade` changes it",
            _ => "`meshwright uninstall` takes away what there is of it",
        };
        bail!(
            "Meshwright {version} is installed already, as release {name} in namespace {namespace} ({status}), and \
             there is one mesh in a cluster: {next}"
        );
    }
    Ok(())
}

fn cluster_fits(cluster: &Cluster) -> anyhow::Result<()> {
    let (_, untried) = cluster::version(cluster)?;
    if let Some(sentence) = untried {
        say(sentence);
    }
    Ok(())
}

/// Whether this version may follow what is installed.
fn may_follow(release: &Release) -> anyhow::Result<()> {
    let from = Version::read(&release.version).context("the version that is installed")?;
    let to = Version::read(VERSION).context("the version of this program")?;
    match from.step(to) {
        Step::Fine => Ok(()),
        Step::TooFar(between) => bail!(
            "Meshwright {} is installed, and {VERSION} is too far from it: upgrade to {between} first, with its own \
             meshwright",
            release.version
        ),
        Step::Back => bail!(
            "Meshwright {} is installed, and {VERSION} is older: use the meshwright of that version, or go back with \
             `helm rollback {} -n {}`",
            release.version,
            release.name,
            release.namespace
        ),
    }
}

// === impl Values ===

impl Values {
    /// Adds them to a command of Helm's.
    fn tell<'a>(&self, helm: &'a mut Command, chart: &Chart) -> &'a mut Command {
        if self.ha {
            helm.arg("--values").arg(chart.high_availability());
        }
        for file in &self.files {
            helm.arg("--values").arg(file);
        }
        for pair in &self.set {
            helm.args(["--set", pair]);
        }
        helm
    }
}
