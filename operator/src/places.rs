//! Places for connections: how many there may be, and who gives way when there are more.
//!
//! Nobody waits for a place: whoever came early and says nothing would keep out everybody who comes
//! late. A newcomer takes a place from whoever has the most of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) total: usize,
    /// For one holder. Who takes another one loses the oldest.
    pub(crate) each: usize,
    /// How long a place is its holder's when all are taken and nobody has more than the newcomer
    /// would. Until then the newcomer is refused.
    pub(crate) kept: Duration,
}

/// Places for holders that are told apart by `K`, such as the address of a peer.
#[derive(Debug)]
pub(crate) struct Places<K> {
    limits: Limits,
    taken: Mutex<Taken<K>>,
}

/// A place. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    places: Arc<Places<K>>,
    holder: K,
    number: u64,
    lost: CancellationToken,
}

#[derive(Debug)]
struct Taken<K> {
    /// By holder, the oldest first. None is empty.
    holders: HashMap<K, BTreeMap<u64, One>>,
    count: usize,
    last: u64,
}

#[derive(Debug)]
struct One {
    since: Instant,
    lost: CancellationToken,
}

// === impl Places ===

impl<K: Clone + Eq + Hash> Places<K> {
    pub(crate) fn new(limits: Limits) -> Arc<Places<K>> {
        Arc::new(Places {
            limits,
            taken: Mutex::new(Taken {
                holders: HashMap::new(),
                count: 0,
                last: 0,
            }),
        })
    }

    /// A place, at once; `None` when there is none to be had.
    pub(crate) fn take(self: &Arc<Self>, holder: K) -> Option<Place<K>> {
        let mut taken = self.taken();
        let own = taken.holders.get(&holder).map_or(0, BTreeMap::len);
        let loser = if own >= self.limits.each {
            Some(holder.clone())
        } else if taken.count >= self.limits.total {
            Some(taken.largest(own + 1, self.limits.kept)?)
        } else {
            None
        };
        if let Some(loser) = loser {
            taken.lose_oldest(&loser);
        }
        taken.last += 1;
        taken.count += 1;
        let (number, lost) = (taken.last, CancellationToken::new());
        let one = One {
            since: Instant::now(),
            lost: lost.clone(),
        };
        let places = taken.holders.entry(holder.clone()).or_default();
        places.insert(number, one);
        Some(Place {
            places: self.clone(),
            holder,
            number,
            lost,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        // Nothing that holds the lock panics half way.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Taken ===

impl<K: Clone + Eq + Hash> Taken<K> {
    /// Who has the most places, and of several of them the one with the oldest; if that is no more
    /// than `than`, the oldest must have been `kept` for its time.
    fn largest(&self, than: usize, kept: Duration) -> Option<K> {
        let (holder, places) = self
            .holders
            .iter()
            .max_by_key(|(_, places)| (places.len(), places.keys().next().map(Reverse)))?;
        let (_, oldest) = places.first_key_value()?;
        (places.len() > than || oldest.since.elapsed() >= kept).then(|| holder.clone())
    }

    fn lose_oldest(&mut self, holder: &K) {
        let places = self.holders.get(holder);
        if let Some(number) = places.and_then(|places| places.keys().next().copied()) {
            self.remove(holder, number);
        }
    }
}

impl<K: Eq + Hash> Taken<K> {
    fn remove(&mut self, holder: &K, number: u64) {
        let Some(places) = self.holders.get_mut(holder) else {
            return;
        };
        if let Some(one) = places.remove(&number) {
            one.lost.cancel();
            self.count -= 1;
        }
        if places.is_empty() {
            self.holders.remove(holder);
        }
    }
}

// === impl Place ===

impl<K: Eq + Hash> Place<K> {
    /// Whose it is.
    pub(crate) fn holder(&self) -> &K {
        &self.holder
    }

    /// Waits until it belongs to somebody else: what it was taken for is to end. Cancel safe.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let taken = self.places.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.holder, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const KEPT: Duration = Duration::from_secs(2);

    fn places(total: usize, each: usize) -> Arc<Places<&'static str>> {
        Places::new(Limits {
            total,
            each,
            kept: KEPT,
        })
    }

    fn is_lost(place: &Place<&str>) -> bool {
        place.lost.is_cancelled()
    }

    #[tokio::test]
    async fn who_has_as_many_as_one_may_loses_the_oldest_and_nobody_else_does() {
        let places = places(10, 2);
        let other = places.take("b").unwrap();
        let all = [(); 3].map(|()| places.take("a").unwrap());
        assert_eq!(all.each_ref().map(is_lost), [true, false, false]);
        all[0].lost().await;
        assert!(!is_lost(&other));
    }

    #[tokio::test]
    async fn when_all_are_taken_whoever_has_the_most_gives_way() {
        let places = places(6, 4);
        let many = [(); 4].map(|()| places.take("many").unwrap());
        let few = [(); 2].map(|()| places.take("few").unwrap());
        let _newcomer = places.take("new").unwrap();
        assert_eq!(many.each_ref().map(is_lost), [true, false, false, false]);
        let _another = places.take("another").unwrap();
        assert_eq!(many.each_ref().map(is_lost), [true, true, false, false]);
        assert_eq!(few.each_ref().map(is_lost), [false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_nobody_has_more_than_the_newcomer_would_places_are_kept_for_their_time() {
        let places = places(2, 2);
        let (first, second) = (places.take("a").unwrap(), places.take("b").unwrap());
        advance(KEPT / 2).await;
        assert!(places.take("c").is_none());
        assert!(places.take("a").is_none(), "it would have the most itself");
        advance(KEPT / 2).await;
        let third = places.take("c").unwrap();
        assert_eq!([&first, &second, &third].map(is_lost), [true, false, false]);
    }

    #[tokio::test]
    async fn a_place_that_is_given_back_is_there_for_the_next_one() {
        let places = places(1, 1);
        for _ in 0..3 {
            let place = places.take("a").unwrap();
            assert!(places.take("b").is_none());
            drop(place);
        }
        let first = places.take("a").unwrap();
        let second = places.take("a").unwrap();
        // It was the second's already.
        drop(first);
        assert!(places.take("b").is_none());
        drop(second);
        assert!(places.take("b").is_some());
        assert!(places.taken().holders.is_empty(), "nobody is remembered");
    }
}
