//! EventSubscription: from `crds::EventSubscription` to `mesh::Subscription`.
//!
//! It is in force as a whole or not at all, as its status says.

use std::collections::{BTreeMap, BTreeSet};

use crds::EventSubscriptionSpec;
use crds::event_subscription::{
    Delivery, DeliveryMode, EventCircuitBreaker, EventOrdering, EventTargetType, Manage,
    OnExhausted, ReplayType, ResponseAction, SourceType, StartFrom, StartType,
};
use crds::status::Reason;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use wire::broker::BrokerKind;
use wire::mesh::{self, event_replay as replay, subscription::Start};

use crate::api_route::Refusal;
use crate::broker;
use crate::host::Suggestions;
use crate::index::Objects;
use crate::inputs::ObjectKey;
use crate::retry_policy::backoff;

mod deduplication;
mod filter;
mod schedule;
mod target;

pub(crate) use target::elsewhere;

/// The attribute of the CloudEvents extension for partitioning.
const PARTITION_KEY: &str = "partitionkey";
/// Until a broker is there.
const UNTIL: &str = "Until then nothing is delivered.";

/// What is known when an EventSubscription is read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) metadata: &'a ObjectMeta,
    pub(crate) spec: &'a EventSubscriptionSpec,
    pub(crate) services: &'a Objects<Service>,
    pub(crate) suggestions: &'a Suggestions<'a>,
    pub(crate) brokers: broker::Reader<'a>,
    pub(crate) credentials: &'a Objects<Secret>,
}

/// What an EventSubscription says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    pub(crate) sent: mesh::Subscription,
    /// Services that don't exist, for which something else is suggested.
    pub(crate) lost: BTreeSet<ObjectKey>,
    /// Why it can't be in force.
    pub(crate) refusal: Option<Refusal>,
    /// Why its broker, or its store, can't be had.
    pub(crate) unresolved: Option<Refusal>,
}

// === impl Reader ===

impl Reader<'_> {
    /// The Service that it is for.
    pub(crate) fn service(&self) -> Option<ObjectKey> {
        let service = self.spec.target.service.as_ref();
        let service = service.filter(|_| self.spec.target.type_ == EventTargetType::Service)?;
        Some(ObjectKey::new(&*self.key.namespace, &*service.name))
    }

    /// The labels of the pods that it is for.
    pub(crate) fn selector(&self) -> Option<&BTreeMap<String, String>> {
        pods(self.spec)
    }

    /// Reads the whole object.
    pub(crate) fn read(&self) -> Read {
        let mut read = Read::default();
        let mut refusals = Vec::new();
        let source = &self.spec.source;
        let broker = source.broker.as_ref().map(|source| {
            let at = "spec.source.broker.name";
            self.brokers.broker(at, &source.name, UNTIL)
        });
        let (broker, unresolved) = broker.unzip();
        let deduplication = self.deduplication();
        let mut lacks = Vec::from_iter(unresolved.flatten());
        lacks.extend(deduplication.unresolved);
        refusals.extend(deduplication.refusal);
        let (target, unresolved) = self.target(&mut read.lost, &mut refusals);
        lacks.extend(unresolved);
        read.unresolved = Refusal::all(lacks);
        let (filters, unreadable) = filter::compile(&self.spec.filters);
        refusals.extend(unreadable.into_iter().map(invalid));
        if let Some(kind) = broker.as_ref().and_then(broker::kind) {
            refusals.extend(unable(kind, self.spec).into_iter().map(invalid));
        }
        let delivery = &self.spec.delivery;
        refusals.extend(problems(self.spec).into_iter().map(invalid));
        let ObjectKey { namespace, name } = self.key;
        read.sent = mesh::Subscription {
            namespace: namespace.clone(),
            name: name.clone(),
            broker,
            suspended: self.spec.suspend,
            filters,
            path: self.spec.target.path.clone(),
            target,
            deduplication: deduplication.sent,
            reply_topic: {
                let reply = self.spec.reply.as_ref();
                reply.map_or_else(String::new, |reply| reply.topic.clone())
            },
            ..sent(delivery)
        };
        read.sent.replay = self.replay(&mut refusals);
        self.source(&mut read.sent, &mut refusals);
        read.refusal = Refusal::all(refusals);
        read
    }

    /// What is sent of where the events come from, but for the broker.
    fn source(&self, sent: &mut mesh::Subscription, refusals: &mut Vec<Refusal>) {
        let source = &self.spec.source;
        match (source.type_, &source.broker, &source.schedule) {
            (SourceType::Broker, Some(broker), None) => {
                let ObjectKey { namespace, name } = self.key;
                let own_group = || format!("{namespace}.{name}");
                sent.topic = broker.topic.clone();
                sent.group = broker.consumer_group.clone().unwrap_or_else(own_group);
                sent.create = broker.manage == Manage::CreateIfMissing;
                match start(&broker.start_from) {
                    Ok(start) => sent.start = Some(start),
                    Err(why) => {
                        refusals.push(invalid(format!("spec.source.broker.startFrom.{why}")));
                    }
                }
            }
            (SourceType::Schedule, None, Some(written)) => {
                let (schedule, problems) = schedule::compile(self.key, self.metadata, written);
                sent.schedule = Some(schedule);
                refusals.extend(problems.into_iter().map(invalid));
            }
            _ => refusals.push(invalid(
                "spec.source: type Broker has broker, and type Schedule has schedule.".to_owned(),
            )),
        }
    }

    fn replay(&self, refusals: &mut Vec<Refusal>) -> Option<mesh::EventReplay> {
        let replay = self.spec.replay.as_ref()?;
        let mut moment = |at: &str, written: &str| match written.parse::<Timestamp>() {
            Ok(time) => Some(time.as_millisecond()),
            Err(_) => {
                refusals.push(invalid(format!(
                    "spec.replay.{at}: this is no moment: write it as 2026-11-20T08:00:00Z."
                )));
                None
            }
        };
        let until = moment("until", &replay.until);
        let from = match (replay.from.type_, &replay.from.time) {
            (ReplayType::DeadLetter, _) => Some(replay::From::DeadLetters(true)),
            (ReplayType::Time, Some(time)) => moment("from.time", time).map(replay::From::SinceMs),
            (ReplayType::Time, None) => {
                refusals.push(invalid(
                    "spec.replay.from.time: it is written with type Time.".to_owned(),
                ));
                None
            }
        };
        Some(mesh::EventReplay {
            request: replay.request.clone(),
            from,
            until_ms: until?,
            max_per_second: replay.max_per_second,
        })
    }
}

/// Where a new group, or whoever reads a topic, begins.
///
/// # Errors
/// What is wrong with its field `time` or `sequence`.
pub(crate) fn start(written: &StartFrom) -> Result<Start, &'static str> {
    match (written.type_, &written.time, &written.sequence) {
        (StartType::New, None, None) => Ok(Start::New(true)),
        (StartType::Earliest, None, None) => Ok(Start::Earliest(true)),
        (StartType::Time, Some(time), None) => match time.parse::<Timestamp>() {
            Ok(time) => Ok(Start::SinceMs(time.as_millisecond())),
            Err(_) => Err("time: this is no moment: write it as 2026-11-20T08:00:00Z."),
        },
        (StartType::Sequence, None, Some(sequence)) => match place(sequence) {
            Some(place) => Ok(Start::Place(place)),
            None => Err("sequence: no event has so large a number: write its place at the broker."),
        },
        (StartType::Sequence, ..) | (_, _, Some(_)) => {
            Err("sequence: it is written with type Sequence, and only there.")
        }
        _ => Err("time: it is written with type Time, and only there."),
    }
}

fn place(sequence: &str) -> Option<mesh::EventPlace> {
    let (first, second) = sequence.split_once('-').unwrap_or((sequence, "0"));
    Some(mesh::EventPlace {
        first: first.parse().ok()?,
        second: second.parse().ok()?,
    })
}

/// That a broker has no event of this place, as what follows `startFrom.`.
pub(crate) fn unknown_place(kind: BrokerKind, written: &StartFrom) -> Option<&'static str> {
    let place = written.sequence.as_ref()?;
    let is_number = !place.contains('-') && place.parse() != Ok(0_u64);
    (kind == BrokerKind::Nats && !is_number).then_some(
        "sequence: a NATS numbers the events of its stream from 1 on: write such a number.",
    )
}

/// The labels of the pods that an EventSubscription is for; nothing where it is for a Service.
pub(crate) fn pods(spec: &EventSubscriptionSpec) -> Option<&BTreeMap<String, String>> {
    let workload = spec.target.workload.as_ref();
    let workload = workload.filter(|_| spec.target.type_ == EventTargetType::Workload)?;
    Some(&workload.selector)
}

/// What a broker can't do, and the nearest that it can, as sentences.
fn unable(kind: BrokerKind, spec: &EventSubscriptionSpec) -> Vec<String> {
    let (mut problems, name, can) = (Vec::new(), kind.name(), kind.abilities());
    let Some(source) = &spec.source.broker else {
        return problems;
    };
    if !can.order && spec.delivery.ordering != EventOrdering::None {
        problems.push(format!(
            "spec.delivery.ordering: {name} delivers to all that share a group, in no order: write ordering: None, \
             or use a broker of NATS."
        ));
    }
    if !can.history && source.start_from.type_ != StartType::New {
        problems.push(format!(
            "spec.source.broker.startFrom: {name} holds nothing for a group that is not there yet: write type: New, \
             which begins with what is published once the group is there."
        ));
    }
    let place = unknown_place(kind, &source.start_from);
    problems.extend(place.map(|why| format!("spec.source.broker.startFrom.{why}")));
    let replayed = spec.replay.as_ref().map(|replay| replay.from.type_);
    if !can.history && replayed == Some(ReplayType::Time) {
        problems.push(format!(
            "spec.replay.from: {name} holds nothing of what was delivered: write type: DeadLetter, or publish it anew."
        ));
    }
    let topics = [
        ("spec.source.broker.topic", Some(&source.topic)),
        (
            "spec.delivery.deadLetter.topic",
            spec.delivery.dead_letter.as_ref().map(|to| &to.topic),
        ),
        ("spec.reply.topic", spec.reply.as_ref().map(|to| &to.topic)),
    ];
    for (at, topic) in topics {
        problems.extend(topic.and_then(|topic| broker::topic_problem(kind, at, topic)));
    }
    problems
}

/// What contradicts itself, as sentences.
fn problems(spec: &EventSubscriptionSpec) -> Vec<String> {
    let delivery = &spec.delivery;
    let broker = spec.source.broker.as_ref();
    let is_source = |topic: &String| broker.is_some_and(|source| source.topic == *topic);
    let mut problems = target::problems(spec);
    if spec.source.type_ == SourceType::Schedule {
        problems.extend(schedule::problems(spec));
    }
    if let Some(reply) = &spec.reply {
        if is_source(&reply.topic) {
            problems.push(
                "spec.reply.topic: the events come from this topic, and each reply would be replied to for \
                 ever: name another one."
                    .to_owned(),
            );
        }
        if delivery.batch.is_some() {
            problems.push(
                "spec.reply: a batch is not replied to: write it without spec.delivery.batch."
                    .to_owned(),
            );
        }
        if delivery.body_status {
            problems.push(
                "spec.reply: a body is a reply or says what becomes of the event: write it without \
                 spec.delivery.bodyStatus."
                    .to_owned(),
            );
        }
    }
    if delivery.batch.is_some() && delivery.body_status {
        problems.push(
            "spec.delivery.bodyStatus: the answer to a batch says of each event what became of it: leave it out."
                .to_owned(),
        );
    }
    if delivery.batch.is_some() && delivery.mode != DeliveryMode::Structured {
        problems.push(
            "spec.delivery.batch: a batch is JSON: write mode: Structured with it.".to_owned(),
        );
    }
    if delivery.batch.is_some() && delivery.ordering != EventOrdering::None {
        problems.push(
            "spec.delivery.batch: events of a batch are in no order: write ordering: None, or deliver each \
             for itself."
                .to_owned(),
        );
    }
    if delivery.ordering_key.is_some() && delivery.ordering != EventOrdering::Key {
        problems.push(
            "spec.delivery.orderingKey: it is written with ordering: Key, and only there."
                .to_owned(),
        );
    }
    if let Some(replay) = &spec.replay {
        if broker.is_some_and(|source| source.manage == Manage::Never) {
            problems.push(
                "spec.replay: a group of its own is made for it, and with manage: Never nothing is made: write \
                 manage: CreateIfMissing."
                    .to_owned(),
            );
        }
        if replay.from.type_ == ReplayType::Time && delivery.ordering != EventOrdering::None {
            problems.push(
                "spec.replay.from: what is replayed is in no order: write ordering: None, or another \
                 EventSubscription with a startFrom of type Time."
                    .to_owned(),
            );
        }
        if replay.from.type_ == ReplayType::DeadLetter && delivery.dead_letter.is_none() {
            problems.push(
                "spec.replay.from: dead letters are replayed from spec.delivery.deadLetter.topic, and there is \
                 none."
                    .to_owned(),
            );
        }
    }
    let dead_letters = delivery.on_exhausted == OnExhausted::DeadLetter;
    match &delivery.dead_letter {
        None if dead_letters => problems.push(
            "spec.delivery.deadLetter: onExhausted: DeadLetter needs a topic, or write onExhausted: Block or \
             Drop."
                .to_owned(),
        ),
        Some(_) if !dead_letters => problems.push(
            "spec.delivery.deadLetter: it is written with onExhausted: DeadLetter, and only there."
                .to_owned(),
        ),
        Some(to) if is_source(&to.topic) => problems.push(
            "spec.delivery.deadLetter.topic: the events come from this topic, and would come again for ever: \
             name another one."
                .to_owned(),
        ),
        _ => {}
    }
    problems
}

/// What is sent of the delivery.
fn sent(delivery: &Delivery) -> mesh::Subscription {
    let answers = delivery.responses.iter().map(|rule| mesh::EventAnswer {
        statuses: rule.codes.iter().map(|code| u32::from(*code)).collect(),
        action: match rule.action {
            ResponseAction::Acknowledge => mesh::EventAction::Acknowledge,
            ResponseAction::Retry => mesh::EventAction::Retry,
            ResponseAction::DeadLetter => mesh::EventAction::DeadLetter,
            ResponseAction::Drop => mesh::EventAction::Drop,
        }
        .into(),
    });
    mesh::Subscription {
        mode: match delivery.mode {
            DeliveryMode::Binary => mesh::EventMode::Binary,
            DeliveryMode::Structured => mesh::EventMode::Structured,
            DeliveryMode::Raw => mesh::EventMode::Raw,
        }
        .into(),
        ordering: match delivery.ordering {
            EventOrdering::None => mesh::EventOrdering::Unspecified,
            EventOrdering::Key => mesh::EventOrdering::Key,
            EventOrdering::Global => mesh::EventOrdering::Global,
        }
        .into(),
        ordering_key: match (delivery.ordering, &delivery.ordering_key) {
            (EventOrdering::Key, Some(key)) => key.clone(),
            (EventOrdering::Key, None) => PARTITION_KEY.to_owned(),
            _ => String::new(),
        },
        batch: delivery.batch.as_ref().map(|batch| mesh::EventBatch {
            max_size: batch.max_size,
            max_bytes: batch.max_bytes,
            max_wait_ms: batch.max_wait.millis(),
        }),
        timeout_ms: delivery.timeout.millis(),
        max_in_flight: delivery.max_in_flight,
        max_retries: delivery.retries.max_retries,
        backoff: Some(backoff(&delivery.retries.backoff)),
        answers: answers.collect(),
        body_status: delivery.body_status,
        circuit_breaker: delivery.circuit_breaker.as_ref().map(circuit_breaker),
        expiry_ms: delivery.expiry.as_ref().map(crds::Duration::millis),
        on_exhausted: match delivery.on_exhausted {
            OnExhausted::DeadLetter => mesh::OnExhausted::DeadLetter,
            OnExhausted::Block => mesh::OnExhausted::Block,
            OnExhausted::Drop => mesh::OnExhausted::Drop,
        }
        .into(),
        dead_letter_topic: {
            let dead_letter = delivery.dead_letter.as_ref();
            dead_letter.map_or_else(String::new, |to| to.topic.clone())
        },
        dead_letter_body: delivery
            .dead_letter
            .as_ref()
            .is_some_and(|to| to.include_error_body),
        ..mesh::Subscription::default()
    }
}

fn circuit_breaker(written: &EventCircuitBreaker) -> mesh::CircuitBreaker {
    mesh::CircuitBreaker {
        consecutive_failures: written.consecutive_failures,
        error_percent: written.error_percent,
        min_requests: written.min_requests,
        window_ms: written.window.millis(),
        on_5xx: true,
        on_timeout: true,
        // Who can't be reached costs no event anything.
        on_connect: false,
        on_reset: true,
        open_for_ms: written.open_for.millis(),
        max_open_for_ms: written.max_open_for.millis(),
        half_open_requests: 1,
        max_ejected_percent: 100,
    }
}

fn invalid(message: String) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message,
    }
}
