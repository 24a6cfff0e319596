//! How long a response says that it is fresh, and how old it is (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{AGE, DATE, EXPIRES, HeaderMap};

use super::directives::{ResponseDirectives, members, seconds};
use super::entry::Times;

/// Statuses that are kept without being told: those of RFC 9110 section 15.1 that say something of
/// what was asked for, and not of the way in which one caller asked.
pub(super) fn is_kept_by_default(status: StatusCode) -> bool {
    let kept = [200, 203, 204, 300, 301, 308, 404, 410];
    kept.contains(&status.as_u16())
}

/// Statuses that are about one request alone, by headers and length that tell no answers apart, or of
/// which RFC 6585 says so: what they answered to one caller would be given to all.
pub(super) fn is_of_one_request(status: StatusCode) -> bool {
    let of_one = [
        400, 408, 412, 413, 414, 416, 417, 421, 425, 428, 429, 431, 511,
    ];
    of_one.contains(&status.as_u16())
}

/// How long a response says that it is fresh (RFC 9111 section 4.2.1).
pub(super) fn explicit(
    says: &ResponseDirectives,
    headers: &HeaderMap,
    wall: SystemTime,
) -> Option<Duration> {
    if let Some(said) = says.s_maxage.or(says.max_age) {
        return Some(said);
    }
    let mut expires = headers.get_all(EXPIRES).iter().peekable();
    expires.peek()?;
    let since = date(headers).unwrap_or(wall);
    // What is no date is in the past, such as 0.
    let spans = expires.map(|at| {
        let at = at
            .to_str()
            .ok()
            .and_then(|at| httpdate::parse_http_date(at).ok());
        let span = at.and_then(|at| at.duration_since(since).ok());
        span.unwrap_or_default()
    });
    spans.min()
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

/// How old a response was when it came (RFC 9111 section 4.2.3).
pub(super) fn age(headers: &HeaderMap, times: Times) -> Duration {
    let apparent = date(headers).and_then(|date| times.wall.duration_since(date).ok());
    let said = headers.get(AGE);
    let said = said.and_then(|age| seconds(members(age.as_bytes()).next()?));
    let corrected = said.unwrap_or_default() + times.came.saturating_duration_since(times.asked);
    // Dates are whole seconds: less than one is no age.
    let apparent = apparent.filter(|age| age.as_secs() >= 1);
    corrected.max(apparent.map_or(Duration::ZERO, |age| Duration::from_secs(age.as_secs())))
}
