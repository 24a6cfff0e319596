//! `Cache-Control` (RFC 9111 section 5.2), of requests and of responses.
//!
//! What is malformed is read so that less is kept: a number that is none is 0, of two the smaller
//! counts, and a directive for single fields holds for the whole response.

use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, PRAGMA};

/// The most that a number of seconds counts for (RFC 9111 section 1.2.2).
const MAX_SECONDS: u64 = 1 << 31;

/// What a request says of the answer that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// Nothing of it is to be kept.
    pub no_store: bool,
    /// No answer without asking the application.
    pub no_cache: bool,
    /// None with asking it.
    pub only_if_cached: bool,
    /// None older than this.
    pub max_age: Option<Duration>,
    /// None that is fresh for less than this.
    pub min_fresh: Option<Duration>,
    /// Also one that has been stale for this long.
    pub max_stale: Option<Duration>,
}

/// What a response says of how it may be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// Not at all.
    pub no_store: bool,
    /// For one caller alone.
    pub private: bool,
    /// Also where it would otherwise be for one caller alone.
    pub public: bool,
    /// Not without asking the application.
    pub no_cache: bool,
    /// Not when stale without asking the application.
    pub must_revalidate: bool,
    /// The same for caches that several callers share.
    pub proxy_revalidate: bool,
    /// Only where the status is understood.
    pub must_understand: bool,
    /// How long it is fresh.
    pub max_age: Option<Duration>,
    /// How long it is fresh in a cache that several callers share.
    pub s_maxage: Option<Duration>,
    /// How long it may be given while a new one is fetched (RFC 5861 section 3).
    pub stale_while_revalidate: Option<Duration>,
    /// How long it may be given where there is no new one (RFC 5861 section 4).
    pub stale_if_error: Option<Duration>,
}

// === impl RequestDirectives ===

impl RequestDirectives {
    /// Reads those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        if !headers.contains_key(CACHE_CONTROL) {
            // RFC 9111 section 5.4, of clients that know nothing newer.
            read.no_cache = each(headers, &PRAGMA).any(|(name, _)| is(name, "no-cache"));
            return read;
        }
        for (name, value) in each(headers, &CACHE_CONTROL) {
            match () {
                () if is(name, "no-store") => read.no_store = true,
                () if is(name, "no-cache") => read.no_cache = true,
                () if is(name, "only-if-cached") => read.only_if_cached = true,
                () if is(name, "max-age") => least(&mut read.max_age, value),
                // What asks for the most freshness holds.
                () if is(name, "min-fresh") => {
                    let asked = value.and_then(seconds).unwrap_or(Duration::MAX);
                    read.min_fresh = Some(read.min_fresh.map_or(asked, |other| other.max(asked)));
                }
                () if is(name, "max-stale") => {
                    let taken = match value {
                        // Of any age.
                        None => Duration::MAX,
                        Some(value) => seconds(value).unwrap_or_default(),
                    };
                    read.max_stale = Some(read.max_stale.map_or(taken, |other| other.min(taken)));
                }
                () => {}
            }
        }
        read
    }
}

// === impl ResponseDirectives ===

impl ResponseDirectives {
    /// Reads those of a response.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut read = Self::default();
        for (name, value) in each(headers, &CACHE_CONTROL) {
            match () {
                () if is(name, "no-store") => read.no_store = true,
                () if is(name, "private") => read.private = true,
                () if is(name, "public") => read.public = true,
                () if is(name, "no-cache") => read.no_cache = true,
                () if is(name, "must-revalidate") => read.must_revalidate = true,
                () if is(name, "proxy-revalidate") => read.proxy_revalidate = true,
                () if is(name, "must-understand") => read.must_understand = true,
                () if is(name, "max-age") => least(&mut read.max_age, value),
                () if is(name, "s-maxage") => least(&mut read.s_maxage, value),
                () if is(name, "stale-while-revalidate") => {
                    least(&mut read.stale_while_revalidate, value);
                }
                () if is(name, "stale-if-error") => least(&mut read.stale_if_error, value),
                () => {}
            }
        }
        // Who says this of a response without saying more means it of caches, too, and for ever.
        let silent = !headers.contains_key(CACHE_CONTROL);
        read.no_cache |= silent && each(headers, &PRAGMA).any(|(name, _)| is(name, "no-cache"));
        read
    }

    /// Whether it may be given to somebody else than who sent credentials (RFC 9111 section 3.5).
    pub fn is_for_all(&self) -> bool {
        !self.private && (self.public || self.s_maxage.is_some() || self.must_revalidate)
    }
}

fn is(name: &[u8], directive: &str) -> bool {
    name.eq_ignore_ascii_case(directive.as_bytes())
}

fn least(held: &mut Option<Duration>, value: Option<&[u8]>) {
    let read = value.and_then(seconds).unwrap_or_default();
    *held = Some(held.map_or(read, |other| other.min(read)));
}

/// A number of seconds; also in quotes, as some write it.
pub(super) fn seconds(value: &[u8]) -> Option<Duration> {
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let digits = bare.unwrap_or(value);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        let more = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
        more.filter(|number| *number <= MAX_SECONDS)
    });
    Some(Duration::from_secs(number.unwrap_or(MAX_SECONDS)))
}

type Directive<'h> = (&'h [u8], Option<&'h [u8]>);

/// The directives of all lines: a name, and what stands behind `=`.
fn each<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = Directive<'h>> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|line| members(line.as_bytes()).map(directive))
}

/// The members of a list, which commas in quotes do not divide.
pub(super) fn members(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while !list.is_empty() {
            let (mut quoted, mut escaped) = (false, false);
            let end = list.iter().position(|byte| match byte {
                _ if escaped => {
                    escaped = false;
                    false
                }
                b'\\' if quoted => {
                    escaped = true;
                    false
                }
                b'"' => {
                    quoted = !quoted;
                    false
                }
                b',' => !quoted,
                _ => false,
            });
            let end = end.unwrap_or(list.len());
            let member = list[..end].trim_ascii();
            list = list.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    })
}

fn directive(member: &[u8]) -> Directive<'_> {
    match member.iter().position(|byte| *byte == b'=') {
        Some(at) => (
            member[..at].trim_ascii(),
            Some(member[at + 1..].trim_ascii()),
        ),
        None => (member, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn response(lines: &[&str]) -> ResponseDirectives {
        ResponseDirectives::of(&headers(lines))
    }

    #[test]
    fn directives_are_read_whatever_their_case_and_spacing_and_on_several_lines() {
        let read = response(&["Max-Age = 60 ,PUBLIC", "No-Store,,", "s-maxage=\"5\""]);
        assert!(read.public && read.no_store);
        assert_eq!(read.max_age, Some(Duration::from_secs(60)));
        assert_eq!(read.s_maxage, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_comma_in_quotes_divides_nothing_and_one_field_is_the_whole_response() {
        let read = response(&[r#"private="a, no-store, max-age=9", no-cache="set-cookie""#]);
        assert!(read.private && read.no_cache && !read.no_store);
        assert_eq!(read.max_age, None);
        // A quote that never ends takes the rest with it, as the rest of its value.
        assert!(!response(&[r#"x="a, public"#]).public);
    }

    #[test]
    fn what_is_malformed_keeps_less() {
        let of = |text: &str| response(&[text]).max_age.unwrap().as_secs();
        for text in [
            "max-age",
            "max-age=",
            "max-age=a",
            "max-age=-1",
            "max-age=1.5",
        ] {
            assert_eq!(of(text), 0, "{text}");
        }
        assert_eq!(of("max-age=60, max-age=30"), 30);
        assert_eq!(of("max-age=99999999999999999999999"), MAX_SECONDS);
        let asked = RequestDirectives::of(&headers(&["min-fresh=x, max-stale=y"]));
        assert_eq!(asked.min_fresh, Some(Duration::MAX));
        assert_eq!(asked.max_stale, Some(Duration::ZERO));
    }

    #[test]
    fn pragma_counts_where_nothing_newer_is_said() {
        let mut only = HeaderMap::new();
        only.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        assert!(RequestDirectives::of(&only).no_cache);
        assert!(ResponseDirectives::of(&only).no_cache);
        only.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        assert!(!RequestDirectives::of(&only).no_cache);
        assert!(!ResponseDirectives::of(&only).no_cache);
    }

    #[test]
    fn what_is_private_is_for_nobody_else_whatever_it_says_beside() {
        assert!(response(&["public"]).is_for_all());
        assert!(response(&["s-maxage=1"]).is_for_all());
        assert!(response(&["max-age=1, must-revalidate"]).is_for_all());
        assert!(!response(&["max-age=1"]).is_for_all());
        assert!(!response(&["public, private"]).is_for_all());
    }
}
