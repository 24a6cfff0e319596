//! Becoming a program inside a workload: its namespaces, its privileges, its environment.
//!
//! Between a fork and an exec only few things are safe, so whoever starts a program inside a
//! workload starts this one instead (`meshwright __enter`), which is told over its standard input
//! what to become, arranges it as an ordinary process, and then execs.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::fds;

/// What an application in a pod lacks as well: without these it can't lift its redirect.
const NOT_FOR_APPLICATIONS: [CapabilitySet; 4] = [
    CapabilitySet::NET_ADMIN,
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_PTRACE,
    CapabilitySet::SYS_MODULE,
];

/// A program to become.
#[derive(Debug, Serialize, Deserialize)]
pub struct Launch {
    /// The program and its arguments; a program without a slash is looked up in the environment's
    /// `PATH`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// What it may do to its namespaces; absent where there are none.
    pub privileges: Option<Privileges>,
    /// Whether mount and network namespaces come along, after standard output and error.
    pub namespaces: bool,
    /// Whether it is killed when whoever started it dies.
    pub dies_with_parent: bool,
}

/// What a program may do to the namespaces it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privileges {
    /// As an application in a pod.
    Application,
    /// May mark its packets: the sidecar.
    Sidecar,
}

/// The hidden subcommand: receives a [`Launch`] over standard input and becomes it. Returns only
/// when that fails.
pub fn run() -> anyhow::Error {
    match arranged() {
        Ok(mut command) => {
            let error = command.exec();
            let program = command.get_program().to_string_lossy().into_owned();
            match error.kind() {
                std::io::ErrorKind::NotFound if !program.contains('/') => {
                    anyhow::anyhow!("there is no program `{program}` in PATH")
                }
                _ => anyhow::Error::from(error).context(format!("can't run `{program}`")),
            }
        }
        Err(error) => error,
    }
}

fn arranged() -> anyhow::Result<Command> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let (launch, descriptors) = fds::receive::<Launch>(&socket).context("reading what to run")?;
    let mut descriptors = descriptors.into_iter();
    let mut next =
        || -> anyhow::Result<OwnedFd> { descriptors.next().context("a descriptor is missing") };
    let (output, errors) = (next()?, next()?);
    // From here on what goes wrong is told where the program's own errors would be.
    rustix::stdio::dup2_stderr(&errors)?;
    if launch.dies_with_parent {
        set_pdeathsig(Signal::SIGKILL)?;
    }
    if launch.namespaces {
        let (mounts, network) = (next()?, next()?);
        setns(network, CloneFlags::CLONE_NEWNET).context("entering the workload's network")?;
        setns(mounts, CloneFlags::CLONE_NEWNS).context("entering the workload's mounts")?;
    }
    if let Some(privileges) = launch.privileges {
        restrict(privileges)?;
    }
    let (program, arguments) = launch.argv.split_first().context("no program was named")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(launch.env)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    std::env::set_current_dir(&launch.cwd).with_context(|| {
        format!(
            "the working directory {} can't be entered",
            launch.cwd.display()
        )
    })?;
    Ok(command)
}

/// Gives up what the program isn't to have. Inside a user namespace of one's own one has every
/// capability, and hands the ambient ones on.
pub fn restrict(privileges: Privileges) -> anyhow::Result<()> {
    rustix::thread::clear_ambient_capability_set().context("dropping capabilities")?;
    match privileges {
        Privileges::Application => {
            for capability in NOT_FOR_APPLICATIONS {
                rustix::thread::remove_capability_from_bounding_set(capability)
                    .context("dropping capabilities")?;
            }
            // The bounding set limits what exec gives; what was inherited would stay.
            let mut sets = rustix::thread::capabilities(None)?;
            sets.inheritable = CapabilitySet::empty();
            rustix::thread::set_capabilities(None, sets).context("dropping capabilities")?;
        }
        Privileges::Sidecar => {
            rustix::thread::configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true)
                .context("keeping NET_ADMIN")?;
        }
    }
    Ok(())
}
