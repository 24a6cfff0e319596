//! Rewrite: the host and path that the application is told in place of those of the request.
//!
//! Phase: before all attempts, after routing, in the caller's sidecar. From
//! `ApiRoute.rules[].rewrite`. A path that cannot be sent is answered 400 with reason
//! `bad_request`. A prefix is replaced as Gateway API's `ReplacePrefixMatch` says (HTTPPathModifier).

use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use wire::mesh;
use wire::path::normalise;

use crate::proxy::error::{Error, Reason};

/// Changes of host and path.
#[derive(Debug)]
pub struct Rewrite {
    host: Option<HeaderValue>,
    path: Option<PathChange>,
}

/// A change of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This one, whatever it was.
    Full(String),
    /// This one in place of the prefix that matched; without a slash at its end.
    Prefix(String),
}

// === build ===

impl Rewrite {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Rewrite) -> Result<Self, String> {
        let host = match sent.host.as_str() {
            "" => None,
            host => {
                let authority = http::uri::Authority::try_from(host);
                authority.map_err(|_| format!("`{host}` is no host"))?;
                Some(HeaderValue::from_str(host).map_err(|error| error.to_string())?)
            }
        };
        Ok(Self {
            host,
            path: sent.path.map(PathChange::build).transpose()?,
        })
    }

    /// Whether it is asked how much of the path the rule's match was.
    pub fn replaces_prefix(&self) -> bool {
        matches!(self.path, Some(PathChange::Prefix(_)))
    }
}

impl PathChange {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::PathChange) -> Result<Self, String> {
        use mesh::path_change::Change;
        // What is forwarded has the normal form, as what was matched.
        let normal = |path: &str| {
            let form = normalise(path.as_bytes());
            form.map(String::from)
                .map_err(|why| format!("the path {path:?}: {why}"))
        };
        Ok(match sent.change.ok_or("a change of the path is empty")? {
            Change::Full(path) => Self::Full(normal(&path)?),
            Change::Prefix(prefix) if prefix.is_empty() => Self::Prefix(prefix),
            Change::Prefix(prefix) => {
                Self::Prefix(normal(&prefix)?.trim_end_matches('/').to_owned())
            }
        })
    }
}

// === request ===

impl Rewrite {
    /// Rewrites a request whose rule matched by the first `prefix` bytes of the path.
    ///
    /// # Errors
    /// `bad_request`.
    pub fn apply(&self, head: &mut Parts, prefix: usize) -> Result<(), Error> {
        let mut target = match &self.path {
            Some(change) => Some(change.target(&head.uri, prefix)?),
            None => head.uri.path_and_query().cloned(),
        };
        if let Some(host) = &self.host {
            head.headers.insert(HOST, host.clone());
            // Without an authority the header says the host.
            head.uri = target.take().map(Uri::from).unwrap_or_default();
        } else {
            let mut parts = std::mem::take(&mut head.uri).into_parts();
            parts.path_and_query = target;
            let bad = |_| Error::new(Reason::BadRequest, "the target is no path");
            head.uri = Uri::from_parts(parts).map_err(bad)?;
        }
        Ok(())
    }
}

impl PathChange {
    /// Path and query of `uri` after the change, which has matched by the first `prefix` bytes.
    ///
    /// # Errors
    /// `bad_request`.
    pub fn target(&self, uri: &Uri, prefix: usize) -> Result<PathAndQuery, Error> {
        let path = uri.path();
        let (first, rest) = match self {
            Self::Full(full) => (full.as_str(), ""),
            Self::Prefix(new) => (new.as_str(), path.get(prefix..).unwrap_or_default()),
        };
        let query = uri.query();
        let longest = first.len() + rest.len() + query.map_or(0, str::len) + 2;
        let mut target = String::with_capacity(longest);
        target.push_str(first);
        target.push_str(rest);
        if target.is_empty() {
            target.push('/');
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        let bad = |_| Error::new(Reason::BadRequest, "the target is no path");
        PathAndQuery::try_from(target).map_err(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use mesh::path_change::Change;

    fn rewrite(host: &str, change: Option<Change>) -> Rewrite {
        let path = change.map(|change| mesh::PathChange {
            change: Some(change),
        });
        let host = host.into();
        Rewrite::build(mesh::Rewrite { host, path }).unwrap()
    }

    fn head(uri: &str) -> Parts {
        Request::get(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_gateway_api_says() {
        // Prefixes are kept without a slash at their end, here and where they are matched.
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
            ("/", "", "/xyz", "/xyz/"),
            ("/", "", "/", "/"),
            ("/foo/%2F?a=/b?c", "/foo", "/xyz", "/xyz/%2F?a=/b?c"),
            ("/foo?a", "/foo", "/", "/?a"),
        ] {
            let rewrite = rewrite("", Some(Change::Prefix(replacement.into())));
            let mut head = head(path);
            rewrite.apply(&mut head, prefix.len()).unwrap();
            assert_eq!(head.uri, expected, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn what_is_forwarded_has_the_normal_form() {
        for (change, expected) in [
            (Change::Full("/%61//b/../c%2f".into()), "/a/c%2F"),
            (Change::Prefix("/%7Eme/".into()), "/~me/x"),
        ] {
            let mut head = head("/foo/x");
            let rewrite = rewrite("", Some(change));
            rewrite.apply(&mut head, "/foo".len()).unwrap();
            assert_eq!(head.uri, expected);
        }
    }

    #[test]
    fn a_whole_path_is_replaced_and_the_query_is_kept() {
        let rewrite = rewrite("", Some(Change::Full("/all/".into())));
        for (uri, expected) in [
            ("/a/b", "/all/"),
            ("/a?b=c", "/all/?b=c"),
            ("http://orders:81/a?b", "http://orders:81/all/?b"),
        ] {
            let mut head = head(uri);
            rewrite.apply(&mut head, 1).unwrap();
            assert_eq!(head.uri, expected);
        }
    }

    #[test]
    fn a_host_takes_the_place_of_header_and_authority() {
        let rewrite = rewrite("legacy.example", None);
        for uri in ["/a?b", "http://orders:81/a?b"] {
            let mut head = head(uri);
            head.headers
                .insert(HOST, HeaderValue::from_static("orders"));
            rewrite.apply(&mut head, 0).unwrap();
            assert_eq!(head.headers[HOST], "legacy.example");
            assert_eq!(head.uri, "/a?b");
        }
    }

    #[test]
    fn what_is_no_host_or_path_is_refused() {
        for (host, change) in [
            ("a b", None),
            ("a/b", None),
            ("", Some(Change::Full("a".into()))),
            ("", Some(Change::Full(String::new()))),
            ("", Some(Change::Full("/a?b".into()))),
            ("", Some(Change::Full("/a#b".into()))),
            ("", Some(Change::Full("/a%00".into()))),
            ("", Some(Change::Prefix("/..".into()))),
            ("", Some(Change::Prefix("a".into()))),
        ] {
            let sent = mesh::Rewrite {
                host: host.into(),
                path: change.map(|change| mesh::PathChange {
                    change: Some(change),
                }),
            };
            assert!(Rewrite::build(sent.clone()).is_err(), "{sent:?}");
        }
    }
}
