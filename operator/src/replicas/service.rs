//! The end that is told: what other replicas' sidecars hold. Only the replica that leads listens.

use std::sync::Arc;
use std::time::Duration;

use compiler::{ObjectKey, ObjectKind, ObjectRef};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::replicas::replicas_server::{self, ReplicasServer};
use wire::replicas::{Connected, Moved, Object, Report};

use super::follow::{read_events, read_pod, write_pod};
use super::{Replicas, Reporting, Said};
use crate::leader::Leader;
use crate::push::{Digest, Fingerprint, NAMED, PodId, Programmed};
use crate::tls::Peer;

/// The largest message that is read, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// How long a report lasts: the handshake that proved who it is from is not older.
const LIFE: Duration = Duration::from_secs(3600);
/// Pods that are to be told as moved, and wait for it.
const MOVED: usize = 256;
/// The longest name of a replica, a pod's, in bytes.
const MAX_NAME: usize = 253;

/// Takes reports while this replica leads.
#[derive(Debug)]
pub struct Listener {
    replicas: Arc<Replicas>,
    leader: watch::Receiver<Leader>,
}

// === impl Listener ===

impl Listener {
    /// The service, ready to be added to a server whose connections carry a [`Peer`].
    pub fn server(
        replicas: Arc<Replicas>,
        leader: watch::Receiver<Leader>,
    ) -> ReplicasServer<Listener> {
        let listener = Listener { replicas, leader };
        ReplicasServer::new(listener).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl replicas_server::Replicas for Listener {
    type ReportStream = ReceiverStream<Result<Moved, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let is_operator = |peer: &Arc<Peer>| peer.is_operator;
        let peer = request.extensions().get::<Arc<Peer>>();
        if !peer.is_some_and(is_operator) {
            return Err(Status::permission_denied(
                "only another replica of the operator, with the operator's own identity, may report",
            ));
        }
        if !self.leader.borrow().is_us() {
            return Err(leads_not());
        }
        let (sender, receiver) = mpsc::channel(4);
        let (replicas, leader) = (self.replicas.clone(), self.leader.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = listen(replicas, request.into_inner(), &sender) => ended,
                () = lost(leader) => leads_not(),
                () = sleep(LIFE) => Status::unavailable("the report has lasted its time; begin anew"),
                () = sender.closed() => return,
            };
            let _ = sender.send(Err(ended)).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn leads_not() -> Status {
    Status::failed_precondition("this replica does not lead; the Lease says which one does")
}

/// Waits until this replica no longer leads, as far as it knows.
async fn lost(mut leader: watch::Receiver<Leader>) {
    let lost = leader.wait_for(|leader| !matches!(leader, Leader::Us { .. }));
    let _ = lost.await;
}

/// Takes one report, until it ends.
async fn listen(
    replicas: Arc<Replicas>,
    mut reports: Streaming<Report>,
    answers: &mpsc::Sender<Result<Moved, Status>>,
) -> Status {
    let (moved, mut to_tell) = mpsc::channel::<PodId>(MOVED);
    let mut reporting: Option<Reporting> = None;
    loop {
        let report = tokio::select! {
            report = reports.message() => report,
            Some(pod) = to_tell.recv() => {
                let mut pods = vec![write_pod(&pod)];
                while let Ok(pod) = to_tell.try_recv() {
                    pods.push(write_pod(&pod));
                }
                if answers.send(Ok(Moved { pods })).await.is_err() {
                    return Status::cancelled("nobody listens");
                }
                continue;
            }
        };
        let report = match report {
            Ok(Some(report)) => report,
            Ok(None) => return Status::ok("the report has ended"),
            Err(status) => return status,
        };
        let begun = match reporting.take() {
            Some(begun) => Ok(begun),
            None if report.replica.is_empty() || report.replica.len() > MAX_NAME => {
                return Status::invalid_argument("a report must name its replica");
            }
            None => replicas.begin(&report.replica, moved.clone()),
        };
        let said = begun.and_then(|begun| {
            begun.say(read(report), Instant::now())?;
            Ok(begun)
        });
        match said {
            Ok(begun) => reporting = Some(begun),
            Err(refused) => return Status::resource_exhausted(refused.to_string()),
        }
    }
}

/// What a report says; what this build doesn't know of it is left out.
fn read(report: Report) -> Said {
    let connected = |connected: Connected| {
        let age = Duration::from_millis(connected.age_millis);
        Some((read_pod(connected.pod?), age))
    };
    Said {
        objects: report.objects.into_iter().filter_map(read_object).collect(),
        connected: report.connected.into_iter().filter_map(connected).collect(),
        disconnected: report.disconnected.into_iter().map(read_pod).collect(),
        complete: report.complete,
    }
}

fn read_object(object: Object) -> Option<(ObjectRef, Option<Digest>)> {
    let kind = ObjectKind::ALL.into_iter();
    let kind = kind.into_iter().find(|kind| kind.as_str() == object.kind)?;
    let key = ObjectKey::new(object.namespace, object.name);
    let reference = ObjectRef::new(kind, &key);
    let Ok(fingerprint) = <[u8; 16]>::try_from(object.fingerprint.as_ref()) else {
        return Some((reference, None));
    };
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let refused = object.refused.into_iter().take(NAMED);
    let programmed = Programmed {
        n: count(object.n),
        m: count(object.m),
        callers: count(object.callers),
        waiting: object.waiting.into_iter().take(NAMED).collect(),
        rejected: refused
            .map(|refusal| (refusal.pod, refusal.reason))
            .collect(),
        ..Programmed::default()
    };
    let digest = Digest {
        fingerprint: Fingerprint(fingerprint),
        programmed,
        events: object.events.map(read_events),
    };
    Some((reference, Some(digest)))
}
