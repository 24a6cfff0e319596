//! The rules of filters.

use serde_json::Value;
use wire::claims::says_who_calls;

use super::{Rule, text};

pub(super) const RULES: &[Rule] = &[
    (
        "!(self.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', \
         'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', \
         'upgrade', 'http2-settings', 'content-length', 'expect', 'host']) && \
         !self.lowerAscii().matches('^(meshwright-|client-cert|x-client-cert|\
         x-forwarded-client-cert|x-forwarded-tls-client-cert|ssl-client-|x-ssl-|x-amzn-mtls-|\
         (x-arr-clientcert|l5d-client-id)$)')",
        editable,
    ),
    (
        "self.all(name, !(name.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', \
         'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', \
         'upgrade', 'http2-settings', 'content-length', 'expect', 'host']) && \
         !name.lowerAscii().matches('^(meshwright-|client-cert|x-client-cert|\
         x-forwarded-client-cert|x-forwarded-tls-client-cert|ssl-client-|x-ssl-|x-amzn-mtls-|\
         (x-arr-clientcert|l5d-client-id)$)'))",
        |names| items(names).all(editable),
    ),
    ("!self.contains('//')", |path| !text(path).contains("//")),
    ("!self.matches('/([.]|%2[eE]){1,2}(/|$)')", |path| {
        let path = text(path).replace("%2e", ".").replace("%2E", ".");
        !path.split('/').any(|segment| matches!(segment, "." | ".."))
    }),
    ("has(self.host) || has(self.path)", |rewrite| {
        has(rewrite, "host") || has(rewrite, "path")
    }),
    (
        "!has(self.rewrite) || !has(self.rewrite.path) || self.rewrite.path.type != \
         'ReplacePrefix' || (has(self.matches) && self.matches.size() > 0 && \
         self.matches.all(m, has(m.path) && m.path.type == 'Prefix'))",
        |rule| !replaces_prefix(&rule["rewrite"]) || matches_by_prefix(rule),
    ),
    (
        "!has(self.redirect) || !has(self.redirect.path) || self.redirect.path.type != \
         'ReplacePrefix' || (has(self.matches) && self.matches.size() > 0 && \
         self.matches.all(m, has(m.path) && m.path.type == 'Prefix'))",
        |rule| !replaces_prefix(&rule["redirect"]) || matches_by_prefix(rule),
    ),
    ("!has(self.redirect) || !has(self.directResponse)", |rule| {
        !(has(rule, "redirect") && has(rule, "directResponse"))
    }),
    (
        "!(has(self.redirect) || has(self.directResponse)) || !(has(self.backendRefs) || \
         has(self.rewrite) || has(self.mirror) || has(self.requestHeaders) || \
         has(self.responseHeaders) || has(self.maxRequestBytes) || has(self.compression) || \
         has(self.concurrency))",
        |rule| {
            let answers = has(rule, "redirect") || has(rule, "directResponse");
            let of_what_is_sent_on = [
                "backendRefs",
                "rewrite",
                "mirror",
                "requestHeaders",
                "responseHeaders",
                "maxRequestBytes",
                "compression",
                "concurrency",
            ];
            !answers || !of_what_is_sent_on.iter().any(|field| has(rule, field))
        },
    ),
    (
        "has(self.scheme) || has(self.host) || has(self.port) || has(self.path)",
        |redirect| {
            let fields = ["scheme", "host", "port", "path"];
            fields.iter().any(|field| has(redirect, field))
        },
    ),
    ("self in [301, 302, 303, 307, 308]", |status| {
        [301, 302, 303, 307, 308].iter().any(|one| status == one)
    }),
    (
        "!has(self.body) || !(self.status in [204, 205, 304])",
        |direct| {
            let bodiless = [204, 205, 304].iter().any(|one| direct["status"] == *one);
            !has(direct, "body") || !bodiless
        },
    ),
    ("!has(self.contentType) || has(self.body)", |direct| {
        !has(direct, "contentType") || has(direct, "body")
    }),
    (
        "!self.allowCredentials || !('*' in self.allowOrigins || (has(self.allowHeaders) && '*' \
         in self.allowHeaders) || (has(self.exposeHeaders) && '*' in self.exposeHeaders))",
        |cors| {
            let lists = ["allowOrigins", "allowHeaders", "exposeHeaders"];
            let mut lists = lists.iter().flat_map(|list| items(&cors[*list]));
            cors["allowCredentials"] != true || !lists.any(|item| item == "*")
        },
    ),
    (
        "self.all(o, !o.matches('^(http://.*:80|https://.*:443)$'))",
        |origins| {
            let implied = |origin: &str| match origin.split_once("://") {
                Some(("http", host)) => host.ends_with(":80"),
                Some(("https", host)) => host.ends_with(":443"),
                _ => false,
            };
            !items(origins).any(|origin| implied(text(origin)))
        },
    ),
    ("duration(self) <= duration('24h')", |written| {
        millis(written) <= 86_400_000
    }),
    ("has(self.delay) || has(self.abort)", |fault| {
        has(fault, "delay") || has(fault, "abort")
    }),
    (
        "duration(self) > duration('0s') && duration(self) <= duration('5m')",
        |written| (1..=300_000).contains(&millis(written)),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
        |written| (1_000..=3_600_000).contains(&millis(written)),
    ),
    ("!has(self.queueTimeout) || self.queue > 0", |concurrency| {
        !has(concurrency, "queueTimeout") || concurrency["queue"].as_u64().unwrap_or(0) > 0
    }),
];

/// Headers that frame a message, concern one connection, name the host, or say who calls.
const NOT_EDITED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "content-length",
    "expect",
    "host",
];

pub(super) fn editable(name: &Value) -> bool {
    let name = text(name).to_ascii_lowercase();
    let of_the_mesh = name.starts_with("meshwright-") || says_who_calls(&name);
    !NOT_EDITED.contains(&name.as_str()) && !of_the_mesh
}

pub(super) fn has(value: &Value, field: &str) -> bool {
    value.get(field).is_some()
}

fn replaces_prefix(changes: &Value) -> bool {
    changes["path"]["type"] == "ReplacePrefix"
}

/// Whether there are matches, and each has a prefix.
fn matches_by_prefix(rule: &Value) -> bool {
    let mut matches = items(&rule["matches"]).peekable();
    matches.peek().is_some() && matches.all(|one| one["path"]["type"] == "Prefix")
}

/// What is no duration has been refused for that.
fn millis(written: &Value) -> u64 {
    let written = text(written).parse::<crds::Duration>();
    written.map_or(1, |duration| duration.millis())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
