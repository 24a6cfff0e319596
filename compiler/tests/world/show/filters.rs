//! Filters of a rule as YAML for people.

use super::service;
use serde_json::{Map, Value, json};
use wire::mesh::{self, path_change::Change};

/// Those that the rule has.
pub(super) fn shown(rule: &mesh::Rule) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut show = |name: &str, filter: Option<Value>| {
        shown.extend(filter.map(|filter| (name.to_owned(), filter)));
    };
    show(
        "requestHeaders",
        rule.request_headers.as_ref().map(header_edits),
    );
    show(
        "responseHeaders",
        rule.response_headers.as_ref().map(header_edits),
    );
    show("rewrite", rule.rewrite.as_ref().map(rewrite));
    show("redirect", rule.redirect.as_ref().map(redirect));
    show(
        "directResponse",
        rule.direct_response.as_ref().map(direct_response),
    );
    show("cors", rule.cors.as_ref().map(cors));
    show("fault", rule.fault.as_ref().map(fault));
    show("mirror", rule.mirror.as_ref().map(mirror));
    show(
        "maxRequestBytes",
        rule.max_request_bytes.map(|bytes| json!(bytes)),
    );
    show(
        "compression",
        rule.compression
            .map(|sent| json!({"minBytes": sent.min_bytes})),
    );
    show("concurrency", rule.concurrency.map(concurrency));
    show(
        "idleTimeoutMs",
        rule.idle_timeout_ms.map(|millis| json!(millis)),
    );
    shown
}

fn concurrency(sent: mesh::Concurrency) -> Value {
    json!({
        "max": sent.max, "queue": sent.queue, "queueTimeoutMs": sent.queue_timeout_ms,
    })
}

fn header_edits(sent: &mesh::HeaderEdits) -> Value {
    let lines = |headers: &[mesh::Header]| {
        let lines = headers.iter().map(|h| format!("{}: {}", h.name, h.value));
        Value::from_iter(lines)
    };
    json!({"1 remove": sent.remove, "2 set": lines(&sent.set), "3 add": lines(&sent.add)})
}

fn rewrite(sent: &mesh::Rewrite) -> Value {
    json!({"host": sent.host, "path": sent.path.as_ref().map(path_change)})
}

fn path_change(sent: &mesh::PathChange) -> String {
    match &sent.change {
        Some(Change::Full(path)) => format!("all becomes {path}"),
        Some(Change::Prefix(prefix)) => format!("prefix becomes {prefix:?}"),
        None => String::new(),
    }
}

fn redirect(sent: &mesh::Redirect) -> Value {
    json!({
        "scheme": sent.scheme,
        "host": sent.host,
        "port": sent.port,
        "path": sent.path.as_ref().map(path_change),
        "status": sent.status,
    })
}

fn direct_response(sent: &mesh::DirectResponse) -> Value {
    json!({"status": sent.status, "body": sent.body, "contentType": sent.content_type})
}

pub(super) fn cors(sent: &mesh::Cors) -> Value {
    json!({
        "origins": sent.allow_origins,
        "methods": sent.allow_methods,
        "headers": sent.allow_headers,
        "expose": sent.expose_headers,
        "credentials": sent.allow_credentials,
        "maxAgeSeconds": sent.max_age_s,
    })
}

fn fault(sent: &mesh::Fault) -> Value {
    let delay = sent.delay.as_ref();
    let abort = sent.abort.as_ref();
    json!({
        "delay": delay.map(|delay| format!("{} ms for {} %", delay.duration_ms, delay.percent)),
        "abort": abort.map(|abort| format!("{} for {} %", abort.status, abort.percent)),
    })
}

fn mirror(sent: &mesh::Mirror) -> Value {
    let to = service(sent.service.as_ref().unwrap());
    json!(format!("{to} port {} for {} %", sent.port, sent.percent))
}
