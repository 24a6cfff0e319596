//! Where answers are kept: bounded in bytes and number, shared by the workers of a sidecar.
//!
//! What an unsafe request makes worthless is not looked for: each fetch has a number, and what was
//! fetched before its path was touched last is as good as gone. That takes the same time however much
//! is kept, and holds for a fetch that was under way, too.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::HeaderMap;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tokio::time::Instant;

use super::entry::Entry;
use super::flight::{Flights, Wanted};
use super::key::Key;

/// Answers of one key that their `Vary` tells apart.
const MAX_VARIANTS: usize = 16;

/// Paths that are told apart when one was touched; others of the same place are asked for once more.
const PLACES: usize = 1024;

/// For how long it is remembered that answers of a key are not kept.
const UNFIT_SECONDS: u64 = 10;

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of all answers.
    pub bytes: u64,
    /// Answers.
    pub entries: u32,
}

/// What is kept.
pub struct Store {
    bounds: Bounds,
    kept: Cache<Key, Arc<Variants>, Weight>,
    /// Held while what is kept of a key is replaced by what depends on it.
    changing: Mutex<()>,
    /// Fetches and touches, counted together.
    count: AtomicU64,
    /// When the paths of a place were touched last.
    touched: Box<[AtomicU64]>,
    /// Until when the answers of a place's keys are known not to be kept, and whose they are.
    unfit: Box<[AtomicU64]>,
    /// No fetch that began before this is kept.
    floor: AtomicU64,
    /// Bytes of bodies in memory: kept, coming, or still read by somebody.
    held: AtomicU64,
    begun: Instant,
    hasher: RandomState,
    /// What is being fetched.
    pub(super) flights: Flights,
}

/// The answers of one key, the newest first.
#[derive(Debug)]
pub struct Variants(Vec<Arc<Entry>>);

#[derive(Clone, Debug)]
struct Weight {
    /// What an answer weighs at least: so many of them are all there may be.
    least: u64,
}

/// What there is of a request.
#[derive(Clone, Debug)]
pub enum Found {
    /// An answer.
    Entry(Arc<Entry>),
    /// Answers to others, which have other headers.
    Others,
    /// Nothing.
    Nothing,
}

/// Bytes of a body in memory, given back when dropped.
#[derive(Debug)]
pub struct Room {
    store: Arc<Store>,
    bytes: u64,
}

impl Weighter<Key, Arc<Variants>> for Weight {
    fn weight(&self, key: &Key, variants: &Arc<Variants>) -> u64 {
        let all = variants.0.iter();
        all.map(|entry| self.of(key, entry)).sum::<u64>().max(1)
    }
}

impl Weight {
    fn of(&self, key: &Key, entry: &Entry) -> u64 {
        let bytes = (entry.bytes() + key.len()) as u64;
        bytes.max(self.least)
    }
}

// === impl Store ===

impl Store {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        let entries = u64::from(bounds.entries.max(1));
        let weight = Weight {
            least: bounds.bytes.div_ceil(entries),
        };
        // One that is asked for often has about this many answers; the tables grow with it.
        let estimated = usize::try_from(entries.min(bounds.bytes / 4096)).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            // One part: no answer may be too heavy for its part while the whole has room.
            .shards(1)
            .estimated_items_capacity(estimated)
            .weight_capacity(bounds.bytes)
            .build();
        let hasher = DefaultHashBuilder::default();
        let kept = match options {
            Ok(options) => {
                Cache::with_options(options, weight, hasher, DefaultLifecycle::default())
            }
            // Both that it asks for are there.
            Err(_) => Cache::with(
                estimated,
                bounds.bytes,
                weight,
                hasher,
                DefaultLifecycle::default(),
            ),
        };
        let places = || (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            bounds,
            kept,
            changing: Mutex::default(),
            count: AtomicU64::new(1),
            touched: places(),
            unfit: places(),
            floor: AtomicU64::new(0),
            held: AtomicU64::new(0),
            begun: Instant::now(),
            hasher: RandomState::new(),
            flights: Flights::default(),
        })
    }

    /// How much may be kept.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// How many keys have answers, and how many bytes they count for.
    pub fn size(&self) -> (usize, u64) {
        (self.kept.len(), self.kept.weight())
    }

    /// What there is for a request with these headers.
    pub fn find(&self, key: &Key, headers: &HeaderMap) -> Found {
        let Some(variants) = self.kept.get(key) else {
            return Found::Nothing;
        };
        let since = self.place(key.target(), &self.touched);
        let since = since.map_or(0, |touched| touched.load(Ordering::SeqCst));
        let mut valid = variants.0.iter().filter(|entry| entry.begun >= since);
        match valid.clone().find(|entry| entry.is_for(headers)) {
            Some(entry) => Found::Entry(entry.clone()),
            None if valid.next().is_some() => Found::Others,
            None => Found::Nothing,
        }
    }

    /// The number of a fetch that begins now.
    pub fn begin(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Keeps an answer; not one that was fetched before all was purged, nor in place of one whose fetch
    /// began later.
    pub fn keep(&self, key: &Key, entry: Entry) {
        let entry = Arc::new(entry);
        let begun = entry.begun;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.kept.peek(key);
        let now = Instant::now();
        let others = before.iter().flat_map(|before| &before.0);
        if others
            .clone()
            .any(|other| entry.replaces(other) && other.begun > begun)
        {
            return;
        }
        let others = others.filter(|other| !entry.replaces(other) && other.is_of_use(now));
        let mut left = self.bounds.bytes;
        let weight = Weight {
            least: self
                .bounds
                .bytes
                .div_ceil(u64::from(self.bounds.entries.max(1))),
        };
        let fits = |entry: &&Arc<Entry>| {
            let rest = left.checked_sub(weight.of(key, entry));
            rest.inspect(|rest| left = *rest).is_some()
        };
        let mut all = Vec::from_iter(std::iter::once(&entry).chain(others));
        all.sort_by_key(|entry| std::cmp::Reverse(entry.begun));
        let all = all.into_iter().take(MAX_VARIANTS);
        let variants = all.take_while(fits).cloned().collect::<Vec<_>>();
        if !variants.is_empty() {
            self.kept.insert(key.clone(), Arc::new(Variants(variants)));
        }
        if begun < self.floor.load(Ordering::SeqCst) {
            self.kept.remove(key);
        }
        let also = entry.is_for_all().then_some(true);
        for credentials in also.into_iter().chain([false]) {
            if let Some(unfit) = self.place(&self.whole(key, credentials), &self.unfit) {
                unfit.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Nothing is kept of a key, as a fetch with this number says; but what began later.
    pub fn forget(&self, key: &Key, begun: u64) {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = self.kept.peek(key) else {
            return;
        };
        let newer = before.0.iter().filter(|other| other.begun > begun);
        let newer = Vec::from_iter(newer.cloned());
        match newer.is_empty() {
            true => drop(self.kept.remove(key)),
            false => self.kept.insert(key.clone(), Arc::new(Variants(newer))),
        }
    }

    /// What was fetched of a path before now is worth nothing; `target` as [`Key::target`] has it.
    pub fn touch(&self, target: &[u8]) {
        let now = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(touched) = self.place(target, &self.touched) {
            touched.fetch_max(now, Ordering::SeqCst);
        }
    }

    /// Drops what is kept of paths that begin like this, of whole segments; and what is being fetched
    /// now is not kept. Answers how many keys had answers.
    pub fn purge(&self, prefix: &[u8]) -> usize {
        let now = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        self.floor.fetch_max(now, Ordering::SeqCst);
        let before = self.kept.len();
        let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
        self.kept.retain(|key, _| {
            let rest = key.path().strip_prefix(prefix);
            !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        });
        before.saturating_sub(self.kept.len())
    }

    /// Such answers are not kept, so nobody should wait for the next one.
    pub fn is_unfit(&self, wanted: &Wanted) {
        let whole = self.whole(&wanted.key, wanted.credentials);
        if let Some(unfit) = self.place(&whole, &self.unfit) {
            let until = self.begun.elapsed().as_secs() + UNFIT_SECONDS;
            unfit.store(self.mark(&whole, until), Ordering::Relaxed);
        }
    }

    /// Whether somebody should wait for such an answer that is being fetched.
    pub fn may_be_fit(&self, wanted: &Wanted) -> bool {
        let whole = self.whole(&wanted.key, wanted.credentials);
        let Some(unfit) = self.place(&whole, &self.unfit) else {
            return true;
        };
        let unfit = unfit.load(Ordering::Relaxed);
        let until = unfit & u64::from(u32::MAX);
        unfit != self.mark(&whole, until) || until < self.begun.elapsed().as_secs()
    }

    /// Room for a body, none of it taken yet.
    pub fn room(self: &Arc<Self>) -> Room {
        Room {
            store: self.clone(),
            bytes: 0,
        }
    }

    /// Half of a key's hash beside a time.
    fn mark(&self, whole: &[u8], until: u64) -> u64 {
        let half = self.hasher.hash_one(whole) & !u64::from(u32::MAX);
        half | until & u64::from(u32::MAX)
    }

    fn whole(&self, key: &Key, credentials: bool) -> [u8; 8] {
        self.hasher.hash_one((key, credentials)).to_le_bytes()
    }

    fn place<'p>(&self, text: &[u8], places: &'p [AtomicU64]) -> Option<&'p AtomicU64> {
        let hash = self.hasher.hash_one(text);
        places.get(usize::try_from(hash % PLACES as u64).unwrap_or_default())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("bounds", &self.bounds)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

// === impl Room ===

impl Room {
    /// Takes so much more; whether there is as much. What is kept, what comes, and what those who
    /// read slowly hold of what has gone is twice what may be kept: beyond that nothing more is.
    pub fn more(&mut self, bytes: u64) -> bool {
        let most = self.store.bounds.bytes.saturating_mul(2);
        let sum = self.store.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_add(bytes);
        sum.saturating_add(bytes) <= most
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.store.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
