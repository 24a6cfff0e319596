//! Quantities that people write: parsed once, shown as written.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time as Gateway API writes it: one to four numbers of at most five digits, each with
/// a unit of `h`, `m`, `s` or `ms`, such as `250ms` or `1m30s`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duration {
    written: String,
    millis: u64,
}

/// Why a string is not a [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDurationError(String);

// === impl Duration ===

impl Duration {
    /// What a duration looks like, as the schema has it.
    pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
    /// The longest string that the pattern lets through.
    pub const MAX_LENGTH: usize = 28;

    /// So many seconds.
    pub(crate) fn of_seconds(seconds: u32) -> Self {
        Duration {
            written: format!("{seconds}s"),
            millis: u64::from(seconds) * 1_000,
        }
    }

    /// So many milliseconds.
    pub(crate) fn of_millis(millis: u16) -> Self {
        Duration {
            written: format!("{millis}ms"),
            millis: u64::from(millis),
        }
    }

    /// The whole span in milliseconds.
    pub fn millis(&self) -> u64 {
        self.millis
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseDurationError(written.to_owned());
        let mut rest = written;
        let mut millis = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            parts += 1;
            if digits == 0 || digits > 5 || parts > 4 {
                return Err(refuse());
            }
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| refuse())?;
            // `ms` before `m`: the longer unit is meant where both fit, as no part starts with s.
            let (unit, after) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
                .into_iter()
                .find_map(|(name, unit)| Some((unit, after.strip_prefix(name)?)))
                .ok_or_else(refuse)?;
            millis += number * unit;
            rest = after;
        }
        if parts == 0 {
            return Err(refuse());
        }
        Ok(Duration {
            written: written.to_owned(),
            millis,
        })
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": Self::PATTERN,
            "maxLength": Self::MAX_LENGTH,
        })
    }
}

// === impl ParseDurationError ===

impl fmt::Display for ParseDurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a duration: write numbers with a unit of h, m, s or ms, such as 250ms or 1m30s",
            self.0
        )
    }
}

impl std::error::Error for ParseDurationError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_the_sum_of_its_parts_and_is_shown_as_written() {
        for (written, millis) in [
            ("250ms", 250),
            ("0s", 0),
            ("1m30s", 90_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 359_996_400_000),
            ("30s1m", 90_000),
        ] {
            let duration: Duration = written.parse().unwrap();
            assert_eq!(duration.millis(), millis, "{written}");
            assert_eq!(duration.to_string(), written);
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for written in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "100000s",
            "1d",
            "1s1s1s1s1s",
            "1 s",
            "1S",
        ] {
            let error = written.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains("such as 250ms"), "{written}: {error}");
        }
    }
}
