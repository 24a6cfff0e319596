//! The sidecar's end of the stream on a network: [`Held`] over connections that come and go.

mod claiming;

use std::{collections::BTreeMap, convert::Infallible, fmt, future::Future, time::Duration};

use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    Kind, Resource, ResourceId,
    delta::{Apply, Held, MAX_CHANGES, MAX_DELTA_BYTES},
    discovery::{Ack, Delta, FromSidecar, Lookup, discovery_client::DiscoveryClient},
    lookup::{MAX_ASKED, MAX_LOOKUPS, Question},
    mesh,
    report::{self, GATHER, Reports},
    resource::MAX_BODY_BYTES,
    server,
};

use claiming::Claimants;
pub use claiming::Claiming;

/// The upper end of the first wait before a reconnect; it doubles with every failure.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The upper end of all later waits.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The upper end of all later waits while no complete set was ever received: a pod that starts
/// without an operator is to be ready within 5 s of the operator's return.
pub const BACKOFF_MAX_INCOMPLETE: Duration = Duration::from_secs(2);

/// How long a connection and the opening of the stream may take. An address where nobody answers is for
/// `connect` to give up, and sooner. Who answers and is slow has thousands to answer: those that gave up
/// after less and called again made it ever more, and came to nothing together (`tests/scale`).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After this long without an answer a question that still comes up is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// A stream that received something and lived this long was a healthy one: the next failure is
/// the first again.
pub const HEALTHY: Duration = Duration::from_secs(10);

/// The largest message from the operator, in bytes: a delta of one resource larger than the usual
/// bound, or a full one, and what protobuf adds.
const MAX_MESSAGE_BYTES: usize = MAX_BODY_BYTES + 2 * MAX_DELTA_BYTES;

/// How things stand with the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether a stream is open.
    pub connected: bool,
    /// Whether a complete set is held, from this stream or from before: the sidecar may be ready.
    pub complete: bool,
    /// Why there is no stream, in a sentence for a person.
    pub error: Option<String>,
}

/// Why a stream ended.
#[derive(Debug)]
struct Ended {
    reason: String,
    /// Whether a delta had been received.
    received: bool,
}

/// What the sidecar says beside what it does with deltas.
#[derive(Debug)]
pub struct Says {
    /// What it wants to be told.
    pub questions: mpsc::Receiver<Question>,
    /// What it wants to do alone.
    pub claims: mpsc::Receiver<Claiming>,
    /// How it goes with what it carries out.
    pub reports: Reports,
}

impl From<mpsc::Receiver<Question>> for Says {
    /// Questions alone.
    fn from(questions: mpsc::Receiver<Question>) -> Self {
        Self {
            questions,
            claims: mpsc::channel(1).1,
            reports: Reports::default(),
        }
    }
}

/// What lasts from stream to stream.
struct Sidecar<'a, A, P> {
    held: Held,
    apply: A,
    persist: P,
    state: &'a watch::Sender<State>,
    says: Says,
    claimants: Claimants,
    /// Questions without an answer yet, and when they were last asked.
    asked: BTreeMap<ResourceId, Instant>,
}

/// Waits between attempts: exponential, with full jitter, so that sidecars that lost the same
/// operator don't come back in step.
struct Backoff {
    failures: u32,
}

/// Keeps `held` the same as what the operator wants it to be, over one connection after another.
/// Never returns; dropping it ends the stream.
///
/// First `apply` receives all that is held already, from a volume; then what changes. `persist`
/// is called after every delta and before its Ack, to do what [`Held::save`] says: what the operator
/// believes to be held is never newer than what a killed sidecar starts from again. `connect` makes
/// a new connection each time, with whatever leaf and address are current, gives an address where nobody
/// answers up within two seconds, and has HTTP/2 keep-alives, by which dead connections are found. Runs on any runtime; the future is `Send` if
/// its parts are.
///
/// `says.questions` are asked once, however often they come, and again on each new stream until there is an
/// answer: a resource of kind Lookup that is held. With more answers than [`MAX_LOOKUPS`] some are given
/// up for new ones, first of all those that led to nothing. Claims are made on a stream whose operator grants them;
/// whoever can't wait for that gives up by itself.
pub async fn run<C, F, E, A, P>(
    mut connect: C,
    held: Held,
    apply: A,
    persist: P,
    state: &watch::Sender<State>,
    says: Says,
) -> Infallible
where
    C: FnMut() -> F,
    F: Future<Output = Result<Channel, E>>,
    E: fmt::Display,
    A: Apply,
    P: FnMut(&mut Held),
{
    let mut sidecar = Sidecar {
        held,
        apply,
        persist,
        state,
        says,
        claimants: Claimants::default(),
        asked: BTreeMap::new(),
    };
    sidecar.replay();
    let mut backoff = Backoff { failures: 0 };
    loop {
        let started = Instant::now();
        let ended = sidecar.attempt(&mut connect).await;
        if ended.received && started.elapsed() >= HEALTHY {
            backoff.failures = 0;
        }
        let wait = backoff.next(sidecar.held.is_complete());
        tracing::info!(reason = ended.reason, ?wait, "no stream from the operator");
        state.send_modify(|state| {
            state.connected = false;
            state.error = Some(ended.reason);
        });
        sleep(wait).await;
    }
}

// === impl Sidecar ===

impl<A: Apply, P: FnMut(&mut Held)> Sidecar<'_, A, P> {
    fn replay(&mut self) {
        for rejected in self.held.replay(&mut self.apply) {
            tracing::warn!(id = %rejected.id, reason = rejected.reason, "can't be enforced any more");
        }
        let complete = self.held.is_complete();
        self.state.send_modify(|state| state.complete = complete);
    }

    /// One connection, from its opening to its end.
    async fn attempt<C, F, E>(&mut self, connect: &mut C) -> Ended
    where
        C: FnMut() -> F,
        F: Future<Output = Result<Channel, E>>,
        E: fmt::Display,
    {
        let mut received = false;
        let reason = match timeout(CONNECT_TIMEOUT, self.open(connect)).await {
            Err(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
            Ok(Err(reason)) => reason,
            Ok(Ok((deltas, acks))) => {
                self.state.send_modify(|state| {
                    state.connected = true;
                    state.error = None;
                });
                let reason = self.follow(deltas, acks, &mut received).await;
                self.claimants.end();
                reason
            }
        };
        Ended { reason, received }
    }

    async fn open<C, F, E>(
        &mut self,
        connect: &mut C,
    ) -> Result<(Streaming<Delta>, mpsc::Sender<FromSidecar>), String>
    where
        C: FnMut() -> F,
        F: Future<Output = Result<Channel, E>>,
        E: fmt::Display,
    {
        let channel = connect()
            .await
            .map_err(|why| format!("can't connect: {why}"))?;
        let mut operator = DiscoveryClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(server::MAX_MESSAGE_BYTES);
        // One Ack at a time is due, and questions are put together.
        let (acks, outgoing) = mpsc::channel(8);
        send(&acks, self.held.hello()).await?;
        let deltas = operator
            .stream(ReceiverStream::new(outgoing))
            .await
            .map_err(|status| format!("refused: {status}"))?
            .into_inner();
        Ok((deltas, acks))
    }

    /// Takes deltas until the stream ends; answers why it ended.
    async fn follow(
        &mut self,
        mut deltas: Streaming<Delta>,
        acks: mpsc::Sender<FromSidecar>,
        received: &mut bool,
    ) -> String {
        let (mut answers, mut reads, mut grants) = (false, false, false);
        let (mut told, mut last) = (report::Sent::default(), None);
        // Of what this stream has told nothing is left by the next.
        let mut report_at = Some(Instant::now());
        loop {
            let delta = tokio::select! {
                delta = deltas.message() => delta,
                () = self.says.reports.changed(), if reads && report_at.is_none() => {
                    let spaced = last.map(|last: Instant| last + report::SPACING);
                    let soon = Instant::now() + GATHER;
                    report_at = Some(spaced.map_or(soon, |spaced| spaced.max(soon)));
                    continue;
                }
                () = at(report_at), if reads => {
                    (report_at, last) = (None, Some(Instant::now()));
                    for report in self.says.reports.news(&mut told) {
                        if let Err(reason) = send(&acks, report).await {
                            return reason;
                        }
                    }
                    continue;
                }
                Some(question) = self.says.questions.recv(), if answers => {
                    if let Some(lookup) = self.ask(question)
                        && let Err(reason) = send(&acks, lookup).await
                    {
                        return reason;
                    }
                    continue;
                }
                Some(claiming) = self.says.claims.recv(), if grants => {
                    let more = &mut self.says.claims;
                    if let Some(claims) = self.claimants.put(claiming, more)
                        && let Err(reason) = send(&acks, claims).await
                    {
                        return reason;
                    }
                    continue;
                }
            };
            let mut delta = match delta {
                Ok(Some(delta)) => delta,
                Ok(None) => return "the operator ended the stream".to_owned(),
                Err(status) => return format!("the stream broke: {status}"),
            };
            let changes = delta.resources.len() + delta.removed.len();
            if changes > MAX_CHANGES {
                return format!("a delta of {changes} changes, the limit is {MAX_CHANGES}");
            }
            *received = true;
            let begins = delta.answers_lookups && !answers;
            (answers, reads) = (delta.answers_lookups, delta.reads_reports);
            grants = delta.grants.is_some();
            let granted = delta.grants.take().unwrap_or_default();
            self.claimants.answered(granted);
            if let Some(ack) = self.receive(delta)
                && let Err(reason) = send(&acks, ack).await
            {
                return reason;
            }
            if begins && let Err(reason) = self.ask_again(&acks).await {
                return reason;
            }
        }
    }

    /// Asks what was asked on earlier streams and has no answer yet.
    async fn ask_again(&mut self, acks: &mpsc::Sender<FromSidecar>) -> Result<(), String> {
        let now = Instant::now();
        self.asked.values_mut().for_each(|at| *at = now);
        let mut unwanted = self.given_up();
        for wanted in Vec::from_iter(self.asked.keys()).chunks(MAX_ASKED) {
            let unwanted = std::mem::take(&mut unwanted);
            let lookup = Lookup {
                wanted: wanted.iter().map(ToString::to_string).collect(),
                unwanted: unwanted.iter().map(ToString::to_string).collect(),
            };
            send(acks, lookup).await?;
        }
        Ok(())
    }

    /// This question and those that wait, in one message; `None` when all were asked before.
    fn ask(&mut self, question: Question) -> Option<Lookup> {
        let mut next = Some(question);
        let mut wanted = Vec::new();
        while let Some(question) = next.take() {
            let id = question.id();
            let now = Instant::now();
            let known = self.held.get(&id).is_some();
            let before = self.asked.get(&id);
            // An operator that was told of too many has passed it over.
            let due = before.is_none_or(|at| now.duration_since(*at) >= ASK_AGAIN);
            if !known && due && (before.is_some() || self.asked.len() < MAX_LOOKUPS) {
                wanted.push(id.to_string());
                self.asked.insert(id, now);
            }
            if wanted.len() < MAX_ASKED {
                next = self.says.questions.try_recv().ok();
            }
        }
        let unwanted = self.given_up().iter().map(ToString::to_string).collect();
        (!wanted.is_empty()).then_some(Lookup { wanted, unwanted })
    }

    /// Answers that make room for those that are awaited. One that is still used is asked for again.
    fn given_up(&self) -> Vec<ResourceId> {
        let first = ResourceId::new(Kind::Lookup, "", "");
        let answers = || {
            let held = self.held.resources_from(&first);
            held.filter(|answer| answer.id.kind == Kind::Lookup)
        };
        let more = (answers().count() + self.asked.len()).saturating_sub(MAX_LOOKUPS);
        if more == 0 {
            return Vec::new();
        }
        let leads = |answer: &&Resource| {
            let answer = answer.decode::<mesh::Lookup>();
            answer.is_ok_and(|answer| !answer.services.is_empty())
        };
        let (leading, empty): (Vec<_>, Vec<_>) = answers().partition(leads);
        let given_up = empty.into_iter().chain(leading).take(more.min(MAX_ASKED));
        given_up.map(|answer| answer.id.clone()).collect()
    }

    fn receive(&mut self, delta: Delta) -> Option<Ack> {
        let unasked = delta.complete && !delta.answers_lookups;
        let says_nothing = changes_nothing(&delta);
        let ack = self.held.receive(delta, &mut self.apply)?;
        if unasked {
            // All that there is has been told, by an operator that would not understand a question.
            for kind in [Kind::Networks, Kind::Lookup] {
                self.held.forget(kind, &mut self.apply);
            }
            self.asked.clear();
        }
        for rejected in &ack.rejected {
            tracing::warn!(id = rejected.id, reason = rejected.reason, "rejected");
        }
        if says_nothing {
            // It brought answers to claims, and nothing that is to be kept.
            return Some(ack);
        }
        self.asked.retain(|id, _| self.held.get(id).is_none());
        (self.persist)(&mut self.held);
        let complete = self.held.is_complete();
        self.state.send_if_modified(|state| {
            let changed = state.complete != complete;
            state.complete = complete;
            changed
        });
        Some(ack)
    }
}

fn changes_nothing(delta: &Delta) -> bool {
    let changes = delta.resources.len() + delta.removed.len();
    changes == 0 && !delta.complete && delta.seen.is_none()
}

/// Returns then; never when there is no such moment.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn send(
    acks: &mpsc::Sender<FromSidecar>,
    message: impl Into<FromSidecar>,
) -> Result<(), String> {
    let sent = acks.send(message.into()).await;
    sent.map_err(|_| "the operator no longer listens".to_owned())
}

// === impl Backoff ===

impl Backoff {
    /// How long to wait after one more failure.
    fn next(&mut self, complete: bool) -> Duration {
        let max = if complete {
            BACKOFF_MAX
        } else {
            BACKOFF_MAX_INCOMPLETE
        };
        let factor = 2u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let ceiling = BACKOFF_MIN.saturating_mul(factor).min(max);
        rand::rng().random_range(Duration::ZERO..=ceiling)
    }
}
