//! Publish → [`Publish`]: which requests become events, and what the application may publish.

use std::collections::HashMap;
use std::sync::Arc;

use http::request::Parts;
use wire::mesh;

use super::broker::Broker;
use super::route::Route;
use super::service::ServiceKey;
use crate::events::split::{Format, Path};

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
    publishing: Vec<Option<Arc<Publishing>>>,
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
    /// Of a request's body, in bytes.
    pub max_bytes: u64,
    /// Whether it is answered before the broker has confirmed.
    pub unwaited: bool,
    /// How a body is split into records, if it is.
    pub split: Option<Split>,
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
        let mut publishing = Vec::with_capacity(sent.rules.len());
        let mut rules = Vec::with_capacity(sent.rules.len());
        for (place, rule) in sent.rules.into_iter().enumerate() {
            let built = rule.publish.map(|publish| {
                let broker = brokers.get(&publish.broker);
                let broker = broker.ok_or_else(|| {
                    format!(
                        "rules[{place}]: broker {:?} is none of brokers",
                        publish.broker
                    )
                })?;
                let split = publish.split.map(Split::build).transpose();
                let split = split.map_err(|error| format!("rules[{place}]: split: {error}"))?;
                Ok::<_, String>(Arc::new(Publishing {
                    object: object.clone(),
                    rule: rule.name.as_str().into(),
                    broker: broker.clone(),
                    topic: publish.topic.into(),
                    event_type: publish.r#type,
                    event_source: publish.source,
                    max_bytes: publish.max_bytes,
                    unwaited: publish.unwaited,
                    split,
                }))
            });
            publishing.push(built.transpose()?);
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
            publishing,
        })
    }

    // === request ===

    /// Where a request is published; `None` when it goes to the application.
    pub fn of(&self, head: &Parts) -> Option<&Arc<Publishing>> {
        let found = self.route.find(head)?;
        self.publishing.get(found.rule)?.as_ref()
    }

    /// Where the application may publish.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Publishing>> {
        self.publishing.iter().flatten()
    }
}
