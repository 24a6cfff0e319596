//! Which line of a document a field stands on, and which of its words are ambiguous.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::ambiguous::Ambiguous;
use super::{Document, child, split};

/// The lines of a document's fields by path, such as `spec.rules[0].name`.
#[derive(Debug, Default)]
pub(super) struct Lines {
    by_path: HashMap<String, usize>,
    ambiguous: Vec<(String, Ambiguous)>,
}

/// Deeper than any object goes; the value parser refuses what is deeper still.
const MAX_DEPTH: usize = 128;

/// The line of a field of a document, such as `spec.rules[0].name`, or of the nearest one around it that
/// is there, in the text of the document's file.
pub fn line_of(text: &str, document: &Document, field: &str) -> usize {
    let documents = split(text);
    // The last one that begins before the document's first field.
    let own = documents
        .iter()
        .rev()
        .find(|(before, _)| *before < document.line);
    own.map_or(document.line, |(before, text)| {
        before + Lines::of(text).line(field)
    })
}

type Events<'a> = Parser<'a, saphyr_parser::StrInput<'a>>;

// === impl Lines ===

impl Lines {
    /// Reads a document; of one that isn't valid YAML, as far as it is.
    pub(super) fn of(text: &str) -> Self {
        let mut lines = Lines::default();
        let mut events = Parser::new_from_str(text);
        while let Some((event, span)) = next(&mut events) {
            match event {
                Event::StreamStart | Event::DocumentStart(_) => {}
                _ => {
                    lines.by_path.insert(String::new(), span.start.line());
                    lines.value(&mut events, (event, span), "", 0);
                    break;
                }
            }
        }
        lines
    }

    /// The line of a field from 1, or that of the nearest one around it that is there.
    pub(super) fn line(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            match self.by_path.get(path) {
                Some(line) => return *line,
                None if path.is_empty() => return 1,
                None => path = &path[..path.rfind(['.', '[']).unwrap_or(0)],
            }
        }
    }

    /// Words that are text here and something else in a cluster, names of fields and values alike,
    /// with their paths.
    pub(super) fn ambiguous(&self) -> &[(String, Ambiguous)] {
        &self.ambiguous
    }

    fn word(&mut self, event: &Event<'_>, path: &str) {
        if let Event::Scalar(word, ScalarStyle::Plain, _, None) = event
            && let Some(ambiguous) = Ambiguous::of(word)
        {
            self.ambiguous.push((path.to_owned(), ambiguous));
        }
    }

    /// Takes the events of one value, of which the first is given. `None` at the end of what is
    /// valid.
    fn value(
        &mut self,
        events: &mut Events<'_>,
        first: (Event<'_>, Span),
        path: &str,
        depth: usize,
    ) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match first.0 {
            Event::MappingStart(..) => loop {
                let key = next(events)?;
                let name = match &key {
                    (Event::MappingEnd, _) => return Some(()),
                    (Event::Scalar(name, ..), _) => name.to_string(),
                    _ => {
                        // A key that is no text: its value is looked at, and found by no path.
                        self.value(events, key, "\0", depth + 1)?;
                        let value = next(events)?;
                        self.value(events, value, "\0", depth + 1)?;
                        continue;
                    }
                };
                let path = child(path, &name);
                self.word(&key.0, &path);
                self.by_path.insert(path.clone(), key.1.start.line());
                let value = next(events)?;
                self.value(events, value, &path, depth + 1)?;
            },
            Event::SequenceStart(..) => {
                for index in 0.. {
                    let item = next(events)?;
                    if item.0 == Event::SequenceEnd {
                        break;
                    }
                    let path: Cow<'_, str> = format!("{path}[{index}]").into();
                    self.by_path
                        .insert(path.clone().into_owned(), item.1.start.line());
                    self.value(events, item, &path, depth + 1)?;
                }
                Some(())
            }
            event => {
                self.word(&event, path);
                Some(())
            }
        }
    }
}

fn next<'a>(events: &mut Events<'a>) -> Option<(Event<'a>, Span)> {
    events.next_event()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: ApiRoute
spec:
  hosts: [orders,
    payments]
  rules:
  - name: all

    backendRefs:
      - {name: a, port: 80}
      -
        name: b
  note: |
    kind: no
";

    #[test]
    fn a_field_is_found_on_the_line_of_its_name() {
        let lines = Lines::of(TEXT);
        for (path, line) in [
            ("", 2),
            ("kind", 2),
            ("spec", 3),
            ("spec.hosts[1]", 5),
            ("spec.rules", 6),
            ("spec.rules[0]", 7),
            ("spec.rules[0].backendRefs", 9),
            ("spec.rules[0].backendRefs[0].port", 10),
            ("spec.rules[0].backendRefs[1].name", 12),
            ("spec.note", 13),
        ] {
            assert_eq!(lines.line(path), line, "{path}");
        }
    }

    #[test]
    fn a_field_that_is_not_there_is_found_where_it_would_be() {
        let lines = Lines::of(TEXT);
        assert_eq!(lines.line("spec.rules[0].backendRefs[1].port"), 12);
        assert_eq!(lines.line("spec.timeouts.request"), 3);
        assert_eq!(lines.line("metadata.name"), 2);
    }

    #[test]
    fn of_a_broken_document_what_comes_before_is_known() {
        let lines = Lines::of("kind: A\nspec:\n  a: 1\n b: [\n");
        assert_eq!(lines.line("spec.a"), 3);
    }
}
