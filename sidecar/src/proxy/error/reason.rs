//! The reasons, and what a caller is told of each.

use std::fmt;

use bytes::Bytes;
use http::header::HeaderName;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::REASON_HEADER;

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
    /// What is to be published is no event.
    EventMalformed = "event_malformed", BAD_REQUEST, Caller, true,
        "What was sent is no event.";
    /// The event is in a format that is not read.
    EventUnsupported = "event_unsupported", UNSUPPORTED_MEDIA_TYPE, Caller, true,
        "Events are not read in this format.";
    /// No ApiRoute lets this workload publish there.
    PublishNotGranted = "publish_not_granted", FORBIDDEN, Caller, true,
        "No route lets this workload publish to this broker and topic.";
    /// Nothing at the broker holds what is published to the topic.
    TopicUnknown = "topic_unknown", NOT_FOUND, Mesh, true,
        "The broker has no such topic.";
    /// The broker does not take the event.
    PublishRefused = "publish_refused", BAD_GATEWAY, Mesh, true,
        "The broker refused the event.";
    /// The broker may hold the event or not.
    PublishUnconfirmed = "publish_unconfirmed", SERVICE_UNAVAILABLE, Mesh, false,
        "The broker has not confirmed the event in time.";
    /// The broker was told nothing.
    BrokerUnavailable = "broker_unavailable", SERVICE_UNAVAILABLE, Mesh, true,
        "The broker cannot be reached at the moment.";
    /// No job is known by this token, or not to this caller.
    JobUnknown = "job_unknown", NOT_FOUND, Caller, true,
        "The caller has no such job, or has it no longer.";
    /// What came of the job can't be given.
    JobFailed = "job_failed", BAD_GATEWAY, Target, false,
        "The job has no result that can be given.";
    /// The store of jobs does not answer; nothing was published.
    JobsUnavailable = "jobs_unavailable", SERVICE_UNAVAILABLE, Mesh, true,
        "The mesh cannot keep or tell at the moment what comes of jobs.";
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

    pub(super) fn response_with(self, reads: Reads, status: StatusCode) -> Response<Bytes> {
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
