//! The reporting end: what this replica's sidecars hold, told to the replica that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use compiler::{ObjectKey, ObjectRef};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wire::discovery::{EventFailure, EventLag, ReplayReport};
use wire::replicas::replicas_client::ReplicasClient;
use wire::replicas::{Connected, Events, Object, Pod, Refusal, Replay, Report};

use super::dial::{DialError, dial};
use crate::ca::Ca;
use crate::push::{Digest, EventsReport, Fingerprint, PodId, Streams};
use crate::telemetry::Metrics;

/// From a change until it is told: what changes meanwhile is told with it.
const GATHER: Duration = Duration::from_millis(100);
/// Until a report that broke off is begun anew.
const PAUSE: Duration = Duration::from_secs(1);
/// Objects in one message: with all their names and reasons some 2 MiB at most.
const OBJECTS: usize = 150;
/// Pods in one message.
const PODS: usize = 2000;
/// The most of a sidecar's reason that is told, in characters.
const MAX_REASON: usize = 300;

/// Tells whoever leads what this replica's sidecars hold.
pub struct Follower {
    /// What is told of.
    pub streams: Arc<Streams>,
    /// This replica's name.
    pub replica: String,
    /// Proves to be the operator.
    pub ca: Arc<Ca>,
    /// Reports, counted.
    pub metrics: Arc<Metrics>,
}

/// What the leader has been told.
#[derive(Debug, Default)]
struct Told {
    digests: BTreeMap<ObjectRef, Digest>,
    pods: BTreeMap<PodId, Instant>,
}

/// Why a report has ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error("the connection has ended")]
    Over,
}

// === impl Follower ===

impl Follower {
    /// Reports to the replica at that address, for as long as it is polled.
    pub async fn follow(&self, leader: SocketAddr) {
        loop {
            if let Err(ended) = self.report(leader).await {
                self.metrics.report_failures.inc();
                tracing::info!(%leader, reason = %ended, "what sidecars hold is not told to the replica that leads; trying again in {PAUSE:?}");
            }
            sleep(PAUSE).await;
        }
    }

    async fn report(&self, leader: SocketAddr) -> Result<(), Ended> {
        let mut client = ReplicasClient::new(dial(&self.ca, leader).await?);
        let (sender, receiver) = mpsc::channel(4);
        let mut moved = client
            .report(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let mut comings = self.streams.comings();
        let mut told = Told::default();
        let mut changed = self.streams.objects();
        // From here on it tells everything that changes, and the whole is what is there now.
        let (mut due, mut whole) = (Some(Instant::now()), true);
        loop {
            tokio::select! {
                objects = self.streams.touched() => changed.extend(objects),
                Ok(()) = comings.changed() => {}
                answer = moved.message() => {
                    for pod in answer?.ok_or(Ended::Over)?.pods.into_iter().map(read_pod) {
                        if let Some(since) = told.pods.get(&pod) {
                            self.streams.end_moved(&pod, *since);
                        }
                    }
                    continue;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let mut reports = self.news(&mut told, std::mem::take(&mut changed));
                    if std::mem::take(&mut whole) {
                        reports.push(self.message(|report| report.complete = true));
                    }
                    due = None;
                    for report in reports {
                        sender.send(report).await.map_err(|_| Ended::Over)?;
                        self.metrics.reports.inc();
                    }
                    continue;
                }
            }
            due.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }

    /// What is to be told of these objects, and of who is connected.
    fn news(&self, told: &mut Told, changed: BTreeSet<ObjectRef>) -> Vec<Report> {
        let mut objects = Vec::new();
        for object in changed {
            let digest = self.streams.digest(&object);
            let before = match digest.fingerprint == Fingerprint::default() {
                true => told.digests.remove(&object),
                false => told.digests.insert(object.clone(), digest.clone()),
            };
            if before.unwrap_or_default() != digest {
                objects.push(write_object(&object, &digest));
            }
        }
        let now = self.streams.connected();
        let begun = now.iter();
        let begun = begun.filter(|(pod, since)| told.pods.get(*pod) != Some(since));
        let begun: Vec<_> = begun
            .map(|(pod, since)| write_connected(pod, *since))
            .collect();
        let ended = told.pods.keys().filter(|pod| !now.contains_key(*pod));
        let ended: Vec<_> = ended.map(write_pod).collect();
        told.pods = now;
        // Pods first: whoever reads on knows whom an object that isn't told of yet concerns.
        let ended = ended.chunks(PODS);
        let ended = ended.map(|some| self.message(|report| report.disconnected = some.to_vec()));
        let begun = begun.chunks(PODS);
        let begun = begun.map(|some| self.message(|report| report.connected = some.to_vec()));
        let objects = objects.chunks(OBJECTS);
        let objects = objects.map(|some| self.message(|report| report.objects = some.to_vec()));
        ended.chain(begun).chain(objects).collect()
    }

    fn message(&self, fill: impl FnOnce(&mut Report)) -> Report {
        let mut report = Report {
            replica: self.replica.clone(),
            ..Report::default()
        };
        fill(&mut report);
        report
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("replica", &self.replica)
            .finish_non_exhaustive()
    }
}

fn write_object(object: &ObjectRef, digest: &Digest) -> Object {
    let Digest {
        fingerprint,
        programmed,
        events,
    } = digest;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let fingerprint = match *fingerprint == Fingerprint::default() {
        true => bytes::Bytes::new(),
        false => bytes::Bytes::copy_from_slice(&fingerprint.0),
    };
    let refusal = |(pod, reason): &(String, String)| Refusal {
        pod: pod.clone(),
        reason: reason.chars().take(MAX_REASON).collect(),
    };
    Object {
        kind: object.kind.to_string(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        fingerprint,
        n: count(programmed.n),
        m: count(programmed.m),
        callers: count(programmed.callers),
        waiting: programmed.waiting.clone(),
        refused: programmed.rejected.iter().map(refusal).collect(),
        events: events.as_ref().map(write_events),
    }
}

fn write_events(events: &EventsReport) -> Events {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let failure = events.failure.clone();
    Events {
        sidecars: count(events.sidecars),
        delivering: count(events.delivering),
        suspended: count(events.suspended),
        gone: count(events.gone),
        nobody: count(events.nobody),
        chosen: events.chosen.clone(),
        why: events.why.clone(),
        waiting: events.lag.map(|lag| lag.waiting),
        unacknowledged: events.lag.map(|lag| lag.unacknowledged),
        in_flight: events.in_flight,
        dead_lettered: events.dead_lettered,
        failed_at_ms: failure.as_ref().map(|failure| failure.at_ms),
        failure_status: failure.as_ref().map_or(0, |failure| failure.status),
        failure_reason: failure.map_or_else(String::new, |failure| failure.reason),
        replay: events.replay.clone().map(|replay| Replay {
            request: replay.request,
            done: replay.done,
            failed: replay.failed,
            finished: replay.finished,
            why: replay.why,
        }),
    }
}

/// As the replica that leads reads it.
pub(super) fn read_events(events: Events) -> EventsReport {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let failure = events.failed_at_ms.map(|at_ms| EventFailure {
        status: events.failure_status,
        reason: events.failure_reason,
        at_ms,
    });
    EventsReport {
        sidecars: count(events.sidecars),
        delivering: count(events.delivering),
        suspended: count(events.suspended),
        gone: count(events.gone),
        nobody: count(events.nobody),
        chosen: events.chosen,
        why: events.why,
        lag: events.waiting.map(|waiting| EventLag {
            waiting,
            unacknowledged: events.unacknowledged.unwrap_or_default(),
        }),
        in_flight: events.in_flight,
        dead_lettered: events.dead_lettered,
        failure,
        replay: events.replay.map(|replay| ReplayReport {
            request: replay.request,
            done: replay.done,
            failed: replay.failed,
            finished: replay.finished,
            why: replay.why,
        }),
    }
}

fn write_connected(pod: &PodId, since: Instant) -> Connected {
    let age = since.elapsed().as_millis();
    Connected {
        pod: Some(write_pod(pod)),
        age_millis: u64::try_from(age).unwrap_or(u64::MAX),
    }
}

/// A pod, as it is told.
pub(super) fn write_pod((pod, uid): &PodId) -> Pod {
    Pod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: uid.clone(),
    }
}

/// A pod that was told.
pub(super) fn read_pod(pod: Pod) -> PodId {
    (ObjectKey::new(pod.namespace, pod.name), pod.uid)
}
