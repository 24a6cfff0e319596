//! ApiRoute: which Service a call goes to, by host, path, method, headers and query.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type; printer columns repeat their type"
)]

use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::ObjectStatus;
use crate::units::Duration;

pub mod auth;
pub mod authorization;
pub mod cache;
pub mod filters;
pub mod idempotency;
mod matching;
pub mod publish;
pub mod stream;

use auth::Auth;
use authorization::Authorization;
use cache::Cache;
use idempotency::Idempotency;
use publish::Publish;
use stream::Stream;

use filters::{
    Compression, Concurrency, Cors, DirectResponse, Fault, HeaderEdits, Mirror, Redirect, Rewrite,
};
pub use matching::{HeaderMatch, Match, Method, PathMatch, PathType, QueryMatch, ValueType};

/// Rules for the calls to one or more Services. In the Services' own namespace it governs every
/// caller; in another namespace it governs that namespace's callers only, and wins there.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "meshwright.dev",
    version = "v1alpha1",
    kind = "ApiRoute",
    doc = "An ApiRoute says where calls to a Service go, by path, method and headers. In the Service's own namespace it governs every caller; in another namespace it governs that namespace's callers only, and wins there.",
    namespaced,
    shortname = "ar",
    category = "meshwright",
    derive = "PartialEq",
    status = "ObjectStatus",
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.target",
        description = "The Services that the hosts name."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the object is enforced."
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.programmed",
        description = "How many of the sidecars that should enforce it do."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Time since the object was created; of two that conflict, the older one wins."
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "!(self.protocol in ['TCP', 'TLS']) || !has(self.rules) || self.rules.all(r, !(\
     has(r.requestHeaders) || has(r.responseHeaders) || has(r.rewrite) || has(r.redirect) || \
     has(r.directResponse) || has(r.cors) || has(r.fault) || has(r.mirror) || \
     has(r.maxRequestBytes) || has(r.compression) || has(r.concurrency) || has(r.publish) || \
     has(r.stream)))"
).message(
    "of TCP and TLS nobody reads requests: a rule has name, matches, backendRefs and timeouts.idle only"
))]
#[x_kube(validation = Cel::new(
    "!(self.protocol in ['TCP', 'TLS']) || !(has(self.timeouts) && has(self.timeouts.request)) && \
     (!has(self.rules) || self.rules.all(r, !(has(r.timeouts) && has(r.timeouts.request))))"
).message("of TCP and TLS nobody reads requests: timeouts.idle bounds their connections"))]
#[x_kube(validation = Cel::new(
    "!has(self.rules) || self.rules.all(r, !has(r.matches) || r.matches.all(m, \
     self.protocol == 'TLS' ? has(m.sni) && !(has(m.path) || has(m.method) || has(m.headers) || \
     has(m.query)) : self.protocol != 'TCP' && !has(m.sni)))"
).message(
    "a match of TLS has sni and nothing else, one of requests has no sni, and TCP has no matches"
))]
#[x_kube(validation = Cel::new(
    "self.protocol != 'TCP' || !has(self.rules) || self.rules.size() <= 1"
).message("connections of TCP are all alike: write one rule"))]
#[x_kube(validation = Cel::new(
    "!(self.protocol in ['TCP', 'TLS']) || !has(self.rules) || self.rules.all(r, \
     !has(r.backendRefs) || r.backendRefs.all(b, b.kind == 'Service'))"
).message("connections of TCP and TLS go to Services: the rules of another ApiRoute read requests"))]
#[x_kube(validation = Cel::new("!(self.protocol in ['TCP', 'TLS']) || !has(self.auth)").message(
    "of TCP and TLS nobody reads requests, so no credentials: authorization decides by which workload calls"
))]
#[x_kube(validation = Cel::new(
    "!(self.protocol in ['TCP', 'TLS']) || !has(self.authorization) || \
     !has(self.authorization.rules) || self.authorization.rules.all(r, !(has(r.methods) || \
     has(r.paths) || has(r.headers)))"
).message("of TCP and TLS nobody reads requests: a rule of authorization has name, action and principals"))]
#[x_kube(validation = Cel::new(
    "!has(self.auth) || self.auth.require != 'Optional' || has(self.authorization)"
).message("auth.require: Optional lets everybody go on: write authorization, which says who may"))]
#[x_kube(validation = Cel::new(
    "!(self.protocol in ['TCP', 'TLS', 'GRPC']) || !has(self.cache)"
).message("a cache keeps answers to GET: of TCP and TLS nobody reads requests, and gRPC has none"))]
#[x_kube(validation = Cel::new(
    "!(self.protocol in ['TCP', 'TLS']) || !has(self.idempotency)"
).message("of TCP and TLS nobody reads requests, so no keys of idempotency"))]
pub struct ApiRouteSpec {
    /// The Services whose calls this object governs: `orders` (in the object's namespace),
    /// `orders.shop`, `orders.shop.svc` or the full name in the cluster's domain. All in one
    /// namespace.
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 253),
            pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub hosts: Vec<String>,

    /// What the Services speak. It says so for those of their ports that do not declare it
    /// themselves (`appProtocol`, or the first word of the port's name), where otherwise the first
    /// bytes tell; a port that declares another protocol than the rules are about is not governed by
    /// them. `HTTP`: REST, SOAP, GraphQL and the like, over HTTP/1.1 or HTTP/2. `GRPC`: the
    /// applications are spoken to in HTTP/2. `TCP`: nobody reads the bytes. `TLS`: the applications'
    /// own TLS, of which the name is read that a client asks for (SNI).
    #[serde(default)]
    pub protocol: ApiProtocol,

    /// What happens to which requests. The most specific match of all rules decides. What fits whole
    /// paths comes first: an exact path, then a pattern (with more literal segments before fewer,
    /// with longer ones before shorter), then a regular expression. Then what paths begin with: a
    /// longer prefix before a shorter one, and a match without a path last; a pattern that ends in
    /// `{name...}` is one of these, and counts as the prefix before its first `{`. Among equal paths
    /// a method comes before none, more headers before fewer, more query parameters before fewer, an
    /// earlier rule before a later one. A request that no rule matches is answered 404. Without rules
    /// every request goes to the Service that was called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Cel::new(
        "self.all(r, !has(r.name) || self.exists_one(o, has(o.name) && o.name == r.name))"
    ).message("two rules have the same name"))]
    pub rules: Vec<RouteRule>,

    /// Time limits for every rule that sets none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// Which credentials a request must bring. With it, or with `authorization`, whatever is not
    /// allowed is refused. The sidecars beside the pods check it, of the hosts' Services and of every
    /// Service that a rule sends to, for everybody who calls them, whichever way; where several
    /// ApiRoutes lead to the same pods, each of them must let a request in. It needs the object to
    /// be in the Services' own namespace. What the mesh answers itself (`redirect`,
    /// `directResponse`, CORS preflights) needs no credentials. As long as an object that has `auth`
    /// or `authorization` is there, it is enforced, whether or not its rules are in force; where it
    /// can't be understood, nobody is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// Who may do what, where `auth` has said who it is. Of `TCP` and `TLS`, which workload may
    /// connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,

    /// Answers that are given again without asking the application. The sidecars beside the pods keep
    /// them, each for itself, of the hosts' Services and of every Service that a rule sends to, behind
    /// `auth` and `authorization`: who may not enter gets none. With `atCaller`, callers' sidecars keep
    /// some too. It needs the object to be in the Services' own namespace, and is in force while the
    /// object is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// Calls that are carried out once, however often they are sent. The sidecars beside the pods see
    /// to it, of the hosts' Services and of every Service that a rule sends to, behind `auth`,
    /// `authorization` and RateLimits. It needs the object to be in the Services' own namespace. As
    /// long as an object that has it is there it is enforced, whether or not its rules are in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
}

/// What an API's Services speak.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiProtocol {
    /// As their ports declare; the rules are about requests.
    #[default]
    Declared,
    /// HTTP/1.1 or HTTP/2.
    #[serde(rename = "HTTP")]
    Http,
    /// gRPC, over HTTP/2.
    #[serde(rename = "GRPC")]
    Grpc,
    /// Opaque bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// The applications' own TLS.
    #[serde(rename = "TLS")]
    Tls,
}

/// One entry of `rules`: requests, and where they go.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "!has(self.rewrite) || !has(self.rewrite.path) || self.rewrite.path.type != 'ReplacePrefix' || \
     (has(self.matches) && self.matches.size() > 0 && \
     self.matches.all(m, has(m.path) && m.path.type == 'Prefix'))"
).message("rewrite.path: ReplacePrefix needs a path of type Prefix in each of the rule's matches"))]
#[x_kube(validation = Cel::new(
    "!has(self.redirect) || !has(self.redirect.path) || \
     self.redirect.path.type != 'ReplacePrefix' || \
     (has(self.matches) && self.matches.size() > 0 && \
     self.matches.all(m, has(m.path) && m.path.type == 'Prefix'))"
).message("redirect.path: ReplacePrefix needs a path of type Prefix in each of the rule's matches"))]
#[x_kube(validation = Cel::new("!has(self.redirect) || !has(self.directResponse)")
    .message("a rule has redirect or directResponse, not both"))]
#[x_kube(validation = Cel::new(
    "!(has(self.redirect) || has(self.directResponse)) || !(has(self.backendRefs) || \
     has(self.rewrite) || has(self.mirror) || has(self.requestHeaders) || \
     has(self.responseHeaders) || has(self.maxRequestBytes) || has(self.compression) || \
     has(self.concurrency))"
).message(
    "a rule with redirect or directResponse sends nothing on: it has no backendRefs, rewrite, \
     mirror, requestHeaders, responseHeaders, maxRequestBytes, compression or concurrency"
))]
#[x_kube(validation = Cel::new(
    "!has(self.publish) || !(has(self.backendRefs) || has(self.redirect) || \
     has(self.directResponse) || has(self.rewrite) || has(self.mirror))"
).message(
    "a rule with publish sends nothing on: it has no backendRefs, redirect, directResponse, rewrite or \
     mirror"
))]
#[x_kube(validation = Cel::new(
    "!has(self.stream) || !(has(self.publish) || has(self.backendRefs) || has(self.redirect) || \
     has(self.directResponse) || has(self.rewrite) || has(self.mirror))"
).message(
    "a rule with stream sends nothing on: it has no publish, backendRefs, redirect, directResponse, \
     rewrite or mirror"
))]
pub struct RouteRule {
    /// The rule's name in metrics, logs and references; `rule-<index>` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = Cel::new("!self.matches('^rule-[0-9]+$')")
        .message("names of the form rule-<number> are given to rules without a name"))]
    pub name: Option<String>,

    /// The rule applies to a request that any of these matches; without any, to every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matches: Vec<Match>,

    /// Where the requests go, in proportion to the weights. Without any, to the Service and port
    /// that were called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<BackendRef>,

    /// Time limits of this rule, instead of those of the whole object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,

    /// Changes of the requests' headers before they are sent: `remove` first, then `set`, then
    /// `add`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<HeaderEdits>,

    /// Changes of the headers of the Service's responses, in the same order. What the mesh answers
    /// itself is not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<HeaderEdits>,

    /// Host and path that the application is told in place of those of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,

    /// Where the requests are sent back to ask, instead of anywhere on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,

    /// What the requests are answered, without being sent on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,

    /// Which pages in browsers may read the answers, and what they may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,

    /// Delays and errors for a share of the requests, to see how callers bear them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,

    /// Another Service that gets copies of the requests; what it answers is thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,

    /// The most bytes that the body of a request may have. A larger one is answered 413: at once
    /// when it says its length, else when it turns out, with nothing more of it sent on; if the
    /// response has begun by then, it is cut off. Without it bodies are streamed without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_099_511_627_776_u64))]
    pub max_request_bytes: Option<u64>,

    /// Responses are compressed for callers that accept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,

    /// How many requests a caller's sidecar has under way at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,

    /// The topic that the requests are published to, instead of reaching the application. The sidecars
    /// beside the pods of the hosts' Services do so, behind `auth`, `authorization`, RateLimits and
    /// `idempotency`. It needs the object to be in the Services' own namespace. It also lets the
    /// applications in these pods publish to the topic through their own sidecar (port 15090).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,

    /// The topic that callers read as server-sent events, or by WebSocket where they ask for one, instead of reaching
    /// the application. The sidecars beside the pods of the hosts' Services answer so, behind `auth`, `authorization`
    /// and RateLimits. It needs the object to be in the Services' own namespace. A page opens a WebSocket where it is
    /// of what it calls, or `cors` of the rule allows its origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
}

/// A Service, or another ApiRoute, that requests go to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// `Service`, or `ApiRoute`: then the requests are governed by that object's rules from here on,
    /// as though they had been sent to the first of its hosts. It governs its own namespace's
    /// Services, and speaks HTTP. No object leads back to itself, and none through more than 8.
    #[serde(default)]
    pub kind: BackendKind,

    /// The name of the Service or ApiRoute.
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Its namespace: the object's (when absent) or that of the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,

    /// The Service's port, by number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// This backend's share of the rule's requests, relative to the other weights; 0 sends none.
    /// When all are 0 the requests are answered 503.
    #[serde(default = "BackendRef::default_weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: u32,
}

/// A kind that requests can go to.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendKind {
    /// A Service.
    #[default]
    Service,
    /// The rules of another ApiRoute.
    ApiRoute,
}

/// Time limits.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// From the request's head to the last byte of the response, such as `250ms` or `1m30s`; `0s`
    /// is none. A request that takes longer is answered 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,

    /// How long a request under way may wait for its Service while no byte of it passes in either
    /// direction, such as `30s`, from `1s` to `1h`; `1h` when absent. A silence that lasts longer, and
    /// a quarter of that time more at the most, is answered 504, or ends a response that has begun.
    /// What follows an upgrade (WebSocket) and connections of `TCP` and `TLS` are ended too, but never
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')"
    ).message("a silence lasts from 1s to 1h"))]
    pub idle: Option<Duration>,
}

// === impl BackendRef ===

impl BackendRef {
    fn default_weight() -> u32 {
        1
    }
}
