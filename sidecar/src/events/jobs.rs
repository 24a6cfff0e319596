//! Jobs: events of which those who publish them fetch later what was replied.
//!
//! Whoever publishes one is answered with a token, of 128 random bits. The event has a hash of it in an extension,
//! and so has what is replied to it: nobody who is given events can fetch what comes of them, or make up what would
//! come of others'. In the store stands who may fetch it, before anything is published ([`begin`]), and then what was
//! replied ([`keep`]), which the broker holds until the store does; [`fetch`] gives it to nobody else.

pub mod fetch;
pub(super) mod keep;
mod stored;

use std::rc::Rc;

use http::Response;
use http::header::{CACHE_CONTROL, HeaderValue, LOCATION, RETRY_AFTER};

use super::cloud_event::{Event, Malformed};
use super::publish::{digest, hex};
use crate::config::async_reply::Kept;
use crate::net::resp::{Reply, command};
use crate::policy::idempotency::key::Principal;
use crate::proxy::Proxy;
use crate::proxy::body::ResponseBody;
use crate::proxy::error::{Error, Reason};
use crate::proxy::store::Use;

/// The extension that says which job an event belongs to.
pub(super) const JOB: &str = "meshwrightjob";

/// After how many seconds one who waits may ask again.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// What a result is fetched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token([u8; 16]);

/// The store does not answer, or not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unavailable;

/// Notes who may fetch what comes of an event, that is known by `known`: of the same one again it is the same token,
/// for as long as the job is kept.
pub(super) async fn begin(
    px: &Rc<Proxy>,
    kept: &Kept,
    who: Principal,
    known: &str,
) -> Result<Token, Unavailable> {
    let one = digest(&[who.as_bytes(), known.as_bytes()]);
    let asked = named(kept, "asked", &hex(&one[..16]));
    let fresh = Token::draw();
    let token = match set(px, kept, &asked, fresh.text().as_bytes()).await? {
        true => fresh,
        false => {
            // One that has just ended is not told of; who asks again is the first.
            let text = get(px, kept, &asked).await?.ok_or(Unavailable)?;
            let text = str::from_utf8(&text).map_err(|_| Unavailable)?;
            Token::read(text).ok_or(Unavailable)?
        }
    };
    let waits = named(kept, "waits", &token.job());
    set(px, kept, &waits, who.as_bytes()).await?;
    Ok(token)
}

/// Has a reply belong to the job of what it replies to.
///
/// # Errors
/// That it has as many attributes as one may.
pub(super) fn carry_on(reply: &mut Event, event: &Event) -> Result<(), Malformed> {
    match event.attribute(JOB) {
        Some(job) => reply.set(JOB, job),
        None => Ok(()),
    }
}

/// Whether a text may name a job: 128 bits in base 16, as tokens are.
fn is_job(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 32 && text.bytes().all(is_digit)
}

/// Where something of a job stands.
fn named(kept: &Kept, what: &str, which: &str) -> Vec<u8> {
    format!("meshwright:job:{}:{what}:{which}", kept.name).into_bytes()
}

/// Sets what was not set, for as long as jobs are kept; whether it was not.
async fn set(px: &Rc<Proxy>, kept: &Kept, name: &[u8], value: &[u8]) -> Result<bool, Unavailable> {
    let lives = kept.time_to_live.as_millis().to_string();
    let words = [b"SET", name, value, b"NX", b"PX", lives.as_bytes()];
    match ask(px, kept, &words).await? {
        Reply::Status(_) => Ok(true),
        Reply::Bulk(None) => Ok(false),
        _ => Err(Unavailable),
    }
}

async fn get(px: &Rc<Proxy>, kept: &Kept, name: &[u8]) -> Result<Option<Vec<u8>>, Unavailable> {
    match ask(px, kept, &[b"GET", name]).await? {
        Reply::Bulk(value) => Ok(value),
        _ => Err(Unavailable),
    }
}

async fn ask(px: &Rc<Proxy>, kept: &Kept, words: &[&[u8]]) -> Result<Reply, Unavailable> {
    let address = kept.store.as_ref().ok_or(Unavailable)?;
    let words = Vec::from_iter(words.iter().map(|word| word.to_vec()));
    let store = px.stores.at(px, address, Use::Jobs);
    store.ask(command(&words)).await.map_err(|_| Unavailable)
}

/// Nothing is known of any job.
pub(super) fn unavailable(kept: &Kept) -> Error {
    let why = format!("the store of {} does not answer", kept.name);
    Error::new(Reason::JobsUnavailable, why)
}

// === impl Token ===

impl Token {
    fn draw() -> Self {
        Self(rand::random())
    }

    fn read(text: &str) -> Option<Self> {
        if !is_job(text) {
            return None;
        }
        let number = u128::from_str_radix(text, 16).ok()?;
        Some(Self(number.to_be_bytes()))
    }

    fn text(self) -> String {
        hex(&self.0)
    }

    /// What events know the job by.
    pub(super) fn job(self) -> String {
        hex(&digest(&[JOB.as_bytes(), &self.0])[..16])
    }

    /// Has an event belong to the job, and to none that it says itself.
    ///
    /// # Errors
    /// That it has as many attributes as one may.
    pub(super) fn mark(self, event: &mut Event) -> Result<(), Malformed> {
        event.set(JOB, self.job())
    }

    /// Tells whoever has published it where to fetch what comes of it.
    pub(super) fn tell(self, kept: &Kept, response: &mut Response<ResponseBody>) {
        let headers = response.headers_mut();
        // A path of ours has no character that a header has not.
        if let Ok(place) = HeaderValue::try_from(format!("{}/{}", kept.path, self.text())) {
            headers.insert(LOCATION, place);
        }
        headers.insert(RETRY_AFTER, AGAIN);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_drawn_and_nobody_can_tell_it_by_what_events_say() {
        let (one, other) = (Token::draw(), Token::draw());
        assert_ne!(one, other);
        assert_eq!(Token::read(&one.text()), Some(one));
        assert_eq!(one.job().len(), 32);
        assert_ne!(one.job(), one.text());
        assert_ne!(one.job(), other.job());
        for text in ["", "0", &"A".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert_eq!(Token::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_reply_belongs_to_the_job_of_what_it_replies_to_and_an_event_to_none_that_it_says() {
        let (token, other) = (Token::draw(), Token::draw());
        let mut event = Event::trusted("1", "/a", "t");
        other.mark(&mut event).unwrap();
        token.mark(&mut event).unwrap();
        assert_eq!(event.attribute(JOB), Some(&*token.job()));
        let mut reply = Event::trusted("2", "/b", "t");
        other.mark(&mut reply).unwrap();
        carry_on(&mut reply, &event).unwrap();
        assert_eq!(reply.attribute(JOB), Some(&*token.job()));
        // Of what belongs to none, a reply keeps what it says: who answers later says it itself.
        carry_on(&mut reply, &Event::trusted("3", "/a", "t")).unwrap();
        assert_eq!(reply.attribute(JOB), Some(&*token.job()));
    }
}
