//! The command line.

use clap::{Parser, Subcommand};

use crate::check::CheckArgs;
use crate::exec::ExecArgs;
use crate::status::StatusArgs;
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

/// What one step hands to the next.
#[derive(Debug, clap::Args)]
pub struct Step {
    /// Opaque to all but the last.
    pub arguments: Vec<String>,
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
