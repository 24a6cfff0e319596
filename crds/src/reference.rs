//! `docs/reference.md`: what the schemas say, for people. Generated as the schemas are, so that no
//! sentence about a field stands twice.

use std::fmt::Write as _;

use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Value};

use crate::schema::definitions;
use crate::status::{ConditionType, Reason};

/// Where it is committed, from this crate's folder.
pub const FILE: &str = "../docs/reference.md";

const HEAD: &str = "\
<!-- Generated from crds/src by `cargo run -p crds --bin crdgen`; do not edit. -->

# Reference of the kinds

Every field of every kind, as the API server and `meshwright check` take them. A path with `[]` stands
for each entry of a list. A field that isn't there has its default; one without a default says nothing.
A duration is one to four numbers with `h`, `m`, `s` or `ms` behind each: `1m30s`. What is written
otherwise is refused, with the field's name; after *refused:* stands what is told then.

";

const STATUS: &str = "\
## Status

The operator writes it: `kubectl get meshwright` shows the first of it, `kubectl describe` all. Every kind has
`conditions`, `programmed` and `target`, and an EventSubscription the rest.

";

/// The whole document.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    let definitions = definitions();
    for (_, definition) in &definitions {
        kind(&mut text, definition);
    }
    text.push_str(STATUS);
    let longest = definitions.iter().max_by_key(|(_, definition)| {
        let status = &schema_of(definition, "status")["properties"];
        status.as_object().map_or(0, Map::len)
    });
    if let Some((_, definition)) = longest {
        let mut rows = Vec::new();
        fields(schema_of(definition, "status"), "", &mut rows);
        table(&mut text, &rows);
    }
    text.push_str("### Conditions\n\n| type | what `True` means |\n|---|---|\n");
    for (name, meaning) in variants::<ConditionType>() {
        line(&mut text, &[&code(&name), &meaning]);
    }
    text.push_str("\n### Reasons\n\n| reason | of | what it means |\n|---|---|---|\n");
    for (name, meaning) in variants::<Reason>() {
        let (of, meaning) = meaning.split_once(": ").unwrap_or((&meaning, ""));
        line(
            &mut text,
            &[&code(&name), of.trim_end_matches('.'), meaning],
        );
    }
    text
}

/// One field, as its line in a table.
struct Row {
    path: String,
    schema: Value,
    required: bool,
}

fn kind(text: &mut String, definition: &Value) {
    let names = &definition["spec"]["names"];
    let spec = schema_of(definition, "spec");
    let whole = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let _ = writeln!(
        text,
        "## {}\n\n`apiVersion: {}`, `kubectl get {}` or `{}`, in a namespace.\n\n{}\n\n### {0} spec\n",
        word(&names["kind"]),
        crate::API_VERSION,
        word(&names["plural"]),
        word(&names["shortNames"][0]),
        word(&whole["description"]),
    );
    let mut own = Vec::new();
    let mut below = Vec::new();
    for row in children(spec, "") {
        let mut deeper = Vec::new();
        fields(&row.schema, &row.path, &mut deeper);
        if !deeper.is_empty() {
            below.push((row.path.clone(), deeper));
        }
        own.push(row);
    }
    table(text, &own);
    rules(text, spec);
    for (path, rows) in below {
        let _ = writeln!(text, "### {} {path}\n", word(&names["kind"]));
        table(text, &rows);
    }
}

fn schema_of<'a>(definition: &'a Value, part: &str) -> &'a Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]
}

/// All fields below a schema, parents before their children.
fn fields(schema: &Value, path: &str, rows: &mut Vec<Row>) {
    if schema.get("items").is_some() {
        return fields(&schema["items"], &format!("{path}[]"), rows);
    }
    for row in children(schema, path) {
        let (schema, path) = (row.schema.clone(), row.path.clone());
        rows.push(row);
        fields(&schema, &path, rows);
    }
}

/// The fields of one object: those that must be there first.
fn children(schema: &Value, path: &str) -> Vec<Row> {
    let required = |field: &str| {
        let names = schema["required"].as_array();
        names.is_some_and(|names| names.iter().any(|name| name == field))
    };
    let properties = schema["properties"].as_object();
    let mut rows: Vec<Row> = properties
        .into_iter()
        .flatten()
        .map(|(field, schema)| Row {
            path: match path {
                "" => field.clone(),
                path => format!("{path}.{field}"),
            },
            schema: schema.clone(),
            required: required(field),
        })
        .collect();
    rows.sort_by_key(|row| !row.required);
    rows
}

fn table(text: &mut String, rows: &[Row]) {
    text.push_str("| field | type | default | bounds | what it means |\n|---|---|---|---|---|\n");
    for Row {
        path,
        schema,
        required,
    } in rows
    {
        let default = match (required, schema.get("default")) {
            (true, _) => "**required**".to_owned(),
            (false, Some(default)) => code(&value(default)),
            (false, None) => String::new(),
        };
        let meaning = word(&schema["description"]);
        let cells = [
            &code(path),
            &kind_of(schema),
            &default,
            &bounds(schema),
            meaning,
        ];
        line(text, &cells.map(|cell| cell as &str));
    }
    text.push('\n');
}

/// What holds across the fields of a whole spec, in the words with which it is refused.
fn rules(text: &mut String, schema: &Value) {
    let messages = messages(schema);
    if messages.is_empty() {
        return;
    }
    text.push_str("Refused across fields, with these words:\n\n");
    for message in messages {
        let _ = writeln!(text, "- {message}");
    }
    text.push('\n');
}

fn messages(schema: &Value) -> Vec<&str> {
    let rules = schema["x-kubernetes-validations"].as_array();
    let rules = rules.into_iter().flatten();
    rules.filter_map(|rule| rule["message"].as_str()).collect()
}

/// What may be written there, in a word or two.
fn kind_of(schema: &Value) -> String {
    match word(&schema["type"]) {
        "array" => format!("list of {}", plural(&schema["items"])),
        "object" if schema.get("additionalProperties").is_some() => {
            format!("map to {}", plural(&schema["additionalProperties"]))
        }
        "string" if schema["format"] == "date-time" => "time (RFC 3339)".to_owned(),
        "string" if is_duration(schema) => "duration".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        other => other.to_owned(),
    }
}

fn plural(schema: &Value) -> &str {
    match word(&schema["type"]) {
        "object" => "objects",
        "integer" => "integers",
        _ if is_duration(schema) => "durations",
        _ => "strings",
    }
}

/// Told by the pattern that every [`crate::Duration`] has.
fn is_duration(schema: &Value) -> bool {
    word(&schema["pattern"]).contains("(h|m|s|ms)")
}

/// How large, how many, which words; and what else is refused, in the words with which it is.
fn bounds(schema: &Value) -> String {
    let mut said = own_bounds(schema);
    if let Some(items) = schema.get("items") {
        let each = match items.get("properties") {
            // Their fields have lines of their own.
            Some(_) => refused(items),
            None => own_bounds(items),
        };
        said.extend(each.iter().map(|bound| format!("each {bound}")));
    }
    if let Some(values) = schema.get("additionalProperties") {
        said.extend(
            own_bounds(values)
                .iter()
                .map(|bound| format!("each {bound}")),
        );
    }
    said.join("; ")
}

fn own_bounds(schema: &Value) -> Vec<String> {
    let empty = Map::new();
    let schema_map = schema.as_object().unwrap_or(&empty);
    let mut said = Vec::new();
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|word| code(&value(word))).collect();
        said.push(words.join(", "));
    }
    for (least, most, of) in [
        ("minimum", "maximum", ""),
        ("minItems", "maxItems", " entries"),
        ("minProperties", "maxProperties", " entries"),
        ("minLength", "maxLength", " characters"),
    ] {
        match (schema_map.get(least), schema_map.get(most)) {
            _ if is_duration(schema) => {}
            (Some(least), Some(most)) => said.push(format!("{least} to {most}{of}")),
            (None, Some(most)) => said.push(format!("at most {most}{of}")),
            (Some(least), None) => said.push(format!("at least {least}{of}")),
            (None, None) => {}
        }
    }
    if schema["x-kubernetes-list-type"] == "set" {
        said.push("none twice".to_owned());
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !is_duration(schema)
    {
        said.push(code(pattern));
    }
    said.extend(refused(schema));
    said
}

fn refused(schema: &Value) -> Vec<String> {
    let messages = messages(schema).into_iter();
    messages
        .map(|message| format!("*refused:* {message}"))
        .collect()
}

/// The variants of an enumeration with their sentences.
fn variants<T: JsonSchema>() -> Vec<(String, String)> {
    let schema = schema_for!(T).to_value();
    let variants = schema["oneOf"].as_array();
    let variants = variants.into_iter().flatten().map(|variant| {
        let meaning = word(&variant["description"]).replace('\n', " ");
        (word(&variant["const"]).to_owned(), meaning)
    });
    variants.collect()
}

fn line(text: &mut String, cells: &[&str]) {
    for cell in cells {
        // What would end the cell does not, not even inside of code.
        let _ = write!(text, "| {} ", cell.replace('|', r"\|"));
    }
    text.push_str("|\n");
}

/// As code, even where it has backquotes in it.
fn code(text: &str) -> String {
    match text.contains('`') {
        true => format!("`` {text} ``"),
        false => format!("`{text}`"),
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
