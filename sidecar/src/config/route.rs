//! Route → [`Route`]: which rule governs a request.
//!
//! Precedence is Gateway API's (HTTPRouteRule), with our kinds of paths in it. What fits whole paths
//! comes first: exact paths, then patterns (more literal segments before fewer, longer ones before
//! shorter), then regular expressions: behind prefixes, every prefix `/` would hide them. Then what
//! paths begin with: the longer before the shorter, a pattern that ends in a rest by what stands
//! before its first variable. Then a method, more headers, more parameters, and the order written.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use wire::mesh;

pub mod connections;
pub mod explain;
mod index;
pub mod matching;
pub mod query;

pub use index::Found;
use index::Index;
use matching::Match;
use query::Names;

use super::service::{ServiceKey, parse_port};

pub mod filters;

use crate::policy::cache::at_caller::AtCaller;
use crate::policy::concurrency::Concurrency;
use crate::proxy::limits;
use connections::ConnectionRule;
use filters::Filters;

/// An ApiRoute, for callers.
#[derive(Debug)]
pub struct Route {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The Services whose callers it governs.
    pub services: Vec<ServiceKey>,
    /// Written by the callers' own namespace; wins over the producer's.
    pub consumer: bool,
    /// What is kept of the answers at this side of the calls; nothing yet, whenever it is built.
    pub kept: Option<Arc<AtCaller>>,
    rules: Vec<Arc<Rule>>,
    connections: Vec<ConnectionRule>,
    /// The numbers in it are places in `rules`.
    index: Index,
}

/// What happens to requests that fit.
#[derive(Debug)]
pub struct Rule {
    /// Its name, for logs and metrics.
    pub name: Arc<str>,
    /// Where they go; empty means the Service and port called.
    pub backends: Vec<Backend>,
    /// From the request's head to the response's last byte.
    pub request_timeout: Option<Duration>,
    /// How long they may wait while no byte of them moves; absent: the sidecar's own limit.
    pub idle_timeout: Option<Duration>,
    /// What is done to requests and responses beside.
    pub filters: Filters,
}

/// One place to go.
#[derive(Debug)]
pub struct Backend {
    /// Which Service.
    pub service: ServiceKey,
    /// Which of its ports.
    pub port: u16,
    /// Its share.
    pub weight: u32,
    /// `namespace/name` of the ApiRoute whose rules govern requests from there on.
    pub route: Option<Arc<str>>,
}

// === build ===

impl Route {
    /// Builds from what was sent. A rule that bounds what is under way goes on counting where the one
    /// that had its name stopped.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Route, old: Option<&Route>) -> Result<Self, String> {
        let mut matches = Vec::new();
        let mut names = Names::new();
        let mut rules = Vec::with_capacity(sent.rules.len());
        for (place, mut rule) in sent.rules.into_iter().enumerate() {
            let within = |error: String| format!("rules[{place}]: {error}");
            let old = old.and_then(|old| old.rules.iter().find(|old| *old.name == *rule.name));
            let old = old.map(|old| &old.filters);
            let filters = Filters::build(&mut rule, old).map_err(within)?;
            if rule.matches.is_empty() {
                matches.push((Match::everything(), place));
            }
            for sent in rule.matches {
                matches.push((Match::build(sent, &mut names).map_err(within)?, place));
            }
            let backends = rule.backends.into_iter().map(Backend::build);
            rules.push(Arc::new(Rule {
                name: rule.name.into(),
                backends: backends.collect::<Result<_, _>>().map_err(within)?,
                request_timeout: rule.request_timeout_ms.map(Duration::from_millis),
                idle_timeout: idle_timeout(rule.idle_timeout_ms).map_err(within)?,
                filters,
            }));
        }
        let index = Index::build(matches, names)?;
        let connections = sent.connections.into_iter().enumerate();
        let connections = connections.map(|(place, rule)| {
            let built = ConnectionRule::build(rule);
            built.map_err(|error| format!("connections[{place}]: {error}"))
        });
        let connections: Vec<_> = connections.collect::<Result<_, _>>()?;
        let kept = sent.cache_at_caller.map(AtCaller::build).transpose()?;
        // Nothing can be refused any more.
        let bounded = rules
            .iter()
            .filter_map(|rule| rule.filters.concurrency.as_ref());
        bounded.for_each(Concurrency::in_force);
        Ok(Self {
            object: format!("{}/{}", sent.namespace, sent.name).into(),
            services: sent
                .services
                .iter()
                .map(|service| ServiceKey::new(&service.namespace, &service.name))
                .collect(),
            consumer: sent.consumer,
            kept: kept.map(Arc::new),
            rules,
            connections,
            index,
        })
    }
}

/// What cannot be kept is refused: a destination's sidecar has a limit of its own.
pub(super) fn idle_timeout(millis: Option<u64>) -> Result<Option<Duration>, String> {
    let idle = millis.map(Duration::from_millis);
    match idle.filter(|idle| idle.is_zero() || *idle > limits::BODY_IDLE) {
        Some(idle) => Err(format!(
            "idle_timeout_ms: a silence of {idle:?} cannot be kept to"
        )),
        None => Ok(idle),
    }
}

impl Backend {
    fn build(sent: mesh::Backend) -> Result<Self, String> {
        let service = sent.service.ok_or("a backend names no service")?;
        Ok(Self {
            service: ServiceKey::new(&service.namespace, &service.name),
            port: parse_port(sent.port)?,
            weight: sent.weight,
            route: sent
                .route
                .map(|route| format!("{}/{}", route.namespace, route.name).into()),
        })
    }
}

// === request ===

impl Route {
    /// What governs a request, by its place in [`Route::rules`]; `None` when nothing fits.
    pub fn find(&self, head: &Parts) -> Option<Found> {
        self.index.find(head)
    }

    /// Whether it is about connections whose bytes nobody reads, and not about requests.
    pub fn governs_connections(&self) -> bool {
        !self.connections.is_empty()
    }

    /// The rules about connections, in the order written.
    pub fn connections(&self) -> &[ConnectionRule] {
        &self.connections
    }

    /// The rules, in the order written.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http::request::Builder;
    use wire::mesh::r#match::Path as Sent;
    use wire::mesh::{HeaderMatch, MatchType, QueryMatch};

    fn rule(name: &str, matches: Vec<mesh::Match>) -> mesh::Rule {
        mesh::Rule {
            name: name.into(),
            matches,
            ..Default::default()
        }
    }

    fn on(path: Sent) -> mesh::Match {
        mesh::Match {
            path: Some(path),
            ..Default::default()
        }
    }

    fn prefix(path: &str) -> mesh::Match {
        on(Sent::Prefix(path.into()))
    }

    fn pattern(path: &str) -> mesh::Match {
        on(Sent::Pattern(path.into()))
    }

    fn route(rules: Vec<mesh::Rule>) -> Route {
        Route::build(
            mesh::Route {
                namespace: "shop".into(),
                name: "orders".into(),
                rules,
                ..Default::default()
            },
            None,
        )
        .unwrap()
    }

    fn found(route: &Route, request: Builder) -> Option<String> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        route
            .find(&head)
            .map(|found| route.rules()[found.rule].name.to_string())
    }

    /// Rules by the names of which requests they get, in whatever order they are written.
    #[track_caller]
    fn finds(rules: Vec<mesh::Rule>, requests: Vec<(Builder, &str)>) {
        let backwards = route(rules.iter().rev().cloned().collect());
        let route = route(rules);
        for (request, expected) in requests {
            let shown = format!("{request:?}");
            let (head, ()) = request.body(()).unwrap().into_parts();
            for route in [&route, &backwards] {
                let rule = route
                    .find(&head)
                    .map(|found| &*route.rules()[found.rule].name);
                assert_eq!(rule.unwrap_or("none"), expected, "{shown}");
            }
        }
    }

    fn get(path: &str) -> Builder {
        Request::get(path)
    }

    #[test]
    fn a_prefix_matches_whole_segments_only() {
        finds(
            vec![rule("v2", vec![prefix("/v2/")])],
            vec![
                (get("/v2"), "v2"),
                (get("/v2/"), "v2"),
                (get("/v2/example"), "v2"),
                (get("/"), "none"),
                (get("/v2example"), "none"),
                (get("/foo/v2/example"), "none"),
            ],
        );
    }

    #[test]
    fn a_pattern_matches_whole_paths_and_one_segment_for_each_name() {
        finds(
            vec![
                rule("orders", vec![pattern("/customers/{id}/orders")]),
                rule("customer", vec![pattern("/customers/{id}")]),
                rule("folder", vec![pattern("/customers/{id}/")]),
                rule("file", vec![pattern("/files/{path...}")]),
            ],
            vec![
                (get("/customers/1/orders"), "orders"),
                (get("/customers/a%2Fb;c/orders"), "orders"),
                (get("/customers/1"), "customer"),
                (get("/customers/1/"), "folder"),
                (get("/customers//"), "none"),
                (get("/customers/"), "none"),
                (get("/customers"), "none"),
                (get("/customers/1/orders/"), "none"),
                (get("/customers/1/2/orders"), "none"),
                (get("/files"), "file"),
                (get("/files/"), "file"),
                (get("/files/a/b/"), "file"),
                (get("/filesystem"), "none"),
            ],
        );
    }

    #[test]
    fn exact_wins_over_prefix_longer_over_shorter_and_method_and_headers_break_ties() {
        let with = |method: &str, headers: usize, query: usize| mesh::Match {
            method: method.into(),
            headers: ["version", "beta"][..headers]
                .iter()
                .map(|name| HeaderMatch {
                    name: (*name).into(),
                    r#type: MatchType::Present.into(),
                    ..Default::default()
                })
                .collect(),
            query: ["p", "q"][..query]
                .iter()
                .map(|name| QueryMatch {
                    name: (*name).into(),
                    r#type: MatchType::Present.into(),
                    ..Default::default()
                })
                .collect(),
            ..prefix("/m")
        };
        let beta = |request: Builder| request.header("version", "2").header("beta", "1");
        finds(
            vec![
                rule("exact", vec![on(Sent::Exact("/a/b/c".into()))]),
                rule("two literals", vec![pattern("/a/b/{x}")]),
                rule("longer literals", vec![pattern("/{x}/bee/{y}")]),
                rule("shorter literals", vec![pattern("/aa/{x}/{y}")]),
                rule("no literal", vec![pattern("/{x}/{y}/{z}")]),
                rule("regex", vec![on(Sent::Regex("/a/.*".into()))]),
                rule("long prefix", vec![prefix("/a/b/c/d")]),
                rule("rest of a", vec![pattern("/q/{x}/{rest...}")]),
                rule("q", vec![prefix("/q")]),
                rule("q/r", vec![prefix("/q/r")]),
                rule("all", vec![]),
                rule("m", vec![with("", 0, 0)]),
                rule("m query", vec![with("", 0, 1)]),
                rule("m two of query", vec![with("", 0, 2)]),
                rule("m header", vec![with("", 1, 0)]),
                rule("m two headers", vec![with("", 2, 0)]),
                rule("m method", vec![with("POST", 0, 0)]),
                rule("m method and query", vec![with("POST", 0, 1)]),
            ],
            vec![
                (get("/a/b/c"), "exact"),
                (get("/a/b/d"), "two literals"),
                (get("/aa/bee/c"), "longer literals"),
                (get("/aa/b/c"), "shorter literals"),
                (get("/a/x/y"), "no literal"),
                (get("/a/b/c/d"), "regex"),
                (get("/z"), "all"),
                (Request::options("*"), "all"),
                (get("/q"), "q"),
                (get("/q/x"), "rest of a"),
                (get("/q/x/y/z"), "rest of a"),
                (get("/q/r/y/z"), "q/r"),
                (get("/m"), "m"),
                (get("/m?p"), "m query"),
                (get("/m?q=&p=1"), "m two of query"),
                (get("/m?q=&p=1").header("version", "1"), "m header"),
                (beta(get("/m?p")), "m two headers"),
                (beta(Request::post("/m")), "m method"),
                (beta(Request::post("/m?p")), "m method and query"),
            ],
        );
    }

    #[test]
    fn of_equals_the_first_that_is_written_wins() {
        for matches in [
            [prefix("/a"), prefix("/a/")],
            [pattern("/{x}"), pattern("/{y}")],
            [on(Sent::Regex("/.*".into())), on(Sent::Regex("/a".into()))],
            [on(Sent::Exact("/a".into())), on(Sent::Exact("/%61".into()))],
        ] {
            let [first, second] = matches;
            let route = route(vec![rule("1", vec![first]), rule("2", vec![second])]);
            assert_eq!(found(&route, get("/a")).as_deref(), Some("1"));
        }
    }

    #[test]
    fn a_path_that_is_written_in_another_form_is_the_same_path() {
        finds(
            vec![
                rule("exact", vec![on(Sent::Exact("/%61dmin/caf%c3%a9".into()))]),
                rule("prefix", vec![prefix("/%7Eme/")]),
                rule("pattern", vec![pattern("/%62%2f/{x}")]),
            ],
            vec![
                (get("/admin/caf%C3%A9"), "exact"),
                (get("/~me/x"), "prefix"),
                (get("/b%2F/x"), "pattern"),
            ],
        );
    }

    #[test]
    fn a_parameter_is_compared_decoded_and_the_first_of_several_counts() {
        let by = |value: &str, type_: MatchType| mesh::Match {
            query: vec![QueryMatch {
                name: "the name".into(),
                value: value.into(),
                r#type: type_.into(),
            }],
            ..Default::default()
        };
        finds(
            vec![
                rule("exact", vec![by("two words", MatchType::Exact)]),
                rule("regex", vec![by("[0-9]+", MatchType::Regex)]),
            ],
            vec![
                (get("/?the+name=two%20words"), "exact"),
                (get("/?the%20name=two+words&the+name=1"), "exact"),
                (get("/?a=b&the+name=12"), "regex"),
                (get("/?the+name=12a"), "none"),
                (get("/?the+name=&the+name=12"), "none"),
                (get("/"), "none"),
            ],
        );
    }

    #[test]
    fn what_cannot_be_enforced_is_rejected_with_the_place() {
        let build = |bad: mesh::Match| {
            Route::build(
                mesh::Route {
                    rules: vec![rule("fine", vec![]), rule("bad", vec![bad])],
                    ..Default::default()
                },
                None,
            )
            .unwrap_err()
        };
        let header = |value: &str, type_: i32| mesh::Match {
            headers: vec![HeaderMatch {
                name: "x".into(),
                value: value.into(),
                r#type: type_,
            }],
            ..Default::default()
        };
        let method = mesh::Match {
            method: "GET ME".into(),
            ..Default::default()
        };
        for (bad, expected) in [
            (method, "rules[1]: `GET ME` is no method"),
            (
                prefix("/a%00"),
                "rules[1]: the path \"/a%00\": it has a control character",
            ),
            (
                pattern("/{a}/{a}"),
                "rules[1]: the pattern \"/{a}/{a}\": {a} is there twice",
            ),
            (
                on(Sent::Regex("/(".into())),
                "rules[1]: the path \"/(\": unclosed group (at character 2)",
            ),
            (
                header("(", MatchType::Regex.into()),
                "rules[1]: the value of header `x`: unclosed group (at character 1)",
            ),
            (
                header("a", 7),
                "rules[1]: the value of header `x`: it is compared in a way that this sidecar \
                 does not know",
            ),
        ] {
            assert_eq!(build(bad), expected);
        }
    }
}
