//! A bounded number of connections of strangers, of which the oldest gives way to the newest.
//!
//! Whoever means well needs a place for milliseconds (a handshake, a probe); whoever keeps one only
//! to keep it is the oldest soon. Making newcomers wait, or refusing them, would hand the places to
//! whoever came first and stayed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::oneshot;

/// The places, as one thread has them.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    next: Cell<u64>,
    taken: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
    /// Of those who are no strangers any more.
    kept: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
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
        Rc::new(Self {
            limit: limit.max(1),
            next: Cell::new(0),
            taken: RefCell::default(),
            kept: RefCell::default(),
        })
    }

    /// Takes a place; when all are taken, the one that was taken first.
    pub fn take(self: &Rc<Self>) -> Place {
        let mut taken = self.taken.borrow_mut();
        while taken.len() >= self.limit {
            // Dropping the sender tells the one who holds the place.
            taken.pop_first();
        }
        let (give_way, given_way) = oneshot::channel();
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        taken.insert(number, give_way);
        Place {
            places: self.clone(),
            number,
            given_way,
        }
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
            self.places.kept.borrow_mut().insert(self.number, place);
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
