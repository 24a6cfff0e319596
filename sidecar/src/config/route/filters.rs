//! Filters of a rule: what it does to requests and responses beside routing them. A field each, in
//! the order in which `proxy/outbound.rs` asks them.

use http::request::Parts;
use wire::mesh;

use super::{Found, Route};
use crate::policy::body_limit::BodyLimit;
use crate::policy::compression::Compression;
use crate::policy::concurrency::Concurrency;
use crate::policy::cors::{self, Cors};
use crate::policy::direct_response::DirectResponse;
use crate::policy::fault::Fault;
use crate::policy::header_edits::HeaderEdits;
use crate::policy::mirror::Mirror;
use crate::policy::redirect::Redirect;
use crate::policy::rewrite::Rewrite;

/// The filters of one rule.
#[derive(Debug)]
pub struct Filters {
    /// Which pages may read the answers.
    pub cors: Option<Cors>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// Where to ask instead.
    pub redirect: Option<Redirect>,
    /// What is answered instead.
    pub direct_response: Option<DirectResponse>,
    /// How large requests may be.
    pub max_request_bytes: Option<BodyLimit>,
    /// How many requests are under way at once.
    pub concurrency: Option<Concurrency>,
    /// Changes of requests.
    pub request_headers: Option<HeaderEdits>,
    /// Changes of host and path.
    pub rewrite: Option<Rewrite>,
    /// Where copies go.
    pub mirror: Option<Mirror>,
    /// Changes of responses.
    pub response_headers: Option<HeaderEdits>,
    /// Which responses are compressed.
    pub compression: Option<Compression>,
}

/// Those of requests that no rule governs.
pub static NONE: Filters = Filters {
    cors: None,
    fault: None,
    redirect: None,
    direct_response: None,
    max_request_bytes: None,
    concurrency: None,
    request_headers: None,
    rewrite: None,
    mirror: None,
    response_headers: None,
    compression: None,
};

// === build ===

impl Filters {
    /// Takes the filters out of a rule that was sent; `old` are those of the rule that had its name.
    ///
    /// # Errors
    /// A sentence naming the filter that cannot be used.
    pub fn build(sent: &mut mesh::Rule, old: Option<&Filters>) -> Result<Self, String> {
        let counted = old.and_then(|old| old.concurrency.as_ref());
        Ok(Self {
            cors: built("cors", sent.cors.take(), Cors::build)?,
            fault: built("fault", sent.fault.take(), Fault::build)?,
            redirect: built("redirect", sent.redirect.take(), Redirect::build)?,
            direct_response: built(
                "direct_response",
                sent.direct_response.take(),
                DirectResponse::build,
            )?,
            max_request_bytes: sent.max_request_bytes.map(BodyLimit::new),
            concurrency: built("concurrency", sent.concurrency.take(), |sent| {
                Concurrency::build(sent, counted)
            })?,
            request_headers: built(
                "request_headers",
                sent.request_headers.take(),
                HeaderEdits::build,
            )?,
            rewrite: built("rewrite", sent.rewrite.take(), Rewrite::build)?,
            mirror: built("mirror", sent.mirror.take(), Mirror::build)?,
            response_headers: built(
                "response_headers",
                sent.response_headers.take(),
                HeaderEdits::build,
            )?,
            compression: sent
                .compression
                .map(|sent| Compression::new(sent.min_bytes)),
        })
    }
}

fn built<S, B>(
    field: &str,
    sent: Option<S>,
    build: impl FnOnce(S) -> Result<B, String>,
) -> Result<Option<B>, String> {
    let built = sent.map(build).transpose();
    built.map_err(|error| format!("{field}: {error}"))
}

// === request ===

impl Route {
    /// What answers a preflight: the rule that would govern the request it asks about, if that has
    /// `cors`. Where none would, one that has it answers whatever its method, to say which it allows.
    /// `None` too for what is no preflight.
    pub fn find_preflight(&self, head: &Parts) -> Option<Found> {
        let asked = cors::asked(head)?;
        let answers = |found: Found| self.rules[found.rule].filters.cors.is_some();
        let index = &self.index;
        let governs = index.find_by(head, |method, _| method.is_none_or(|one| *one == asked));
        match governs {
            Some(found) => Some(found).filter(|found| answers(*found)),
            None => index.find_by(head, |_, found| answers(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::timeout::Deadline;
    use http::Request;
    use wire::mesh::r#match::Path as Sent;

    fn on(prefix: &str) -> mesh::Match {
        mesh::Match {
            path: Some(Sent::Prefix(prefix.into())),
            ..Default::default()
        }
    }

    fn route(rule: mesh::Rule) -> Route {
        Route::build(
            mesh::Route {
                rules: vec![mesh::Rule::default(), rule],
                ..Default::default()
            },
            None,
        )
        .unwrap()
    }

    fn head(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_prefix_is_that_of_the_match_that_fits() {
        let with_header = mesh::Match {
            headers: vec![mesh::HeaderMatch {
                name: "x".into(),
                value: "1".into(),
                ..Default::default()
            }],
            ..on("/a")
        };
        let post = mesh::Match {
            method: "POST".into(),
            ..on("/a/b")
        };
        let route = route(mesh::Rule {
            matches: vec![with_header, post],
            rewrite: Some(mesh::Rewrite {
                host: String::new(),
                path: Some(mesh::PathChange {
                    change: Some(mesh::path_change::Change::Prefix("/z".into())),
                }),
            }),
            ..Default::default()
        });
        let prefix = |head: &Parts| route.find(head).unwrap().prefix;
        assert_eq!(prefix(&head(Request::post("/a/b/c"))), "/a/b".len());
        // The longer prefix fits the path, but its match does not fit the request.
        let get = Request::get("/a/b/c").header("x", "1");
        assert_eq!(prefix(&head(get)), "/a".len());
        assert_eq!(prefix(&head(Request::get("/q"))), 0);
    }

    #[test]
    fn a_preflight_is_for_the_rule_that_would_govern_the_request() {
        let rule = |name: &str, method: &str, cors: bool| mesh::Rule {
            name: name.into(),
            matches: vec![mesh::Match {
                method: method.into(),
                ..on("/a")
            }],
            cors: cors.then(|| mesh::Cors {
                allow_origins: vec!["*".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let route = Route::build(
            mesh::Route {
                rules: vec![
                    rule("get", "GET", true),
                    rule("post", "POST", false),
                    rule("options", "OPTIONS", false),
                ],
                ..Default::default()
            },
            None,
        )
        .unwrap();
        let asks = |path: &str, method: &str| {
            let preflight = Request::options(path.to_owned())
                .header("origin", "https://a")
                .header("access-control-request-method", method);
            let found = route.find_preflight(&head(preflight));
            found.map(|found| route.rules()[found.rule].name.to_string())
        };
        assert_eq!(asks("/a", "GET").as_deref(), Some("get"));
        // The application answers for a rule that leaves it to it.
        assert_eq!(asks("/a", "POST"), None);
        // No rule lets it through: the page hears what would be.
        assert_eq!(asks("/a", "DELETE").as_deref(), Some("get"));
        assert_eq!(asks("/b", "GET"), None);
        let no_preflight = head(Request::options("/a").header("origin", "https://a"));
        assert_eq!(route.find_preflight(&no_preflight), None);
    }

    #[tokio::test]
    async fn a_rule_of_the_same_name_goes_on_counting_and_a_rejected_route_changes_no_limit() {
        let bounded = |name: &str, max, bad| {
            let rule = mesh::Rule {
                name: name.into(),
                concurrency: Some(mesh::Concurrency {
                    max,
                    queue: 0,
                    queue_timeout_ms: 0,
                }),
                ..Default::default()
            };
            let bad = mesh::Rule {
                idle_timeout_ms: bad,
                ..Default::default()
            };
            mesh::Route {
                rules: vec![rule, bad],
                ..Default::default()
            }
        };
        let enter = async |route: &Route| {
            let concurrency = route.rules()[0].filters.concurrency.as_ref();
            let no_deadline = Deadline::start(None, tokio::time::Instant::now());
            concurrency.unwrap().enter(no_deadline).await
        };
        let first = Route::build(bounded("few", 2, None), None).unwrap();
        let _place = enter(&first).await.unwrap();
        for too_long in [0, 3_600_001] {
            let rejected = Route::build(bounded("few", 1, Some(too_long)), Some(&first));
            assert!(rejected.unwrap_err().contains("rules[1]: idle_timeout_ms"));
        }
        let second = enter(&first).await.unwrap();
        drop(second);
        let smaller = Route::build(bounded("few", 1, Some(3_600_000)), Some(&first)).unwrap();
        assert!(enter(&smaller).await.is_err());
        // Another name is another rule.
        let other = Route::build(bounded("other", 1, None), Some(&smaller)).unwrap();
        assert!(enter(&other).await.is_ok());
    }

    #[test]
    fn a_filter_that_cannot_be_used_is_rejected_with_its_place() {
        let bad = mesh::Rule {
            request_headers: Some(mesh::HeaderEdits {
                remove: vec!["host".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let rules = vec![mesh::Rule::default(), bad];
        let sent = mesh::Route {
            rules,
            ..Default::default()
        };
        assert_eq!(
            Route::build(sent, None).unwrap_err(),
            "rules[1]: request_headers: header `host` cannot be edited"
        );
    }
}
