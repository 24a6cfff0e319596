//! Subscription → [`Subscription`]: which events go where, and what becomes of those that can't be delivered.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::uri::PathAndQuery;
use wire::filter::Filter;
use wire::mesh::{self, event_replay, subscription};

use super::broker::Broker;
use super::schedule::Schedule;
use super::store::Address;
use crate::events::broker::{Group, Start};
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::policy::retry::Backoff;

mod results;
mod target;

pub use target::{Outside, Target, Topic};

/// How many events a sidecar holds of a subscription in order, at least and at most: behind one that
/// fails, others of its key wait, and must not hold up those of other keys.
const WINDOW: (usize, usize) = (16, 256);

/// An EventSubscription.
#[derive(Debug)]
pub struct Subscription {
    /// `namespace/name`.
    pub object: Arc<str>,
    /// Where the events come from.
    pub source: Source,
    /// The group that they are delivered to, its topic, and where it starts. Of a schedule it says nothing.
    pub group: Group,
    /// Whether nobody is there that they are for: what waits is counted, and nothing is delivered.
    pub counts_only: bool,
    /// Whether nothing is delivered for now.
    pub suspended: bool,
    /// All of which an event passes to be delivered.
    pub filters: Vec<Filter>,
    /// Where they go.
    pub target: Target,
    /// The path that they are posted to.
    pub path: PathAndQuery,
    /// How they are written.
    pub mode: Mode,
    /// How long the target may take to answer.
    pub timeout: Duration,
    /// In batches, as many as one has.
    pub batch: Option<Batch>,
    /// Where the events go that the target replies with.
    pub reply: Option<Arc<str>>,
    /// Whether one waits for those before it.
    pub ordering: Ordering,
    /// How many are delivered at once.
    pub max_in_flight: usize,
    /// How often one comes again.
    pub max_retries: u32,
    /// When.
    pub backoff: Backoff,
    /// How old one may be.
    pub expiry: Option<Duration>,
    /// What becomes of those that are exhausted.
    pub exhausted: Exhausted,
    /// Whether their dead letters have the beginning of what was answered.
    pub tells_body: bool,
    /// What is delivered once more.
    pub replay: Option<Replay>,
    /// Which are taken for the same, of which one that is done is not delivered again.
    pub deduplication: Option<Deduplication>,
    /// When nothing is delivered for a while, since the target fails.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Whether an answer of 2xx may say in its body what becomes of one.
    pub reads_status: bool,
    answers: Vec<(Vec<u16>, Action)>,
}

/// What is delivered once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// What the run is called.
    pub request: Arc<str>,
    /// What is replayed.
    pub from: ReplayFrom,
    /// Up to when it was published, or became a dead letter.
    pub until: SystemTime,
    /// How many are begun in a second.
    pub rate: u32,
}

/// What is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayFrom {
    /// The dead letters of the subscription.
    DeadLetters,
    /// What was published then or later.
    Since(SystemTime),
}

/// Where events come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A topic of this broker.
    Broker(Arc<Broker>),
    /// They are due at times.
    Schedule(Arc<Schedule>),
}

/// Which events are taken for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// Those with the same values of these attributes.
    pub attributes: Vec<String>,
    /// For so long after one was done.
    pub window: Duration,
    /// Where it is noted which are done.
    pub done: Done,
}

/// Where it is noted which events are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// In each sidecar for itself.
    Memory,
    /// In a store that replicas share; `None` when it can't be had.
    Store(Option<Arc<Address>>),
}

/// What a batch has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// So many events.
    pub size: usize,
    /// About so many bytes; one event may be longer.
    pub bytes: usize,
    /// For so long the first one waits for others.
    pub wait: Duration,
}

/// How an event is written in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its data, with its attributes in headers.
    Binary,
    /// As JSON.
    Structured,
    /// Its data alone.
    Raw,
}

/// Whether an event waits until those before it are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// It does not.
    None,
    /// It waits for those with the same value of this attribute.
    Key(Arc<str>),
    /// It waits for all.
    Global,
}

/// What becomes of an event that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is done.
    Acknowledge,
    /// It comes again.
    Retry,
    /// It is exhausted.
    Exhaust,
    /// It is done with, and counted as dropped.
    Drop,
    /// It comes again, and nothing is delivered meanwhile.
    Gone,
}

/// What becomes of an event that is exhausted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// It is published to this topic.
    DeadLetter(Arc<str>),
    /// It comes again for ever.
    Block,
    /// It is dropped.
    Drop,
}

// === build ===

impl Subscription {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Subscription) -> Result<Self, String> {
        let on_exhausted = sent.on_exhausted();
        let mode = match sent.mode() {
            mesh::EventMode::Binary => Mode::Binary,
            mesh::EventMode::Structured => Mode::Structured,
            mesh::EventMode::Raw => Mode::Raw,
            mesh::EventMode::Unspecified => {
                return Err("mode: it is not known to this sidecar".to_owned());
            }
        };
        let ordering = match mesh::EventOrdering::try_from(sent.ordering) {
            Ok(mesh::EventOrdering::Unspecified) => Ordering::None,
            Ok(mesh::EventOrdering::Key) => Ordering::Key(sent.ordering_key.into()),
            Ok(mesh::EventOrdering::Global) => Ordering::Global,
            Err(_) => return Err("ordering: it is not known to this sidecar".to_owned()),
        };
        let max_in_flight = usize::try_from(sent.max_in_flight.max(1)).unwrap_or(1);
        let start = match sent.start {
            Some(subscription::Start::New(_)) => Start::New,
            Some(subscription::Start::Earliest(_)) => Start::Earliest,
            Some(subscription::Start::SinceMs(millis)) => Start::Time(moment(millis)),
            Some(subscription::Start::Place(place)) => Start::Place(place.first, place.second),
            // Nobody joins a group of a schedule.
            None if sent.schedule.is_some() => Start::New,
            None => return Err("start: it is missing".to_owned()),
        };
        let target = Target::build(sent.target)?;
        let filters = sent.filters.iter().enumerate().map(|(place, filter)| {
            Filter::build(filter).map_err(|error| format!("filters[{place}].{error}"))
        });
        let answers = sent.answers.iter().enumerate().map(|(place, answer)| {
            let action = match answer.action() {
                mesh::EventAction::Acknowledge => Action::Acknowledge,
                mesh::EventAction::Retry => Action::Retry,
                mesh::EventAction::DeadLetter => Action::Exhaust,
                mesh::EventAction::Drop => Action::Drop,
                mesh::EventAction::Unspecified => {
                    return Err(format!(
                        "answers[{place}].action: it is not known to this sidecar"
                    ));
                }
            };
            let statuses = answer.statuses.iter();
            let statuses = statuses.filter_map(|status| u16::try_from(*status).ok());
            Ok((statuses.collect(), action))
        });
        let path = sent.path.parse();
        Ok(Self {
            object: format!("{}/{}", sent.namespace, sent.name).into(),
            source: match (sent.broker, sent.schedule) {
                (Some(broker), None) => Source::Broker(Arc::new(Broker::build(broker)?)),
                (None, Some(schedule)) => Source::Schedule(Arc::new(Schedule::build(schedule)?)),
                _ => return Err("broker: it is missing, or there is a schedule too".to_owned()),
            },
            counts_only: sent.counts_only,
            group: Group {
                name: sent.group,
                topic: sent.topic,
                start,
                create: sent.create,
                window: match ordering {
                    Ordering::None => None,
                    _ => Some((max_in_flight * 2).clamp(WINDOW.0, WINDOW.1)),
                },
                kept: false,
            },
            batch: sent.batch.map(|batch| Batch {
                size: usize::try_from(batch.max_size.max(1)).unwrap_or(1),
                bytes: usize::try_from(batch.max_bytes).unwrap_or(usize::MAX),
                wait: Duration::from_millis(batch.max_wait_ms),
            }),
            reply: (!sent.reply_topic.is_empty()).then(|| sent.reply_topic.into()),
            ordering,
            deduplication: {
                let sent = sent.deduplication;
                sent.map(Deduplication::build).transpose()?
            },
            suspended: sent.suspended,
            filters: filters.collect::<Result<_, _>>()?,
            target,
            path: path.map_err(|_| "path: it is none".to_owned())?,
            mode,
            timeout: Duration::from_millis(sent.timeout_ms),
            max_in_flight,
            max_retries: sent.max_retries,
            backoff: Backoff::build(sent.backoff.ok_or("backoff: it is missing")?)?,
            expiry: sent.expiry_ms.map(Duration::from_millis),
            exhausted: match on_exhausted {
                mesh::OnExhausted::DeadLetter => {
                    Exhausted::DeadLetter(sent.dead_letter_topic.into())
                }
                mesh::OnExhausted::Block => Exhausted::Block,
                mesh::OnExhausted::Drop => Exhausted::Drop,
                mesh::OnExhausted::Unspecified => {
                    return Err("on_exhausted: it is not known to this sidecar".to_owned());
                }
            },
            tells_body: sent.dead_letter_body,
            replay: sent.replay.map(Replay::build).transpose()?,
            circuit_breaker: match &sent.circuit_breaker {
                Some(sent) => {
                    let built = CircuitBreaker::build(sent);
                    Some(built.map_err(|why| format!("circuit_breaker: {why}"))?)
                }
                None => None,
            },
            reads_status: sent.body_status,
            answers: answers.collect::<Result<_, _>>()?,
        })
    }

    // === request ===

    /// Every broker that it needs.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        let source = match &self.source {
            Source::Broker(broker) => Some(broker),
            Source::Schedule(_) => None,
        };
        let target = match &self.target {
            Target::Topic(to) => Some(&to.broker),
            _ => None,
        };
        source.into_iter().chain(target)
    }

    /// What becomes of an event that was answered with this status: as written, else as the table in
    /// `docs/events.md` says.
    pub fn action(&self, status: StatusCode) -> Action {
        let written = self.answers.iter();
        let mut written = written.filter(|(statuses, _)| statuses.contains(&status.as_u16()));
        if let Some((_, action)) = written.next() {
            return *action;
        }
        match status.as_u16() {
            200..=299 => Action::Acknowledge,
            410 => Action::Gone,
            // A pod may be coming up; somebody else may be at it; too early, or too much.
            404 | 408 | 409 | 425 | 429 | 500..=599 => Action::Retry,
            // Nobody is followed anywhere, and what is refused for good is not sent again.
            _ => Action::Exhaust,
        }
    }
}

// === impl Replay ===

impl Replay {
    fn build(sent: mesh::EventReplay) -> Result<Self, String> {
        Ok(Self {
            request: sent.request.into(),
            from: match sent.from {
                Some(event_replay::From::DeadLetters(_)) => ReplayFrom::DeadLetters,
                Some(event_replay::From::SinceMs(millis)) => ReplayFrom::Since(moment(millis)),
                None => return Err("replay.from: it is not known to this sidecar".to_owned()),
            },
            until: moment(sent.until_ms),
            rate: sent.max_per_second.max(1),
        })
    }
}

impl Deduplication {
    fn build(sent: mesh::EventDeduplication) -> Result<Self, String> {
        if sent.attributes.is_empty() || sent.window_ms == 0 {
            return Err("deduplication: it has no key, or no window".to_owned());
        }
        let done = match sent.store {
            None => Done::Memory,
            Some(store) if store.url.is_empty() => Done::Store(None),
            Some(store) => {
                let address = Address::build(store.url, store.ca_certificates);
                let address = address.map_err(|why| format!("deduplication.store: {why}"))?;
                Done::Store(Some(Arc::new(address)))
            }
        };
        Ok(Self {
            attributes: sent.attributes,
            window: Duration::from_millis(sent.window_ms),
            done,
        })
    }

    /// The store, if there is to be one that can be had.
    pub fn store(&self) -> Option<&Arc<Address>> {
        match &self.done {
            Done::Memory => None,
            Done::Store(address) => address.as_ref(),
        }
    }
}

/// A moment, of milliseconds of Unix time.
pub(super) fn moment(millis: i64) -> SystemTime {
    let span = Duration::from_millis(millis.unsigned_abs());
    let moment = match millis < 0 {
        true => UNIX_EPOCH.checked_sub(span),
        false => UNIX_EPOCH.checked_add(span),
    };
    moment.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
pub(crate) mod tests;
