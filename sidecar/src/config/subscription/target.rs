//! Where events go.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use rustls::ClientConfig;
use wire::mesh::{self, subscription};

use super::Broker;
use crate::config::async_reply::Kept;
use crate::config::remote;
use crate::config::service::{ServiceKey, parse_port};

/// Where events go.
#[derive(Clone, Debug)]
pub enum Target {
    /// To the application beside this sidecar, at this port.
    Application(u16),
    /// To a Service, by its name, at this port of it.
    Service(ServiceKey, u16),
    /// To another topic.
    Topic(Topic),
    /// To a system outside the mesh; or why what it asks for can't be had.
    Outside(Result<Arc<Outside>, String>),
    /// To the store that an ApiRoute's results are kept in.
    Results(Arc<Kept>),
}

/// A topic that events are copied to.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its broker.
    pub broker: Arc<Broker>,
    /// Its name.
    pub name: Arc<str>,
}

/// A system outside the mesh. What it is shown is never.
pub struct Outside {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Both, as its requests name it.
    pub authority: HeaderValue,
    /// What is posted to.
    pub path: PathAndQuery,
    /// Who posts; `None` where nobody asks.
    pub authorization: Option<HeaderValue>,
    /// How it proves itself, and what certificate it is shown.
    pub tls: Arc<ClientConfig>,
}

// === build ===

impl Target {
    pub(super) fn build(sent: Option<subscription::Target>) -> Result<Self, String> {
        match sent {
            Some(subscription::Target::ApplicationPort(port)) => {
                Ok(Target::Application(parse_port(port)?))
            }
            Some(subscription::Target::Service(to)) => {
                let service = to.service.ok_or("service: it names none")?;
                let key = ServiceKey::new(&service.namespace, &service.name);
                Ok(Target::Service(key, parse_port(to.port)?))
            }
            Some(subscription::Target::TopicTarget(to)) => {
                let broker = to.broker.ok_or("topic_target: it names no broker")?;
                Ok(Target::Topic(Topic {
                    broker: Arc::new(Broker::build(broker)?),
                    name: to.topic.into(),
                }))
            }
            Some(subscription::Target::Url(to)) if to.url.is_empty() => {
                Ok(Target::Outside(Err("its Secret can't be used".to_owned())))
            }
            // What was shown before is shown no longer: its events wait.
            Some(subscription::Target::Url(to)) => Ok(Target::Outside(match Outside::build(to) {
                Ok(built) => Ok(Arc::new(built)),
                Err(why) => Err(format!("its Secret can't be used: {why}")),
            })),
            None => Err("target: it is missing".to_owned()),
        }
    }

    // === request ===

    /// Whether it is this system, as it is written now.
    pub fn is(&self, outside: &Arc<Outside>) -> bool {
        matches!(self, Target::Outside(Ok(own)) if Arc::ptr_eq(own, outside))
    }

    /// Why nothing can be delivered for want of what the target asks for, if that is so.
    pub fn lacks(&self) -> Option<&str> {
        match self {
            Target::Outside(outside) => outside.as_ref().err().map(String::as_str),
            Target::Topic(topic) if topic.broker.address.is_none() => {
                Some("the Secret of its broker can't be used")
            }
            Target::Results(kept) if kept.store.is_none() => {
                Some("the Secret of its store can't be used")
            }
            Target::Topic(_)
            | Target::Results(_)
            | Target::Application(_)
            | Target::Service(..) => None,
        }
    }
}

impl Outside {
    /// Errors are sentences without a word of what is secret.
    fn build(sent: mesh::EventUrl) -> Result<Self, String> {
        let uri: Uri = sent.url.parse().map_err(|_| "it is no address")?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err("it is no https://host".to_owned());
        };
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authorization = match sent.authorization.is_empty() {
            true => None,
            false => {
                let value = HeaderValue::try_from(sent.authorization);
                let mut value = value.map_err(|_| "what is shown to it is no header")?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let shown = (&*sent.certificate, &*sent.key);
        Ok(Self {
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(443),
            authority: HeaderValue::try_from(authority.as_str())
                .map_err(|_| "it names no host".to_owned())?,
            path: match uri.path_and_query() {
                Some(path) => path.clone(),
                None => PathAndQuery::from_static("/"),
            },
            authorization,
            tls: remote::client_that_shows(&sent.ca_certificates, shown)?,
        })
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}
