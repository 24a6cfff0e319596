//! The rules of RetryPolicies.

use serde_json::Value;

use super::{Rule, is, text};

pub(super) const RULES: &[Rule] = &[
    ("has(self.loadBalancing) || has(self.healthCheck)", |spec| {
        spec.get("loadBalancing").is_some() || spec.get("healthCheck").is_some()
    }),
    (
        "has(self.hashOn) == (self.type == 'ConsistentHash')",
        |balancing| balancing.get("hashOn").is_some() == is(balancing, "ConsistentHash"),
    ),
    (
        "!has(self.slowStart) || self.type != 'ConsistentHash'",
        |balancing| balancing.get("slowStart").is_none() || !is(balancing, "ConsistentHash"),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('15m')",
        |written| millis(written).is_none_or(|span| (1_000..=900_000).contains(&span)),
    ),
    ("has(self.name) == (self.type != 'Source')", |hashed| {
        hashed.get("name").is_some() != is(hashed, "Source")
    }),
    (
        "self.type != 'Header' || !has(self.name) || self.name.lowerAscii() != 'host'",
        |hashed| !is(hashed, "Header") || !text(&hashed["name"]).eq_ignore_ascii_case("host"),
    ),
    (
        "duration(self.timeout) <= duration(self.interval)",
        |check| {
            let given = |field: &str, otherwise| match check.get(field) {
                Some(written) => millis(written),
                None => Some(otherwise),
            };
            let (timeout, interval) = (given("timeout", 1_000), given("interval", 30_000));
            timeout
                .zip(interval)
                .is_none_or(|(timeout, interval)| timeout <= interval)
        },
    ),
    (
        "duration(self) >= duration('5s') && duration(self) <= duration('10m')",
        |written| millis(written).is_none_or(|span| (5_000..=600_000).contains(&span)),
    ),
    ("duration(self) > duration('0s')", |written| {
        millis(written) != Some(0)
    }),
];

/// `None` for what is no duration, and has been refused for that.
pub(super) fn millis(written: &Value) -> Option<u64> {
    let written = text(written).parse::<crds::Duration>().ok()?;
    Some(written.millis())
}
