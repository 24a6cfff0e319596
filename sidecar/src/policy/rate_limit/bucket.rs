//! What each key has used: exact, shared by all workers, bounded.
//!
//! A bucket is the instant at which nothing of it is used any more (a generic cell rate algorithm):
//! what is used drains at the limit's rate, and a request is let through if with it no more than the
//! burst is used. Instants are kept in nanoseconds and whole parts of one, `1/requests` each, so that
//! nothing is rounded: in any span no more passes than the burst and what the rate gives for the span,
//! and whoever asks steadily gets all of it.
//!
//! A bucket that is unused is the same as none, so that dropping it changes nothing. Buckets stand in
//! shards, each under a lock that is held for one look. A shard that is full of used ones counts all
//! keys that it has no place for in one spare bucket, and lets a key begin with what that has used
//! when there is a place for it again: however many keys come, none passes more than its limit, and
//! the memory is bounded.
//!
//! When the rate is another one, every bucket is looked at once ([`Buckets::rescale`]): who had used up
//! half of the burst has used up half of the new one.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Locks that workers hardly ever meet at.
const SHARDS: usize = 16;
/// What a table of twice as many places holds without growing (32 bytes each, and one for control).
const KEYS_IN_SHARD: usize = 3_584;
/// How many keys of one limit are counted on their own: some 2.2 MB of memory.
pub const MAX_KEYS: usize = SHARDS * KEYS_IN_SHARD;
/// From one search of a full shard for unused buckets to the next, in nanoseconds.
const BETWEEN_SEARCHES: u64 = 10_000_000;

/// How fast a bucket drains, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How much drains in each span; at least 1.
    pub requests: u32,
    /// The span, in nanoseconds; at least 1.
    pub per: u64,
    /// How much it holds; at least 1.
    pub burst: u32,
}

/// Where a bucket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// How much more could pass now.
    pub left: u64,
    /// When nothing is used any more, if nothing comes.
    pub unused_in: Duration,
}

/// Why something does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch {
    /// After which time it would, if nothing else came; `None` for more than the bucket holds.
    pub wait: Option<Duration>,
    /// Where the bucket stands.
    pub level: Level,
}

/// When nothing is used: in nanoseconds, and parts of one.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    nanos: u64,
    /// Less than the rate's `requests`.
    parts: u32,
    /// In which time the whole of it drains, by the rate that it was last taken at ([`Rate::full`]).
    full: f32,
}

/// A key, of which nobody who does not know this process can find a second one that is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

/// The buckets of one limit.
#[derive(Debug)]
pub struct Buckets {
    shards: [Mutex<Shard>; SHARDS],
    hash: [RandomState; 2],
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Shard {
    buckets: HashMap<u128, Bucket, BuildHasherDefault<Hashed>>,
    /// For keys that have no place.
    spare: Bucket,
    /// When it was searched for unused ones, in nanoseconds.
    searched: u64,
}

/// Keys are hashes already.
#[derive(Debug, Default)]
pub struct Hashed(u64);

// === impl Rate ===

impl Rate {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence.
    pub fn build(requests: u32, per_ms: u64, burst: u32) -> Result<Self, String> {
        let per = per_ms.checked_mul(1_000_000).filter(|per| *per > 0);
        match per {
            Some(per) if requests > 0 && burst > 0 => {
                let rate = Self {
                    requests,
                    per,
                    burst,
                };
                // Instants up to which so much is used have room for it.
                match rate.holds() / u128::from(requests) <= u128::from(u64::MAX / 2) {
                    true => Ok(rate),
                    false => Err(format!(
                        "{burst} at once would not be there again in 290 years: {requests} in {per_ms} ms"
                    )),
                }
            }
            _ => Err(format!(
                "{requests} in {per_ms} ms, and {burst} at once: nothing would pass, or for ever"
            )),
        }
    }

    /// The span, if it is whole seconds.
    pub fn seconds(self) -> Option<u64> {
        let whole = self.per.is_multiple_of(1_000_000_000);
        whole.then_some(self.per / 1_000_000_000)
    }

    fn holds(self) -> u128 {
        u128::from(self.burst) * u128::from(self.per)
    }

    /// In which time all that it holds drains, in nanoseconds: enough to tell which rate it is of.
    fn full(self) -> f32 {
        self.burst as f32 * self.per as f32 / self.requests as f32
    }

    fn of(self, cost: u64) -> u128 {
        u128::from(cost) * u128::from(self.per)
    }

    /// The time that so much takes to drain, not less.
    fn drains(self, used: u128) -> Duration {
        let nanos = used.div_ceil(u128::from(self.requests));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn level(self, used: u128) -> Level {
        let left = self.holds().saturating_sub(used) / u128::from(self.per);
        Level {
            left: u64::try_from(left).unwrap_or(u64::MAX),
            unused_in: self.drains(used),
        }
    }
}

// === impl Bucket ===

impl Bucket {
    /// How much is used at an instant, in parts of the nanoseconds that it takes to drain.
    fn used(self, rate: Rate, now: u64) -> u128 {
        let parts = u128::from(self.nanos) * u128::from(rate.requests) + u128::from(self.parts);
        parts.saturating_sub(u128::from(now) * u128::from(rate.requests))
    }

    fn at(rate: Rate, now: u64, used: u128) -> Self {
        let requests = u128::from(rate.requests);
        let parts = u128::from(now) * requests + used;
        Self {
            nanos: u64::try_from(parts / requests).unwrap_or(u64::MAX),
            parts: u32::try_from(parts % requests).unwrap_or_default(),
            full: rate.full(),
        }
    }

    /// What stands there when as large a part of the new rate's burst is used as was of the old one's.
    fn rescaled(self, (old, new): (Rate, Rate), now: u64) -> Self {
        let used = self.used(old, now);
        // Rounded up, and a little more where numbers have no room: nobody gains by an edit.
        let scaled = match used.checked_mul(new.holds()) {
            Some(product) => product.div_ceil(old.holds()),
            None => {
                let part = used as f64 / old.holds() as f64;
                (part * new.holds() as f64 * (1.0 + f64::EPSILON * 4.0)) as u128
            }
        };
        Self::at(new, now, scaled)
    }

    fn take(&mut self, rate: Rate, cost: u64, now: u64) -> Result<Level, TooMuch> {
        let used = self.used(rate, now);
        let (then, holds) = (used + rate.of(cost), rate.holds());
        if then > holds {
            return Err(TooMuch {
                wait: (rate.of(cost) <= holds).then(|| rate.drains(then - holds)),
                level: rate.level(used),
            });
        }
        *self = Self::at(rate, now, then);
        Ok(rate.level(then))
    }

    fn is_unused(self, now: u64) -> bool {
        self.nanos < now || self.nanos == now && self.parts == 0
    }
}

// === impl Shard ===

impl Shard {
    fn bucket(&mut self, key: Key, now: u64) -> &mut Bucket {
        let full = self.buckets.len() >= KEYS_IN_SHARD;
        if full && !self.buckets.contains_key(&key.0) {
            if now.saturating_sub(self.searched) >= BETWEEN_SEARCHES {
                self.searched = now;
                self.buckets.retain(|_, bucket| !bucket.is_unused(now));
            }
            if self.buckets.len() >= KEYS_IN_SHARD {
                return &mut self.spare;
            }
        }
        let begin = self.spare;
        self.buckets.entry(key.0).or_insert(begin)
    }
}

// === impl Buckets ===

impl Default for Buckets {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hash: [RandomState::new(), RandomState::new()],
            epoch: Instant::now(),
        }
    }
}

impl Buckets {
    /// The key of a text.
    pub fn key(&self, text: &[u8]) -> Key {
        let [low, high] = self.hash.each_ref().map(|state| state.hash_one(text));
        Key(u128::from(low) | u128::from(high) << 64)
    }

    /// The instant that counts, in nanoseconds.
    pub fn now(&self) -> u64 {
        let since = Instant::now().saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes so much if there is as much.
    ///
    /// # Errors
    /// That there is not, and when there will be.
    pub fn take(&self, key: Key, rate: Rate, cost: u64, now: u64) -> Result<Level, TooMuch> {
        self.shard(key, |shard| shard.bucket(key, now).take(rate, cost, now))
    }

    /// What [`take`](Self::take) would answer; takes nothing, and makes no bucket.
    ///
    /// # Errors
    /// As there.
    pub fn would(&self, key: Key, rate: Rate, cost: u64, now: u64) -> Result<Level, TooMuch> {
        self.shard(key, |shard| {
            let bucket = shard.buckets.get(&key.0);
            let mut bucket = bucket.copied().unwrap_or(shard.spare);
            bucket.take(rate, cost, now)
        })
    }

    /// As much as there is, up to `most`; answers how much that was, and if none when there will be
    /// some.
    pub fn take_some(&self, key: Key, rate: Rate, most: u64, now: u64) -> Result<u64, TooMuch> {
        self.shard(key, |shard| {
            let bucket = shard.bucket(key, now);
            let left = rate.level(bucket.used(rate, now)).left;
            let cost = left.min(most).max(1);
            bucket.take(rate, cost, now).map(|_| cost)
        })
    }

    /// Gives back what was taken for nothing at `since`, less what has drained since then: as much may
    /// have passed instead. Nothing goes back to the spare bucket, of which others have used too.
    pub fn give_back(&self, key: Key, rate: Rate, cost: u64, (since, now): (u64, u64)) {
        let drained = u128::from(now.saturating_sub(since)) * u128::from(rate.requests);
        let rest = rate.of(cost).saturating_sub(drained);
        self.shard(key, |shard| {
            // By an edit in between it may stand for something else.
            let bucket = shard.buckets.get_mut(&key.0);
            if let Some(bucket) = bucket.filter(|bucket| bucket.full == rate.full()) {
                let used = bucket.used(rate, now).saturating_sub(rest);
                *bucket = Bucket::at(rate, now, used);
            }
        });
    }

    /// The rates are others now, each instead of one before: of every key as large a part of its burst
    /// stays used. What stands at none of those before, and the spare buckets, stay used for as many
    /// times as long as the slowest of all.
    pub fn rescale(&self, rates: &[(Rate, Rate)], now: u64) {
        let times = |(old, new): &(Rate, Rate)| new.full() / old.full();
        let slower =
            |one: &&(Rate, Rate), other: &&(Rate, Rate)| times(one).total_cmp(&times(other));
        let Some(slowest) = rates.iter().max_by(slower) else {
            return;
        };
        let mut by_full: HashMap<u32, (Rate, Rate)> = HashMap::new();
        for one in rates {
            let known = by_full.entry(one.0.full().to_bits()).or_insert(*one);
            if times(one) > times(known) {
                *known = *one;
            }
        }
        let rescale = |bucket: &mut Bucket| {
            let rates = by_full.get(&bucket.full.to_bits()).unwrap_or(slowest);
            *bucket = bucket.rescaled(*rates, now);
        };
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.buckets.values_mut().for_each(rescale);
            let spare = &mut shard.spare;
            *spare = spare.rescaled(*slowest, now);
        }
    }

    /// After which time as much could be taken, whatever it holds.
    pub fn wait(&self, key: Key, rate: Rate, cost: u64, now: u64) -> Duration {
        self.shard(key, |shard| {
            let used = shard.bucket(key, now).used(rate, now);
            rate.drains((used + rate.of(cost)).saturating_sub(rate.holds()))
        })
    }

    /// How many keys are counted on their own.
    pub fn len(&self) -> usize {
        let shards = self.shards.iter();
        let lens = shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        lens.map(|shard| shard.buckets.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard<T>(&self, key: Key, look: impl FnOnce(&mut Shard) -> T) -> T {
        let place = (key.0 >> 64) as usize % SHARDS;
        let shard = self.shards.get(place).unwrap_or(&self.shards[0]);
        look(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Hashed ===

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests;
