//! RetryPolicy: from `crds::RetryPolicy` to `mesh::RetryPolicy`.
//!
//! It is in force as a whole or not at all: half of what callers do about a Service would look like
//! all of it.

use std::collections::BTreeSet;

use crds::status::Reason;
use crds::{BalancingType, HashOn, HashType, RetryPolicySpec};
use k8s_openapi::api::core::v1::Service;
use wire::mesh::{self, consistent_hash::On, load_balancing::Algorithm};
use wire::path::normalise;

use crate::api_route::{Refusal, ended};
use crate::endpoints::{is_external_name, speaks_http};
use crate::host::Suggestions;
use crate::index::Objects;
use crate::inputs::ObjectKey;

/// What is known when a RetryPolicy is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a RetryPolicySpec,
    pub(crate) services: &'a Objects<Service>,
    pub(crate) suggestions: &'a Suggestions<'a>,
}

/// The Services that it is for, and what their callers do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// Every Service named, whether it exists or not, in the order written.
    pub(crate) services: Vec<ObjectKey>,
    pub(crate) load_balancing: Option<mesh::LoadBalancing>,
    pub(crate) health_check: Option<mesh::HealthCheck>,
    /// Why the object can't be in force.
    pub(crate) refusal: Option<Refusal>,
    /// Services that don't exist, for which something else is suggested.
    pub(crate) lost: BTreeSet<ObjectKey>,
}

// === impl Reader ===

impl Reader<'_> {
    /// Reads the whole object.
    pub(crate) fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let mut refusals = Vec::new();
        for (index, target) in self.spec.target_refs.iter().enumerate() {
            let namespace = target.namespace.as_ref().unwrap_or(&self.key.namespace);
            let service = ObjectKey::new(namespace, &*target.name);
            if !policy.services.contains(&service) {
                refusals.extend(self.target(index, &service, &mut policy.lost));
                policy.services.push(service);
            }
        }
        let namespaces = policy.services.iter().map(|service| &*service.namespace);
        let namespaces: BTreeSet<&str> = namespaces.collect();
        if namespaces.len() > 1 {
            let namespaces = Vec::from_iter(namespaces).join(", ");
            refusals.push(invalid(format!(
                "spec.targetRefs names Services in the namespaces {namespaces}: write one RetryPolicy \
                 for each."
            )));
        }
        if self.spec.target_refs.is_empty() {
            let message = "spec.targetRefs is empty: name at least one Service.";
            refusals.push(invalid(message.to_owned()));
        }
        policy.load_balancing = self.load_balancing(&mut refusals);
        policy.health_check = self.health_check(&mut refusals);
        policy.refusal = Refusal::all(refusals);
        policy
    }

    /// What is wrong with a target that means `key`.
    fn target(
        &self,
        index: usize,
        key: &ObjectKey,
        lost: &mut BTreeSet<ObjectKey>,
    ) -> Vec<Refusal> {
        let ObjectKey { namespace, name } = key;
        let Some(service) = self.services.get(key) else {
            lost.insert(key.clone());
            let suggestion = ended(self.suggestions.instead_of(key));
            return vec![Refusal {
                reason: Reason::TargetNotFound,
                message: format!(
                    "spec.targetRefs[{index}]: there is no Service {name:?} in namespace \
                     {namespace}{suggestion}"
                ),
            }];
        };
        if is_external_name(service) {
            return vec![Refusal {
                reason: Reason::UnsupportedTarget,
                message: format!(
                    "spec.targetRefs[{index}]: Service {name:?} in namespace {namespace} has type \
                     ExternalName: it stands for a name outside the cluster, which has no endpoints \
                     here."
                ),
            }];
        }
        if speaks_http(service) {
            return Vec::new();
        }
        let hash_on = self.spec.load_balancing.as_ref().and_then(|balancing| {
            let hash_on = balancing.hash_on.as_ref()?;
            (hash_on.type_ != HashType::Source).then_some("spec.loadBalancing.hashOn")
        });
        let health_check = self.spec.health_check.as_ref().map(|_| "spec.healthCheck");
        let need_http = hash_on.into_iter().chain(health_check);
        need_http
            .map(|field| Refusal {
                reason: Reason::UnsupportedProtocol,
                message: format!(
                    "{field} needs HTTP, which no port of Service {name:?} in namespace {namespace} \
                     speaks: set the port's appProtocol to http, or name it http, if it does."
                ),
            })
            .collect()
    }

    fn load_balancing(&self, refusals: &mut Vec<Refusal>) -> Option<mesh::LoadBalancing> {
        let written = self.spec.load_balancing.as_ref()?;
        let algorithm = match written.type_ {
            BalancingType::LeastRequest => Algorithm::LeastRequest(mesh::LeastRequest {}),
            BalancingType::RoundRobin => Algorithm::RoundRobin(mesh::RoundRobin {}),
            BalancingType::ConsistentHash => {
                let Some(on) = written.hash_on.as_ref().and_then(hashed) else {
                    let message = "spec.loadBalancing.hashOn doesn't say what is hashed.";
                    refusals.push(invalid(message.to_owned()));
                    return None;
                };
                Algorithm::ConsistentHash(mesh::ConsistentHash { on: Some(on) })
            }
        };
        Some(mesh::LoadBalancing {
            algorithm: Some(algorithm),
            slow_start_ms: written.slow_start.as_ref().map(crds::Duration::millis),
        })
    }

    fn health_check(&self, refusals: &mut Vec<Refusal>) -> Option<mesh::HealthCheck> {
        let written = self.spec.health_check.as_ref()?;
        // In the normal form here: what is asked for is sent as it is, not compared with anything.
        let path = match normalise(written.path.as_bytes()) {
            Ok(path) => path.into_owned(),
            Err(why) => {
                refusals.push(invalid(format!("spec.healthCheck.path: {why}.")));
                return None;
            }
        };
        Some(mesh::HealthCheck {
            path,
            interval_ms: written.interval.millis(),
            timeout_ms: written.timeout.millis(),
            unhealthy_threshold: written.unhealthy_threshold,
            healthy_threshold: written.healthy_threshold,
        })
    }
}

/// What is hashed; `None` for a header or cookie without a name.
fn hashed(written: &HashOn) -> Option<On> {
    let name = || written.name.clone().filter(|name| !name.is_empty());
    Some(match written.type_ {
        HashType::Header => On::Header(name()?.to_ascii_lowercase()),
        HashType::Cookie => On::Cookie(name()?),
        HashType::Source => On::Source(true),
    })
}

fn invalid(message: String) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message,
    }
}
