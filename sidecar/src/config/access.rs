//! Access → [`Access`]: who may enter, as one ApiRoute says; Keys → [`Keys`]: what credentials are
//! compared with.

use std::sync::Arc;

use wire::mesh;

use super::service::ServiceKey;
use crate::policy::authentication::Authentication;
use crate::policy::authentication::api_key::Consumers;
use crate::policy::authorization::Authorization;
use crate::telemetry::metrics::access::{Counters, Counts};

/// What one ApiRoute says of who may enter.
#[derive(Debug)]
pub struct Access {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The Services at whose pods it holds.
    pub services: Vec<ServiceKey>,
    /// It is about connections whose bytes nobody reads.
    pub connections: bool,
    /// Nobody may enter.
    pub closed: bool,
    /// Which credentials a request must bring.
    pub authentication: Option<Authentication>,
    /// Who may do what.
    pub authorization: Option<Authorization>,
    /// What is counted.
    pub counts: Counts,
}

/// What credentials are compared with.
pub struct Keys {
    /// Keys of consumers.
    pub consumers: Consumers,
    /// The password of who asks about tokens; empty when there is none.
    pub introspection_secret: String,
}

/// What an [`Access`] is enforced with at the moment.
#[derive(Clone, Debug)]
pub struct Enforced {
    /// What is enforced.
    pub access: Arc<Access>,
    /// What its credentials are compared with, if it needs any and has it.
    pub keys: Option<Arc<Keys>>,
}

// === build ===

impl Access {
    /// Builds from what was sent; what is known of issuers, and what was counted, goes on.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(
        sent: mesh::Access,
        old: Option<&Access>,
        counters: &Counters,
    ) -> Result<Self, String> {
        let (object, services) = (object(&sent), services(&sent));
        let before = old.and_then(|old| old.authentication.as_ref());
        let authentication = sent
            .authentication
            .map(|sent| Authentication::build(sent, before));
        let authentication = authentication
            .transpose()
            .map_err(|why| format!("authentication: {why}"))?;
        let authorization = sent.authorization.map(Authorization::build);
        let authorization = authorization
            .transpose()
            .map_err(|why| format!("authorization: {why}"))?;
        if !sent.closed && authentication.is_none() && authorization.is_none() {
            return Err("it says nothing of who may enter".to_owned());
        }
        let rules = authorization.as_ref().map_or(&[][..], Authorization::rules);
        Ok(Self {
            counts: counters.of(&object, rules),
            services,
            connections: sent.connections,
            closed: sent.closed,
            authentication,
            authorization,
            object,
        })
    }

    /// What takes the place of one that can't be used: nobody enters at the Services that it names, nor
    /// at those that the one before it named. `id` is `access/namespace/name`.
    pub fn closed(
        sent: Option<mesh::Access>,
        old: Option<&Access>,
        id: &str,
        counters: &Counters,
    ) -> Self {
        let object: Arc<str> = id.split_once('/').map_or(id, |(_, object)| object).into();
        let mut services = sent.as_ref().map_or_else(Vec::new, services);
        services.extend(old.iter().flat_map(|old| old.services.iter().cloned()));
        Self {
            counts: counters.of(&object, &[]),
            services,
            connections: sent.map_or(old.is_some_and(|old| old.connections), |sent| {
                sent.connections
            }),
            closed: true,
            authentication: None,
            authorization: None,
            object,
        }
    }
}

fn object(sent: &mesh::Access) -> Arc<str> {
    format!("{}/{}", sent.namespace, sent.name).into()
}

fn services(sent: &mesh::Access) -> Vec<ServiceKey> {
    let services = sent.services.iter();
    services
        .map(|service| ServiceKey::new(&service.namespace, &service.name))
        .collect()
}

impl Keys {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Keys) -> Result<Self, String> {
        Ok(Self {
            consumers: Consumers::build(sent.consumers)?,
            introspection_secret: sent.introspection_secret,
        })
    }
}

/// Nothing of it is shown but how much there is.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("consumers", &self.consumers)
            .finish_non_exhaustive()
    }
}
