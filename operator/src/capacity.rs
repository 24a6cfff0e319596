//! How many sidecars this replica may serve with the memory that it has. Who is refused goes to another;
//! who makes the kernel end this one takes all others' streams with it.

use std::fs;
use std::path::Path;

use crate::push::MAX_STREAMS;

/// Where a process of a container finds its bound of memory (cgroup v2): bytes, or `max`.
const LIMIT: &str = "/sys/fs/cgroup/memory.max";
/// What the operator takes in a small cluster without any stream, and what it needs for a moment, in bytes.
const BASE: u64 = 80 << 20;
/// What a stream takes, in bytes, with its pod's part of the world: docs/performance.md, "At scale".
const EACH: u64 = 96 << 10;
/// Where there is next to no memory it is not for want of streams that it ends.
const LEAST: usize = 100;

/// The most streams at once.
pub(crate) fn streams() -> usize {
    let limit = memory(Path::new(LIMIT));
    let most = streams_in(limit);
    if most < MAX_STREAMS {
        tracing::info!(
            bytes = limit,
            "at most {most} sidecars are served, because of the limit of memory"
        );
    }
    most
}

/// The bound of memory in bytes; `None` when there is none, or it is not known.
fn memory(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The most streams in so many bytes of memory.
fn streams_in(limit: Option<u64>) -> usize {
    let Some(limit) = limit else {
        return MAX_STREAMS;
    };
    let streams = limit.saturating_sub(BASE) / EACH;
    usize::try_from(streams)
        .unwrap_or(MAX_STREAMS)
        .clamp(LEAST, MAX_STREAMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_streams_are_served_as_the_limit_of_memory_has_room_for() {
        let mib = |count: u64| Some(count << 20);
        // Those of values.yaml and values-ha.yaml among them.
        for (limit, streams) in [
            (mib(64), LEAST),
            (mib(256), 1877),
            (mib(512), 4608),
            (mib(1024), MAX_STREAMS),
            (mib(4096), MAX_STREAMS),
            (None, MAX_STREAMS),
        ] {
            assert_eq!(streams_in(limit), streams, "{limit:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_a_limit_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.max");
        assert_eq!(memory(&file), None);
        fs::write(&file, "max\n").unwrap();
        assert_eq!(memory(&file), None);
        fs::write(&file, "536870912\n").unwrap();
        assert_eq!(memory(&file), Some(512 << 20));
    }
}
