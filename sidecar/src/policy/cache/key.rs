//! What tells answers apart before their `Vary` does: port, host, path, the chosen part of the query,
//! the chosen headers, and those that say what was asked of whoever is in front; at the caller's side also by which rule it goes where, and who asks.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use http::header::{FORWARDED, HOST, HeaderMap, HeaderName};
use http::request::Parts;

use super::principal::Credentials;
use crate::config::route::query::parameters;
use crate::proxy::headers::says_what_was_asked;

/// Which parts of a request tell answers apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Headers.
    pub headers: Vec<HeaderName>,
    /// Parameters of the query, decoded; all of it where there is no list.
    pub query: Option<Vec<String>>,
    /// At the caller's side, where credentials are: each tells answers apart, by its hash.
    pub credentials: Option<Credentials>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub struct To<'r> {
    /// The port that was called.
    pub port: u16,
    /// At the caller's side, who answers.
    pub by: Option<By<'r>>,
}

/// Who answers a request, as its caller's sidecar finds it.
#[derive(Clone, Copy, Debug)]
pub struct By<'r> {
    /// The rule that sends it there.
    pub rule: &'r str,
    /// `namespace/service`.
    pub service: &'r str,
    /// Its port.
    pub port: u16,
    /// The one endpoint that is meant, if it was called by its own address.
    pub endpoint: Option<SocketAddr>,
}

/// The key of what is kept. Its parts end in line feeds, which none of them can have.
#[derive(Clone, Debug)]
pub struct Key {
    text: Box<[u8]>,
    /// Where the path begins and ends.
    path: (u32, u32),
}

// === impl Key ===

impl Key {
    /// Of a request.
    pub fn of(to: To<'_>, head: &Parts, chosen: &Chosen) -> Self {
        let own = chosen.credentials.as_ref();
        let mut text = place(to.port, head);
        let begins = text.len();
        text.extend_from_slice(head.uri.path().as_bytes());
        let ends = text.len();
        text.push(b'\n');
        let names = chosen.query.as_ref();
        // There are applications for which `;` divides parameters as `&` does.
        let names = names.filter(|_| !head.uri.query().is_some_and(|all| all.contains(';')));
        match (names, head.uri.query()) {
            (_, None) => {}
            // `/a?` is not `/a`.
            (None, Some(query)) => {
                text.push(b'?');
                let query = own.map_or(Cow::Borrowed(query), |own| own.without(query));
                text.extend_from_slice(query.as_bytes());
            }
            (Some(names), Some(query)) => {
                let plain = |name: &str| !own.is_some_and(|own| own.has_parameter(name));
                let chosen = |sent: &[u8]| {
                    let mut names = names.iter();
                    names.any(|name| name.as_bytes() == sent && plain(name))
                };
                choose(chosen, query, &mut text);
            }
        }
        text.push(b'\n');
        let plain = |name: &&HeaderName| !own.is_some_and(|own| own.has_header(name));
        for name in chosen.headers.iter().filter(plain) {
            put_header(&head.headers, name, &mut text);
        }
        let mut asked =
            Vec::from_iter(head.headers.keys().filter(|name| says_what_was_asked(name)));
        asked.sort_unstable_by_key(|name| name.as_str());
        for name in asked {
            text.extend_from_slice(name.as_str().as_bytes());
            put_header(&head.headers, name, &mut text);
        }
        put_forwarded(&head.headers, &mut text);
        if let Some(by) = to.by {
            let endpoint = by.endpoint.map(|one| one.to_string());
            let endpoint = endpoint.unwrap_or_default();
            for part in [by.rule, by.service, &by.port.to_string(), &endpoint] {
                text.extend_from_slice(part.as_bytes());
                text.push(b'\n');
            }
        }
        if let Some(own) = own {
            // It ends where the key does: that it may have line feeds in it makes no difference.
            text.extend_from_slice(&own.hash(head));
        }
        let place = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            text: text.into(),
            path: (place(begins), place(ends)),
        }
    }

    /// The path that was asked for.
    pub fn path(&self) -> &[u8] {
        let (begins, ends) = self.path;
        self.text
            .get(begins as usize..ends as usize)
            .unwrap_or_default()
    }

    /// Everything before the query: what an unsafe request makes worthless.
    pub fn target(&self) -> &[u8] {
        self.text.get(..self.path.1 as usize).unwrap_or_default()
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Never: it has a port.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl From<u16> for To<'_> {
    /// A port of the application.
    fn from(port: u16) -> Self {
        Self { port, by: None }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// Port and host of a request, as [`Key::target`] begins.
pub fn place(port: u16, head: &Parts) -> Vec<u8> {
    let mut text = Vec::with_capacity(128);
    text.extend_from_slice(port.to_string().as_bytes());
    text.push(b'\n');
    text.extend(authority(head).iter().map(u8::to_ascii_lowercase));
    text.push(b'\n');
    text
}

/// Host and port that a request names.
pub fn authority(head: &Parts) -> &[u8] {
    match head.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => head.headers.get(HOST).map_or(b"", |host| host.as_bytes()),
    }
}

/// The parameters of these names, in the order in which they were written, in one spelling: bytes that
/// are no UTF-8 as they are.
fn choose(chosen: impl Fn(&[u8]) -> bool, query: &str, text: &mut Vec<u8>) {
    let pairs = parameters(query.as_bytes());
    for (name, value) in pairs.filter(|(name, _)| chosen(name)) {
        for (sign, part) in [(b'&', name), (b'=', value)] {
            text.push(sign);
            for piece in form_urlencoded::byte_serialize(&part) {
                text.extend_from_slice(piece.as_bytes());
            }
        }
    }
}

fn put_header(headers: &HeaderMap, name: &HeaderName, text: &mut Vec<u8>) {
    if let Some(value) = line(headers, name) {
        text.push(b'=');
        text.extend_from_slice(&value);
    }
    text.push(b'\n');
}

/// What `Forwarded` (RFC 7239) says of what was asked, and not of who asks; all of it where something
/// in it is quoted.
fn put_forwarded(headers: &HeaderMap, text: &mut Vec<u8>) {
    let Some(all) = line(headers, &FORWARDED) else {
        return;
    };
    if all.contains(&b'"') {
        text.extend_from_slice(&all);
    } else {
        let pairs = all.split(|byte| matches!(byte, b',' | b';'));
        let pairs = pairs.map(|pair| pair.trim_ascii().to_ascii_lowercase());
        for pair in pairs.filter(|pair| pair.starts_with(b"host") || pair.starts_with(b"proto")) {
            text.push(b';');
            text.extend_from_slice(&pair);
        }
    }
    text.push(b'\n');
}

/// All lines of a header as one (RFC 9110 section 5.3); nothing where there is none.
pub(super) fn line(headers: &HeaderMap, name: &HeaderName) -> Option<Box<[u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut joined = lines.next()?.as_bytes().trim_ascii().to_vec();
    for line in lines {
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes().trim_ascii());
    }
    Some(joined.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn key(target: &str, headers: &[(&str, &str)], chosen: &Chosen) -> Key {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Key::of(80.into(), &request.body(()).unwrap().into_parts().0, chosen)
    }

    #[test]
    fn the_whole_query_as_it_was_written_tells_answers_apart_unless_parameters_are_chosen() {
        let all = Chosen::default();
        let of = |target: &str| key(target, &[("host", "orders")], &all);
        assert_eq!(of("/a?x=1"), of("/a?x=1"));
        for other in ["/a", "/a?", "/a?x=2", "/a?y=1&x=1", "/b?x=1", "/a?%78=1"] {
            assert_ne!(of("/a?x=1"), of(other), "{other}");
        }
        assert_eq!(of("/a?x=1").path(), b"/a");
        assert_eq!(of("/a?x=1").target(), of("/a").target());

        let chosen = Chosen {
            query: Some(vec!["page".into(), "q".into()]),
            ..Chosen::default()
        };
        let of = |target: &str| key(target, &[("host", "orders")], &chosen);
        assert_eq!(of("/a?page=1&utm=x"), of("/a?utm=y&%70age=1"));
        assert_eq!(of("/a"), of("/a?utm=x"));
        assert_ne!(of("/a?page=1"), of("/a?page=2"));
        assert_ne!(of("/a?page=1"), of("/a?page=1&page=2"));
        // No value can be written so that it passes for two parameters.
        assert_ne!(of("/a?page=1&q=2"), of("/a?page=1%26q%3D2"));
        // What is no UTF-8 is told apart, and what may be divided otherwise is one whole.
        assert_eq!(of("/a?q=%e8"), of("/a?q=%E8"));
        assert_ne!(of("/a?q=%E8"), of("/a?q=%E9"));
        assert_ne!(of("/a?q=%E8"), of("/a?q=%EF%BF%BD"));
        assert_ne!(of("/a?q=1;utm=x"), of("/a?q=1;utm=y"));
        assert_ne!(of("/a?utm=x;q=1"), of("/a?utm=x;q=2"));
    }

    #[test]
    fn hosts_ports_and_chosen_headers_tell_answers_apart() {
        let chosen = Chosen {
            headers: vec![HeaderName::from_static("x-tenant")],
            ..Chosen::default()
        };
        let of = |headers: &[(&str, &str)]| key("/a", headers, &chosen);
        let one = of(&[("host", "Orders"), ("x-tenant", "a")]);
        assert_eq!(one, of(&[("host", "orders"), ("X-Tenant", " a ")]));
        for other in [
            &[("host", "orders"), ("x-tenant", "b")][..],
            &[("host", "orders")],
            &[("host", "orders"), ("x-tenant", "")],
            &[("host", "orders"), ("x-tenant", "a"), ("x-tenant", "a")],
            &[("host", "orders:81"), ("x-tenant", "a")],
        ] {
            assert_ne!(one, of(other), "{other:?}");
        }
        assert_ne!(of(&[("host", "a")]), of(&[("host", "a"), ("x-tenant", "")]));
        let asked = [
            &[("x-forwarded-proto", "https")][..],
            &[("x-forwarded-proto", "http")],
            &[("x_forwarded_proto", "https")],
            &[("x-forwarded-host", "https")],
            &[("x-forwarded-port", "81")],
            &[("x-forwarded-prefix", "/a")],
            &[("forwarded", "for=10.0.0.1;host=a;proto=https")],
            &[("forwarded", "for=10.0.0.1;host=b;proto=https")],
            &[("forwarded", "for=10.0.0.1;host=\"a;b\"")],
            &[],
        ];
        for (place, one) in asked.iter().enumerate() {
            let same = asked.iter().filter(|other| of(one) == of(other));
            assert_eq!(same.count(), 1, "{place}");
        }
        assert_eq!(of(&[]), of(&[("x-forwarded-for", "10.0.0.1")]));
        assert_eq!(
            of(&[("forwarded", "for=10.0.0.1; Host=a")]),
            of(&[("forwarded", "host=a;for=10.0.0.2")])
        );
        let request = Request::get("http://orders/a").body(()).unwrap();
        let (head, ()) = request.into_parts();
        assert_eq!(
            Key::of(80.into(), &head, &chosen),
            of(&[("host", "orders")])
        );
        assert_ne!(
            Key::of(81.into(), &head, &chosen),
            Key::of(80.into(), &head, &chosen)
        );
    }

    #[test]
    fn at_the_callers_side_rules_backends_and_credentials_tell_answers_apart_but_not_their_targets()
    {
        let credentials = Credentials::build(&["x-api-key".into()], vec!["key".into()]).unwrap();
        let chosen = Chosen {
            headers: vec![HeaderName::from_static("x-api-key")],
            query: None,
            credentials: Some(credentials),
        };
        let by = |rule: &'static str, service: &'static str, port| To {
            port: 80,
            by: Some(By {
                rule,
                service,
                port,
                endpoint: None,
            }),
        };
        let of = |to: To<'_>, target: &str, headers: &[(&str, &str)]| {
            let mut request = Request::get(target).header("host", "orders");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            Key::of(to, &request.body(()).unwrap().into_parts().0, &chosen)
        };
        let usual = || by("read", "shop/orders", 80);
        let mut one_pod = usual();
        if let Some(by) = &mut one_pod.by {
            by.endpoint = Some(([10, 0, 0, 1], 80).into());
        }
        let one = of(usual(), "/a?b", &[]);
        assert_eq!(one, of(usual(), "/a?b", &[("accept", "x")]));
        for other in [
            of(by("beta", "shop/orders", 80), "/a?b", &[]),
            of(by("read", "shop/orders-v2", 80), "/a?b", &[]),
            of(by("read", "shop/orders", 81), "/a?b", &[]),
            of(one_pod, "/a?b", &[]),
            of(usual(), "/a?b", &[("authorization", "Bearer secret")]),
            of(usual(), "/a?b", &[("cookie", "session=secret")]),
            of(usual(), "/a?b", &[("x-api-key", "secret")]),
            of(usual(), "/a?b&key=secret", &[]),
            of(usual(), "/a?key=secret&b", &[("x-api-key", "secret")]),
        ] {
            assert_ne!(one, other);
            // Whoever changes what is there changes it for all.
            assert_eq!(one.target(), other.target());
            let plain = other.text.windows(6).any(|bytes| bytes == b"secret");
            assert!(!plain, "a credential stands in a key");
        }
    }
}
