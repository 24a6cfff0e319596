//! What one sidecar holds: the calls under way, and without a store the answers that are kept.
//!
//! Bounded in bytes. Nothing makes way for anything: a key that was forgotten before its time would let
//! its call be carried out twice. So that one principal can't take all of it from the others, it gets
//! more only as long as what it holds is at most four times what is left free.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Answer;
use super::key::{Fingerprint, Key, Principal};

/// What a key takes in memory beside its answer, in bytes.
const RECORD: u64 = 512;
/// What is set aside for an answer before the call is made, in bytes, unless none may be as large.
const SET_ASIDE: u64 = 4 * 1024;
/// A principal may hold so many times what is free.
const SHARE: u64 = 4;

/// What a sidecar holds.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    records: HashMap<Key, Record>,
    /// When each ends that is not under way.
    ends: BTreeSet<(Instant, Key)>,
    /// What each principal holds, in bytes.
    shares: HashMap<Principal, u64>,
    /// What all hold.
    held: u64,
    /// How much there may be.
    most: u64,
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
    /// It is somebody's.
    Known(Known),
    /// Nobody's, and there is no room for it.
    Full,
}

/// What is known of a key.
#[derive(Debug)]
pub enum Known {
    /// It is answered.
    Answered(Arc<Answer>),
    /// That of a call under way; ready when it no longer is.
    UnderWay(watch::Receiver<()>),
    /// That of a call whose answer is not kept.
    Unknown,
    /// Another request's.
    Other,
}

/// The right to carry a call out. Dropped, what becomes of the call is not known.
#[derive(Debug)]
pub struct Ticket {
    memory: Arc<Memory>,
    key: Key,
    set_aside: u64,
    settled: bool,
}

/// Bytes in memory that a principal holds, given back when dropped.
#[derive(Debug)]
pub struct Room {
    memory: Arc<Memory>,
    principal: Principal,
    bytes: u64,
}

// === impl Memory ===

impl Memory {
    /// Sets how many bytes it holds at most; what is kept stays, though it is more.
    pub fn holds_at_most(&self, bytes: u64) {
        self.kept().most = bytes;
    }

    /// How many keys are held, and how many bytes with all that is under way.
    pub fn size(&self) -> (usize, u64) {
        let mut kept = self.kept();
        kept.sweep(Instant::now());
        (kept.records.len(), kept.held)
    }

    /// How many bytes it holds at most.
    pub fn most(&self) -> u64 {
        self.kept().most
    }

    /// Room for a principal, none of it taken yet.
    pub fn room(self: &Arc<Self>, principal: Principal) -> Room {
        Room {
            memory: self.clone(),
            principal,
            bytes: 0,
        }
    }

    /// Whether a key has been answered, or would be refused: nothing has to be held for its request.
    pub fn is_settled(&self, key: Key) -> bool {
        let mut kept = self.kept();
        kept.sweep(Instant::now());
        let record = kept.records.get(&key);
        record.is_some_and(|record| !matches!(record.state, State::UnderWay(_)))
    }

    /// What is known of a key, if anything is.
    pub fn known(&self, key: Key, fingerprint: Fingerprint) -> Option<Known> {
        let mut kept = self.kept();
        kept.sweep(Instant::now());
        kept.known(key, fingerprint)
    }

    /// What a key is, which stands for its first call for `window` from now on; an answer may have so
    /// many bytes.
    pub fn claim(
        self: &Arc<Self>,
        key: Key,
        fingerprint: Fingerprint,
        principal: Principal,
        window: Duration,
        max_answer_bytes: u64,
    ) -> Claim {
        let now = Instant::now();
        let mut kept = self.kept();
        kept.sweep(now);
        if let Some(known) = kept.known(key, fingerprint) {
            return Claim::Known(known);
        }
        let set_aside = max_answer_bytes.min(SET_ASIDE);
        if !kept.take(principal, RECORD + set_aside) {
            return Claim::Full;
        }
        let record = Record {
            fingerprint,
            principal,
            until: now + window,
            bytes: RECORD + set_aside,
            state: State::UnderWay(watch::Sender::new(())),
        };
        kept.records.insert(key, record);
        Claim::First(Ticket {
            memory: self.clone(),
            key,
            set_aside,
            settled: false,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Kept ===

impl Kept {
    fn known(&self, key: Key, fingerprint: Fingerprint) -> Option<Known> {
        let record = self.records.get(&key)?;
        Some(match &record.state {
            _ if record.fingerprint != fingerprint => Known::Other,
            State::UnderWay(call) => Known::UnderWay(call.subscribe()),
            State::Answered(answer) => Known::Answered(answer.clone()),
            State::Unknown => Known::Unknown,
        })
    }

    /// Forgets what has ended.
    fn sweep(&mut self, now: Instant) {
        while let Some(end) = self.ends.first().copied()
            && end.0 <= now
        {
            self.ends.remove(&end);
            self.forget(end.1);
        }
    }

    fn forget(&mut self, key: Key) {
        if let Some(record) = self.records.remove(&key) {
            self.ends.remove(&(record.until, key));
            self.give_back(record.principal, record.bytes);
        }
    }

    fn take(&mut self, principal: Principal, bytes: u64) -> bool {
        let free = self.most.checked_sub(self.held.saturating_add(bytes));
        let share = self.shares.get(&principal).copied().unwrap_or_default();
        let share = share.saturating_add(bytes);
        let fits = free.is_some_and(|free| share <= free.saturating_mul(SHARE));
        if fits && bytes > 0 {
            self.held += bytes;
            self.shares.insert(principal, share);
        }
        fits
    }

    fn give_back(&mut self, principal: Principal, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
        if let Entry::Occupied(mut share) = self.shares.entry(principal) {
            *share.get_mut() = share.get().saturating_sub(bytes);
            if *share.get() == 0 {
                share.remove();
            }
        }
    }

    /// The call of a key has ended; what it then takes, of which so much is held already.
    fn settle(&mut self, key: Key, state: State, takes: u64) {
        let Some(record) = self.records.get_mut(&key) else {
            return;
        };
        let (principal, more) = (record.principal, takes.saturating_sub(record.bytes));
        let less = record.bytes.saturating_sub(takes);
        (record.state, record.bytes) = (state, takes);
        self.ends.insert((record.until, key));
        // What is more than was set aside has been taken already, as room.
        self.held += more;
        *self.shares.entry(principal).or_default() += more;
        self.give_back(principal, less);
        self.sweep(Instant::now());
    }
}

// === impl Ticket ===

impl Ticket {
    /// What is set aside for the answer.
    pub fn set_aside(&self) -> u64 {
        self.set_aside
    }

    /// The call is answered, and the answer kept: what it has beyond what was set aside is in this room.
    pub fn answered(mut self, answer: Arc<Answer>, mut room: Room) {
        self.settled = true;
        let takes = RECORD + answer.bytes();
        let mut kept = self.memory.kept();
        kept.give_back(room.principal, std::mem::take(&mut room.bytes));
        kept.settle(self.key, State::Answered(answer), takes);
    }

    /// The call was not carried out: the next request with the key is the first.
    pub fn release(mut self) {
        self.settled = true;
        self.memory.kept().forget(self.key);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.settled {
            self.memory.kept().settle(self.key, State::Unknown, RECORD);
        }
    }
}

// === impl Room ===

impl Room {
    /// Takes what is lacking to so many bytes; whether there is as much.
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let mut kept = self.memory.kept();
        // What has ended is no reason to refuse anybody.
        kept.sweep(Instant::now());
        let taken = kept.take(self.principal, more);
        self.bytes += if taken { more } else { 0 };
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.kept().give_back(self.principal, self.bytes);
        }
    }
}
