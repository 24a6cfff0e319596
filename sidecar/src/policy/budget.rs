//! The budget of retries: how many more requests a sidecar sends to a destination than it is asked to.
//!
//! Phase: between attempts, in the caller's sidecar. From `RetryPolicy.budget`; without it, 20 for each
//! hundred requests and 10 a second. When it is spent, the client sees the failure that was not tried
//! again.
//!
//! What it bounds, exactly: of all retries and hedges that a sidecar ever sends to a destination, there
//! are at most `percent` of the requests that it was first asked to send there, and `minPerSecond` for
//! each second that it has run, and for one more. Each request allows its share of a retry, which can be
//! used once and until `window` has passed; what is used is taken from the oldest.
//!
//! It is one for all workers of a sidecar and all rules that send there. A request adds to one of a ring
//! of buckets, a tenth of a second each, which is one atomic; only who takes out of it takes a lock. It
//! outlives edits of its policy: what was allowed stays allowed, what was used stays used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use wire::mesh;

use crate::config::service::ServiceKey;

/// How long a bucket is.
const TENTH: Duration = Duration::from_millis(100);

/// The longest window, in buckets.
const LONGEST: u32 = 600;

/// Buckets of the ring: those of the longest window, and the one that is being filled.
const BUCKETS: usize = LONGEST as usize + 1;

/// What one retry takes, in the shares that `percent` counts.
const RETRY: u32 = 100;

/// How many retries are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// For each hundred requests.
    pub percent: u32,
    /// Each second, whatever is requested.
    pub min_per_second: u32,
    /// For how many buckets a request's share can be used.
    window: u32,
}

/// What is left of one destination's.
#[derive(Debug)]
pub struct Budget {
    began: Instant,
    /// In each, when it is from and how many shares are in it: 32 bits and 32.
    buckets: Box<[AtomicU64]>,
    taking: Mutex<Taking>,
}

#[derive(Debug)]
struct Taking {
    /// As far as `min_per_second` has been used: never more than a second ahead.
    used_until: Instant,
    /// What held last, for those who ask what is left.
    allowance: Allowance,
}

/// The budgets of all destinations, for all workers of a sidecar.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<ServiceKey, Weak<Budget>>>);

// === build ===

impl Default for Allowance {
    /// What holds without a policy.
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 10,
            window: 100,
        }
    }
}

impl Allowance {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Budget) -> Result<Self, String> {
        let window = u32::try_from(sent.window_ms / 100).unwrap_or(u32::MAX);
        if sent.percent > 100 {
            return Err(format!("{} is no percentage up to 100", sent.percent));
        }
        if sent.min_per_second > 10_000 {
            return Err("at most 10000 retries each second are possible".into());
        }
        if !(10..=LONGEST).contains(&window) {
            return Err("a window is 1 second to 1 minute".into());
        }
        Ok(Self {
            percent: sent.percent,
            min_per_second: sent.min_per_second,
            window,
        })
    }

    /// For how long a request's share can be used.
    pub fn window(&self) -> Duration {
        TENTH * self.window
    }
}

impl Budgets {
    /// The budget of a Service, for which `allowance` holds from now on. Those that nobody holds any
    /// more are forgotten.
    pub fn of(&self, service: &ServiceKey, allowance: Allowance) -> Arc<Budget> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = known.get(service).and_then(Weak::upgrade);
        let budget = budget.unwrap_or_else(|| {
            known.retain(|_, budget| budget.strong_count() > 0);
            let budget = Arc::new(Budget::new(Instant::now()));
            known.insert(service.clone(), Arc::downgrade(&budget));
            budget
        });
        budget.taking().allowance = allowance;
        budget
    }

    // === metrics ===

    /// How many retries each has left at the moment.
    pub fn left(&self, now: Instant) -> Vec<(ServiceKey, u64)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = known.iter().filter_map(|(key, budget)| {
            let budget = budget.upgrade()?;
            Some((key.clone(), budget.left(now)))
        });
        held.collect()
    }
}

// === request ===

impl Budget {
    fn new(began: Instant) -> Self {
        Self {
            began,
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            taking: Mutex::new(Taking {
                used_until: began,
                allowance: Allowance::default(),
            }),
        }
    }

    fn taking(&self) -> std::sync::MutexGuard<'_, Taking> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that is sent for the first time.
    pub fn requested(&self, allowance: &Allowance, now: Instant) {
        let tenth = self.tenth(now);
        let bucket = self.bucket(tenth);
        let mut held = bucket.load(Ordering::Relaxed);
        loop {
            let (from, shares) = parts(held);
            let shares = match from {
                from if from == tenth => shares.saturating_add(allowance.percent),
                // Another worker's clock was read later: the ring has gone round.
                from if from > tenth => return,
                _ => allowance.percent,
            };
            let new = joined(tenth, shares);
            match bucket.compare_exchange_weak(held, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => held = now,
            }
        }
    }

    /// Takes what one retry or hedge needs, if it is there.
    pub fn take(&self, allowance: &Allowance, now: Instant) -> bool {
        let mut taking = self.taking();
        if self.shares(allowance, now) >= u64::from(RETRY) {
            self.use_oldest(allowance, now);
            return true;
        }
        let Some(each) = Duration::from_secs(1).checked_div(allowance.min_per_second) else {
            return false;
        };
        let used_until = taking.used_until.max(now) + each;
        let free = used_until <= now + Duration::from_secs(1);
        if free {
            taking.used_until = used_until;
        }
        free
    }

    /// How many retries there could be at the moment.
    pub fn left(&self, now: Instant) -> u64 {
        let taking = self.taking();
        let Taking {
            used_until,
            allowance,
        } = &*taking;
        let used = used_until.saturating_duration_since(now).as_nanos();
        let free = 1_000_000_000_u128.saturating_sub(used);
        let of_each_second = free * u128::from(allowance.min_per_second) / 1_000_000_000;
        let of_each_second = u64::try_from(of_each_second).unwrap_or(u64::MAX);
        self.shares(allowance, now) / u64::from(RETRY) + of_each_second
    }

    /// Shares that can be used: only who holds the lock takes any, so that no fewer are there.
    fn shares(&self, allowance: &Allowance, now: Instant) -> u64 {
        let tenths = self.usable(allowance, now);
        let shares = tenths.map(
            |tenth| match parts(self.bucket(tenth).load(Ordering::Relaxed)) {
                (from, shares) if from == tenth => u64::from(shares),
                _ => 0,
            },
        );
        shares.sum()
    }

    fn use_oldest(&self, allowance: &Allowance, now: Instant) {
        let mut wanted = RETRY;
        for tenth in self.usable(allowance, now) {
            let bucket = self.bucket(tenth);
            let mut held = bucket.load(Ordering::Relaxed);
            loop {
                let (from, shares) = parts(held);
                if from != tenth || shares == 0 {
                    break;
                }
                let used = shares.min(wanted);
                let new = joined(tenth, shares - used);
                match bucket.compare_exchange_weak(held, new, Ordering::Relaxed, Ordering::Relaxed)
                {
                    Ok(_) => {
                        wanted -= used;
                        break;
                    }
                    Err(now) => held = now,
                }
            }
            if wanted == 0 {
                return;
            }
        }
    }

    /// The buckets whose shares can be used, the oldest first.
    fn usable(&self, allowance: &Allowance, now: Instant) -> std::ops::RangeInclusive<u32> {
        let tenth = self.tenth(now);
        tenth.saturating_sub(allowance.window).max(1)..=tenth
    }

    /// Counts tenths of a second from 1: what is 0 has never been filled.
    fn tenth(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.began);
        u32::try_from(since.as_millis() / TENTH.as_millis() + 1).unwrap_or(u32::MAX)
    }

    fn bucket(&self, tenth: u32) -> &AtomicU64 {
        &self.buckets[tenth as usize % BUCKETS]
    }
}

fn parts(held: u64) -> (u32, u32) {
    ((held >> 32) as u32, held as u32)
}

fn joined(tenth: u32, shares: u32) -> u64 {
    u64::from(tenth) << 32 | u64::from(shares)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowance(percent: u32, min_per_second: u32, window_ms: u64) -> Allowance {
        Allowance::build(mesh::Budget {
            percent,
            min_per_second,
            window_ms,
        })
        .unwrap()
    }

    fn taken(budget: &Budget, allowance: &Allowance, now: Instant) -> usize {
        (0..).take_while(|_| budget.take(allowance, now)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_can_be_sent_again_and_ten_each_second() {
        let (now, held) = (Instant::now(), Allowance::default());
        let budget = Budget::new(now);
        for _ in 0..1000 {
            budget.requested(&held, now);
        }
        assert_eq!(budget.left(now), 210);
        assert_eq!(taken(&budget, &held, now), 210);
        assert_eq!(budget.left(now), 0);
        let later = now + Duration::from_secs(1);
        assert_eq!(taken(&budget, &held, later), 10);
        let much_later = now + Duration::from_secs(100);
        assert_eq!(taken(&budget, &held, much_later), 10, "no more is saved");
    }

    #[test]
    fn what_a_request_allows_can_be_used_for_as_long_as_the_window_and_no_longer() {
        let (now, held) = (Instant::now(), allowance(100, 0, 10_000));
        for (after, left) in [(0, 1), (9_999, 1), (10_000, 1), (10_100, 0), (70_000, 0)] {
            let budget = Budget::new(now);
            budget.requested(&held, now);
            let later = now + Duration::from_millis(after);
            assert_eq!(taken(&budget, &held, later), left, "after {after} ms");
        }
    }

    #[test]
    fn what_is_used_is_the_oldest_and_an_edit_gives_nothing_back() {
        let (now, long, short) = (
            Instant::now(),
            allowance(50, 0, 60_000),
            allowance(50, 0, 1000),
        );
        let budget = Budget::new(now);
        for second in [0, 0, 5, 5] {
            budget.requested(&long, now + Duration::from_secs(second));
        }
        let later = now + Duration::from_secs(5);
        assert!(budget.take(&long, later));
        // Those of the beginning are used, so that those that are left are new.
        assert!(budget.take(&short, later));
        assert!(!budget.take(&long, later));
    }

    #[test]
    fn workers_that_count_and_take_at_once_lose_nothing_and_take_no_more() {
        let (now, held) = (Instant::now(), allowance(20, 0, 10_000));
        let budget = Budget::new(now);
        let taken = std::thread::scope(|scope| {
            let workers = [(); 4].map(|()| {
                scope.spawn(|| {
                    let mut taken = 0;
                    for _ in 0..10_000 {
                        budget.requested(&held, now);
                        taken += usize::from(budget.take(&held, now));
                    }
                    taken
                })
            });
            workers
                .map(|worker| worker.join().unwrap())
                .iter()
                .sum::<usize>()
        });
        assert_eq!(taken + self::taken(&budget, &held, now), 8_000);
    }

    #[test]
    fn budgets_are_by_destination_and_live_as_long_as_somebody_holds_them() {
        let (budgets, held) = (Budgets::default(), allowance(0, 1, 1000));
        let key = ServiceKey::new("shop", "orders");
        let budget = budgets.of(&key, held);
        assert!(budget.take(&held, Instant::now()));
        let edited = budgets.of(&key, allowance(0, 1, 2000));
        assert!(!edited.take(&held, Instant::now()), "it is the same one");
        let other = budgets.of(&ServiceKey::new("shop", "payments"), held);
        assert!(other.take(&held, Instant::now()));
        drop((budget, edited));
        assert!(budgets.of(&key, held).take(&held, Instant::now()));
        assert_eq!(budgets.left(Instant::now()).len(), 1);
    }

    #[test]
    fn what_means_nothing_is_rejected() {
        for (percent, min_per_second, window_ms) in [
            (101, 0, 1000),
            (0, 10_001, 1000),
            (0, 0, 999),
            (0, 0, 60_100),
        ] {
            let sent = mesh::Budget {
                percent,
                min_per_second,
                window_ms,
            };
            assert!(Allowance::build(sent).is_err(), "{sent:?}");
        }
    }

    proptest! {
        /// However requests and retries come: at no time were there more retries than `percent` of the
        /// requests so far, and `minPerSecond` for each second and one.
        #[test]
        fn there_are_never_more_retries_than_the_budget_says(
            percent in 0..=100u32,
            min_per_second in 0..=20u32,
            window in 1..=60u64,
            steps in proptest::collection::vec((0..3000u64, 0..20u64, 0..20usize), 1..60),
        ) {
            let held = allowance(percent, min_per_second, window * 1000);
            let began = Instant::now();
            let budget = Budget::new(began);
            let (mut now, mut requests, mut retries) = (began, 0, 0);
            for (pause, more, wanted) in steps {
                now += Duration::from_millis(pause);
                for _ in 0..more {
                    budget.requested(&held, now);
                }
                requests += more;
                retries += (0..wanted).filter(|_| budget.take(&held, now)).count() as u64;
                let seconds = (now - began).as_secs_f64() + 1.0;
                let floor = seconds * f64::from(min_per_second);
                let bound = (requests * u64::from(percent)) as f64 / 100.0 + floor;
                prop_assert!(retries as f64 <= bound, "{retries} of {requests}: {bound}");
            }
        }
    }
}
