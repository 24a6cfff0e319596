//! RateLimit → [`RateLimit`]: how much callers use, as one RateLimit says.

use std::collections::HashSet;
use std::sync::Arc;

use wire::mesh;

use super::service::ServiceKey;
use crate::policy::rate_limit::Limit;
use crate::policy::rate_limit::told::Says;
use crate::telemetry::metrics::rate_limit::Counters;

/// What one RateLimit says.
#[derive(Debug)]
pub struct RateLimit {
    /// `namespace/name` of the RateLimit.
    pub object: Arc<str>,
    /// The limits, in the order written.
    pub limits: Vec<Limit>,
    /// What responses say of them.
    pub says: Says,
    /// What it was written for, and the Services that this means.
    targets: Vec<(Arc<str>, Vec<ServiceKey>)>,
}

/// A RateLimit as it holds at a port.
#[derive(Clone, Debug)]
pub struct Limited {
    /// The RateLimit.
    pub rate_limit: Arc<RateLimit>,
    /// The entry of its `targetRefs` that means the port's Service.
    pub target: Arc<str>,
}

// === build ===

impl RateLimit {
    /// Builds from what was sent; what callers have used goes on.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(
        sent: mesh::RateLimit,
        old: Option<&RateLimit>,
        counters: &Counters,
    ) -> Result<Self, String> {
        let object: Arc<str> = format!("{}/{}", sent.namespace, sent.name).into();
        let says = Says::build(sent.headers())?;
        let mut names = HashSet::new();
        let limits = sent.limits.into_iter().map(|limit| {
            let name = limit.name.clone();
            if !names.insert(name.clone()) {
                return Err(format!("two limits are called `{name}`"));
            }
            let mut before = old.iter().flat_map(|old| &old.limits);
            let before = before.find(|old| *old.name == name);
            Limit::build(limit, &object, before, counters)
                .map_err(|why| format!("limit `{name}`: {why}"))
        });
        let limits = limits.collect::<Result<Vec<_>, _>>()?;
        if limits.is_empty() {
            return Err("it says nothing of how much callers may use".to_owned());
        }
        let targets = sent.targets.into_iter().map(|target| {
            let services = target.services.iter();
            let services = services.map(|one| ServiceKey::new(&one.namespace, &one.name));
            (target.name.into(), services.collect())
        });
        Ok(Self {
            targets: targets.collect(),
            limits,
            says,
            object,
        })
    }

    /// The entry that means a Service (`namespace/name`), if one does.
    pub fn target(&self, service: &str) -> Option<&Arc<str>> {
        let means = |services: &[ServiceKey]| services.iter().any(|one| **one.text() == *service);
        let found = self.targets.iter().find(|(_, services)| means(services));
        found.map(|(name, _)| name)
    }
}
