//! Where in a request a credential is, and how it is taken out.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use wire::mesh::{self, CredentialPlace};

use crate::config::route::query::parameters;

/// A place that a credential is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A header, behind a word and a space if there is one.
    Header(HeaderName, Option<Box<str>>),
    /// A parameter of the query, by its decoded name.
    Query(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// There is more than one credential, or one that is no text: nobody is to choose which is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

// === build ===

impl Place {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: &mesh::TokenSource) -> Result<Self, String> {
        let name = sent.name.as_str();
        if name.is_empty() {
            return Err("a place of credentials has no name".to_owned());
        }
        match CredentialPlace::try_from(sent.place) {
            Ok(CredentialPlace::Header) => {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| format!("`{name}` is no header"))?;
                let prefix = Some(sent.prefix.as_str()).filter(|prefix| !prefix.is_empty());
                Ok(Self::Header(name, prefix.map(Box::from)))
            }
            Ok(CredentialPlace::Query) => Ok(Self::Query(name.into())),
            Ok(CredentialPlace::Cookie) => Ok(Self::Cookie(name.into())),
            Ok(CredentialPlace::Unspecified) | Err(_) => {
                Err("a place of credentials is not known to this sidecar".to_owned())
            }
        }
    }

    // === request ===

    /// The credential that stands there, if any does.
    ///
    /// # Errors
    /// There are two, or it is no text.
    pub fn find<'r>(&self, head: &'r Parts) -> Result<Option<Cow<'r, str>>, Ambiguous> {
        match self {
            Self::Header(name, prefix) => {
                let lines = head.headers.get_all(name).iter();
                let lines = lines.filter_map(|line| behind(line, prefix.as_deref()));
                one(lines.map(|line| line.to_str().map(Cow::Borrowed).map_err(|_| Ambiguous)))
                    .map(|found| found.map(|text| behind_text(text, prefix.as_deref())))
            }
            Self::Query(name) => {
                let query = head.uri.query().unwrap_or_default();
                let named = parameters(query.as_bytes())
                    .filter(|(sent, _)| **sent == *name.as_bytes())
                    .map(|(_, value)| text(value));
                one(named)
            }
            Self::Cookie(name) => one(cookies(&head.headers, name).into_iter()),
        }
    }

    /// Takes out whatever stands there, and leaves everything else as it was.
    pub fn remove(&self, head: &mut Parts) {
        match self {
            Self::Header(name, prefix) => {
                let prefix = prefix.as_deref();
                keep(&mut head.headers, name, |line| {
                    behind(line, prefix).is_none().then(|| line.clone())
                });
            }
            Self::Query(name) => {
                if let Some(uri) = without_parameter(&head.uri, name) {
                    head.uri = uri;
                }
            }
            Self::Cookie(name) => keep(&mut head.headers, &COOKIE, |line| {
                let Ok(text) = line.to_str() else {
                    // What is no text has no cookie that anybody reads, and may hide this one.
                    return None;
                };
                let named = |pair: &str| {
                    let sent = pair.split_once('=').map_or(pair, |(sent, _)| sent);
                    sent.trim() == &**name
                };
                if !text.split(';').any(named) {
                    return Some(line.clone());
                }
                let others = text.split(';').map(str::trim).filter(|pair| !named(pair));
                let others = Vec::from_iter(others.filter(|pair| !pair.is_empty()));
                match others.is_empty() {
                    true => None,
                    false => HeaderValue::from_str(&others.join("; ")).ok(),
                }
            }),
        }
    }
}

/// The one that there is.
fn one<'r>(
    found: impl Iterator<Item = Result<Cow<'r, str>, Ambiguous>>,
) -> Result<Option<Cow<'r, str>>, Ambiguous> {
    let mut found = found.fuse();
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => one.map(Some),
        (Some(_), Some(_)) => Err(Ambiguous),
    }
}

/// A header's line that has a credential: behind the prefix and a space.
fn behind<'l>(line: &'l HeaderValue, prefix: Option<&str>) -> Option<&'l HeaderValue> {
    let Some(prefix) = prefix else {
        return Some(line);
    };
    let (word, rest) = line.as_bytes().split_at_checked(prefix.len())?;
    let fits = word.eq_ignore_ascii_case(prefix.as_bytes());
    (fits && rest.first().is_none_or(|byte| *byte == b' ')).then_some(line)
}

fn behind_text<'l>(line: Cow<'l, str>, prefix: Option<&str>) -> Cow<'l, str> {
    let skipped = prefix.map_or(0, str::len);
    match line {
        Cow::Borrowed(line) => Cow::Borrowed(line.get(skipped..).unwrap_or_default().trim()),
        Cow::Owned(line) => Cow::Owned(line.get(skipped..).unwrap_or_default().trim().to_owned()),
    }
}

fn text(value: Cow<'_, [u8]>) -> Result<Cow<'_, str>, Ambiguous> {
    match value {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes)
            .map(Cow::Borrowed)
            .map_err(|_| Ambiguous),
        Cow::Owned(bytes) => String::from_utf8(bytes)
            .map(Cow::Owned)
            .map_err(|_| Ambiguous),
    }
}

/// The values of a cookie (RFC 6265 section 4.2.1).
fn cookies<'r>(headers: &'r HeaderMap, name: &str) -> Vec<Result<Cow<'r, str>, Ambiguous>> {
    let mut found = Vec::new();
    for line in headers.get_all(COOKIE) {
        let Ok(line) = line.to_str() else {
            found.push(Err(Ambiguous));
            continue;
        };
        let pairs = line.split(';').filter_map(|pair| pair.split_once('='));
        let named = pairs.filter(|(sent, _)| sent.trim() == name);
        found.extend(named.map(|(_, value)| Ok(Cow::Borrowed(value.trim()))));
    }
    found
}

/// Changes the lines of a header; those that become nothing go.
fn keep(
    headers: &mut HeaderMap,
    name: &HeaderName,
    kept: impl Fn(&HeaderValue) -> Option<HeaderValue>,
) {
    if !headers.contains_key(name) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(name).iter().filter_map(kept).collect();
    headers.remove(name);
    for line in lines {
        headers.append(name, line);
    }
}

/// The URI without any parameter of that name; `None` when there is none.
fn without_parameter(uri: &Uri, name: &str) -> Option<Uri> {
    let query = uri.query()?;
    let named = |pair: &str| parameters(pair.as_bytes()).any(|(sent, _)| *sent == *name.as_bytes());
    if !query.split('&').any(named) {
        return None;
    }
    let rest = Vec::from_iter(query.split('&').filter(|pair| !named(pair))).join("&");
    let path = match rest.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{rest}", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn header(name: &'static str, prefix: Option<&str>) -> Place {
        Place::Header(HeaderName::from_static(name), prefix.map(Box::from))
    }

    fn head(uri: &str, lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_credential_is_found_in_its_place_and_nowhere_else() {
        let bearer = header("authorization", Some("Bearer"));
        let head = head(
            "/a?x=1&access_token=q%2Bq&y",
            &[
                ("authorization", "bEARER  abc "),
                ("x-api-key", "key"),
                ("cookie", "a=b; token=c=d; e"),
                ("cookie", "f=g"),
            ],
        );
        let found = |place: &Place| place.find(&head).unwrap().map(Cow::into_owned);
        assert_eq!(found(&bearer).as_deref(), Some("abc"));
        assert_eq!(found(&header("x-api-key", None)).as_deref(), Some("key"));
        assert_eq!(
            found(&Place::Query("access_token".into())).as_deref(),
            Some("q+q")
        );
        assert_eq!(found(&Place::Query("token".into())), None);
        assert_eq!(
            found(&Place::Cookie("token".into())).as_deref(),
            Some("c=d")
        );
        assert_eq!(found(&Place::Cookie("f".into())).as_deref(), Some("g"));
        assert_eq!(found(&Place::Cookie("access_token".into())), None);
        assert_eq!(found(&header("authorization", Some("Basic"))), None);
        assert_eq!(found(&header("authorization", Some("Bear"))), None);
    }

    #[test]
    fn of_two_credentials_none_is_chosen() {
        let two = head(
            "/?t=1&t=2",
            &[
                ("authorization", "Bearer a"),
                ("authorization", "Bearer b"),
                ("cookie", "t=1; t=1"),
            ],
        );
        for place in [
            header("authorization", Some("Bearer")),
            Place::Query("t".into()),
            Place::Cookie("t".into()),
        ] {
            assert_eq!(place.find(&two), Err(Ambiguous), "{place:?}");
        }
        let mut strange = head("/?t=%ff", &[]);
        let value = HeaderValue::from_bytes(b"Bearer \xff").unwrap();
        strange.headers.insert("authorization", value);
        assert_eq!(Place::Query("t".into()).find(&strange), Err(Ambiguous));
        let bearer = header("authorization", Some("Bearer"));
        assert_eq!(bearer.find(&strange), Err(Ambiguous));
    }

    #[test]
    fn what_is_taken_out_leaves_everything_else_as_it_was() {
        let mut head = head(
            "http://orders.shop/a?x=%41&to%6ben=1&y&token=2",
            &[
                ("authorization", "Bearer a"),
                ("authorization", "Basic b"),
                ("cookie", "a=b; token=c;  d=e"),
                ("cookie", "token=f"),
                ("cookie", "g=h;i=j"),
            ],
        );
        header("authorization", Some("Bearer")).remove(&mut head);
        Place::Query("token".into()).remove(&mut head);
        Place::Cookie("token".into()).remove(&mut head);
        assert_eq!(head.uri, "http://orders.shop/a?x=%41&y");
        let lines = |name: &str| {
            let lines = head.headers.get_all(name).iter();
            Vec::from_iter(lines.map(|line| line.to_str().unwrap().to_owned()))
        };
        assert_eq!(lines("authorization"), ["Basic b"]);
        assert_eq!(lines("cookie"), ["a=b; d=e", "g=h;i=j"]);
        let mut alone = super::tests::head("/a?token=1", &[("cookie", "token=1")]);
        Place::Query("token".into()).remove(&mut alone);
        Place::Cookie("token".into()).remove(&mut alone);
        assert_eq!(alone.uri, "/a");
        assert!(!alone.headers.contains_key("cookie"));
    }
}
