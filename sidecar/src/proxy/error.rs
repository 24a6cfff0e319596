//! Why a request got no answer of its target's, from birth to the response: the only mapping.
//!
//! One [`Reason`] names the cause in the response, the access log and the metrics. What the caller
//! is told ([`Reason::told`]) and what the person on call reads (`Error::detail`, in the log) are
//! different texts: the second may name addresses, the first never does.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

/// Carries the reason beside the problem document, for callers that read no bodies.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("meshwright-reason");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whose fault a failure is: decides what counts against an endpoint and who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request asks for what is not there or not allowed.
    Caller,
    /// The service called, or its host.
    Target,
    /// Configuration, or this sidecar.
    Mesh,
}

/// Declares the reasons once: name, status, fault, whether the request surely never reached the
/// application, and what the caller is told.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:ident, $fault:ident, $unsent:literal, $told:literal;)*) => {
        /// Why the mesh answered in its target's place. Names are stable: dashboards and clients
        /// depend on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, for documentation and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The name in responses, logs and metrics: snake_case.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// The status of the response.
            pub const fn status(self) -> StatusCode {
                match self { $(Reason::$variant => StatusCode::$status,)* }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Reason::$variant => Fault::$fault,)* }
            }

            /// Whether the request surely never reached the application, so that sending it again
            /// can do nothing twice.
            pub const fn unsent(self) -> bool {
                match self { $(Reason::$variant => $unsent,)* }
            }

            /// What the caller is told.
            pub const fn told(self) -> &'static str {
                match self { $(Reason::$variant => $told,)* }
            }
        }
    };
}

reasons! {
    /// No rule of the ApiRoute matches.
    NoRoute = "no_route", NOT_FOUND, Caller, true,
        "No rule of the route matches this request.";
    /// An explicit proxy request names a host that is no Service.
    UnknownHost = "unknown_host", NOT_FOUND, Caller, true,
        "No service of the mesh has this host name.";
    /// The namespace refuses calls to addresses that the mesh does not know, and this is one.
    AddressNotKnown = "address_not_known", FORBIDDEN, Caller, true,
        "The mesh does not know this address, and calls to unknown addresses are refused.";
    /// The operator has not said yet what the address or the name means.
    AddressNotResolved = "address_not_resolved", SERVICE_UNAVAILABLE, Mesh, true,
        "The mesh cannot tell at the moment what this address means.";
    /// The request itself cannot be carried.
    BadRequest = "bad_request", BAD_REQUEST, Caller, true,
        "The request cannot be forwarded as it is.";
    /// A page of this origin may not call.
    OriginNotAllowed = "origin_not_allowed", FORBIDDEN, Caller, true,
        "Pages of this origin may not call this service.";
    /// The body is larger than the rule allows.
    RequestTooLarge = "request_too_large", PAYLOAD_TOO_LARGE, Caller, false,
        "The request's body is larger than the route allows.";
    /// A backend that the rule names does not exist.
    BackendMissing = "backend_missing", SERVICE_UNAVAILABLE, Mesh, true,
        "The route sends this request to a backend that does not exist.";
    /// The service has no ready endpoint.
    NoEndpoints = "no_endpoints", SERVICE_UNAVAILABLE, Target, true,
        "The service has no ready endpoint.";
    /// No endpoint tried could be connected to.
    ConnectFailed = "connect_failed", SERVICE_UNAVAILABLE, Target, true,
        "The service cannot be reached.";
    /// The peer proved another identity than the endpoint's, or none.
    PeerNotVerified = "peer_not_verified", SERVICE_UNAVAILABLE, Target, true,
        "The service could not prove its identity.";
    /// This sidecar has no certificate in force.
    NoCertificate = "no_certificate", SERVICE_UNAVAILABLE, Mesh, true,
        "The mesh cannot prove the caller's identity at the moment.";
    /// The request timeout passed.
    RequestTimeout = "request_timeout", GATEWAY_TIMEOUT, Target, false,
        "The service did not answer in time.";
    /// No byte of the request or its answer moved for too long.
    IdleTimeout = "idle_timeout", GATEWAY_TIMEOUT, Target, false,
        "Nothing was said for too long.";
    /// The connection ended before the response did.
    UpstreamReset = "upstream_reset", BAD_GATEWAY, Target, false,
        "The service ended the connection before it answered.";
    /// A connection that was kept after an earlier answer ended before this one, or was reset by an application that
    /// listens no longer. Servers that end, or that have kept it long enough, do that with what they have not read. Only of a request that may be carried out
    /// twice (RFC 9110, 9.2.2) it is told as this, and its caller sends it elsewhere.
    KeptConnectionClosed = "kept_connection_closed", BAD_GATEWAY, Target, false,
        "The service ended a connection that it had kept, or ended itself, before it answered.";
    /// The answer is no HTTP.
    BadResponse = "bad_response", BAD_GATEWAY, Target, false,
        "The service answered with something that is not HTTP.";
    /// The endpoint refused the request before it read it.
    StreamRefused = "stream_refused", SERVICE_UNAVAILABLE, Target, true,
        "The service refused the request before it was read.";
    /// The last try took longer than one may.
    TryTimeout = "try_timeout", GATEWAY_TIMEOUT, Target, false,
        "The service did not answer in the time of one try.";
    /// The circuits of all endpoints are open.
    CircuitOpen = "circuit_open", SERVICE_UNAVAILABLE, Target, true,
        "The service has failed too often, and is not called for a while.";
    /// The application beside the sidecar cannot be connected to.
    ApplicationUnreachable = "application_unreachable", SERVICE_UNAVAILABLE, Target, true,
        "The application does not accept connections.";
    /// The complete set of Guards has not arrived.
    NotReady = "not_ready", SERVICE_UNAVAILABLE, Mesh, true,
        "The mesh does not know yet who may call this service.";
    /// More is being done than can be.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, Mesh, true,
        "The mesh carries more than it can at the moment.";
    /// As many requests of the rule are under way as may be.
    ConcurrencyLimit = "concurrency_limit", SERVICE_UNAVAILABLE, Mesh, true,
        "As many requests of the route are under way as may be.";
    /// The request lacks credentials that are required.
    CredentialsMissing = "credentials_missing", UNAUTHORIZED, Caller, true,
        "This service asks for credentials, and the request has none that it takes.";
    /// A credential of the request is not good.
    CredentialsInvalid = "credentials_invalid", UNAUTHORIZED, Caller, true,
        "The credentials of the request are not valid.";
    /// The token is good and does not suffice.
    ScopeMissing = "scope_missing", FORBIDDEN, Caller, true,
        "The token lacks a scope that this service asks for.";
    /// Who calls may not do this.
    NotPermitted = "not_permitted", FORBIDDEN, Caller, true,
        "The caller is not permitted to do this.";
    /// Keys of an issuer have never come, or nobody says what a token is worth.
    CredentialsUncheckable = "credentials_uncheckable", SERVICE_UNAVAILABLE, Mesh, true,
        "The mesh cannot check the credentials of the request at the moment.";
    /// What is written of who may enter can't be understood.
    AccessClosed = "access_closed", SERVICE_UNAVAILABLE, Mesh, true,
        "What is written of who may call this service cannot be understood.";
    /// It is more than a RateLimit lets through.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, Caller, true,
        "The caller uses more than this service allows.";
    /// Nobody can tell what the caller uses, and the RateLimit says to refuse then.
    LimitUnknown = "limit_unknown", TOO_MANY_REQUESTS, Mesh, true,
        "The mesh cannot tell at the moment how much the caller uses.";
    /// A call that is carried out once lacks its key, or has one that is none.
    IdempotencyKeyRequired = "idempotency_key_required", BAD_REQUEST, Caller, true,
        "This call needs one key of idempotency, of 1 to 255 characters.";
    /// The key is that of another request.
    IdempotencyConflict = "idempotency_conflict", CONFLICT, Caller, true,
        "The key of idempotency is that of another request.";
    /// The first call with the key is under way.
    IdempotencyInProgress = "idempotency_in_progress", CONFLICT, Caller, true,
        "The first call with this key of idempotency is under way.";
    /// The first call with the key may have been carried out, and no answer of it is kept.
    IdempotencyUnknown = "idempotency_unknown", CONFLICT, Caller, true,
        "A call with this key of idempotency may have been carried out, and its answer is not kept.";
    /// Nobody can tell what became of the key.
    IdempotencyUnavailable = "idempotency_unavailable", SERVICE_UNAVAILABLE, Mesh, false,
        "The mesh cannot tell at the moment what became of this key of idempotency.";
    /// No Guard covers the port.
    PortNotServed = "port_not_served", FORBIDDEN, Caller, true,
        "No service serves this port.";
    /// The rule says that this request fails, or that it is delayed.
    FaultInjected = "fault_injected", SERVICE_UNAVAILABLE, Mesh, true,
        "The route makes this request fail on purpose.";
    /// The request takes only what is kept, and nothing is.
    NotCached = "not_cached", GATEWAY_TIMEOUT, Caller, true,
        "No answer to this request is kept, and it asks for no other.";
    /// Plaintext into a port that takes mutual TLS only.
    PlaintextRefused = "plaintext_refused", FORBIDDEN, Caller, true,
        "This port takes calls from the mesh only, over mutual TLS.";
}

/// How a caller reads a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// A status and a problem document.
    #[default]
    Http,
    /// `grpc-status`: a gRPC client takes any other status for a broken server, and retries by its
    /// own table.
    Grpc,
}

/// A request that the mesh answers itself.
#[derive(Debug)]
pub struct Error {
    /// The cause.
    pub reason: Reason,
    /// For the person on call; never sent to a caller.
    pub detail: String,
    /// In place of the reason's own status.
    status: Option<StatusCode>,
    /// What else the response says.
    headers: Option<Box<HeaderMap>>,
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Reason {
    /// Whether it says nothing about the endpoint that a request was sent to, when it comes from this
    /// sidecar.
    pub fn is_ours(self) -> bool {
        let own = [Self::Overloaded, Self::NoCertificate].contains(&self);
        own || self.fault() == Fault::Caller
    }

    /// Whether it only says that the caller is not let in.
    pub fn is_of_access(self) -> bool {
        [
            Self::CredentialsMissing,
            Self::CredentialsInvalid,
            Self::ScopeMissing,
            Self::NotPermitted,
        ]
        .contains(&self)
    }

    /// The reason that a response of the mesh carries, if it is one.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let name = headers.get(REASON_HEADER)?;
        Self::ALL
            .iter()
            .copied()
            .find(|reason| name == reason.name())
    }

    /// Labels a response that is not the mesh's own; one that has a reason keeps it.
    pub fn label(self, headers: &mut HeaderMap) {
        let label = HeaderValue::from_static(self.name());
        headers.entry(REASON_HEADER).or_insert(label);
    }

    /// The response, as its caller reads it, with the reason in a header.
    pub fn response(self, reads: Reads) -> Response<Bytes> {
        self.response_with(reads, self.status())
    }

    fn response_with(self, reads: Reads, status: StatusCode) -> Response<Bytes> {
        match reads {
            Reads::Http => self.problem(status),
            Reads::Grpc => self.grpc(status),
        }
    }

    /// Trailers alone (gRPC over HTTP/2, "Responses").
    fn grpc(self, status: StatusCode) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(grpc_status(status)));
        // Every sentence is a constant of ours without characters that would have to be encoded.
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.told()));
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.name()));
        response
    }

    /// The gRPC status that means the same as the HTTP status (google.rpc.Code).
    pub const fn grpc_status(self) -> u16 {
        grpc_status(self.status())
    }

    /// A problem document (RFC 9457).
    fn problem(self, status: StatusCode) -> Response<Bytes> {
        let title = status.canonical_reason().unwrap_or_default();
        // Every part is a constant of ours without characters that JSON escapes.
        let problem = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{},"detail":"{}","reason":"{}"}}"#,
            status.as_u16(),
            self.told(),
            self.name(),
        );
        let mut response = Response::new(Bytes::from(problem));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.name()));
        let passes = [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        if passes.contains(&status) || self == Self::IdempotencyInProgress {
            // Endpoints and certificates come back within seconds or not at all.
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

// === impl Reads ===

impl Reads {
    /// As the request's media type tells: `application/grpc`, `application/grpc+proto`, …
    pub fn of(headers: &HeaderMap) -> Self {
        let grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| {
            let rest = kind.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
        });
        match grpc {
            true => Self::Grpc,
            false => Self::Http,
        }
    }
}

/// The code of google.rpc.Code that means the same as an HTTP status.
const fn grpc_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        | StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::CONFLICT => 10,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 13,
    }
}

// === impl Error ===

impl Error {
    /// A failure with what the person on call should know.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            status: None,
            headers: None,
        }
    }

    /// The same, with what the caller is to bring.
    pub fn challenging(self, challenge: HeaderValue) -> Self {
        self.with_header(WWW_AUTHENTICATE, challenge)
    }

    /// The same, which says when to come back.
    pub fn retry_after(self, wait: Duration) -> Self {
        // In whole seconds, and never sooner.
        let seconds = wait.as_millis().div_ceil(1000).clamp(1, 86_400);
        let seconds = u64::try_from(seconds).unwrap_or(1);
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }

    /// The same, with more headers.
    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(Box::new(headers));
        self
    }

    /// The same, answered with another status than the reason's own.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.reason.status())
    }

    /// The response; see [`Reason::response`].
    pub fn response(&self, reads: Reads) -> Response<Bytes> {
        let mut response = self.reason.response_with(reads, self.status());
        if let Some(headers) = &self.headers {
            response.headers_mut().extend((**headers).clone());
        }
        response
    }

    /// No connection to `address`.
    pub fn connect(address: SocketAddr, error: &dyn fmt::Display) -> Self {
        Self::new(Reason::ConnectFailed, format!("{address}: {error}"))
    }

    /// What hyper reports about an exchange that had begun.
    pub fn exchange(error: &hyper::Error) -> Self {
        let reason = match error {
            _ if error.is_parse() => Reason::BadResponse,
            _ if is_refused(error) => Reason::StreamRefused,
            _ => Reason::UpstreamReset,
        };
        Self::new(reason, sources(error))
    }
}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self::new(reason, String::new())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Error {}

/// Whether the other side says that it has not looked at the request and never will (RFC 9113 sections
/// 6.8 and 8.7): it refused the stream, or its GOAWAY is about an earlier one.
fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let of_http2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
    of_http2.is_some_and(|error| {
        let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (refused || error.is_go_away())
    })
}

/// Whether the other side's kernel has thrown the connection away, as it does when something sent was not read.
/// What ends after it has read everything closes the connection instead.
pub fn was_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        let of_http2 = source.downcast_ref::<h2::Error>();
        let io = of_http2.and_then(h2::Error::get_io);
        if let Some(error) = source.downcast_ref::<std::io::Error>().or(io) {
            return matches!(error.kind(), ConnectionReset | BrokenPipe);
        }
        next = source.source();
    }
    false
}

/// An error and its causes in one line.
fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_problem_document_with_its_reason() {
        for reason in Reason::ALL {
            let response = reason.response(Reads::Http);
            let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(problem["reason"], reason.name());
            assert_eq!(problem["status"], response.status().as_u16());
            assert_eq!(response.headers()[REASON_HEADER], reason.name());
            assert!(response.status().is_client_error() || response.status().is_server_error());
        }
    }

    #[test]
    fn the_table_of_answers_is_what_is_answered() {
        let table = include_str!("../../../docs/answers.md");
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        // Behind its head.
        let rows: Vec<&str> = rows.skip(1).collect();
        assert_eq!(rows.len(), Reason::ALL.len());
        for (row, reason) in rows.iter().zip(Reason::ALL) {
            let who = match reason.fault() {
                Fault::Caller => "the caller",
                Fault::Target => "who runs the Service",
                Fault::Mesh => "who runs the mesh",
            };
            let (status, grpc) = (reason.status().as_u16(), reason.grpc_status());
            let (name, told) = (reason.name(), reason.told());
            let begins = format!("| `{name}` | {status} | {grpc} | {told} | {who} |");
            assert!(row.starts_with(&begins), "{row}\n{begins}");
            let response = reason.response(Reads::Http);
            let waits = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(row.contains("`Retry-After`"), waits, "{row}");
            let never = format!("`{name}`");
            let (_, rest) = table.split_once("(all but").unwrap();
            assert_eq!(rest.contains(&never), !reason.unsent(), "{name}");
        }
    }

    #[test]
    fn reasons_have_names_of_their_own_in_snake_case() {
        let names: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
        }
    }

    #[test]
    fn a_grpc_client_reads_a_refusal_as_a_grpc_status() {
        let grpc = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            Reads::of(&headers)
        };
        assert_eq!(grpc("application/grpc"), Reads::Grpc);
        assert_eq!(grpc("application/grpc+proto"), Reads::Grpc);
        assert_eq!(grpc("application/grpc-web"), Reads::Http);
        assert_eq!(grpc("application/json"), Reads::Http);
        for reason in Reason::ALL {
            let response = reason.response(Reads::Grpc);
            assert_eq!(response.status(), StatusCode::OK);
            assert_ne!(response.headers()["grpc-status"], "0");
            assert_eq!(response.headers()[REASON_HEADER], reason.name());
            // Nothing that gRPC would have to percent-encode.
            let told = reason.told().bytes();
            assert!(
                told.into_iter()
                    .all(|b| (0x20..0x7f).contains(&b) && b != b'%')
            );
        }
        assert_eq!(Reason::RequestTimeout.grpc_status(), 4);
        assert_eq!(Reason::NoEndpoints.grpc_status(), 14);
    }
}
