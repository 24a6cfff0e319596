//! Publish: from the rules of an ApiRoute by which requests become events, or are answered with them, to
//! `mesh::Publish`.
//!
//! It holds while the object is in force, at the pods of its hosts.

use std::collections::{BTreeMap, BTreeSet};

use crds::event_subscription::StartFrom;
use crds::status::Reason;
use crds::{ApiRouteSpec, PublishAck, SplitFormat};
use k8s_openapi::api::core::v1::Secret;
use wire::mesh::{self, streaming::Start, subscription};

use crate::api_route::filters::cors;
use crate::api_route::{Refusal, idle_timeout, rule_name, service_ref};
use crate::broker;
use crate::event_subscription;
use crate::index::Objects;
use crate::inputs::ObjectKey;

mod async_reply;
mod attributes;

pub(crate) use async_reply::matches;

/// Until a broker is there.
const UNTIL: &str = "Until then nothing is published there: requests are answered 503.";

/// What is known when it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a ApiRouteSpec,
    pub(crate) brokers: broker::Reader<'a>,
    pub(crate) credentials: &'a Objects<Secret>,
}

// === impl Reader ===

impl Reader<'_> {
    /// The Services at whose pods it holds, given those of the hosts.
    pub(crate) fn services(&self, hosts: &[ObjectKey]) -> BTreeSet<ObjectKey> {
        let own = hosts
            .iter()
            .filter(|host| host.namespace == self.key.namespace);
        own.cloned().collect()
    }

    /// Why the object can't be in force.
    pub(crate) fn problems(&self, hosts: &[ObjectKey]) -> Vec<Refusal> {
        let mut problems = self.topics();
        problems.extend(self.unreadable());
        problems.extend(async_reply::problems(self.spec));
        problems.extend(attributes::problems(self.spec));
        problems.extend(self.elsewhere(hosts));
        problems
    }

    /// What brokers take no topics of.
    fn topics(&self) -> Vec<Refusal> {
        let brokers = self.brokers().0;
        let rules = self.spec.rules.iter().enumerate();
        let problems = rules.filter_map(|(place, rule)| {
            let publish = rule.publish.as_ref()?;
            let broker = brokers.iter().find(|one| one.name == publish.broker)?;
            let kind = broker::kind(broker)?;
            let letters = publish.split.as_ref();
            let letters = letters.and_then(|split| split.dead_letter.as_ref());
            let replies = publish.async_reply.as_ref();
            let topics = [
                Some(("topic", &publish.topic)),
                letters.map(|letters| ("split.deadLetter.topic", &letters.topic)),
                replies.map(|replies| ("asyncReply.topic", &replies.topic)),
            ];
            let problems = topics
                .into_iter()
                .flatten()
                .filter_map(move |(field, topic)| {
                    let at = format!("spec.rules[{place}].publish.{field}");
                    let message = broker::topic_problem(kind, &at, topic)?;
                    let reason = Reason::Invalid;
                    Some(Refusal { reason, message })
                });
            Some(problems)
        });
        problems.flatten().collect()
    }

    /// What brokers can't be read from, and from where.
    fn unreadable(&self) -> Vec<Refusal> {
        let brokers = self.brokers().0;
        let rules = self.spec.rules.iter().enumerate();
        let problems = rules.filter_map(|(place, rule)| {
            let stream = rule.stream.as_ref()?;
            let at = format!("spec.rules[{place}].stream");
            let start = start(&stream.start_from).err();
            let start = start.map(|why| format!("{at}.startFrom.{why}"));
            let broker = brokers.iter().find(|one| one.name == stream.broker);
            let kind = broker.and_then(broker::kind);
            let place = kind.and_then(|kind| event_subscription::unknown_place(kind, &stream.start_from));
            let place = place.map(|why| format!("{at}.startFrom.{why}"));
            let of_kind = kind.and_then(|kind| match kind.abilities().history {
                true => broker::topic_problem(kind, &format!("{at}.topic"), &stream.topic),
                false => Some(format!(
                    "{at}.broker: {} keeps nothing that can be read from a place on: use a broker of NATS or Redis, or \
                     an EventSubscription by which the application gets the events.",
                    kind.name()
                )),
            });
            Some(start.into_iter().chain(place).chain(of_kind))
        });
        let refusal = |message| Refusal {
            reason: Reason::Invalid,
            message,
        };
        problems.flatten().map(refusal).collect()
    }

    /// That it says what pods of other namespaces do.
    fn elsewhere(&self, hosts: &[ObjectKey]) -> Vec<Refusal> {
        let own = &self.key.namespace;
        let Some(other) = hosts.iter().find(|host| host.namespace != *own) else {
            return Vec::new();
        };
        let rules = self.spec.rules.iter().enumerate();
        let places = rules.filter_map(|(place, rule)| {
            let field = match (&rule.publish, &rule.stream) {
                (Some(_), _) => "publish",
                (None, Some(_)) => "stream",
                (None, None) => return None,
            };
            Some((place, field))
        });
        let problems = places.map(|(place, field)| Refusal {
            reason: Reason::Invalid,
            message: format!(
                "spec.rules[{place}].{field}: what the pods of namespace {} do is said by an ApiRoute \
                 of that namespace: write it there, or take {field} out.",
                other.namespace
            ),
        });
        problems.collect()
    }

    /// Why brokers and stores can't be had.
    pub(crate) fn unresolved(&self) -> Vec<Refusal> {
        let rules = self.spec.rules.iter().enumerate();
        let stores = rules.filter_map(|(place, rule)| {
            let reply = rule.publish.as_ref()?.async_reply.as_ref()?;
            self.async_reply(place, reply).1
        });
        self.brokers().1.into_iter().chain(stores).collect()
    }

    /// The resource.
    pub(crate) fn publish(&self, services: &BTreeSet<ObjectKey>) -> mesh::Publish {
        let rules = self.spec.rules.iter().enumerate();
        let rules = rules.map(|(place, rule)| mesh::PublishRule {
            name: rule.name.clone().unwrap_or_else(|| rule_name(place)),
            matches: matches(rule),
            publish: rule
                .publish
                .as_ref()
                .map(|publish| self.publishing(place, publish)),
            stream: rule.stream.as_ref().and_then(|stream| {
                Some(mesh::Streaming {
                    broker: stream.broker.clone(),
                    topic: stream.topic.clone(),
                    start: Some(start(&stream.start_from).ok()?),
                    cors: rule.cors.as_ref().map(cors),
                    idle_timeout_ms: idle_timeout(self.spec, rule.timeouts.as_ref()),
                })
            }),
        });
        mesh::Publish {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            services: services.iter().map(service_ref).collect(),
            rules: rules.collect(),
            brokers: self.brokers().0,
        }
    }

    fn publishing(&self, place: usize, written: &crds::Publish) -> mesh::Publishing {
        let event = written.event.clone().unwrap_or_default();
        let ObjectKey { namespace, name } = self.key;
        let source = || format!("/apiroutes/{namespace}/{name}");
        mesh::Publishing {
            attributes: attributes::attributes(&event),
            broker: written.broker.clone(),
            topic: written.topic.clone(),
            r#type: event.type_.unwrap_or_else(|| written.topic.clone()),
            source: event.source.unwrap_or_else(source),
            max_bytes: written.max_bytes,
            unwaited: written.ack == PublishAck::None,
            split: written.split.as_ref().map(split),
            async_reply: {
                let reply = written.async_reply.as_ref();
                reply.map(|reply| self.async_reply(place, reply).0)
            },
        }
    }

    /// Those that the rules name, each once, and what is wrong with them.
    fn brokers(&self) -> (Vec<mesh::Broker>, Vec<Refusal>) {
        let mut first = BTreeMap::new();
        for (place, rule) in self.spec.rules.iter().enumerate() {
            let publish = rule.publish.as_ref().map(|one| (&*one.broker, "publish"));
            let stream = rule.stream.as_ref().map(|one| (&*one.broker, "stream"));
            for (name, field) in publish.into_iter().chain(stream) {
                first.entry(name).or_insert((place, field));
            }
        }
        let read = first.into_iter().map(|(name, (place, field))| {
            let at = format!("spec.rules[{place}].{field}.broker");
            self.brokers.broker(&at, name, UNTIL)
        });
        let (brokers, unresolved): (Vec<_>, Vec<_>) = read.unzip();
        (brokers, unresolved.into_iter().flatten().collect())
    }
}

/// Where a stream begins; else what is wrong with its field.
fn start(written: &StartFrom) -> Result<Start, &'static str> {
    Ok(match event_subscription::start(written)? {
        subscription::Start::New(is) => Start::New(is),
        subscription::Start::Earliest(is) => Start::Earliest(is),
        subscription::Start::SinceMs(moment) => Start::SinceMs(moment),
        subscription::Start::Place(place) => Start::Place(place),
    })
}

fn split(written: &crds::PublishSplit) -> mesh::Split {
    let letters = written.dead_letter.as_ref();
    let mut split = mesh::Split {
        record_path: written.record_path.clone().unwrap_or_default(),
        max_record_bytes: written.max_record_bytes,
        max_failed_records: written.max_failed_records.unwrap_or_default(),
        dead_letter_topic: letters.map(|one| one.topic.clone()).unwrap_or_default(),
        ..mesh::Split::default()
    };
    split.set_format(match written.format {
        SplitFormat::Ndjson => mesh::SplitFormat::Ndjson,
        SplitFormat::JsonArray => mesh::SplitFormat::JsonArray,
        SplitFormat::Csv => mesh::SplitFormat::Csv,
        SplitFormat::Xml => mesh::SplitFormat::Xml,
    });
    split
}
