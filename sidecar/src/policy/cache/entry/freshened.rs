//! What a 304 makes of an answer that is kept (RFC 9111 section 4.3.4).

use std::time::Duration;

use http::header::{
    AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap,
    HeaderValue,
};
use http::{Version, response};

use super::{Draft, Entry, Life, OF_ONE_REQUEST, Spans, Times, Unfit, weak};
use crate::policy::cache::freshness::age;

/// An answer that is still right, with what the application says of it now.
#[derive(Debug)]
pub struct Freshened {
    /// Its head, which is given to who has asked.
    pub draft: Draft,
    /// Whether it is kept.
    pub kept: Result<(), Unfit>,
}

impl Entry {
    /// What a 304 makes of it: its head anew, its body as it was. Nothing when it is about another.
    pub fn freshened(
        &self,
        asked: &HeaderMap,
        told: &response::Parts,
        credentials: bool,
        times: Times,
        spans: &Spans,
    ) -> Option<Freshened> {
        let same = match (told.headers.get(ETAG), self.header(&ETAG)) {
            (Some(new), Some(old)) => weak(new.as_bytes()) == weak(old.as_bytes()),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if !same {
            return None;
        }
        let mut news = told.headers.clone();
        crate::proxy::headers::remove_hop_by_hop(&mut news);
        for of_the_body in [
            CONTENT_LENGTH,
            CONTENT_ENCODING,
            CONTENT_RANGE,
            CONTENT_TYPE,
        ] {
            news.remove(of_the_body);
        }
        if !news.contains_key(DATE)
            && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(times.wall))
        {
            news.insert(DATE, date);
        }
        let mut headers = self.headers(times.came);
        headers.remove(AGE);
        for name in news.keys() {
            headers.remove(name);
        }
        headers.extend(
            news.iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        let head = (self.status, told.version, &headers);
        let draft = Draft::fit(asked, credentials, head, times, spans);
        let kept = draft.as_ref().map(|_| ()).map_err(|unfit| *unfit);
        let mut draft = draft.unwrap_or_else(|_| self.given_once(told.version, headers, times));
        draft.headers.remove(AGE);
        if spans.at_caller.is_some() {
            for name in &OF_ONE_REQUEST {
                draft.headers.remove(name);
            }
        }
        Some(Freshened { draft, kept })
    }

    /// It, with other headers, for who has asked about it and nobody else.
    fn given_once(&self, version: Version, headers: HeaderMap, times: Times) -> Draft {
        Draft {
            status: self.status,
            version,
            vary: self.vary.clone(),
            life: Life {
                came: times.came,
                age: age(&headers, times),
                fresh: Duration::ZERO,
                while_revalidate: Duration::ZERO,
                if_error: Duration::ZERO,
                revalidate: true,
                for_all: false,
            },
            headers,
        }
    }
}
