//! The rules of what an ApiRoute says of answers that are kept.

use serde_json::Value;

use super::retry_policy::millis;
use super::{Rule, text, unique};

/// What a cache holds that says nothing of it, as the schema has it.
const USUAL_BYTES: u64 = 16 * 1024 * 1024;

pub(super) const RULES: &[Rule] = &[
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('1m')",
        |written| millis(written).is_none_or(|span| (1_000..=60_000).contains(&span)),
    ),
    ("duration(self) <= duration('24h')", |written| {
        millis(written).is_none_or(|span| span <= 86_400_000)
    }),
    (
        "self.all(h, self.exists_one(o, o.lowerAscii() == h.lowerAscii()))",
        |names| {
            let names = names.as_array().into_iter().flatten();
            unique(names.map(|name| text(name).to_ascii_lowercase()))
        },
    ),
    (
        "!has(self.maxEntryBytes) || self.maxEntryBytes <= self.maxBytes / 4",
        |cache| {
            let all = cache["maxBytes"].as_u64().unwrap_or(USUAL_BYTES);
            let one = cache["maxEntryBytes"].as_u64();
            one.is_none_or(|one| one <= all / 4)
        },
    ),
    (
        "!(self.protocol in ['TCP', 'TLS', 'GRPC']) || !has(self.cache)",
        |spec: &Value| {
            let protocol = spec["protocol"].as_str();
            !matches!(protocol, Some("TCP" | "TLS" | "GRPC")) || spec.get("cache").is_none()
        },
    ),
];
