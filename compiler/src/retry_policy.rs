//! RetryPolicy: from `crds::RetryPolicy` to `mesh::RetryPolicy`.
//!
//! It is in force as a whole or not at all: half of what callers do about a Service would look like
//! all of it.

mod retries;

use std::collections::BTreeSet;

use crds::status::Reason;
use crds::{
    ApiProtocol, ApiRoute, BalancingType, HashOn, HashType, RetryPolicySpec, TargetKind, TargetRef,
};
use k8s_openapi::api::core::v1::Service;
use wire::mesh::{self, consistent_hash::On, load_balancing::Algorithm};
use wire::path::normalise;

use crate::api_route::{Refusal, ended, rule_name};
use crate::endpoints::{is_external_name, speaks_http};
use crate::host::{Suggestions, nearest};
use crate::index::Objects;
use crate::inputs::ObjectKey;

pub(crate) use retries::backoff;

/// What is known when a RetryPolicy is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a RetryPolicySpec,
    pub(crate) services: &'a Objects<Service>,
    pub(crate) routes: &'a Objects<ApiRoute>,
    pub(crate) suggestions: &'a Suggestions<'a>,
}

/// An ApiRoute that an object is for, or a rule of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteTarget {
    pub(crate) route: ObjectKey,
    pub(crate) rule: Option<String>,
}

/// What it is for, and what callers do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// Every Service named, whether it exists or not, in the order written.
    pub(crate) services: Vec<ObjectKey>,
    /// Every ApiRoute and rule named, as well.
    pub(crate) routes: Vec<RouteTarget>,
    pub(crate) retries: Option<mesh::Retries>,
    pub(crate) budget: Option<mesh::Budget>,
    pub(crate) circuit_breaker: Option<mesh::CircuitBreaker>,
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
            let key = ObjectKey::new(namespace, &*target.name);
            match target.kind {
                TargetKind::Service if policy.services.contains(&key) => {}
                TargetKind::Service => {
                    refusals.extend(self.target(index, &key, &mut policy.lost));
                    policy.services.push(key);
                }
                TargetKind::ApiRoute => {
                    refusals.extend(self.route(index, &key, target));
                    let rule = target.section_name.clone();
                    let target = RouteTarget { route: key, rule };
                    if !policy.routes.contains(&target) {
                        policy.routes.push(target);
                    }
                }
            }
        }
        let services = policy.services.iter();
        let named = services.chain(policy.routes.iter().map(|target| &target.route));
        let namespaces: BTreeSet<&str> = named.map(|key| &*key.namespace).collect();
        if namespaces.len() > 1 {
            let namespaces = Vec::from_iter(namespaces).join(", ");
            refusals.push(invalid(format!(
                "spec.targetRefs names what is in the namespaces {namespaces}: write one RetryPolicy \
                 for each."
            )));
        }
        if self.spec.target_refs.is_empty() {
            let message = "spec.targetRefs is empty: name at least one Service or ApiRoute.";
            refusals.push(invalid(message.to_owned()));
        }
        refusals.extend(self.of_a_part());
        policy.retries = self.retries();
        policy.budget = self.budget();
        policy.circuit_breaker = self.circuit_breaker();
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
            (hash_on.type_ != HashType::Source).then_some("loadBalancing.hashOn")
        });
        let spec = self.spec;
        let need_http = [
            spec.about_retries(),
            spec.budget.as_ref().map(|_| "budget"),
            spec.circuit_breaker.as_ref().map(|_| "circuitBreaker"),
            hash_on,
            spec.health_check.as_ref().map(|_| "healthCheck"),
        ];
        need_http
            .into_iter()
            .flatten()
            .map(|field| Refusal {
                reason: Reason::UnsupportedProtocol,
                message: format!(
                    "spec.{field} needs HTTP, which no port of Service {name:?} in namespace {namespace} \
                     speaks: set the port's appProtocol to http, or name it http, if it does."
                ),
            })
            .collect()
    }

    /// What is wrong with a target that means the ApiRoute `key`, or a rule of it.
    fn route(&self, index: usize, key: &ObjectKey, target: &TargetRef) -> Option<Refusal> {
        let ObjectKey { namespace, name } = key;
        let Some(route) = self.routes.get(key) else {
            return Some(Refusal {
                reason: Reason::TargetNotFound,
                message: format!(
                    "spec.targetRefs[{index}]: there is no ApiRoute {name:?} in namespace \
                     {namespace}; create it or correct the name."
                ),
            });
        };
        if matches!(route.spec.protocol, ApiProtocol::Tcp | ApiProtocol::Tls) {
            return Some(Refusal {
                reason: Reason::UnsupportedTarget,
                message: format!(
                    "spec.targetRefs[{index}]: ApiRoute {name:?} in namespace {namespace} is about \
                     connections that nobody reads: name its Service, for loadBalancing alone."
                ),
            });
        }
        let wanted = target.section_name.as_ref()?;
        let rules = route.spec.rules.iter().enumerate();
        let named = rules.map(|(n, rule)| rule.name.clone().unwrap_or_else(|| rule_name(n)));
        let mut names = Vec::from_iter(named);
        if names.is_empty() {
            names.push(rule_name(0));
        }
        if names.contains(wanted) {
            return None;
        }
        let suggestion = match nearest(wanted, names.iter().map(String::as_str)) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => ": name one that it has.".to_owned(),
        };
        Some(Refusal {
            reason: Reason::TargetNotFound,
            message: format!(
                "spec.targetRefs[{index}].sectionName: ApiRoute {name:?} in namespace {namespace} has \
                 no rule {wanted:?}{suggestion}"
            ),
        })
    }

    /// What is about a destination as a whole, where a target is a part of one.
    fn of_a_part(&self) -> Vec<Refusal> {
        let spec = self.spec;
        if spec.target_refs.iter().all(|t| t.section_name.is_none()) {
            return Vec::new();
        }
        let fields = [
            ("budget", spec.budget.is_some()),
            ("circuitBreaker", spec.circuit_breaker.is_some()),
            ("loadBalancing", spec.load_balancing.is_some()),
            ("healthCheck", spec.health_check.is_some()),
        ];
        let written = fields.into_iter().filter(|(_, written)| *written);
        let refusals = written.map(|(field, _)| {
            invalid(format!(
                "spec.{field} is one for a whole destination: leave it out where targetRefs has a \
                 sectionName, and write it in a RetryPolicy for the Service or the ApiRoute."
            ))
        });
        refusals.collect()
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
