//! Which endpoints are well, as they say when they are asked.
//!
//! Phase: endpoint, in the caller's sidecar, beside all requests. From `RetryPolicy.healthCheck`; off
//! without it. Clients see nothing of it: an endpoint that is not well is not picked
//! ([`super::load_balancer`]), unless none is. `proxy/health.rs` asks.
//!
//! What keeps callers × endpoints from being a storm: only endpoints of Services that were called
//! lately are asked ([`UNUSED_ROUNDS`]), by one of a sidecar's workers; a sidecar asks at most ten
//! endpoints a second ([`SPACING`]), however many it knows, so that rounds grow longer instead; and
//! a destination's sidecar passes on at most one question a second for each path ([`SHARED`]),
//! however many ask.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::circuit_breaker::{Circuit, CircuitState};
use crate::config::retry_policy::HealthCheck;
use crate::config::service::{Endpoint, ServiceKey};

/// From one question of a sidecar to the next, to whomever: at most ten a second.
pub const SPACING: Duration = Duration::from_millis(100);

/// For how many intervals a Service that nobody calls is still asked for.
pub const UNUSED_ROUNDS: u32 = 5;

/// How long an application's answer holds for all who ask for the same path.
pub const SHARED: Duration = Duration::from_secs(1);

/// What is known of one endpoint of one Service: how it answers when it is asked, and when it is called.
/// All workers of a sidecar share it.
#[derive(Debug, Default)]
pub struct Health {
    /// How it answers when it is called.
    pub circuit: Circuit,
    avoided: AtomicBool,
    /// Answers in a row that speak against what holds.
    against: AtomicU32,
    /// Which balancer asks for all; 0 for none.
    asker: AtomicU64,
}

/// How an endpoint is, of all that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    /// It is called.
    Ready,
    /// It does not answer health checks well, and is avoided.
    Unhealthy,
    /// Its circuit is open: it is not called.
    Open,
    /// Its circuit is half open: it is tried.
    HalfOpen,
}

/// Of which port of which Service, and where.
type Key = (ServiceKey, u16, Endpoint);

/// The health of all endpoints, for all workers of a sidecar.
#[derive(Debug, Default)]
pub struct Healths {
    known: Mutex<Known>,
    next: Mutex<Option<Instant>>,
    askers: AtomicU64,
    /// Who opens a circuit has looked at those of all others.
    opening: Mutex<()>,
    /// How often circuits of a Service's endpoints opened and closed.
    circuits: Mutex<HashMap<ServiceKey, [u64; 2]>>,
}

#[derive(Debug, Default)]
struct Known {
    healths: HashMap<Key, Weak<Health>>,
    /// How many there may be before those that nobody holds are looked for.
    room: usize,
}

// === build ===

impl EndpointState {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Open => "open",
            Self::HalfOpen => "half open",
        }
    }
}

impl Healths {
    /// What is known of an endpoint. Those that nobody holds any more are forgotten.
    pub fn of(&self, service: &ServiceKey, port: u16, endpoint: &Endpoint) -> Arc<Health> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (service.clone(), port, endpoint.clone());
        if let Some(health) = known.healths.get(&key).and_then(Weak::upgrade) {
            return health;
        }
        if known.healths.len() >= known.room {
            known.healths.retain(|_, health| health.strong_count() > 0);
            known.room = 2 * known.healths.len();
        }
        let health = Arc::default();
        known.healths.insert(key, Arc::downgrade(&health));
        health
    }

    /// A number for somebody who asks; never 0, never given twice.
    pub fn asker(&self) -> u64 {
        self.askers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// When the next question may be asked, after those that were promised a time already.
    pub fn turn(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + SPACING);
        turn
    }

    /// Held by who decides whether one more circuit opens.
    pub fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A circuit has opened.
    pub fn opened(&self, service: &ServiceKey) {
        tracing::warn!(%service, "an endpoint fails, and is not called for a while");
        self.changed(service, 0);
    }

    /// A circuit has closed.
    pub fn closed_again(&self, service: &ServiceKey) {
        tracing::info!(%service, "an endpoint that failed is called again");
        self.changed(service, 1);
    }

    fn changed(&self, service: &ServiceKey, how: usize) {
        let circuits = self.circuits.lock();
        let mut circuits = circuits.unwrap_or_else(PoisonError::into_inner);
        circuits.entry(service.clone()).or_default()[how] += 1;
    }

    // === metrics ===

    /// How often circuits of each Service's endpoints have opened and closed.
    pub fn changes(&self) -> Vec<(ServiceKey, [u64; 2])> {
        let circuits = self.circuits.lock();
        let circuits = circuits.unwrap_or_else(PoisonError::into_inner);
        circuits
            .iter()
            .map(|(key, count)| (key.clone(), *count))
            .collect()
    }

    /// How many endpoints of each port whose circuits are used are in each state.
    pub fn states(&self) -> BTreeMap<(ServiceKey, u16), BTreeMap<CircuitState, usize>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = BTreeMap::new();
        for ((service, port, _), health) in &known.healths {
            let health = health.upgrade().filter(|health| health.circuit.is_used());
            if let Some(health) = health {
                let port: &mut BTreeMap<_, _> = states.entry((service.clone(), *port)).or_default();
                *port.entry(health.circuit.state()).or_default() += 1;
            }
        }
        states
    }

    /// How an endpoint is, if anything is known of it.
    pub fn state(
        &self,
        service: &ServiceKey,
        port: u16,
        endpoint: &Endpoint,
    ) -> Option<EndpointState> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (service.clone(), port, endpoint.clone());
        Some(known.healths.get(&key)?.upgrade()?.state())
    }

    /// How many endpoints are avoided.
    pub fn avoided(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let held = known.healths.values().filter_map(Weak::upgrade);
        held.filter(|health| !health.is_well()).count()
    }
}

// === request ===

impl Health {
    /// How it is, of all that is known.
    pub fn state(&self) -> EndpointState {
        match (self.circuit.state(), self.is_well()) {
            (CircuitState::Open, _) => EndpointState::Open,
            (CircuitState::HalfOpen, _) => EndpointState::HalfOpen,
            (CircuitState::Closed, false) => EndpointState::Unhealthy,
            (CircuitState::Closed, true) => EndpointState::Ready,
        }
    }

    /// Nobody asks it any longer: what it answered last is not held against it.
    pub fn is_not_asked(&self) {
        self.against.store(0, Ordering::Relaxed);
        self.avoided.store(false, Ordering::Relaxed);
    }

    /// Whether it answers well when it is asked.
    pub fn is_well(&self) -> bool {
        !self.avoided.load(Ordering::Relaxed)
    }

    /// It has answered, well or not. Returns whether that changes anything.
    pub fn observe(&self, good: bool, check: &HealthCheck) -> bool {
        if good == self.is_well() {
            self.against.store(0, Ordering::Relaxed);
            return false;
        }
        let needed = match good {
            true => check.healthy_threshold,
            false => check.unhealthy_threshold,
        };
        if self.against.fetch_add(1, Ordering::Relaxed) + 1 < needed {
            return false;
        }
        self.against.store(0, Ordering::Relaxed);
        self.avoided.store(!good, Ordering::Relaxed);
        true
    }

    /// Becomes the one that asks, or stays it; not when another is.
    pub fn ask_as(&self, asker: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        let held = self.asker.compare_exchange(0, asker, relaxed, relaxed);
        held.is_ok() || held == Err(asker)
    }

    /// Leaves it to others to ask.
    pub fn leave(&self, asker: u64) {
        let relaxed = Ordering::Relaxed;
        let _ = self.asker.compare_exchange(asker, 0, relaxed, relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::circuit_breaker::{CircuitBreaker, Circuits, Fault};
    use wire::mesh;

    fn check() -> HealthCheck {
        HealthCheck {
            path: "/".parse().unwrap(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }

    #[test]
    fn so_many_bad_answers_in_a_row_and_so_many_good_ones_change_what_holds() {
        let (health, check) = (Health::default(), check());
        let told: Vec<_> = [
            false, false, true, false, false, false, true, false, true, true,
        ]
        .map(|good| (health.observe(good, &check), health.is_well()))
        .into();
        let changed = Vec::from_iter(told.iter().map(|(changed, _)| *changed));
        assert_eq!(Vec::from_iter((0..10).filter(|n| changed[*n])), [5, 9]);
        let well = Vec::from_iter(told.iter().map(|(_, well)| *well));
        assert_eq!(Vec::from_iter((0..10).filter(|n| !well[*n])), [5, 6, 7, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_state_of_an_endpoint_is_made_of_all_that_is_known() {
        let breaker = CircuitBreaker::build(&mesh::CircuitBreaker {
            consecutive_failures: 1,
            error_percent: 1,
            window_ms: 1000,
            on_5xx: true,
            open_for_ms: 1000,
            max_open_for_ms: 1000,
            max_ejected_percent: 1,
            ..Default::default()
        });
        let healths = Arc::new(Healths::default());
        let key = ServiceKey::new("shop", "orders");
        let endpoint = Endpoint {
            address: ([10, 0, 0, 1], 8080).into(),
            identity: None,
            pod: "".into(),
            own_address: true,
        };
        assert_eq!(healths.state(&key, 80, &endpoint), None);
        let health = healths.of(&key, 80, &endpoint);
        let state = || healths.state(&key, 80, &endpoint);
        let all = vec![health.clone()];
        let circuits = Circuits::new(breaker.unwrap(), key.clone(), all, healths.clone());
        assert_eq!(state(), Some(EndpointState::Ready));
        for _ in 0..3 {
            health.observe(false, &check());
        }
        assert_eq!(state(), Some(EndpointState::Unhealthy));
        circuits
            .enter(&health, None)
            .unwrap()
            .failed(Fault::ServerError);
        assert_eq!(state(), Some(EndpointState::Open));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(state(), Some(EndpointState::HalfOpen));
        circuits.enter(&health, None).unwrap().answered();
        assert_eq!(
            state(),
            Some(EndpointState::Unhealthy),
            "that is another matter"
        );
        health.is_not_asked();
        assert_eq!(state(), Some(EndpointState::Ready));
        assert_eq!(healths.changes(), [(key, [1, 1])]);
    }

    #[test]
    fn one_asks_for_all_until_it_leaves() {
        let health = Health::default();
        assert!(health.ask_as(1) && health.ask_as(1));
        assert!(!health.ask_as(2));
        health.leave(2);
        assert!(!health.ask_as(2));
        health.leave(1);
        assert!(health.ask_as(2));
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_want_to_ask_ten_a_second_do() {
        let (healths, begun) = (Healths::default(), Instant::now());
        let last = (0..101).map(|_| healths.turn()).last().unwrap();
        assert_eq!(last - begun, Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(healths.turn(), Instant::now());
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let healths = Healths::default();
        let endpoint = |port| Endpoint {
            address: ([10, 0, 0, 1], port).into(),
            identity: None,
            pod: "".into(),
            own_address: true,
        };
        let key = ServiceKey::new("shop", "orders");
        let held = healths.of(&key, 80, &endpoint(1));
        held.observe(
            false,
            &HealthCheck {
                unhealthy_threshold: 1,
                ..check()
            },
        );
        assert!(!healths.of(&key, 80, &endpoint(1)).is_well());
        assert!(healths.of(&key, 81, &endpoint(1)).is_well());
        assert_eq!(healths.avoided(), 1);
        drop(held);
        assert!(healths.of(&key, 80, &endpoint(1)).is_well());
        for port in 2..1000 {
            healths.of(&key, 80, &endpoint(port));
        }
        assert!(healths.known.lock().unwrap().healths.len() <= 2);
    }
}
