//! Documents in files: Kubernetes' objects as YAML, several to a file, errors with file and line.
//!
//! Our own kinds are checked against their generated schema as the API server would, so that a
//! folder accepts exactly what a cluster accepts. Kubernetes' kinds are checked for their fields and
//! types.

mod ambiguous;
mod kinds;
mod labels;
mod lines;
mod rules;
mod strict;
mod structural;
mod values;

use std::fmt;
use std::sync::{Arc, LazyLock};

use crds::{ApiRoute, EventSubscription, RateLimit, RetryPolicy};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::inputs::ObjectKey;
use kinds::{Known, NAMESPACE};
use lines::Lines;
pub use lines::line_of;
use structural::Schema;
pub use values::{Kept, kept, rewritten, values, written};

/// What a file contains. When there are problems, its documents are those that have none; whoever
/// keeps a last good form of the file keeps all of it.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The documents without problems, in the order written.
    pub documents: Vec<Document>,
    /// Everything that is wrong, in the order of lines.
    pub problems: Vec<Problem>,
}

/// One object in a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Such as `meshwright.dev/v1alpha1`.
    pub api_version: String,
    /// Such as `ApiRoute`.
    pub kind: String,
    /// Namespace (`default` when the document names none; of a Namespace, none) and name.
    pub key: ObjectKey,
    /// The file, as given to [`parse`].
    pub file: Arc<str>,
    /// The line, from 1, that the document's first field stands on.
    pub line: usize,
    /// The document as written, with the namespace filled in and without `null`s.
    pub value: Value,
    /// The same as an object, with the schema's defaults.
    pub object: Object,
}

/// A document's object.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Object {
    ApiRoute(Arc<ApiRoute>),
    RetryPolicy(Arc<RetryPolicy>),
    RateLimit(Arc<RateLimit>),
    EventSubscription(Arc<EventSubscription>),
    Service(Arc<Service>),
    Deployment(Arc<Deployment>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    Namespace(Arc<Namespace>),
    Secret(Arc<Secret>),
    /// A kind that belongs in a folder but means nothing here, such as a ConfigMap.
    Ignored,
}

/// Something wrong in a file. Shown as `shop.yaml:7: spec.rules[0].backendRefs[0].port: ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as given to [`parse`].
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The path of the field inside its document; empty when no field is to blame.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Something wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    /// Counted from the document's first line, where it is known already.
    line: Option<usize>,
    field: String,
    message: String,
}

/// The value parser looks at every bracket that is open for each word that it reads: this times a
/// nanosecond is what a file takes at most. Some thousand may be open in the largest file, and in
/// smaller ones more.
const MAX_LOOKS: usize = 1 << 30;

const DEFAULT_NAMESPACE: &str = "default";

/// A name that Kubernetes takes: a DNS subdomain.
static NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
        .expect("the pattern is constant")
});

/// The first list, map or text of an object of this kind that is longer than the schema permits, as a
/// sentence; nothing else is looked for.
pub fn beyond_bounds(kind: &str, object: &Value) -> Option<String> {
    let fault = Schema::of_kind(kind)?.beyond(object, "")?;
    Some(format!("{} {}", fault.field, fault.message))
}

/// Reads every document of a file's text. A document that has problems hides no other.
pub fn parse(file: &str, text: &str) -> File {
    let file: Arc<str> = file.into();
    let mut parsed = File::default();
    let most_open = MAX_LOOKS / text.len().max(1);
    for (before, text) in split(text) {
        let (document, mut faults) = match read(text, most_open) {
            Ok(document) => (document, Vec::new()),
            Err(faults) => (None, faults),
        };
        let known = !faults.is_empty() && faults.iter().all(|fault| fault.line.is_some());
        let lines = match known {
            true => Lines::default(),
            false => Lines::of(text),
        };
        for (path, word) in lines.ambiguous() {
            faults.retain(|fault| fault.field != *path);
            faults.push(Fault::new(path, word.to_string()));
        }
        match document {
            Some((known, key, value, object)) if faults.is_empty() => {
                parsed.documents.push(Document {
                    api_version: known.api_version.to_owned(),
                    kind: known.kind.to_owned(),
                    key,
                    file: file.clone(),
                    line: before + lines.line(""),
                    value,
                    object,
                });
            }
            _ => parsed
                .problems
                .extend(faults.into_iter().map(|fault| Problem {
                    file: file.clone(),
                    line: before + fault.line.unwrap_or_else(|| lines.line(&fault.field)),
                    field: fault.field,
                    message: fault.message,
                })),
        }
    }
    parsed.problems.sort_by_key(|problem| problem.line);
    parsed
}

/// A text's documents, each with the number of lines before it. Done by hand, because a parser
/// that meets a fault in one document does not reach the next.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let mut start = (0, 0);
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        // In block and quoted scalars alike, YAML takes this at the start of a line for the start
        // of a document.
        let mark = line.strip_prefix("---");
        if mark.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            documents.push((start.0, &text[start.1..at]));
            start = (number, at);
        }
        at += line.len();
    }
    documents.push((start.0, &text[start.1..]));
    documents
}

/// How many brackets are open at once at most, wherever they stand: which of them are text, only the
/// parser that they keep busy can tell.
fn brackets(text: &str) -> usize {
    let mut open = 0_usize;
    let mut most = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

type Read = (&'static Known, ObjectKey, Value, Object);

/// Reads one document; `None` when it is empty.
fn read(text: &str, most_open: usize) -> Result<Option<Read>, Vec<Fault>> {
    let mut value = value_of(text, most_open).map_err(|fault| vec![fault])?;
    if value.is_null() {
        return Ok(None);
    }
    let known = kinds::of(&value).map_err(|fault| vec![fault])?;
    let key = metadata(&mut value, known.kind != NAMESPACE)?;
    if let Some(schema) = Schema::of_kind(known.kind) {
        let mut faults = schema.check(&value);
        let metadata = strict::read::<ObjectMeta>(&value["metadata"], "metadata");
        faults.extend(metadata.err().into_iter().flatten());
        if !faults.is_empty() {
            return Err(faults);
        }
    }
    let object = (known.read)(&value)?;
    Ok(Some((known, key, value, object)))
}

/// One document, whatever it holds; null when it is empty.
fn value_of(text: &str, most_open: usize) -> Result<Value, Fault> {
    let open = brackets(text);
    if open > most_open {
        let message = format!(
            "{open} brackets are open at once, and {most_open} may be in a file of this length"
        );
        return Err(Fault {
            line: Some(1),
            ..Fault::new("", message)
        });
    }
    let parsed = serde_yaml::from_str(text).and_then(|mut value: serde_yaml::Value| {
        value.apply_merge()?;
        Ok(value)
    });
    let value = parsed.map_err(|error| Fault::not_yaml(&error))?;
    json(value, "")
}

/// Namespace and name; the namespace is filled in where there is none, for what is in one.
fn metadata(value: &mut Value, in_a_namespace: bool) -> Result<ObjectKey, Vec<Fault>> {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(metadata) = metadata else {
        return Err(vec![Fault::new(
            "metadata",
            "is missing: write metadata: {name: ...}".to_owned(),
        )]);
    };
    if !in_a_namespace {
        metadata.remove("namespace");
    }
    let namespace = in_a_namespace.then(|| {
        let written = metadata.entry("namespace");
        written.or_insert_with(|| DEFAULT_NAMESPACE.into()).clone()
    });
    let name = metadata.get("name").cloned().unwrap_or_default();
    let mut faults = Vec::new();
    let mut part = |field: &str, value: Value, longest: usize, dots: bool| {
        let text = value.as_str().unwrap_or_default();
        let valid = NAME.is_match(text) && text.len() <= longest && (dots || !text.contains('.'));
        if !valid {
            let characters = if dots {
                "a-z, 0-9, - and ."
            } else {
                "a-z, 0-9 and -"
            };
            let written = match &value {
                Value::Null => "is missing: write".to_owned(),
                value => format!("{value} is no name: write"),
            };
            faults.push(Fault::new(
                &format!("metadata.{field}"),
                format!(
                    "{written} 1 to {longest} characters of {characters} that begin and end with a \
                     letter or digit"
                ),
            ));
        }
        text.to_owned()
    };
    let namespace = namespace.map(|namespace| part("namespace", namespace, 63, false));
    let key = ObjectKey {
        name: match namespace {
            Some(_) => part("name", name, 253, true),
            None => part("name", name, 63, false),
        },
        namespace: namespace.unwrap_or_default(),
    };
    match faults.is_empty() {
        true => Ok(key),
        false => Err(faults),
    }
}

/// The value as JSON has it. A `null` is as good as absent, which is how the API server takes it.
fn json(value: serde_yaml::Value, path: &str) -> Result<Value, Fault> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (_, Some(number), _) => number.into(),
            (_, _, number) => number
                .and_then(serde_json::Number::from_f64)
                .map(Value::Number)
                .ok_or_else(|| Fault::new(path, "is no finite number".to_owned()))?,
        },
        Yaml::String(text) => text.into(),
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            items
                .map(|(index, item)| json(item, &format!("{path}[{index}]")))
                .collect::<Result<_, _>>()?
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = match key {
                    Yaml::String(key) => key,
                    Yaml::Number(key) => key.to_string(),
                    Yaml::Bool(key) => key.to_string(),
                    _ => return Err(Fault::new(path, "has a key that is no text".to_owned())),
                };
                let value = json(value, &child(path, &key))?;
                if !value.is_null() {
                    map.insert(key, value);
                }
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => {
            let message = format!("the tag {} means nothing here: remove it", tagged.tag);
            return Err(Fault::new(path, message));
        }
    })
}

/// The path of a field of the object at `path`.
fn child(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        path => format!("{path}.{field}"),
    }
}

// === impl Fault ===

impl Fault {
    fn new(field: &str, message: String) -> Self {
        Fault {
            line: None,
            field: field.to_owned(),
            message,
        }
    }

    fn not_yaml(error: &serde_yaml::Error) -> Self {
        Fault {
            line: error.location().map(|location| location.line()),
            field: String::new(),
            message: format!("not valid YAML: {error}"),
        }
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}
