//! The rules of what an ApiRoute says of who may enter.

use serde_json::Value;

use super::filters::editable;
use super::retry_policy::millis;
use super::{Rule, text, unique};

pub(super) const RULES: &[Rule] = &[
    (
        "has(self.jwt) && self.jwt.size() > 0 || has(self.introspection) || has(self.apiKey)",
        |auth| {
            let issuers = auth["jwt"].as_array().is_some_and(|list| !list.is_empty());
            issuers || has(auth, "introspection") || has(auth, "apiKey")
        },
    ),
    (
        "self.all(j, self.exists_one(o, o.issuer == j.issuer))",
        |issuers| unique(texts(issuers, "issuer")),
    ),
    ("duration(self) <= duration('5m')", |written| {
        millis(written).is_none_or(|span| span <= 300_000)
    }),
    (
        "self.all(c, self.exists_one(o, o.header.lowerAscii() == c.header.lowerAscii()))",
        |told| unique(texts(told, "header").map(str::to_ascii_lowercase)),
    ),
    ("has(self.uri) != has(self.inline)", |keys| {
        has(keys, "uri") != has(keys, "inline")
    }),
    ("has(self.uri) || !has(self.caCertificates)", |keys| {
        has(keys, "uri") || !has(keys, "caCertificates")
    }),
    (
        "duration(self) >= duration('10s') && duration(self) <= duration('24h')",
        |written| millis(written).is_none_or(|span| (10_000..=86_400_000).contains(&span)),
    ),
    (
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')",
        |written| millis(written).is_none_or(|span| (1_000..=3_600_000).contains(&span)),
    ),
    ("!has(self.prefix) || self.__in__ == 'Header'", |source| {
        !has(source, "prefix") || source["in"] == "Header"
    }),
    (
        "!(self.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', \
         'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', \
         'upgrade', 'http2-settings', 'content-length', 'expect', 'host', 'authorization', \
         'cookie']) && \
         !self.lowerAscii().matches('^(meshwright-|client-cert|x-client-cert|\
         x-forwarded-client-cert|x-forwarded-tls-client-cert|ssl-client-|x-ssl-|x-amzn-mtls-|\
         (x-arr-clientcert|l5d-client-id)$)')",
        |name| {
            let lower = text(name).to_ascii_lowercase();
            !matches!(&*lower, "authorization" | "cookie") && editable(name)
        },
    ),
    (
        "!has(self.rules) || self.rules.size() == 0 || self.rules.exists(r, r.action == 'Allow')",
        |authorization| {
            let mut rules = items(authorization, "rules").peekable();
            let allows = |rule: &Value| rule.get("action").is_none_or(|action| action == "Allow");
            rules.peek().is_none() || rules.any(allows)
        },
    ),
    (
        "self.all(r, self.exists_one(o, o.name == r.name))",
        |roles| unique(texts(roles, "name")),
    ),
    ("self.all(m, !has(m.roles))", |members| {
        let members = members.as_array().into_iter().flatten();
        members.into_iter().all(|member| !has(member, "roles"))
    }),
    (
        "has(self.serviceAccounts) || has(self.namespaces) || has(self.spiffeIDs) || \
         has(self.consumers) || has(self.plans) || has(self.jwtClaims) || has(self.scopes) || \
         has(self.roles)",
        |principals| {
            let fields = [
                "serviceAccounts",
                "namespaces",
                "spiffeIDs",
                "consumers",
                "plans",
                "jwtClaims",
                "scopes",
                "roles",
            ];
            fields.iter().any(|field| has(principals, field))
        },
    ),
    (
        "!(self.protocol in ['TCP', 'TLS']) || !has(self.auth)",
        |spec| !is_opaque(spec) || !has(spec, "auth"),
    ),
    (
        "!(self.protocol in ['TCP', 'TLS']) || !has(self.authorization) || \
         !has(self.authorization.rules) || self.authorization.rules.all(r, !(has(r.methods) || \
         has(r.paths) || has(r.headers)))",
        |spec| {
            let reads = |rule: &Value| {
                let fields = ["methods", "paths", "headers"];
                fields.iter().any(|field| has(rule, field))
            };
            let authorization = spec.get("authorization").unwrap_or(&Value::Null);
            !is_opaque(spec) || !items(authorization, "rules").any(reads)
        },
    ),
    (
        "!has(self.auth) || self.auth.require != 'Optional' || has(self.authorization)",
        |spec| spec["auth"]["require"] != "Optional" || has(spec, "authorization"),
    ),
];

fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some()
}

fn is_opaque(spec: &Value) -> bool {
    matches!(spec["protocol"].as_str(), Some("TCP" | "TLS"))
}

fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    let list = object.get(field).and_then(Value::as_array);
    list.into_iter().flatten()
}

fn texts<'a>(list: &'a Value, field: &'static str) -> impl Iterator<Item = &'a str> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(move |item| item.get(field)?.as_str())
}
