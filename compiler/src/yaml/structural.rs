//! Structural schemas: a document of one of our kinds is checked as the API server checks it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::{Fault, child, rules, strict};

/// The schema of one kind, or of a field in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema(&'static Value);

thread_local! {
    /// Compiled patterns: there are few, and each is used for many fields.
    static PATTERNS: RefCell<HashMap<String, Option<Regex>>> = RefCell::default();
}

// === impl Schema ===

impl Schema {
    /// The schema of one of our kinds.
    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        static SCHEMAS: OnceLock<BTreeMap<String, Value>> = OnceLock::new();
        // All in one go: each kind's is generated from its types, which takes longer than all else at a start.
        let schemas = SCHEMAS.get_or_init(crds::schema::by_kind);
        schemas.get(kind).map(Schema)
    }

    /// Everything that is wrong with a document of this kind.
    pub(super) fn check(self, document: &Value) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Value::Object(fields) = document {
            // What stands beside spec and status is every object's, and the schema has none of it.
            let envelope = ["apiVersion", "kind", "metadata"];
            self.fields(fields, "", &envelope, &mut faults);
        }
        faults
    }

    /// The first list, map or text that is longer than may be; nothing else is looked for, so that it
    /// takes no longer than reading the value did.
    pub(super) fn beyond(self, value: &Value, path: &str) -> Option<Fault> {
        let (of, unit, size) = match value {
            Value::Array(items) => ("Items", "items", items.len()),
            Value::Object(fields) => ("Properties", "entries", fields.len()),
            Value::String(text) => ("Length", "characters", text.chars().count()),
            Value::Null | Value::Bool(_) | Value::Number(_) => return None,
        };
        let mut faults = Vec::new();
        if self.bounds(of, unit, size, path, &mut faults) {
            return faults.pop();
        }
        match value {
            Value::Array(items) => {
                let schema = Schema(self.0.get("items")?);
                let mut items = items.iter().enumerate();
                items.find_map(|(index, item)| schema.beyond(item, &format!("{path}[{index}]")))
            }
            Value::Object(fields) => fields.iter().find_map(|(name, value)| {
                let known = self.0.get("properties").and_then(|known| known.get(name));
                let schema = known.or_else(|| self.0.get("additionalProperties"))?;
                Schema(schema).beyond(value, &child(path, name))
            }),
            _ => None,
        }
    }

    fn value(self, value: &Value, path: &str, faults: &mut Vec<Fault>) {
        let mut fault = |message: String| faults.push(Fault::new(path, message));
        match (self.text("type").unwrap_or_default(), value) {
            ("object", Value::Object(fields)) => self.fields(fields, path, &[], faults),
            ("array", Value::Array(items)) => self.items(items, path, faults),
            ("string", Value::String(text)) => self.string(text, &mut fault),
            ("boolean", Value::Bool(_)) => {}
            ("integer", Value::Number(number)) => match number.as_i64() {
                Some(number) => self.integer(number, &mut fault),
                None => fault(format!("must be a whole number, not {number}")),
            },
            ("string", Value::Number(_) | Value::Bool(_)) => {
                fault(format!("must be text: write it quoted, as \"{value}\""));
            }
            ("integer", Value::String(text)) if text.parse::<i64>().is_ok() => {
                fault(format!(
                    "must be a number: write it without quotes, as {text}"
                ));
            }
            (type_, value) => fault(format!("must be {}, not {}", article(type_), named(value))),
        }
        self.rules(value, path, faults);
    }

    fn fields(
        self,
        fields: &Map<String, Value>,
        path: &str,
        also_known: &[&str],
        faults: &mut Vec<Fault>,
    ) {
        let known = self.0.get("properties").and_then(Value::as_object);
        let Some(known) = known else {
            if !self.bounds("Properties", "entries", fields.len(), path, faults)
                && let Some(schema) = self.0.get("additionalProperties")
            {
                for (name, value) in fields {
                    Schema(schema).value(value, &child(path, name), faults);
                }
            }
            return;
        };
        for (name, value) in fields {
            match known.get(name) {
                _ if also_known.contains(&name.as_str()) => {}
                Some(schema) => Schema(schema).value(value, &child(path, name), faults),
                None => {
                    let names = known.keys().map(String::as_str);
                    faults.push(strict::unknown(path, name, names));
                }
            }
        }
        let required = self.0.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                let sentence = known.get(name).and_then(|s| Schema(s).text("description"));
                faults.push(Fault::new(
                    &child(path, name),
                    format!(
                        "is missing: {}",
                        first_sentence(sentence.unwrap_or_default())
                    ),
                ));
            }
        }
    }

    fn items(self, items: &[Value], path: &str, faults: &mut Vec<Fault>) {
        if self.bounds("Items", "items", items.len(), path, faults) {
            // What is in a list that is too long is not looked at: it may be any number of things.
            return;
        }
        let set = self.text("x-kubernetes-list-type") == Some("set");
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            if set && items[..index].contains(item) {
                faults.push(Fault::new(&path, format!("{item} is already in the list")));
            }
            if let Some(schema) = self.0.get("items") {
                Schema(schema).value(item, &path, faults);
            }
        }
    }

    fn string(self, text: &str, fault: &mut impl FnMut(String)) {
        let mut faults = Vec::new();
        self.bounds(
            "Length",
            "characters",
            text.chars().count(),
            "",
            &mut faults,
        );
        if let Some(bound) = faults.pop() {
            return fault(bound.message);
        }
        let allowed = self.0.get("enum").and_then(Value::as_array);
        if let Some(allowed) = allowed
            && !allowed.iter().any(|value| value == text)
        {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            let remedy = match names.iter().find(|name| name.eq_ignore_ascii_case(text)) {
                Some(name) => format!("; did you mean {name}?"),
                None => String::new(),
            };
            fault(format!(
                "{text:?} is not one of {}{remedy}",
                names.join(", ")
            ));
        }
        let Some(pattern) = self.text("pattern") else {
            return;
        };
        if matches(pattern, text) {
            return;
        }
        if pattern == crds::Duration::PATTERN
            && let Err(error) = text.parse::<crds::Duration>()
        {
            return fault(error.to_string());
        }
        let meaning = first_sentence(self.text("description").unwrap_or_default());
        let meaning = match meaning.is_empty() {
            true => String::new(),
            false => format!(" ({meaning})"),
        };
        fault(format!("{text:?} doesn't have the form {pattern}{meaning}"));
    }

    fn integer(self, number: i64, fault: &mut impl FnMut(String)) {
        let bound = |name: &str| self.0.get(name).and_then(Value::as_i64);
        let (least, most) = (bound("minimum"), bound("maximum"));
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            fault(match (least, most) {
                (Some(least), Some(most)) => format!("must be {least} to {most}, not {number}"),
                (Some(least), None) => format!("must be at least {least}, not {number}"),
                (_, most) => format!("must be at most {}, not {number}", most.unwrap_or(0)),
            });
        }
    }

    /// Whether the size is too large.
    fn bounds(
        self,
        of: &str,
        unit: &str,
        size: usize,
        path: &str,
        faults: &mut Vec<Fault>,
    ) -> bool {
        let bound = |name: String| self.0.get(name)?.as_u64();
        if let Some(least) = bound(format!("min{of}"))
            && (size as u64) < least
        {
            let message = format!("has {size} {unit}; at least {least} must be there");
            faults.push(Fault::new(path, message));
        }
        if let Some(most) = bound(format!("max{of}"))
            && size as u64 > most
        {
            let message = format!("has {size} {unit}; at most {most} are possible");
            faults.push(Fault::new(path, message));
            return true;
        }
        false
    }

    fn rules(self, value: &Value, path: &str, faults: &mut Vec<Fault>) {
        let rules = self.0.get("x-kubernetes-validations");
        for rule in rules.and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default();
            if rules::holds(text("rule"), value) == Some(false) {
                faults.push(Fault::new(path, text("message").to_owned()));
            }
        }
    }

    fn text(self, keyword: &str) -> Option<&'static str> {
        self.0.get(keyword)?.as_str()
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    PATTERNS.with_borrow_mut(|patterns| {
        let compiled = patterns
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(pattern).ok());
        // Every pattern of ours compiles, which a test makes sure of.
        compiled
            .as_ref()
            .is_none_or(|pattern| pattern.is_match(text))
    })
}

fn article(type_: &str) -> &str {
    match type_ {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
    }
}

fn named(value: &Value) -> String {
    match value {
        Value::Object(_) => "a map of fields".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null => "nothing".to_owned(),
        value => value.to_string(),
    }
}

fn first_sentence(text: &str) -> String {
    let sentence = text.split_once(". ").map_or(text, |(first, _)| first);
    sentence.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(value: &Value, keyword: &str, visit: &mut impl FnMut(&Value)) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if key == keyword && !value.is_object() {
                        visit(value);
                    }
                    each(value, keyword, visit);
                }
            }
            Value::Array(list) => list.iter().for_each(|value| each(value, keyword, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_pattern_of_the_schemas_compiles() {
        for (_, definition) in crds::schema::definitions() {
            each(&definition, "pattern", &mut |pattern| {
                Regex::new(pattern.as_str().unwrap()).unwrap();
            });
        }
    }

    #[test]
    fn every_rule_of_the_schemas_is_known() {
        for (_, definition) in crds::schema::definitions() {
            let mut found = 0;
            each(&definition, "x-kubernetes-validations", &mut |list| {
                for rule in list.as_array().unwrap() {
                    let text = rule["rule"].as_str().unwrap();
                    assert!(rules::holds(text, &Value::Null).is_some(), "{text}");
                    found += 1;
                }
            });
            assert!(found > 0);
        }
    }
}
