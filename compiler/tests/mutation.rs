//! One bad object never affects another: every field of every document of a world is spoilt in
//! many ways, and what the document has nothing to do with stays as it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compiler::yaml::{self, Document};
use compiler::{Inputs, ObjectKey, Output, compile};
use crds::status::{ConditionType, Reason};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
        // What other objects are called, and where they are.
        json!("orders"),
        json!("bystander"),
        json!("bystander.shop"),
        json!("accounts"),
        json!("shop"),
        json!("bank"),
        // Older and younger than all.
        json!("2025-01-01T00:00:00Z"),
        json!("2027-01-01T00:00:00Z"),
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

/// The world without one document, and with an object in its place, if there is one; the key of
/// that. `None` when the object isn't of its kind, or has the name of another: no world has both.
fn with_mutant(
    inputs: &Inputs,
    document: &Document,
    mutant: Option<&Value>,
) -> Option<(Inputs, ObjectKey)> {
    fn replace<T: DeserializeOwned + kube::Resource>(
        objects: &mut BTreeMap<ObjectKey, Arc<T>>,
        key: &ObjectKey,
        mutant: Option<&Value>,
    ) -> Option<ObjectKey> {
        objects.remove(key);
        let Some(mutant) = mutant else {
            return Some(key.clone());
        };
        let object: T = serde_json::from_value(mutant.clone()).ok()?;
        let key = ObjectKey::of(&object);
        let replaced = objects.insert(key.clone(), Arc::new(object));
        replaced.is_none().then_some(key)
    }
    let mut inputs = inputs.clone();
    let key = &document.key;
    let key = match document.kind.as_str() {
        "ApiRoute" => replace(&mut inputs.api_routes, key, mutant)?,
        "RetryPolicy" => replace(&mut inputs.retry_policies, key, mutant)?,
        "RateLimit" => replace(&mut inputs.rate_limits, key, mutant)?,
        "EventSubscription" => replace(&mut inputs.event_subscriptions, key, mutant)?,
        "Service" => replace(&mut inputs.services, key, mutant)?,
        "EndpointSlice" => replace(&mut inputs.endpoint_slices, key, mutant)?,
        "Pod" => replace(&mut inputs.pods, key, mutant)?,
        other => panic!("{other}"),
    };
    Some((inputs, key))
}

/// Whether an object leans on the document: both are of one application. What is called `rival`, which
/// wants the Service that another one has, has an application for itself, but for that Service.
fn leans_on(document: &Document, namespace: &str, name: &str) -> bool {
    let written = matches!(document.kind.as_str(), "ApiRoute" | "RetryPolicy");
    let application = |namespace: &str, name: &str| match namespace {
        "bank" => "bank",
        _ if name.starts_with("bystander") => "bystander",
        _ if name == "rival" && written => "rival",
        _ => "orders",
    };
    let key = &document.key;
    application(namespace, name) == application(&key.namespace, &key.name)
}

/// What became of objects that have nothing to do with a spoilt one.
#[derive(Debug, Default)]
struct Others {
    untouched: usize,
    /// Lost a Service to it, which is older.
    conflicted: usize,
    /// Won a Service from it.
    freed: usize,
}

impl Others {
    /// They are as they were, or as though the spoilt object were not there; what people wrote can
    /// also have lost against it.
    fn check(
        &mut self,
        (document, mutant): (&Document, &ObjectKey),
        [whole, without, after]: [&Output; 3],
        what: &str,
    ) {
        let mut lost = BTreeSet::new();
        for (object, before) in &whole.verdicts {
            if leans_on(document, &object.namespace, &object.name) {
                continue;
            }
            let now = after.verdicts.get(object);
            let accepted = now.and_then(|now| now.condition(ConditionType::Accepted));
            if now == Some(before) {
                self.untouched += 1;
            } else if now == without.verdicts.get(object) {
                self.freed += 1;
            } else {
                let accepted = accepted.unwrap_or_else(|| panic!("{what}: {object} is gone"));
                assert_eq!(accepted.reason, Reason::Conflicted, "{what}: {now:?}");
                let winner = format!("{} {mutant} ", document.kind);
                assert!(accepted.message.starts_with(&winner), "{what}: {now:?}");
                assert_eq!(now.unwrap().resources, [], "{what}");
                lost.extend(&before.resources);
                self.conflicted += 1;
            }
        }
        for (id, before) in &whole.resources {
            let now = after.resources.get(id);
            let as_expected = leans_on(document, &id.namespace, &id.name)
                || now == Some(before)
                || now == without.resources.get(id)
                || (now.is_none() && lost.contains(id));
            assert!(as_expected, "{what}: {id} is {now:?}, not {before:?}");
        }
        for id in after.resources.keys() {
            let known = [whole, without]
                .iter()
                .any(|o| o.resources.contains_key(id));
            let its_own = *id.namespace == *mutant.namespace && *id.name == *mutant.name;
            assert!(known || its_own, "{what}: {id} is new");
        }
    }
}

#[test]
fn a_spoilt_object_affects_nothing_that_it_has_nothing_to_do_with() {
    let inputs = world::inputs("mutation.yaml", WORLD);
    let whole = compile(&inputs, Output::default());
    let mut others = Others::default();
    let mut compiled = 0;
    for document in yaml::parse("mutation.yaml", WORLD).documents {
        let (without, _) = with_mutant(&inputs, &document, None).unwrap();
        let without = compile(&without, Output::default());
        for (what, mutant) in mutants(&document.value) {
            let Some((inputs, key)) = with_mutant(&inputs, &document, Some(&mutant)) else {
                continue;
            };
            let scratch = compile(&inputs, Output::default());
            let what = format!("{} {}: {what}", document.kind, document.key);
            others.check((&document, &key), [&whole, &without, &scratch], &what);
            let after = compile(&inputs, whole.clone());
            others.check((&document, &key), [&whole, &without, &after], &what);
            assert_eq!(
                world::show::output(&after),
                world::show::output(&scratch),
                "{what}"
            );
            for id in after.resources.keys() {
                assert!(id.to_string().parse::<wire::ResourceId>().is_ok(), "{what}");
            }
            for verdict in after.verdicts.values() {
                assert!(verdict.target.len() <= 4096, "{what}");
                for condition in &verdict.conditions {
                    assert!(condition.message.len() <= 32768, "{what}");
                }
            }
            compiled += 1;
        }
    }
    assert!(
        compiled > 1000,
        "only {compiled} mutants had the type of their kind"
    );
    let seen = others.untouched > compiled && others.conflicted > 0 && others.freed > 0;
    assert!(seen, "{others:?}");
}

#[test]
fn a_spoilt_document_hides_no_other_in_its_file() {
    let documents: Vec<&str> = WORLD.split("---\n").collect();
    let all = yaml::parse("mutation.yaml", WORLD).documents;
    let mut refused = 0;
    for (place, document) in all.iter().enumerate() {
        // Every eleventh: each parses the whole file.
        for (what, mutant) in mutants(&document.value).into_iter().step_by(11) {
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
