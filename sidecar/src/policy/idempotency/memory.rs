//! What one sidecar holds: the calls under way, and without a store the answers that are kept.
//!
//! Bounded in bytes. Nothing makes way for anything: a key that was forgotten before its time would let
//! its call be carried out twice. So that one principal can't take all of it from the others, a key is
//! taken on only while what its principal holds is at most four times what is free.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Answer;
use super::key::{Fingerprint, Key, Principal};

/// What a key takes in memory beside its answer, in bytes.
const RECORD: u64 = 512;
/// A principal may hold so many times what is free.
const SHARE: u64 = 4;

/// What a sidecar holds.
#[derive(Debug, Default)]
pub struct Memory {
    kept: Mutex<Kept>,
    held: AtomicU64,
    most: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    records: HashMap<Key, Record>,
    /// When each ends.
    ends: BinaryHeap<Reverse<(Instant, Key)>>,
    /// What each principal holds, in bytes.
    shares: HashMap<Principal, u64>,
}

#[derive(Debug)]
struct Record {
    fingerprint: Fingerprint,
    principal: Principal,
    until: Instant,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Dropped when it is no longer, which wakes those who wait.
    UnderWay(watch::Sender<()>),
    Answered(Arc<Answer>),
    Unknown,
}

/// What a key is when a request comes with it.
#[derive(Debug)]
pub enum Claim {
    /// Nobody's: the request is the first.
    First(Ticket),
    /// Answered.
    Answered(Arc<Answer>),
    /// That of a call under way; ready when it no longer is.
    UnderWay(watch::Receiver<()>),
    /// That of a call whose answer is not kept.
    Unknown,
    /// Another request's.
    Other,
    /// Nobody's, and there is no room for it.
    Full,
}

/// The right to carry a call out. Dropped, what becomes of the call is not known.
#[derive(Debug)]
pub struct Ticket {
    memory: Arc<Memory>,
    key: Key,
    settled: bool,
}

/// Bytes in memory, given back when dropped.
#[derive(Debug)]
pub struct Room {
    memory: Arc<Memory>,
    bytes: u64,
}

// === impl Memory ===

impl Memory {
    /// Sets how many bytes it holds at most; what is kept stays, though it is more.
    pub fn holds_at_most(&self, bytes: u64) {
        self.most.store(bytes, Ordering::Relaxed);
    }

    /// How many keys are held, and how many bytes with all that is under way.
    pub fn size(&self) -> (usize, u64) {
        (self.kept().records.len(), self.held.load(Ordering::Relaxed))
    }

    /// How many bytes it holds at most.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Room for a call, none of it taken yet.
    pub fn room(self: &Arc<Self>) -> Room {
        Room {
            memory: self.clone(),
            bytes: 0,
        }
    }

    /// What a key is, which stands for its first call for `window` from now on.
    pub fn claim(
        self: &Arc<Self>,
        key: Key,
        fingerprint: Fingerprint,
        principal: Principal,
        window: Duration,
    ) -> Claim {
        let now = Instant::now();
        let mut kept = self.kept();
        self.sweep(&mut kept, now);
        if let Some(record) = kept.records.get(&key) {
            return match &record.state {
                _ if record.fingerprint != fingerprint => Claim::Other,
                State::UnderWay(call) => Claim::UnderWay(call.subscribe()),
                State::Answered(answer) => Claim::Answered(answer.clone()),
                State::Unknown => Claim::Unknown,
            };
        }
        let share = kept.shares.get(&principal).copied().unwrap_or_default() + RECORD;
        let most = self.most();
        let free = most.saturating_sub(self.held.load(Ordering::Relaxed) + RECORD);
        if share > free.saturating_mul(SHARE) || !self.take(RECORD) {
            return Claim::Full;
        }
        let until = now + window;
        kept.shares.insert(principal, share);
        kept.ends.push(Reverse((until, key)));
        let record = Record {
            fingerprint,
            principal,
            until,
            bytes: RECORD,
            state: State::UnderWay(watch::Sender::new(())),
        };
        kept.records.insert(key, record);
        Claim::First(Ticket {
            memory: self.clone(),
            key,
            settled: false,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what has ended; a call under way ends before its key does, or with it.
    fn sweep(&self, kept: &mut Kept, now: Instant) {
        while let Some(Reverse((until, key))) = kept.ends.peek().copied()
            && until <= now
        {
            kept.ends.pop();
            if let Entry::Occupied(record) = kept.records.entry(key)
                && record.get().until == until
                && !matches!(record.get().state, State::UnderWay(_))
            {
                let record = record.remove();
                self.forget(kept, &record);
            }
        }
    }

    fn forget(&self, kept: &mut Kept, record: &Record) {
        self.held.fetch_sub(record.bytes, Ordering::Relaxed);
        if let Entry::Occupied(mut share) = kept.shares.entry(record.principal) {
            *share.get_mut() = share.get().saturating_sub(record.bytes);
            if *share.get() == 0 {
                share.remove();
            }
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let most = self.most();
        let more = |held: u64| held.checked_add(bytes).filter(|held| *held <= most);
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    fn settle(&self, key: Key, answer: Option<Arc<Answer>>) -> bool {
        let mut kept = self.kept();
        let kept = &mut *kept;
        let Some(record) = kept.records.get_mut(&key) else {
            return false;
        };
        let bytes = answer.as_ref().map_or(0, |answer| answer.bytes());
        record.state = match answer.filter(|_| self.take(bytes)) {
            Some(answer) => {
                record.bytes += bytes;
                *kept.shares.entry(record.principal).or_default() += bytes;
                State::Answered(answer)
            }
            None => State::Unknown,
        };
        let stays = matches!(record.state, State::Answered(_));
        if record.until <= Instant::now()
            && let Some(record) = kept.records.remove(&key)
        {
            self.forget(kept, &record);
        }
        stays
    }
}

// === impl Ticket ===

impl Ticket {
    /// The call is answered. Returns whether the answer is kept: not where there is no room for it.
    pub fn answered(mut self, answer: Arc<Answer>) -> bool {
        self.settled = true;
        self.memory.settle(self.key, Some(answer))
    }

    /// The call was not carried out: the next request with the key is the first.
    pub fn release(mut self) {
        self.settled = true;
        let mut kept = self.memory.kept();
        if let Some(record) = kept.records.remove(&self.key) {
            self.memory.forget(&mut kept, &record);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.memory.settle(self.key, None);
        }
    }
}

// === impl Room ===

impl Room {
    /// Takes more; whether there is as much.
    pub fn more(&mut self, bytes: u64) -> bool {
        let taken = self.memory.take(bytes);
        self.bytes += if taken { bytes } else { 0 };
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
