//! Filters of a rule: what it does to the requests that it governs and to their responses, beside
//! saying where they go. The callers' sidecars do it.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type"
)]

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Method;
use crate::units::Duration;

/// What no route may edit, said where one tries.
const NOT_EDITED: &str = "this header frames the message, names the host (rewrite.host does that) \
                          or says who calls: it is not a route's to edit";

/// Changes of headers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderEdits {
    /// Headers that get this value in place of all that they had, or begin to exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Cel::new(
        "self.all(h, self.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))"
    ).message("a header is named twice"))]
    pub set: Vec<Header>,

    /// Lines that are added to those that a header has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub add: Vec<Header>,

    /// Headers that go, with all their lines; upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))
    )]
    #[x_kube(validation = Cel::new(
        "self.all(name, !(name.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', \
         'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', \
         'upgrade', 'http2-settings', 'content-length', 'expect', 'host']) && \
         !name.lowerAscii().matches('^(meshwright-|client-cert|x-client-cert|\
         x-forwarded-client-cert|x-forwarded-tls-client-cert|ssl-client-|x-ssl-|x-amzn-mtls-|\
         (x-arr-clientcert|l5d-client-id)$)'))"
    ).message(NOT_EDITED))]
    pub remove: Vec<String>,
}

/// A header and its value.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The header's name; upper and lower case are the same. Not those that frame the message
    /// (`content-length`, `transfer-encoding`, `te`, what concerns one connection), name the host,
    /// or say who calls (`meshwright-...`, client certificates).
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    #[x_kube(validation = Cel::new(
        "!(self.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', \
         'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', \
         'upgrade', 'http2-settings', 'content-length', 'expect', 'host']) && \
         !self.lowerAscii().matches('^(meshwright-|client-cert|x-client-cert|\
         x-forwarded-client-cert|x-forwarded-tls-client-cert|ssl-client-|x-ssl-|x-amzn-mtls-|\
         (x-arr-clientcert|l5d-client-id)$)')"
    ).message(NOT_EDITED))]
    pub name: String,

    /// The value: visible characters of ASCII, and spaces between them.
    #[schemars(length(min = 1, max = 4096), pattern(r"^[!-~]([ -~]*[!-~])?$"))]
    pub value: String,
}

/// Changes of a request's host and path.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.host) || has(self.path)")
    .message("write host, path or both"))]
pub struct Rewrite {
    /// The host that the application is told (`Host`, `:authority`), without a port; that of the
    /// request when absent. It does not say where the request goes: `backendRefs` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub host: Option<String>,

    /// The path that the application is told; that of the request when absent. The query is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
}

/// A change of a path.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathChange {
    /// `ReplaceFull` puts `value` in place of the whole path; `ReplacePrefix` in place of the
    /// prefix by which the rule matched, so that `/foo` with `/bar` makes `/bar/x` of `/foo/x`,
    /// `/bar` of `/foo` and `/bar/` of `/foo/`, and with `/` makes `/x`, `/` and `/`. It needs a
    /// path of type `Prefix` in each of the rule's matches.
    #[serde(rename = "type")]
    pub type_: PathChangeType,

    /// The path or prefix, without query; a slash at a prefix's end makes no difference.
    #[schemars(
        length(min = 1, max = 1024),
        pattern(r"^/([A-Za-z0-9/\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})*$")
    )]
    #[x_kube(validation = Cel::new("!self.contains('//')").message("a path can't contain //"))]
    #[x_kube(validation = Cel::new("!self.matches('/([.]|%2[eE]){1,2}(/|$)')")
        .message("a path can't have a segment that is . or .."))]
    pub value: String,
}

/// What is replaced of a path.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathChangeType {
    /// All of it.
    ReplaceFull,
    /// The prefix by which the rule matched.
    ReplacePrefix,
}

/// Where callers are sent to ask. What it doesn't name is as in the request, query included.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "has(self.scheme) || has(self.host) || has(self.port) || has(self.path)"
).message("write scheme, host, port or path: a redirect to the same place never ends"))]
pub struct Redirect {
    /// The scheme of the location; `http` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,

    /// The host of the location, without a port; that of the request when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub host: Option<String>,

    /// The port of the location. When absent that of `scheme` (80 or 443), and without `scheme` the
    /// port that was called. A port that the scheme implies is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,

    /// The path of the location; that of the request when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,

    /// The status: 301, 302, 303, 307 or 308; with 301, 302 and 303 most clients turn what they
    /// sent into a GET.
    #[serde(default = "found")]
    #[schemars(range(min = 301, max = 308))]
    #[x_kube(validation = Cel::new("self in [301, 302, 303, 307, 308]")
        .message("a redirect has status 301, 302, 303, 307 or 308"))]
    pub status_code: u16,
}

/// The scheme of a location.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// Plaintext, port 80.
    Http,
    /// TLS, port 443.
    Https,
}

/// One answer for every request.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("!has(self.body) || !(self.status in [204, 205, 304])")
    .message("an answer of status 204, 205 or 304 has no body"))]
#[x_kube(validation = Cel::new("!has(self.contentType) || has(self.body)")
    .message("contentType says what body is, and there is none"))]
pub struct DirectResponse {
    /// The status of the answer.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,

    /// The body of the answer; empty when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub body: Option<String>,

    /// What the body is, such as `application/json`; `text/plain; charset=utf-8` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 3, max = 128),
        pattern(r"^[A-Za-z0-9!#$&^_.+\-]+/[A-Za-z0-9!#$&^_.+\-]+(;[ -~]*[!-~])?$")
    )]
    pub content_type: Option<String>,
}

/// Cross-origin resource sharing, as the Fetch standard has it. A preflight is answered without being
/// sent on, by the rule that would govern the request it asks about, and where none would by one that
/// has `cors` and differs in nothing but the method; a rule that matches by a header of the page's own
/// gets none, because browsers don't send it with a preflight. Every answer of the rule says who may
/// read it, those of the mesh too; what the application says of that is replaced.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "!self.allowCredentials || !('*' in self.allowOrigins || \
     (has(self.allowHeaders) && '*' in self.allowHeaders) || \
     (has(self.exposeHeaders) && '*' in self.exposeHeaders))"
).message("with allowCredentials browsers don't take * for everything: list what is allowed"))]
pub struct Cors {
    /// Origins whose pages may call: `https://example.com`, `https://*.example.com` for exactly one
    /// label in the place of `*`, or `*` for all. Pages of others are told nothing, and their
    /// preflights are answered 403.
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 300),
            pattern(
                r"^(\*|[a-z][-a-z0-9+.]*://(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*(:[0-9]{1,5})?)$"
            )
        )
    )]
    #[x_kube(validation = Cel::new("self.all(o, !o.matches('^(http://.*:80|https://.*:443)$'))")
        .message("browsers leave out the port that the scheme implies: so must an origin here"))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow_origins: Vec<String>,

    /// Methods that pages may use beside GET, HEAD and POST, which need no permission.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow_methods: Vec<Method>,

    /// Headers that pages may send beside those that need no permission; `*` for all but
    /// `authorization`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))
    )]
    pub allow_headers: Vec<String>,

    /// Headers of answers that pages may read beside those that need no permission; `*` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))
    )]
    pub expose_headers: Vec<String>,

    /// Whether pages may send cookies and other credentials.
    #[serde(default)]
    pub allow_credentials: bool,

    /// How long a browser may remember the answer to a preflight, such as `10m`, in whole seconds;
    /// at most `24h`. When absent the browser decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('24h')")
        .message("no browser remembers a preflight longer than 24h"))]
    pub max_age: Option<Duration>,
}

/// What goes wrong on purpose. Whether a request is delayed and whether it is aborted are drawn
/// independently; who is both is aborted after the delay.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.delay) || has(self.abort)")
    .message("write delay, abort or both"))]
pub struct Fault {
    /// Requests that wait before anything else happens to them. The delay counts against
    /// `timeouts.request`. Their responses carry `meshwright-reason: fault_injected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,

    /// Requests that fail without being sent, with `meshwright-reason: fault_injected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// A delay, for a share of the requests.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// How long they wait, such as `250ms`; at most `5m`.
    #[x_kube(validation = Cel::new(
        "duration(self) > duration('0s') && duration(self) <= duration('5m')"
    ).message("a delay is longer than 0s and not longer than 5m"))]
    pub duration: Duration,

    /// How many of a hundred requests are delayed; all when absent.
    #[serde(default = "all")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
}

/// An error, for a share of the requests.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// The status that they are answered.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,

    /// How many of a hundred requests are aborted; all when absent.
    #[serde(default = "all")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
}

/// Copies of requests. A copy never slows its original or makes it fail: it is sent when the
/// original's body has passed, over at most 128 exchanges at a time for each worker of a sidecar,
/// and dropped when there are more, or when the body has more than 64 KiB. It has the same host,
/// path, headers (credentials too) and body, and `x-mirrored: 1`. The metric
/// `meshwright_mirror_total` counts what becomes of copies.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Where the copies go.
    pub backend_ref: MirrorRef,

    /// How many of a hundred requests are copied; all when absent.
    #[serde(default = "all")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
}

/// Compression of responses for callers that accept it, with gzip. What is compressed: `text/...`
/// (but `text/event-stream`), JSON, XML, JavaScript, WebAssembly, SVG and what is built on them
/// (`application/...+json`, `...+xml`). What is not: a response that is already encoded, that says
/// `Cache-Control: no-transform`, that is a part of something (206), or whose length is less than
/// `minBytes`; nor what the mesh answers itself. At most 64 responses at a time are compressed by
/// each worker of a sidecar, and those beyond it pass as they are. Don't write it for responses that
/// hold a secret beside something that an attacker chooses: their length then tells the secret (BREACH).
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// A response that says it is shorter is left as it is. One that says no length is compressed.
    #[serde(default = "kibibyte")]
    #[schemars(range(min = 0, max = 1_048_576))]
    pub min_bytes: u64,
}

/// How many requests of a rule one caller's sidecar has under way at once, over all its workers. One
/// is under way until its response has ended, or the protocol that follows it (WebSocket).
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("!has(self.queueTimeout) || self.queue > 0")
    .message("queueTimeout is how long a request waits, and none does without queue"))]
pub struct Concurrency {
    /// The most requests at once. One more is answered 503, `concurrency_limit`.
    #[schemars(range(min = 1, max = 65536))]
    pub max: u32,

    /// How many more wait for their turn, in the order in which they come; none when absent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65536))]
    pub queue: u32,

    /// How long one waits at most before it is answered 503, such as `500ms`; `1s` when absent, at
    /// most `5m`. It counts against `timeouts.request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new(
        "duration(self) > duration('0s') && duration(self) <= duration('5m')"
    ).message("a request waits longer than 0s and not longer than 5m"))]
    pub queue_timeout: Option<Duration>,
}

/// A Service that copies go to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MirrorRef {
    /// The Service's name.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// The Service's namespace: the object's (when absent) or that of the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,

    /// The Service's port, by number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

// === impl RedirectScheme ===

impl RedirectScheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            RedirectScheme::Http => "http",
            RedirectScheme::Https => "https",
        }
    }
}

fn all() -> u8 {
    100
}

fn kibibyte() -> u64 {
    1024
}

fn found() -> u16 {
    302
}
