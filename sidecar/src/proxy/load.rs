//! How much one worker takes on at once, in one direction: connections, and requests in flight.
//!
//! What is over a bound is turned away before anything is done for it, so that what was begun can
//! end: a sidecar that takes on all it is given finishes none of it. One peer has half of the places
//! at most; the others are never locked out by it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::identity::SpiffeId;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections.
    pub connections: usize,
    /// Of those, of one peer.
    pub connections_each: usize,
    /// Requests in flight, and connections that carry no requests.
    pub requests: usize,
    /// Of those, of one peer.
    pub requests_each: usize,
}

/// What is taken of it, as one thread has it.
#[derive(Debug)]
pub struct Load {
    bounds: Bounds,
    requests: Cell<usize>,
    next: Cell<u64>,
    seats: RefCell<BTreeMap<u64, Rc<Taken>>>,
    owners: RefCell<HashMap<Option<SpiffeId>, Rc<Owner>>>,
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    load: Rc<Load>,
    number: u64,
    taken: Rc<Taken>,
}

/// One request in flight, or a connection whose bytes nobody reads; its connection keeps its seat.
#[derive(Debug)]
pub struct Admitted(Rc<Seat>);

/// While it is held, the connection gives way to another if nothing is in flight on it.
#[derive(Debug)]
pub struct Resting(Rc<Seat>);

#[derive(Debug)]
struct Taken {
    owner: Rc<Owner>,
    /// Reasons why it gives way to nobody.
    busy: Cell<usize>,
    leave: Notify,
}

#[derive(Debug)]
struct Owner {
    /// Whose; `None` is the own application, and whoever proves nothing.
    id: Option<SpiffeId>,
    connections: Cell<usize>,
    requests: Cell<usize>,
}

// === impl Load ===

impl Load {
    /// Nothing taken.
    pub fn new(bounds: Bounds) -> Rc<Self> {
        Rc::new(Self {
            bounds,
            requests: Cell::new(0),
            next: Cell::new(0),
            seats: RefCell::default(),
            owners: RefCell::default(),
        })
    }

    /// A seat for a connection. When all are taken, that of the oldest connection which rests; none
    /// when no connection does.
    pub fn take(self: &Rc<Self>, of: Option<&SpiffeId>) -> Option<Rc<Seat>> {
        let has = |owner: &Rc<Owner>| owner.connections.get();
        let owned = self.owners.borrow().get(&of.cloned()).map_or(0, has);
        if owned >= self.bounds.connections_each {
            self.give_way(|taken| taken.owner.id.as_ref() == of)?;
        }
        if self.seats.borrow().len() >= self.bounds.connections {
            self.give_way(|_| true)?;
        }
        let owner = self.owner(of);
        owner.connections.set(owner.connections.get() + 1);
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let taken = Rc::new(Taken {
            owner,
            busy: Cell::new(1),
            leave: Notify::new(),
        });
        self.seats.borrow_mut().insert(number, taken.clone());
        Some(Rc::new(Seat {
            load: self.clone(),
            number,
            taken,
        }))
    }

    fn owner(&self, of: Option<&SpiffeId>) -> Rc<Owner> {
        let mut owners = self.owners.borrow_mut();
        let new = |id: &Option<SpiffeId>| {
            Rc::new(Owner {
                id: id.clone(),
                connections: Cell::new(0),
                requests: Cell::new(0),
            })
        };
        owners.entry(of.cloned()).or_insert_with_key(new).clone()
    }

    fn give_way(&self, among: impl Fn(&Taken) -> bool) -> Option<()> {
        let oldest = {
            let seats = self.seats.borrow();
            let mut rest = seats.iter().filter(|(_, one)| one.busy.get() == 0);
            *rest.find(|(_, one)| among(one))?.0
        };
        self.leave(oldest);
        Some(())
    }

    /// Frees a seat, whether its connection has ended or is to end.
    fn leave(&self, number: u64) {
        let Some(taken) = self.seats.borrow_mut().remove(&number) else {
            return;
        };
        taken.leave.notify_one();
        let owner = &taken.owner;
        owner.connections.set(owner.connections.get() - 1);
        if owner.connections.get() == 0 {
            self.owners.borrow_mut().remove(&owner.id);
        }
    }
}

// === impl Seat ===

impl Seat {
    /// A request, or opaque bytes, if there may be more.
    pub fn admit(self: &Rc<Self>) -> Option<Admitted> {
        let (load, owner) = (&self.load, &self.taken.owner);
        if load.requests.get() >= load.bounds.requests
            || owner.requests.get() >= load.bounds.requests_each
        {
            return None;
        }
        load.requests.set(load.requests.get() + 1);
        owner.requests.set(owner.requests.get() + 1);
        self.taken.busy.set(self.taken.busy.get() + 1);
        Some(Admitted(self.clone()))
    }

    /// From here on, only requests in flight keep the seat.
    pub fn rest(self: &Rc<Self>) -> Resting {
        self.taken.busy.set(self.taken.busy.get() - 1);
        Resting(self.clone())
    }

    /// Ends when the seat has been given to another.
    pub async fn given_way(&self) {
        self.taken.leave.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.load.leave(self.number);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let (load, taken) = (&self.0.load, &self.0.taken);
        load.requests.set(load.requests.get() - 1);
        taken.owner.requests.set(taken.owner.requests.get() - 1);
        taken.busy.set(taken.busy.get() - 1);
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        let busy = &self.0.taken.busy;
        busy.set(busy.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn load() -> Rc<Load> {
        Load::new(Bounds {
            connections: 4,
            connections_each: 2,
            requests: 4,
            requests_each: 2,
        })
    }

    fn peer(name: &str) -> SpiffeId {
        let id = format!("spiffe://cluster.local/ns/shop/sa/{name}");
        id.parse().unwrap()
    }

    fn has_given_way(seat: &Seat) -> bool {
        seat.given_way().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_connection_that_rests_gives_way_and_one_that_works_does_not() {
        let load = load();
        let seats: Vec<_> = ["a", "a", "b", "b"]
            .map(|name| load.take(Some(&peer(name))).unwrap())
            .into();
        assert!(load.take(Some(&peer("c"))).is_none(), "all of them work");
        let resting: Vec<_> = seats.iter().map(Seat::rest).collect();
        let working = seats[0].admit().unwrap();
        let _fifth = load.take(Some(&peer("c"))).unwrap();
        let gone: Vec<bool> = seats.iter().map(|seat| has_given_way(seat)).collect();
        assert_eq!(gone, [false, true, false, false]);
        drop((working, resting, seats));
        assert_eq!(load.seats.borrow().len(), 1);
        assert_eq!(load.owners.borrow().len(), 1);
    }

    #[test]
    fn one_peer_has_half_of_the_connections_and_takes_more_from_itself_only() {
        let load = load();
        let other = load.take(Some(&peer("b"))).unwrap();
        let _other_rests = other.rest();
        let (first, _second) = (
            load.take(Some(&peer("a"))).unwrap(),
            load.take(Some(&peer("a"))).unwrap(),
        );
        assert!(load.take(Some(&peer("a"))).is_none());
        let _rests = first.rest();
        let _third = load.take(Some(&peer("a"))).unwrap();
        assert!(has_given_way(&first) && !has_given_way(&other));
    }

    #[test]
    fn one_peer_has_half_of_the_requests_and_all_together_have_no_more_than_all() {
        let load = load();
        let seats = ["a", "b", "c"].map(|name| load.take(Some(&peer(name))).unwrap());
        let [a, b, c] = &seats;
        let mut held: Vec<_> = [a, a, b].map(|seat| seat.admit().unwrap()).into();
        assert!(a.admit().is_none(), "half are its");
        held.push(c.admit().unwrap());
        assert!(b.admit().is_none(), "all are taken");
        // And it recovers.
        held.clear();
        assert!(a.admit().is_some());
        assert_eq!((load.requests.get(), a.taken.owner.requests.get()), (0, 0));
    }

    #[test]
    fn what_is_in_flight_keeps_the_seat_of_its_connection() {
        let load = load();
        let seat = load.take(None).unwrap();
        let tunnel = seat.admit().unwrap();
        drop(seat);
        assert_eq!(load.seats.borrow().len(), 1);
        drop(tunnel);
        assert!(load.seats.borrow().is_empty());
    }
}
