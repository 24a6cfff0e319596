//! Who does what one sidecar alone does at a time ([`wire::grant`]): what was granted is kept in a [`Store`] before
//! anybody is told.
//!
//! Every replica grants. What it has read last it keeps in mind, so that of a hundred sidecars that claim the same
//! at one moment few cost a request to the store; what it writes in place of something older is refused there.

pub mod folder;
pub mod lease;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compiler::{Inputs, ObjectKey};
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wire::discovery::{Claim, Grant};
use wire::grant::{Decision, LIFE, Question, Record, decide};
use wire::mesh;

use crate::leader::Leader;

/// For how long what was read answers who asks for what another one has.
const FRESH: Duration = Duration::from_millis(500);
/// How often it is tried again when another replica was first.
const TRIES: usize = 5;
/// From one write of a record to the next, where they come one after the other for long.
const EVERY: Duration = Duration::from_millis(100);
/// How many may come at once.
const AT_ONCE: u32 = 20;
/// How often what nobody claims any more is removed.
const TIDY: Duration = Duration::from_secs(600);
/// The same, after the store could not be asked.
const TIDY_AGAIN: Duration = Duration::from_secs(10);

/// Keeps a record for each object, for one or several replicas.
pub trait Store: Send + Sync + 'static {
    /// What is kept of an object.
    fn read<'a>(&'a self, object: &'a ObjectKey)
    -> BoxFuture<'a, Result<Option<Kept>, StoreError>>;

    /// Keeps a record instead of the one of that version (`None`: of nothing), and says which version it is;
    /// `None` when another replica was first.
    fn write<'a>(
        &'a self,
        object: &'a ObjectKey,
        record: &'a Record,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, StoreError>>;

    /// Of which objects something is kept, and its version.
    fn all(&self) -> BoxFuture<'_, Result<Vec<(ObjectKey, String)>, StoreError>>;

    /// Removes what is kept of an object, unless it has changed since.
    fn remove<'a>(
        &'a self,
        object: &'a ObjectKey,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it says.
    pub record: Record,
    /// Another one after each write.
    pub version: String,
}

/// Why a store can't be used, for the person on call.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file's fault.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The API server's answer, or its absence.
    #[error("the Lease {name}: {error}")]
    Lease {
        /// Its name.
        name: String,
        /// Why.
        error: Box<kube::Error>,
    },
    /// It is there, and says nothing that can be read.
    #[error("{0}")]
    Unreadable(String),
}

/// Grants claims.
pub struct Claims {
    store: Box<dyn Store>,
    known: Mutex<HashMap<ObjectKey, Arc<tokio::sync::Mutex<Known>>>>,
}

/// Who claims what.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// What is claimed.
    pub object: ObjectKey,
    /// The pod, as its certificate proves.
    pub pod: String,
    /// What was published of it.
    pub schedule: mesh::Schedule,
}

/// What this replica knows of a record.
#[derive(Default)]
struct Known {
    read: Option<Reading>,
    /// When as many writes may come at once as may at all.
    rested: Option<Instant>,
}

struct Reading {
    kept: Option<Kept>,
    /// When it was read, or written.
    at: Instant,
    /// Since when it is as it is.
    since: Instant,
}

// === impl Claims ===

impl Claims {
    /// With what keeps them.
    pub fn new(store: impl Store) -> Arc<Claims> {
        Arc::new(Claims {
            store: Box::new(store),
            known: Mutex::default(),
        })
    }

    /// Decides about a claim; `None` when it can't be decided now, which the log says why.
    pub async fn claim(&self, claimant: &Claimant, claim: &Claim) -> Option<Grant> {
        let known = self.known(&claimant.object);
        let mut known = known.lock().await;
        match self.decided(&mut known, claimant, claim).await {
            Ok(grant) => grant,
            Err(why) => {
                known.read = None;
                tracing::warn!(subscription = %claimant.object, %why, "what is due can't be granted to anybody for now");
                None
            }
        }
    }

    async fn decided(
        &self,
        known: &mut Known,
        claimant: &Claimant,
        claim: &Claim,
    ) -> Result<Option<Grant>, StoreError> {
        let object = &claimant.object;
        let asked = Instant::now();
        for _ in 0..TRIES {
            let reading = match &known.read {
                Some(reading) => reading,
                None => &*known.read.insert(self.read(object, None).await?),
            };
            let question = Question {
                claim,
                pod: &claimant.pod,
                form: &claimant.schedule.form,
                since_ms: claimant.schedule.since_ms,
                now_ms: Timestamp::now().as_millisecond(),
                is_over: reading.since.elapsed() >= LIFE,
            };
            let kept = reading.kept.as_ref();
            match decide(kept.map(|kept| &kept.record), &question) {
                Decision::Answer(grant) if reading.answers(claim, asked) => return Ok(Some(grant)),
                Decision::Answer(_) => {
                    let before = known.read.take();
                    known.read = Some(self.read(object, before).await?);
                }
                Decision::Keep(record, grant) => {
                    let version = kept.map(|kept| kept.version.clone());
                    known.rest().await;
                    let written = self.store.write(object, &record, version.as_deref());
                    if let Some(version) = written.await? {
                        let now = Instant::now();
                        known.read = Some(Reading {
                            kept: Some(Kept { record, version }),
                            at: now,
                            since: now,
                        });
                        return Ok(Some(grant));
                    }
                    let before = known.read.take();
                    known.read = Some(self.read(object, before).await?);
                }
            }
        }
        Ok(None)
    }

    async fn read(
        &self,
        object: &ObjectKey,
        before: Option<Reading>,
    ) -> Result<Reading, StoreError> {
        let kept = self.store.read(object).await?;
        let now = Instant::now();
        let since = match before {
            Some(before) if before.kept == kept => before.since,
            _ => now,
        };
        Ok(Reading {
            kept,
            at: now,
            since,
        })
    }

    fn known(&self, object: &ObjectKey) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(object.clone()).or_default().clone()
    }

    /// Forgets objects that are no more, for as long as it is polled; the replica that leads removes what is kept of
    /// them, too.
    pub async fn tidy(
        self: Arc<Self>,
        mut leader: watch::Receiver<Leader>,
        mut world: watch::Receiver<Option<Arc<Inputs>>>,
    ) {
        loop {
            if world.wait_for(Option::is_some).await.is_err() {
                // It ends with the operator, not before.
                return std::future::pending().await;
            }
            let inputs = world.borrow().clone();
            let there = |object: &ObjectKey| {
                let inputs = inputs.as_ref();
                inputs.is_none_or(|inputs| inputs.event_subscriptions.contains_key(object))
            };
            self.forget_but(there);
            if !leader.borrow().is_us() {
                // Who leads from now on sees to it at once.
                let leads = async { leader.wait_for(Leader::is_us).await.is_ok() };
                if timeout(TIDY, leads).await == Ok(false) {
                    return std::future::pending().await;
                }
                continue;
            }
            match self.remove_but(there).await {
                Ok(()) => sleep(TIDY).await,
                Err(why) => {
                    tracing::warn!(%why, "what is kept of EventSubscriptions that are gone can't be removed; trying again in {TIDY_AGAIN:?}");
                    sleep(TIDY_AGAIN).await;
                }
            }
        }
    }

    fn forget_but(&self, there: impl Fn(&ObjectKey) -> bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|object, known| there(object) || Arc::strong_count(known) > 1);
    }

    async fn remove_but(&self, there: impl Fn(&ObjectKey) -> bool) -> Result<(), StoreError> {
        for (object, version) in self.store.all().await? {
            if !there(&object) {
                self.store.remove(&object, &version).await?;
                tracing::info!(subscription = %object, "is gone, and so is what was kept of it");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").finish_non_exhaustive()
    }
}

// === impl Reading ===

impl Reading {
    /// Whether it is new enough to refuse a claim, that was made at `asked`.
    fn answers(&self, claim: &Claim, asked: Instant) -> bool {
        // What was begun and done once is so for ever; whoever has something in hand may die.
        let idle = self.kept.as_ref().map(|kept| &kept.record);
        let idle = idle.filter(|record| record.holder.is_none());
        let begun = idle.map(|record| record.begun_ms);
        let has_begun = claim.begin_ms.is_some_and(|due| begun >= Some(due));
        match claim.token {
            0 => has_begun || self.at.elapsed() < FRESH,
            // Who holds it is not told otherwise because it has come from another replica.
            _ => self.at >= asked,
        }
    }
}

// === impl Known ===

impl Known {
    /// Waits until it may be written again: whatever sidecars say, a store is not flooded.
    async fn rest(&mut self) {
        let now = Instant::now();
        let rested = self.rested.map_or(now, |rested| rested.max(now)) + EVERY;
        self.rested = Some(rested);
        if let Some(due) = rested.checked_sub(EVERY * AT_ONCE) {
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
