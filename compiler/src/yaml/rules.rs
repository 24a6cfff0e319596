//! The cross-field rules of the schemas, which an API server evaluates as CEL, for files.
//!
//! A rule is found by its text in the schema; a test fails for a rule of a schema that isn't here.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// Whether a value keeps a rule, given the rule's text; `None` for a rule that isn't known here.
pub(super) fn holds(rule: &str, value: &Value) -> Option<bool> {
    let (_, holds) = RULES.iter().find(|(text, _)| *text == rule)?;
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
    ("!self.contains('//')", |path| !text(path).contains("//")),
    ("!self.matches('/([.]|%2[eE]){1,2}(/|$)')", |path| {
        let path = text(path).replace("%2e", ".").replace("%2E", ".");
        !path.split('/').any(|segment| matches!(segment, "." | ".."))
    }),
    ("self.lowerAscii() != 'host'", |name| {
        !text(name).eq_ignore_ascii_case("host")
    }),
];

static GIVEN_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^rule-[0-9]+$").expect("the pattern is constant"));

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
