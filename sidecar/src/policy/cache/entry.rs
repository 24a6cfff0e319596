//! One answer that is kept: what may become one (RFC 9111 section 3), how old it is and how long it
//! is fresh (section 4.2), and whom it is for (section 4.1).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{
    AGE, CONTENT_LENGTH, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, SET_COOKIE,
    TRANSFER_ENCODING,
};
use http::{StatusCode, Version, response};
use tokio::time::Instant;

use super::directives::ResponseDirectives;
use super::freshness::{age, explicit, is_kept_by_default, is_of_one_request};
use super::status::CACHE_STATUS;
use super::store::Room;
use super::vary::Selected;

mod freshened;

pub use freshened::Freshened;

/// What the destination says of one request: what became of it in its cache, and what is left of its
/// limits.
const OF_ONE_REQUEST: [HeaderName; 6] = [
    CACHE_STATUS,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// What an entry takes beside its bytes: itself, and its places in tables.
const OVERHEAD: usize = 512;

/// How long answers are kept that say it, and those that don't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// How long an answer is fresh that says nothing of it; zero: it is not kept.
    pub default_ttl: Duration,
    /// How long one is given while a new one is fetched.
    pub stale_while_revalidate: Duration,
    /// How long one is given where there is no new one.
    pub stale_if_error: Duration,
    /// At the caller's side: how long ago what is given may have been asked for. Nothing is given there
    /// that is not fresh.
    pub at_caller: Option<Duration>,
}

/// When a response was asked for, and came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When it was asked for.
    pub asked: Instant,
    /// When its head had come.
    pub came: Instant,
    /// The same, as clocks on walls show it.
    pub wall: SystemTime,
}

/// The head of a response that may be kept.
#[derive(Clone, Debug)]
pub struct Draft {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    vary: Selected,
    life: Life,
}

/// An answer that is kept.
#[derive(Debug)]
pub struct Entry {
    status: StatusCode,
    /// In one piece of memory.
    headers: Box<[(HeaderName, HeaderValue)]>,
    vary: Selected,
    body: Body,
    life: Life,
    /// Which fetch it came with.
    pub(super) begun: u64,
}

/// The body of an answer, and the room that it takes for as long as anybody has it.
#[derive(Clone, Debug)]
pub struct Body {
    /// All of it.
    pub bytes: Bytes,
    /// What it takes.
    pub room: Arc<Room>,
}

/// How long something may be given.
#[derive(Clone, Copy, Debug)]
struct Life {
    came: Instant,
    /// How old it was then.
    age: Duration,
    fresh: Duration,
    while_revalidate: Duration,
    if_error: Duration,
    /// Not even to who takes stale answers.
    revalidate: bool,
    /// It was said to be for more than who sent credentials.
    for_all: bool,
}

/// Why a response is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It says so, or that it is for one caller alone.
    Says,
    /// It sets a cookie.
    Cookie,
    /// The request had credentials, and it doesn't say that it is for all.
    Credentials,
    /// It has a status that is not kept.
    Status,
    /// It may be different for any request.
    Varies,
    /// It is never fresh, and nothing can be asked about it.
    NeverFresh,
    /// Where it ends can't be told from where it breaks off.
    Endless,
    /// It is larger than one may be.
    Large,
    /// The mesh made it.
    OfTheMesh,
}

// === impl Draft ===

impl Draft {
    /// What of a response may be kept, given the headers of its request.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn of(
        asked: &HeaderMap,
        credentials: bool,
        head: &response::Parts,
        times: Times,
        spans: &Spans,
    ) -> Result<Self, Unfit> {
        Self::fit(
            asked,
            credentials,
            (head.status, head.version, &head.headers),
            times,
            spans,
        )
        .and_then(|draft| draft.whole(head, times.wall, spans.at_caller.is_some()))
    }

    fn fit(
        asked: &HeaderMap,
        credentials: bool,
        (status, version, headers): (StatusCode, Version, &HeaderMap),
        times: Times,
        spans: &Spans,
    ) -> Result<Self, Unfit> {
        let says = ResponseDirectives::of(headers);
        if says.no_store || says.private {
            return Err(Unfit::Says);
        }
        if headers.contains_key(SET_COOKIE) {
            return Err(Unfit::Cookie);
        }
        if credentials && !says.is_for_all() {
            return Err(Unfit::Credentials);
        }
        let explicit = explicit(&says, headers, times.wall);
        let usual = is_kept_by_default(status);
        let kept = match status {
            // Of a part nothing else can be answered, and a 304 has no answer in it.
            StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => false,
            _ if says.must_understand && !usual || is_of_one_request(status) => false,
            _ => usual || explicit.is_some() && !status.is_informational(),
        };
        if !kept {
            return Err(Unfit::Status);
        }
        let fresh = match explicit {
            Some(fresh) => fresh,
            None if usual => spans.default_ttl,
            None => Duration::ZERO,
        };
        let said = explicit.is_some() || says.no_cache || !fresh.is_zero();
        let asks = says.no_cache || says.must_revalidate || says.proxy_revalidate;
        // Where nobody decides whether the caller may still enter, nothing is given for longer.
        let revalidate = asks || spans.at_caller.is_some();
        // `s-maxage` alone forbids stale answers (RFC 9111 section 5.2.2.10); beside it, who writes
        // for how long one may be given means that.
        let implied = revalidate || says.s_maxage.is_some();
        let stale = |written: Option<Duration>, otherwise: Duration| match written {
            _ if revalidate => Duration::ZERO,
            Some(written) => written,
            None if implied => Duration::ZERO,
            None => otherwise,
        };
        let while_revalidate = stale(says.stale_while_revalidate, spans.stale_while_revalidate);
        let if_error = stale(says.stale_if_error, spans.stale_if_error);
        let fresh = if says.no_cache { Duration::ZERO } else { fresh };
        let age = age(headers, times);
        let fresh = match spans.at_caller {
            None => fresh,
            Some(most) => {
                let took = times.came.saturating_duration_since(times.asked);
                fresh.min(age.saturating_add(most.saturating_sub(took)))
            }
        };
        let validator = headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED);
        let useful = [fresh, while_revalidate, if_error];
        if !said || !validator && useful.iter().all(Duration::is_zero) {
            return Err(Unfit::NeverFresh);
        }
        Ok(Self {
            status,
            version,
            headers: headers.clone(),
            vary: Selected::of(asked, headers).ok_or(Unfit::Varies)?,
            life: Life {
                came: times.came,
                age,
                fresh,
                while_revalidate,
                if_error,
                revalidate: implied,
                for_all: says.is_for_all(),
            },
        })
    }

    /// A response to HTTP/1 that says neither its length nor that it comes in chunks ends when its
    /// connection does, and so does half of one. What a peer's sidecar passes on of it comes as HTTP/2.
    fn whole(
        mut self,
        head: &response::Parts,
        wall: SystemTime,
        at_caller: bool,
    ) -> Result<Self, Unfit> {
        let framed = head.version == Version::HTTP_2 && !at_caller
            || self.headers.contains_key(CONTENT_LENGTH)
            || self.headers.contains_key(TRANSFER_ENCODING)
            || self.status == StatusCode::NO_CONTENT;
        if !framed {
            return Err(Unfit::Endless);
        }
        crate::proxy::headers::remove_hop_by_hop(&mut self.headers);
        self.headers.remove(AGE);
        if at_caller {
            OF_ONE_REQUEST
                .iter()
                .for_each(|name| drop(self.headers.remove(name)));
        }
        if !self.headers.contains_key(DATE)
            && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(wall))
        {
            self.headers.insert(DATE, date);
        }
        Ok(self)
    }

    /// How long its body says to be.
    pub fn length(&self) -> Option<u64> {
        let length = self.headers.get(CONTENT_LENGTH)?;
        length.to_str().ok()?.parse().ok()
    }

    /// Whether so many bytes are all of its body. `told`: its end was told, and not only that nothing
    /// follows, as when a stream of HTTP/2 is given up in the middle of it without an error.
    pub fn is_whole(&self, bytes: u64, told: bool) -> bool {
        let says = self.headers.contains_key(CONTENT_LENGTH);
        let complete = !says || self.length() == Some(bytes);
        complete && (told || self.version != Version::HTTP_2)
    }

    /// Whether others may wait for it: it can be given to them without asking.
    pub fn is_fresh(&self) -> bool {
        self.life.ttl(self.life.came).is_some()
    }

    /// With its body, of a fetch that began with this number.
    pub fn into_entry(self, body: Body, begun: u64) -> Entry {
        let length = |headers: &HeaderMap| {
            let values = headers.values().map(HeaderValue::len);
            values.sum::<usize>()
        };
        // The values of a response are slices of what was read with it, which would all be kept.
        let mut all = BytesMut::with_capacity(length(&self.headers));
        for value in self.headers.values() {
            all.extend_from_slice(value.as_bytes());
        }
        let mut all = all.freeze();
        let headers = self.headers.iter().map(|(name, value)| {
            let copy = HeaderValue::from_maybe_shared(all.split_to(value.len()));
            // What was a value still is one.
            (name.clone(), copy.unwrap_or_else(|_| value.clone()))
        });
        Entry {
            status: self.status,
            headers: headers.collect(),
            vary: self.vary,
            body,
            life: self.life,
            begun,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The number of the fetch that it came with.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Its body.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// One of its headers.
    pub fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        let found = self.headers.iter().find(|(one, _)| one == name);
        found.map(|(_, value)| value)
    }

    /// Its headers, with how old it is.
    pub fn headers(&self, now: Instant) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 2);
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        headers.insert(AGE, HeaderValue::from(self.age(now).as_secs()));
        headers
    }

    /// Whether it is what a request with these headers asks for (RFC 9111 section 4.1).
    pub fn is_for(&self, headers: &HeaderMap) -> bool {
        self.vary.fits(headers)
    }

    /// Whether it takes the place of another.
    pub(super) fn replaces(&self, other: &Entry) -> bool {
        self.vary.is(&other.vary)
    }

    /// How old it is.
    pub fn age(&self, now: Instant) -> Duration {
        self.life.at(now)
    }

    /// How much longer it is fresh; nothing when it is not.
    pub fn ttl(&self, now: Instant) -> Option<Duration> {
        self.life.ttl(now)
    }

    /// For how long it has not been fresh.
    pub fn stale(&self, now: Instant) -> Duration {
        self.life.at(now).saturating_sub(self.life.fresh)
    }

    /// Whether it may be given to who takes stale answers.
    pub fn may_be_stale(&self) -> bool {
        !self.life.revalidate
    }

    /// Whether it may be given while a new one is fetched.
    pub fn while_revalidate(&self, now: Instant) -> bool {
        self.stale(now) < self.life.while_revalidate
    }

    /// Whether it may be given where there is no new one.
    pub fn if_error(&self, now: Instant) -> bool {
        self.stale(now) < self.life.if_error
    }

    /// Whether it may be given to who sends credentials.
    pub fn is_for_all(&self) -> bool {
        self.life.for_all
    }

    /// Whether the application can be asked if it is still right.
    pub fn can_be_validated(&self) -> bool {
        self.header(&ETAG).is_some() || self.header(&LAST_MODIFIED).is_some()
    }

    /// Whether there is any use in it still.
    pub fn is_of_use(&self, now: Instant) -> bool {
        self.ttl(now).is_some()
            || self.can_be_validated()
            || self.while_revalidate(now)
            || self.if_error(now)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + 64);
        OVERHEAD + headers.sum::<usize>() + self.vary.len() + self.body.bytes.len()
    }
}

// === impl Life ===

impl Life {
    fn at(&self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.came)
    }

    fn ttl(&self, now: Instant) -> Option<Duration> {
        let left = self.fresh.checked_sub(self.at(now))?;
        Some(left).filter(|left| !left.is_zero())
    }
}

/// An entity tag as it is compared where the same meaning is enough.
pub(super) fn weak(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}
