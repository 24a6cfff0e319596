//! Shutdown as a value you hold.
//!
//! A [`Drain`] is given to everything that has work under way. When it is told to begin, whoever
//! awaits [`Drain::begun`] finishes what it has and takes nothing new on; the process ends when
//! every [`Work`] has been dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// Told to begin once, never taken back. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    begun: watch::Receiver<bool>,
    under_way: Arc<UnderWay>,
}

/// The one that begins the drain.
#[derive(Debug)]
pub struct Trigger {
    begin: watch::Sender<bool>,
    under_way: Arc<UnderWay>,
}

/// Something under way, such as a connection. The process waits for it while it is held.
#[derive(Debug)]
pub struct Work(Arc<UnderWay>);

#[derive(Debug, Default)]
struct UnderWay {
    count: AtomicUsize,
    none_left: Notify,
}

/// A drain that has not begun, and what begins it.
pub fn new() -> (Trigger, Drain) {
    let (begin, begun) = watch::channel(false);
    let under_way = Arc::new(UnderWay::default());
    let trigger = Trigger {
        begin,
        under_way: under_way.clone(),
    };
    (trigger, Drain { begun, under_way })
}

// === impl Trigger ===

impl Trigger {
    /// Begins the drain; returns when nothing is under way any more.
    pub async fn begin(&self) {
        self.begin.send_replace(true);
        loop {
            let none_left = self.under_way.none_left.notified();
            if self.under_way.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none_left.await;
        }
    }

    /// How much is under way.
    pub fn under_way(&self) -> usize {
        self.under_way.count.load(Ordering::Acquire)
    }
}

// === impl Drain ===

impl Drain {
    /// Returns once the drain has begun, or its trigger is gone.
    pub async fn begun(&mut self) {
        // An error means that the trigger is gone: the process is ending, which is the same to us.
        let _ = self.begun.wait_for(|begun| *begun).await;
    }

    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Registers something under way.
    pub fn work(&self) -> Work {
        self.under_way.count.fetch_add(1, Ordering::AcqRel);
        Work(self.under_way.clone())
    }
}

// === impl Work ===

impl Drop for Work {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_ends_when_the_last_work_is_dropped() {
        let (trigger, mut drain) = new();
        let (first, second) = (drain.work(), drain.work());
        let draining = tokio::spawn(async move { trigger.begin().await });

        drain.begun().await;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!draining.is_finished());

        drop(second);
        draining.await.expect("the drain ends");
    }

    #[tokio::test]
    async fn a_drain_with_nothing_under_way_ends_at_once() {
        let (trigger, _drain) = new();
        trigger.begin().await;
    }
}
