//! What has happened in a run: what was published, what the applications saw and said, what was struck, and what the
//! dead letter topic holds.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Error, Result};

use crate::schedule::Fault;

/// What an event is known by: who published it, one after the other, and the how manyth it is there. In order, the first
/// is its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) key: u32,
    /// From 1.
    pub(crate) number: u32,
}

/// An event that somebody tried to publish.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    pub(crate) id: Id,
    /// When it was first sent.
    pub(crate) at: SystemTime,
    /// Whether it was answered 202 in the end.
    pub(crate) accepted: bool,
    /// How often it was sent before in a way after which the broker may hold it all the same.
    pub(crate) unconfirmed: usize,
}

/// What an application said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// 2xx, at that moment or a little later, or never if it was killed then.
    Taken(SystemTime),
    /// Another answer, or it hung up.
    Failed,
    /// Nothing: it was killed, or whoever called went away.
    Nothing,
}

/// An event that came to an application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) id: Id,
    pub(crate) at: SystemTime,
    pub(crate) said: Said,
    /// Whether its data are those that were published.
    pub(crate) intact: bool,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) id: Id,
    /// As it says: `dlqreason`, `dlqattempts`, `dlqtime`.
    pub(crate) reason: String,
    pub(crate) attempts: u32,
    pub(crate) at: SystemTime,
    /// Whether its data are those that were published.
    pub(crate) intact: bool,
}

/// A fault, and when it was there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Struck {
    pub(crate) fault: Fault,
    /// A moment before it began, and one after it had: killing takes time.
    pub(crate) from: SystemTime,
    pub(crate) begun: SystemTime,
    /// When what was struck was let go on, or started again.
    pub(crate) until: SystemTime,
}

/// All of it, each in the order in which it happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) published: Vec<Published>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) letters: Vec<Letter>,
    pub(crate) struck: Vec<Struck>,
}

/// A history that all who take part write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Mutex<History>>);

// === impl Id ===

impl Id {
    /// The data of the event.
    pub(crate) fn data(self) -> String {
        format!("{{\"event\":\"{self}\"}}")
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.key, self.number)
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key, number) = text
            .split_once('-')
            .with_context(|| format!("{text:?} is none of our ids"))?;
        Ok(Self {
            key: key.parse()?,
            number: number.parse()?,
        })
    }
}

// === impl History ===

impl History {
    /// When an event was taken first.
    pub(crate) fn first_taken(&self) -> Option<SystemTime> {
        self.deliveries.iter().find_map(|one| match one.said {
            Said::Taken(at) => Some(at),
            Said::Failed | Said::Nothing => None,
        })
    }
}

// === impl Journal ===

impl Journal {
    /// An event came: how often it has come now, and its place here.
    pub(crate) fn comes(&self, id: Id, intact: bool) -> (usize, usize) {
        let mut history = self.history();
        history.deliveries.push(Delivery {
            id,
            at: SystemTime::now(),
            said: Said::Nothing,
            intact,
        });
        let of_it = history.deliveries.iter().filter(|one| one.id == id);
        (of_it.count(), history.deliveries.len() - 1)
    }

    /// What is said of the delivery at this place.
    pub(crate) fn said(&self, place: usize, said: Said) {
        if let Some(delivery) = self.history().deliveries.get_mut(place) {
            delivery.said = said;
        }
    }

    pub(crate) fn published(&self, published: Published) {
        self.history().published.push(published);
    }

    pub(crate) fn struck(&self, struck: Struck) {
        self.history().struck.push(struck);
    }

    pub(crate) fn letters(&self, letters: Vec<Letter>) {
        self.history().letters.extend(letters);
    }

    /// What it is by now.
    pub(crate) fn so_far(&self) -> History {
        self.history().clone()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
