//! Whether the workers follow what the control thread has published.
//!
//! What is acknowledged to the operator is enforced: a delta is acknowledged when every worker reads
//! the state that follows from it, not when it was built. And a sidecar is ready when its workers
//! are.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the control thread waits for its workers. They follow between two requests, within
/// microseconds; one that does not is stuck, and shall not take the control thread with it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far each worker is.
#[derive(Debug)]
pub struct Followers {
    workers: Mutex<Vec<Follower>>,
    moved: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Follower {
    /// The number of the state that it reads.
    state: u64,
    /// It has had a complete state and a certificate.
    ready: bool,
}

// === impl Followers ===

impl Followers {
    /// So many workers, none of which follows anything yet.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: Mutex::new(vec![Follower::default(); workers]),
            moved: Condvar::new(),
        }
    }

    /// A worker reads the state of this number from now on.
    pub fn follows(&self, worker: usize, state: u64) {
        if let Some(follower) = self.lock().get_mut(worker) {
            follower.state = state;
        }
        self.moved.notify_all();
    }

    /// A worker has all it needs for its first request.
    pub fn is_ready(&self, worker: usize) {
        if let Some(follower) = self.lock().get_mut(worker) {
            follower.ready = true;
        }
    }

    /// Whether all workers are ready.
    pub fn are_ready(&self) -> bool {
        self.lock().iter().all(|follower| follower.ready)
    }

    /// Blocks until every worker reads this state or a later one; false when one is stuck.
    pub fn wait_for(&self, state: u64) -> bool {
        let behind = |workers: &mut Vec<Follower>| workers.iter().any(|w| w.state < state);
        let waited = self.moved.wait_timeout_while(self.lock(), PATIENCE, behind);
        let (_workers, outcome) = waited.unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Follower>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_state_is_waited_for_until_the_last_worker_reads_it() {
        let followers = Arc::new(Followers::new(2));
        followers.follows(0, 7);
        let last = std::thread::spawn({
            let followers = followers.clone();
            move || followers.follows(1, 8)
        });
        assert!(followers.wait_for(7));
        last.join().unwrap();
        assert!(Followers::new(0).wait_for(1), "nobody to wait for");
    }

    #[test]
    fn all_are_ready_when_each_is() {
        let followers = Followers::new(2);
        followers.is_ready(1);
        assert!(!followers.are_ready());
        followers.is_ready(0);
        assert!(followers.are_ready());
    }
}
