//! What a request is answered of an answer that is kept: all of it, its head, that it has not changed
//! (RFC 9110 section 13), or one range of it (section 14).

use std::ops::Range;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    DATE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::directives::members;
use super::entry::{Entry, weak};

/// What makes a request conditional on what its sender has.
const CONDITIONS: [HeaderName; 2] = [IF_NONE_MATCH, IF_MODIFIED_SINCE];

/// What only the application answers.
const PRECONDITIONS: [HeaderName; 2] = [IF_MATCH, IF_UNMODIFIED_SINCE];

/// Whether a request asks for what its sender may have already.
pub fn is_conditional(headers: &HeaderMap) -> bool {
    CONDITIONS.iter().any(|name| headers.contains_key(name))
}

/// Whether a request has conditions that only the application can decide.
pub fn has_preconditions(headers: &HeaderMap) -> bool {
    PRECONDITIONS.iter().any(|name| headers.contains_key(name))
}

/// Makes a request ask whether an answer is still right, whatever its sender has.
pub fn ask_about(entry: &Entry, headers: &mut HeaderMap) {
    ask_for_all(headers);
    let pairs = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)];
    for (of, in_request) in pairs {
        if let Some(value) = entry.header(&of) {
            headers.insert(in_request, value.clone());
        }
    }
}

/// Makes a request ask for the whole answer.
pub fn ask_for_all(headers: &mut HeaderMap) {
    for name in CONDITIONS.iter().chain(&[RANGE, IF_RANGE]) {
        headers.remove(name);
    }
}

/// The answer to a request with these headers.
pub fn answer(entry: &Entry, asked: &HeaderMap, head_only: bool, now: Instant) -> Response<Bytes> {
    let mut headers = entry.headers(now);
    if entry.status() == StatusCode::OK && is_known(entry, asked) {
        return not_modified(headers);
    }
    let body = &entry.body().bytes;
    let range = match entry.status() {
        StatusCode::OK if !head_only => range(entry, asked),
        _ => None,
    };
    let (status, body) = match range {
        None => (entry.status(), body.clone()),
        Some(Ok(range)) => {
            let last = range.end.saturating_sub(1);
            let part = format!("bytes {}-{last}/{}", range.start, body.len());
            set(&mut headers, CONTENT_RANGE, &part);
            (StatusCode::PARTIAL_CONTENT, body.slice(range))
        }
        Some(Err(())) => {
            for of_the_body in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
                headers.remove(of_the_body);
            }
            set(
                &mut headers,
                CONTENT_RANGE,
                &format!("bytes */{}", body.len()),
            );
            (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new())
        }
    };
    if status == StatusCode::OK && !headers.contains_key(ACCEPT_RANGES) {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let body = if head_only { Bytes::new() } else { body };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Who asks has it already: nothing of the body, and of what describes it, is sent again.
fn not_modified(mut headers: HeaderMap) -> Response<Bytes> {
    let of_the_body = [
        CONTENT_TYPE,
        CONTENT_LENGTH,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_RANGE,
    ];
    for name in of_the_body {
        headers.remove(name);
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    *response.headers_mut() = headers;
    response
}

/// Whether who asks has it already (RFC 9110 sections 13.1.2, 13.1.3 and 13.2.2).
fn is_known(entry: &Entry, asked: &HeaderMap) -> bool {
    if asked.contains_key(IF_NONE_MATCH) {
        let lines = asked.get_all(IF_NONE_MATCH).iter();
        let mut tags = lines.flat_map(|line| members(line.as_bytes()));
        let own = entry.header(&ETAG).map(|tag| weak(tag.as_bytes()));
        return tags.any(|tag| tag == b"*" || Some(weak(tag)) == own);
    }
    let Some(since) = asked.get(IF_MODIFIED_SINCE).and_then(date) else {
        return false;
    };
    let modified = entry.header(&LAST_MODIFIED).or(entry.header(&DATE));
    modified
        .and_then(date)
        .is_some_and(|modified| modified <= since)
}

/// The range that is asked for, if it is one and the answer is the one meant; an error where there is
/// nothing in it.
fn range(entry: &Entry, asked: &HeaderMap) -> Option<Result<Range<usize>, ()>> {
    let mut lines = asked.get_all(RANGE).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    if let Some(of) = asked.get(IF_RANGE)
        && !is_of(entry, of)
    {
        return None;
    }
    let (unit, spec) = line.to_str().ok()?.split_once('=')?;
    // Of several, all is answered; what is malformed is no range.
    if !unit.eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return None;
    }
    let (first, last) = spec.trim().split_once('-')?;
    let number = |text: &str| -> Option<usize> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    let length = entry.body().bytes.len();
    let range = match (first, last) {
        ("", suffix) => {
            let suffix = number(suffix)?;
            if suffix == 0 || length == 0 {
                return Some(Err(()));
            }
            length.saturating_sub(suffix)..length
        }
        (first, "") => number(first)?..length,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..length.min(last.saturating_add(1))
        }
    };
    Some(match range.start < length {
        true => Ok(range),
        false => Err(()),
    })
}

/// Whether a part of an answer fits parts of what is meant (RFC 9110 section 13.1.5): byte for byte.
fn is_of(entry: &Entry, meant: &HeaderValue) -> bool {
    let meant = meant.as_bytes();
    if meant.starts_with(b"\"") {
        return entry
            .header(&ETAG)
            .is_some_and(|tag| tag.as_bytes() == meant);
    }
    // A date is good enough where the answer was made a second after it (section 8.8.2.2).
    let modified = entry.header(&LAST_MODIFIED);
    let same = modified.is_some_and(|modified| modified.as_bytes() == meant);
    let (modified, made) = (modified.and_then(date), entry.header(&DATE).and_then(date));
    let settled = modified.zip(made).is_some_and(|(modified, made)| {
        let since = made.duration_since(modified);
        since.is_ok_and(|since| since.as_secs() >= 1)
    });
    same && settled
}

fn date(value: &HeaderValue) -> Option<std::time::SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
