//! Where objects come from: a folder or a cluster. Nothing downstream knows which.

pub mod cluster;
pub mod derive;
pub mod folder;
mod follow;
pub mod reading;
mod scan;
mod secrets;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use compiler::{Inputs, ObjectRef};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a source must be quiet before what it saw is compiled.
pub const QUIET: Duration = Duration::from_millis(100);
/// How long a source that is never quiet may be waited for: an edit is to be met within a second, and is compiled and
/// pushed after that.
pub const AT_MOST: Duration = Duration::from_millis(300);

/// A place that objects come from.
pub trait Source: Send + 'static {
    /// Waits until something changed and then was quiet for [`QUIET`] (at most [`AT_MOST`]), and
    /// returns everything there is. The first call returns as soon as everything was read once.
    /// `None`: the source has ended.
    ///
    /// An object that didn't change keeps its `Arc`, because the compiler memoises by pointer.
    /// Cancel safe: a change that wasn't returned is returned by the next call.
    fn changed(&mut self) -> impl Future<Output = Option<Seen>> + Send;
}

/// Everything a source has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The objects; `settings` are the reconciler's to fill in.
    pub inputs: Inputs,
    /// Where each object stands written; empty in a cluster.
    pub origins: Arc<BTreeMap<ObjectRef, Origin>>,
    /// What couldn't be read; empty in a cluster.
    pub problems: Arc<Vec<Problem>>,
    /// Objects of a cluster that this build can't read; their last good form is among the inputs.
    pub unreadable: usize,
}

/// Where an object stands written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, as it was reached from the folder that was given.
    pub file: PathBuf,
    /// The line that its document starts at, from 1.
    pub line: usize,
}

/// Something in a folder that couldn't be read; what was last read from there holds on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// The file or folder.
    pub file: PathBuf,
    /// From 1; absent when it isn't about one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What is wrong and what to do about it, in one sentence.
    pub message: String,
}

/// Tells a [`Settling`] that something changed; cheap, never blocks, may be called from any thread.
#[derive(Clone, Debug)]
pub(crate) struct Nudge(Arc<watch::Sender<u64>>);

/// Waits for nudges to stop.
#[derive(Debug)]
pub(crate) struct Settling(watch::Receiver<u64>);

// === impl Problem ===

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

// === impl Nudge ===

/// A pair: who nudges, and who waits for the nudges to settle.
pub(crate) fn nudge() -> (Nudge, Settling) {
    let (sender, receiver) = watch::channel(0);
    (Nudge(Arc::new(sender)), Settling(receiver))
}

impl Nudge {
    pub(crate) fn send(&self) {
        self.0.send_modify(|n| *n = n.wrapping_add(1));
    }
}

// === impl Settling ===

impl Settling {
    /// Waits for a nudge and then for quiet. `false`: nobody is left to nudge.
    ///
    /// Cancel safe: nudges seen by a cancelled wait are marked unseen again.
    pub(crate) async fn settled(&mut self) -> bool {
        // A clone does the waiting, so that a cancelled call has consumed nothing.
        let mut seen = self.0.clone();
        if seen.changed().await.is_err() {
            return false;
        }
        let last = Instant::now() + AT_MOST;
        while let Ok(Ok(Ok(()))) = timeout_at(last, timeout(QUIET, seen.changed())).await {}
        self.0 = seen;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Real time with generous bounds: pausing tokio's clock needs a feature that production
    // builds of the workspace would then carry too.
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_burst_of_changes_settles_once_it_has_been_quiet() {
        let (nudge, mut settling) = nudge();
        let start = Instant::now();
        for _ in 0..5 {
            nudge.send();
        }
        assert!(settling.settled().await);
        assert!(start.elapsed() >= QUIET);
        assert!(
            timeout(QUIET * 2, settling.settled()).await.is_err(),
            "one burst, one answer"
        );
    }

    #[tokio::test]
    async fn changes_without_end_are_not_waited_out() {
        let (nudge, mut settling) = nudge();
        let nudging = tokio::spawn(async move {
            loop {
                nudge.send();
                tokio::time::sleep(QUIET / 10).await;
            }
        });
        assert!(timeout(LONG, settling.settled()).await.is_ok());
        nudging.abort();
    }

    #[tokio::test]
    async fn a_cancelled_wait_forgets_nothing() {
        let (nudge, mut settling) = nudge();
        nudge.send();
        assert!(timeout(QUIET / 2, settling.settled()).await.is_err());
        assert_eq!(timeout(LONG, settling.settled()).await, Ok(true));
    }

    #[tokio::test]
    async fn it_ends_when_nobody_is_left_to_nudge() {
        let (nudge, mut settling) = nudge();
        drop(nudge);
        assert!(!settling.settled().await);
    }
}
