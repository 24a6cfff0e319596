//! How often a sidecar may ask: what it asks about is settled while all streams wait.

use std::time::Duration;

use tokio::time::Instant;

/// Messages with questions that are read one right after the other. Each has up to
/// [`MAX_ASKED`](crate::lookup::MAX_ASKED), and what comes while one waits is put together by the sidecar.
pub const LOOKUPS_AT_ONCE: u32 = 32;

/// From then on, how long each waits for the one before it.
pub const LOOKUPS_EVERY: Duration = Duration::from_millis(100);

/// When the next message may be read: a token bucket.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all of them may be read at once again.
    rested: Instant,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new() -> Pace {
        Pace {
            rested: Instant::now(),
        }
    }

    /// When another may be read.
    pub(super) fn due(&self) -> Instant {
        let ahead = LOOKUPS_EVERY * (LOOKUPS_AT_ONCE - 1);
        self.rested.checked_sub(ahead).unwrap_or(self.rested)
    }

    /// One is read now.
    pub(super) fn read(&mut self) {
        self.rested = self.rested.max(Instant::now()) + LOOKUPS_EVERY;
    }
}
