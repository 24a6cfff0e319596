//! What may be used of a shared limit without asking its store.
//!
//! A lease is as large as what was used in the last second, within bounds, and is used for a second.
//! What is left of it then goes back with the next question, so that the store is not told of more
//! than was used.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::bucket::{Key, Level};

/// How long a lease is used, in nanoseconds.
pub const LIFE: u64 = 1_000_000_000;
/// How many keys of one limit have one.
const LEASES: usize = 4_096;
/// From one search for unused ones to the next, in nanoseconds.
const BETWEEN_SEARCHES: u64 = 10_000_000;
/// The least that is worth one.
pub const LEAST: u64 = 2;

/// What may be used without asking, by key.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    by_key: HashMap<Key, Lease>,
    /// When it was searched for unused ones.
    searched: u64,
}

/// Times are in nanoseconds, where nothing else is said.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// Where the key stands with it; `None` when there is none.
    level: Option<Level>,
    left: u64,
    until: u64,
    /// When it was given, by the store's clock, in microseconds.
    since: u64,
    /// Until when somebody asks for one: two at once would be more than may be.
    asked: u64,
    /// When the second began that is counted.
    begun: u64,
    /// How much was used in it, and in the one before.
    used: u64,
    before: u64,
}

/// What a store is asked for besides what a request costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// So much may be used without asking.
    pub lease: u64,
    /// So much of the last lease was not used.
    pub back: u64,
    /// When that was given, by the store's clock, in microseconds.
    pub since: u64,
}

// === impl Lease ===

impl Lease {
    /// Counts what is used.
    fn uses(&mut self, cost: u64, now: u64) {
        let since = now.saturating_sub(self.begun);
        if since >= LIFE {
            self.before = if since < 2 * LIFE { self.used } else { 0 };
            (self.begun, self.used) = (now, 0);
        }
        self.used = self.used.saturating_add(cost);
    }

    fn has(&self, cost: u64, now: u64) -> bool {
        self.level.is_some() && self.until > now && self.left >= cost
    }

    fn is_unused(&self, now: u64) -> bool {
        now.saturating_sub(self.begun) >= 2 * LIFE && self.until <= now
    }
}

// === impl Leases ===

impl Leases {
    /// Uses so much of what may be used without asking.
    pub fn take(&self, key: Key, cost: u64, now: u64) -> Option<Level> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = held.by_key.get_mut(&key)?;
        if !lease.has(cost, now) {
            return None;
        }
        lease.uses(cost, now);
        lease.left -= cost;
        let level = lease.level.as_mut()?;
        level.left = level.left.saturating_sub(cost);
        Some(*level)
    }

    /// It was not used after all.
    pub fn give_back(&self, key: Key, cost: u64) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = held.by_key.get_mut(&key)
            && let Some(level) = &mut lease.level
        {
            lease.left += cost;
            level.left += cost;
            lease.used = lease.used.saturating_sub(cost);
        }
    }

    /// What a store that is asked for `cost` is asked for besides.
    pub fn wish(&self, key: Key, cost: u64, most: u64, now: u64) -> Wish {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = &mut *held;
        if held.by_key.len() >= LEASES && !held.by_key.contains_key(&key) {
            if now.saturating_sub(held.searched) >= BETWEEN_SEARCHES {
                held.searched = now;
                held.by_key.retain(|_, lease| !lease.is_unused(now));
            }
            if held.by_key.len() >= LEASES {
                return Wish::default();
            }
        }
        let lease = held.by_key.entry(key).or_default();
        lease.uses(0, now);
        let wanted = most.min(lease.used.max(lease.before));
        lease.uses(cost, now);
        // Another limit of the request lacks one.
        if lease.asked > now || lease.has(cost, now) {
            return Wish::default();
        }
        let back = match lease.level.take() {
            Some(_) => std::mem::take(&mut lease.left),
            None => 0,
        };
        let wanted = if wanted >= LEAST { wanted } else { 0 };
        if wanted > 0 {
            lease.asked = now.saturating_add(LIFE);
        }
        Wish {
            lease: wanted,
            back,
            since: lease.since,
        }
    }

    /// So much may be used without asking, from when the store's clock said; or nothing.
    pub fn give(&self, key: Key, more: u64, (level, since): (Option<Level>, u64), now: u64) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = held.by_key.get_mut(&key) else {
            return;
        };
        lease.asked = 0;
        if more > 0 && level.is_some() {
            lease.left = more;
            lease.until = now.saturating_add(LIFE);
            (lease.level, lease.since) = (level, since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rate_limit::bucket::Buckets;
    use std::time::Duration;

    const LEVEL: Level = Level {
        left: 100,
        unused_in: Duration::from_secs(1),
    };

    fn wish(lease: u64, back: u64, since: u64) -> Wish {
        Wish { lease, back, since }
    }

    /// One that has used so much in the second from 0 on.
    fn used(count: u64) -> (Leases, Key) {
        let (leases, key) = (Leases::default(), Buckets::default().key(b"a"));
        assert_eq!(leases.wish(key, count, 0, 0), wish(0, 0, 0));
        (leases, key)
    }

    #[test]
    fn a_lease_is_used_until_it_is_spent_or_over_and_the_rest_goes_back() {
        let (leases, key) = used(3);
        assert_eq!(leases.take(key, 1, 0), None);
        assert_eq!(leases.wish(key, 1, 20, 0), wish(3, 0, 0));
        assert_eq!(
            leases.wish(key, 1, 20, 0),
            wish(0, 0, 0),
            "somebody asks already"
        );
        leases.give(key, 3, (Some(LEVEL), 7), 0);
        assert_eq!(leases.take(key, 1, 1).unwrap().left, 99);
        assert_eq!(leases.wish(key, 1, 20, 1), wish(0, 0, 0), "there is one");
        assert_eq!(leases.take(key, 1, LIFE - 1).unwrap().left, 98);
        assert_eq!(leases.take(key, 2, LIFE - 1), None, "more than is left");
        assert_eq!(leases.take(key, 1, LIFE), None, "over");
        let asked = leases.wish(key, 1, 5, LIFE);
        assert_eq!(asked, wish(5, 1, 7));
        leases.give(key, 0, (None, 0), LIFE);
        assert_eq!(leases.wish(key, 1, 5, LIFE), wish(5, 0, 7));
    }

    #[test]
    fn a_lease_is_as_large_as_what_was_used_in_the_last_second() {
        let (leases, key) = used(1);
        assert_eq!(leases.wish(key, 1, 64, 0).lease, 0, "not worth one");
        assert_eq!(leases.wish(key, 8, 64, LIFE - 1).lease, 2);
        leases.give(key, 0, (None, 0), LIFE - 1);
        assert_eq!(leases.wish(key, 1, 64, LIFE).lease, 10);
        leases.give(key, 0, (None, 0), LIFE);
        assert_eq!(leases.wish(key, 1, 64, 3 * LIFE).lease, 0, "long ago");
        assert_eq!(leases.wish(key, 90, 64, 3 * LIFE).lease, 0);
        assert_eq!(leases.wish(key, 1, 64, 3 * LIFE).lease, 64, "at most");
    }

    #[test]
    fn however_many_keys_come_their_leases_are_bounded() {
        let (leases, buckets) = (Leases::default(), Buckets::default());
        for number in 0u32..10_000 {
            leases.wish(buckets.key(&number.to_be_bytes()), 1, 64, 0);
        }
        assert_eq!(leases.0.lock().unwrap().by_key.len(), LEASES);
        let late = buckets.key(b"late");
        leases.wish(late, 5, 64, 2 * LIFE);
        assert_eq!(leases.wish(late, 1, 64, 2 * LIFE).lease, 5);
    }
}
