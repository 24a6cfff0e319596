//! RetryPolicies among all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability, mesh};

use super::Compilation;
use super::objects::{Place, Read, claims};
use crate::attach::{Claim, Of, Precedence};
use crate::inputs::{ObjectKey, ObjectRef};
use crate::retry_policy::{Policy, Reader};

/// What to do about a conflict of two.
const REMEDY: &str = "put what both say into one of them, or take the target out of this one.";

impl Compilation<'_> {
    /// What a RetryPolicy claims; `None` when there is none.
    pub(super) fn retry_policy_claims(
        &self,
        key: &ObjectKey,
    ) -> Option<(Precedence, BTreeSet<Claim>)> {
        let policy = self.policy(key)?;
        let metadata = &self.inputs.retry_policies.get(key)?.metadata;
        let precedence = Precedence::of(&ObjectRef::retry_policy(key), metadata, self.inputs);
        let mut claims = claims(key, &policy.services, policy.refusal.as_ref());
        let routes = policy.routes.into_iter();
        claims.extend(routes.filter(|_| policy.refusal.is_none()).map(|target| {
            let ObjectKey { namespace, .. } = &target.route;
            Claim {
                consumer: (*namespace != key.namespace).then(|| key.namespace.clone()),
                target: target.route,
                of: Of::Route(target.rule),
            }
        }));
        Some((precedence, claims))
    }

    /// Compiles a RetryPolicy; answers the younger ones whose case this changes.
    pub(super) fn retry_policy(&mut self, key: &ObjectKey) -> BTreeSet<Precedence> {
        self.count(Kind::RetryPolicy);
        let Some(policy) = self.policy(key) else {
            return BTreeSet::new();
        };
        let generation = self.inputs.retry_policies.get(key);
        let generation = generation.and_then(|policy| policy.metadata.generation);
        let governed = policy.routes.iter().map(|target| target.route.clone());
        self.out.memo.links.governed.set(key, governed.collect());
        let routes = policy.routes.iter().map(|target| mesh::RouteTarget {
            route: Some(mesh::RouteRef {
                namespace: target.route.namespace.clone(),
                name: target.route.name.clone(),
            }),
            rule: target.rule.clone().unwrap_or_default(),
        });
        let routes = Vec::from_iter(routes);
        let read = Read {
            object: &ObjectRef::retry_policy(key),
            mentions: policy.services.iter().cloned().collect(),
            targets: policy.services,
            pods: None,
            routes: policy.routes,
            calls: BTreeSet::new(),
            lost: policy.lost,
            refusal: policy.refusal,
            unresolved: None,
            yields: None,
            also: Vec::new(),
            in_force: Vec::new(),
            note: None,
            remedy: REMEDY,
        };
        let policy = mesh::RetryPolicy {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            routes,
            retries: policy.retries,
            budget: policy.budget,
            circuit_breaker: policy.circuit_breaker,
            load_balancing: policy.load_balancing,
            health_check: policy.health_check,
            ..Default::default()
        };
        self.conclude(read, generation, |Place { consumer, services }| {
            let policy = mesh::RetryPolicy {
                services,
                consumer,
                ..policy
            };
            (needed(&policy), policy)
        })
    }

    /// A RetryPolicy is gone, and so is what it named.
    pub(super) fn forget_retry_policy(&mut self, key: &ObjectKey) {
        self.out.memo.links.governed.set(key, BTreeSet::new());
    }

    /// Reads a RetryPolicy; `None` when there is none.
    fn policy(&self, key: &ObjectKey) -> Option<Policy> {
        let reader = Reader {
            key,
            spec: &self.inputs.retry_policies.get(key)?.spec,
            services: &self.inputs.services,
            routes: &self.inputs.api_routes,
            suggestions: &self.suggestions,
        };
        Some(reader.policy())
    }
}

/// What a sidecar must be able to do to carry it out.
fn needed(policy: &mesh::RetryPolicy) -> Vec<&'static str> {
    let needed = [
        (capability::RETRY_POLICY, true),
        (capability::RETRY_POLICY_RETRIES, policy.retries.is_some()),
        (capability::RETRY_POLICY_ROUTES, !policy.routes.is_empty()),
        (capability::RETRY_POLICY_BUDGET, policy.budget.is_some()),
        (
            capability::RETRY_POLICY_CIRCUIT_BREAKER,
            policy.circuit_breaker.is_some(),
        ),
    ];
    let needed = needed.into_iter().filter(|(_, needed)| *needed);
    needed.map(|(capability, _)| capability).collect()
}
