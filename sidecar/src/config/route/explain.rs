//! Why a request is governed by one rule and not by another, for people.
//!
//! Each thing that a match asks is tried by itself, as a route that asks nothing else: what is said
//! here cannot differ from what is done.

use http::request::Parts;
use serde::Serialize;
use wire::mesh::{self, MatchType};

use super::Route;

/// One rule, and how a request stands to it.
#[derive(Debug, Serialize)]
pub struct RuleExplained {
    /// Its name.
    pub rule: String,
    /// Whether it governs the request.
    pub governs: bool,
    /// Its matches, any of which would do; none asks nothing.
    pub matches: Vec<MatchExplained>,
}

/// One match: all that it asks must hold.
#[derive(Debug, Serialize)]
pub struct MatchExplained {
    /// Whether all holds.
    pub fits: bool,
    /// What it asks, one thing at a time.
    pub asks: Vec<Asked>,
}

/// One thing that a match asks.
#[derive(Debug, Serialize)]
pub struct Asked {
    /// In words, such as `method GET`.
    pub what: String,
    /// Whether it holds.
    pub holds: bool,
}

/// How a request stands to each rule of a route, in the order written.
///
/// # Errors
/// As [`Route::build`].
pub fn explain(sent: &mesh::Route, head: &Parts) -> Result<Vec<RuleExplained>, String> {
    let governs = Route::build(sent.clone(), None)?
        .find(head)
        .map(|found| found.rule);
    let rules = sent.rules.iter().enumerate().map(|(place, rule)| {
        let matches = rule.matches.iter().map(|sent| {
            let asks: Vec<Asked> = one_by_one(sent)
                .into_iter()
                .map(|(what, alone)| {
                    Ok(Asked {
                        what,
                        holds: holds(alone, head)?,
                    })
                })
                .collect::<Result<_, String>>()?;
            let fits = asks.iter().all(|asked| asked.holds);
            Ok(MatchExplained { fits, asks })
        });
        Ok(RuleExplained {
            rule: rule.name.clone(),
            governs: governs == Some(place),
            matches: matches.collect::<Result<_, String>>()?,
        })
    });
    rules.collect()
}

fn holds(alone: mesh::Match, head: &Parts) -> Result<bool, String> {
    let rule = mesh::Rule {
        matches: vec![alone],
        ..mesh::Rule::default()
    };
    let route = mesh::Route {
        rules: vec![rule],
        ..mesh::Route::default()
    };
    Ok(Route::build(route, None)?.find(head).is_some())
}

/// Each thing that a match asks, in words and as a match that asks nothing else.
fn one_by_one(sent: &mesh::Match) -> Vec<(String, mesh::Match)> {
    use mesh::r#match::Path;
    let mut asks = Vec::new();
    if let Some(path) = &sent.path {
        let what = match path {
            Path::Exact(path) => format!("path {path}"),
            Path::Prefix(path) => format!("path {path} or below"),
            Path::Pattern(path) => format!("path like {path}"),
            Path::Regex(path) => format!("path that fits the expression {path}"),
        };
        let alone = mesh::Match {
            path: Some(path.clone()),
            ..mesh::Match::default()
        };
        asks.push((what, alone));
    }
    if !sent.method.is_empty() {
        let alone = mesh::Match {
            method: sent.method.clone(),
            ..mesh::Match::default()
        };
        asks.push((format!("method {}", sent.method), alone));
    }
    for header in &sent.headers {
        let alone = mesh::Match {
            headers: vec![header.clone()],
            ..mesh::Match::default()
        };
        let what = compared("header", &header.name, header.r#type(), &header.value);
        asks.push((what, alone));
    }
    for parameter in &sent.query {
        let alone = mesh::Match {
            query: vec![parameter.clone()],
            ..mesh::Match::default()
        };
        let (type_, value) = (parameter.r#type(), &parameter.value);
        asks.push((compared("parameter", &parameter.name, type_, value), alone));
    }
    asks
}

fn compared(what: &str, name: &str, type_: MatchType, value: &str) -> String {
    match type_ {
        MatchType::Exact => format!("{what} {name} = {value}"),
        MatchType::Regex => format!("{what} {name} that fits the expression {value}"),
        MatchType::Present => format!("{what} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use wire::mesh::r#match::Path;

    #[test]
    fn what_does_not_hold_is_named_and_the_rule_that_governs_is_the_one_that_is_found() {
        let canary = mesh::Match {
            path: Some(Path::Prefix("/orders".into())),
            method: "GET".into(),
            headers: vec![mesh::HeaderMatch {
                name: "x-canary".into(),
                value: "always".into(),
                ..mesh::HeaderMatch::default()
            }],
            ..mesh::Match::default()
        };
        let rule = |name: &str, matches| mesh::Rule {
            name: name.into(),
            matches,
            ..mesh::Rule::default()
        };
        let route = mesh::Route {
            rules: vec![rule("testers", vec![canary]), rule("all", vec![])],
            ..mesh::Route::default()
        };
        let told = |request: http::request::Builder| {
            let (head, ()) = request.body(()).unwrap().into_parts();
            let rules = explain(&route, &head).unwrap();
            let governs = rules.iter().find(|rule| rule.governs);
            let missing = rules[0].matches[0].asks.iter().filter(|asked| !asked.holds);
            let missing: Vec<_> = missing.map(|asked| asked.what.clone()).collect();
            (governs.unwrap().rule.clone(), missing)
        };
        let with = |request: http::request::Builder| request.header("x-canary", "always");
        assert_eq!(
            told(with(Request::get("/orders/1"))),
            ("testers".to_owned(), vec![])
        );
        let (rule, missing) = told(Request::post("/orders/1"));
        assert_eq!(rule, "all");
        assert_eq!(missing, ["method GET", "header x-canary = always"]);
        let (_, missing) = told(with(Request::get("/other")));
        assert_eq!(missing, ["path /orders or below"]);
    }
}
