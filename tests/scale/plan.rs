//! How much is measured: a little in `make test`, to see that it can be; all of it in `make scale`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The variable that says with how many streams it is measured, such as `10,100,1000`.
const STREAMS: &str = "MESHWRIGHT_SCALE_STREAMS";

/// Files that a process has open beside its streams.
const BESIDE: u64 = 200;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// With how many streams, least first.
    pub(crate) streams: Vec<usize>,
    /// How long it is looked at while nothing happens.
    pub(crate) steady: Duration,
    /// Edits of one ApiRoute.
    pub(crate) edits: usize,
    /// Replacements of one endpoint.
    pub(crate) steps: usize,
    /// Namespaces of the world in which a sidecar's memory is measured.
    pub(crate) namespaces: usize,
    /// Whether times and memory mean anything: not beside other tests, and without optimisation.
    pub(crate) in_earnest: bool,
}

// === impl Plan ===

impl Plan {
    /// What the environment asks for.
    pub(crate) fn of_environment() -> Result<Self> {
        let Ok(said) = std::env::var(STREAMS) else {
            return Ok(Self {
                streams: vec![10, 120],
                steady: Duration::from_millis(500),
                edits: 3,
                steps: 3,
                namespaces: 6,
                in_earnest: false,
            });
        };
        let numbers = said.split(',').map(|one| one.trim().parse());
        let streams: Result<Vec<usize>, _> = numbers.collect();
        let mut streams =
            streams.with_context(|| format!("{STREAMS} is {said:?}; write 10,100,1000"))?;
        streams.sort_unstable();
        let most = 10_000;
        let possible = streams.iter().all(|one| (1..=most).contains(one));
        ensure!(
            possible,
            "{STREAMS} is {said:?}: an operator has 1 to {most} streams"
        );
        Ok(Self {
            streams,
            steady: Duration::from_secs(20),
            edits: 100,
            steps: 40,
            namespaces: 100,
            in_earnest: true,
        })
    }

    /// Lets this process, and those that it starts, have as many files open as the streams need.
    pub(crate) fn raise_limit(&self) -> Result<()> {
        let most = self.streams.last().copied().unwrap_or_default();
        let wanted = most as u64 + BESIDE;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current.is_none_or(|current| current >= wanted) {
            return Ok(());
        }
        ensure!(
            maximum.is_none_or(|maximum| maximum >= wanted),
            "{most} streams are {wanted} open files, and the limit is {maximum:?} (ulimit -Hn): raise \
             it, or set {STREAMS} to fewer"
        );
        let limit = Rlimit {
            current: Some(wanted),
            maximum,
        };
        Ok(setrlimit(Resource::Nofile, limit)?)
    }
}
