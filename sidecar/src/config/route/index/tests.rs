//! The index beside what defines it: all entries in order of precedence, tried one after another.

use std::cell::RefCell;
use std::cmp::Reverse;

use http::Request;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use wire::mesh::{self, MatchType, r#match::Path as Sent};
use wire::regex::Regex;

use super::super::Route;
use super::super::query::parameters;
use super::*;

/// The rule of the first entry that fits, as the description of `spec.rules` has it.
fn scan(route: &mesh::Route, head: &Parts) -> Option<usize> {
    let everything = [mesh::Match::default()];
    let mut entries = Vec::new();
    for (place, rule) in route.rules.iter().enumerate() {
        let matches = match rule.matches.is_empty() {
            true => &everything[..],
            false => &rule.matches[..],
        };
        entries.extend(matches.iter().map(|entry| (rank(entry), entry, place)));
    }
    entries.sort_by_key(|(rank, _, _)| *rank);
    let mut fitting = entries.iter().filter(|(_, entry, _)| fits(entry, head));
    fitting.next().map(|(_, _, place)| *place)
}

/// Compiled once: there are few.
fn regex(text: &str) -> Regex {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let new = || Regex::new(text).unwrap();
        compiled.entry(text.to_owned()).or_insert_with(new).clone()
    })
}

type Rank = (u8, [Reverse<usize>; 4], bool, [Reverse<usize>; 2]);

fn rank(entry: &mesh::Match) -> Rank {
    let numbers = |pattern: &str| {
        let segments = pattern
            .split('/')
            .skip(1)
            .filter(|one| !one.ends_with("...}"));
        let literals = segments.clone().filter(|one| !one.starts_with('{'));
        let beginning = pattern.split('{').next().unwrap_or_default();
        let beginning = match pattern.contains('{') {
            true => beginning.trim_end_matches('/'),
            false => beginning,
        };
        [
            beginning.len(),
            literals.clone().count(),
            literals.map(str::len).sum(),
            segments.count(),
        ]
    };
    let (kind, numbers) = match &entry.path {
        Some(Sent::Exact(_)) => (0, [0; 4]),
        Some(Sent::Pattern(text)) if text.ends_with("...}") => (3, numbers(text)),
        Some(Sent::Pattern(text)) => {
            let [_, count, length, _] = numbers(text);
            (1, [count, length, 0, 0])
        }
        Some(Sent::Regex(_)) => (2, [0; 4]),
        Some(Sent::Prefix(text)) => (3, numbers(text.trim_end_matches('/'))),
        None => (3, [0; 4]),
    };
    let more = [entry.headers.len(), entry.query.len()];
    (
        kind,
        numbers.map(Reverse),
        entry.method.is_empty(),
        more.map(Reverse),
    )
}

fn fits(entry: &mesh::Match, head: &Parts) -> bool {
    let path = head.uri.path();
    let by_path = match &entry.path {
        None => true,
        Some(Sent::Exact(exact)) => path == exact,
        Some(Sent::Prefix(prefix)) => {
            let prefix = prefix.trim_end_matches('/');
            prefix.is_empty() || path == prefix || path.starts_with(&format!("{prefix}/"))
        }
        Some(Sent::Regex(expression)) => regex(expression).fits(path.as_bytes()),
        Some(Sent::Pattern(pattern)) => {
            let segments = pattern.split('/').skip(1).map(|segment| {
                let is_variable = segment.starts_with('{');
                match is_variable && segment.ends_with("...}") {
                    true => "(/.*)?".to_owned(),
                    false if is_variable => "/[^/]+".to_owned(),
                    false => format!("/{segment}"),
                }
            });
            // What is no path, `*`, has nothing before its rest.
            let expression: String = segments.collect();
            regex(&expression).fits(path.as_bytes()) || expression == "(/.*)?"
        }
    };
    let lines = |name: &str| {
        let lines = head.headers.get_all(name).iter();
        let lines: Vec<&[u8]> = lines.map(|line| line.as_bytes()).collect();
        (!lines.is_empty()).then(|| lines.join(&b','))
    };
    let parameter = |name: &str| {
        let mut sent = parameters(head.uri.query().unwrap_or_default().as_bytes());
        sent.find(|(sent, _)| **sent == *name.as_bytes())
            .map(|(_, value)| value.into_owned())
    };
    let value = |sent: Option<Vec<u8>>, type_: MatchType, value: &str| {
        sent.is_some_and(|sent| match type_ {
            MatchType::Exact => sent == value.as_bytes(),
            MatchType::Regex => regex(value).fits(&sent),
            MatchType::Present => true,
        })
    };
    by_path
        && (entry.method.is_empty() || entry.method == head.method.as_str())
        && entry
            .headers
            .iter()
            .all(|header| value(lines(&header.name), header.r#type(), &header.value))
        && entry
            .query
            .iter()
            .all(|one| value(parameter(&one.name), one.r#type(), &one.value))
}

// === worlds: few names, so that entries meet often ===

const SEGMENTS: [&str; 4] = ["a", "b", "ab", ""];

fn path(longest: usize) -> impl Strategy<Value = String> {
    vec(select(&SEGMENTS[..]), 1..longest).prop_map(|segments| {
        // An empty segment can only be the last.
        let (last, others) = segments.split_last().unwrap();
        let others = others.iter().filter(|segment| !segment.is_empty());
        let texts: Vec<&str> = others.chain([last]).copied().collect();
        format!("/{}", texts.join("/"))
    })
}

fn pattern() -> impl Strategy<Value = String> {
    let named = (
        path(5),
        any::<u8>(),
        option::weighted(0.4, Just("{rest...}")),
    );
    named.prop_map(|(path, variables, rest)| {
        let segments = path.split('/').skip(1).enumerate().map(|(place, segment)| {
            match segment.is_empty() || variables >> place & 1 == 0 {
                true => segment.to_owned(),
                false => format!("{{v{place}}}"),
            }
        });
        let segments = segments.filter(|segment| rest.is_none() || !segment.is_empty());
        let segments: Vec<String> = segments.chain(rest.map(str::to_owned)).collect();
        format!("/{}", segments.join("/"))
    })
}

fn compared() -> impl Strategy<Value = (String, i32)> {
    select(vec![
        ("a", MatchType::Exact),
        ("a,b", MatchType::Exact),
        ("[ab]", MatchType::Regex),
        ("", MatchType::Present),
    ])
    .prop_map(|(value, type_)| (value.to_owned(), type_.into()))
}

fn entry() -> impl Strategy<Value = mesh::Match> {
    let path = prop_oneof![
        2 => Just(None),
        3 => path(5).prop_map(|path| Some(Sent::Exact(path))),
        4 => path(5).prop_map(|path| Some(Sent::Prefix(path))),
        5 => pattern().prop_map(|path| Some(Sent::Pattern(path))),
        2 => select(vec!["/a.*", "/[ab]+", ".*", "(/a)+/?", "/b/.*"])
            .prop_map(|regex| Some(Sent::Regex(regex.to_owned()))),
    ];
    let header = (select(vec!["x", "y"]), compared());
    let parameter = (select(vec!["p", "q"]), compared());
    let method = prop_oneof![3 => Just(""), 1 => Just("GET"), 1 => Just("POST")];
    (path, method, vec(header, 0..2), vec(parameter, 0..2)).prop_map(
        |(path, method, headers, query)| mesh::Match {
            path,
            method: method.to_owned(),
            headers: headers
                .into_iter()
                .map(|(name, (value, r#type))| {
                    let name = name.to_owned();
                    mesh::HeaderMatch {
                        name,
                        value,
                        r#type,
                    }
                })
                .collect(),
            query: query
                .into_iter()
                .map(|(name, (value, r#type))| {
                    let name = name.to_owned();
                    mesh::QueryMatch {
                        name,
                        value,
                        r#type,
                    }
                })
                .collect(),
        },
    )
}

fn route() -> impl Strategy<Value = mesh::Route> {
    vec(vec(entry(), 0..4), 0..10).prop_map(|rules| mesh::Route {
        rules: rules
            .into_iter()
            .map(|matches| mesh::Rule {
                matches,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    })
}

fn request() -> impl Strategy<Value = Parts> {
    let target = prop_oneof![20 => path(7), 1 => Just("*".to_owned())];
    let value = || select(vec!["a", "b", "c"]);
    let query = vec((select(vec!["p", "q", "%70"]), value()), 0..3);
    let headers = vec((select(vec!["x", "y"]), value()), 0..3);
    (target, select(vec!["GET", "POST"]), headers, query).prop_map(
        |(mut target, method, headers, query)| {
            if target != "*" {
                for (place, (name, value)) in query.into_iter().enumerate() {
                    let separator = if place == 0 { '?' } else { '&' };
                    target += &format!("{separator}{name}={value}");
                }
            }
            let mut request = Request::builder().method(method).uri(target);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.body(()).unwrap().into_parts().0
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_finds_what_trying_one_entry_after_another_finds(
        sent in route(),
        requests in vec(request(), 1..20),
    ) {
        let route = Route::build(sent.clone(), None).unwrap();
        for head in requests {
            prop_assert_eq!(route.find(&head).map(|found| found.rule), scan(&sent, &head), "{:?}", head);
        }
    }
}

#[test]
fn a_route_has_as_many_regular_expressions_as_the_compiler_accepts() {
    let entry = |n: usize| mesh::Match {
        path: Some(Sent::Regex(format!("/{n}"))),
        ..Default::default()
    };
    let build = |paths: usize| {
        Route::build(
            mesh::Route {
                rules: vec![mesh::Rule {
                    matches: (0..paths).map(entry).collect(),
                    ..Default::default()
                }],
                ..Default::default()
            },
            None,
        )
    };
    assert!(build(wire::regex::MAX_IN_ROUTE).is_ok());
    let error = build(wire::regex::MAX_IN_ROUTE + 1).unwrap_err();
    assert_eq!(error, wire::regex::too_many(wire::regex::MAX_IN_ROUTE + 1));
}
