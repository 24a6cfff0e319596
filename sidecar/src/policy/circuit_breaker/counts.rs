//! Answers of the last while, and failures among them, counted exactly by all workers: a ring of buckets.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::time::Instant;

/// Buckets that the window is counted in.
pub(super) const BUCKETS: usize = 10;

/// The most answers that a bucket counts: 20 bits. At a window of a minute, that is 170 000 a second.
const MOST: u64 = (1 << 20) - 1;

/// What is counted of one endpoint.
#[derive(Debug)]
pub(super) struct Counts {
    began: Instant,
    /// How long a bucket is, 0 before any has been filled.
    bucket_ms: AtomicU32,
    /// In each, when it is from, answers, and failures among them: 24 bits, 20 and 20.
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            bucket_ms: AtomicU32::new(0),
            buckets: Default::default(),
        }
    }
}

impl Counts {
    /// Whether anything has ever been counted.
    pub(super) fn are_used(&self) -> bool {
        self.bucket_ms.load(Ordering::Relaxed) != 0
    }

    /// Forgets everything.
    pub(super) fn begin_anew(&self, bucket_ms: u32) {
        self.bucket_ms.store(bucket_ms, Ordering::Relaxed);
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }

    /// Another answer; where buckets have another length than before, it is the first.
    pub(super) fn add(&self, bucket_ms: u32, failed: bool) {
        if self.bucket_ms.load(Ordering::Relaxed) != bucket_ms {
            self.begin_anew(bucket_ms);
        }
        let now = self.now(bucket_ms);
        let bucket = &self.buckets[(now % BUCKETS as u64) as usize];
        let mut held = bucket.load(Ordering::Relaxed);
        loop {
            let (from, all, bad) = parts(held);
            let (all, bad) = if from == now { (all, bad) } else { (0, 0) };
            let bad = bad + u64::from(failed);
            let new = joined(now, (all + 1).min(MOST), bad.min(MOST));
            match bucket.compare_exchange_weak(held, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => held = now,
            }
        }
    }

    /// Answers in the window, and failures among them.
    pub(super) fn recent(&self, bucket_ms: u32) -> (u64, u64) {
        let now = self.now(bucket_ms);
        let recent = self.buckets.iter().filter_map(|bucket| {
            let (from, all, bad) = parts(bucket.load(Ordering::Relaxed));
            let is_recent = from != 0 && from <= now && now - from < BUCKETS as u64;
            is_recent.then_some((all, bad))
        });
        recent.fold((0, 0), |sum, (all, bad)| (sum.0 + all, sum.1 + bad))
    }

    /// Counts buckets from 1: what is 0 has never been filled.
    fn now(&self, bucket_ms: u32) -> u64 {
        let since = self.began.elapsed().as_millis() / u128::from(bucket_ms.max(1)) + 1;
        u64::try_from(since).unwrap_or(u64::MAX) & ((1 << 24) - 1)
    }
}

fn parts(held: u64) -> (u64, u64, u64) {
    (held >> 40, (held >> 20) & MOST, held & MOST)
}

fn joined(from: u64, all: u64, bad: u64) -> u64 {
    from << 40 | all << 20 | bad
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::time::advance;

    proptest! {
        /// The ring counts what a list of all answers would.
        #[test]
        fn the_window_is_counted_exactly(
            steps in proptest::collection::vec((0..3000u64, any::<bool>()), 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let counts = Counts::default();
                let mut all: Vec<(u64, bool)> = Vec::new();
                for (pause, failed) in steps {
                    advance(Duration::from_millis(pause)).await;
                    counts.add(1000, failed);
                    let now = counts.now(1000);
                    all.push((now, failed));
                    let recent = all.iter().filter(|(from, _)| now - from < 10);
                    let expected = recent.fold((0, 0), |(all, bad), (_, failed)| {
                        (all + 1, bad + u64::from(*failed))
                    });
                    assert_eq!(counts.recent(1000), expected);
                }
            });
        }
    }
}
