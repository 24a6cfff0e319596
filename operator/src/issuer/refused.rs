//! Tokens that were refused a moment ago: who presents one again and again costs the API server
//! one review and no more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;

use super::Refusal;

/// For how long. A token may become good: one of several API servers may not know its pod yet.
pub(super) const MEMORY: Duration = Duration::from_secs(10);

/// How many: the newest.
const MAX_REFUSED: usize = 2048;

/// Refused tokens, by their SHA-256: what is remembered is no token.
#[derive(Debug, Default)]
pub(super) struct Refused(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    why: HashMap<Vec<u8>, Refusal>,
    /// When each was refused; the oldest first.
    order: VecDeque<(Instant, Vec<u8>)>,
}

// === impl Refused ===

impl Refused {
    /// Why the token was refused, if that was a moment ago.
    pub(super) fn why(&self, token: &str) -> Option<Refusal> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.forget(MEMORY);
        memory.why.get(&hash(token)).cloned()
    }

    /// Remembers a refusal that is one: not that nobody could be asked.
    pub(super) fn remember(&self, token: &str, refusal: &Refusal) {
        if let Refusal::Unavailable(_) = refusal {
            return;
        }
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = hash(token);
        // Unless it was asked about twice at the same time.
        if memory.why.insert(hash.clone(), refusal.clone()).is_none() {
            memory.order.push_back((Instant::now(), hash));
        }
        if memory.order.len() > MAX_REFUSED {
            memory.forget_oldest();
        }
    }
}

// === impl Memory ===

impl Memory {
    fn forget(&mut self, age: Duration) {
        while self
            .order
            .front()
            .is_some_and(|(since, _)| since.elapsed() >= age)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, hash)) = self.order.pop_front() {
            self.why.remove(&hash);
        }
    }
}

fn hash(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let refused = Refused::default();
        let unknown = Refusal::Unknown("no such token".into());
        for n in 0..=MAX_REFUSED {
            refused.remember(&format!("bogus-{n}"), &unknown);
            refused.remember(&format!("bogus-{n}"), &unknown);
        }
        assert_eq!(refused.why("bogus-0"), None, "the oldest");
        assert_eq!(refused.why("bogus-1"), Some(unknown));
        let memory = refused.0.lock().unwrap();
        let (whys, order) = (memory.why.len(), memory.order.len());
        assert_eq!((whys, order), (MAX_REFUSED, MAX_REFUSED));
    }
}
