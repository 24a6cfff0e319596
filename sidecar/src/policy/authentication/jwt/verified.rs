//! Tokens whose signatures have been verified, so that a client that sends the same one with each of
//! its requests costs a hash and not a signature.
//!
//! What is remembered is that one set of keys has signed these claims, and nothing else: times and all
//! else that is required are looked at each time, and newer keys of an issuer are another set. Only
//! genuine tokens get in, so that a stranger cannot push them out. A token is found by its SHA-256,
//! whose comparison takes a time that tells nothing of a token.
//!
//! The hash says which eight slots a token may be in, of which the one that was longest unused gives
//! way: a lookup reads eight slots, and there are no more slots, however many tokens there are.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

use super::{Keys, Provider, Refused, Token, Unverified};

/// Tokens that are remembered, at most.
pub const CAPACITY: usize = SETS * WAYS;
/// Claims that would take more memory than this, in bytes, are not remembered: with [`CAPACITY`], 16
/// MiB is the most that a worker gives to all. Tokens are 1 to 4 KB.
pub const MAX_WEIGHT: usize = 16 * 1024;

const SETS: usize = 128;
const WAYS: usize = 8;

/// The tokens that one worker has seen.
#[derive(Debug)]
pub struct Verified {
    /// [`SETS`] of them.
    slots: RefCell<Box<[[Option<Slot>; WAYS]]>>,
    /// Counts uses.
    clock: Cell<u64>,
}

#[derive(Debug)]
struct Slot {
    hash: [u8; 32],
    /// The keys that verified it.
    keys: u64,
    used: u64,
    token: Arc<Token>,
}

// === build ===

impl Default for Verified {
    fn default() -> Self {
        Self::new()
    }
}

impl Verified {
    /// Of no tokens.
    pub fn new() -> Self {
        let slots = (0..SETS).map(|_| [const { None }; WAYS]);
        Self {
            slots: RefCell::new(slots.collect()),
            clock: Cell::new(0),
        }
    }

    // === request ===

    /// Verifies a token of one of several issuers, all that is required of it included, as
    /// [`super::verify`] does; its signature only if it is not remembered.
    ///
    /// # Errors
    /// The first reason that was found. Whose keys are missing of an unknown one is what
    /// [`super::peek_issuer`] says.
    pub fn verify<'a>(
        &self,
        token: &str,
        issuers: impl IntoIterator<Item = (&'a Keys, &'a Provider)> + Clone,
        now: SystemTime,
    ) -> Result<Arc<Token>, Refused> {
        // Nothing longer is ever in here, and it need not be hashed.
        if token.len() > super::MAX_TOKEN {
            return Err(Refused::Malformed);
        }
        let hash = digest(&SHA256, token.as_bytes());
        let hash: [u8; 32] = hash.as_ref().try_into().map_err(|_| Refused::Malformed)?;
        for (keys, provider) in issuers.clone() {
            if let Some(known) = self.find(&hash, keys.number(), provider) {
                let judged = known.judge(provider, now);
                if judged == Err(Refused::Expired) {
                    self.forget(&hash);
                }
                return judged.map(|()| known);
            }
        }
        let unverified = Unverified::read(token)?;
        let says = unverified.token.issuer();
        let mut issuers = issuers.into_iter();
        let issuer = issuers.find(|(_, provider)| says == Some(&provider.issuer));
        let (keys, provider) = issuer.ok_or(Refused::WrongIssuer)?;
        let token = Arc::new(unverified.verify(keys, provider, now)?);
        if weight(token.claims()) <= MAX_WEIGHT {
            self.remember(hash, keys.number(), token.clone(), now);
        }
        Ok(token)
    }

    fn find(&self, hash: &[u8; 32], keys: u64, provider: &Provider) -> Option<Arc<Token>> {
        let mut slots = self.slots.borrow_mut();
        let mut slots = slots.get_mut(place(hash))?.iter_mut().flatten();
        let slot = slots.find(|slot| slot.hash == *hash && slot.keys == keys)?;
        slot.used = self.tick();
        // Two issuers may have one set of keys.
        let fits = slot.token.issuer() == Some(&provider.issuer);
        fits.then(|| slot.token.clone())
    }

    /// In a free slot, or that of a token that has expired, or of the one unused for the longest.
    fn remember(&self, hash: [u8; 32], keys: u64, token: Arc<Token>, now: SystemTime) {
        let mut slots = self.slots.borrow_mut();
        let slots = slots.get_mut(place(&hash)).into_iter().flatten();
        let age = |slot: &Option<Slot>| match slot {
            Some(slot) if slot.token.expires() > now => slot.used,
            _ => 0,
        };
        if let Some(oldest) = slots.min_by_key(|slot| age(slot)) {
            *oldest = Some(Slot {
                hash,
                keys,
                used: self.tick(),
                token,
            });
        }
    }

    fn forget(&self, hash: &[u8; 32]) {
        let mut slots = self.slots.borrow_mut();
        for slot in slots.get_mut(place(hash)).into_iter().flatten() {
            if slot.as_ref().is_some_and(|slot| slot.hash == *hash) {
                *slot = None;
            }
        }
    }

    /// From 1.
    fn tick(&self) -> u64 {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        now
    }
}

/// Which slots: always within.
fn place(hash: &[u8; 32]) -> usize {
    usize::from(hash[0]) % SETS
}

/// What claims take in memory, roughly: `[0,0,0]` and `{"":0}` are many times their text.
fn weight(claims: &Map<String, Value>) -> usize {
    /// Of a node of a map, with places for eleven members.
    const NODE: usize = 640;
    fn of(value: &Value) -> usize {
        size_of::<Value>()
            + match value {
                Value::String(text) => text.capacity(),
                Value::Array(elements) => {
                    let unused = elements.capacity() - elements.len();
                    unused * size_of::<Value>() + elements.iter().map(of).sum::<usize>()
                }
                Value::Object(members) => weight(members),
                _ => 0,
            }
    }
    let members = claims
        .iter()
        .map(|(name, value)| name.capacity() + of(value));
    claims.len().div_ceil(6) * NODE + members.sum::<usize>()
}

#[cfg(test)]
impl Verified {
    pub(super) fn len(&self) -> usize {
        self.slots.borrow().iter().flatten().flatten().count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use wire::jwks::Algorithm;

    use super::*;

    #[test]
    fn what_has_expired_gives_way_first_and_then_what_was_unused_for_the_longest() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (cache, provider) = (Verified::new(), Provider::new("a"));
        // All in the same slots.
        let hash = |number| [[0; 31].as_slice(), &[number]].concat().try_into().unwrap();
        let remember = |number, exp: u64, now| {
            let claims = [
                ("iss".to_owned(), json!("a")),
                ("exp".to_owned(), json!(exp)),
            ];
            let token = Token::read(Map::from_iter(claims), Algorithm::EdDsa).unwrap();
            cache.remember(hash(number), 1, Arc::new(token), at(now));
        };
        let is_there = |number| cache.find(&hash(number), 1, &provider).is_some();
        for number in 0..8 {
            remember(number, if number == 5 { 100 } else { 1000 }, 50);
        }
        for number in [3, 0, 1, 2, 4, 6, 7, 5] {
            assert!(is_there(number), "{number}");
        }
        remember(8, 1000, 200);
        assert!(!is_there(5));
        remember(9, 1000, 200);
        assert!(!is_there(3));
        for number in [0, 1, 2, 4, 6, 7, 8, 9] {
            assert!(is_there(number), "{number}");
        }
    }
}
