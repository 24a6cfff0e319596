//! The life of one pod: its sidecar, then its application, both kept running, and how it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use compiler::ObjectKey;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::ground::Place;
use super::keep::{Command, Happened, Kept};
use super::process;
use super::runtime::Identity;
use crate::http;

/// How often a pod is asked how it is, before and after it is ready.
const PROBE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A pod answers at once or isn't ready.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// In this time the others' sidecars hear that a pod leaves, and call it no more.
const LEAVE: Duration = Duration::from_millis(500);
/// How many lines of its log tell why a program ended.
const LAST_LINES: usize = 10;
/// What a sidecar is given to end once it has let its connections drain.
const SIDECAR_GRACE: Duration = Duration::from_secs(5);

/// How a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not ready yet: what it waits for.
    Starting(String),
    /// Its sidecar has its configuration and its application accepts connections.
    Ready,
    /// A program of its ended again and again.
    Failing(String),
    /// It was asked to end.
    Stopping,
    /// It has ended.
    Gone,
}

/// Whether a pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Not,
    /// Once others have heard that it leaves.
    Gently,
    AtOnce,
}

/// What a pod tells the mesh.
#[derive(Debug)]
pub(super) enum News {
    Phase(ObjectKey, Phase),
    /// All know where all are.
    Settled,
    /// A sentence for whoever watches, and lines that belong to it.
    Said(String, Vec<String>),
}

/// A pod, as its life needs it.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) identity: Identity,
    pub(super) place: Arc<Place>,
    pub(super) sidecar: Command,
    /// The ingress has none.
    pub(super) application: Option<Command>,
    /// What its application must listen on to be ready.
    pub(super) ports: Vec<u16>,
    pub(super) grace: Duration,
    /// How long its sidecar lets connections drain.
    pub(super) drain: Duration,
}

/// Tells the mesh what it doesn't know yet.
struct Teller {
    key: ObjectKey,
    news: mpsc::UnboundedSender<News>,
    told: Option<Phase>,
    was_ready: bool,
}

// === impl Teller ===

impl Teller {
    fn tell(&mut self, phase: Phase) {
        self.was_ready |= phase == Phase::Ready;
        if self.told.as_ref() != Some(&phase) {
            self.told = Some(phase.clone());
            // The mesh outlives its pods, except when all ends at once.
            let _ = self.news.send(News::Phase(self.key.clone(), phase));
        }
    }
}

// === impl Phase ===

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting(awaited) => write!(f, "waiting for {awaited}"),
            Self::Ready => f.write_str("ready"),
            Self::Failing(why) => f.write_str(why),
            Self::Stopping => f.write_str("stopping"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

// === impl Pod ===

impl Pod {
    /// Lives until `ending` says so. Sends [`Phase::Gone`] last.
    pub(super) async fn live(
        self,
        news: mpsc::UnboundedSender<News>,
        mut ending: watch::Receiver<Ending>,
    ) {
        let mut teller = Teller {
            key: ObjectKey::new(&self.identity.namespace, &self.identity.pod),
            news: news.clone(),
            told: None,
            was_ready: false,
        };
        teller.tell(Phase::Starting("its sidecar".to_owned()));
        let namespaces = self.place.namespaces.as_ref();
        let mut sidecar = Kept::new(&self.sidecar, namespaces);
        sidecar.begin();
        let mut application = self
            .application
            .as_ref()
            .map(|command| Kept::new(command, namespaces));
        let mut probe_at = Instant::now();
        loop {
            tokio::select! {
                () = asked(&mut ending) => break,
                happened = sidecar.next() => {
                    if let Some(phase) = self.consequence(&sidecar, happened, &news) {
                        teller.tell(phase);
                    }
                    probe_at = Instant::now();
                }
                happened = next(application.as_mut()) => {
                    if let Some(application) = &application
                        && let Some(phase) = self.consequence(application, happened, &news)
                    {
                        teller.tell(phase);
                    }
                    probe_at = Instant::now();
                }
                () = sleep_until(probe_at) => {
                    let phase = self.probe(&sidecar, application.as_mut()).await;
                    sidecar.trim_log();
                    if let Some(application) = &mut application {
                        application.trim_log();
                    }
                    let pause = if phase == Some(Phase::Ready) { PROBE.1 } else { PROBE.0 };
                    if let Some(phase) = phase {
                        teller.tell(phase);
                    }
                    probe_at = Instant::now() + pause;
                }
            }
        }
        teller.tell(Phase::Stopping);
        // Nobody calls a pod that was never ready; one that all leave has nobody to call it.
        let at_once = async { drop(ending.wait_for(|ending| *ending == Ending::AtOnce).await) };
        if teller.was_ready {
            let _ = timeout(LEAVE, at_once).await;
        }
        // The sidecar last: an application that drains still calls others.
        if let Some(child) = application.and_then(|application| application.child) {
            process::end(child, self.grace).await;
        }
        if let Some(child) = sidecar.child {
            process::end(child, self.drain + SIDECAR_GRACE).await;
        }
        teller.tell(Phase::Gone);
    }

    /// How the pod is; an application is started once the sidecar is ready for it. `None`: what was
    /// said of a failure still holds.
    async fn probe(&self, sidecar: &Kept<'_>, application: Option<&mut Kept<'_>>) -> Option<Phase> {
        sidecar.child.as_ref()?;
        let ready = SocketAddr::from((self.place.address, 15021));
        let answer = timeout(PROBE_TIMEOUT, http::get(ready, "/ready")).await;
        if !matches!(answer, Ok(Ok((200, _)))) {
            return Some(Phase::Starting("its sidecar".to_owned()));
        }
        if let Some(application) = application {
            if application.child.is_none() {
                application.begin();
                return None;
            }
            for port in &self.ports {
                let accepted =
                    timeout(PROBE_TIMEOUT, self.place.connect_to_application(*port)).await;
                if !matches!(accepted, Ok(Ok(_))) {
                    // One that keeps ending is not "starting" between its ends.
                    return (application.failures == 0)
                        .then(|| Phase::Starting(format!("port {port}")));
                }
            }
        }
        Some(Phase::Ready)
    }

    fn consequence(
        &self,
        program: &Kept<'_>,
        happened: Happened,
        news: &mpsc::UnboundedSender<News>,
    ) -> Option<Phase> {
        match happened {
            Happened::Started => None,
            Happened::Ended(how, pause) => {
                let again = format!("starting it again in {} s", pause.as_secs());
                let sentence = format!(
                    "{} of {} ended ({how}); {again}",
                    program.command.what, self.identity.pod
                );
                let _ = news.send(News::Said(sentence, program.last_lines(LAST_LINES)));
                let word = if program.failures > 1 {
                    "CrashLoopBackOff"
                } else {
                    "Error"
                };
                Some(Phase::Failing(format!(
                    "{word}: {} ended ({how})",
                    program.command.what
                )))
            }
        }
    }
}

/// Waits until `stop` says so, or nobody is left to say it.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until it is to end.
async fn asked(ending: &mut watch::Receiver<Ending>) {
    let _ = ending.wait_for(|ending| *ending != Ending::Not).await;
}

async fn next(program: Option<&mut Kept<'_>>) -> Happened {
    match program {
        Some(program) => program.next().await,
        None => std::future::pending().await,
    }
}
