//! `meshwright exec`: a command inside a workload, as `kubectl exec`.
//!
//! The mesh hands over the workload's namespaces and this process enters them itself, so that the
//! command is its own child: same terminal, same job control, same exit code.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};

use crate::up::control::{Entrance, Request, ask};
use crate::up::enter::{Privileges, restrict};
use crate::up::state::{Layout, running};

/// Runs a command inside a workload of a mesh that `meshwright up` runs.
#[derive(Clone, Debug, clap::Args)]
pub struct ExecArgs {
    /// A Deployment (its first replica), or a pod: `orders`, `shop/orders`, `shop/orders-1`.
    #[arg(value_name = "WORKLOAD")]
    pub workload: String,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
    /// Which mesh, when several run: the name that `meshwright up` tells.
    #[arg(long, value_name = "NAME")]
    pub up: Option<String>,
    /// Keep every capability inside the workload's namespaces: for tools such as `nft` and `tcpdump`.
    #[arg(long)]
    pub privileged: bool,
}

/// Runs the command; returns its exit code. Must be called while the process has one thread.
pub fn run(args: &ExecArgs) -> anyhow::Result<i32> {
    let mesh = find(args.up.as_deref())?;
    let (entrance, namespaces) =
        ask::<Entrance>(&mesh.control(), &Request::Enter(args.workload.clone()))?;
    // In the order in which they must be entered: each gives the right to enter the next.
    let kinds = [
        CloneFlags::CLONE_NEWUSER,
        CloneFlags::CLONE_NEWPID,
        CloneFlags::CLONE_NEWNS,
        CloneFlags::CLONE_NEWNET,
    ];
    let own = !namespaces.is_empty();
    for (namespace, kind) in namespaces.into_iter().zip(kinds) {
        setns(namespace, kind)
            .with_context(|| format!("entering the namespaces of {}", entrance.pod))?;
    }
    if own {
        // Entering a user namespace gives all capabilities in it.
        if args.privileged {
            keep_all()?
        } else {
            restrict(Privileges::Application)?
        }
    }
    let Some((program, arguments)) = args.command.split_first() else {
        bail!("name the command to run after `--`")
    };
    let search = entrance
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map(|(_, path)| path.clone());
    let found = look_up(program, search.as_deref(), &entrance.cwd).with_context(|| {
        format!(
            "there is no program `{program}` for {} to run",
            entrance.pod
        )
    })?;
    let mut command = Command::new(found);
    command
        .args(arguments)
        .env_clear()
        .envs(entrance.env)
        .current_dir(&entrance.cwd);
    let code = crate::terminal::run(&mut command);
    code.with_context(|| format!("running `{program}` in {}", entrance.pod))
}

/// The mesh called `name`, or the only one.
pub fn find(name: Option<&str>) -> anyhow::Result<Layout> {
    let meshes = running()?;
    let names = || {
        meshes
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let fits: Vec<_> = meshes
        .iter()
        .filter(|(own, _)| name.is_none_or(|name| name == own))
        .collect();
    match (fits.as_slice(), name) {
        ([(_, layout)], _) => Ok(layout.clone()),
        ([], _) if meshes.is_empty() => {
            bail!("no mesh is running; start one with `meshwright up DIR`")
        }
        ([], Some(name)) => bail!("no mesh named `{name}` is running; there are {}", names()),
        _ => bail!(
            "several meshes are running; choose one of {} with --up",
            names()
        ),
    }
}

/// As a shell would find it in the workload.
fn look_up(program: &str, search: Option<&str>, cwd: &Path) -> Option<PathBuf> {
    let mut candidates = if program.contains('/') {
        vec![cwd.join(program)]
    } else {
        search
            .unwrap_or_default()
            .split(':')
            .map(|folder| cwd.join(folder).join(program))
            .collect()
    };
    candidates.retain(|path| path.is_file());
    candidates.into_iter().next()
}

fn keep_all() -> anyhow::Result<()> {
    crate::up::inside::keep_capabilities().context("keeping the capabilities")
}
