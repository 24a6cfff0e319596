//! Starting programs inside workloads, and ending them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::enter::Launch;
use super::place::Namespaces;
use crate::fds;

/// This program, even when its file was replaced since it started.
pub(super) fn own_executable() -> PathBuf {
    use std::os::unix::fs::MetadataExt as _;
    const RUNNING: &str = "/proc/self/exe";
    let file = |path: &Path| {
        std::fs::metadata(path)
            .map(|metadata| (metadata.dev(), metadata.ino()))
            .ok()
    };
    // By its name when that is still true, for that is what `ps` shows.
    let named = std::env::current_exe().ok();
    named
        .filter(|path| file(path).is_some_and(|found| Some(found) == file(Path::new(RUNNING))))
        .unwrap_or_else(|| RUNNING.into())
}

/// A program that is installed beside this one.
pub(super) fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    anyhow::ensure!(
        path.is_file(),
        "there is no `{name}` beside `{}`: install or build all of Meshwright's programs into one folder",
        own.display()
    );
    Ok(path)
}

/// Starts a program, its output appended to `log`. Must be called on the main thread: the program
/// may be bound to die with the thread that started it.
pub(super) fn start(
    launch: &Launch,
    log: &File,
    namespaces: Option<&Namespaces>,
) -> io::Result<Child> {
    debug_assert_eq!(launch.namespaces, namespaces.is_some());
    let (here, there) = UnixStream::pair()?;
    let mut passed: Vec<BorrowedFd<'_>> = vec![log.as_fd(), log.as_fd()];
    if let Some(namespaces) = namespaces {
        passed.extend([namespaces.mounts.as_fd(), namespaces.network.as_fd()]);
    }
    fds::send(&here, launch, &passed)?;
    // Leader of a group of its own: Ctrl-C in the terminal is not for it, and whatever it starts
    // can be ended with it.
    Command::new(own_executable())
        .arg("__enter")
        .stdin(OwnedFd::from(there))
        .process_group(0)
        .spawn()
}

/// Opens a log to append to; only the owner may read it.
pub(super) fn log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// The last lines of what was written to a log since it had `from` bytes, for telling why its
/// program ended.
pub(super) fn last_lines(path: &Path, from: u64, count: usize) -> Vec<String> {
    /// Enough for a stack trace; logs may be large.
    const TAIL_BYTES: u64 = 16 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES).max(from)))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// The group that a program leads, and all it starts are in.
pub(super) fn group(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw)
}

/// Kills all that is left of a group.
pub(super) fn kill(group: Option<Pid>) {
    signal(group, Signal::SIGKILL);
}

/// Asks a program and all it started to end; after `grace` they are killed.
pub(super) async fn end(mut child: Child, grace: Duration) {
    let group = group(&child);
    signal(group, Signal::SIGTERM);
    if timeout(grace, child.wait()).await.is_err() {
        kill(group);
        // It can't refuse.
        let _ = child.wait().await;
    }
    kill(group);
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // Nobody may be left in the group.
        let _ = killpg(group, signal);
    }
}

/// How a program ended, as a phrase.
pub(super) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => Signal::try_from(number)
            .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string()),
        (None, None) => "an unknown end".to_owned(),
    }
}
