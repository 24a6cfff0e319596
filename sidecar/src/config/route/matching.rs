//! What one entry of `matches` asks of a request, and which of two entries comes first.

use std::cmp::Reverse;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, request::Parts};
use wire::mesh::{self, MatchType};
use wire::path::{Pattern, Segment, normalise};
use wire::regex::{MAX_SUBJECT, Regex};

use super::query::{Names, Query};

/// One entry of `matches`.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) path: Path,
    pub(super) conditions: Conditions,
}

/// What the path must be.
#[derive(Debug)]
pub(super) enum Path {
    Exact(String),
    /// As many segments, and these.
    Whole(Vec<Segment>),
    Regex(Regex),
    /// These segments, and whatever follows; a path that is no path (`*`) follows none.
    Beginning(Vec<Segment>),
}

/// What the rest of the request must be.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    method: Option<Method>,
    headers: Vec<(HeaderName, Value)>,
    /// By the number of the parameter's name.
    query: Vec<(usize, Value)>,
}

/// What a rule that is no route's asks of a request: one of these paths, if there are any, and all of
/// these headers.
#[derive(Debug, Default)]
pub struct Asked {
    paths: Vec<Path>,
    headers: Vec<(HeaderName, Value)>,
}

/// What a header's or a parameter's value must be.
#[derive(Debug)]
enum Value {
    Exact(Box<[u8]>),
    Regex(Regex),
    Present,
}

// === build ===

impl Match {
    /// The one of a rule that has none.
    pub(super) fn everything() -> Self {
        Self {
            path: Path::Beginning(Vec::new()),
            conditions: Conditions::default(),
        }
    }

    /// Builds from what was sent; numbers the parameters that are asked for.
    pub(super) fn build(sent: mesh::Match, names: &mut Names) -> Result<Self, String> {
        let method = match sent.method.as_str() {
            "" => None,
            name => Some(
                Method::from_bytes(name.as_bytes())
                    .map_err(|_| format!("`{name}` is no method"))?,
            ),
        };
        let headers = sent.headers.into_iter().map(|header| {
            let type_ = header.r#type;
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_| format!("`{}` is no header name", header.name))?;
            let value = Value::build(type_, header.value)
                .map_err(|why| format!("the value of header `{name}`: {why}"))?;
            if let Value::Exact(value) = &value {
                HeaderValue::from_bytes(value)
                    .map_err(|_| format!("the value of header `{name}` cannot be sent"))?;
            }
            Ok((name, value))
        });
        let headers = headers.collect::<Result<_, String>>()?;
        let query = sent.query.into_iter().map(|parameter| {
            let value = Value::build(parameter.r#type, parameter.value)
                .map_err(|why| format!("the value of parameter `{}`: {why}", parameter.name))?;
            let number = names.len();
            let number = *names
                .entry(parameter.name.into_bytes().into())
                .or_insert(number);
            Ok((number, value))
        });
        Ok(Self {
            path: Path::build(sent.path)?,
            conditions: Conditions {
                method,
                headers,
                query: query.collect::<Result<_, String>>()?,
            },
        })
    }

    /// Sorts first what takes precedence; [`super`] says in which order.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let Conditions {
            method,
            headers,
            query,
        } = &self.conditions;
        (
            self.path.precedence(),
            method.is_none(),
            Reverse(headers.len()),
            Reverse(query.len()),
        )
    }
}

impl Asked {
    /// Builds from what was sent: matches that have a path each, and headers.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(paths: Vec<mesh::Match>, headers: Vec<mesh::HeaderMatch>) -> Result<Self, String> {
        let paths = paths.into_iter().map(|sent| match sent.path {
            Some(path) => Path::build(Some(path)),
            None => Err("a path is of a kind that this sidecar does not know".to_owned()),
        });
        let headers = mesh::Match {
            headers,
            ..mesh::Match::default()
        };
        Ok(Self {
            paths: paths.collect::<Result<_, _>>()?,
            headers: Match::build(headers, &mut Names::new())?.conditions.headers,
        })
    }
}

impl Path {
    fn build(sent: Option<mesh::r#match::Path>) -> Result<Self, String> {
        use mesh::r#match::Path as Sent;
        // Requests come in the normal form of paths, so what was written is brought into it too.
        let normal = |path: &str| {
            let form = normalise(path.as_bytes());
            form.map(String::from)
                .map_err(|why| format!("the path {path:?}: {why}"))
        };
        Ok(match sent {
            None => Self::Beginning(Vec::new()),
            Some(Sent::Exact(path)) => Self::Exact(normal(&path)?),
            Some(Sent::Prefix(path)) => {
                let path = normal(&path)?;
                let segments = path.trim_end_matches('/').split('/').skip(1);
                Self::Beginning(
                    segments
                        .map(|text| Segment::Literal(text.to_owned()))
                        .collect(),
                )
            }
            Some(Sent::Pattern(path)) => {
                let read = Pattern::parse(&path);
                let pattern = read.map_err(|why| format!("the pattern {path:?}: {why}"))?;
                match pattern.rest {
                    None => Self::Whole(pattern.segments),
                    Some(_) => Self::Beginning(pattern.segments),
                }
            }
            Some(Sent::Regex(path)) => {
                let read = Regex::new(&path);
                Self::Regex(read.map_err(|why| format!("the path {path:?}: {why}"))?)
            }
        })
    }

    /// Bytes of a prefix, without a slash at its end; 0 for what is none.
    pub(super) fn prefix(&self) -> usize {
        let lengths = match self {
            Self::Beginning(segments) => segments.iter().map(|segment| match segment {
                Segment::Literal(text) => Some("/".len() + text.len()),
                Segment::Variable(_) => None,
            }),
            _ => return 0,
        };
        lengths.sum::<Option<usize>>().unwrap_or_default()
    }

    fn precedence(&self) -> impl Ord + use<> {
        let literals = |segments: &[Segment]| {
            let texts = segments.iter().filter_map(|segment| match segment {
                Segment::Literal(text) => Some(text.len()),
                Segment::Variable(_) => None,
            });
            (texts.clone().count(), texts.sum::<usize>())
        };
        let (class, numbers) = match self {
            Self::Exact(_) => (0, [0; 4]),
            Self::Whole(segments) => {
                let (count, length) = literals(segments);
                (1, [count, length, 0, 0])
            }
            Self::Regex(_) => (2, [0; 4]),
            Self::Beginning(segments) => {
                let variable = |segment: &Segment| matches!(segment, Segment::Variable(_));
                let fixed = segments.iter().position(variable).unwrap_or(segments.len());
                // Each with its slash, as the length of a prefix is counted.
                let fixed = literals(&segments[..fixed]).1 + fixed;
                let (count, length) = literals(segments);
                (3, [fixed, count, length, segments.len()])
            }
        };
        (class, numbers.map(Reverse))
    }
}

impl Value {
    fn build(type_: i32, value: String) -> Result<Self, String> {
        match MatchType::try_from(type_) {
            Ok(MatchType::Exact) => Ok(Self::Exact(value.into_bytes().into())),
            Ok(MatchType::Regex) => Regex::new(&value).map(Self::Regex),
            Ok(MatchType::Present) => Ok(Self::Present),
            Err(_) => Err("it is compared in a way that this sidecar does not know".to_owned()),
        }
    }

    pub(super) fn is_regex(&self) -> bool {
        matches!(self, Self::Regex(_))
    }
}

impl Conditions {
    /// How many regular expressions there are.
    pub(super) fn expressions(&self) -> usize {
        let headers = self.headers.iter().map(|(_, value)| value);
        let values = headers.chain(self.query.iter().map(|(_, value)| value));
        values.filter(|value| value.is_regex()).count()
    }
}

// === request ===

impl Conditions {
    /// The method that is asked for.
    pub(super) fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// Whether all hold but the method.
    pub(super) fn hold(&self, head: &Parts, query: &Query<'_>) -> bool {
        let mut headers = self.headers.iter();
        let mut parameters = self.query.iter();
        headers.all(|(name, value)| value.fits_header(&head.headers, name))
            && parameters
                .all(|(name, value)| query.first(*name).is_some_and(|sent| value.fits(sent)))
    }
}

impl Asked {
    /// Whether nothing is asked.
    pub fn is_anything(&self) -> bool {
        self.paths.is_empty() && self.headers.is_empty()
    }

    /// Whether a request, whose path is in its normal form, is as asked.
    pub fn fits(&self, head: &Parts) -> bool {
        let mut headers = self.headers.iter();
        self.fits_path(head) && headers.all(|(name, value)| value.fits_header(&head.headers, name))
    }

    /// The same, where one line of a header is enough: nobody gets past what denies by sending a header
    /// twice.
    pub fn fits_any_line(&self, head: &Parts) -> bool {
        let mut headers = self.headers.iter();
        self.fits_path(head)
            && headers.all(|(name, value)| {
                let mut lines = head.headers.get_all(name).iter();
                let line = lines.any(|line| value.fits(line.as_bytes()));
                line || value.fits_header(&head.headers, name)
            })
    }

    fn fits_path(&self, head: &Parts) -> bool {
        let path = head.uri.path();
        self.paths.is_empty() || self.paths.iter().any(|one| one.fits(path))
    }
}

impl Path {
    /// Whether a path in its normal form fits; what is none (`*`) has no segments, and only fits what
    /// everything does.
    fn fits(&self, path: &str) -> bool {
        let segments = || path.strip_prefix('/').map(|path| path.split('/'));
        let fit = |literals: &[Segment], more: bool| {
            let Some(mut sent) = segments() else {
                return literals.is_empty() && more;
            };
            let mut fits = literals.iter().map(|segment| match (segment, sent.next()) {
                (Segment::Literal(text), Some(sent)) => text == sent,
                (Segment::Variable(_), Some(sent)) => !sent.is_empty(),
                (_, None) => false,
            });
            fits.all(|fits| fits) && (more || sent.next().is_none())
        };
        match self {
            Self::Exact(exact) => exact == path,
            Self::Whole(literals) => fit(literals, false),
            Self::Regex(regex) => regex.fits(path.as_bytes()),
            Self::Beginning(literals) => fit(literals, true),
        }
    }
}

impl Value {
    fn fits(&self, sent: &[u8]) -> bool {
        match self {
            Self::Exact(value) => **value == *sent,
            Self::Regex(regex) => regex.fits(sent),
            Self::Present => true,
        }
    }

    /// Several lines of a header count as one, joined with "," (RFC 9110 section 5.3).
    fn fits_header(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let Some(first) = lines.next() else {
            return false;
        };
        let Some(second) = lines.next() else {
            return self.fits(first);
        };
        let lines = [first, second].into_iter().chain(lines);
        match self {
            Self::Exact(value) => is_joined(value, lines),
            Self::Regex(regex) => joined(lines).is_some_and(|value| regex.fits(&value)),
            Self::Present => true,
        }
    }
}

/// Whether `value` is these lines, joined.
fn is_joined<'a>(value: &[u8], lines: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut rest = value;
    for (place, line) in lines.enumerate() {
        let comma: &[u8] = if place > 0 { b"," } else { b"" };
        let after = rest
            .strip_prefix(comma)
            .and_then(|rest| rest.strip_prefix(line));
        match after {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// These lines, joined; `None` when that is longer than what an expression fits.
fn joined<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut value = Vec::new();
    for (place, line) in lines.enumerate() {
        if place > 0 {
            value.push(b',');
        }
        if value.len() + line.len() > MAX_SUBJECT {
            return None;
        }
        value.extend_from_slice(line);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(type_: MatchType, value: &str, lines: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x", HeaderValue::from_static(line));
        }
        let value = Value::build(type_.into(), value.to_owned()).unwrap();
        value.fits_header(&headers, &HeaderName::from_static("x"))
    }

    #[test]
    fn several_lines_of_a_header_are_compared_joined() {
        for type_ in [MatchType::Exact, MatchType::Regex] {
            assert!(!fits(type_, "a,b", &[]));
            assert!(!fits(type_, "a,b", &["a"]));
            assert!(fits(type_, "a,b", &["a,b"]));
            assert!(fits(type_, "a,b", &["a", "b"]));
            assert!(!fits(type_, "a,b", &["b", "a"]));
            assert!(!fits(type_, "a,b", &["a", "b", "c"]));
        }
        assert!(fits(MatchType::Regex, "[ab](,[ab])*", &["a", "b", "a"]));
        let long = "a".repeat(MAX_SUBJECT / 2).leak();
        assert!(!fits(MatchType::Regex, "[a,]*", &[long, long]));
    }

    #[test]
    fn a_header_that_must_be_there_may_have_any_value() {
        assert!(fits(MatchType::Present, "", &[""]));
        assert!(fits(MatchType::Present, "", &["a", "b"]));
        assert!(!fits(MatchType::Present, "", &[]));
    }
}
