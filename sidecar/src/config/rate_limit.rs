//! RateLimit → [`RateLimit`]: how much callers use, as one RateLimit says.

use std::collections::HashSet;
use std::sync::Arc;

use wire::mesh;

use super::outside::Named;
use super::service::ServiceKey;
use super::store::Address;
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
    /// Where replicas count together, if they do.
    pub shared: Option<Shared>,
    /// What it was written for, and the Services that this means.
    targets: Vec<(Arc<str>, Vec<ServiceKey>)>,
    /// What it was written for, and the names outside the cluster that this means.
    outside: Vec<(Arc<str>, Named)>,
}

/// Where replicas count together.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Where the store is; `None` when it can't be had.
    pub address: Option<Arc<Address>>,
    /// What becomes of requests while it does not answer.
    pub on_failure: OnFailure,
    /// Why it can't be had, where what was sent of it can't be used.
    unusable: Option<String>,
}

/// What becomes of requests while the store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Each sidecar counts on its own; quotas are not counted.
    LocalFallback,
    /// They pass.
    Allow,
    /// They are refused.
    Deny,
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
    /// Builds from what was sent; what callers have used goes on. A store that can't be used
    /// ([`RateLimit::unusable`]) is as one that does not answer: the limits hold as is said for that.
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
        let shared = sent.store.map(Shared::build).transpose()?;
        if shared.is_none() && limits.iter().any(Limit::is_quota) {
            return Err("a quota is counted in a store, and there is none".to_owned());
        }
        let (mut targets, mut outside) = (Vec::new(), Vec::new());
        for target in sent.targets {
            let name: Arc<str> = target.name.into();
            let services = target.services.iter();
            let services = services.map(|one| ServiceKey::new(&one.namespace, &one.name));
            targets.push((name.clone(), services.collect()));
            if let Some(named) = target.outside {
                outside.push((name, Named::build(named)?));
            }
        }
        // Last: what is rejected changes nothing of what was used.
        for limit in &limits {
            let mut before = old.iter().flat_map(|old| &old.limits);
            if let Some(old) = before.find(|old| old.name == limit.name) {
                limit.replaces(old);
            }
        }
        Ok(Self {
            targets,
            outside,
            limits,
            says,
            shared,
            object,
        })
    }

    /// Why its store can't be used, if that is so: without a word of its address.
    pub fn unusable(&self) -> Option<&str> {
        self.shared.as_ref()?.unusable.as_deref()
    }

    /// The store that it is counted in.
    pub fn store(&self) -> Option<&Arc<Address>> {
        self.shared.as_ref()?.address.as_ref()
    }

    /// The names outside the cluster that it is for, each with the entry that means it.
    pub fn outside(&self) -> impl Iterator<Item = &(Arc<str>, Named)> {
        self.outside.iter()
    }

    /// The entry that means a Service (`namespace/name`), if one does.
    pub fn target(&self, service: &str) -> Option<&Arc<str>> {
        let means = |services: &[ServiceKey]| services.iter().any(|one| **one.text() == *service);
        let found = self.targets.iter().find(|(_, services)| means(services));
        found.map(|(name, _)| name)
    }
}

impl Limited {
    /// The entry of its `targetRefs` that means the port's Service.
    pub fn target(limited: &Self) -> &str {
        &limited.target
    }
}

impl Shared {
    fn build(sent: mesh::SharedStore) -> Result<Self, String> {
        let on_failure = match sent.on_failure() {
            mesh::StoreFailure::LocalFallback => OnFailure::LocalFallback,
            mesh::StoreFailure::Allow => OnFailure::Allow,
            mesh::StoreFailure::Deny => OnFailure::Deny,
            mesh::StoreFailure::Unspecified => {
                return Err("nothing says what becomes of requests without the store".to_owned());
            }
        };
        let built = match sent.url.is_empty() {
            true => Ok(None),
            false => Address::build(sent.url, sent.ca_certificates).map(Some),
        };
        let (address, unusable) = match built {
            Ok(address) => (address.map(Arc::new), None),
            Err(why) => (None, Some(format!("its store can't be used: {why}"))),
        };
        Ok(Self {
            address,
            on_failure,
            unusable,
        })
    }
}
