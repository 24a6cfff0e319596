//! Route → [`Route`]: which rule governs a request.
//!
//! Precedence is Gateway API's (HTTPRouteRule): an exact path before a prefix, a longer prefix
//! before a shorter one, then a method, then more headers, then the order written. Matches are
//! sorted once, when built; a request takes the first that fits.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, request::Parts};
use wire::mesh;

use super::service::{ServiceKey, parse_port};

/// An ApiRoute, for callers.
#[derive(Debug)]
pub struct Route {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The Services whose callers it governs.
    pub services: Vec<ServiceKey>,
    /// Written by the callers' own namespace; wins over the producer's.
    pub consumer: bool,
    rules: Vec<Arc<Rule>>,
    /// By precedence; the number is the rule's place in `rules`.
    matches: Vec<(Match, usize)>,
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
}

#[derive(Debug)]
struct Match {
    path: Path,
    method: Option<Method>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
enum Path {
    Exact(String),
    /// Without its trailing slash.
    Prefix(String),
}

// === build ===

impl Route {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::Route) -> Result<Self, String> {
        let mut matches = Vec::new();
        let mut rules = Vec::with_capacity(sent.rules.len());
        for (place, rule) in sent.rules.into_iter().enumerate() {
            let within = |error: String| format!("rules[{place}]: {error}");
            if rule.matches.is_empty() {
                matches.push((Match::everything(), place));
            }
            for sent in rule.matches {
                matches.push((Match::build(sent).map_err(within)?, place));
            }
            let backends = rule.backends.into_iter().map(Backend::build);
            rules.push(Arc::new(Rule {
                name: rule.name.into(),
                backends: backends.collect::<Result<_, _>>().map_err(within)?,
                request_timeout: rule.request_timeout_ms.map(Duration::from_millis),
            }));
        }
        // Stable: what is equal stays in the order written.
        matches.sort_by_key(|(fits, _)| fits.precedence());
        Ok(Self {
            object: format!("{}/{}", sent.namespace, sent.name).into(),
            services: sent
                .services
                .iter()
                .map(|service| ServiceKey::new(&service.namespace, &service.name))
                .collect(),
            consumer: sent.consumer,
            rules,
            matches,
        })
    }
}

impl Match {
    fn everything() -> Self {
        Self {
            path: Path::Prefix(String::new()),
            method: None,
            headers: Vec::new(),
        }
    }

    fn build(sent: mesh::Match) -> Result<Self, String> {
        // Requests come in the normal form of paths, so what was written is brought into it too.
        let normal = |path: &str| {
            let form = wire::path::normalise(path.as_bytes());
            form.map(String::from)
                .map_err(|why| format!("the path {path:?}: {why}"))
        };
        let path = match sent.path {
            Some(mesh::r#match::Path::Exact(path)) => Path::Exact(normal(&path)?),
            Some(mesh::r#match::Path::Prefix(path)) => {
                Path::Prefix(normal(&path)?.trim_end_matches('/').to_owned())
            }
            None => Path::Prefix(String::new()),
        };
        let method = match sent.method.as_str() {
            "" => None,
            name => Some(
                Method::from_bytes(name.as_bytes())
                    .map_err(|_| format!("`{name}` is no method"))?,
            ),
        };
        let headers = sent.headers.into_iter().map(|header| {
            let name = HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_| format!("`{}` is no header name", header.name))?;
            let value = HeaderValue::from_str(&header.value)
                .map_err(|_| format!("the value of header `{name}` cannot be sent"))?;
            Ok((name, value))
        });
        Ok(Self {
            path,
            method,
            headers: headers.collect::<Result<_, String>>()?,
        })
    }

    /// Sorts first what takes precedence.
    fn precedence(&self) -> impl Ord + use<> {
        let (prefix, length) = match &self.path {
            Path::Exact(path) => (false, path.len()),
            Path::Prefix(path) => (true, path.len()),
        };
        (
            prefix,
            Reverse(length),
            self.method.is_none(),
            Reverse(self.headers.len()),
        )
    }
}

impl Backend {
    fn build(sent: mesh::Backend) -> Result<Self, String> {
        let service = sent.service.ok_or("a backend names no service")?;
        Ok(Self {
            service: ServiceKey::new(&service.namespace, &service.name),
            port: parse_port(sent.port)?,
            weight: sent.weight,
        })
    }
}

// === request ===

impl Route {
    /// The place in [`Route::rules`] of the rule that governs a request; `None` when none fits.
    pub fn find(&self, head: &Parts) -> Option<usize> {
        let (_, place) = self.matches.iter().find(|(fits, _)| fits.check(head))?;
        Some(*place)
    }

    /// The rules, in the order written.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }
}

impl Match {
    fn check(&self, head: &Parts) -> bool {
        self.path.check(head.uri.path())
            && self
                .method
                .as_ref()
                .is_none_or(|method| *method == head.method)
            && self
                .headers
                .iter()
                .all(|(name, value)| header_is(&head.headers, name, value))
    }
}

impl Path {
    fn check(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// Whether a header has a value. Several lines count as one, joined with "," (RFC 9110 5.3).
fn header_is(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> bool {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => false,
        (Some(only), None) => only == value,
        (Some(first), Some(second)) => {
            let mut wanted = value.as_bytes();
            for (place, line) in [first, second].into_iter().chain(lines).enumerate() {
                if place > 0 {
                    match wanted.strip_prefix(b",") {
                        Some(rest) => wanted = rest,
                        None => return false,
                    }
                }
                match wanted.strip_prefix(line.as_bytes()) {
                    Some(rest) => wanted = rest,
                    None => return false,
                }
            }
            wanted.is_empty()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use wire::mesh::r#match::Path as Sent;

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

    fn route(rules: Vec<mesh::Rule>) -> Route {
        Route::build(mesh::Route {
            namespace: "shop".into(),
            name: "orders".into(),
            rules,
            ..Default::default()
        })
        .unwrap()
    }

    fn found(route: &Route, request: http::request::Builder) -> Option<String> {
        let (head, ()) = request.body(()).unwrap().into_parts();
        route
            .find(&head)
            .map(|place| route.rules()[place].name.to_string())
    }

    #[test]
    fn a_prefix_matches_whole_segments_only() {
        let route = route(vec![rule("v2", vec![on(Sent::Prefix("/v2/".into()))])]);
        for path in ["/v2", "/v2/", "/v2/example"] {
            assert_eq!(
                found(&route, Request::get(path)).as_deref(),
                Some("v2"),
                "{path}"
            );
        }
        for path in ["/", "/v2example", "/foo/v2/example"] {
            assert_eq!(found(&route, Request::get(path)), None, "{path}");
        }
    }

    #[test]
    fn exact_wins_over_prefix_longer_over_shorter_and_method_and_headers_break_ties() {
        let header = mesh::HeaderMatch {
            name: "version".into(),
            value: "two".into(),
        };
        let with = |method: &str, headers: Vec<mesh::HeaderMatch>| mesh::Match {
            path: Some(Sent::Prefix("/a".into())),
            method: method.into(),
            headers,
        };
        let route = route(vec![
            rule("all", vec![]),
            rule("prefix", vec![with("", vec![])]),
            rule("header", vec![with("", vec![header])]),
            rule("method", vec![with("POST", vec![])]),
            rule("longer", vec![on(Sent::Prefix("/a/b".into()))]),
            rule("exact", vec![on(Sent::Exact("/a/b".into()))]),
        ]);
        let get = |path: &str| Request::get(path.to_owned());
        assert_eq!(found(&route, get("/z")).as_deref(), Some("all"));
        assert_eq!(found(&route, get("/a")).as_deref(), Some("prefix"));
        assert_eq!(found(&route, get("/a/b")).as_deref(), Some("exact"));
        assert_eq!(found(&route, get("/a/b/c")).as_deref(), Some("longer"));
        let two = |request: http::request::Builder| request.header("version", "two");
        assert_eq!(found(&route, two(get("/a/x"))).as_deref(), Some("header"));
        assert_eq!(
            found(&route, two(Request::post("/a"))).as_deref(),
            Some("method")
        );
    }

    #[test]
    fn a_path_that_is_written_in_another_form_is_the_same_path() {
        let route = route(vec![
            rule("exact", vec![on(Sent::Exact("/%61dmin/caf%c3%a9".into()))]),
            rule("prefix", vec![on(Sent::Prefix("/%7Eme/".into()))]),
        ]);
        let exact = Request::get("/admin/caf%C3%A9");
        assert_eq!(found(&route, exact).as_deref(), Some("exact"));
        let prefix = Request::get("/~me/x");
        assert_eq!(found(&route, prefix).as_deref(), Some("prefix"));
    }

    #[test]
    fn several_lines_of_a_header_are_compared_joined() {
        let wanted = HeaderValue::from_static("a,b");
        let name = HeaderName::from_static("x");
        let mut headers = HeaderMap::new();
        headers.append("x", HeaderValue::from_static("a"));
        assert!(!header_is(&headers, &name, &wanted));
        headers.append("x", HeaderValue::from_static("b"));
        assert!(header_is(&headers, &name, &wanted));
        headers.append("x", HeaderValue::from_static("c"));
        assert!(!header_is(&headers, &name, &wanted));
    }

    #[test]
    fn what_cannot_be_enforced_is_rejected_with_the_place() {
        let bad = mesh::Route {
            rules: vec![
                rule("fine", vec![]),
                rule(
                    "bad",
                    vec![mesh::Match {
                        method: "GET ME".into(),
                        ..Default::default()
                    }],
                ),
            ],
            ..Default::default()
        };
        assert_eq!(
            Route::build(bad).unwrap_err(),
            "rules[1]: `GET ME` is no method"
        );
    }
}
