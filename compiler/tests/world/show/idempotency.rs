//! Which calls are carried out once, for people.

use serde_json::{Value, json};
use wire::mesh;

use super::service;

pub(super) fn shown(sent: mesh::Idempotency) -> Value {
    let mut shown = json!({
        "route": format!("{}/{}", sent.namespace, sent.name),
        "at": Vec::from_iter(sent.services.iter().map(service)),
        "key": { "header": sent.header, "required": sent.required },
        "methods": sent.methods,
        "paths": sent.paths.len(),
        "ms": { "window": sent.window_ms, "timeout": sent.timeout_ms },
        "rejectConcurrent": sent.reject_concurrent,
        "releaseOn": sent.release_on,
        "most": {
            "bytesOfARequest": sent.max_request_bytes,
            "bytesOfAnAnswer": sent.max_answer_bytes,
            "bytes": sent.max_bytes,
        },
    });
    if let Some(store) = &sent.store {
        shown["store"] = json!({"url": store.url, "onFailure": store.on_failure().as_str_name()});
    }
    shown
}
