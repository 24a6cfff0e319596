//! Documents as they are, of whatever kind: for whoever changes something in them and writes them back.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::Value;

use super::ambiguous::Ambiguous;
use super::{Fault, MAX_LOOKS, Problem, brackets, split, value_of};

/// A document that is written as it was, unless its value is changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What it holds, as a cluster reads it.
    pub value: Value,
    before: Value,
    text: String,
}

/// Every document of a text, empty ones left out. Of no document anything is expected but that it is
/// YAML. Words without quotes are what a cluster takes them for: `0400` is 256, and `yes` is true.
///
/// # Errors
/// The first document that is none.
pub fn values(file: &str, text: &str) -> Result<Vec<Value>, Problem> {
    let kept = kept(file, text)?.into_iter();
    Ok(kept.map(|document| document.value).collect())
}

/// The same, to be written again.
///
/// # Errors
/// The first document that is none.
pub fn kept(file: &str, text: &str) -> Result<Vec<Kept>, Problem> {
    let most_open = MAX_LOOKS / text.len().max(1);
    let mut documents = Vec::new();
    for (before, text) in split(text) {
        let value = match brackets(text) > most_open {
            // Refused before a parser is kept busy with it.
            true => value_of(text, most_open),
            false => as_in_a_cluster(text).and_then(|text| value_of(&text, most_open)),
        };
        match value {
            Ok(value) if value.is_null() => {}
            Ok(value) => documents.push(Kept {
                before: value.clone(),
                value,
                text: text.to_owned(),
            }),
            Err(fault) => return Err(located(file, before, fault)),
        }
    }
    Ok(documents)
}

/// The same as text: each document that was not changed is as it was, comments included.
pub fn rewritten(documents: &[Kept]) -> String {
    let mut all = String::new();
    for document in documents {
        let text = match document.value == document.before {
            true => Cow::Borrowed(&*document.text),
            false => one_written(&document.value).into(),
        };
        if !all.is_empty() && !text.starts_with("---") {
            all.push_str("---\n");
        }
        all.push_str(&text);
        if !all.ends_with('\n') {
            all.push('\n');
        }
    }
    all
}

/// The text with each ambiguous word as both versions of YAML read alike what a cluster reads. Of what
/// isn't valid YAML, nothing is replaced behind its fault.
fn as_in_a_cluster(text: &str) -> Result<Cow<'_, str>, Fault> {
    let mut words = Vec::new();
    let mut events = Parser::new_from_str(text);
    while let Some(Ok((event, span))) = events.next_event() {
        if let Event::Scalar(word, ScalarStyle::Plain, _, None) = event
            && let Some(ambiguous) = Ambiguous::of(&word)
        {
            let place = (span.start.index(), span.end.index());
            words.push((place, span.start.line(), word.into_owned(), ambiguous));
        }
    }
    if words.is_empty() {
        return Ok(text.into());
    }
    let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
    let at = |nth: usize| places.get(nth).copied().unwrap_or(text.len());
    let mut replaced = String::with_capacity(text.len());
    let mut done = 0;
    for ((start, end), line, word, ambiguous) in words {
        let (start, end) = (at(start), at(end));
        let unclear = || Fault {
            line: Some(line),
            ..Fault::new("", ambiguous.to_string())
        };
        // Behind an anchor, if it has one. Where the word does not stand as it is read, it is for its
        // writer to say what is meant.
        let written = text.get(start..end).filter(|text| text.ends_with(&*word));
        written.ok_or_else(unclear)?;
        let start = end - word.len();
        replaced.push_str(text.get(done..start).ok_or_else(unclear)?);
        replaced.push_str(&ambiguous.plain().ok_or_else(unclear)?);
        done = end;
    }
    replaced.push_str(text.get(done..).unwrap_or_default());
    Ok(replaced.into())
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
    fn words_without_quotes_are_what_a_cluster_reads() {
        let text = "# ä 0400\na: 0400\nb: [yes, &mode 0644, *mode, \"0400\", 0x1f]\nc: {on: 1_000, d: no} # no\ne: |\n  0400\n";
        let read = values("a.yaml", text).unwrap();
        let expected = serde_json::json!({
            "a": 256, "b": [true, 420, 420, "0400", 31], "c": { "true": 1000, "d": false }, "e": "0400\n",
        });
        assert_eq!(read, [expected]);
        let problem = values("a.yaml", "a: 1\nb: 0100000000000000000000000000000\n").unwrap_err();
        assert_eq!(problem.line, 2, "{problem}");
        assert!(problem.message.contains("write it quoted"), "{problem}");
    }

    #[test]
    fn what_is_not_changed_is_written_as_it_was() {
        let text = "# first\na: 0400 # comment\nb: yes\nc: null\n--- # second\nd: 1_000\n---\n# nothing\n---\ne: !own [1]";
        let same = kept("a.yaml", &text.replace("!own ", "")).unwrap();
        assert_eq!(
            rewritten(&same),
            "# first\na: 0400 # comment\nb: yes\nc: null\n--- # second\nd: 1_000\n---\ne: [1]\n"
        );
        let mut changed = same.clone();
        changed[1].value["f"] = "off".into();
        assert_eq!(
            rewritten(&changed),
            "# first\na: 0400 # comment\nb: yes\nc: null\n---\nd: 1000\nf: 'off'\n---\ne: [1]\n"
        );
        changed.remove(0);
        let first = rewritten(&changed);
        assert!(first.starts_with("d: 1000\n"), "{first}");
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
