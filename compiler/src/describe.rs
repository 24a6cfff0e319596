//! A change in words.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What the API server writes into an object and nobody changed.
const NOT_WRITTEN: &[&str] = &[
    "status",
    "metadata.creationTimestamp",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.resourceVersion",
    "metadata.uid",
];

/// How much of a value is shown.
const MAX_SHOWN: usize = 80;

/// What changed between two documents, one line each, such as
/// `spec.rules[0].backendRefs[1].weight: 10 -> 50` or `spec.rules[2] added`.
///
/// Entries of a list are compared with the entry of the same name, where all have one, else with
/// the one at the same place. The places named are those in `new`, for what was removed in `old`.
///
/// Of what stands in a Secret only is said that it changed.
pub fn describe_change(old: &Value, new: &Value) -> Vec<String> {
    let mut changes = Vec::new();
    match new.get("kind").is_some_and(|kind| kind == "Secret") {
        true => {
            compare(
                &veiled(old, None),
                &veiled(new, Some(old)),
                "",
                &mut changes,
            );
        }
        false => compare(old, new, "", &mut changes),
    }
    changes
}

/// A Secret without what stands in it; what differs from the Secret `before` still differs.
fn veiled(secret: &Value, before: Option<&Value>) -> Value {
    let mut veiled = secret.clone();
    for field in ["data", "stringData"] {
        let Some(entries) = veiled.get_mut(field).and_then(Value::as_object_mut) else {
            continue;
        };
        for (name, value) in entries {
            let same = before.is_none_or(|before| before[field].get(name) == Some(&*value));
            *value = if same { "(secret)" } else { "(another secret)" }.into();
        }
    }
    veiled
}

fn compare(old: &Value, new: &Value, path: &str, changes: &mut Vec<String>) {
    if old == new || NOT_WRITTEN.contains(&path) {
        return;
    }
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => fields(old, new, path, changes),
        (Value::Array(old), Value::Array(new)) => match (by_name(old), by_name(new)) {
            (Some(old), Some(new)) => named_items(&old, &new, path, changes),
            _ => items(old, new, path, changes),
        },
        _ => changes.push(format!("{path}: {} -> {}", shown(old), shown(new))),
    }
}

fn fields(
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    path: &str,
    changes: &mut Vec<String>,
) {
    let path = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    for (name, value) in old {
        match new.get(name) {
            Some(new) => compare(value, new, &path(name), changes),
            None => one_sided(value, "removed", &path(name), changes),
        }
    }
    for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        one_sided(value, "added", &path(name), changes);
    }
}

fn items(old: &[Value], new: &[Value], path: &str, changes: &mut Vec<String>) {
    for (index, (old, new)) in old.iter().zip(new).enumerate() {
        compare(old, new, &format!("{path}[{index}]"), changes);
    }
    for (index, value) in old.iter().enumerate().skip(new.len()) {
        one_sided(value, "removed", &format!("{path}[{index}]"), changes);
    }
    for (index, value) in new.iter().enumerate().skip(old.len()) {
        one_sided(value, "added", &format!("{path}[{index}]"), changes);
    }
}

type ByName<'a> = BTreeMap<&'a str, (usize, &'a Value)>;

fn named_items(old: &ByName<'_>, new: &ByName<'_>, path: &str, changes: &mut Vec<String>) {
    for (name, (place, value)) in old {
        match new.get(name) {
            Some((place, new)) => compare(value, new, &format!("{path}[{place}]"), changes),
            None => changes.push(format!("{path}[{place}] ({name}) removed")),
        }
    }
    for (name, (place, _)) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        changes.push(format!("{path}[{place}] ({name}) added"));
    }
    let order = |of: &ByName<'_>, among: &ByName<'_>| {
        let mut names: Vec<(usize, String)> = of
            .iter()
            .filter(|(name, _)| among.contains_key(*name))
            .map(|(name, (place, _))| (*place, (*name).to_owned()))
            .collect();
        names.sort();
        Vec::from_iter(names.into_iter().map(|(_, name)| name))
    };
    let now = order(new, old);
    if order(old, new) != now {
        changes.push(format!("{path}: order is now {}", now.join(", ")));
    }
}

/// The entries of a list by name, if each has one of its own.
fn by_name(items: &[Value]) -> Option<ByName<'_>> {
    let mut names = ByName::new();
    for (place, item) in items.iter().enumerate() {
        let name = item.get("name")?.as_str()?;
        if names.insert(name, (place, item)).is_some() {
            return None;
        }
    }
    Some(names)
}

fn one_sided(value: &Value, what: &str, path: &str, changes: &mut Vec<String>) {
    if NOT_WRITTEN.contains(&path) {
        return;
    }
    changes.push(match value {
        Value::Object(_) | Value::Array(_) => format!("{path} {what}"),
        value => format!("{path} {what}: {}", shown(value)),
    });
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) if is_plain(text) => text.clone(),
        value => value.to_string(),
    };
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Whether a text can't be mistaken for anything else in a sentence.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_change_is_a_line_that_names_its_field() {
        let old = json!({"spec": {
            "hosts": ["orders"],
            "timeouts": {"request": "1s"},
            "rules": [{"backendRefs": [
                {"name": "v1", "weight": 90}, {"name": "v2", "weight": 10},
            ]}],
        }});
        let new = json!({"spec": {
            "hosts": ["orders", "payments"],
            "timeouts": {"request": "2s"},
            "rules": [
                {"backendRefs": [{"name": "v1", "weight": 50}, {"name": "v2", "weight": 50}]},
                {"name": "all"},
            ],
        }});
        assert_eq!(
            describe_change(&old, &new),
            [
                "spec.hosts[1] added: payments",
                "spec.rules[0].backendRefs[0].weight: 90 -> 50",
                "spec.rules[0].backendRefs[1].weight: 10 -> 50",
                "spec.rules[1] added",
                "spec.timeouts.request: 1s -> 2s",
            ]
        );
    }

    #[test]
    fn entries_with_names_are_compared_by_name() {
        let rule = |name: &str, timeout: &str| json!({"name": name, "timeout": timeout});
        let old = json!({"rules": [rule("a", "1s"), rule("b", "1s"), rule("c", "1s")]});
        let new = json!({"rules": [rule("c", "1s"), rule("b", "5s"), rule("d", "1s")]});
        assert_eq!(
            describe_change(&old, &new),
            [
                "rules[0] (a) removed",
                "rules[1].timeout: 1s -> 5s",
                "rules[2] (d) added",
                "rules: order is now c, b",
            ]
        );
    }

    #[test]
    fn what_stands_in_a_secret_is_not_told() {
        let secret =
            |data: Value| json!({"kind": "Secret", "data": data, "stringData": {"c": "x"}});
        let old = secret(json!({"a": "aHVudGVyMg==", "b": "c2FtZQ=="}));
        let new = secret(json!({"a": "aHVudGVyMw==", "b": "c2FtZQ==", "d": "bmV3"}));
        assert_eq!(
            describe_change(&old, &new),
            [
                "data.a: (secret) -> \"(another secret)\"",
                "data.d added: \"(another secret)\"",
            ]
        );
    }

    #[test]
    fn what_the_api_server_writes_is_no_change() {
        let old = json!({"metadata": {"name": "a", "resourceVersion": "1"}});
        let new = json!({
            "metadata": {"name": "a", "resourceVersion": "2", "generation": 3},
            "status": {"programmed": "1/1"},
        });
        assert_eq!(describe_change(&old, &new), Vec::<String>::new());
    }

    #[test]
    fn long_and_odd_values_are_shown_short_and_quoted() {
        let changes = describe_change(&json!({"a": "x y"}), &json!({"a": "ü".repeat(200)}));
        assert_eq!(changes[0], format!("a: \"x y\" -> \"{}...", "ü".repeat(79)));
    }
}
