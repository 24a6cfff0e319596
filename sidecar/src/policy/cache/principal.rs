//! Who asks at the caller's side, where nobody has looked at credentials yet: whatever stands in the
//! places that destinations may let callers in by.
//!
//! Each of these places tells answers apart, whether what stands there is good or not: who sends
//! another credential, or none, asks for something else. So does whatever else destinations may decide
//! by: what one request is answered, another may be refused. Only a hash is kept, with a salt of its own.

use std::borrow::Cow;

use aws_lc_rs::digest::{Context, SHA256};
use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::request::Parts;

use crate::config::route::query::parameters;
use crate::proxy::headers::names_a_person;

/// Where credentials are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    headers: Vec<HeaderName>,
    /// Parameters of the query, decoded.
    query: Vec<String>,
    /// What destinations may decide by, and is no credential.
    deciding: Vec<HeaderName>,
    /// Whether the method is among that.
    by_method: bool,
    salt: [u8; 32],
}

// === build ===

impl Credentials {
    /// In these places, and where they always are; headers that name a person are among them.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(headers: &[String], query: Vec<String>) -> Result<Self, String> {
        let mut all = vec![AUTHORIZATION, COOKIE];
        for name in named("credential_headers", headers)? {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        Ok(Self {
            headers: all,
            query,
            deciding: Vec::new(),
            by_method: false,
            salt: rand::random(),
        })
    }

    /// The same, where destinations also decide by these headers, and by the method.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn and_decided_by(mut self, headers: &[String], by_method: bool) -> Result<Self, String> {
        self.deciding = named("deciding_headers", headers)?;
        self.by_method = by_method;
        Ok(self)
    }

    // === request ===

    /// Whether a request has any.
    pub fn are_in(&self, head: &Parts) -> bool {
        self.headers
            .iter()
            .any(|name| head.headers.contains_key(name))
            || head.headers.keys().any(names_a_person)
            || head.uri.query().is_some_and(|query| self.names(query))
    }

    /// Whether a header has some.
    pub fn has_header(&self, name: &HeaderName) -> bool {
        self.headers.contains(name) || names_a_person(name)
    }

    /// Whether a parameter has some.
    pub fn has_parameter(&self, name: &str) -> bool {
        self.query.iter().any(|one| one == name)
    }

    /// A query as it was written, without those in it.
    pub fn without<'q>(&self, query: &'q str) -> Cow<'q, str> {
        if !self.names(query) {
            return Cow::Borrowed(query);
        }
        let pairs = query.split('&').filter(|pair| !self.names(pair));
        Cow::Owned(Vec::from_iter(pairs).join("&"))
    }

    /// What tells a request's credentials from all others.
    pub fn hash(&self, head: &Parts) -> [u8; 32] {
        let mut hash = Context::new(&SHA256);
        hash.update(&self.salt);
        let mut put = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        // How many there are of each, so that none can pass for another's.
        for name in self.headers.iter().chain(&self.deciding) {
            let lines = head.headers.get_all(name);
            put(&(lines.iter().count() as u64).to_le_bytes());
            lines.iter().for_each(|line| put(line.as_bytes()));
        }
        if self.by_method {
            put(head.method.as_str().as_bytes());
        }
        let mut persons = Vec::from_iter(head.headers.keys().filter(|name| names_a_person(name)));
        persons.sort_unstable_by_key(|name| name.as_str());
        put(&(persons.len() as u64).to_le_bytes());
        for name in persons {
            let lines = head.headers.get_all(name);
            put(name.as_str().as_bytes());
            put(&(lines.iter().count() as u64).to_le_bytes());
            lines.iter().for_each(|line| put(line.as_bytes()));
        }
        let query = head.uri.query().unwrap_or_default();
        for name in &self.query {
            let values = parameters(query.as_bytes());
            let values = values.filter(|(sent, _)| **sent == *name.as_bytes());
            let values: Vec<_> = values.map(|(_, value)| value).collect();
            put(&(values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put(value));
        }
        let mut bytes = [0; 32];
        for (byte, of) in bytes.iter_mut().zip(hash.finish().as_ref()) {
            *byte = *of;
        }
        bytes
    }

    fn names(&self, query: &str) -> bool {
        let mut sent = parameters(query.as_bytes());
        !self.query.is_empty()
            && sent.any(|(name, _)| self.query.iter().any(|one| *one.as_bytes() == *name))
    }
}

fn named(field: &str, names: &[String]) -> Result<Vec<HeaderName>, String> {
    let names = names.iter().map(|name| {
        let header = HeaderName::from_bytes(name.as_bytes());
        header.map_err(|_| format!("{field}: {name:?} is no name of a header"))
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn credentials() -> Credentials {
        let headers = ["x-api-key".to_owned(), "authorization".to_owned()];
        Credentials::build(&headers, vec!["the key".to_owned()]).unwrap()
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn whatever_stands_in_a_place_of_credentials_tells_requests_apart_and_nothing_else_does() {
        let credentials = credentials();
        let of = |target: &str, headers: &[(&str, &str)]| credentials.hash(&head(target, headers));
        let nobody = of("/a", &[]);
        assert_eq!(nobody, of("/b?c=d", &[("accept", "x")]));
        let all = [
            of("/a", &[("authorization", "Bearer a")]),
            of("/a", &[("authorization", "Bearer b")]),
            of("/a", &[("authorization", "")]),
            of("/a", &[("authorization", "a"), ("authorization", "b")]),
            of("/a", &[("authorization", "a, b")]),
            of("/a", &[("cookie", "a")]),
            of("/a", &[("x-api-key", "a")]),
            of("/a", &[("x-forwarded-user", "a")]),
            of("/a", &[("x-forwarded-user", "b")]),
            of("/a", &[("x-remote-user", "a")]),
            of("/a", &[("x-remote-user", "a"), ("x-user", "b")]),
            of("/a?the%20key=a", &[]),
            of("/a?the+key", &[]),
            of("/a?the+key=a&the+key=b", &[]),
            of("/a?the+key=b&the+key=a", &[]),
            nobody,
        ];
        for (place, one) in all.iter().enumerate() {
            let same = all.iter().filter(|other| *other == one).count();
            assert_eq!(same, 1, "{place}");
        }
        // However it is written.
        assert_eq!(of("/a?the+key=a", &[]), of("/?x&th%65%20key=%61", &[]));
    }

    #[test]
    fn what_destinations_decide_by_tells_requests_apart_and_is_no_credential() {
        let decided = credentials().and_decided_by(&["x-role".to_owned()], true);
        let decided = decided.unwrap();
        let of = |headers: &[(&str, &str)]| decided.hash(&head("/a", headers));
        let all = [
            of(&[]),
            of(&[("x-role", "")]),
            of(&[("x-role", "admin")]),
            of(&[("x-role", "admin"), ("x-role", "admin")]),
            {
                let mut head = head("/a", &[]);
                head.method = http::Method::HEAD;
                decided.hash(&head)
            },
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[place + 1..].contains(one), "{place}");
        }
        assert!(!decided.are_in(&head("/a", &[("x-role", "admin")])));
        let none = credentials().and_decided_by(&["a b".to_owned()], false);
        assert!(none.unwrap_err().contains("deciding_headers"));
    }

    #[test]
    fn nobody_who_sees_a_hash_can_try_credentials_against_it() {
        let asked = head("/a", &[("authorization", "Bearer a")]);
        assert_ne!(credentials().hash(&asked), credentials().hash(&asked));
    }

    #[test]
    fn a_query_is_kept_without_the_credentials_in_it() {
        let credentials = credentials();
        assert_eq!(credentials.without("a=1&b"), "a=1&b");
        assert_eq!(credentials.without("a=1&the%20key=s&b&the+key"), "a=1&b");
        assert_eq!(credentials.without("the+key=s"), "");
        assert!(credentials.are_in(&head("/?the+key", &[])));
        assert!(credentials.are_in(&head("/", &[("cookie", "a=b")])));
        assert!(!credentials.are_in(&head("/?key", &[("accept", "x")])));
        assert!(Credentials::build(&["a b".into()], Vec::new()).is_err());
    }
}
