//! Least request: of two endpoints drawn at random, the one with fewer requests in flight.
//!
//! Phase: endpoint, in the caller's sidecar, for every attempt. Always on, no field yet. When there
//! is nobody to pick, the client sees 503 with reason `no_endpoints` and `Retry-After`.
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001). Requests
//! in flight are this worker's own: nothing is shared between workers, and two random choices need
//! no exact counts.

use std::rc::Rc;

use rand::Rng;

use crate::proxy::error::{Error, Reason};

/// The endpoints of one port of a Service, as one worker uses them.
#[derive(Debug)]
pub struct LoadBalancer<E> {
    endpoints: Vec<Rc<E>>,
}

/// What can be picked.
pub trait InFlight {
    /// Requests in flight.
    fn in_flight(&self) -> u32;
}

// === build ===

impl<E: InFlight> LoadBalancer<E> {
    /// Balances over `endpoints`; what is known of them lives in themselves and so survives.
    pub fn new(endpoints: Vec<Rc<E>>) -> Self {
        Self { endpoints }
    }

    // === request ===

    /// Picks an endpoint that is not among `tried`, or any when all have been.
    ///
    /// # Errors
    /// `no_endpoints`.
    pub fn pick(&self, tried: &[Rc<E>]) -> Result<Rc<E>, Error> {
        let fresh = |endpoint: &Rc<E>| !tried.iter().any(|one| Rc::ptr_eq(one, endpoint));
        match self.endpoints.as_slice() {
            [] => Err(Reason::NoEndpoints.into()),
            [only] => Ok(only.clone()),
            all if tried.is_empty() => Ok(two_choices(all)),
            all => {
                let fresh: Vec<Rc<E>> = all.iter().filter(|e| fresh(e)).cloned().collect();
                Ok(two_choices(if fresh.is_empty() { all } else { &fresh }))
            }
        }
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }
}

/// `all` is not empty.
fn two_choices<E: InFlight>(all: &[Rc<E>]) -> Rc<E> {
    let mut random = rand::rng();
    let first = random.random_range(0..all.len());
    if all.len() == 1 {
        return all[first].clone();
    }
    // Any other one, all equally likely.
    let second = (first + random.random_range(1..all.len())) % all.len();
    if all[second].in_flight() < all[first].in_flight() {
        all[second].clone()
    } else {
        all[first].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[derive(Debug)]
    struct Fake(Cell<u32>);
    impl InFlight for Fake {
        fn in_flight(&self) -> u32 {
            self.0.get()
        }
    }

    fn balancer(in_flight: &[u32]) -> LoadBalancer<Fake> {
        let fakes = in_flight.iter().map(|n| Rc::new(Fake(Cell::new(*n))));
        LoadBalancer::new(fakes.collect())
    }

    #[test]
    fn of_two_endpoints_the_less_busy_one_is_always_picked() {
        let balancer = balancer(&[5, 2]);
        for _ in 0..100 {
            assert_eq!(balancer.pick(&[]).unwrap().in_flight(), 2);
        }
    }

    #[test]
    fn the_busiest_of_many_is_never_picked() {
        let balancer = balancer(&[1, 1, 1, 9]);
        for _ in 0..200 {
            assert_eq!(balancer.pick(&[]).unwrap().in_flight(), 1);
        }
    }

    #[test]
    fn equally_busy_endpoints_share_evenly() {
        let balancer = balancer(&[0, 0, 0]);
        let mut picked = [0u32; 3];
        for _ in 0..3000 {
            let one = balancer.pick(&[]).unwrap();
            let place = balancer.endpoints.iter().position(|e| Rc::ptr_eq(e, &one));
            picked[place.unwrap()] += 1;
        }
        // Five standard deviations of a fair draw are 130.
        assert!(picked.iter().all(|n| (850..1150).contains(n)), "{picked:?}");
    }

    #[test]
    fn a_second_try_goes_to_another_endpoint() {
        let balancer = balancer(&[0, 9]);
        let first = balancer.pick(&[]).unwrap();
        let second = balancer.pick(std::slice::from_ref(&first)).unwrap();
        assert!(!Rc::ptr_eq(&first, &second));
    }

    #[test]
    fn nobody_to_pick_is_an_error_with_a_reason() {
        let error = balancer(&[]).pick(&[]).unwrap_err();
        assert_eq!(error.reason, Reason::NoEndpoints);
    }
}
