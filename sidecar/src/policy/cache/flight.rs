//! One fetch for all who want the same at once.
//!
//! Who comes first fetches; who comes meanwhile waits until the answer is there, or until it turns
//! out that it is for nobody else: then all go on by themselves at once. Where who fetches goes away
//! before that is known, the next one takes its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::key::Key;

/// How long somebody waits for an answer that another fetches, before it fetches its own.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is being fetched, by key.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<Key, watch::Sender<Outcome>>>);

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
    key: Key,
    landed: bool,
}

/// Who waits for another's answer.
#[derive(Debug)]
pub struct Waiting(watch::Receiver<Outcome>);

// === impl Flights ===

impl Flights {
    fn land(&self, key: &Key, outcome: Outcome) {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.remove(key) {
            flight.send_replace(outcome);
        }
    }

    fn join(&self, key: &Key) -> Option<Waiting> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.get(key) {
            Some(flight) => Some(Waiting(flight.subscribe())),
            None => {
                flights.insert(key.clone(), watch::Sender::new(Outcome::Flying));
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
    /// Fetches what has this key, or waits for who does already.
    pub fn or_wait(store: &Arc<super::store::Store>, key: &Key) -> Joined {
        match store.flights.join(key) {
            Some(waiting) => Joined::Wait(waiting),
            None => Joined::Lead(Self {
                flights: store.clone(),
                key: key.clone(),
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
            self.flights.flights.land(&self.key, outcome);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.land(Outcome::Left);
    }
}

// === impl Waiting ===

impl Waiting {
    /// What becomes of the fetch; who has waited for too long is alone.
    pub async fn outcome(mut self) -> Outcome {
        let landed = self.0.wait_for(|outcome| *outcome != Outcome::Flying);
        match tokio::time::timeout(PATIENCE, landed).await {
            Ok(Ok(outcome)) => *outcome,
            Ok(Err(_)) => Outcome::Left,
            Err(_) => Outcome::Alone,
        }
    }
}
