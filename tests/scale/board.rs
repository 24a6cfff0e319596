//! What all ends together have been told: the board that a measurement looks at.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::Notify;
use tokio::time::timeout;
use wire::Resource;
use wire::delta::{Apply, Change, Rejected};

/// What is awaited: a resource that says so.
type Awaited = Arc<dyn Fn(&Resource) -> bool + Send + Sync>;

/// Counts the ends that have come as far as a measurement waits for.
#[derive(Default)]
pub(crate) struct Board {
    awaited: RwLock<Option<Awaited>>,
    there: AtomicUsize,
    moved: Notify,
}

/// What one end has been told.
pub(crate) struct Told {
    board: Arc<Board>,
    /// Connections that were tried.
    attempts: AtomicU64,
    /// Bytes within TLS.
    bytes: AtomicU64,
    /// Resources that came or went.
    changes: AtomicU64,
    /// Has come as far as is waited for, but has not said so to the operator.
    owes: AtomicBool,
    /// Has said so.
    there: AtomicBool,
}

/// Takes whatever comes.
pub(crate) struct Taking(pub(crate) Arc<Told>);

// === impl Board ===

impl Board {
    /// From now on ends count that have acknowledged a resource of which `awaited` is true.
    pub(crate) fn await_resource<'a>(
        &self,
        ends: impl IntoIterator<Item = &'a Told>,
        awaited: impl Fn(&Resource) -> bool + Send + Sync + 'static,
    ) {
        self.set(Some(Arc::new(awaited)), ends);
    }

    /// From now on ends count that have acknowledged a delta while they hold a complete set.
    pub(crate) fn await_complete<'a>(&self, ends: impl IntoIterator<Item = &'a Told>) {
        self.set(None, ends);
    }

    fn set<'a>(&self, awaited: Option<Awaited>, ends: impl IntoIterator<Item = &'a Told>) {
        *self.awaited.write().unwrap_or_else(PoisonError::into_inner) = awaited;
        for end in ends {
            end.owes.store(false, Relaxed);
            end.there.store(false, Relaxed);
        }
        self.there.store(0, Relaxed);
    }

    fn awaited(&self) -> Option<Awaited> {
        let awaited = self.awaited.read();
        awaited.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many ends are there.
    pub(crate) fn there(&self) -> usize {
        self.there.load(Relaxed)
    }

    /// Waits until so many ends are there.
    pub(crate) async fn until(&self, count: usize, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.there() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "after {limit:?} only {} of {count} ends are there",
                    self.there()
                );
            }
            // A notification between the look and the wait is kept.
            let _ = timeout(left, self.moved.notified()).await;
        }
        Ok(())
    }
}

// === impl Told ===

impl Told {
    pub(crate) fn new(board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self {
            board,
            attempts: AtomicU64::default(),
            bytes: AtomicU64::default(),
            changes: AtomicU64::default(),
            owes: AtomicBool::default(),
            there: AtomicBool::default(),
        })
    }

    /// How often it has called the operator.
    pub(crate) fn attempts(&self) -> u64 {
        self.attempts.load(Relaxed)
    }

    /// Bytes that it has received, within TLS.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Resources that came or went, replays not counted.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// It calls the operator.
    pub(crate) fn attempt(&self) {
        self.attempts.fetch_add(1, Relaxed);
    }

    /// So many bytes have come.
    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Something has been written to the operator. After what is awaited that is the Ack.
    pub(crate) fn sent(&self) {
        if self.owes.swap(false, Relaxed) && !self.there.swap(true, Relaxed) {
            self.board.there.fetch_add(1, Relaxed);
            self.board.moved.notify_one();
        }
    }

    /// A delta has been taken, and its Ack is due.
    pub(crate) fn taken(&self, complete: bool) {
        if complete && self.board.awaited().is_none() {
            self.owes.store(true, Relaxed);
        }
    }
}

// === impl Taking ===

impl Apply for Taking {
    fn apply(&mut self, changes: Vec<Change>) -> Vec<Rejected> {
        self.0.changes.fetch_add(changes.len() as u64, Relaxed);
        if let Some(awaited) = self.0.board.awaited() {
            let mut put = changes.iter().filter_map(|change| match change {
                Change::Put(resource) => Some(resource),
                Change::Remove(_) => None,
            });
            if put.any(|resource| awaited(resource)) {
                self.0.owes.store(true, Relaxed);
            }
        }
        Vec::new()
    }
}
