//! Which answers are kept, for people.

use serde_json::{Value, json};
use wire::mesh;

use super::service;

pub(super) fn shown(sent: mesh::Cache) -> Value {
    let mut shown = json!({
        "route": format!("{}/{}", sent.namespace, sent.name),
        "at": Vec::from_iter(sent.services.iter().map(service)),
        "defaultTtlMs": sent.default_ttl_ms,
        "most": {
            "bytes": sent.max_bytes,
            "entries": sent.max_entries,
            "bytesOfAnEntry": sent.max_entry_bytes,
        },
        "keyHeaders": sent.key_headers,
        "keyQuery": sent.key_query.map(|query| query.names),
        "staleMs": {
            "whileRevalidated": sent.stale_while_revalidate_ms,
            "ifError": sent.stale_if_error_ms,
        },
    });
    // Only how long it is: that it changes is another test's.
    if !sent.revision.is_empty() {
        shown["revisionBytes"] = json!(sent.revision.len());
    }
    shown
}

/// What callers keep.
pub(super) fn at_caller(sent: mesh::CacheAtCaller) -> Value {
    json!({
        "how": shown(sent.cache.unwrap()),
        "maxAgeMs": sent.max_age_ms,
        "credentialHeaders": sent.credential_headers,
        "credentialQuery": sent.credential_query,
        "decidingHeaders": sent.deciding_headers,
        "byMethod": sent.by_method,
    })
}
