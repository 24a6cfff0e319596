//! Patterns of paths: `/customers/{id}/orders`, `/files/{path...}`.

use std::collections::BTreeSet;

use super::{Malformed, normalise};

/// A pattern is no longer than this, in bytes.
pub const MAX_PATTERN: usize = 1024;
/// A name in a pattern is no longer than this, in bytes.
pub const MAX_NAME: usize = 64;

const DOTS: &str = "a pattern has no segment . or ..";

/// What whole paths are compared with, segment by segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The segments that a path must have, in this order; the last is empty after a trailing slash.
    pub segments: Vec<Segment>,
    /// The name of `{name...}` at the end: whatever follows, nothing included.
    pub rest: Option<String>,
}

/// One segment of a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text, in the normal form of paths.
    Literal(String),
    /// `{name}`: any text but none.
    Variable(String),
}

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern as a person writes it.
    ///
    /// # Errors
    /// A clause that says what is wrong.
    pub fn parse(written: &str) -> Result<Self, String> {
        if written.len() > MAX_PATTERN {
            return Err(format!("a pattern has at most {MAX_PATTERN} characters"));
        }
        let Some(path) = written.strip_prefix('/') else {
            return Err("a pattern begins with /".to_owned());
        };
        let mut pattern = Pattern {
            segments: Vec::new(),
            rest: None,
        };
        let mut names = BTreeSet::new();
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            if !segment.contains(['{', '}']) {
                pattern.segments.push(literal(segment, last)?);
                continue;
            }
            let variable = variable(segment)?;
            let (name, is_rest) = match variable.strip_suffix("...") {
                Some(name) => (name, true),
                None => (variable, false),
            };
            check_name(name)?;
            if !names.insert(name) {
                return Err(format!("{{{name}}} is there twice"));
            }
            match (is_rest, last) {
                (false, _) => pattern.segments.push(Segment::Variable(name.to_owned())),
                (true, true) => pattern.rest = Some(name.to_owned()),
                (true, false) => {
                    return Err(format!("{{{name}...}} can only be the last segment"));
                }
            }
        }
        Ok(pattern)
    }
}

fn literal(segment: &str, last: bool) -> Result<Segment, String> {
    if segment.is_empty() && !last {
        return Err("a pattern has no //".to_owned());
    }
    match normalise(format!("/{segment}").as_bytes()) {
        // A dot segment leads elsewhere.
        Ok(form) if form.len() == 1 && !segment.is_empty() => Err(DOTS.to_owned()),
        Err(Malformed::AboveRoot) => Err(DOTS.to_owned()),
        Ok(form) => Ok(Segment::Literal(form[1..].to_owned())),
        Err(why) => Err(why.to_string()),
    }
}

/// What stands between the braces that a segment consists of.
fn variable(segment: &str) -> Result<&str, String> {
    let within = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
    within.filter(|name| !name.contains(['{', '}'])).ok_or_else(|| {
        format!("{segment:?} is neither a text nor one {{name}}: percent-encode braces that are data")
    })
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = |(place, byte): (usize, u8)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (place > 0 && byte.is_ascii_digit())
    };
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && name.bytes().enumerate().all(fits);
    match is_name {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is no name: write 1 to {MAX_NAME} letters, digits and _ that begin with no digit"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(written: &str) -> String {
        let pattern = Pattern::parse(written).unwrap();
        let segments = pattern.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => format!("={text}"),
            Segment::Variable(name) => format!("?{name}"),
        });
        let mut shown: Vec<String> = segments.collect();
        shown.extend(pattern.rest.map(|name| format!("*{name}")));
        shown.join(" ")
    }

    #[test]
    fn a_pattern_is_literals_variables_and_perhaps_a_rest() {
        for (written, expected) in [
            ("/", "="),
            ("/customers/{id}/orders", "=customers ?id =orders"),
            ("/customers/{id}/", "=customers ?id ="),
            ("/{_a}/{b2}", "?_a ?b2"),
            ("/files/{path...}", "=files *path"),
            ("/{rest...}", "*rest"),
            ("/%61%2fb/%7e", "=a%2Fb =~"),
        ] {
            assert_eq!(shown(written), expected, "{written}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_wrong() {
        for (written, clause) in [
            ("", "begins with /"),
            ("customers", "begins with /"),
            ("/a//b", "no //"),
            ("/a/../b", "no segment . or .."),
            ("/a/%2e", "no segment . or .."),
            ("/a\\b", "backslash"),
            ("/a%00", "control character"),
            ("/a?b", "a ? or a #"),
            ("/{id}s", "neither a text nor one {name}"),
            ("/{a}{b}", "neither a text nor one {name}"),
            ("/{a", "neither a text nor one {name}"),
            ("/{}", "\"\" is no name"),
            ("/{...}", "\"\" is no name"),
            ("/{1a}", "\"1a\" is no name"),
            ("/{a-b}", "\"a-b\" is no name"),
            ("/{*rest}", "\"*rest\" is no name"),
            ("/{a}/{a}", "{a} is there twice"),
            ("/{a}/{a...}", "{a} is there twice"),
            ("/{rest...}/a", "only be the last segment"),
        ] {
            let error = Pattern::parse(written).unwrap_err();
            assert!(error.contains(clause), "{written}: {error}");
        }
        assert!(Pattern::parse(&"/a".repeat(MAX_PATTERN)).is_err());
        assert!(Pattern::parse(&format!("/{{{}}}", "a".repeat(MAX_NAME + 1))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(/|[{]|[}]|[.]{1,3}|[a-z0-9%_-]|\\PC){0,20}") {
            let _ = Pattern::parse(&text);
        }
    }
}
