//! `matches`: to what requests are compared with, and what can't be compared.
//!
//! Paths, patterns and regular expressions are read here exactly as sidecars read them, so that none
//! of them rejects what was accepted.

use crds::status::Reason;
use crds::{ApiRouteSpec, HeaderMatch, Match, PathMatch, PathType, QueryMatch, ValueType};
use wire::capability;
use wire::mesh::{self, MatchType};
use wire::path::{Pattern, normalise};
use wire::regex::{self, Regex};

use super::Refusal;

/// What no sidecar could match, each with its place.
pub(super) fn problems(spec: &ApiRouteSpec) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mut of_paths = Vec::new();
    let mut count = 0;
    for (rule, written) in spec.rules.iter().enumerate() {
        for (place, written) in written.matches.iter().enumerate() {
            let place = format!("spec.rules[{rule}].matches[{place}]");
            if let Some(path) = &written.path {
                count += usize::from(path.type_ == PathType::Regex);
                match read_path(path) {
                    Ok(expression) => of_paths.extend(expression),
                    Err(clause) => found.push(problem(&format!("{place}.path.value"), &clause)),
                }
            }
            for (field, expression) in expressions(written) {
                count += 1;
                if let Err(clause) = Regex::new(expression) {
                    found.push(problem(&format!("{place}.{field}.value"), &clause));
                }
            }
        }
    }
    if count > regex::MAX_IN_ROUTE {
        found.push(problem("spec.rules", &regex::too_many(count)));
    } else if let Err(clause) = regex::Set::new(&of_paths) {
        let clause = format!("the regular expressions of paths together: {clause}");
        found.push(problem("spec.rules", &clause));
    }
    found
}

fn problem(place: &str, clause: &str) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message: format!("{place}: {clause}."),
    }
}

/// The regular expressions of headers and parameters, each with its field.
fn expressions(written: &Match) -> impl Iterator<Item = (String, &str)> {
    let headers = written.headers.iter().enumerate().map(|(at, header)| {
        (
            format!("headers[{at}]"),
            header.type_,
            header.value.as_deref(),
        )
    });
    let query = written.query.iter().enumerate().map(|(at, parameter)| {
        (
            format!("query[{at}]"),
            parameter.type_,
            parameter.value.as_deref(),
        )
    });
    let expressions = headers.chain(query);
    let expressions = expressions.filter(|(_, type_, _)| *type_ == ValueType::Regex);
    expressions.map(|(field, _, value)| (field, value.unwrap_or_default()))
}

/// Reads a path as a sidecar does; answers its regular expression, if it is one.
pub(crate) fn read_path(PathMatch { type_, value }: &PathMatch) -> Result<Option<Regex>, String> {
    match type_ {
        PathType::Exact | PathType::Prefix => match normalise(value.as_bytes()) {
            Ok(_) => Ok(None),
            Err(why) => Err(why.to_string()),
        },
        PathType::Pattern => Pattern::parse(value).map(|_| None),
        PathType::Regex => Regex::new(value).map(Some),
    }
}

/// A match that has a path and nothing else.
pub(crate) fn matches_path(path: &PathMatch) -> mesh::Match {
    request_match(&Match {
        path: Some(path.clone()),
        ..Match::default()
    })
}

pub(crate) fn request_match(written: &Match) -> mesh::Match {
    use mesh::r#match::Path;
    mesh::Match {
        // As written: sidecars bring it into the normal form of paths, as they do with requests'.
        path: written.path.as_ref().map(|path| match path.type_ {
            PathType::Exact => Path::Exact(path.value.clone()),
            PathType::Prefix => Path::Prefix(match path.value.trim_end_matches('/') {
                "" => "/".to_owned(),
                segments => segments.to_owned(),
            }),
            PathType::Pattern => Path::Pattern(path.value.clone()),
            PathType::Regex => Path::Regex(path.value.clone()),
        }),
        method: written
            .method
            .map(|method| method.as_str().to_owned())
            .unwrap_or_default(),
        headers: written.headers.iter().map(header_match).collect(),
        query: written.query.iter().map(query_match).collect(),
    }
}

pub(crate) fn header_match(written: &HeaderMatch) -> mesh::HeaderMatch {
    mesh::HeaderMatch {
        name: written.name.to_ascii_lowercase(),
        value: written.value.clone().unwrap_or_default(),
        r#type: match_type(written.type_).into(),
    }
}

fn query_match(written: &QueryMatch) -> mesh::QueryMatch {
    mesh::QueryMatch {
        name: written.name.clone(),
        value: written.value.clone().unwrap_or_default(),
        r#type: match_type(written.type_).into(),
    }
}

fn match_type(type_: ValueType) -> MatchType {
    match type_ {
        ValueType::Exact => MatchType::Exact,
        ValueType::Regex => MatchType::Regex,
        ValueType::Present => MatchType::Present,
    }
}

/// What a sidecar must be able to do to enforce these rules.
pub(crate) fn capabilities(rules: &[mesh::Rule]) -> Vec<&'static str> {
    let matches = rules.iter().flat_map(|rule| &rule.matches);
    let matching = match_capabilities(matches);
    std::iter::once(capability::ROUTE).chain(matching).collect()
}

/// What a sidecar must be able to do to tell which requests these are.
pub(crate) fn match_capabilities<'m>(
    matches: impl Iterator<Item = &'m mesh::Match> + Clone,
) -> Vec<&'static str> {
    use mesh::r#match::Path;
    type Needs = fn(&mesh::Match) -> bool;
    const NEEDS: [(&str, Needs); 5] = [
        (capability::MATCH_HEADER, |sent| !sent.headers.is_empty()),
        (capability::MATCH_HEADER_TYPE, |sent| {
            let mut headers = sent.headers.iter();
            headers.any(|header| header.r#type() != MatchType::Exact)
        }),
        (capability::MATCH_PATTERN, |sent| {
            matches!(sent.path, Some(Path::Pattern(_)))
        }),
        (capability::MATCH_REGEX, |sent| {
            matches!(sent.path, Some(Path::Regex(_)))
        }),
        (capability::MATCH_QUERY, |sent| !sent.query.is_empty()),
    ];
    let needed = NEEDS
        .into_iter()
        .filter(|(_, needs)| matches.clone().any(needs));
    needed.map(|(capability, _)| capability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_path(type_: PathType, value: &str) -> Match {
        let value = value.to_owned();
        Match {
            path: Some(PathMatch { type_, value }),
            ..Match::default()
        }
    }

    fn spec(matches: Vec<Match>) -> ApiRouteSpec {
        ApiRouteSpec {
            rules: vec![crds::RouteRule {
                matches,
                ..crds::RouteRule::default()
            }],
            ..ApiRouteSpec::default()
        }
    }

    #[test]
    fn a_path_is_compiled_as_written_but_for_the_end_of_a_prefix() {
        use mesh::r#match::Path;
        let compiled = |type_, value: &str| request_match(&with_path(type_, value)).path.unwrap();
        for (written, prefix) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b"),
            ("/%61%2d%7E", "/%61%2d%7E"),
            ("/caf%c3%a9/%2F", "/caf%c3%a9/%2F"),
        ] {
            let exact = Path::Exact(written.to_owned());
            assert_eq!(compiled(PathType::Exact, written), exact);
            let prefix = Path::Prefix(prefix.to_owned());
            assert_eq!(compiled(PathType::Prefix, written), prefix);
            let pattern = Path::Pattern(written.to_owned());
            assert_eq!(compiled(PathType::Pattern, written), pattern);
        }
    }

    #[test]
    fn an_object_has_as_many_regular_expressions_as_every_sidecar_can_hold() {
        let header = |n: usize| HeaderMatch {
            name: format!("x-{n}"),
            type_: ValueType::Regex,
            value: Some("a+".to_owned()),
        };
        let matches = |paths: usize, headers: usize| {
            let path = (0..paths).map(|n| with_path(PathType::Regex, &format!("/{n}")));
            let header = (0..headers).map(|n| Match {
                headers: vec![header(n)],
                ..Match::default()
            });
            path.chain(header).collect::<Vec<_>>()
        };
        let at_most = regex::MAX_IN_ROUTE;
        assert_eq!(problems(&spec(matches(at_most - 8, 8))), []);
        let refusals = problems(&spec(matches(at_most - 8, 9)));
        assert_eq!(refusals.len(), 1);
        assert_eq!(
            refusals[0].message,
            "spec.rules: there are 65 regular expressions; one route has at most 64."
        );
    }
}
