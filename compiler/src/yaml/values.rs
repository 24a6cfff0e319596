//! Documents as they are, of whatever kind: for whoever changes something in them and writes them back.

use serde_json::Value;

use super::ambiguous::Ambiguous;
use super::{Fault, MAX_LOOKS, Problem, split, value_of};

/// Every document of a text, empty ones left out. Of no document anything is expected but that it is
/// YAML.
///
/// # Errors
/// The first document that is none.
pub fn values(file: &str, text: &str) -> Result<Vec<Value>, Problem> {
    let most_open = MAX_LOOKS / text.len().max(1);
    let mut values = Vec::new();
    for (before, text) in split(text) {
        match value_of(text, most_open) {
            Ok(value) if value.is_null() => {}
            Ok(value) => values.push(value),
            Err(fault) => return Err(located(file, before, fault)),
        }
    }
    Ok(values)
}

/// The same as text. What kubectl would take for something else than text is in quotes.
pub fn written(values: &[Value]) -> String {
    let documents: Vec<_> = values.iter().map(one_written).collect();
    documents.join("---\n")
}

fn one_written(value: &Value) -> String {
    // Such words are written under a name that nothing else has, and then in quotes instead of it.
    let mut name = "quoted".to_owned();
    let text = value.to_string();
    while text.contains(&name) {
        name.push('x');
    }
    let mut words = Vec::new();
    let named = renamed(value, &name, &mut words);
    // What was read as YAML, or is JSON, can be written.
    let mut text = serde_yaml::to_string(&named).unwrap_or_default();
    for (at, word) in words.iter().enumerate() {
        text = text.replace(&placeholder(&name, at), &format!("'{word}'"));
    }
    text
}

/// The value with each ambiguous word replaced by its placeholder.
fn renamed(value: &Value, name: &str, words: &mut Vec<String>) -> Value {
    let mut word = |text: &str| {
        if Ambiguous::of(text).is_none() {
            return text.to_owned();
        }
        let known = words.iter().position(|word| word == text);
        let at = known.unwrap_or_else(|| {
            words.push(text.to_owned());
            words.len() - 1
        });
        placeholder(name, at)
    };
    match value {
        Value::String(text) => Value::String(word(text)),
        Value::Array(items) => {
            let items = items.iter().map(|item| renamed(item, name, words));
            Value::Array(items.collect())
        }
        Value::Object(fields) => {
            let keys: Vec<_> = fields.keys().map(|key| word(key)).collect();
            let values = fields.values().map(|value| renamed(value, name, words));
            Value::Object(keys.into_iter().zip(values).collect())
        }
        other => other.clone(),
    }
}

fn placeholder(name: &str, at: usize) -> String {
    format!("{name}-{at}-")
}

fn located(file: &str, before: usize, fault: Fault) -> Problem {
    Problem {
        file: file.into(),
        line: before + fault.line.unwrap_or(1),
        field: fault.field,
        message: fault.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_of_any_kind_are_read_and_written_with_what_they_mean() {
        let text = "# a comment\nkind: Thing\nspec: {a: [1, 2.5, true], b: \"yes\", c: \"010\", d: \"on\", e: \"y\", \"no\": quoted}\n---\n---\nkind: List\nitems: []\n---\n- x\n";
        let read = values("a.yaml", text).unwrap();
        assert_eq!(read.len(), 3);
        let written = written(&read);
        assert_eq!(values("b.yaml", &written).unwrap(), read);
        // To readers of YAML 1.1, such as kubectl, these are no text without quotes.
        for text in ["b: 'yes'", "c: '010'", "d: 'on'", "e: 'y'", "'no': quoted"] {
            assert!(written.contains(text), "{written}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let problem = values("a.yaml", "kind: A\n---\nkind: [B\n").unwrap_err();
        assert_eq!(problem.line, 4, "{problem}");
        assert!(
            problem.to_string().starts_with("a.yaml:4: not valid YAML"),
            "{problem}"
        );
    }
}
