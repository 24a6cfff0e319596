//! Series of which there are at most so many, and which go when nothing happens to them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::labels::Coarser;

/// A series that has not changed for this long is dropped. A scraper that has seen it has its last
/// value by then; when it comes back it begins at zero, as after a restart.
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// One series. Workers hold it and count without looking it up.
#[derive(Debug)]
pub(super) struct Series<M> {
    /// What is counted.
    pub(super) metric: M,
    state: AtomicU8,
}

/// Something was counted since the last sweep.
const TOUCHED: u8 = 1;
/// It is rendered no more.
const DROPPED: u8 = 2;

/// All series of one metric, or of several with the same labels.
#[derive(Debug)]
pub(super) struct Bounded<L, M> {
    room: usize,
    make: fn() -> M,
    table: Mutex<HashMap<L, Entry<M>>>,
}

#[derive(Debug)]
struct Entry<M> {
    series: Arc<Series<M>>,
    /// When it was last found to have changed.
    since: Instant,
}

// === impl Series ===

impl<M> Series<M> {
    /// Counts; false when the series has been dropped, so that nobody will see it.
    pub(super) fn count(&self, count: impl FnOnce(&M)) -> bool {
        count(&self.metric);
        // Mostly it has been touched already: then nothing moves between workers for this.
        self.state.load(Ordering::Acquire) == TOUCHED
            || self.state.fetch_or(TOUCHED, Ordering::AcqRel) & DROPPED == 0
    }

    /// Whether nobody will see it.
    pub(super) fn is_dropped(&self) -> bool {
        self.state.load(Ordering::Acquire) & DROPPED != 0
    }
}

// === impl Bounded ===

impl<L: Clone + Eq + Hash + Coarser, M> Bounded<L, M> {
    /// Room for so many series with all labels, and a quarter more without their source.
    pub(super) fn new(room: usize, make: fn() -> M) -> Self {
        Self {
            room,
            make,
            table: Mutex::default(),
        }
    }

    /// The series that counts for these labels, and whether it counts for no others: where there
    /// is no room, it says less. Takes a lock; workers keep what they have found.
    pub(super) fn find(&self, labels: &L) -> (Arc<Series<M>>, bool) {
        let mut table = self.lock();
        if let Some(series) = self.within(self.room, &mut table, labels) {
            return (series, true);
        }
        let more = self.room + self.room / 4;
        if let Some(series) = self.within(more, &mut table, &labels.without_source()) {
            return (series, false);
        }
        // Of these there are few by themselves.
        let entry = table.entry(labels.without_names());
        let entry = entry.or_insert_with(|| Entry::new(self.make));
        (entry.series.clone(), false)
    }

    fn within(
        &self,
        room: usize,
        table: &mut HashMap<L, Entry<M>>,
        labels: &L,
    ) -> Option<Arc<Series<M>>> {
        if let Some(entry) = table.get(labels) {
            return Some(entry.series.clone());
        }
        if table.len() >= room {
            return None;
        }
        let entry = table.entry(labels.clone());
        let entry = entry.or_insert_with(|| Entry::new(self.make));
        Some(entry.series.clone())
    }

    /// Drops what has been idle.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|_, entry| {
            let state = &entry.series.state;
            if state.fetch_and(!TOUCHED, Ordering::AcqRel) & TOUCHED != 0 {
                entry.since = now;
                return true;
            }
            if now.saturating_duration_since(entry.since) < IDLE {
                return true;
            }
            // A worker that counts at this moment either keeps it here or finds it dropped there.
            let dropped = state.compare_exchange(0, DROPPED, Ordering::AcqRel, Ordering::Acquire);
            dropped.is_err()
        });
    }

    /// All series at this moment: whoever renders them holds no lock meanwhile.
    pub(super) fn all(&self) -> Vec<(L, Arc<Series<M>>)> {
        let table = self.lock();
        let all = table
            .iter()
            .map(|(labels, entry)| (labels.clone(), entry.series.clone()));
        all.collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<L, Entry<M>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl<M> Entry<M> {
    fn new(make: fn() -> M) -> Self {
        let series = Series {
            metric: make(),
            state: AtomicU8::new(0),
        };
        Self {
            series: Arc::new(series),
            since: Instant::now(),
        }
    }
}
