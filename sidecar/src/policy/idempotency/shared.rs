//! Answers that replicas keep together: what is asked of the store, and what it answers.
//!
//! Whoever comes first with a key owns it until its call has ended, by the store's clock at the latest
//! when the application may take no longer: a sidecar that dies meanwhile leaves a key of which nothing
//! is known any more, and nobody makes its call again.

use std::sync::LazyLock;
use std::time::Duration;

use super::answer::Answer;
use super::key::{Fingerprint, Key};
use crate::net::resp::{Reply, Script, command};

/// What the store runs.
pub static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("shared.lua")));

/// Who has claimed a key: one request.
#[derive(Clone, Copy, Debug)]
pub struct Owner(u128);

/// What a key is when a request comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody's: the request is the first.
    First,
    /// Another request's.
    Other,
    /// Answered.
    Answered(Box<Answer>),
    /// That of a call under way.
    UnderWay,
    /// That of a call whose answer is not kept.
    Unknown,
}

/// How a call has ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// With this answer.
    Answered(Vec<u8>),
    /// Nobody knows how.
    Unknown,
    /// It was not carried out.
    Released,
}

// === impl Owner ===

impl Owner {
    /// One that nobody else is.
    pub fn new() -> Self {
        Self(rand::random())
    }

    fn word(self) -> Vec<u8> {
        format!("{:032x}", self.0).into_bytes()
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::new()
    }
}

/// Claims a key.
pub fn claim(
    key: Key,
    fingerprint: Fingerprint,
    owner: Owner,
    timeout: Duration,
    window: Duration,
) -> Vec<u8> {
    let millis = |span: Duration| span.as_millis().to_string().into_bytes();
    let words = [
        b"claim".to_vec(),
        owner.word(),
        fingerprint.text().into_bytes(),
        millis(timeout),
        millis(window),
    ];
    run(key, words)
}

/// What was answered to a claim; `None` for what is no answer to one.
pub fn claimed(reply: Reply) -> Option<Claimed> {
    let Reply::Array(parts) = reply else {
        return None;
    };
    let mut parts = parts.into_iter();
    Some(match (parts.next()?, parts.next()) {
        (Reply::Integer(0), None) => Claimed::First,
        (Reply::Integer(1), None) => Claimed::Other,
        (Reply::Integer(2), Some(Reply::Bulk(Some(answer)))) => {
            Claimed::Answered(Box::new(Answer::read(answer).ok()?))
        }
        (Reply::Integer(3), None) => Claimed::UnderWay,
        (Reply::Integer(4), None) => Claimed::Unknown,
        _ => return None,
    })
}

/// Says how the call of an owner has ended.
pub fn ended(key: Key, owner: Owner, ended: &Ended) -> Vec<u8> {
    let (what, answer) = match ended {
        Ended::Answered(answer) => ("answered", Some(answer.clone())),
        Ended::Unknown => ("unknown", None),
        Ended::Released => ("release", None),
    };
    let words = [what.as_bytes().to_vec(), owner.word()];
    run(key, words.into_iter().chain(answer))
}

fn run(key: Key, words: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let begin = [
        b"EVALSHA".to_vec(),
        SCRIPT.sha().as_bytes().to_vec(),
        b"1".to_vec(),
        key.name().into_bytes(),
    ];
    command(&Vec::from_iter(begin.into_iter().chain(words)))
}
