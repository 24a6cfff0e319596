//! The rules of RetryPolicies.

use serde_json::Value;

use super::{Rule, is, text};

pub(super) const RULES: &[Rule] = &[
    (
        "has(self.maxRetries) || has(self.backoff) || has(self.perTryTimeout) || has(self.retryOn) || has(self.methods) || has(self.idempotencyKey) || has(self.retryAfter) || has(self.maxReplayBytes) || has(self.hedging) || has(self.budget) || has(self.circuitBreaker) || has(self.loadBalancing) || has(self.healthCheck)",
        |spec| {
            let mut fields = spec.as_object().into_iter().flatten();
            fields.any(|(field, _)| field != "targetRefs")
        },
    ),
    (
        "!has(self.budget) || !self.targetRefs.exists(t, has(t.sectionName))",
        |spec| is_of_a_destination(spec, "budget"),
    ),
    (
        "!has(self.circuitBreaker) || !self.targetRefs.exists(t, has(t.sectionName))",
        |spec| is_of_a_destination(spec, "circuitBreaker"),
    ),
    (
        "!has(self.loadBalancing) || !self.targetRefs.exists(t, has(t.sectionName))",
        |spec| is_of_a_destination(spec, "loadBalancing"),
    ),
    (
        "!has(self.healthCheck) || !self.targetRefs.exists(t, has(t.sectionName))",
        |spec| is_of_a_destination(spec, "healthCheck"),
    ),
    (
        "!has(self.retryOn) || !has(self.retryOn.grpcCodes) || size(self.retryOn.grpcCodes) == 0 || has(self.idempotencyKey) || (has(self.methods) && self.methods.exists(m, m == 'POST'))",
        |spec| {
            let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
            items(&spec["retryOn"]["grpcCodes"]).is_empty()
                || spec.get("idempotencyKey").is_some()
                || items(&spec["methods"]).iter().any(|one| one == "POST")
        },
    ),
    (
        "!has(self.group) || (self.group == 'meshwright.dev') == (self.kind == 'ApiRoute')",
        |target| {
            let group = target.get("group");
            group.is_none_or(|group| (group == "meshwright.dev") == (target["kind"] == "ApiRoute"))
        },
    ),
    (
        "!has(self.sectionName) || self.kind == 'ApiRoute'",
        |target| target.get("sectionName").is_none() || target["kind"] == "ApiRoute",
    ),
    ("duration(self.initial) <= duration(self.max)", |backoff| {
        is_at_most(backoff, ("initial", 100), ("max", 5_000))
    }),
    (
        "!has(self.multiplier) || self.type == 'Exponential'",
        |backoff| {
            let exponential = backoff.get("type").is_none() || is(backoff, "Exponential");
            backoff.get("multiplier").is_none() || exponential
        },
    ),
    (
        "duration(self.openFor) <= duration(self.maxOpenFor)",
        |breaker| is_at_most(breaker, ("openFor", 30_000), ("maxOpenFor", 300_000)),
    ),
    (
        "duration(self) >= duration('1ms') && duration(self) <= duration('1h')",
        |written| is_within(written, 1, 3_600_000),
    ),
    (
        "duration(self) >= duration('1ms') && duration(self) <= duration('5m')",
        |written| is_within(written, 1, 300_000),
    ),
    (
        "duration(self) >= duration('1ms') && duration(self) <= duration('1m')",
        |written| is_within(written, 1, 60_000),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('1m')",
        |written| is_within(written, 1_000, 60_000),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('5m')",
        |written| is_within(written, 1_000, 300_000),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('10m')",
        |written| is_within(written, 1_000, 600_000),
    ),
    (
        "has(self.hashOn) == (self.type == 'ConsistentHash')",
        |balancing| balancing.get("hashOn").is_some() == is(balancing, "ConsistentHash"),
    ),
    (
        "!has(self.slowStart) || self.type != 'ConsistentHash'",
        |balancing| balancing.get("slowStart").is_none() || !is(balancing, "ConsistentHash"),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('15m')",
        |written| is_within(written, 1_000, 900_000),
    ),
    ("has(self.name) == (self.type != 'Source')", |hashed| {
        hashed.get("name").is_some() != is(hashed, "Source")
    }),
    (
        "self.type != 'Header' || !has(self.name) || self.name.lowerAscii() != 'host'",
        |hashed| !is(hashed, "Header") || !text(&hashed["name"]).eq_ignore_ascii_case("host"),
    ),
    (
        "duration(self.timeout) <= duration(self.interval)",
        |check| is_at_most(check, ("timeout", 1_000), ("interval", 30_000)),
    ),
    (
        "duration(self) >= duration('5s') && duration(self) <= duration('10m')",
        |written| is_within(written, 5_000, 600_000),
    ),
    ("duration(self) > duration('0s')", |written| {
        millis(written) != Some(0)
    }),
];

/// Whether a field that is about a destination as a whole stands where no target is a part of one.
fn is_of_a_destination(spec: &Value, field: &str) -> bool {
    let targets = spec["targetRefs"].as_array();
    let mut targets = targets.into_iter().flatten();
    spec.get(field).is_none() || !targets.any(|target| target.get("sectionName").is_some())
}

/// Whether one span, or what it is when absent, is no longer than another.
fn is_at_most(object: &Value, one: (&str, u64), other: (&str, u64)) -> bool {
    let given = |(field, otherwise)| match object.get(field) {
        Some(written) => millis(written),
        None => Some(otherwise),
    };
    let both = given(one).zip(given(other));
    both.is_none_or(|(one, other)| one <= other)
}

fn is_within(written: &Value, least: u64, most: u64) -> bool {
    millis(written).is_none_or(|span| (least..=most).contains(&span))
}

/// `None` for what is no duration, and has been refused for that.
pub(super) fn millis(written: &Value) -> Option<u64> {
    let written = text(written).parse::<crds::Duration>().ok()?;
    Some(written.millis())
}
