//! Publish → [`Publish`]: which requests become events, and what the application may publish.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use http::request::Parts;
use wire::data;
use wire::mesh::{self, event_attribute, streaming};

use super::async_reply::AsyncReply;
use super::broker::Broker;
use super::route::{Route, idle_timeout};
use super::service::ServiceKey;
use super::subscription::moment;
use crate::events::broker::Start;
use crate::events::split::{Format, Path};
use crate::policy::cors::Cors;

/// What one ApiRoute says of events.
#[derive(Debug)]
pub struct Publish {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The Services at whose pods it holds.
    pub services: Vec<ServiceKey>,
    /// Finds the rule.
    route: Route,
    /// By the place of the rule; nothing for those whose requests go to the application.
    does: Vec<Option<Does>>,
}

/// What a rule does with requests.
#[derive(Clone, Debug)]
pub enum Does {
    /// They become events.
    Publish(Arc<Publishing>),
    /// They are answered with events.
    Stream(Arc<Streaming>),
}

/// What the requests of a rule are answered with.
#[derive(Debug)]
pub struct Streaming {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The broker.
    pub broker: Arc<Broker>,
    /// Its topic.
    pub topic: Arc<str>,
    /// Where one begins that brings no place.
    pub start: Start,
    /// Of which pages a WebSocket may be, beside those of what was called.
    pub cors: Option<Cors>,
    /// After which silence callers' sidecars end it.
    pub idle: Option<Duration>,
}

/// Where the requests of a rule are published.
#[derive(Debug)]
pub struct Publishing {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The rule.
    pub rule: Arc<str>,
    /// The broker.
    pub broker: Arc<Broker>,
    /// Its topic.
    pub topic: Arc<str>,
    /// The `type` of events that come as plain bodies.
    pub event_type: String,
    /// Their `source`.
    pub event_source: String,
    /// What else they say, each by its name.
    pub attributes: Vec<(String, From)>,
    /// Of a request's body, in bytes.
    pub max_bytes: u64,
    /// Whether it is answered before the broker has confirmed.
    pub unwaited: bool,
    /// How a body is split into records, if it is.
    pub split: Option<Split>,
    /// Where what is replied is kept for whoever published, if it is.
    pub async_reply: Option<Arc<AsyncReply>>,
}

/// Where an attribute's value is taken from.
#[derive(Debug)]
pub enum From {
    /// It is this.
    Value(String),
    /// A header of the request.
    Header(HeaderName),
    /// A place in data that are JSON, and its path as it is written.
    Data(data::Path, String),
}

/// How a body is split into records, each of which becomes an event.
#[derive(Debug)]
pub struct Split {
    /// How records stand in it.
    pub format: Format,
    /// Of a record, in bytes.
    pub max_record_bytes: usize,
    /// How many records may be none before nothing more is read.
    pub max_failed: u64,
    /// The topic of those that are none.
    pub dead_letter: Option<Arc<str>>,
}

// === build ===

impl Split {
    fn build(sent: mesh::Split) -> Result<Self, String> {
        let format = match sent.format() {
            mesh::SplitFormat::Ndjson => Format::Ndjson,
            mesh::SplitFormat::JsonArray => Format::JsonArray,
            mesh::SplitFormat::Csv => Format::Csv,
            mesh::SplitFormat::Xml => Format::Xml(Path::read(&sent.record_path)?),
            mesh::SplitFormat::Unspecified => return Err("there is no format".to_owned()),
        };
        let topic = sent.dead_letter_topic;
        Ok(Self {
            format,
            max_record_bytes: usize::try_from(sent.max_record_bytes)
                .map_err(|_| "its records are longer than memory".to_owned())?,
            max_failed: sent.max_failed_records,
            dead_letter: (!topic.is_empty()).then(|| topic.into()),
        })
    }
}

/// As people are told it.
impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(_) => write!(f, "what the rule says"),
            Self::Header(header) => write!(f, "the header {header}"),
            Self::Data(_, path) => write!(f, "{path} of the data, which are JSON of 1 MiB at most"),
        }
    }
}

impl From {
    fn build(sent: mesh::EventAttribute) -> Result<(String, Self), String> {
        let name = sent.name;
        let from = match sent.from {
            Some(event_attribute::From::Value(value)) => Self::Value(value),
            Some(event_attribute::From::Header(header)) => match header.parse() {
                Ok(header) => Self::Header(header),
                Err(_) => return Err(format!("{name}: {header:?} is no header")),
            },
            Some(event_attribute::From::Data(path)) => {
                let read = data::Path::parse(&path).map_err(|why| format!("{name}: {why}"))?;
                Self::Data(read, path)
            }
            None => return Err(format!("{name}: it is not known to this sidecar")),
        };
        Ok((name, from))
    }
}

impl Publish {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Publish) -> Result<Self, String> {
        let object: Arc<str> = format!("{}/{}", sent.namespace, sent.name).into();
        let mut brokers = HashMap::new();
        for broker in sent.brokers {
            let name = broker.name.clone();
            let built = Broker::build(broker);
            let built = built.map_err(|error| format!("brokers, {name:?}: {error}"))?;
            brokers.insert(name, Arc::new(built));
        }
        let broker_of = |place: usize, name: &str| {
            let broker = brokers.get(name).cloned();
            broker.ok_or_else(|| format!("rules[{place}]: broker {name:?} is none of brokers"))
        };
        let mut does = Vec::with_capacity(sent.rules.len());
        let mut rules = Vec::with_capacity(sent.rules.len());
        for (place, rule) in sent.rules.into_iter().enumerate() {
            does.push(match (rule.publish, rule.stream) {
                (Some(publish), _) => {
                    let broker = broker_of(place, &publish.broker)?;
                    let split = publish.split.map(Split::build).transpose();
                    let split = split.map_err(|error| format!("rules[{place}]: split: {error}"))?;
                    let reply = publish.async_reply;
                    let reply = reply.map(|sent| AsyncReply::build(&object, &broker, sent));
                    let reply = reply.transpose();
                    let reply =
                        reply.map_err(|error| format!("rules[{place}]: async_reply: {error}"))?;
                    let attributes = publish.attributes.into_iter().map(From::build);
                    let attributes = attributes.collect::<Result<_, _>>();
                    let attributes = attributes
                        .map_err(|error| format!("rules[{place}]: attributes: {error}"))?;
                    Some(Does::Publish(Arc::new(Publishing {
                        attributes,
                        object: object.clone(),
                        rule: rule.name.as_str().into(),
                        broker,
                        topic: publish.topic.into(),
                        event_type: publish.r#type,
                        event_source: publish.source,
                        max_bytes: publish.max_bytes,
                        unwaited: publish.unwaited,
                        split,
                        async_reply: reply.map(Arc::new),
                    })))
                }
                (None, Some(stream)) => Some(Does::Stream(Arc::new(Streaming {
                    object: object.clone(),
                    broker: broker_of(place, &stream.broker)?,
                    topic: stream.topic.into(),
                    start: match stream.start {
                        Some(streaming::Start::New(_)) => Start::New,
                        Some(streaming::Start::Earliest(_)) => Start::Earliest,
                        Some(streaming::Start::SinceMs(millis)) => Start::Time(moment(millis)),
                        Some(streaming::Start::Place(place)) => {
                            Start::Place(place.first, place.second)
                        }
                        None => return Err(format!("rules[{place}]: stream: it has no start")),
                    },
                    idle: idle_timeout(stream.idle_timeout_ms)
                        .map_err(|error| format!("rules[{place}]: stream: {error}"))?,
                    cors: (stream.cors.map(Cors::build).transpose())
                        .map_err(|error| format!("rules[{place}]: stream: cors: {error}"))?,
                }))),
                (None, None) => None,
            });
            rules.push(mesh::Rule {
                name: rule.name,
                matches: rule.matches,
                ..mesh::Rule::default()
            });
        }
        let services = sent.services.iter();
        let services = services.map(|one| ServiceKey::new(&one.namespace, &one.name));
        let route = Route::build(
            mesh::Route {
                namespace: sent.namespace,
                name: sent.name,
                rules,
                ..mesh::Route::default()
            },
            None,
        )?;
        Ok(Self {
            object,
            services: services.collect(),
            route,
            does,
        })
    }

    // === request ===

    /// What is done with a request; `None` when it goes to the application.
    pub fn of(&self, head: &Parts) -> Option<&Does> {
        let found = self.route.find(head)?;
        self.does.get(found.rule)?.as_ref()
    }

    /// Where the application may publish.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Publishing>> {
        self.does.iter().flatten().filter_map(|does| match does {
            Does::Publish(to) => Some(to),
            Does::Stream(_) => None,
        })
    }

    /// Where what is replied is kept.
    pub fn async_replies(&self) -> impl Iterator<Item = &Arc<AsyncReply>> {
        self.all().filter_map(|to| to.async_reply.as_ref())
    }

    /// What is read from brokers.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<Streaming>> {
        self.does.iter().flatten().filter_map(|does| match does {
            Does::Publish(_) => None,
            Does::Stream(from) => Some(from),
        })
    }

    /// The brokers that are published to or read from.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<Broker>> {
        self.does.iter().flatten().map(|does| match does {
            Does::Publish(to) => &to.broker,
            Does::Stream(from) => &from.broker,
        })
    }
}
