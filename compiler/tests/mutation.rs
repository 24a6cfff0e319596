//! One bad object never affects another: every field of every document of a world is spoilt in
//! many ways, and what the document has nothing to do with stays as it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::collections::BTreeMap;

use compiler::yaml;
use compiler::{Inputs, ObjectKey, Output, compile};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

const WORLD: &str = include_str!("mutation.yaml");

/// Values that no field, or few, should have.
fn spoilt() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(65536),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("/"),
        json!("..//%00"),
        json!("UPPER case"),
        json!("ünïcode\u{0}\n"),
        json!("a".repeat(5000)),
        json!([]),
        json!([null]),
        json!([""]),
        json!({}),
        json!({"unknown": "field"}),
    ]
}

/// The documents with one field spoilt, each with the path of the field.
fn mutants(document: &Value) -> Vec<(String, Value)> {
    let mut pointers = Vec::new();
    collect(document, String::new(), &mut pointers);
    let mut mutants = Vec::new();
    for pointer in pointers {
        for bad in spoilt() {
            let mut mutant = document.clone();
            if let Some(field) = mutant.pointer_mut(&pointer) {
                *field = bad.clone();
            }
            mutants.push((format!("{pointer} = {}", short(&bad)), mutant));
        }
        let mut mutant = document.clone();
        if let Some((parent, name)) = pointer.rsplit_once('/') {
            match mutant.pointer_mut(parent) {
                Some(Value::Object(fields)) => drop(fields.remove(name)),
                Some(Value::Array(items)) => drop(items.remove(name.parse().unwrap())),
                _ => {}
            }
            mutants.push((format!("{pointer} removed"), mutant));
        }
    }
    mutants
}

fn collect(value: &Value, pointer: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(value, format!("{pointer}/{name}"), pointers);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{pointer}/{index}"), pointers);
            }
        }
        _ => {}
    }
    if !pointer.is_empty() {
        pointers.push(pointer);
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(30).collect()
}

/// The world without one document, and with an object in its place.
fn with_mutant(inputs: &Inputs, kind: &str, key: &ObjectKey, mutant: &Value) -> Option<Inputs> {
    fn replace<T: DeserializeOwned + kube::Resource>(
        objects: &mut BTreeMap<ObjectKey, Arc<T>>,
        key: &ObjectKey,
        mutant: &Value,
    ) -> Option<()> {
        let object: T = serde_json::from_value(mutant.clone()).ok()?;
        objects.remove(key);
        objects.insert(ObjectKey::of(&object), Arc::new(object));
        Some(())
    }
    let mut inputs = inputs.clone();
    match kind {
        "ApiRoute" => replace(&mut inputs.api_routes, key, mutant)?,
        "Service" => replace(&mut inputs.services, key, mutant)?,
        "EndpointSlice" => replace(&mut inputs.endpoint_slices, key, mutant)?,
        "Pod" => replace(&mut inputs.pods, key, mutant)?,
        other => panic!("{other}"),
    }
    Some(inputs)
}

/// Verdicts and resources that the mutated documents have nothing to do with.
fn bystanders(output: &Output) -> (Vec<String>, Vec<String>) {
    let is = |namespace: &str, name: &str| namespace == "bank" || name.starts_with("bystander");
    let resources = output
        .resources
        .iter()
        .filter(|(id, _)| is(&id.namespace, &id.name));
    let verdicts = output
        .verdicts
        .iter()
        .filter(|(object, _)| is(&object.namespace, &object.name));
    (
        resources
            .map(|(id, compiled)| format!("{id} {compiled:?}"))
            .collect(),
        verdicts
            .map(|(_, verdict)| format!("{verdict:?}"))
            .collect(),
    )
}

#[test]
fn a_spoilt_object_affects_nothing_that_it_has_nothing_to_do_with() {
    let inputs = world::inputs("mutation.yaml", WORLD);
    let whole = compile(&inputs, Output::default());
    let expected = bystanders(&whole);
    assert!(expected.0.len() >= 6 && expected.1.len() >= 2);
    let mut compiled = 0;
    for document in yaml::parse("mutation.yaml", WORLD).documents {
        if document.key.namespace == "bank" || document.key.name.starts_with("bystander") {
            continue;
        }
        for (what, mutant) in mutants(&document.value) {
            let Some(inputs) = with_mutant(&inputs, &document.kind, &document.key, &mutant) else {
                continue;
            };
            let scratch = compile(&inputs, Output::default());
            let what = format!("{} {}: {what}", document.kind, document.key);
            assert_eq!(bystanders(&scratch), expected, "{what}");
            let after = compile(&inputs, whole.clone());
            assert_eq!(bystanders(&after), expected, "{what}");
            assert_eq!(
                world::show::output(&after),
                world::show::output(&scratch),
                "{what}"
            );
            for id in after.resources.keys() {
                assert!(id.to_string().parse::<wire::ResourceId>().is_ok(), "{what}");
            }
            for verdict in after.verdicts.values() {
                for condition in &verdict.conditions {
                    assert!(condition.message.len() <= 32768, "{what}");
                }
            }
            compiled += 1;
        }
    }
    assert!(
        compiled > 500,
        "only {compiled} mutants had the type of their kind"
    );
}

#[test]
fn a_spoilt_document_hides_no_other_in_its_file() {
    let documents: Vec<&str> = WORLD.split("---\n").collect();
    let all = yaml::parse("mutation.yaml", WORLD).documents;
    let mut refused = 0;
    for (place, document) in all.iter().enumerate() {
        // Every fifth: each parses the whole file.
        for (what, mutant) in mutants(&document.value).into_iter().step_by(5) {
            let mut texts: Vec<String> = documents.iter().map(|text| (*text).to_owned()).collect();
            texts[place] = mutant.to_string() + "\n";
            let parsed = yaml::parse("mutation.yaml", &texts.join("---\n"));
            let what = format!("{} {}: {what}", document.kind, document.key);
            let bad = parsed.problems.len();
            assert!(
                bad == 0 || parsed.documents.len() == all.len() - 1,
                "{what}"
            );
            let others = parsed.documents.iter().filter(|d| d.key != document.key);
            for other in others {
                let known = all
                    .iter()
                    .any(|d| d.key == other.key && d.value == other.value);
                assert!(known || bad == 0, "{what}");
            }
            refused += usize::from(bad > 0);
        }
    }
    assert!(refused > 200, "only {refused} mutants were refused");
}
