//! How soon the entry is put back into a network whose owner keeps taking it out.
//!
//! An installer that starts writes its network once or twice. One that watches its file and writes it
//! again after each of our changes would do so as fast as we do, forever, on every node.

use std::time::Duration;

use tokio::time::Instant;

/// Entries that are put back at once.
const AT_ONCE: u32 = 3;
/// The pause after the next one; each that follows is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);
/// An entry that stayed for this long was not fought over: all begins anew.
const PEACE: Duration = Duration::from_secs(600);

/// How often it was put back, and when it may be again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    times: u32,
    last: Option<Instant>,
    not_before: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    /// How long nothing is put back from now on; `None` where it may be.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        let rest = self.not_before?.saturating_duration_since(now);
        (!rest.is_zero()).then_some(rest)
    }

    /// That the entry was put into the network. Where a pause follows: how often it has been, and how
    /// long the pause is.
    pub(super) fn put(&mut self, now: Instant) -> Option<(u32, Duration)> {
        let lasted = self.last.map(|last| now.saturating_duration_since(last));
        if lasted.is_some_and(|lasted| lasted >= PEACE) {
            *self = Self::default();
        }
        self.last = Some(now);
        self.times = self.times.saturating_add(1);
        let doubled = self.times.checked_sub(AT_ONCE + 1)?;
        let pause = FIRST
            .saturating_mul(2_u32.saturating_pow(doubled))
            .min(LONGEST);
        self.not_before = Some(now + pause);
        Some((self.times, pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_taken_out_again_and_again_is_put_back_after_longer_and_longer_pauses() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..16 {
            assert_eq!(pace.rest(now), None);
            let pause = pace.put(now).map(|(_, pause)| pause);
            assert_eq!(pace.rest(now), pause);
            now += pause.unwrap_or_default();
            pauses.push(pause.unwrap_or_default().as_secs());
        }
        assert_eq!(pauses[..7], [0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(pauses[15], 300);
        // An installer that only started anew.
        assert_eq!(pace.put(now + PEACE), None);
        assert_eq!(pace.rest(now + PEACE), None);
    }
}
