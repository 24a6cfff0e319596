//! Which endpoint a request goes to.
//!
//! Phase: endpoint, in the caller's sidecar, for every attempt. From `RetryPolicy.loadBalancing`;
//! without it, least request. When there is nobody to pick, the client sees 503 with reason
//! `no_endpoints` and `Retry-After`.
//!
//! - Least request: of two endpoints drawn at random, the one that is expected to answer sooner: the
//!   average of its answer times ([`answer_time`]) times the requests it has in flight, this one
//!   included. Of two of which one has not answered yet, the one with fewer in flight. Source:
//!   Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
//! - Round robin: one after the other, from a place drawn at random, so that callers do not march in
//!   step.
//! - Consistent hash: always the same endpoint for the same value ([`hash`]); the next one for it
//!   when that one is avoided. A request without the value is balanced by least request.
//!
//! Nobody is picked whose circuit is open ([`super::circuit_breaker`]): if all are, the client sees 503
//! with reason `circuit_open`. Who is picked from then: endpoints that are well ([`super::health_check`]) and were not tried for this
//! request; of these, those that their slices hint to the caller's zone, if all endpoints have
//! hints and some are for that zone (as kube-proxy does). Each of these is given up, the zone first,
//! rather than that nobody is asked. A new endpoint's share grows for `slowStart`, from a tenth.
//!
//! Requests in flight and answer times are this worker's own: nothing is shared between workers, and
//! two random choices need no exact counts.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use rand::Rng;
use tokio::time::Instant;

use super::circuit_breaker::{Circuits, Trial};
use super::health_check::Health;
use crate::config::retry_policy::{Algorithm, Balancing};
use crate::proxy::error::{Error, Reason};

pub mod answer_time;
pub mod hash;

/// The share of its fair share that a new endpoint begins with, under slow start.
const FIRST_SHARE: f64 = 0.1;

/// The endpoints of one port of a Service, as one worker uses them.
#[derive(Debug)]
pub struct LoadBalancer<E> {
    /// Those for the caller's zone first.
    places: Vec<Place<E>>,
    /// How many of them are.
    near: usize,
    /// Whether any of them is asked if it is well.
    asked: bool,
    balancing: Balancing,
    circuits: Option<Rc<Circuits>>,
    /// The hash of the calling workload.
    source: u64,
    turn: Cell<usize>,
    used: Cell<bool>,
}

/// An endpoint among the others.
#[derive(Debug)]
pub struct Place<E> {
    /// The endpoint.
    pub endpoint: Rc<E>,
    /// What is known of its health, where anything is.
    pub health: Option<Arc<Health>>,
    hash: u64,
    /// When it came while others were there already.
    came: Option<Instant>,
}

/// What can be picked.
pub trait Candidate {
    /// Requests in flight.
    fn in_flight(&self) -> u32;
    /// How long it takes to answer, in seconds, as far as is known.
    fn answer_time(&self, now: Instant) -> Option<f64>;
}

/// What a balancer is made for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caller<'a> {
    /// Its workload, `namespace/pod`.
    pub workload: &'a str,
    /// Its zone; empty when that is not known.
    pub zone: &'a str,
}

/// One endpoint that a balancer is made of.
#[derive(Debug)]
pub struct Offered<'a, E> {
    /// The endpoint.
    pub endpoint: Rc<E>,
    /// What it is called, for hashing: the same for all callers.
    pub address: std::net::SocketAddr,
    /// The zones that it is hinted to.
    pub for_zones: &'a [String],
    /// What is known of its health, where that is asked.
    pub health: Option<Arc<Health>>,
}

// === build ===

impl<E: Candidate> LoadBalancer<E> {
    /// Balances over endpoints; what is known of them lives in themselves and so survives. `old` is
    /// the balancer that this one replaces: an endpoint that it did not have is new.
    pub fn build(
        offered: Vec<Offered<'_, E>>,
        balancing: Balancing,
        caller: Caller<'_>,
        old: Option<&Self>,
    ) -> Self {
        let hinted = offered.iter().all(|one| !one.for_zones.is_empty());
        let is_near = |one: &Offered<'_, E>| one.for_zones.iter().any(|zone| zone == caller.zone);
        let prefers = hinted && !caller.zone.is_empty() && offered.iter().any(is_near);
        let old = old.filter(|old| !old.is_empty() && balancing.slow_start.is_some());
        let old = old.map(|old| {
            let places = old.places.iter();
            let places = places.map(|place| (Rc::as_ptr(&place.endpoint), place.came));
            places.collect::<HashMap<_, _>>()
        });
        let place = |one: Offered<'_, E>| {
            let known = old
                .as_ref()
                .map(|old| old.get(&Rc::as_ptr(&one.endpoint)).copied());
            Place {
                hash: hash::of_text(one.address.to_string().as_bytes()),
                came: known.and_then(|known| known.unwrap_or_else(|| Some(Instant::now()))),
                endpoint: one.endpoint,
                health: one.health,
            }
        };
        let (near, far): (Vec<_>, Vec<_>) = offered
            .into_iter()
            .partition(|one| !prefers || is_near(one));
        let count = near.len();
        let places: Vec<_> = near.into_iter().chain(far).map(place).collect();
        Self {
            asked: places.iter().any(|place| place.health.is_some()),
            turn: Cell::new(rand::rng().random_range(0..places.len().max(1))),
            places,
            near: count,
            balancing,
            circuits: None,
            source: hash::of_text(caller.workload.as_bytes()),
            used: Cell::new(false),
        }
    }

    /// The same, which picks nobody whose circuit is open.
    pub fn with_circuits(mut self, circuits: Option<Rc<Circuits>>) -> Self {
        self.asked |= circuits.is_some();
        self.circuits = circuits;
        self
    }

    /// Balances over `endpoints` by least request.
    pub fn new(endpoints: Vec<Rc<E>>) -> Self {
        let place = |endpoint| Place {
            endpoint,
            health: None,
            hash: 0,
            came: None,
        };
        Self {
            asked: false,
            near: endpoints.len(),
            places: endpoints.into_iter().map(place).collect(),
            balancing: Balancing::default(),
            circuits: None,
            source: 0,
            turn: Cell::new(0),
            used: Cell::new(false),
        }
    }
}

// === request ===

impl<E: Candidate> LoadBalancer<E> {
    /// What [`LoadBalancer::pick`] hashes of a request; of a connection, which has no headers, only
    /// where it comes from.
    pub fn key(&self, headers: Option<&HeaderMap>) -> Option<u64> {
        match &self.balancing.algorithm {
            Algorithm::ConsistentHash(on) => hash::of_request(on, self.source, headers),
            Algorithm::LeastRequest | Algorithm::RoundRobin => None,
        }
    }

    /// Picks an endpoint to send a request to, whose circuit is told what becomes of it if there is one;
    /// what is not answered by `deadline` is its fault.
    ///
    /// # Errors
    /// `no_endpoints`, `circuit_open`.
    pub fn enter(
        &self,
        key: Option<u64>,
        tried: &[Rc<E>],
        deadline: Option<Instant>,
    ) -> Result<(Rc<E>, Option<Trial>), Error> {
        let Some(circuits) = &self.circuits else {
            return Ok((self.pick(key, tried)?, None));
        };
        // Another worker may take the turn to try an endpoint between a look and a step.
        for _ in 0..=self.places.len() {
            let endpoint = self.pick(key, tried)?;
            let mut places = self.places.iter();
            let place = places.find(|place| Rc::ptr_eq(&place.endpoint, &endpoint));
            let Some(health) = place.and_then(|place| place.health.as_ref()) else {
                return Ok((endpoint, None));
            };
            if let Some(trial) = circuits.enter(health, deadline) {
                return Ok((endpoint, Some(trial)));
            }
        }
        Err(circuits.all_open())
    }

    /// Whether there is an endpoint that is not among `tried` and can be called.
    pub fn has_another(&self, tried: &[Rc<E>]) -> bool {
        let mut places = self.places.iter();
        places.any(|place| self.admits(place) && is_fresh(place, tried))
    }

    /// Picks an endpoint that is not among `tried`, or any when all have been.
    ///
    /// # Errors
    /// `no_endpoints`, `circuit_open`.
    pub fn pick(&self, key: Option<u64>, tried: &[Rc<E>]) -> Result<Rc<E>, Error> {
        self.used.set(true);
        let near = self.places.get(..self.near).unwrap_or_default();
        match self.places.as_slice() {
            [] => return Err(Reason::NoEndpoints.into()),
            [only] if self.circuits.is_none() => return Ok(only.endpoint.clone()),
            _ if tried.is_empty() && (!self.asked || near.iter().all(|one| self.is_good(one))) => {
                return Ok(self.among(near.len(), |n| &near[n], key).endpoint.clone());
            }
            _ => {}
        }
        let fresh = |place: &Place<E>| self.admits(place) && is_fresh(place, tried);
        let good = |place: &Place<E>| place.is_well() && fresh(place);
        let all = self.places.as_slice();
        let place = self
            .among_those(near, key, good)
            .or_else(|| self.among_those(all, key, good))
            .or_else(|| self.among_those(near, key, fresh))
            .or_else(|| self.among_those(all, key, fresh))
            .or_else(|| self.among_those(all, key, |place| self.admits(place)));
        match (place, &self.circuits) {
            (Some(place), _) => Ok(place.endpoint.clone()),
            (None, Some(circuits)) => Err(circuits.all_open()),
            (None, None) => Err(Reason::NoEndpoints.into()),
        }
    }

    fn is_good(&self, place: &Place<E>) -> bool {
        place.is_well() && self.admits(place)
    }

    /// Whether its circuit lets it be called.
    fn admits(&self, place: &Place<E>) -> bool {
        match (&self.circuits, &place.health) {
            (Some(circuits), Some(health)) => circuits.admit(health),
            _ => true,
        }
    }

    /// One of those that are `wanted`, if there are any.
    fn among_those<'a>(
        &self,
        places: &'a [Place<E>],
        key: Option<u64>,
        wanted: impl Fn(&Place<E>) -> bool,
    ) -> Option<&'a Place<E>> {
        let some: Vec<_> = places.iter().filter(|place| wanted(place)).collect();
        (!some.is_empty()).then(|| self.among(some.len(), |n| some[n], key))
    }

    /// One of `count` places, which is not 0.
    fn among<'a>(
        &self,
        count: usize,
        at: impl Fn(usize) -> &'a Place<E>,
        key: Option<u64>,
    ) -> &'a Place<E> {
        match (&self.balancing.algorithm, key) {
            (Algorithm::ConsistentHash(_), Some(key)) => {
                let weight = |n: &usize| hash::weight(key, at(*n).hash);
                at((0..count).max_by_key(weight).unwrap_or(0))
            }
            (Algorithm::RoundRobin, _) => self.next(count, at),
            (Algorithm::LeastRequest | Algorithm::ConsistentHash(_), _) => {
                self.sooner_of_two(count, at)
            }
        }
    }

    /// The next in turn; a new one lets some of its turns pass.
    fn next<'a>(&self, count: usize, at: impl Fn(usize) -> &'a Place<E>) -> &'a Place<E> {
        let turn = || {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            at(turn % count)
        };
        let now = self.balancing.slow_start.map(|_| Instant::now());
        let takes = |place: &Place<E>| match (now, self.balancing.slow_start) {
            (Some(now), Some(grows)) => {
                place.came.is_none() || rand::rng().random_bool(place.share(grows, now))
            }
            _ => true,
        };
        let mut place = turn();
        for _ in 1..count {
            if takes(place) {
                break;
            }
            place = turn();
        }
        place
    }

    fn sooner_of_two<'a>(&self, count: usize, at: impl Fn(usize) -> &'a Place<E>) -> &'a Place<E> {
        let mut random = rand::rng();
        let first = random.random_range(0..count);
        if count == 1 {
            return at(first);
        }
        // Any other one, all equally likely.
        let second = (first + random.random_range(1..count)) % count;
        let (first, second) = (at(first), at(second));
        let now = Instant::now();
        let requests = |place: &Place<E>| f64::from(place.endpoint.in_flight()) + 1.0;
        let share = |place: &Place<E>| match self.balancing.slow_start {
            Some(grows) => place.share(grows, now),
            None => 1.0,
        };
        let times = [first, second].map(|place| place.endpoint.answer_time(now));
        let [one, other] = match times {
            [Some(one), Some(other)] => [one, other],
            _ => [1.0, 1.0],
        };
        let one = one * requests(first) / share(first);
        let other = other * requests(second) / share(second);
        if other < one { second } else { first }
    }

    /// Whether it has been picked from since this was last asked.
    pub fn was_used(&self) -> bool {
        self.used.replace(false)
    }

    /// The endpoints, and what is known of their health.
    pub fn places(&self) -> &[Place<E>] {
        &self.places
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

impl<E> Place<E> {
    fn is_well(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.is_well())
    }

    /// Its share, relative to those that have been there for longer than `grows`.
    fn share(&self, grows: Duration, now: Instant) -> f64 {
        let Some(came) = self.came else {
            return 1.0;
        };
        let there = now.saturating_duration_since(came).as_secs_f64();
        (there / grows.as_secs_f64()).clamp(FIRST_SHARE, 1.0)
    }
}

fn is_fresh<E>(place: &Place<E>, tried: &[Rc<E>]) -> bool {
    !tried.iter().any(|one| Rc::ptr_eq(one, &place.endpoint))
}

#[cfg(test)]
mod tests;
