//! Moments, as they are written: RFC 3339, or a span of time from now.

use std::str::FromStr;

use anyhow::Context as _;
use k8s_openapi::jiff::Timestamp;

/// A length of time: `90d`, `12h`, `1h30m`. A day has 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    seconds: i64,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As it was written.
    At(Timestamp),
    /// So long from now.
    In(Span),
}

/// In whole seconds: what is kept says no more.
pub(super) fn words(seconds: i64) -> String {
    // Whatever was read is in the range.
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

// === impl Span ===

impl Span {
    /// That long after a moment; both in seconds since 1970.
    pub(super) fn after(self, now: i64) -> anyhow::Result<i64> {
        let then = now.checked_add(self.seconds);
        let then = then.filter(|then| Timestamp::from_second(*then).is_ok());
        then.context("a span of time ends after the year 9999: write a shorter one")
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = "write a number and s, m, h, d or w, such as 90d";
        let mut seconds = 0_i64;
        let mut rest = text;
        loop {
            let unit = rest.find(|c: char| !c.is_ascii_digit()).ok_or(wrong)?;
            let number: i64 = rest[..unit].parse().map_err(|_| wrong)?;
            let length = match rest.as_bytes()[unit] {
                b's' => 1,
                b'm' => 60,
                b'h' => 3600,
                b'd' => 86_400,
                b'w' => 7 * 86_400,
                _ => return Err(wrong.to_owned()),
            };
            let part = number.checked_mul(length);
            seconds = part
                .and_then(|part| seconds.checked_add(part))
                .ok_or("is longer than any time")?;
            rest = &rest[unit + 1..];
            if rest.is_empty() {
                return Ok(Self { seconds });
            }
        }
    }
}

// === impl When ===

impl When {
    /// In seconds since 1970.
    pub(super) fn seconds(self, now: i64) -> anyhow::Result<i64> {
        match self {
            Self::At(time) => Ok(time.as_second()),
            Self::In(span) => span.after(now),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        text.parse().map(Self::In).map_err(|_| {
            "write a time of RFC 3339, such as 2027-01-31T00:00:00Z, or a span from now, such as 90d"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_numbers_with_units() {
        let seconds = |text: &str| text.parse::<Span>().map(|span| span.seconds);
        for (text, expected) in [
            ("90d", 90 * 86_400),
            ("1w", 604_800),
            ("1h30m", 5400),
            ("45s", 45),
            ("0s", 0),
        ] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for wrong in ["", "90", "d", "90 d", "-1d", "1y", "1.5h", "90é", "90d1"] {
            let why = seconds(wrong).unwrap_err();
            assert!(why.contains("such as 90d"), "{wrong}: {why}");
        }
        assert!(seconds("9223372036854775807w").is_err());
        let long: Span = "999999999d".parse().unwrap();
        let why = long.after(0).unwrap_err().to_string();
        assert!(why.contains("after the year 9999"), "{why}");
    }

    #[test]
    fn a_moment_is_a_time_or_a_span_from_now() {
        let seconds = |text: &str| text.parse::<When>().map(|when| when.seconds(100).unwrap());
        assert_eq!(seconds("1970-01-01T00:01:00Z"), Ok(60));
        assert_eq!(seconds("1970-01-01T01:00:00.9+01:00"), Ok(0));
        assert_eq!(seconds("1m"), Ok(160));
        assert_eq!(words(1_801_353_600), "2027-01-31T00:00:00Z");
        for wrong in ["tomorrow", "2027-01-31", "2027-02-31T00:00:00Z"] {
            let why = seconds(wrong).unwrap_err();
            assert!(why.contains("RFC 3339"), "{wrong}: {why}");
        }
    }
}
