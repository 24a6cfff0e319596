//! The rules of ApiRoutes whose requests nobody reads.

use serde_json::Value;

use super::Rule;

pub(super) const RULES: &[Rule] = &[
    (
        "!(self.protocol in ['TCP', 'TLS']) || !has(self.rules) || self.rules.all(r, \
         !(has(r.requestHeaders) || has(r.responseHeaders) || has(r.rewrite) || has(r.redirect) || \
         has(r.directResponse) || has(r.cors) || has(r.fault) || has(r.mirror) || \
         has(r.maxRequestBytes) || has(r.compression) || has(r.concurrency) || has(r.publish) || \
         has(r.stream)))",
        |spec| {
            const OF_REQUESTS: [&str; 13] = [
                "requestHeaders",
                "responseHeaders",
                "rewrite",
                "redirect",
                "directResponse",
                "cors",
                "fault",
                "mirror",
                "maxRequestBytes",
                "compression",
                "concurrency",
                "publish",
                "stream",
            ];
            let reads = |rule: &Value| OF_REQUESTS.iter().any(|field| has(rule, field));
            !is_opaque(spec) || !items(spec, "rules").any(reads)
        },
    ),
    (
        "!(self.protocol in ['TCP', 'TLS']) || !(has(self.timeouts) && has(self.timeouts.request)) \
         && (!has(self.rules) || self.rules.all(r, !(has(r.timeouts) && \
         has(r.timeouts.request))))",
        |spec| {
            let times = |object: &Value| {
                let timeouts = object.get("timeouts");
                timeouts.is_some_and(|timeouts| has(timeouts, "request"))
            };
            !is_opaque(spec) || !(times(spec) || items(spec, "rules").any(times))
        },
    ),
    (
        "!has(self.rules) || self.rules.all(r, !has(r.matches) || r.matches.all(m, self.protocol \
         == 'TLS' ? has(m.sni) && !(has(m.path) || has(m.method) || has(m.headers) || \
         has(m.query)) : self.protocol != 'TCP' && !has(m.sni)))",
        |spec| {
            let of_requests = |one: &Value| {
                let fields = ["path", "method", "headers", "query"];
                fields.iter().any(|field| has(one, field))
            };
            let mut matches = items(spec, "rules").flat_map(|rule| items(rule, "matches"));
            matches.all(|one| match protocol(spec) {
                "TLS" => has(one, "sni") && !of_requests(one),
                "TCP" => false,
                _ => !has(one, "sni"),
            })
        },
    ),
    (
        "self.protocol != 'TCP' || !has(self.rules) || self.rules.size() <= 1",
        |spec| protocol(spec) != "TCP" || items(spec, "rules").count() <= 1,
    ),
    (
        "!(self.protocol in ['TCP', 'TLS']) || !has(self.rules) || self.rules.all(r, \
         !has(r.backendRefs) || r.backendRefs.all(b, b.kind == 'Service'))",
        |spec| {
            let mut backends = items(spec, "rules").flat_map(|rule| items(rule, "backendRefs"));
            let is_service = |to: &Value| to.get("kind").is_none_or(|kind| kind == "Service");
            !is_opaque(spec) || backends.all(is_service)
        },
    ),
];

fn protocol(spec: &Value) -> &str {
    let protocol = spec.get("protocol").and_then(Value::as_str);
    protocol.unwrap_or("Declared")
}

fn is_opaque(spec: &Value) -> bool {
    matches!(protocol(spec), "TCP" | "TLS")
}

fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some()
}

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    let list = object.get(field).and_then(Value::as_array);
    list.into_iter().flatten()
}
