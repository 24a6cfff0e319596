//! How many places are free before a broker is asked for more.
//!
//! Where deliveries take little, places become free one by one within microseconds, and a question to a NATS for each costs a
//! sixth of what its event does. So half of the places are waited for, for a moment. Where that was in vain, since
//! deliveries take longer, nothing is waited for at the next questions: a free place would only lie idle.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

/// For how long places are waited for.
const MOMENT: Duration = Duration::from_millis(1);
/// At how many questions nothing is waited for after that was in vain.
const IN_VAIN: u32 = 16;

/// Whether it is worth the wait, of one subscription.
#[derive(Debug)]
pub(super) struct Gathering {
    /// How many places are enough.
    enough: usize,
    /// At how many questions nothing is waited for yet.
    passes: Cell<u32>,
}

// === impl Gathering ===

impl Gathering {
    /// Of so many places.
    pub(super) fn of(places: usize) -> Self {
        Self {
            enough: places / 2,
            passes: Cell::new(0),
        }
    }

    /// Begins a question; whether it is for so many at once, and nothing is waited for.
    pub(super) fn asks_at_once(&self, free: usize) -> bool {
        if free >= self.enough {
            return true;
        }
        let passes = self.passes.get();
        self.passes.set(passes.saturating_sub(1));
        passes > 0
    }

    /// Waits until enough are free, or a moment has passed.
    ///
    /// `freed` is told when another one is.
    pub(super) async fn wait(&self, free: impl Fn() -> usize, freed: &Notify) {
        let mut passed = pin!(sleep(MOMENT));
        while free() < self.enough {
            tokio::select! {
                biased;
                () = freed.notified() => {}
                () = &mut passed => return self.passes.set(IN_VAIN),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// For how long it is waited of ten places, of which one is free now and another one each time that this passes.
    async fn waited(gathering: &Gathering, each: Duration) -> Duration {
        let (free, freed) = (Cell::new(1), Notify::new());
        let begun = Instant::now();
        let places = async {
            loop {
                sleep(each).await;
                free.set(free.get() + 1);
                freed.notify_one();
            }
        };
        if !gathering.asks_at_once(free.get()) {
            tokio::select! {
                () = gathering.wait(|| free.get(), &freed) => {}
                () = places => {}
            }
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_of_the_places_is_waited_for_where_that_comes_at_once() {
        let gathering = Gathering::of(10);
        for _ in 0..3 {
            let waited = waited(&gathering, Duration::ZERO).await;
            assert!(waited < MOMENT, "{waited:?}");
            // It is not in vain.
            assert!(!gathering.asks_at_once(4));
        }
        assert!(gathering.asks_at_once(5));
        for few in [1, 2, 3] {
            assert!(Gathering::of(few).asks_at_once(1), "{few}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_is_waited_for_a_moment_and_then_not_for_long() {
        let gathering = Gathering::of(10);
        let long = Duration::from_millis(50);
        for _ in 0..2 {
            assert_eq!(waited(&gathering, long).await, MOMENT);
            for _ in 0..IN_VAIN {
                assert_eq!(waited(&gathering, long).await, Duration::ZERO);
            }
        }
    }
}
