//! The rules of RateLimits.

use serde_json::Value;

use super::retry_policy::millis;
use super::{Rule, is, names, unique};

pub(super) const RULES: &[Rule] = &[
    ("has(self.limits) || has(self.quotas)", |spec| {
        has(spec, "limits") || has(spec, "quotas")
    }),
    ("(self.scope == 'Shared') == has(self.store)", |spec| {
        is_shared(spec) == has(spec, "store")
    }),
    ("self.scope == 'Shared' || !has(self.quotas)", |spec| {
        is_shared(spec) || !has(spec, "quotas")
    }),
    (
        "self.scope == 'Shared' || !has(self.onStoreFailure)",
        |spec| is_shared(spec) || !has(spec, "onStoreFailure"),
    ),
    (
        "self.scope != 'Shared' || !has(self.limits) || self.limits.all(l, l.action != 'Delay')",
        |spec| !is_shared(spec) || limits(spec).all(|limit| limit["action"] != "Delay"),
    ),
    (
        "self.scope != 'Shared' || !has(self.limits) || \
         self.limits.all(l, !has(l.cost) || l.cost.type != 'Bytes')",
        |spec| !is_shared(spec) || limits(spec).all(|limit| limit["cost"]["type"] != "Bytes"),
    ),
    (
        "self.all(q, self.exists_one(o, o.name == q.name))",
        |quotas| unique(names(quotas)),
    ),
    (
        "self.all(l, self.exists_one(o, o.name == l.name))",
        |limits| unique(names(limits)),
    ),
    (
        "self.all(p, self.exists_one(o, o.name == p.name))",
        |plans| unique(names(plans)),
    ),
    (
        "(self.kind == 'Service') == (!has(self.group) || self.group == '')",
        |target| {
            let none = target.get("group").is_none_or(|group| group == "");
            (target["kind"] == "Service") == none
        },
    ),
    ("(self.action == 'Delay') == has(self.delay)", |limit| {
        (limit["action"] == "Delay") == has(limit, "delay")
    }),
    (
        "!has(self.overrides) || !(self.key.type in ['Route', 'Global', 'Compound'])",
        |limit| {
            let key = limit["key"]["type"].as_str().unwrap_or("Global");
            !has(limit, "overrides") || !matches!(key, "Route" | "Global" | "Compound")
        },
    ),
    (
        "!has(self.cost) || self.cost.type != 'Bytes' || self.action != 'Delay'",
        |limit| limit["cost"]["type"] != "Bytes" || limit["action"] != "Delay",
    ),
    (
        "duration(self) >= duration('100ms') && duration(self) <= duration('24h')",
        |written| millis(written).is_none_or(|span| (100..=86_400_000).contains(&span)),
    ),
    (
        "duration(self) >= duration('1ms') && duration(self) <= duration('1m')",
        |written| millis(written).is_none_or(|span| (1..=60_000).contains(&span)),
    ),
    (
        "has(self.name) == (self.type in ['Header', 'JWTClaim'])",
        |key| has(key, "name") == (is(key, "Header") || is(key, "JWTClaim")),
    ),
    ("!has(self.trustedHops) || self.type == 'ClientIP'", |key| {
        !has(key, "trustedHops") || is(key, "ClientIP")
    }),
    ("has(self.parts) == (self.type == 'Compound')", |key| {
        has(key, "parts") == is(key, "Compound")
    }),
    ("!(self.type in ['Compound', 'Global'])", |part| {
        !(is(part, "Compound") || is(part, "Global"))
    }),
    (
        "has(self.name) == (self.type == 'Header') && has(self.max) == (self.type == 'Header')",
        |cost| {
            let header = is(cost, "Header");
            has(cost, "name") == header && has(cost, "max") == header
        },
    ),
];

fn is_shared(spec: &Value) -> bool {
    spec["scope"] == "Shared"
}

fn limits(spec: &Value) -> impl Iterator<Item = &Value> {
    spec["limits"].as_array().into_iter().flatten()
}

fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some()
}
