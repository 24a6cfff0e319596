//! Workers: one thread, one runtime, one set of everything for each.
//!
//! A worker accepts from listeners of its own (`SO_REUSEPORT`), keeps connections of its own, and
//! reads configuration from a handle of its own, so that carrying a request moves nothing between
//! cores and takes no lock, but that of its duration histogram for the time of one addition. What
//! follows from it:
//!
//! - Futures need not be `Send`; live state of a worker is `Rc` and `Cell`.
//! - A connection stays on the worker that accepted it. Few long connections may load workers
//!   unevenly; many, as between sidecars, spread.
//! - Requests in flight, pools and (later) averages are per worker: a decision on them is made with
//!   a part of the picture, which two random choices tolerate. What must be exact for the whole
//!   sidecar (limits, budgets, breakers) is shared as atomics, and says so where it is defined.
//! - The control thread builds configuration and hands over `Arc`s; workers never build.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

use crate::config::State;
use crate::config::followers::Followers;
use crate::config::lookup::Asking;
use crate::drain::Drain;
use crate::events::desk::{self, Desk};
use crate::events::port;
use crate::events::subscriber::Subscribers;
use crate::identity::certs::Credentials;
use crate::net::accept::{accept, listen};
use crate::net::connect::Connector;
use crate::policy::budget::Budgets;
use crate::policy::health_check::Healths;
use crate::proxy::upstream::Dial;
use crate::proxy::{Proxy, from_application, from_peer};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{Metrics, RequestMetrics};

/// How long peers' connections are still accepted once the drain has begun: until every caller has
/// heard that this endpoint is going. After that new ones would only keep the drain from ending.
const LAME_DUCK: Duration = Duration::from_secs(5);

/// Runs hyper's tasks on the worker that spawns them.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

/// What every worker is given.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Where connections of the application arrive.
    pub outbound: SocketAddr,
    /// Where the application publishes events.
    pub publish: SocketAddr,
    /// Where connections of peers arrive.
    pub inbound: Vec<SocketAddr>,
    /// How connections are opened.
    pub connector: Connector,
    /// The state in force.
    pub state: watch::Receiver<Arc<State>>,
    /// Who we are.
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// Who is asked about addresses that mean nothing yet.
    pub asking: Asking,
    /// Whom to tell that what was published is followed.
    pub followers: Arc<Followers>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is written down.
    pub access_log: AccessLog,
    /// How endpoints are.
    pub healths: Arc<Healths>,
    /// How many retries there may be.
    pub budgets: Arc<Budgets>,
    /// When to stop.
    pub drain: Drain,
    /// Who is asked for what people want of EventSubscriptions.
    pub desk: Desk,
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Starts `count` workers; returns when all of them listen.
///
/// They run until the process ends, or until `stop` is told.
///
/// # Errors
/// When an address cannot be listened on, or a thread cannot be started.
pub fn start(
    shared: &Shared,
    count: usize,
    stop: &watch::Receiver<bool>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let (listening, listens) = std::sync::mpsc::channel();
    let workers = (0..count).map(|number| {
        let (shared, stop, listening) = (shared.clone(), stop.clone(), listening.clone());
        std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                if let Err(error) = run((number, count), shared, stop, &listening) {
                    let _ = listening.send(Err(error));
                }
            })
    });
    let workers = workers.collect::<io::Result<Vec<_>>>()?;
    drop(listening);
    for _ in 0..count {
        let gone = |_| io::Error::other("a worker ended before it listened");
        listens.recv().map_err(gone)??;
    }
    Ok(workers)
}

fn run(
    number: (usize, usize),
    shared: Shared,
    mut stop: watch::Receiver<bool>,
    listening: &std::sync::mpsc::Sender<io::Result<()>>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let outbound = listen(shared.outbound)?;
        let publish = listen(shared.publish)?;
        let inbound = shared.inbound.iter().map(|address| listen(*address));
        let inbound = inbound.collect::<io::Result<Vec<_>>>()?;
        let metrics = Rc::new(RequestMetrics::new(shared.metrics));
        let dial = Dial {
            connector: Rc::new(shared.connector),
            credentials: Rc::default(),
            metrics: metrics.clone(),
            waiting: Rc::default(),
            healths: shared.healths,
            budgets: shared.budgets,
            kept: Rc::default(),
        };
        let own = dial.credentials.clone();
        let proxy = Proxy::new(
            dial,
            metrics,
            shared.access_log,
            shared.drain,
            shared.asking,
        );
        let proxy = Rc::new(proxy);
        let following = Following {
            number,
            proxy: proxy.clone(),
            credentials: own,
            followers: shared.followers,
        };
        tokio::task::spawn_local(following.run(shared.state, shared.credentials));
        tokio::task::spawn_local(desk::serve(proxy.clone(), shared.desk.orders()));
        let accepting = accept_all(outbound, {
            let proxy = proxy.clone();
            move |stream| from_application::outbound_connection(proxy.clone(), stream)
        });
        tokio::task::spawn_local(accepting);
        // For as long as the application may have something to say.
        tokio::task::spawn_local(accept_all(publish, {
            let proxy = proxy.clone();
            move |stream| port::connection(proxy.clone(), stream)
        }));
        tokio::task::spawn_local({
            let (proxy, mut drain) = (proxy.clone(), proxy.drain.clone());
            async move {
                drain.begun().await;
                proxy.subscribers.end();
            }
        });
        for listener in inbound {
            let proxy = proxy.clone();
            let mut drain = proxy.drain.clone();
            let accepting = accept_all(listener, move |stream| {
                from_peer::inbound_connection(proxy.clone(), stream)
            });
            tokio::task::spawn_local(async move {
                // The application may still call while it ends; whom it calls does not change by
                // our ending. Who calls us has been told to go elsewhere.
                let leaving = async {
                    drain.begun().await;
                    tokio::time::sleep(LAME_DUCK).await;
                };
                tokio::select! {
                    () = accepting => {}
                    () = leaving => {}
                }
            });
        }
        let _ = listening.send(Ok(()));
        // An error means that the one who could tell us is gone: the process is ending.
        let _ = stop.wait_for(|stop| *stop).await;
        Ok(())
    })
}

/// Keeps a worker at what the control thread has published.
struct Following {
    /// Which worker, of how many.
    number: (usize, usize),
    proxy: Rc<Proxy>,
    credentials: Rc<RefCell<Option<Arc<Credentials>>>>,
    followers: Arc<Followers>,
}

impl Following {
    async fn run(
        self,
        mut states: watch::Receiver<Arc<State>>,
        mut credentials: watch::Receiver<Option<Arc<Credentials>>>,
    ) {
        loop {
            let state = states.borrow_and_update().clone();
            let current = credentials.borrow_and_update().clone();
            let ready = state.is_complete() && current.is_some();
            let number = state.number;
            if let Some(current) = &current {
                self.proxy.metrics.belong_to(current.id.clone());
            }
            *self.credentials.borrow_mut() = current;
            if number != self.proxy.destinations.state().number {
                self.proxy.follow(state.clone());
                crate::proxy::keys::keep(&self.proxy, &state);
                crate::proxy::store::keep(&self.proxy, &state);
                self.proxy.brokers.keep(&state);
            }
            self.followers.follows(self.number.0, number);
            if ready {
                self.followers.is_ready(self.number.0);
                if !self.proxy.drain.has_begun() {
                    Subscribers::keep(&self.proxy, &state, self.number);
                }
            }
            let changed = tokio::select! {
                changed = states.changed() => changed,
                changed = credentials.changed() => changed,
            };
            // Who could tell us of another is gone: the process is ending.
            if changed.is_err() {
                return;
            }
        }
    }
}

async fn accept_all<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    serve: impl Fn(tokio::net::TcpStream) -> F,
) {
    loop {
        let stream = accept(&listener).await;
        tokio::task::spawn_local(serve(stream));
    }
}
