//! Header edits: what a rule removes from headers, sets in them and adds to them.
//!
//! Phase: requests before they are sent, responses of upstreams before they are passed on, in the
//! caller's sidecar. From `ApiRoute.rules[].requestHeaders` and `responseHeaders`. It never says
//! no; what frames a message or says who calls is not edited, which is refused when built.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use wire::mesh;

use crate::proxy::headers;

/// Edits, in the order in which they are done.
#[derive(Debug)]
pub struct HeaderEdits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

// === build ===

impl HeaderEdits {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be edited.
    pub fn build(sent: mesh::HeaderEdits) -> Result<Self, String> {
        let all = |headers: Vec<mesh::Header>| -> Result<Vec<_>, String> {
            let headers = headers.into_iter().map(|header| {
                let name = editable(&header.name)?;
                Ok((name, value(&header.name, &header.value)?))
            });
            headers.collect()
        };
        let remove = sent.remove.iter().map(|name| editable(name));
        Ok(Self {
            remove: remove.collect::<Result<_, _>>()?,
            set: all(sent.set)?,
            add: all(sent.add)?,
        })
    }
}

fn editable(name: &str) -> Result<HeaderName, String> {
    let parsed = HeaderName::from_bytes(name.as_bytes());
    let parsed = parsed.map_err(|_| format!("`{name}` is no header name"))?;
    match headers::is_of_the_mesh(&parsed) {
        true => Err(format!("header `{parsed}` cannot be edited")),
        false => Ok(parsed),
    }
}

fn value(name: &str, value: &str) -> Result<HeaderValue, String> {
    let sendable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let value = HeaderValue::from_str(value).ok().filter(|_| sendable);
    value.ok_or_else(|| format!("the value of header `{name}` cannot be sent"))
}

// === request ===

impl HeaderEdits {
    /// Edits.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Vec<mesh::Header> {
        let header = |(name, value): &(&str, &str)| mesh::Header {
            name: (*name).into(),
            value: (*value).into(),
        };
        lines.iter().map(header).collect()
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let edits = HeaderEdits::build(mesh::HeaderEdits {
            remove: vec!["gone".into(), "renewed".into()],
            set: headers(&[("renewed", "set"), ("replaced", "new")]),
            add: headers(&[("renewed", "added"), ("kept", "second")]),
        })
        .unwrap();
        let mut edited = HeaderMap::new();
        for (name, value) in [
            ("gone", "1"),
            ("gone", "2"),
            ("renewed", "old"),
            ("replaced", "old"),
            ("replaced", "older"),
            ("kept", "first"),
        ] {
            edited.append(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut edited);
        let lines = |name: &str| {
            let lines = edited.get_all(name).iter();
            Vec::from_iter(lines.map(|value| value.to_str().unwrap().to_owned()))
        };
        assert!(lines("gone").is_empty());
        assert_eq!(lines("renewed"), ["set", "added"]);
        assert_eq!(lines("replaced"), ["new"]);
        assert_eq!(lines("kept"), ["first", "second"]);
    }

    #[test]
    fn what_frames_a_message_or_says_who_calls_cannot_be_edited() {
        for name in [
            "connection",
            "content-length",
            "transfer-encoding",
            "te",
            "host",
            "meshwright-reason",
            ":path",
            "no name",
        ] {
            for edits in [
                mesh::HeaderEdits {
                    remove: vec![name.into()],
                    ..Default::default()
                },
                mesh::HeaderEdits {
                    set: headers(&[(name, "1")]),
                    ..Default::default()
                },
                mesh::HeaderEdits {
                    add: headers(&[(name, "1")]),
                    ..Default::default()
                },
            ] {
                let error = HeaderEdits::build(edits).unwrap_err();
                assert!(error.contains(&format!("`{name}`")), "{error}");
            }
        }
    }

    #[test]
    fn a_value_that_would_end_its_line_is_refused() {
        for value in ["a\r\nx-evil: 1", "a\nb", "a\0", "ü", "a\tb"] {
            let edits = mesh::HeaderEdits {
                set: headers(&[("x", value)]),
                ..Default::default()
            };
            let error = HeaderEdits::build(edits).unwrap_err();
            assert_eq!(error, "the value of header `x` cannot be sent");
        }
    }
}
