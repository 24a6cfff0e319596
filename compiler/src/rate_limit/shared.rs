//! What replicas count together: what of it contradicts itself, and the store.

use crds::rate_limit::{CostType, LimitAction, Scope, StoreFailure};
use wire::mesh;

use super::Reader;
use crate::api_route::Refusal;
use crate::store;

/// What a store counts exactly: its numbers have 53 bits.
const MOST_IN_STORE: u128 = 1 << 52;

fn greatest_divisor(mut a: u128, mut b: u128) -> u128 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl Reader<'_> {
    /// The store, if there is to be one, and why it can't be had.
    pub(super) fn store(&self) -> Option<(mesh::SharedStore, Option<Refusal>)> {
        let store = self.spec.store.as_ref()?;
        let reader = store::Reader {
            key: self.key,
            credentials: self.credentials,
            unreadable: self.unreadable,
            settings: self.settings,
        };
        let (url, unresolved) = reader.url("spec.store", store);
        let sent = mesh::SharedStore {
            url,
            ca_certificates: store.redis.ca_certificates.clone().unwrap_or_default(),
            on_failure: match self.spec.on_store_failure.unwrap_or_default() {
                StoreFailure::LocalFallback => mesh::StoreFailure::LocalFallback,
                StoreFailure::Allow => mesh::StoreFailure::Allow,
                StoreFailure::Deny => mesh::StoreFailure::Deny,
            }
            .into(),
        };
        Some((sent, unresolved))
    }

    /// What contradicts itself of where is counted, as sentences.
    pub(super) fn shared(&self) -> Vec<String> {
        let spec = self.spec;
        let mut problems = Vec::new();
        if spec.limits.is_empty() && spec.quotas.is_empty() {
            let why = "spec.limits is empty: write one, or spec.quotas.";
            problems.push(why.to_owned());
        }
        if spec.scope == Scope::PerReplica {
            if spec.store.is_some() {
                let why = "spec.store: it is written with scope Shared, and only there.";
                problems.push(why.to_owned());
            }
            if !spec.quotas.is_empty() {
                let why = "spec.quotas: they need scope Shared, because a sidecar that starts anew \
                           would forget what was used.";
                problems.push(why.to_owned());
            }
            return problems;
        }
        if spec.store.is_none() {
            problems.push("spec.store: scope Shared needs one: write it.".to_owned());
        }
        for (place, limit) in spec.limits.iter().enumerate() {
            let at = format!("spec.limits[{place}]");
            if limit.action == LimitAction::Delay {
                problems.push(format!(
                    "{at}.action: requests wait in a sidecar's own queue: write Delay with scope \
                     PerReplica."
                ));
            }
            let cost = limit.cost.as_ref();
            if cost.is_some_and(|cost| cost.type_ == CostType::Bytes) {
                problems.push(format!(
                    "{at}.cost: bytes are counted as they pass a sidecar: write Bytes with scope \
                     PerReplica."
                ));
            }
            let overrides = limit.overrides.iter().map(|one| (one.requests, one.burst));
            let plans = limit.plans.iter().map(|one| (one.requests, one.burst));
            let mut all = overrides
                .chain(plans)
                .chain([(limit.requests, limit.burst)]);
            let counts = |(requests, burst): (u32, Option<u32>)| {
                let per = u128::from(limit.per.millis()) * 1_000;
                let per = per / greatest_divisor(per, requests.into());
                per * u128::from(burst.unwrap_or(requests)) <= MOST_IN_STORE
            };
            if !all.all(counts) {
                problems.push(format!(
                    "{at}: so large a burst can't be counted exactly in a store over so long a span: \
                     lower it, shorten per, or let requests divide it."
                ));
            }
        }
        problems
    }
}
