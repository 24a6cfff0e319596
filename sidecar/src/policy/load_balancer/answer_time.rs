//! How long an endpoint takes to answer, as one worker has seen it: a peak-sensitive average that
//! decays with time.
//!
//! Source: Finagle's "Peak EWMA" (`com.twitter.finagle.loadbalancer`). A slower answer counts at
//! once and in full; faster ones are believed little by little, and so is silence: an endpoint that
//! was slow once is asked again when its peers are no better, without being polled.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// How fast the past is forgotten: after this long, two thirds of it. As Linkerd has it.
const DECAY: Duration = Duration::from_secs(10);

/// What counts as the time of an answer that did not come: an endpoint that cannot be connected to
/// must not look faster than one that answers.
pub const FAILED: Duration = Duration::from_secs(1);

/// The average, and when it was right. Nothing is known before the first answer.
#[derive(Debug, Default)]
pub struct AnswerTime(Cell<Option<(f64, Instant)>>);

// === impl AnswerTime ===

impl AnswerTime {
    /// An answer came after `took`, at `now`.
    pub fn observe(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let average = match self.0.get() {
            Some((average, at)) if took < average => {
                let kept = kept(at, now);
                average * kept + took * (1.0 - kept)
            }
            _ => took,
        };
        self.0.set(Some((average, now)));
    }

    /// In seconds, decayed until `now`; `None` when nothing is known.
    pub fn at(&self, now: Instant) -> Option<f64> {
        let (average, at) = self.0.get()?;
        Some(average * kept(at, now))
    }
}

/// The share of what was known at `at` that still counts at `now`.
fn kept(at: Instant, now: Instant) -> f64 {
    let passed = now.saturating_duration_since(at).as_secs_f64();
    (-passed / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slower_answer_counts_at_once_and_faster_ones_little_by_little() {
        let time = AnswerTime::default();
        let begun = Instant::now();
        assert_eq!(time.at(begun), None);
        time.observe(Duration::from_millis(10), begun);
        time.observe(Duration::from_millis(500), begun);
        assert_eq!(time.at(begun), Some(0.5));
        let later = begun + Duration::from_secs(1);
        time.observe(Duration::from_millis(10), later);
        let average = time.at(later).unwrap();
        assert!((0.45..0.46).contains(&average), "{average}");
        // And with time it is forgotten.
        let average = time.at(later + 3 * DECAY).unwrap();
        assert!(average < 0.023, "{average}");
    }
}
