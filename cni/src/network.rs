//! The configuration of a node's pod network: a list of plugins that are called in turn. Edited here
//! as text, with no files.
//!
//! Whoever made the network may have written it as one plugin (`.conf`); that becomes a list of one,
//! for only lists have an end to add to. What is written is JSON of the same meaning: spaces, and the
//! order of fields, are not kept.

use serde_json::{Map, Value, json};

use crate::plugin::{ANNOTATIONS, VERSIONS};

/// The plugin's name: of its program in the runtime's folder, and of its entry.
pub const PLUGIN: &str = "meshwright-cni";
/// The largest configuration that is edited, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// The most plugins in a list that is edited.
const MAX_PLUGINS: usize = 64;

/// Why a network's configuration is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody can read it.
    #[error("it is no JSON: {0}")]
    Json(String),
    /// It is JSON, and no network.
    #[error("it is no configuration of a network: {0}")]
    Shape(&'static str),
    /// Nothing can come after its plugin.
    #[error(
        "it is of the CNI version {0}, in which plugins can't be chained; let whoever installs that network write one \
         of 0.3.1 or later"
    )]
    Version(String),
}

/// What a network's configuration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A list of plugins (`.conflist`).
    List,
    /// One plugin (`.conf`).
    Single,
}

/// A network's configuration, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    fields: Map<String, Value>,
    shape: Shape,
}

// === impl Network ===

impl Network {
    /// Reads one.
    ///
    /// # Errors
    /// When nothing can be added to it.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let fields = match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(Refusal::Shape("no object")),
            Err(error) => return Err(Refusal::Json(error.to_string())),
        };
        let shape = match fields.get("plugins") {
            Some(Value::Array(plugins)) if plugins.is_empty() => {
                return Err(Refusal::Shape("`plugins` is empty"));
            }
            Some(Value::Array(plugins)) if plugins.len() > MAX_PLUGINS => {
                return Err(Refusal::Shape("`plugins` holds more than 64"));
            }
            Some(Value::Array(plugins)) if !plugins.iter().all(is_plugin) => {
                return Err(Refusal::Shape("one of `plugins` has no `type`"));
            }
            Some(Value::Array(_)) => Shape::List,
            Some(_) => return Err(Refusal::Shape("`plugins` is no list")),
            None if fields.get("type").is_some_and(Value::is_string) => Shape::Single,
            None => {
                return Err(Refusal::Shape(
                    "it has neither `plugins` nor `type`; if its plugins stand in files of their own, write them into it",
                ));
            }
        };
        let version = fields.get("cniVersion").map_or(Some(""), Value::as_str);
        match version {
            Some(version) if VERSIONS.contains(&version) => Ok(Self { fields, shape }),
            Some("") => Err(Refusal::Version("0.1.0, as it names none".into())),
            Some(other) => Err(Refusal::Version(other.chars().take(32).collect())),
            None => Err(Refusal::Shape("`cniVersion` is no string")),
        }
    }

    /// A list of plugins, or one.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether this plugin is called after all others, and told of annotations.
    pub fn has_plugin(&self) -> bool {
        self.plugins().last() == Some(&entry())
    }

    /// The list with this plugin at its end, and nowhere else.
    #[must_use]
    pub fn with_plugin(mut self) -> Self {
        if self.shape == Shape::Single {
            self = self.into_list();
        }
        let mut plugins = self.others();
        plugins.push(entry());
        self.fields.insert("plugins".into(), Value::Array(plugins));
        self
    }

    /// The list without this plugin; nothing if it isn't in it.
    #[must_use]
    pub fn without_plugin(mut self) -> Option<Self> {
        let others = self.others();
        if self.shape == Shape::Single || others.len() == self.plugins().len() {
            return None;
        }
        self.fields.insert("plugins".into(), Value::Array(others));
        Some(self)
    }

    /// As a file holds it.
    pub fn to_text(&self) -> String {
        let value = Value::Object(self.fields.clone());
        format!("{value:#}\n")
    }

    fn plugins(&self) -> &[Value] {
        self.fields
            .get("plugins")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    fn others(&self) -> Vec<Value> {
        let others = self.plugins().iter().filter(|plugin| !is_ours(plugin));
        others.cloned().collect()
    }

    /// A list has name and version of its own, which its plugins then have not.
    fn into_list(mut self) -> Self {
        let mut list = Map::new();
        for name in ["cniVersion", "name", "disableCheck"] {
            if let Some(value) = self.fields.remove(name) {
                list.insert(name.to_owned(), value);
            }
        }
        list.insert("plugins".into(), json!([self.fields]));
        Self {
            fields: list,
            shape: Shape::List,
        }
    }
}

/// This plugin in a list. That it asks for annotations is what makes a runtime pass them.
fn entry() -> Value {
    json!({ "type": PLUGIN, "capabilities": { ANNOTATIONS: true } })
}

fn is_plugin(plugin: &Value) -> bool {
    plugin.get("type").is_some_and(Value::is_string)
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").is_some_and(|kind| kind == PLUGIN)
}

#[cfg(test)]
mod tests;
