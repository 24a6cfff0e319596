//! What processes take while they work: whether it grows.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::mesh::Usage;

/// How often it is looked.
pub(crate) const PACE: Duration = Duration::from_millis(250);

/// By how much the memory of the last third may be above that of the first: what an allocator moves
/// to and fro, and far less than what one kept buffer for each connection or edit would be.
const FLAT: u64 = 6 << 20;

/// What one process took, moment by moment.
#[derive(Debug)]
pub(crate) struct Watched {
    name: String,
    /// Before anything was asked of it.
    idle: Usage,
    samples: Vec<Usage>,
}

/// Memory at the beginning of what was watched, and at its end.
struct Thirds {
    first: u64,
    last: u64,
}

// === impl Watched ===

impl Watched {
    /// A process that has nothing to do yet.
    pub(crate) fn new(name: &str, idle: Usage) -> Self {
        Self {
            name: name.to_owned(),
            idle,
            samples: Vec::new(),
        }
    }

    /// Takes down one moment.
    pub(crate) fn sees(&mut self, usage: Usage) {
        self.samples.push(usage);
    }

    /// What it had before anything was asked of it.
    pub(crate) fn idle(&self) -> Usage {
        self.idle
    }

    /// A line of a table: memory in MiB, descriptors.
    pub(crate) fn line(&self, after: Usage) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Thirds { first, last } = self.thirds();
        let peak = self.samples.iter().max_by_key(|one| one.resident);
        let peak = peak.copied().unwrap_or_default();
        let open = self.samples.iter().map(|one| one.descriptors).max();
        let mut line = String::new();
        let _ = write!(
            line,
            "  {:<12} memory {:.1} idle, {:.1} first third, {:.1} last third, {:.1} at most, {:.1} after; \
             descriptors {} idle, {} at most, {} after",
            self.name,
            mib(self.idle.resident),
            mib(first),
            mib(last),
            mib(peak.resident),
            mib(after.resident),
            self.idle.descriptors,
            open.unwrap_or_default(),
            after.descriptors,
        );
        line
    }

    /// Whether its memory has not grown, but for what it took to warm up.
    ///
    /// # Errors
    /// It has.
    pub(crate) fn is_flat(&self) -> Result<()> {
        let Thirds { first, last } = self.thirds();
        let grown = last.saturating_sub(first);
        ensure!(
            grown <= FLAT,
            "the memory of {} has grown by {grown} bytes, from {first} to {last}",
            self.name
        );
        Ok(())
    }

    /// The medians of the first and the last third of what follows the warm-up, which is a quarter.
    fn thirds(&self) -> Thirds {
        let warm = self
            .samples
            .get(self.samples.len() / 4..)
            .unwrap_or_default();
        let third = warm.len() / 3;
        Thirds {
            first: median(warm.get(..third).unwrap_or_default()),
            last: median(warm.get(warm.len() - third..).unwrap_or_default()),
        }
    }
}

fn median(samples: &[Usage]) -> u64 {
    let mut resident: Vec<u64> = samples.iter().map(|one| one.resident).collect();
    resident.sort_unstable();
    resident
        .get(resident.len() / 2)
        .copied()
        .unwrap_or_default()
}

#[test]
fn memory_that_grows_is_noticed_and_a_warm_up_is_not() {
    let watched = |resident: &dyn Fn(u64) -> u64| {
        let mut watched = Watched::new("it", Usage::default());
        for n in 0..120 {
            watched.sees(Usage {
                resident: resident(n) << 20,
                descriptors: 9,
            });
        }
        watched.is_flat()
    };
    assert!(watched(&|n| 20 + n.min(25)).is_ok());
    assert!(watched(&|n| 20 + n % 2 * 30).is_ok());
    // A quarter of a MiB from look to look.
    assert!(watched(&|n| 20 + n / 4).is_err());
}
