//! The committed schemas: fresh, and fit for an API server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use serde_json::{Value, json};

/// What is committed is what was generated; with UPDATE it is from now on.
fn is_fresh(path: &Path, generated: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let stale = committed != generated;
    assert!(!stale, "{} is stale: run make crds", path.display());
}

#[test]
fn the_committed_definitions_are_those_that_the_types_generate() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, definition) in crds::schema::definitions() {
        let generated = crds::schema::to_yaml(&definition).unwrap();
        for copy in crds::schema::FOLDERS {
            is_fresh(&folder.join(copy).join(name), &generated);
        }
    }
}

#[test]
fn the_committed_reference_is_the_one_that_the_types_generate() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(crds::reference::FILE);
    is_fresh(&path, &crds::reference::markdown());
}

#[test]
fn the_reference_has_a_line_for_every_field_and_every_reason() {
    let text = crds::reference::markdown();
    let has = |first: &str| text.contains(&format!("\n| `{first}` | "));
    for (name, definition) in crds::schema::definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut paths = Vec::new();
        for part in ["spec", "status"] {
            paths_of(&schema["properties"][part], "", &mut paths);
        }
        assert!(paths.len() > 20, "{name}: {paths:?}");
        for path in paths {
            assert!(has(&path), "{name}: {path}");
        }
    }
    assert!(has("Conflicted") && has("RefNotPermitted") && has("Programmed"));
    let cells = |line: &str| line.replace(r"\|", "").matches('|').count();
    let lines = text.lines().filter(|line| line.starts_with('|'));
    let counts = std::collections::BTreeSet::from_iter(lines.map(cells));
    assert_eq!(Vec::from_iter(counts), [3, 4, 6], "cells of the tables");
}

fn paths_of(schema: &Value, path: &str, paths: &mut Vec<String>) {
    if schema.get("items").is_some() {
        return paths_of(&schema["items"], &format!("{path}[]"), paths);
    }
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = match path {
            "" => field.clone(),
            path => format!("{path}.{field}"),
        };
        paths_of(schema, &path, paths);
        paths.push(path);
    }
}

#[test]
fn every_field_has_a_sentence_and_every_list_map_and_string_a_maximum() {
    for (name, definition) in crds::schema::definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut problems = Vec::new();
        inspect(schema, name.to_owned(), &mut problems);
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

fn inspect(schema: &Value, path: String, problems: &mut Vec<String>) {
    let bounded = |bound: &str| schema.get(bound).is_some();
    match schema["type"].as_str() {
        Some("object") => {
            if !bounded("properties") && !bounded("maxProperties") {
                problems.push(format!("{path}: a map without maxProperties"));
            }
        }
        Some("array") => {
            if !bounded("maxItems") {
                problems.push(format!("{path}: a list without maxItems"));
            }
            inspect(&schema["items"], format!("{path}[]"), problems);
        }
        Some("string") => {
            let closed = bounded("enum") || bounded("maxLength");
            if !closed && schema["format"] != "date-time" {
                problems.push(format!("{path}: a string without maxLength"));
            }
        }
        Some("integer") => {
            for bound in ["minimum", "maximum"] {
                if !bounded(bound) {
                    problems.push(format!("{path}: a number without {bound}"));
                }
            }
        }
        Some("boolean") => {}
        other => problems.push(format!("{path}: type {other:?} is not structural")),
    }
    for combination in ["oneOf", "anyOf", "allOf", "not", "$ref", "nullable"] {
        if bounded(combination) {
            problems.push(format!("{path}: {combination}"));
        }
    }
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        match schema["description"].as_str() {
            Some(text) if text.ends_with('.') => {}
            Some(text) => problems.push(format!("{path}: {text:?} is no sentence")),
            None => problems.push(format!("{path}: no description")),
        }
        inspect(schema, path, problems);
    }
}

#[test]
fn kubectl_knows_the_short_name_and_the_category_and_shows_what_became_of_an_object() {
    let definitions = crds::schema::definitions();
    let short_names = definitions.iter().map(|(_, definition)| {
        let names = &definition["spec"]["names"];
        assert_eq!(names["categories"], json!(["meshwright"]));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&names["kind"]), text(&names["shortNames"][0]))
    });
    let short = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    assert_eq!(
        Vec::from_iter(short_names),
        [
            short("ApiRoute", "ar"),
            short("EventSubscription", "es"),
            short("RateLimit", "rl"),
            short("RetryPolicy", "rp")
        ]
    );

    for (name, definition) in &definitions {
        let version = &definition["spec"]["versions"][0];
        let columns = version["additionalPrinterColumns"].as_array().unwrap();
        let shown = columns.iter().map(|column| {
            let text = |field: &str| column[field].as_str().unwrap();
            (text("name"), text("type"), text("jsonPath"))
        });
        let accepted = ".status.conditions[?(@.type==\"Accepted\")].status";
        let ready = ".status.conditions[?(@.type==\"Ready\")].status";
        let mut expected = vec![
            ("Target", "string", ".status.target"),
            ("Accepted", "string", accepted),
            ("Programmed", "string", ".status.programmed"),
            ("Age", "date", ".metadata.creationTimestamp"),
        ];
        if name.contains("eventsubscriptions") {
            let own = [
                ("Ready", "string", ready),
                ("Lag", "integer", ".status.lag"),
            ];
            expected.splice(2..2, own);
        }
        assert_eq!(Vec::from_iter(shown), expected, "{name}");
    }

    // What a cell shows is what an object's status has: the paths lead somewhere.
    let status = json!({
        "conditions": [{
            "type": "Accepted",
            "status": "True",
            "reason": "Accepted",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
        "programmed": "3/4",
        "target": "orders.shop",
    });
    let read: crds::ObjectStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), status);
}

#[test]
fn every_rule_of_the_schema_has_a_message() {
    for (_, definition) in crds::schema::definitions() {
        let mut rules = Vec::new();
        find_rules(&definition, &mut rules);
        assert!(!rules.is_empty());
        for rule in rules {
            assert!(rule["message"].is_string(), "{rule}");
        }
    }
}

fn find_rules<'a>(value: &'a Value, rules: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Array(list) if key == "x-kubernetes-validations" => rules.extend(list),
                    _ => find_rules(value, rules),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| find_rules(value, rules)),
        _ => {}
    }
}
