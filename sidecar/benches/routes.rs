//! How long it takes to find the rule of a request: `cargo bench -p sidecar --bench routes`. A plain
//! program, whose numbers are comparable on one machine only. What matters is that a line does not
//! grow from left to right.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use http::Request;
use http::request::Parts;
use sidecar::config::route::Route;
use sidecar::proxy::path::normalise;
use wire::mesh::{self, r#match::Path};
use wire::regex::MAX_IN_ROUTE;

/// Rules of one route, each with one match. A schema allows fewer in one object.
const RULES: [usize; 4] = [1, 100, 1_000, 10_000];

/// Different requests, spread over the rules. Were there as many as rules, the last column would tell
/// how long main memory takes.
const REQUESTS: usize = 1_000;

/// How a rule and a request for it are written.
type Kind = (&'static str, fn(usize) -> Path, fn(usize) -> String);

const KINDS: [Kind; 5] = [
    (
        "exact paths",
        |n| Path::Exact(format!("/api/v1/resource-{n}/list")),
        |n| format!("/api/v1/resource-{n}/list"),
    ),
    (
        "prefixes",
        |n| Path::Prefix(format!("/api/v1/resource-{n}")),
        |n| format!("/api/v1/resource-{n}/items/42"),
    ),
    (
        "patterns, the name behind",
        |n| Path::Pattern(format!("/api/v1/resource-{n}/{{id}}/list")),
        |n| format!("/api/v1/resource-{n}/42/list"),
    ),
    (
        "patterns, the name before",
        |n| Path::Pattern(format!("/api/{{version}}/resource-{n}/list")),
        |n| format!("/api/v1/resource-{n}/list"),
    ),
    (
        "prefixes, no rule fits",
        |n| Path::Prefix(format!("/api/v1/resource-{n}")),
        |n| format!("/api/v2/resource-{n}/items/42"),
    ),
];

fn main() {
    println!("{:34}{}", "nanoseconds for one request", header(&RULES));
    for (name, path, target) in KINDS {
        let times = RULES.map(|rules| {
            let route = route((0..rules).map(path));
            let asked = (0..rules).step_by(rules.div_ceil(REQUESTS));
            let heads: Vec<Parts> = asked.map(|n| head(&target(n))).collect();
            let found = name != "prefixes, no rule fits";
            assert!(heads.iter().all(|head| route.find(head).is_some() == found));
            median(&heads, |head| route.find(head))
        });
        println!("{name:34}{}", row(&times));
    }

    let expressions = [1, 8, MAX_IN_ROUTE];
    println!(
        "\n{:34}{}",
        "and of regular expressions",
        header(&expressions)
    );
    for (name, target) in [("the last fits", "/v9/"), ("none fits", "/w/")] {
        let times = expressions.map(|count| {
            let regex = |n| Path::Regex(format!("/v[0-9]+/resource-{n}/[^/]+"));
            let route = route((0..count).map(regex));
            let target = format!("{target}resource-{}/42", count - 1);
            median(&[head(&target)], |head| route.find(head))
        });
        println!("{name:34}{}", row(&times));
    }

    println!("\n{:34}{:>10}", "of the path's normal form", "");
    for path in [
        "/api/v1/resource-1/items/42",
        "//api/v1/./resource-1/%69tems/42",
    ] {
        println!(
            "{path:34}{}",
            row(&[median(&[path], |path| normalise(path.as_bytes()).is_ok())])
        );
    }
}

fn route(paths: impl Iterator<Item = Path>) -> Route {
    let rules = paths.map(|path| mesh::Rule {
        matches: vec![mesh::Match {
            path: Some(path),
            ..Default::default()
        }],
        ..Default::default()
    });
    Route::build(
        mesh::Route {
            rules: rules.collect(),
            ..Default::default()
        },
        None,
    )
    .unwrap()
}

fn head(target: &str) -> Parts {
    Request::get(target).body(()).unwrap().into_parts().0
}

/// The median of rounds, each of which asks often enough for the clock not to matter.
fn median<T, U>(asked: &[T], answer: impl Fn(&T) -> U) -> Duration {
    const ASKED_IN_A_ROUND: usize = 10_000;
    let mut times: Vec<Duration> = (0..51)
        .map(|_| {
            let start = Instant::now();
            for one in asked.iter().cycle().take(ASKED_IN_A_ROUND) {
                black_box(answer(black_box(one)));
            }
            start.elapsed() / ASKED_IN_A_ROUND as u32
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn header(counts: &[usize]) -> String {
    counts.iter().map(|count| format!("{count:>10}")).collect()
}

fn row(times: &[Duration]) -> String {
    times
        .iter()
        .map(|time| format!("{:>10}", time.as_nanos()))
        .collect()
}
