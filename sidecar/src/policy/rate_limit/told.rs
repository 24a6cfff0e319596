//! What responses say of limits: the fields of draft-ietf-httpapi-ratelimit-headers, or those that
//! came before them.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use wire::mesh;

use super::bucket::{Level, Rate};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What responses say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Says {
    /// `RateLimit` and `RateLimit-Policy`.
    #[default]
    Draft,
    /// `X-RateLimit-*` of the limit that has the least left.
    Legacy,
    /// Nothing.
    Nothing,
}

/// One limit, as it is for a request.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// The limit's name.
    pub name: &'a str,
    /// In what it counts.
    pub unit: Option<&'static str>,
    /// How fast.
    pub rate: Rate,
    /// In how many seconds, if it is whole ones.
    pub window: Option<u64>,
    /// How much is left.
    pub level: Level,
}

// === build ===

impl Says {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence.
    pub fn build(sent: mesh::LimitHeaders) -> Result<Self, String> {
        match sent {
            mesh::LimitHeaders::Draft => Ok(Self::Draft),
            mesh::LimitHeaders::Legacy => Ok(Self::Legacy),
            mesh::LimitHeaders::None => Ok(Self::Nothing),
            mesh::LimitHeaders::Unspecified => {
                Err("the headers are of a kind that this sidecar does not know".to_owned())
            }
        }
    }

    // === request ===

    /// Writes what is said of limits, beside what others have said: only of the least left there are
    /// `X-RateLimit-*`.
    pub fn write<'a>(
        self,
        limits: impl Iterator<Item = Standing<'a>> + Clone,
        headers: &mut HeaderMap,
    ) {
        match self {
            Self::Nothing => {}
            Self::Draft => {
                for limit in limits {
                    let (mut now, mut policy) = (String::new(), String::new());
                    let Standing {
                        name,
                        unit,
                        rate,
                        window,
                        level,
                    } = limit;
                    let unused_in = seconds(level.unused_in);
                    let _ = write!(now, "\"{name}\";r={};t={unused_in}", level.left);
                    let _ = write!(policy, "\"{name}\";q={}", rate.requests);
                    if let Some(unit) = unit.filter(|unit| *unit != "requests") {
                        let _ = write!(policy, ";qu=\"{unit}\"");
                    }
                    // A whole number of seconds, as the draft has it, or nothing.
                    if let Some(window) = window {
                        let _ = write!(policy, ";w={window}");
                    }
                    append(headers, RATE_LIMIT, &now);
                    append(headers, POLICY, &policy);
                }
            }
            Self::Legacy => {
                let Some(least) = limits.min_by_key(|limit| limit.level.left) else {
                    return;
                };
                let said = headers.get(LEGACY_REMAINING);
                let said = said.and_then(|left| left.to_str().ok()?.parse().ok());
                if said.is_some_and(|left: u64| left <= least.level.left) {
                    return;
                }
                let numbers = [
                    (LEGACY_LIMIT, u64::from(least.rate.requests)),
                    (LEGACY_REMAINING, least.level.left),
                    (LEGACY_RESET, seconds(least.level.unused_in)),
                ];
                for (name, number) in numbers {
                    headers.insert(name, HeaderValue::from(number));
                }
            }
        }
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Names of limits and numbers: nothing that a header can't hold.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

/// Whole seconds, not less.
pub fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(name: &str, per_ms: u64, left: u64) -> Standing<'_> {
        Standing {
            name,
            unit: Some("requests"),
            rate: Rate::build(100, per_ms, 200).unwrap(),
            window: Rate::build(100, per_ms, 200).unwrap().seconds(),
            level: Level {
                left,
                unused_in: Duration::from_millis(1_001),
            },
        }
    }

    fn said(says: Says, limits: &[Standing<'_>]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        says.write(limits.iter().copied(), &mut headers);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let all = headers.iter();
        all.map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    #[test]
    fn the_fields_of_the_draft_name_each_limit() {
        let limits = [
            standing("per-consumer", 60_000, 7),
            Standing {
                unit: Some("content-bytes"),
                ..standing("upload", 100, 3)
            },
        ];
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            said(Says::Draft, &limits),
            [
                field("ratelimit", "\"per-consumer\";r=7;t=2"),
                field("ratelimit", "\"upload\";r=3;t=2"),
                field("ratelimit-policy", "\"per-consumer\";q=100;w=60"),
                field("ratelimit-policy", "\"upload\";q=100;qu=\"content-bytes\""),
            ]
        );
        assert_eq!(
            said(Says::Legacy, &limits),
            [
                field("x-ratelimit-limit", "100"),
                field("x-ratelimit-remaining", "3"),
                field("x-ratelimit-reset", "2"),
            ]
        );
        assert_eq!(said(Says::Nothing, &limits), []);
    }

    #[test]
    fn of_several_objects_the_least_left_is_told() {
        let [few, many] = [standing("few", 60_000, 3), standing("many", 60_000, 7)];
        for order in [[few, many], [many, few]] {
            let mut headers = HeaderMap::new();
            for one in order {
                Says::Legacy.write(std::iter::once(one), &mut headers);
            }
            assert_eq!(headers.get(LEGACY_REMAINING).unwrap(), "3");
            assert_eq!(headers.get_all(LEGACY_REMAINING).iter().count(), 1);
        }
    }
}
