//! Processes of containers, as this machine sees them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// How long a tick of /proc is: the same on every architecture that the cluster runs on.
const TICK: Duration = Duration::from_millis(10);

/// The process of a container whose parent is none of the container's. Processes are told by their
/// cgroup, which names the container: containerd knows them by their ids in the cluster's own PID
/// namespace, which mean nothing out here.
pub(super) fn first(container: &str) -> Result<Option<u32>> {
    find(|pid| {
        belongs(pid, container) && !parent(pid).is_some_and(|parent| belongs(parent, container))
    })
}

/// The process of a program of the cluster itself: it is told by its arguments, which name files
/// below the cluster's state folder.
pub(super) fn of_cluster(program: &str, state: &Path) -> Result<Option<u32>> {
    let state = state.to_str().context("a path in UTF-8")?;
    find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| {
            let mut arguments = arguments.split('\0');
            let name = arguments.next().and_then(|path| path.rsplit('/').next());
            name == Some(program) && arguments.any(|argument| argument.contains(state))
        })
    })
}

fn find(is: impl Fn(u32) -> bool) -> Result<Option<u32>> {
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok())
            && is(pid)
        {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Whether a process is in a container's cgroup. One that has just ended is in none.
fn belongs(pid: u32, container: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroups| {
        cgroups
            .lines()
            .any(|line| line.split('/').any(|part| part == container))
    })
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))?
        .trim()
        .parse()
        .ok()
}

/// When a process began, exact to a tick.
pub fn started(pid: u32) -> Result<SystemTime> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let now = SystemTime::now();
    // The name, in brackets, may hold anything; the fields after it are numbered from 3.
    let (_, fields) = stat.rsplit_once(')').context("a stat without a name")?;
    let ticks = fields.split_whitespace().nth(22 - 3);
    let ticks: u32 = ticks.context("a stat without a start")?.parse()?;
    let up = uptime.split(' ').next().context("no uptime")?.parse()?;
    Ok(now - Duration::from_secs_f64(up).saturating_sub(TICK * ticks))
}
