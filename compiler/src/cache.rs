//! Cache: from what an ApiRoute says of answers that are kept to `mesh::Cache`.
//!
//! Unlike what says who may enter, it holds only while the object is in force: an answer that is
//! asked for once more does no harm.

use std::collections::BTreeSet;

use crds::status::Reason;
use crds::{ApiRoute, ApiRouteSpec, Cache};
use wire::mesh;

use crate::api_route::Refusal;
use crate::index::Objects;
use crate::inputs::ObjectKey;
use crate::own_pods;

pub(crate) mod at_caller;

/// What is known when it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a ApiRouteSpec,
}

// === impl Reader ===

impl Reader<'_> {
    /// The Services at whose pods answers are kept, given those of the hosts: these, and those that
    /// its rules send to.
    pub(crate) fn services(&self, hosts: &[ObjectKey]) -> BTreeSet<ObjectKey> {
        if self.spec.cache.is_none() {
            return BTreeSet::new();
        }
        own_pods::services(self.key, self.spec, hosts)
    }

    /// Why it can't be in force: no sidecar of its own namespace would keep the answers.
    pub(crate) fn problems(&self, hosts: &[ObjectKey]) -> Vec<Refusal> {
        let mut problems = Vec::new();
        if self.spec.cache.is_none() {
            return problems;
        }
        let own = &self.key.namespace;
        if let Some(other) = hosts.iter().find(|host| host.namespace != *own) {
            problems.push(invalid(format!(
                "spec.cache: which answers the pods of namespace {} keep is said by an ApiRoute of \
                 that namespace: write it there, or take spec.cache out.",
                other.namespace
            )));
        }
        for rule in self.spec.rules.iter().enumerate() {
            let would_not = "keep answers as this object's spec.cache says";
            let elsewhere = own_pods::elsewhere(self.key, rule, would_not);
            problems.extend(elsewhere.map(invalid));
        }
        problems
    }

    /// The resource, given every ApiRoute.
    pub(crate) fn cache(
        &self,
        services: &BTreeSet<ObjectKey>,
        all: &Objects<ApiRoute>,
    ) -> Option<mesh::Cache> {
        let cache = self.spec.cache.as_ref()?;
        Some(self.message(cache, services, all))
    }

    fn message(
        &self,
        cache: &Cache,
        services: &BTreeSet<ObjectKey>,
        all: &Objects<ApiRoute>,
    ) -> mesh::Cache {
        let headers = cache.key_headers.iter();
        let query = cache.key_query.as_ref();
        mesh::Cache {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            services: services.iter().map(crate::api_route::service_ref).collect(),
            default_ttl_ms: cache.default_ttl.millis(),
            max_bytes: cache.max_bytes,
            max_entries: cache.max_entries,
            max_entry_bytes: cache.most_of_an_entry(),
            key_headers: headers.map(|name| name.to_ascii_lowercase()).collect(),
            key_query: query.map(|names| mesh::QueryKey {
                names: names.clone(),
            }),
            stale_while_revalidate_ms: cache.stale_while_revalidate.millis(),
            stale_if_error_ms: cache.stale_if_error.millis(),
            revision: self.revision(all).into(),
        }
    }
}

fn invalid(message: String) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message,
    }
}
