//! The processes of this machine, as /proc shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// A process: its id, and when it started (clock ticks since boot), because ids are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) id: i32,
    started: u64,
}

/// A process and all that came of it, children and children's children.
pub(crate) fn family(root: i32) -> BTreeSet<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    let mut family = BTreeSet::new();
    for (process, parent) in all() {
        children.entry(parent).or_default().push(process);
        if process.id == root {
            family.insert(process);
        }
    }
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).into_iter().flatten() {
            parents.push(child.id);
            family.insert(child);
        }
    }
    family
}

/// Those of `processes` that still run.
pub(crate) fn still_running(processes: &BTreeSet<Process>) -> BTreeSet<Process> {
    all()
        .map(|(process, _)| process)
        .filter(|process| processes.contains(process))
        .collect()
}

/// Of a family, the process that runs `program` with `variable` (`NAME=value`) in its environment.
pub(crate) fn with(family: &BTreeSet<Process>, program: &str, variable: &str) -> Option<Process> {
    let has = |process: &&Process| {
        let read =
            |file: &str| fs::read(format!("/proc/{}/{file}", process.id)).unwrap_or_default();
        let command = read("cmdline");
        let name = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let named = name.rsplit(|byte| *byte == b'/').next() == Some(program.as_bytes());
        named
            && read("environ")
                .split(|byte| *byte == 0)
                .any(|one| one == variable.as_bytes())
    };
    family.iter().find(has).copied()
}

/// Every process and its parent's id.
fn all() -> impl Iterator<Item = (Process, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before it is in parentheses and may contain anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        // A zombie has ended; that its parent has not asked how is another matter.
        let running = !matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        // Fields 3 and 4 were state and parent, 22 is the start.
        let started = fields.nth(17)?.parse().ok()?;
        running.then_some((Process { id, started }, parent))
    })
}

// === impl Process ===

impl Process {
    /// Sends it a signal.
    pub(crate) fn signal(self, signal: Signal) -> anyhow::Result<()> {
        let id = Pid::from_raw(self.id).ok_or_else(|| anyhow::anyhow!("0 is no process"))?;
        Ok(kill_process(id, signal)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_in_its_own_family_and_runs() {
        let id = i32::try_from(std::process::id()).unwrap();
        let family = family(id);
        assert!(family.iter().any(|process| process.id == id));
        assert!(
            still_running(&family)
                .iter()
                .any(|process| process.id == id)
        );
    }
}
