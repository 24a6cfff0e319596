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

/// How long an endpoint of which nothing is known must have been waited for in vain, to be known for
/// it. Most answers have come by then.
const TELLING: Duration = Duration::from_millis(100);

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

    /// It failed after `took`, at `now`: slower than it was known to be, and never faster. Of one of
    /// which nothing is known, that it is as slow as one that can't be reached.
    pub fn failed(&self, took: Duration, now: Instant) {
        let known = self.0.get().map(|(average, _)| average);
        let known = known.unwrap_or(FAILED.as_secs_f64());
        self.0.set(Some((known.max(took.as_secs_f64()), now)));
    }

    /// Nobody has waited for its answer for longer than `took`, until `now`. Of one of which nothing
    /// is known, a short while says nothing: its caller may just have gone.
    pub fn given_up(&self, took: Duration, now: Instant) {
        let known = self.0.get().map(|(average, _)| average);
        if took.as_secs_f64() > known.unwrap_or(TELLING.as_secs_f64()) {
            self.0.set(Some((took.as_secs_f64(), now)));
        }
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

    #[tokio::test(start_paused = true)]
    async fn failures_and_answers_that_nobody_waited_for_never_make_an_endpoint_look_faster() {
        let (time, begun) = (AnswerTime::default(), Instant::now());
        let instantly = Duration::from_micros(500);
        time.given_up(instantly, begun);
        assert_eq!(time.at(begun), None, "nothing is learned of it");
        time.failed(instantly, begun);
        assert_eq!(time.at(begun), Some(FAILED.as_secs_f64()));

        let time = AnswerTime::default();
        time.observe(Duration::from_millis(20), begun);
        // However long it has been: one that only fails is never forgotten to have been slower.
        let later = begun + 10 * DECAY;
        time.failed(instantly, later);
        assert_eq!(time.at(later), Some(0.020));
        time.given_up(instantly, later);
        assert_eq!(time.at(later), Some(0.020));
        time.given_up(Duration::from_millis(300), later);
        assert_eq!(time.at(later), Some(0.300));
    }
}
