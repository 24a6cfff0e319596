//! The life of a request.
//!
//! ```text
//!  application A                                                      application B
//!      │ captured: 15001                                                    ▲
//!      ▼                                                                    │ at the address called
//!  outbound ── original destination → Destination                       inbound ── peer's identity, Guard of the port
//!      │        (captured.rs, destination.rs)                               ▲
//!      │ route: which rule, which backend                                   │ mutual TLS, ALPN meshwright/h2: 15006
//!   layers ─── filters of the rule: answer, edit, copy (policy/, copy.rs)  │
//!      │        what callers keep, where it is said (cache.rs)              │
//!      ▼                                                                    │
//!  forward ──── deadline, pick an endpoint, connect, send, and again ───────┘
//!   (forward.rs, attempts.rs)   (policy/timeout, load_balancer, retry, attempt.rs, upstream.rs)
//! ```
//!
//! [`outbound`] and [`inbound`] each have two functions: `serve` cannot fail and accounts for
//! every request; the fallible one under it reads like the picture. They call; they do not parse,
//! compare or compute.

pub mod access;
pub mod attempt;
pub mod attempts;
pub mod body;
pub mod cache;
pub mod captured;
pub mod context;
pub mod copy;
pub mod destination;
pub mod error;
pub mod fetch;
pub mod forward;
pub mod from_application;
pub mod from_peer;
pub mod gate;
pub mod headers;
pub mod health;
pub mod idempotency;
pub mod idle;
pub mod inbound;
pub mod keys;
pub mod layers;
pub mod limits;
pub mod load;
pub mod opaque;
pub mod outbound;
pub mod outside;
pub mod path;
pub mod plaintext;
pub mod rate_limit;
pub mod serve;
pub mod store;
pub mod upgrade;
pub mod upstream;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use destination::{Destination, Destinations};
use load::Load;
use upstream::{Dial, Upstream};
use wire::lookup::Question;

use crate::config::State;
use crate::config::lookup::Asking;
use crate::config::subscription::{Outside, Target};
use crate::drain::Drain;
use crate::events::connections::Connections;
use crate::events::jobs::fetch::Results;
use crate::events::subscriber::Subscribers;
use crate::events::{publish, stream};
use crate::net::places::Places;
use crate::policy::authentication::Known;
use crate::policy::compression::Compressors;
use crate::policy::mirror::Copies;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::RequestMetrics;

/// Everything a worker needs to carry requests. One for each worker, never shared.
pub struct Proxy {
    /// Where calls of the application lead.
    pub destinations: Destinations,
    /// How connections are made.
    pub dial: Dial,
    /// What is counted.
    pub metrics: Rc<RequestMetrics>,
    /// What is written down.
    pub access_log: AccessLog,
    /// When to stop.
    pub drain: Drain,
    /// Places for connections whose peer has not proved who it is yet.
    pub strangers: Rc<Places>,
    /// What is taken on of the own application.
    pub outbound: Rc<Load>,
    /// What is taken on of others.
    pub inbound: Rc<Load>,
    /// Copies of requests that are under way.
    pub copies: Rc<Copies>,
    /// Responses that are compressed.
    pub compressors: Rc<Compressors>,
    /// What is remembered of credentials.
    pub known: Known,
    /// Where limits that replicas share are counted.
    pub stores: store::Stores,
    /// Brokers of events.
    pub brokers: Connections,
    /// EventSubscriptions that are carried out here.
    pub subscribers: Subscribers,
    /// Requests that become events.
    pub publishing: publish::Room,
    /// Who listens to topics.
    pub listening: stream::Listeners,
    /// What is given of what came of events.
    pub results: Results,
    /// Who is asked about addresses that mean nothing yet.
    pub asking: Asking,
    /// How the own application is, as it said lately.
    pub health_answers: health::Answers,
    /// Connections to the own application, by the address called.
    applications: RefCell<HashMap<SocketAddr, Rc<Upstream>>>,
    /// Systems outside the mesh that events are posted to, by their EventSubscription.
    systems: RefCell<HashMap<Arc<str>, System>>,
}

/// A system outside the mesh, as it is written now, and the connections there.
struct System {
    outside: Arc<Outside>,
    upstream: Rc<Upstream>,
}

// === impl Proxy ===

impl Proxy {
    /// A worker's proxy, with nothing configured yet.
    pub fn new(
        dial: Dial,
        metrics: Rc<RequestMetrics>,
        access_log: AccessLog,
        drain: Drain,
        asking: Asking,
    ) -> Self {
        Self {
            asking,
            destinations: Destinations::new(dial.clone()),
            dial,
            metrics,
            access_log,
            drain,
            strangers: Places::new(limits::STRANGERS),
            outbound: Load::new(limits::LOAD_OF_APPLICATION),
            inbound: Load::new(limits::LOAD),
            copies: Rc::default(),
            compressors: Rc::default(),
            known: Known::default(),
            stores: store::Stores::default(),
            brokers: Connections::default(),
            subscribers: Subscribers::default(),
            publishing: publish::Room::default(),
            listening: stream::Listeners::default(),
            results: Results::default(),
            health_answers: health::Answers::default(),
            applications: RefCell::default(),
            systems: RefCell::default(),
        }
    }

    /// Puts another state in force.
    pub fn follow(&self, state: Arc<State>) {
        // Only addresses that a Guard covers or events are delivered to are ever called, so this map is
        // bounded by them.
        self.applications.borrow_mut().retain(|called, _| {
            let mut targets = state.built.subscriptions.values().map(|one| &one.target);
            let is_target =
                |to: &Target| matches!(to, Target::Application(port) if *port == called.port());
            state.served(called.port()).is_ok() || targets.any(is_target)
        });
        self.systems.borrow_mut().retain(|object, system| {
            let mut subscriptions = state.built.subscriptions.values();
            subscriptions.any(|one| one.object == *object && one.target.is(&system.outside))
        });
        self.destinations.follow(state);
    }

    /// Asks what an address or a name means, and waits until this worker has the answer in force, or none
    /// has come in time.
    async fn ask(&self, question: Question) {
        let Some(number) = self.asking.ask(question).await else {
            return;
        };
        // The state is here; the task that puts it in force is on this thread, and due.
        while self.destinations.state().number < number {
            tokio::task::yield_now().await;
        }
    }

    /// A Service by its name, at a port of it, for calls of the sidecar's own.
    pub async fn named(&self, host: &str, port: u16) -> Option<Rc<Destination>> {
        let question = self.destinations.state().question_of(host);
        if let Some(question) = question {
            self.ask(question).await;
        }
        let state = self.destinations.state();
        let service = state.named(host)?;
        let port = service.port(port)?;
        Some(self.destinations.find(service, port))
    }

    /// The own application, at an address that a Guard covers or that events are delivered to.
    pub fn application(&self, called: SocketAddr) -> Rc<Upstream> {
        let mut applications = self.applications.borrow_mut();
        let new = || Upstream::application(called, self.dial.clone());
        applications.entry(called).or_insert_with(new).clone()
    }

    /// A system outside the mesh that the events of an EventSubscription (`namespace/name`) are posted to.
    pub fn system(&self, object: &Arc<str>, outside: &Arc<Outside>) -> Rc<Upstream> {
        let new = || System {
            outside: outside.clone(),
            upstream: Upstream::system(outside.clone(), self.dial.clone()),
        };
        let mut systems = self.systems.borrow_mut();
        let system = systems.entry(object.clone()).or_insert_with(new);
        if !Arc::ptr_eq(&system.outside, outside) {
            *system = new();
        }
        system.upstream.clone()
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}
