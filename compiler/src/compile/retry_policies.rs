//! RetryPolicies among all that is compiled.

use std::collections::BTreeSet;

use wire::{Kind, capability, mesh};

use super::Compilation;
use super::objects::{Place, Read, claims};
use crate::attach::{Claim, Precedence};
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
        let claims = claims(key, &policy.services, policy.refusal.as_ref());
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
        let read = Read {
            object: &ObjectRef::retry_policy(key),
            mentions: policy.services.iter().cloned().collect(),
            targets: policy.services,
            lost: policy.lost,
            refusal: policy.refusal,
            unresolved: None,
            also: Vec::new(),
            note: None,
            remedy: REMEDY,
        };
        let (load_balancing, health_check) = (policy.load_balancing, policy.health_check);
        self.conclude(read, generation, |Place { consumer, services }| {
            let policy = mesh::RetryPolicy {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                services,
                consumer,
                load_balancing,
                health_check,
            };
            (vec![capability::RETRY_POLICY], policy)
        })
    }

    /// Reads a RetryPolicy; `None` when there is none.
    fn policy(&self, key: &ObjectKey) -> Option<Policy> {
        let reader = Reader {
            key,
            spec: &self.inputs.retry_policies.get(key)?.spec,
            services: &self.inputs.services,
            suggestions: &self.suggestions,
        };
        Some(reader.policy())
    }
}
