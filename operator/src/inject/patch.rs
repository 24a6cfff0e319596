//! A JSON patch in the making.

use serde_json::{Value, json};

// === the patch ===

/// A JSON patch in the making. `there` is the length of what the pod has; `None` if it has none.
#[derive(Default)]
pub(super) struct Operations(Vec<Value>);

impl Operations {
    pub(super) fn add(&mut self, path: String, value: Value) {
        self.0
            .push(json!({ "op": "add", "path": path, "value": value }));
    }

    pub(super) fn remove(&mut self, path: String) {
        self.0.push(json!({ "op": "remove", "path": path }));
    }

    pub(super) fn insert(&mut self, path: &str, there: Option<usize>, key: &str, value: Value) {
        match there {
            Some(_) => self.add(format!("{path}/{}", key.replace('/', "~1")), value),
            None => self.add(path.to_owned(), json!({ key: value })),
        }
    }

    pub(super) fn append(&mut self, path: &str, there: Option<usize>, values: &[Value]) {
        match there {
            Some(_) => values
                .iter()
                .for_each(|value| self.add(format!("{path}/-"), value.clone())),
            None => self.add(path.to_owned(), json!(values)),
        }
    }

    pub(super) fn prepend(&mut self, path: &str, there: Option<usize>, values: &[Value]) {
        match there {
            Some(_) => values
                .iter()
                .enumerate()
                .for_each(|(at, value)| self.add(format!("{path}/{at}"), value.clone())),
            None => self.add(path.to_owned(), json!(values)),
        }
    }
}

impl From<Operations> for json_patch::Patch {
    fn from(operations: Operations) -> Self {
        // Written above, so it is a patch.
        serde_json::from_value(Value::Array(operations.0)).unwrap_or_default()
    }
}
