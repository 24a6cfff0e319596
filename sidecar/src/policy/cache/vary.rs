//! The headers of a request that an answer was made for (RFC 9111 section 4.1), as its `Vary` names
//! them. Their values may be secrets: hashes are kept of them.

use aws_lc_rs::digest::{Digest, SHA256, digest};
use http::header::{HeaderMap, HeaderName, VARY};

use super::directives::members;
use super::key::line;

/// Headers that an answer may be told apart by; one that names more is not kept.
const MAX: usize = 16;

/// What one of them takes, and a hash.
const BYTES: usize = 96;

/// What of a request an answer was made for.
#[derive(Clone, Debug)]
pub struct Selected(Box<[(HeaderName, Option<Digest>)]>);

// === impl Selected ===

impl Selected {
    /// What a response says; nothing where it may be different for any request.
    pub fn of(asked: &HeaderMap, response: &HeaderMap) -> Option<Self> {
        let mut selected: Vec<(HeaderName, Option<Digest>)> = Vec::new();
        let lines = response.get_all(VARY).iter();
        for name in lines.flat_map(|line| members(line.as_bytes())) {
            // `*` is no name, nor is what can't be one.
            let name = HeaderName::from_bytes(name)
                .ok()
                .filter(|name| name != "*")?;
            if selected.iter().all(|(one, _)| *one != name) {
                let value = hash(asked, &name);
                selected.push((name, value));
            }
        }
        selected.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        (selected.len() <= MAX).then(|| Self(selected.into()))
    }

    /// Whether a request with these headers is one of those.
    pub fn fits(&self, asked: &HeaderMap) -> bool {
        let mut all = self.0.iter();
        all.all(|(name, value)| bytes(&hash(asked, name)) == bytes(value))
    }

    /// Whether the same requests are meant.
    pub fn is(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        let mut pairs =
            pairs.map(|((name, value), (other, of))| name == other && bytes(value) == bytes(of));
        self.0.len() == other.0.len() && pairs.all(|same| same)
    }

    /// Bytes that it takes.
    pub fn len(&self) -> usize {
        self.0.len() * BYTES
    }

    /// Whether any request is meant.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn hash(asked: &HeaderMap, name: &HeaderName) -> Option<Digest> {
    Some(digest(&SHA256, &line(asked, name)?))
}

fn bytes(hash: &Option<Digest>) -> Option<&[u8]> {
    hash.as_ref().map(Digest::as_ref)
}
