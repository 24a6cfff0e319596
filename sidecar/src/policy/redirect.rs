//! Redirect: the caller is told to ask elsewhere.
//!
//! Phase: instead of any attempt, in the caller's sidecar. From `ApiRoute.rules[].redirect`. The
//! client sees the status of the rule and a `Location` made as Gateway API's HTTPRequestRedirect
//! says: what the rule does not change is the request's own, query included. The port is the
//! rule's, else that of the rule's scheme, else the one that was called; where the scheme implies
//! it, it is left out. A request that names no host is answered 400 with reason `bad_request`.

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Response, StatusCode};
use wire::mesh;

use super::rewrite::PathChange;
use crate::config::service::parse_port;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::{Error, Reason};
use crate::proxy::headers;

/// Where to ask.
#[derive(Debug)]
pub struct Redirect {
    scheme: Option<Scheme>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<PathChange>,
    status: StatusCode,
}

/// A scheme, and the port that it implies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http = 80,
    Https = 443,
}

// === build ===

impl Redirect {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Redirect) -> Result<Self, String> {
        let scheme = match sent.scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => return Err(format!("`{other}` is no scheme")),
        };
        let host = (!sent.host.is_empty()).then_some(sent.host);
        if let Some(host) = &host {
            is_host(host).map_err(|()| format!("`{host}` is no host"))?;
        }
        let status = u16::try_from(sent.status).ok();
        let status = status
            .filter(|status| [301, 302, 303, 307, 308].contains(status))
            .and_then(|status| StatusCode::from_u16(status).ok());
        Ok(Self {
            scheme,
            host,
            port: sent.port.map(parse_port).transpose()?,
            path: sent.path.map(PathChange::build).transpose()?,
            status: status.ok_or_else(|| format!("{} is no redirect", sent.status))?,
        })
    }
}

fn is_host(host: &str) -> Result<(), ()> {
    let authority = Authority::try_from(host).map_err(drop)?;
    (authority.host() == host).then_some(()).ok_or(())
}

// === request ===

impl Redirect {
    /// The answer to a request that called `port`, and whose rule matched by the first `prefix`
    /// bytes of the path.
    ///
    /// # Errors
    /// `bad_request`.
    pub fn answer(
        &self,
        head: &Parts,
        port: u16,
        prefix: usize,
    ) -> Result<Response<ResponseBody>, Error> {
        let bad = |why: &str| Error::new(Reason::BadRequest, why);
        let host = match &self.host {
            Some(host) => host,
            None => headers::host(head)
                .filter(|host| is_host(host).is_ok())
                .ok_or_else(|| bad("the request names no host"))?,
        };
        let scheme = self.scheme.unwrap_or(Scheme::Http);
        let port = self.port.unwrap_or(match self.scheme {
            Some(scheme) => scheme as u16,
            None => port,
        });
        let target = match &self.path {
            Some(change) => Some(change.target(&head.uri, prefix)?),
            None => head.uri.path_and_query().cloned(),
        };
        // Of `*` there is no other form.
        let target = target
            .filter(|target| target.as_str().starts_with('/'))
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let location = match port == scheme as u16 {
            true => format!("{}://{host}{target}", scheme.name()),
            false => format!("{}://{host}:{port}{target}", scheme.name()),
        };
        let location = HeaderValue::from_maybe_shared(Bytes::from(location));
        let location = location.map_err(|_| bad("the target cannot be sent back"))?;
        let mut response = Response::new(ResponseBody::mesh(Bytes::new()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use mesh::path_change::Change;

    fn sent() -> mesh::Redirect {
        mesh::Redirect {
            status: 302,
            ..Default::default()
        }
    }

    fn change(change: Change) -> Option<mesh::PathChange> {
        Some(mesh::PathChange {
            change: Some(change),
        })
    }

    /// Where a request to port 8080 for `/a/b?c` of `orders` is sent.
    fn location(sent: mesh::Redirect) -> String {
        let request = Request::get("/a/b?c").header("host", "orders:8080");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let answer = Redirect::build(sent).unwrap().answer(&head, 8080, 2);
        let answer = answer.unwrap();
        answer.headers()[LOCATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn what_is_not_changed_is_the_requests_own() {
        let to_host = mesh::Redirect {
            host: "example.org".into(),
            ..sent()
        };
        assert_eq!(location(to_host), "http://example.org:8080/a/b?c");
        let whole = mesh::Redirect {
            path: change(Change::Full("/new".into())),
            ..sent()
        };
        assert_eq!(location(whole), "http://orders:8080/new?c");
        let prefix = mesh::Redirect {
            path: change(Change::Prefix("/z".into())),
            ..sent()
        };
        assert_eq!(location(prefix), "http://orders:8080/z/b?c");
    }

    #[test]
    fn a_port_that_the_scheme_implies_is_left_out() {
        for (scheme, port, expected) in [
            ("", None, "http://orders:8080/a/b?c"),
            ("", Some(80), "http://orders/a/b?c"),
            ("", Some(443), "http://orders:443/a/b?c"),
            ("http", None, "http://orders/a/b?c"),
            ("http", Some(81), "http://orders:81/a/b?c"),
            ("https", None, "https://orders/a/b?c"),
            ("https", Some(443), "https://orders/a/b?c"),
            ("https", Some(80), "https://orders:80/a/b?c"),
        ] {
            let redirect = mesh::Redirect {
                scheme: scheme.into(),
                port,
                ..sent()
            };
            assert_eq!(location(redirect), expected, "{scheme} {port:?}");
        }
    }

    #[test]
    fn a_request_without_a_host_that_could_be_sent_back_is_refused() {
        let redirect = Redirect::build(mesh::Redirect {
            scheme: "https".into(),
            ..sent()
        })
        .unwrap();
        for host in [None, Some("a b"), Some("a/b?c"), Some("")] {
            let mut request = Request::get("/");
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            let error = redirect.answer(&head, 80, 0).map(drop).unwrap_err();
            assert_eq!(error.reason, Reason::BadRequest, "{host:?}");
        }
        let ipv6 = Request::get("/").header("host", "[::1]:8080");
        let (head, ()) = ipv6.body(()).unwrap().into_parts();
        let answer = redirect.answer(&head, 8080, 0).unwrap();
        assert_eq!(answer.headers()[LOCATION], "https://[::1]/");
    }

    #[test]
    fn what_is_no_redirect_is_rejected() {
        for bad in [
            mesh::Redirect {
                scheme: "ftp".into(),
                ..sent()
            },
            mesh::Redirect {
                host: "a:80".into(),
                ..sent()
            },
            mesh::Redirect {
                port: Some(0),
                ..sent()
            },
            mesh::Redirect {
                status: 304,
                ..sent()
            },
        ] {
            assert!(Redirect::build(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
