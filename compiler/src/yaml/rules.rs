//! The cross-field rules of the schemas, which an API server evaluates as CEL, for files.
//!
//! A rule is found by its text in the schema; a test fails for a rule of a schema that isn't here.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

mod access;
mod cache;
mod connections;
mod events;
mod filters;
mod idempotency;
mod rate_limit;
mod retry_policy;

/// Whether a value keeps a rule, given the rule's text; `None` for a rule that isn't known here.
pub(super) fn holds(rule: &str, value: &Value) -> Option<bool> {
    let rules = RULES.iter().chain(filters::RULES);
    let rules = rules
        .chain(connections::RULES)
        .chain(access::RULES)
        .chain(cache::RULES)
        .chain(idempotency::RULES)
        .chain(events::RULES);
    let mut rules = rules.chain(retry_policy::RULES).chain(rate_limit::RULES);
    let (_, holds) = rules.find(|(text, _)| *text == rule)?;
    Some(holds(value))
}

type Rule = (&'static str, fn(&Value) -> bool);

const RULES: &[Rule] = &[
    (
        "self.all(r, !has(r.name) || self.exists_one(o, has(o.name) && o.name == r.name))",
        |rules| unique(names(rules)),
    ),
    ("!self.matches('^rule-[0-9]+$')", |name| {
        !GIVEN_NAME.is_match(text(name))
    }),
    (
        "self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))",
        |headers| unique(names(headers).map(str::to_ascii_lowercase)),
    ),
    (
        "self.all(q, self.exists_one(o, o.name == q.name))",
        |query| unique(names(query)),
    ),
    (
        "self.type == 'Regex' || !self.value.contains('//')",
        |path| is(path, "Regex") || value(path).is_none_or(|path| !path.contains("//")),
    ),
    (
        "self.type == 'Regex' || !self.value.matches('/([.]|%2[eE]){1,2}(/|$)')",
        |path| {
            let dots = |segment: &str| matches!(segment, "." | "..");
            is(path, "Regex")
                || value(path).is_none_or(|path| {
                    let path = path.replace("%2e", ".").replace("%2E", ".");
                    !path.split('/').skip(1).any(dots)
                })
        },
    ),
    (
        "self.type == 'Regex' || self.value.matches('^/([A-Za-z0-9/._~!$&()*+,;=:@{}\\'-]|%[0-9A-Fa-f]{2})*$')",
        |path| is(path, "Regex") || value(path).is_none_or(|path| PATH.is_match(path)),
    ),
    (
        "self.type == 'Regex' || self.type == 'Pattern' || !self.value.matches('[{}]')",
        |path| {
            is(path, "Regex")
                || is(path, "Pattern")
                || value(path).is_none_or(|path| !path.contains(['{', '}']))
        },
    ),
    ("has(self.value) == (self.type != 'Present')", |compared| {
        compared.get("value").is_some() != is(compared, "Present")
    }),
    ("self.lowerAscii() != 'host'", |name| {
        !text(name).eq_ignore_ascii_case("host")
    }),
];

static GIVEN_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^rule-[0-9]+$").expect("the pattern is constant"));

static PATH: LazyLock<Regex> = LazyLock::new(|| {
    let path = "^/([A-Za-z0-9/._~!$&()*+,;=:@{}'-]|%[0-9A-Fa-f]{2})*$";
    Regex::new(path).expect("the pattern is constant")
});

/// Whether `type` has a value.
fn is(object: &Value, type_: &str) -> bool {
    object.get("type").is_some_and(|given| given == type_)
}

fn value(object: &Value) -> Option<&str> {
    object.get("value")?.as_str()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn names(list: &Value) -> impl Iterator<Item = &str> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.get("name")?.as_str())
}

fn unique<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().all(|item| seen.insert(item))
}
