//! Circuit breaking: an endpoint that fails is not called for a while.
//!
//! Phase: endpoint, in the caller's sidecar, for every attempt. From `RetryPolicy.circuitBreaker`; off
//! without it. While the circuits of all endpoints are open, a client sees 503 with reason `circuit_open`
//! and `Retry-After` at once, and nothing is sent.
//!
//! - Closed: the endpoint is called. So many failures in a row open it, and so does the share of failures
//!   among the answers of the window, if there were enough. They are counted exactly, in a ring of ten
//!   buckets: an average that forgets slowly would hide a burst.
//! - Open: it is not called for `openFor` and up to a quarter more, twice as long each time that it still
//!   fails afterwards, up to `maxOpenFor`.
//! - Half open: so many requests try it. When all of them have succeeded it is closed; when one fails, it
//!   is open again.
//!
//! Of the endpoints of a port, no more than `maxEjectedPercent` are open at once, but always one can be.
//! What is the caller's own fault counts as a success: a status of 400 to 499, and the gRPC statuses that
//! mean as much.
//!
//! One circuit is shared by all workers of a sidecar. While it is closed, a request costs one atomic; a
//! lock is taken only by who finds it open, or opens it. It outlives edits; one that changes the window
//! begins to count anew.

mod counts;
mod sole;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use wire::mesh;

use counts::{BUCKETS, Counts};
pub use sole::{Call, Sole};

use super::health_check::{Health, Healths};
use crate::config::service::ServiceKey;
use crate::proxy::error::{Error, Reason};

/// No span of a policy is longer.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// When circuits open and close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    consecutive_failures: u32,
    error_percent: u32,
    min_requests: u32,
    /// A tenth of the window, in milliseconds.
    bucket_ms: u32,
    on_server_error: bool,
    on_timeout: bool,
    on_connect: bool,
    on_reset: bool,
    open_for: Duration,
    max_open_for: Duration,
    half_open_requests: u32,
    max_ejected_percent: u32,
}

/// The circuit of one endpoint.
#[derive(Debug)]
pub struct Circuit {
    closed: AtomicBool,
    in_a_row: AtomicU32,
    counts: Counts,
    turn: Mutex<Turn>,
}

/// What happens while it is not closed.
#[derive(Debug)]
struct Turn {
    until: Instant,
    /// How often it has opened since it was closed.
    times: u32,
    /// Requests that try it now.
    trying: u32,
    /// Those that succeeded.
    good: u32,
    /// Counts openings, so that who tried it before has no say after.
    opening: u64,
}

/// How a circuit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CircuitState {
    /// Called.
    Closed,
    /// Not called.
    Open,
    /// Tried.
    HalfOpen,
}

/// The circuits of the endpoints of one port of a Service, as one worker uses them.
#[derive(Debug)]
pub struct Circuits {
    breaker: CircuitBreaker,
    service: ServiceKey,
    all: Vec<Arc<Health>>,
    healths: Arc<Healths>,
}

/// An attempt whose outcome the circuit of its endpoint is told. One that is dropped before it is known
/// tells nothing, but if its time was up.
#[derive(Debug)]
pub struct Trial {
    circuits: Rc<Circuits>,
    health: Arc<Health>,
    /// The opening after which it tries; `None` when the circuit was closed.
    tries: Option<u64>,
    deadline: Option<Instant>,
    answered: bool,
}

/// What an endpoint did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answered with an error of its own.
    ServerError,
    /// It did not answer in time.
    Timeout,
    /// It, or the application behind its sidecar, can't be connected to.
    Connect,
    /// Its connection ended early.
    Reset,
}

// === build ===

impl CircuitBreaker {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: &mesh::CircuitBreaker) -> Result<Self, String> {
        let percents = [sent.error_percent, sent.max_ejected_percent];
        if !percents.iter().all(|percent| (1..=100).contains(percent)) {
            return Err("percentages are from 1 to 100".into());
        }
        let bucket_ms = u32::try_from(sent.window_ms / BUCKETS as u64).unwrap_or_default();
        if bucket_ms == 0 || sent.window_ms > DAY_MS {
            return Err("a window is some hundredths of a second, and no more than a day".into());
        }
        let spans = [sent.open_for_ms, sent.max_open_for_ms];
        if !spans.iter().all(|span| (1..=DAY_MS).contains(span)) {
            return Err("a circuit is open for some time, and no more than a day".into());
        }
        Ok(Self {
            consecutive_failures: sent.consecutive_failures.max(1),
            error_percent: sent.error_percent,
            min_requests: sent.min_requests.max(1),
            bucket_ms,
            on_server_error: sent.on_5xx,
            on_timeout: sent.on_timeout,
            on_connect: sent.on_connect,
            on_reset: sent.on_reset,
            open_for: Duration::from_millis(sent.open_for_ms),
            max_open_for: Duration::from_millis(sent.max_open_for_ms.max(sent.open_for_ms)),
            half_open_requests: sent.half_open_requests.max(1),
            max_ejected_percent: sent.max_ejected_percent,
        })
    }

    /// As people are told it.
    pub fn in_words(&self) -> String {
        format!(
            "an endpoint is not called for {:?} after {} failures in a row, or {} % of at least {} answers",
            self.open_for, self.consecutive_failures, self.error_percent, self.min_requests
        )
    }

    fn counts(&self, fault: Fault) -> bool {
        match fault {
            Fault::ServerError => self.on_server_error,
            Fault::Timeout => self.on_timeout,
            Fault::Connect => self.on_connect,
            Fault::Reset => self.on_reset,
        }
    }

    /// How long a circuit is open that opens for so many times in a row.
    fn open_for(&self, times: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
        let whole = self.open_for.saturating_mul(doubled).min(self.max_open_for);
        whole.mul_f64(rand::rng().random_range(1.0..=1.25))
    }
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            closed: AtomicBool::new(true),
            in_a_row: AtomicU32::new(0),
            counts: Counts::default(),
            turn: Mutex::new(Turn {
                until: Instant::now(),
                times: 0,
                trying: 0,
                good: 0,
                opening: 0,
            }),
        }
    }
}

impl Circuits {
    /// The circuits of these endpoints.
    pub fn new(
        breaker: CircuitBreaker,
        service: ServiceKey,
        all: Vec<Arc<Health>>,
        healths: Arc<Healths>,
    ) -> Rc<Self> {
        let circuits = Self {
            breaker,
            service,
            all,
            healths,
        };
        circuits.hold_to_share();
        Rc::new(circuits)
    }

    /// Endpoints come and go, and so the share that may be open: what is more than that is tried at once,
    /// those first that would be first.
    fn hold_to_share(&self) {
        let open = self.all.iter().map(|health| &health.circuit);
        let open = open.filter(|circuit| !circuit.is_closed());
        let mut open = Vec::from_iter(open.map(|circuit| (circuit.turn().until, circuit)));
        let may = self.all.len() * self.breaker.max_ejected_percent as usize / 100;
        let surplus = open.len().saturating_sub(may.max(1));
        open.sort_by_key(|(until, _)| *until);
        for (_, circuit) in open.into_iter().take(surplus) {
            circuit.is_due();
        }
    }
}

// === request ===

impl Circuits {
    /// Whether an endpoint can be called now.
    pub fn admit(&self, health: &Health) -> bool {
        health.circuit.admits(&self.breaker)
    }

    /// An endpoint is going to be called; `None` when another request has just taken the turn to try it.
    pub fn enter(
        self: &Rc<Self>,
        health: &Arc<Health>,
        deadline: Option<Instant>,
    ) -> Option<Trial> {
        let tries = health.circuit.enter(&self.breaker)?;
        Some(Trial {
            circuits: self.clone(),
            health: health.clone(),
            tries,
            deadline,
            answered: false,
        })
    }

    /// That no endpoint can be called, and when to come back.
    pub fn all_open(&self) -> Error {
        let now = Instant::now();
        let untils = self.all.iter().map(|health| health.circuit.turn().until);
        let wait = untils
            .min()
            .map(|until| until.saturating_duration_since(now));
        Error::from(Reason::CircuitOpen).retry_after(wait.unwrap_or_default())
    }

    /// Whether one more may be open. Asked by one at a time.
    fn spare_one(&self) -> bool {
        let open = self.all.iter().filter(|health| !health.circuit.is_closed());
        let open = open.count();
        open == 0 || (open + 1) * 100 <= self.breaker.max_ejected_percent as usize * self.all.len()
    }
}

impl Trial {
    /// It has answered, well so far. Who only tries has seen enough.
    pub fn answered(&mut self) {
        match self.tries.take() {
            Some(opening) => {
                if self
                    .health
                    .circuit
                    .tried(&self.circuits.breaker, opening, Some(true))
                {
                    self.circuits.healths.closed_again(&self.circuits.service);
                }
                // What it does wrong from here on counts as that of any other.
                self.answered = false;
            }
            None => self.answered = true,
        }
    }

    /// Whatever has become of it, it has not done wrong.
    pub fn forgive(mut self) {
        self.deadline = None;
    }

    /// It has done wrong.
    pub fn failed(mut self, fault: Fault) {
        self.answered = false;
        self.deadline = None;
        self.fails(fault);
    }

    fn fails(&mut self, fault: Fault) {
        let Circuits {
            breaker,
            service,
            healths,
            ..
        } = &*self.circuits;
        let counts = breaker.counts(fault);
        let circuit = &self.health.circuit;
        let opened = match self.tries.take() {
            Some(opening) => {
                let closed = circuit.tried(breaker, opening, Some(!counts));
                if closed {
                    healths.closed_again(service);
                }
                counts
            }
            None if counts => {
                circuit.failed(breaker) && {
                    let _one = healths.one_at_a_time();
                    self.circuits.spare_one() && circuit.open(breaker)
                }
            }
            None => {
                circuit.succeeded(breaker);
                false
            }
        };
        if opened {
            healths.opened(service);
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        match (self.answered, self.tries) {
            (true, _) => self.health.circuit.succeeded(&self.circuits.breaker),
            (false, _) if late => self.fails(Fault::Timeout),
            (false, Some(opening)) => {
                let _ = self
                    .health
                    .circuit
                    .tried(&self.circuits.breaker, opening, None);
            }
            (false, None) => {}
        }
    }
}

impl Circuit {
    /// How it is now.
    pub fn state(&self) -> CircuitState {
        match (self.is_closed(), self.turn().until <= Instant::now()) {
            (true, _) => CircuitState::Closed,
            (false, false) => CircuitState::Open,
            (false, true) => CircuitState::HalfOpen,
        }
    }

    /// Whether it has ever been told anything.
    pub fn is_used(&self) -> bool {
        self.counts.are_used()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is tried from now on, if it is open.
    fn is_due(&self) {
        let mut turn = self.turn();
        turn.until = turn.until.min(Instant::now());
    }

    fn admits(&self, breaker: &CircuitBreaker) -> bool {
        self.is_closed() || self.turn().has_room(breaker)
    }

    /// The opening after which a request tries it, if that is what it does; `None` when it may not.
    #[allow(clippy::option_option, reason = "whether it may, and whether it tries")]
    fn enter(&self, breaker: &CircuitBreaker) -> Option<Option<u64>> {
        if self.is_closed() {
            return Some(None);
        }
        let mut turn = self.turn();
        if self.is_closed() {
            return Some(None);
        }
        turn.has_room(breaker).then(|| {
            turn.trying += 1;
            Some(turn.opening)
        })
    }

    /// Who has tried it says whether it is well, if that is known. Returns whether it is closed now
    /// because of that.
    fn tried(&self, breaker: &CircuitBreaker, opening: u64, good: Option<bool>) -> bool {
        let mut turn = self.turn();
        if turn.opening != opening || self.is_closed() {
            return false;
        }
        turn.trying = turn.trying.saturating_sub(1);
        match good {
            None => false,
            Some(true) => {
                turn.good += 1;
                let closes = turn.good >= breaker.half_open_requests;
                if closes {
                    turn.times = 0;
                    self.in_a_row.store(0, Ordering::Relaxed);
                    self.counts.begin_anew(breaker.bucket_ms);
                    self.closed.store(true, Ordering::Relaxed);
                }
                closes
            }
            Some(false) => {
                turn.open(breaker);
                false
            }
        }
    }

    fn succeeded(&self, breaker: &CircuitBreaker) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        self.counts.add(breaker.bucket_ms, false);
    }

    /// Returns whether it is to open.
    fn failed(&self, breaker: &CircuitBreaker) -> bool {
        self.counts.add(breaker.bucket_ms, true);
        let in_a_row = self
            .in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if in_a_row >= breaker.consecutive_failures {
            return true;
        }
        let (all, failed) = self.counts.recent(breaker.bucket_ms);
        let share = failed * 100 >= u64::from(breaker.error_percent) * all;
        share && all >= u64::from(breaker.min_requests)
    }

    /// Opens it, if it is closed.
    fn open(&self, breaker: &CircuitBreaker) -> bool {
        let mut turn = self.turn();
        let was_closed = self.closed.swap(false, Ordering::Relaxed);
        if was_closed {
            turn.open(breaker);
        }
        was_closed
    }
}

impl Turn {
    fn has_room(&self, breaker: &CircuitBreaker) -> bool {
        // One can always try: otherwise there would be no way out where fewer are asked for than have
        // already been well.
        let room = self.trying == 0 || self.trying + self.good < breaker.half_open_requests;
        self.until <= Instant::now() && room
    }

    fn open(&mut self, breaker: &CircuitBreaker) {
        self.times = self.times.saturating_add(1);
        self.opening += 1;
        (self.trying, self.good) = (0, 0);
        self.until = Instant::now() + breaker.open_for(self.times);
    }
}

#[cfg(test)]
mod tests;
