//! The schemas as they are committed: generated from the types, put in order, written as YAML.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use crate::{ApiRoute, EventSubscription, RateLimit, RetryPolicy};

/// Where the definitions are committed, from this crate's folder: here, and in the Helm chart, which
/// can read no file outside of its own.
pub const FOLDERS: [&str; 2] = ["", "../charts/meshwright/files/crds"];

/// Every kind's definition as the API server takes it, with the name of its file in `crds/`.
pub fn definitions() -> Vec<(&'static str, Value)> {
    vec![
        ("apiroutes.yaml", definition(ApiRoute::crd())),
        (
            "eventsubscriptions.yaml",
            definition(EventSubscription::crd()),
        ),
        ("ratelimits.yaml", definition(RateLimit::crd())),
        ("retrypolicies.yaml", definition(RetryPolicy::crd())),
    ]
}

/// The structural schemas of our kinds (whole objects, with `spec` and `status`), by kind.
pub fn by_kind() -> BTreeMap<String, Value> {
    definitions()
        .into_iter()
        .filter_map(|(_, mut definition)| {
            let kind = definition.pointer("/spec/names/kind")?.as_str()?.to_owned();
            let schema = "/spec/versions/0/schema/openAPIV3Schema";
            Some((kind, definition.pointer_mut(schema)?.take()))
        })
        .collect()
}

/// A definition as its committed file has it.
pub fn to_yaml(definition: &Value) -> Result<String, serde_yaml::Error> {
    Ok(format!(
        "# Generated from crds/src by `cargo run -p crds --bin crdgen`; do not edit.\n{}",
        serde_yaml::to_string(definition)?
    ))
}

fn definition(definition: CustomResourceDefinition) -> Value {
    // A definition is strings, numbers and maps with string keys: nothing that JSON can't hold.
    let mut value = serde_json::to_value(definition).expect("a definition is JSON");
    tidy(&mut value);
    value
}

/// Takes out what the generator adds and no reader needs: titles, Rust's integer names (`format:
/// uint16` means nothing to Kubernetes), and `null` as a value for what may simply be absent.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("type") && !map["type"].is_object() {
                tidy_schema(map);
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn tidy_schema(schema: &mut Map<String, Value>) {
    schema.remove("title");
    schema.remove("nullable");
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(format) = schema.get_mut("format")
        && let Some(rust) = format.as_str()
        && rust.starts_with("uint")
    {
        *format = if rust == "uint64" { "int64" } else { "int32" }.into();
    }
    for bound in ["minimum", "maximum"] {
        if let Some(number) = schema.get_mut(bound)
            && let Some(float) = number.as_f64()
        {
            *number = (float as i64).into();
        }
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        // One paragraph is one line: where the source breaks it is nobody's business.
        *text = text.replace('\n', " ");
    }
}

/// Labels, as a selector names them.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        },
    })
}

/// Kubernetes' list of conditions, with its bounds.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "items": {
            "type": "object",
            "description": "One aspect of what became of the object.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string",
                    "description": "What the condition is about.",
                    "maxLength": 64,
                },
                "status": {
                    "type": "string",
                    "description": "Whether it holds.",
                    "enum": ["True", "False", "Unknown"],
                },
                "reason": {
                    "type": "string",
                    "description": "Why, as one word.",
                    "minLength": 1,
                    "maxLength": 64,
                },
                "message": {
                    "type": "string",
                    "description": "Why, as a sentence, with what to do about it.",
                    "maxLength": 32768,
                },
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "description": "The metadata.generation that was looked at.",
                    "minimum": 0,
                    // The largest that a bound, which is a float to Kubernetes, holds exactly.
                    "maximum": 9_007_199_254_740_991_i64,
                },
                "lastTransitionTime": {
                    "type": "string",
                    "format": "date-time",
                    "description": "When `status` last changed.",
                },
            },
        },
    })
}
