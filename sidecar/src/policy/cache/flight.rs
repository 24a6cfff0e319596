//! One fetch for all who want the same at once.
//!
//! Who comes first fetches; who comes meanwhile waits until the answer is there, or until it turns
//! out that it is for nobody else: then all go on by themselves at once. Where who fetches goes away
//! before that is known, the next one takes its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::key::Key;
use super::status::Forwarded;

/// How long a request waits for all that others fetch, before it fetches for itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how many of them it waits.
const MAX_WAITS: u32 = 4;

/// What is being fetched.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<Wanted, watch::Sender<Outcome>>>);

/// What is fetched for all who want it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// What is asked for.
    pub key: Key,
    /// Whether by who sends credentials: the answer may be for nobody else then, which says nothing of
    /// what those are answered who send none.
    pub credentials: bool,
}

/// What became of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way.
    Flying,
    /// The answer is kept.
    Kept,
    /// The answer is for nobody else, or there is none.
    Alone,
    /// Who fetched it has gone.
    Left,
}

/// Whether somebody fetches or waits.
#[derive(Debug)]
pub enum Joined {
    /// It fetches.
    Lead(Lead),
    /// It waits.
    Wait(Waiting),
}

/// Who fetches for others. Dropped, another does.
#[derive(Debug)]
pub struct Lead {
    flights: Arc<super::store::Store>,
    wanted: Wanted,
    landed: bool,
}

/// Who waits for another's answer.
#[derive(Debug)]
pub struct Waiting(watch::Receiver<Outcome>);

/// What one request has waited, and still may.
#[derive(Debug, Default)]
pub struct Patience {
    until: Option<Instant>,
    waits: u32,
    last: Option<Outcome>,
}

// === impl Flights ===

impl Flights {
    fn land(&self, wanted: &Wanted, outcome: Outcome) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.remove(wanted) {
            flight.send_replace(outcome);
        }
    }

    fn join(&self, wanted: &Wanted) -> Option<Waiting> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.get(wanted) {
            Some(flight) => Some(Waiting(flight.subscribe())),
            None => {
                flights.insert(wanted.clone(), watch::Sender::new(Outcome::Flying));
                None
            }
        }
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// === impl Lead ===

impl Lead {
    /// Fetches it, or waits for who does already.
    pub fn or_wait(store: &Arc<super::store::Store>, wanted: &Wanted) -> Joined {
        match store.flights.join(wanted) {
            Some(waiting) => Joined::Wait(waiting),
            None => Joined::Lead(Self {
                flights: store.clone(),
                wanted: wanted.clone(),
                landed: false,
            }),
        }
    }

    /// The answer is kept.
    pub fn kept(mut self) {
        self.land(Outcome::Kept);
    }

    /// The answer is for nobody else.
    pub fn alone(mut self) {
        self.land(Outcome::Alone);
    }

    fn land(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.landed, true) {
            self.flights.flights.land(&self.wanted, outcome);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.land(Outcome::Left);
    }
}

// === impl Patience ===

impl Patience {
    /// Whether there is any left for who is not given what is kept for this reason.
    pub fn is_left(&self, why: Forwarded) -> bool {
        let spent = match self.last {
            // What another has fetched is for other headers, and so may be what the next one does.
            Some(Outcome::Kept) => why == Forwarded::Vary,
            Some(Outcome::Alone) => true,
            _ => false,
        };
        !spent && self.waits < MAX_WAITS && self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Whether it has waited for anybody.
    pub fn is_tried(&self) -> bool {
        self.waits > 0
    }

    /// Waits for what becomes of a fetch; who has waited for too long is alone.
    pub async fn wait(&mut self, mut waiting: Waiting) -> Outcome {
        let until = *self.until.get_or_insert_with(|| Instant::now() + PATIENCE);
        self.waits += 1;
        let landed = waiting.0.wait_for(|outcome| *outcome != Outcome::Flying);
        let outcome = match tokio::time::timeout_at(until, landed).await {
            Ok(Ok(outcome)) => *outcome,
            Ok(Err(_)) => Outcome::Left,
            Err(_) => Outcome::Alone,
        };
        self.last = Some(outcome);
        outcome
    }
}
