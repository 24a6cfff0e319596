//! The rules of what an ApiRoute says of calls that are carried out once.

use serde_json::Value;

use super::retry_policy::millis;
use super::{Rule, text};

pub(super) const RULES: &[Rule] = &[
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('168h')",
        |written| millis(written).is_none_or(|span| (1_000..=604_800_000).contains(&span)),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('10m')",
        |written| millis(written).is_none_or(|span| (1_000..=600_000).contains(&span)),
    ),
    ("has(self.store) || !has(self.onStoreFailure)", |written| {
        written.get("store").is_some() || written.get("onStoreFailure").is_none()
    }),
    (
        "!(self.protocol in ['TCP', 'TLS']) || !has(self.idempotency)",
        |spec: &Value| {
            let protocol = spec.get("protocol").map(text);
            !matches!(protocol, Some("TCP" | "TLS")) || spec.get("idempotency").is_none()
        },
    ),
];
