//! Authentication: which credentials a request must bring, beside the identity that its caller's
//! sidecar proves. The destinations' sidecars check them.

#![allow(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "KubeSchema derives from a private copy of each type"
)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// What no claim may be written into, said where one tries.
const NOT_WRITTEN: &str = "this header frames the message, names the host, carries credentials or \
                           says who calls: it is not for claims";

/// Which credentials a request must bring.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new(
    "has(self.jwt) && self.jwt.size() > 0 || has(self.introspection) || has(self.apiKey)"
).message("write jwt, introspection or apiKey: without any there is nothing to check"))]
pub struct Auth {
    /// How many of the methods below a request must satisfy. `Any`: one of them. `All`: each kind
    /// that is written, a bearer token (`jwt`, `introspection`) as well as an `apiKey`. `Optional`:
    /// none; a request without credentials goes on as nobody, and `authorization` decides about it.
    /// Whatever it is, a credential that is sent and not valid is refused.
    #[serde(default)]
    pub require: Require,

    /// Issuers whose JSON Web Tokens are taken (RFC 7519, as RFC 8725 advises); each is an
    /// alternative to the others. A token is matched with the one that its `iss` names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = Cel::new("self.all(j, self.exists_one(o, o.issuer == j.issuer))")
        .message("an issuer is written twice: put its audiences into one entry"))]
    pub jwt: Vec<Jwt>,

    /// A server that is asked about bearer tokens that no issuer of `jwt` made (RFC 7662).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introspection: Option<Introspection>,

    /// Keys of consumers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKey>,
}

/// How many methods must be satisfied.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Require {
    /// One of them.
    #[default]
    Any,
    /// Each kind that is written.
    All,
    /// None.
    Optional,
}

/// One issuer of tokens.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    /// What `iss` must be, letter by letter.
    #[schemars(length(min = 1, max = 512), pattern(r"^[!-~]+$"))]
    pub issuer: String,

    /// `aud` must contain one of these.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 512), pattern(r"^[!-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub audiences: Vec<String>,

    /// The issuer's keys.
    pub jwks: Jwks,

    /// The algorithms that are taken; absent, each that fits the kind of the key that a token names.
    /// There is no `none`, and no algorithm with a shared secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub algorithms: Vec<Algorithm>,

    /// How far the issuer's clock may be from ours when `exp`, `nbf` and `iat` are checked, at most
    /// `5m`.
    #[serde(default = "Jwt::default_skew")]
    #[x_kube(validation = Cel::new("duration(self) <= duration('5m')")
        .message("clocks that are more than 5m apart should be set"))]
    pub clock_skew: Duration,

    /// Claims that must be there, beside `iss`, `aud` and `exp`. A name that begins with `/` is a
    /// JSON pointer (RFC 6901), such as `/realm_access/roles`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256), pattern(r"^[!-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub required_claims: Vec<String>,

    /// Scopes that the token must have, all of them (`scope` or `scp`). A token that lacks one is
    /// answered 403.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256), pattern(r"^[!#-\[\]-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub required_scopes: Vec<String>,

    /// Where the token is; in the header `Authorization`, behind `Bearer `, when absent. A request
    /// that has tokens in two places is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub from: Vec<TokenSource>,

    /// Claims that the application is told in headers, which nobody else can set: they are taken
    /// from every request first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Cel::new(
        "self.all(c, self.exists_one(o, o.header.lowerAscii() == c.header.lowerAscii()))"
    ).message("a header is named twice"))]
    pub claims_to_headers: Vec<ClaimToHeader>,

    /// Whether the application gets the token too. When it does not, nothing that it logs or calls
    /// can give it away.
    #[serde(default)]
    pub forward: bool,
}

/// An algorithm of signatures (RFC 7518, RFC 8037).
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

/// The keys of an issuer (RFC 7517): fetched, or written here.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("has(self.uri) != has(self.inline)")
    .message("write uri or inline: the keys are fetched, or they stand here"))]
#[x_kube(validation = Cel::new("has(self.uri) || !has(self.caCertificates)")
    .message("caCertificates are of the server that uri names: there is none"))]
pub struct Jwks {
    /// Where the destinations' sidecars fetch the keys: `https://`, or `http://` and the name of a
    /// Service in the mesh, whose sidecar proves who answers. They are fetched before they are
    /// needed, and again when a token names a key that is not among them, at most once in ten
    /// seconds. While the issuer is away, the keys that it had last are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1024),
        pattern(r"^https?://[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[!-~]*)?$")
    )]
    pub uri: Option<String>,

    /// How long fetched keys are taken for new, from `10s` to `24h`; they are fetched again ahead of
    /// that.
    #[serde(default = "Jwks::default_ttl", rename = "cacheTTL")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('10s') && duration(self) <= duration('24h')"
    ).message("keys are fetched again every 10s to 24h"))]
    pub cache_ttl: Duration,

    /// The key set itself, as JSON, of at most 100 public keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub inline: Option<String>,

    /// The authorities that may vouch for the server of an `https://` uri, as PEM; those of the
    /// public web when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_certificates: Option<String>,
}

/// A place that a token is read from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Cel::new("!has(self.prefix) || self.__in__ == 'Header'")
    .message("only in a header a token stands behind a prefix"))]
pub struct TokenSource {
    /// `Header`, `Query` or `Cookie`.
    #[serde(rename = "in")]
    pub place: CredentialPlace,

    /// The name of the header (upper and lower case are the same), the query's parameter or the
    /// cookie.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub name: String,

    /// What stands before the token in the header, such as `Bearer`, a space between; none when
    /// absent. Upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub prefix: Option<String>,
}

/// Where in a request a credential is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialPlace {
    /// A header.
    #[default]
    Header,
    /// A parameter of the query.
    Query,
    /// A cookie.
    Cookie,
}

/// A claim that the application is told.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimToHeader {
    /// The claim, or a JSON pointer to it. A text is told as it is, a number or truth value as JSON
    /// writes it, a list of texts with commas between, and anything else not at all.
    #[schemars(length(min = 1, max = 256), pattern(r"^[!-~]+$"))]
    pub claim: String,

    /// The header that it is told in.
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    #[x_kube(validation = Cel::new(
        "!(self.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', \
         'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', \
         'upgrade', 'http2-settings', 'content-length', 'expect', 'host', 'authorization', \
         'cookie']) && \
         !self.lowerAscii().matches('^(meshwright-|client-cert|x-client-cert|\
         x-forwarded-client-cert|x-forwarded-tls-client-cert|ssl-client-|x-ssl-|x-amzn-mtls-|\
         (x-arr-clientcert|l5d-client-id)$)')"
    ).message(NOT_WRITTEN))]
    pub header: String,
}

/// A server that says what a token is worth (RFC 7662).
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Introspection {
    /// What is asked: `https://`, or `http://` and the name of a Service in the mesh.
    #[schemars(
        length(min = 1, max = 1024),
        pattern(r"^https?://[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[!-~]*)?$")
    )]
    pub endpoint: String,

    /// Who asks (HTTP Basic, RFC 6749 section 2.3.1).
    #[serde(rename = "clientID")]
    #[schemars(length(min = 1, max = 256), pattern(r"^[ -~]+$"))]
    pub client_id: String,

    /// The password that it asks with.
    pub client_secret_ref: SecretKeyRef,

    /// The authorities that may vouch for the server of an `https://` endpoint, as PEM; those of the
    /// public web when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub ca_certificates: Option<String>,

    /// How long an answer holds, at most until the token's end, from `1s` to `1h`: for so long a
    /// token that was revoked is still taken.
    #[serde(default = "Introspection::default_ttl", rename = "cacheTTL")]
    #[x_kube(validation = Cel::new(
        "duration(self) >= duration('1s') && duration(self) <= duration('1h')"
    ).message("an answer holds for 1s to 1h"))]
    pub cache_ttl: Duration,

    /// `aud` must contain one of these; not looked at when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 512), pattern(r"^[!-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub audiences: Vec<String>,

    /// Scopes that the token must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256), pattern(r"^[!#-\[\]-~]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub required_scopes: Vec<String>,

    /// Where the token is; in the header `Authorization`, behind `Bearer `, when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub from: Vec<TokenSource>,

    /// What the server says of the token that the application is told, as claims of a JWT are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Cel::new(
        "self.all(c, self.exists_one(o, o.header.lowerAscii() == c.header.lowerAscii()))"
    ).message("a header is named twice"))]
    pub claims_to_headers: Vec<ClaimToHeader>,

    /// Whether the application gets the token too.
    #[serde(default)]
    pub forward: bool,
}

/// One entry of a Secret in the object's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The Secret's name. It must have the label `meshwright.dev/credential`: the operator reads no
    /// other.
    #[schemars(
        length(min = 1, max = 253),
        pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: String,

    /// The entry of its data.
    #[schemars(length(min = 1, max = 253), pattern(r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// Keys that consumers send. A consumer is a Secret with the label `meshwright.dev/consumer` in the
/// object's namespace, which holds a key's hash: `meshwright consumer create` makes one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// `Header`, `Query` or `Cookie`. What stands in a query is easily written down: prefer a header.
    #[serde(default, rename = "in")]
    pub place: CredentialPlace,

    /// The name of the header (upper and lower case are the same), the query's parameter or the
    /// cookie.
    #[serde(default = "ApiKey::default_name")]
    #[schemars(length(min = 1, max = 128), pattern(r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"))]
    pub name: String,

    /// Labels that the Secret of a consumer must have; every consumer of the namespace when absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::schema::labels")]
    pub consumer_selector: BTreeMap<String, String>,

    /// Plans (the label `meshwright.dev/plan`) that a consumer must be on one of; any or none when
    /// absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(
            length(min = 1, max = 63),
            pattern(r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub plans: Vec<String>,

    /// Whether the application gets the key too.
    #[serde(default)]
    pub forward: bool,
}

// === impl Jwt ===

impl Jwt {
    fn default_skew() -> Duration {
        Duration::of_seconds(60)
    }
}

// === impl Jwks ===

impl Jwks {
    fn default_ttl() -> Duration {
        Duration::of_seconds(300)
    }
}

// === impl Introspection ===

impl Introspection {
    fn default_ttl() -> Duration {
        Duration::of_seconds(60)
    }
}

// === impl ApiKey ===

impl ApiKey {
    fn default_name() -> String {
        "x-api-key".to_owned()
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// As `alg` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::ES512 => "ES512",
            Algorithm::EdDSA => "EdDSA",
        }
    }
}
