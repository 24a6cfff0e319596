//! What tells calls apart: whose key it is, and what was asked with it.
//!
//! Nothing of a caller is kept but hashes.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};
use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use http::request::Parts;
use serde_json::Value;

use crate::identity::SpiffeId;
use crate::policy::authentication::Caller;

/// The claims by which a token says whose it is, beside its issuer: the first that is there.
const SUBJECTS: [&str; 3] = ["sub", "client_id", "azp"];

/// Who calls, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Principal([u8; 32]);

/// A principal's key for an ApiRoute, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

/// What was asked: method, host, path, query, media type, body and trailers, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A body, hashed as it comes.
pub struct BodyHash(Context);

// === impl Principal ===

impl Principal {
    /// Who calls by its consumer's key and its token, or else by the certificate of its workload. Those
    /// who prove nothing are one.
    ///
    /// A caller that has credentials may come by way of another workload the next time: the application
    /// is not told by which, so no answer depends on it.
    pub fn of(peer: Option<&SpiffeId>, callers: &[Caller]) -> Self {
        let mut known = BTreeSet::new();
        for caller in callers {
            if let Some(consumer) = &caller.consumer {
                known.insert(vec!["consumer".to_owned(), consumer.name.to_string()]);
            }
            if let Some(token) = &caller.token {
                let text = |name: &str| match token.claim(name) {
                    Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
                    Some(Value::Number(number)) => Some(number.to_string()),
                    _ => None,
                };
                let named = |name: &&str| Some(((*name).to_owned(), text(name)?));
                let subject = SUBJECTS.iter().find_map(named);
                // A token that does not say whose it is tells nobody apart.
                known.extend(subject.map(|(name, subject)| {
                    let issuer = text("iss").unwrap_or_default();
                    vec!["token".to_owned(), issuer, name, subject]
                }));
            }
        }
        if let (true, Some(peer)) = (known.is_empty(), peer) {
            known.insert(vec!["workload".to_owned(), peer.to_string()]);
        }
        let parts = known.iter().flatten().map(String::as_bytes);
        Self(hash(parts))
    }

    /// The hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

// === impl Key ===

impl Key {
    /// Of a principal, for the ApiRoute with this name. A copy of a request is not its original: it takes
    /// no key from that.
    pub fn of(object: &str, principal: Principal, key: &[u8], is_copy: bool) -> Self {
        let parts = [object.as_bytes(), &principal.0, key, &[is_copy.into()]];
        Self(hash(parts.into_iter()))
    }

    /// As it is called in a store that replicas share.
    pub fn name(self) -> String {
        // In braces, so that what stands beside it is in the same place of a cluster.
        format!("meshwright:idempotency:{{{}}}", hex(&self.0))
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Of a request.
    pub fn of(head: &Parts, body: BodyHash, trailers: Option<&HeaderMap>) -> Self {
        let target = head.uri.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        let media = head.headers.get(CONTENT_TYPE);
        let media = media.map_or(&b""[..], |media| media.as_bytes());
        let trailers = trailers.into_iter().flatten();
        let trailers =
            trailers.flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]);
        let host = head.headers.get(HOST).map(|host| host.as_bytes());
        let authority = head.uri.authority().map(|host| host.as_str().as_bytes());
        let body = body.0.finish();
        let first = [
            head.method.as_str().as_bytes(),
            host.or(authority).unwrap_or_default(),
            target.as_bytes(),
            media,
            body.as_ref(),
        ];
        Self(hash(first.into_iter().chain(trailers)))
    }

    /// As it stands in a store that replicas share.
    pub fn text(self) -> String {
        hex(&self.0)
    }
}

// === impl BodyHash ===

impl BodyHash {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// More of the body.
    pub fn more(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

impl Default for BodyHash {
    fn default() -> Self {
        Self::new()
    }
}

/// Of parts that do not run into each other.
fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut all = Context::new(&SHA256);
    for part in parts {
        all.update(&(part.len() as u64).to_be_bytes());
        all.update(part);
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(all.finish().as_ref()) {
        *to = *from;
    }
    hash
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
