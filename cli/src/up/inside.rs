//! The way into namespaces of one's own, step by step, each step a program of its own.
//!
//! ```text
//! meshwright up        in the host's network: the way out, published ports, Ctrl-C
//!  └ __mesh            new user, process, mount and network namespaces; waits
//!     └ __init         the first process in them: reaps what others leave behind
//!        └ __supervise the mesh itself
//! ```
//!
//! Each dies with the one before it, and with the first process in a process namespace all others
//! in it: however the outermost one ends, nothing is left.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities,
};

use super::link::ToHost;
use super::place::write;
use super::process::own_executable;
use crate::fds;

/// Step one: the line to the host's side is standard input.
pub fn mesh(arguments: &[String]) -> anyhow::Result<i32> {
    let line = line()?;
    if let Err(error) = separate() {
        let why = explain(&error);
        fds::send(&line, &ToHost::Blocked(why), &[])?;
        return Ok(1);
    }
    let mut init = next("__init", arguments, &line)?;
    // Held by the mesh alone from now on: its end is then seen by the host's side.
    drop(line);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let status = init.wait()?;
    Ok(status.code().unwrap_or(1))
}

/// Step two: the first process of the new process namespace.
pub fn init(arguments: &[String]) -> anyhow::Result<i32> {
    let line = line()?;
    set_pdeathsig(Signal::SIGKILL)?;
    // Where the host hides parts of /proc (in most containers) a new one is refused; the host's
    // serves as well, though it shows the host's processes.
    let _ = mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::empty(),
        None::<&str>,
    );
    let supervisor = next("__supervise", arguments, &line)?;
    drop(line);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let supervisor = Pid::from_raw(i32::try_from(supervisor.id())?);
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == supervisor => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == supervisor => {
                anyhow::bail!("the mesh was ended by {signal}")
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The line to the host's side, as step three has it.
pub(super) fn line() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn next(step: &str, arguments: &[String], line: &UnixStream) -> io::Result<Child> {
    Command::new(own_executable())
        .arg(step)
        .args(arguments)
        .stdin(OwnedFd::from(line.try_clone()?))
        .spawn()
}

fn separate() -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    unshare(
        CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET,
    )?;
    // One user, the same inside as outside: programs that refuse to run as root don't have to.
    write(Path::new("/proc/self/setgroups"), "deny")?;
    write(Path::new("/proc/self/uid_map"), &format!("{user} {user} 1"))?;
    write(
        Path::new("/proc/self/gid_map"),
        &format!("{group} {group} 1"),
    )?;
    // After the user namespace: entering one forgets it.
    set_pdeathsig(Signal::SIGKILL)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    keep_capabilities()
}

/// Makes the capabilities that come with a new user namespace survive exec, which would drop them
/// for anybody but user 0.
pub(crate) fn keep_capabilities() -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable = sets.permitted;
    let kept = sets.permitted;
    set_capabilities(None, sets)?;
    for capability in kept
        .iter()
        .filter(|capability| CapabilitySet::all().contains(*capability))
    {
        // The kernel may know fewer or more than this program; those that matter are asked for
        // again where they are used.
        let _ = configure_capability_in_ambient_set(capability, true);
    }
    Ok(())
}

fn explain(error: &io::Error) -> String {
    let apparmor =
        std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let clone = std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone");
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let is = |setting: &io::Result<String>, value: &str| {
        setting.as_ref().is_ok_and(|now| now.trim() == value)
    };
    if is(&apparmor, "1") {
        "AppArmor restricts user namespaces; allow them with `sudo sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0`, or run this as root"
            .to_owned()
    } else if is(&clone, "0") {
        "user namespaces are for root only; allow them with `sudo sysctl -w \
         kernel.unprivileged_userns_clone=1`, or run this as root"
            .to_owned()
    } else if is(&limit, "0") {
        "user namespaces are switched off; allow them with `sudo sysctl -w \
         user.max_user_namespaces=10000`"
            .to_owned()
    } else {
        format!("the system refuses user namespaces ({error})")
    }
}

/// Step three's check that it is where it should be.
pub(super) fn supervise_dies_with_init() -> anyhow::Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("binding the mesh's life to its parent's")
}
