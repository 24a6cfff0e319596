//! Labels: from configuration, from proved identities, or of small closed sets. What an application
//! or a stranger chooses becomes no label as it is.

use std::fmt::Error;
use std::sync::Arc;

use http::StatusCode;
use http::header::HeaderMap;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use serde::{Serialize, Serializer};

use crate::identity::SpiffeId;
use crate::proxy::error::Reason;

/// Labels of one series of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Which way.
    pub direction: Direction,
    /// Who called.
    pub source: Source,
    /// `namespace/service`; empty when no Service was found.
    pub service: Shared,
    /// `namespace/name` of the ApiRoute; empty without one.
    pub route: Shared,
    /// Its rule.
    pub rule: Shared,
    /// The first digit of the status.
    pub code_class: CodeClass,
    /// The status.
    pub code: Code,
    /// The status of a gRPC answer; empty for others.
    pub grpc_status: GrpcStatus,
    /// Why the mesh answered itself, or delayed; empty when it did not.
    pub reason: ReasonLabel,
}

/// Labels of durations and bytes: what is looked at together, so that histograms stay few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlowLabels {
    direction: Direction,
    source: Source,
    service: Shared,
    route: Shared,
    rule: Shared,
    code_class: CodeClass,
    reason: ReasonLabel,
}

/// Labels that can say less, where there are too many series.
pub trait Coarser: Sized {
    /// Without the caller, of whom there may be most.
    fn without_source(&self) -> Self;
    /// Only what is of small closed sets.
    fn without_names(&self) -> Self;
}

/// Labels of connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabels {
    /// Which way.
    pub direction: Direction,
    /// What it carries.
    pub kind: ConnectionKind,
}

/// Labels of bytes that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BytesLabels {
    /// Of the connection.
    pub direction: Direction,
    /// Of the connection.
    pub kind: ConnectionKind,
    /// Of the bytes.
    pub way: Way,
}

/// Labels of connections to upstreams.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpstreamLabels {
    /// `peer`, over mutual TLS, or `plaintext`: the own application, or outside the mesh.
    pub to: &'static str,
    /// `http1` or `http2`.
    pub protocol: &'static str,
}

/// Labels of refused connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Which way.
    pub direction: Direction,
    /// Why.
    pub reason: ReasonLabel,
}

/// Labels of TLS handshakes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandshakeLabels {
    /// Which way.
    pub direction: Direction,
    /// How it ended: `ok`, or the reason of the refusal.
    pub outcome: &'static str,
}

/// One direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabels {
    /// Which way.
    pub direction: Direction,
}

/// One kind of resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    /// As in resource ids.
    pub kind: &'static str,
}

/// One kind of input of the compiler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InputLabels {
    /// In snake case.
    pub input: &'static str,
}

/// Which way a connection goes, seen from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Direction {
    /// The application calls.
    outbound,
    /// The application is called.
    inbound,
}

/// What a connection carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum ConnectionKind {
    /// HTTP/1.1 or HTTP/2 from or to the application.
    http,
    /// HTTP/2 over mutual TLS from or to a peer.
    mtls_http,
    /// Opaque bytes of a known service, over mutual TLS.
    mtls_tcp,
    /// HTTP/1.1 or HTTP/2 from a caller outside the mesh, at a port that takes plaintext.
    plaintext_http,
    /// Opaque bytes of such a caller.
    plaintext_tcp,
    /// Opaque bytes to an address that the mesh does not know.
    passthrough,
}

/// Labels of what a rule counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleLabels {
    /// `namespace/name` of the ApiRoute.
    pub route: Shared,
    /// Its rule.
    pub rule: Shared,
}

/// Labels of copies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MirrorLabels {
    /// `namespace/name` of the ApiRoute.
    pub route: Shared,
    /// Its rule.
    pub rule: Shared,
    /// What became of the copy.
    pub outcome: MirrorOutcome,
}

/// What became of a copy of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum MirrorOutcome {
    /// It was answered.
    sent,
    /// It was not answered.
    failed,
    /// Too many others were under way.
    dropped,
    /// The body was larger than what is kept of one.
    too_large,
    /// The original broke off, or its service did not want all of it.
    unfinished,
}

/// Labels of what came in plaintext: a Guard's Service and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PlaintextLabels {
    /// `namespace/service`.
    pub service: Shared,
    /// Of the pod.
    pub port: u16,
}

/// Labels of what waited for a server that speaks first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StallLabels {
    /// `namespace/service`.
    pub service: Shared,
    /// Of the Service.
    pub port: u16,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub enum Way {
    /// From who connected.
    to_destination,
    /// Back.
    to_source,
}

/// Who calls: the workload's identity, proved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// Nobody has proved to be anybody.
    #[default]
    Unknown,
    /// `namespace/service-account`.
    Workload(SpiffeId),
    /// One of those for whom there was no room.
    Other,
}

/// The first digit of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodeClass(u16);

/// A status that has a name; the others count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// None was sent.
    None,
    /// Of the registry of status codes.
    Named(u16),
    /// One that an application made up.
    Other,
}

/// The status of a gRPC answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GrpcStatus {
    /// No gRPC answer, or one that broke off before its status.
    #[default]
    None,
    /// 0 to 16 (`google.rpc.Code`).
    Known(u8),
    /// One that is not defined.
    Other,
}

/// A text from configuration, shared instead of copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared(pub Arc<str>);

/// A reason, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReasonLabel(pub Option<Reason>);

/// What stands in the place of names for which there was no room.
const OTHER: &str = "other";

// === impl RequestLabels ===

impl RequestLabels {
    /// Those of its durations.
    pub fn flow(&self) -> FlowLabels {
        FlowLabels {
            direction: self.direction,
            source: self.source.clone(),
            service: self.service.clone(),
            route: self.route.clone(),
            rule: self.rule.clone(),
            code_class: self.code_class,
            reason: self.reason,
        }
    }
}

impl Coarser for RequestLabels {
    fn without_source(&self) -> Self {
        Self {
            source: Source::Other,
            ..self.clone()
        }
    }

    fn without_names(&self) -> Self {
        let other = Shared(OTHER.into());
        Self {
            direction: self.direction,
            source: Source::Other,
            service: other.clone(),
            route: other.clone(),
            rule: other,
            code_class: self.code_class,
            code: Code::Other,
            grpc_status: GrpcStatus::None,
            reason: self.reason,
        }
    }
}

impl Coarser for FlowLabels {
    fn without_source(&self) -> Self {
        Self {
            source: Source::Other,
            ..self.clone()
        }
    }

    fn without_names(&self) -> Self {
        let other = Shared(OTHER.into());
        Self {
            direction: self.direction,
            source: Source::Other,
            service: other.clone(),
            route: other.clone(),
            rule: other,
            code_class: self.code_class,
            reason: self.reason,
        }
    }
}

// === impl values ===

impl Direction {
    /// As in labels and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::outbound => "outbound",
            Self::inbound => "inbound",
        }
    }
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::http,
        Self::mtls_http,
        Self::mtls_tcp,
        Self::plaintext_http,
        Self::plaintext_tcp,
        Self::passthrough,
    ];

    /// As in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::http => "http",
            Self::mtls_http => "mtls_http",
            Self::mtls_tcp => "mtls_tcp",
            Self::plaintext_http => "plaintext_http",
            Self::plaintext_tcp => "plaintext_tcp",
            Self::passthrough => "passthrough",
        }
    }
}

impl CodeClass {
    /// Of a status, or of none.
    pub fn of(status: Option<StatusCode>) -> Self {
        Self(status.map_or(0, |status| status.as_u16() / 100))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("0"),
            Self::Named(code) => code.fmt(f),
            Self::Other => f.write_str(OTHER),
        }
    }
}

impl Code {
    /// Applications choose statuses, and there are 900 of three digits.
    pub fn of(status: Option<StatusCode>) -> Self {
        match status {
            None => Self::None,
            Some(status) if status.canonical_reason().is_some() => Self::Named(status.as_u16()),
            Some(_) => Self::Other,
        }
    }
}

impl From<u16> for GrpcStatus {
    fn from(status: u16) -> Self {
        match u8::try_from(status) {
            Ok(status @ 0..=16) => Self::Known(status),
            _ => Self::Other,
        }
    }
}

impl GrpcStatus {
    /// As headers or trailers say; `None` when they do not.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("grpc-status")?.to_str().ok()?;
        Some(
            text.parse()
                .map_or(Self::Other, |status: u16| status.into()),
        )
    }

    /// Whether it says that the server failed, as 5xx does: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
    /// UNAVAILABLE or DATA_LOSS.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Known(2 | 4 | 13..=15))
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

impl Serialize for GrpcStatus {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => to.serialize_none(),
            Self::Known(status) => to.serialize_u8(*status),
            Self::Other => to.serialize_str(OTHER),
        }
    }
}

impl EncodeLabelValue for Source {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        match self {
            Self::Unknown => EncodeLabelValue::encode(&"", encoder),
            Self::Other => EncodeLabelValue::encode(&OTHER, encoder),
            Self::Workload(id) => {
                let name = format!("{}/{}", id.namespace(), id.service_account());
                EncodeLabelValue::encode(&name, encoder)
            }
        }
    }
}

impl EncodeLabelValue for CodeClass {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        let class = match self.0 {
            0 => "none",
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => OTHER,
        };
        EncodeLabelValue::encode(&class, encoder)
    }
}

impl EncodeLabelValue for Code {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        match self {
            Self::None => EncodeLabelValue::encode(&0, encoder),
            Self::Named(code) => EncodeLabelValue::encode(code, encoder),
            Self::Other => EncodeLabelValue::encode(&OTHER, encoder),
        }
    }
}

impl EncodeLabelValue for GrpcStatus {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        match self {
            Self::None => EncodeLabelValue::encode(&"", encoder),
            Self::Known(status) => EncodeLabelValue::encode(status, encoder),
            Self::Other => EncodeLabelValue::encode(&OTHER, encoder),
        }
    }
}

impl EncodeLabelValue for Shared {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

impl EncodeLabelValue for ReasonLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        EncodeLabelValue::encode(&self.0.map_or("", Reason::name), encoder)
    }
}
