//! What becomes of a request when whom it goes to fails, where a RetryPolicy says so.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::State;
use crate::config::service::ServiceKey;
use crate::policy::retry::Retries;

/// One sentence for each thing, with the RetryPolicy that says it. `retries` are those of the rule, if it
/// has any.
pub(super) fn told(
    state: &State,
    service: &ServiceKey,
    retries: Option<&Arc<Retries>>,
) -> Vec<Value> {
    let policies = &state.policies;
    let retries = retries.or_else(|| policies.of_service(service));
    let says = |what: String, policy: &str| json!({ "says": what, "retryPolicy": policy });
    let retries = retries.map(|retries| says(retries.to_string(), &retries.object));
    let destination = policies.destination(service);
    let budget = destination.and_then(|policy| {
        let budget = policy.budget?;
        let (percent, floor) = (budget.percent, budget.min_per_second);
        let what = format!(
            "at most {percent} % of what is sent there is sent again, and {floor} a second"
        );
        Some(says(what, &policy.object))
    });
    let breaker = destination.and_then(|policy| {
        let breaker = policy.circuit_breaker.as_ref()?;
        Some(says(breaker.in_words(), &policy.object))
    });
    retries.into_iter().chain(budget).chain(breaker).collect()
}
