//! Which answers are kept, for people.

use serde_json::{Value, json};
use wire::mesh;

use super::service;

pub(super) fn shown(sent: mesh::Cache) -> Value {
    json!({
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
    })
}
