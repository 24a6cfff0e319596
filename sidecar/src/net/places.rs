//! A bounded number of connections of strangers, of which the oldest gives way to the newest; where
//! each source may have so many only, the oldest of the source that has the most.
//!
//! Whoever means well needs a place for milliseconds (a handshake, a probe); whoever keeps one only
//! to keep it is the oldest soon. Making newcomers wait, or refusing them, would hand the places to
//! whoever came first and stayed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::oneshot;

/// The places, as one thread has them.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    /// For one source.
    each: usize,
    next: Cell<u64>,
    taken: RefCell<BTreeMap<u64, Taken>>,
    /// Of those who are no strangers any more.
    kept: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
}

#[derive(Debug)]
struct Taken {
    /// Where it is known.
    source: Option<IpAddr>,
    give_way: oneshot::Sender<()>,
}

/// Keeps a place from being given to another.
#[derive(Clone, Debug)]
pub struct Keep {
    places: Rc<Places>,
    number: u64,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Rc<Places>,
    number: u64,
    given_way: oneshot::Receiver<()>,
}

// === impl Places ===

impl Places {
    /// So many, at least one.
    pub fn new(limit: usize) -> Rc<Self> {
        Self::with_each(limit, limit)
    }

    /// The same, and for one source no more than `each`, at least one.
    pub fn with_each(limit: usize, each: usize) -> Rc<Self> {
        Rc::new(Self {
            limit: limit.max(1),
            each: each.max(1),
            next: Cell::new(0),
            taken: RefCell::default(),
            kept: RefCell::default(),
        })
    }

    /// Takes a place; when all are taken, the one that was taken first.
    pub fn take(self: &Rc<Self>) -> Place {
        self.take_from(None)
    }

    /// Takes a place for a source: from itself when it has as many as one may have, and from whoever has
    /// the most when all are taken.
    pub fn take_from(self: &Rc<Self>, source: Option<IpAddr>) -> Place {
        let mut taken = self.taken.borrow_mut();
        if source.is_some() {
            let own = |other: &&Taken| other.source == source;
            if taken.values().filter(own).count() >= self.each {
                give_way(&mut taken, source);
            }
        }
        while taken.len() >= self.limit {
            match self.each < self.limit {
                true => {
                    let loser = largest(&taken);
                    give_way(&mut taken, loser);
                }
                // Dropping the sender tells the one who holds the place.
                false => drop(taken.pop_first()),
            }
        }
        let (give_way, given_way) = oneshot::channel();
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        taken.insert(number, Taken { source, give_way });
        Place {
            places: self.clone(),
            number,
            given_way,
        }
    }
}

/// Whose places are the most; of several the one whose oldest is the oldest.
fn largest(taken: &BTreeMap<u64, Taken>) -> Option<IpAddr> {
    let mut counts: Vec<(Option<IpAddr>, usize)> = Vec::new();
    for one in taken.values() {
        match counts.iter_mut().find(|(source, _)| *source == one.source) {
            Some((_, count)) => *count += 1,
            None => counts.push((one.source, 1)),
        }
    }
    let most = counts.iter().map(|(_, count)| *count).max();
    let largest = counts.iter().find(|(_, count)| Some(*count) == most);
    largest.and_then(|(source, _)| *source)
}

/// Takes the oldest place of a source: dropping the sender tells the one who holds it.
fn give_way(taken: &mut BTreeMap<u64, Taken>, source: Option<IpAddr>) {
    let mut all = taken.iter();
    let oldest = all.find(|(_, one)| one.source == source);
    if let Some(number) = oldest.map(|(number, _)| *number) {
        taken.remove(&number);
    }
}

// === impl Place ===

impl Place {
    /// For whoever may turn out to be no stranger.
    pub fn keep(&self) -> Keep {
        Keep {
            places: self.places.clone(),
            number: self.number,
        }
    }

    /// Runs `work` until it ends; `None` when the place had to be given to another.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = &mut self.given_way => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().remove(&self.number);
        self.places.kept.borrow_mut().remove(&self.number);
    }
}

// === impl Keep ===

impl Keep {
    /// From here on the place is given to nobody else, nor counted among those of strangers.
    pub fn no_stranger(&self) {
        if let Some(place) = self.places.taken.borrow_mut().remove(&self.number) {
            let give_way = place.give_way;
            self.places.kept.borrow_mut().insert(self.number, give_way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn when_all_places_are_taken_the_oldest_gives_way_to_the_newest() {
        let places = Places::new(2);
        let (mut first, mut second) = (places.take(), places.take());
        assert_eq!(second.during(ready(2)).await, Some(2));
        let mut third = places.take();
        assert_eq!(first.during(pending::<()>()).await, None);
        assert_eq!(second.during(ready(2)).await, Some(2));
        assert_eq!(third.during(ready(3)).await, Some(3));
    }

    #[tokio::test]
    async fn one_source_takes_places_from_itself_and_from_whoever_has_the_most() {
        let source = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let places = Places::with_each(4, 3);
        let mut kubelet = places.take_from(source(1));
        let mut many: Vec<_> = (0..100).map(|_| places.take_from(source(2))).collect();
        assert_eq!(kubelet.during(ready(1)).await, Some(1));
        assert_eq!(places.taken.borrow().len(), 4);
        let mut newcomer = places.take_from(source(3));
        assert_eq!(many[97].during(pending::<()>()).await, None);
        assert_eq!(many[98].during(ready(2)).await, Some(2));
        assert_eq!(kubelet.during(ready(1)).await, Some(1));
        assert_eq!(newcomer.during(ready(3)).await, Some(3));
    }

    #[tokio::test]
    async fn who_is_no_stranger_gives_way_to_none() {
        let places = Places::new(1);
        let mut known = places.take();
        known.keep().no_stranger();
        let mut strangers: Vec<_> = (0..3).map(|_| places.take()).collect();
        assert_eq!(known.during(ready(1)).await, Some(1));
        assert_eq!(strangers[1].during(pending::<()>()).await, None);
        drop(known);
        assert!(places.kept.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_place_that_was_given_back_is_free() {
        let places = Places::new(1);
        drop(places.take());
        let mut first = places.take();
        assert_eq!(first.during(ready(1)).await, Some(1));
        assert_eq!(places.taken.borrow().len(), 1);
    }
}
