//! CORS: which pages of which origins may read the answers, and what they may send.
//!
//! Phase: before everything else a rule does, and again on the way back, in the caller's sidecar.
//! From `ApiRoute.rules[].cors`, as the Fetch standard says (section 3.3, "CORS protocol"). A
//! preflight of an allowed origin is answered 204 with what is allowed; one of another origin 403
//! with reason `origin_not_allowed`. Other requests are sent on whatever their origin: it is the
//! browser that keeps the answer from the page. Every answer of the rule carries these headers and
//! no others of CORS, those of the mesh too: a page can read why a request failed.
//!
//! What a WebSocket says no browser keeps from anybody: one that the mesh answers itself asks here
//! first ([`Cors::admits`]), in the destination's sidecar.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use wire::mesh;

use crate::proxy::body::ResponseBody;
use crate::proxy::error::{Error, Reason};

/// Headers of answers that this policy alone sets.
const OWN: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// What is allowed to whom.
#[derive(Debug)]
pub struct Cors {
    /// `None`: all of them.
    origins: Option<Vec<Origin>>,
    credentials: bool,
    expose: Option<HeaderValue>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

/// An origin, or those that differ in their leftmost label.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    Exact(String),
    /// `https://` and `.example.com`.
    AnyLabel(String, String),
}

/// What the answer to one request says of who may read it.
#[derive(Debug)]
pub struct Share {
    origin: Option<HeaderValue>,
    varies: bool,
    credentials: bool,
    expose: Option<HeaderValue>,
}

// === build ===

impl Cors {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Cors) -> Result<Self, String> {
        let names = |names: &[String]| list(names, |name| HeaderName::try_from(name).is_ok());
        let any = |names: &[String]| names.iter().any(|name| name == "*");
        let all = [
            &sent.allow_origins,
            &sent.allow_headers,
            &sent.expose_headers,
        ];
        if sent.allow_credentials && all.into_iter().any(|names| any(names)) {
            return Err("* is no origin or header where credentials are allowed".to_owned());
        }
        let origins = match any(&sent.allow_origins) {
            true => None,
            false => Some(
                sent.allow_origins
                    .iter()
                    .map(|origin| Origin::build(origin)),
            ),
        };
        Ok(Self {
            origins: origins.map(Iterator::collect).transpose()?,
            credentials: sent.allow_credentials,
            expose: names(&sent.expose_headers)?,
            methods: list(&sent.allow_methods, |name| {
                Method::from_bytes(name.as_bytes()).is_ok()
            })?,
            headers: names(&sent.allow_headers)?,
            max_age: sent.max_age_s.map(HeaderValue::from),
        })
    }
}

/// A header of these words; none of none.
fn list(words: &[String], fits: impl Fn(&str) -> bool) -> Result<Option<HeaderValue>, String> {
    if let Some(word) = words.iter().find(|word| !fits(word)) {
        return Err(format!("`{word}` cannot be allowed"));
    }
    let value = HeaderValue::from_str(&words.join(", "));
    let value = value.map_err(|error| error.to_string())?;
    Ok((!words.is_empty()).then_some(value))
}

impl Origin {
    fn build(sent: &str) -> Result<Self, String> {
        let refuse = || format!("`{sent}` is no origin");
        let (scheme, host) = sent.split_once("://").ok_or_else(refuse)?;
        match host.strip_prefix('*') {
            Some(rest) if rest.len() > 1 && rest.starts_with('.') => {
                Ok(Self::AnyLabel(format!("{scheme}://"), rest.to_owned()))
            }
            None if !host.is_empty() => Ok(Self::Exact(sent.to_owned())),
            _ => Err(refuse()),
        }
    }
}

// === request ===

/// The method that a preflight asks about; `None` for a request that is none.
pub fn asked(head: &Parts) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ORIGIN) {
        return None;
    }
    let method = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(method.as_bytes()).ok()
}

impl Cors {
    /// The answer to a preflight; `None` for a request that is none.
    ///
    /// # Errors
    /// `origin_not_allowed`.
    pub fn preflight(&self, head: &Parts) -> Result<Option<Response<ResponseBody>>, Error> {
        if asked(head).is_none() {
            return Ok(None);
        }
        let mut share = self.share(head);
        // There is nothing to read in this answer.
        share.expose = None;
        if share.origin.is_none() {
            return Err(Reason::OriginNotAllowed.into());
        }
        let mut response = Response::new(ResponseBody::mesh(Bytes::new()));
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        share.apply(headers);
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
        Ok(Some(response))
    }

    /// What the answer to a request will say.
    pub fn share(&self, head: &Parts) -> Share {
        let origin = match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => {
                let mut sent = head.headers.get_all(ORIGIN).iter();
                let one = sent.next().filter(|_| sent.next().is_none());
                let allowed = |sent: &&HeaderValue| {
                    let mut origins = origins.iter();
                    sent.to_str()
                        .is_ok_and(|sent| origins.any(|origin| origin.is(sent)))
                };
                one.filter(allowed).cloned()
            }
        };
        Share {
            varies: self.origins.is_some(),
            credentials: self.credentials && origin.is_some(),
            expose: self.expose.clone().filter(|_| origin.is_some()),
            origin,
        }
    }
}

impl Cors {
    /// Whether a page of the request's origin may be given what no browser would keep from it; with `credentials`,
    /// what the browser has added to the request of itself, cookies above all.
    pub fn admits(&self, head: &Parts, credentials: bool) -> bool {
        self.share(head).origin.is_some() && (self.credentials || !credentials)
    }
}

impl Origin {
    fn is(&self, sent: &str) -> bool {
        match self {
            Self::Exact(origin) => origin == sent,
            Self::AnyLabel(before, after) => {
                let label = sent.strip_prefix(before.as_str());
                let label = label.and_then(|rest| rest.strip_suffix(after.as_str()));
                label.is_some_and(|label| {
                    let of_a_label =
                        |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
                    !label.is_empty() && label.bytes().all(of_a_label)
                })
            }
        }
    }
}

impl Share {
    /// Puts it into an answer, in place of whatever that says of it.
    pub fn apply(self, headers: &mut HeaderMap) {
        for name in &OWN {
            headers.remove(name);
        }
        if let Some(origin) = self.origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        if let Some(expose) = self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose);
        }
        if self.credentials {
            let allowed = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, allowed);
        }
        if self.varies && !varies_by_origin(headers) {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(VARY).iter();
    let mut names = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    names.any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("origin"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn of(origins: &[&str]) -> mesh::Cors {
        mesh::Cors {
            allow_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn head(method: Method, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    /// What an answer to a GET of this origin says.
    fn answer(cors: &Cors, origin: &str, headers: &mut HeaderMap) {
        cors.share(&head(Method::GET, &[("origin", origin)]))
            .apply(headers);
    }

    fn allowed(cors: &Cors, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        answer(cors, origin, &mut headers);
        match headers.get(ACCESS_CONTROL_ALLOW_ORIGIN) {
            Some(allowed) => allowed == origin,
            None => false,
        }
    }

    #[test]
    fn an_origin_is_allowed_as_a_whole_or_with_one_label_of_any_name() {
        let cors = Cors::build(of(&["https://a.example", "https://*.example.com:8443"])).unwrap();
        for origin in [
            "https://a.example",
            "https://x.example.com:8443",
            "https://x-1_y.example.com:8443",
        ] {
            assert!(allowed(&cors, origin), "{origin}");
        }
        for origin in [
            "http://a.example",
            "https://a.example:444",
            "https://A.example",
            "https://b.a.example",
            "https://example.com:8443",
            "https://.example.com:8443",
            "https://x.y.example.com:8443",
            "https://x.example.com",
            "https://evil.com/.example.com:8443",
            "https://evil.com:1.example.com:8443",
            "https://u@x.example.com:8443",
            "null",
            "*",
        ] {
            assert!(!allowed(&cors, origin), "{origin}");
        }
    }

    #[test]
    fn the_answer_varies_where_it_depends_on_the_origin_and_the_backends_headers_go() {
        let cors = Cors::build(mesh::Cors {
            expose_headers: vec!["x-a".into(), "x-b".into()],
            allow_credentials: true,
            ..of(&["https://a.example"])
        })
        .unwrap();
        let backends = || {
            let mut headers = HeaderMap::new();
            for name in &OWN {
                headers.append(name, HeaderValue::from_static("*"));
                headers.append(name, HeaderValue::from_static("backend"));
            }
            headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
            headers
        };
        let mut headers = backends();
        answer(&cors, "https://a.example", &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(headers[ACCESS_CONTROL_EXPOSE_HEADERS], "x-a, x-b");
        assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_METHODS));
        let vary = Vec::from_iter(headers.get_all(VARY));
        assert_eq!(vary, ["accept-encoding", "Origin"]);
        assert_eq!(headers.len(), 5);

        let mut headers = backends();
        answer(&cors, "https://b.example", &mut headers);
        assert_eq!(Vec::from_iter(headers.keys()), [VARY]);
        // Two origins are none, and so is no origin; the answer would differ all the same.
        for origins in [&[][..], &[("origin", "https://a.example"); 2]] {
            let mut headers = HeaderMap::new();
            cors.share(&head(Method::GET, origins)).apply(&mut headers);
            assert_eq!(Vec::from_iter(headers.keys()), [VARY]);
        }
        for vary in ["*", "accept, ORIGIN"] {
            let mut headers = HeaderMap::new();
            headers.insert(VARY, HeaderValue::from_static(vary));
            answer(&cors, "https://a.example", &mut headers);
            assert_eq!(headers.get_all(VARY).iter().count(), 1, "{vary}");
        }
    }

    #[test]
    fn what_is_for_everybody_says_so_and_does_not_vary() {
        let cors = Cors::build(of(&["https://a.example", "*"])).unwrap();
        let mut headers = HeaderMap::new();
        answer(&cors, "null", &mut headers);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!headers.contains_key(VARY));
    }

    #[test]
    fn a_preflight_is_answered_with_what_is_allowed_or_refused() {
        let cors = Cors::build(mesh::Cors {
            allow_methods: vec!["GET".into(), "PUT".into()],
            allow_headers: vec!["x-a".into()],
            expose_headers: vec!["x-b".into()],
            max_age_s: Some(600),
            ..of(&["https://a.example"])
        })
        .unwrap();
        let preflight = |origin| {
            let method = ("access-control-request-method", "DELETE");
            cors.preflight(&head(Method::OPTIONS, &[("origin", origin), method]))
        };
        let answer = preflight("https://a.example").unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let headers = answer.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET, PUT");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "x-a");
        assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "600");
        assert!(!headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS));
        let refused = preflight("https://b.example").map(drop).unwrap_err();
        assert_eq!(refused.reason, Reason::OriginNotAllowed);
        for no_preflight in [
            head(Method::OPTIONS, &[("origin", "https://a.example")]),
            head(Method::OPTIONS, &[("access-control-request-method", "PUT")]),
            head(
                Method::GET,
                &[
                    ("origin", "https://a.example"),
                    ("access-control-request-method", "PUT"),
                ],
            ),
        ] {
            assert!(cors.preflight(&no_preflight).unwrap().is_none());
        }
    }

    #[test]
    fn what_no_browser_would_follow_is_rejected() {
        let star = vec!["*".to_owned()];
        for bad in [
            of(&["a.example"]),
            of(&["https://"]),
            of(&["https://*"]),
            of(&["https://*."]),
            mesh::Cors {
                allow_credentials: true,
                ..of(&["*"])
            },
            mesh::Cors {
                allow_credentials: true,
                allow_headers: star.clone(),
                ..of(&["https://a.example"])
            },
            mesh::Cors {
                allow_credentials: true,
                expose_headers: star,
                ..of(&["https://a.example"])
            },
            mesh::Cors {
                allow_methods: vec!["GET PUT".into()],
                ..of(&["*"])
            },
            mesh::Cors {
                allow_headers: vec!["a\r\nb".into()],
                ..of(&["*"])
            },
        ] {
            assert!(Cors::build(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
