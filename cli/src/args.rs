//! The command line.

use std::io::Write as _;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cache::CacheArgs;
use crate::certificates::CertificatesArgs;
use crate::check::CheckArgs;
use crate::config::{ConfigArgs, RoutesArgs};
use crate::consumer::ConsumerArgs;
use crate::events::EventsArgs;
use crate::exec::ExecArgs;
use crate::explain::ExplainArgs;
use crate::inject::InjectArgs;
use crate::install::{InstallArgs, UninstallArgs, UpgradeArgs};
use crate::port_forward::PortForwardArgs;
use crate::status::StatusArgs;
use crate::tap::TapArgs;
use crate::up::UpArgs;

/// Meshwright: an API integration mesh.
#[derive(Debug, Parser)]
#[command(name = "meshwright", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the services of a folder as a mesh on this machine.
    Up(UpArgs),
    /// Run a command inside a workload of a running mesh.
    Exec(ExecArgs),
    /// Show how a running mesh is.
    Status(StatusArgs),
    /// Say what is wrong with a folder, without running it.
    Check(CheckArgs),
    /// Put sidecars into the pods of files.
    Inject(InjectArgs),
    /// Show all that a workload's sidecar has in force.
    Config(ConfigArgs),
    /// Show where the calls of a workload lead.
    Routes(RoutesArgs),
    /// Say which rule would govern a request or a connection, and why the others don't.
    Explain(ExplainArgs),
    /// Show requests as they end, as the sidecars see them.
    Tap(TapArgs),
    /// Show what is kept of a workload's answers, or drop it.
    Cache(CacheArgs),
    /// Show how it goes with events; show, replay or drop dead letters.
    Events(EventsArgs),
    /// Forward ports of this machine to ports of a workload.
    PortForward(PortForwardArgs),
    /// Show the certificate authority's roots, or rotate them.
    Certificates(CertificatesArgs),
    /// Make, replace, end and list the API keys of consumers.
    Consumer(ConsumerArgs),
    /// Install the mesh into a cluster.
    Install(InstallArgs),
    /// Upgrade the mesh in a cluster, or change its values.
    Upgrade(UpgradeArgs),
    /// Take the mesh out of a cluster.
    Uninstall(UninstallArgs),
    /// Write a script that completes this command's words in a shell.
    Completion(CompletionArgs),
    /// The mesh's own steps: see `up::inside`.
    #[command(name = "__mesh", hide = true)]
    Mesh(Step),
    #[command(name = "__init", hide = true)]
    #[allow(missing_docs)]
    Init(Step),
    #[command(name = "__supervise", hide = true)]
    #[allow(missing_docs)]
    Supervise(Step),
    /// Makes a workload's namespaces: see `up::place`.
    #[command(name = "__place", hide = true)]
    Place,
    /// Becomes a program inside a workload: see `up::enter`.
    #[command(name = "__enter", hide = true)]
    Enter,
}

/// Writes a script that completes this command's words, to standard output.
///
/// For example: `source <(meshwright completion bash)`
#[derive(Clone, Debug, clap::Args)]
pub struct CompletionArgs {
    /// Which shell.
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// What one step hands to the next.
#[derive(Debug, clap::Args)]
pub struct Step {
    /// Opaque to all but the last.
    pub arguments: Vec<String>,
}

fn completion(args: &CompletionArgs) -> anyhow::Result<i32> {
    let mut script = Vec::new();
    let whole = Cli::command();
    // What is hidden is not completed either; not every shell's script heeds that.
    let shown = whole.get_subcommands().filter(|one| !one.is_hide_set());
    let mut shown = clap::Command::new("meshwright").subcommands(shown.cloned());
    clap_complete::generate(args.shell, &mut shown, "meshwright", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(0)
}

// === impl Command ===

impl Command {
    /// Does it; returns the exit code.
    ///
    /// Must be called while the process has one thread: several commands enter namespaces.
    pub fn run(&self) -> anyhow::Result<i32> {
        match self {
            Self::Up(args) => crate::up::host::run(args),
            Self::Exec(args) => crate::exec::run(args),
            Self::Status(args) => crate::status::run(args),
            Self::Check(args) => crate::check::run(args),
            Self::Inject(args) => crate::inject::run(args),
            Self::Config(args) => crate::config::config(args),
            Self::Routes(args) => crate::config::routes(args),
            Self::Explain(args) => crate::explain::run(args),
            Self::Tap(args) => crate::tap::run(args),
            Self::Cache(args) => crate::cache::run(args),
            Self::Events(args) => crate::events::run(args),
            Self::PortForward(args) => crate::port_forward::run(args),
            Self::Certificates(args) => crate::certificates::run(args),
            Self::Consumer(args) => crate::consumer::run(args),
            Self::Install(args) => crate::install::install(args),
            Self::Upgrade(args) => crate::install::upgrade(args),
            Self::Uninstall(args) => crate::install::uninstall(args),
            Self::Completion(args) => completion(args),
            Self::Mesh(step) => crate::up::inside::mesh(&step.arguments),
            Self::Init(step) => crate::up::inside::init(&step.arguments),
            Self::Supervise(step) => crate::up::host::supervise(&step.arguments),
            Self::Place => crate::up::place::run().map(|()| 0),
            Self::Enter => Err(crate::up::enter::run()),
        }
    }

    /// The exit code when it fails: as a shell's when a program can't be run.
    pub fn failure(&self) -> i32 {
        match self {
            Self::Exec(_) => 126,
            Self::Enter => 127,
            _ => 1,
        }
    }
}
