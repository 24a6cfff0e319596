//! Why a request got no answer of its target's, from birth to the response: the only mapping.
//!
//! One [`Reason`] names the cause in the response, the access log and the metrics. What the caller
//! is told ([`Reason::told`]) and what the person on call reads (`Error::detail`, in the log) are
//! different texts: the second may name addresses, the first never does.

mod reason;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

pub use reason::{Fault, Reads, Reason};

use super::body::Cut;

/// Carries the reason beside the problem document, for callers that read no bodies.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("meshwright-reason");

/// A request that the mesh answers itself.
#[derive(Debug)]
pub struct Error {
    /// The cause.
    pub reason: Reason,
    /// For the person on call; never sent to a caller.
    pub detail: String,
    /// What is wrong with the request, for the caller: the field and the remedy, and no value.
    said: Option<Box<str>>,
    /// What else the problem document has.
    members: Option<Box<Map<String, Value>>>,
    /// In place of the reason's own status.
    status: Option<StatusCode>,
    /// What else the response says.
    headers: Option<Box<HeaderMap>>,
}

// === impl Error ===

impl Error {
    /// A failure with what the person on call should know.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            said: None,
            members: None,
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

    /// The same, which tells the caller what is wrong with the request: the field and the remedy, and no value.
    pub fn saying(mut self, said: impl Into<Box<str>>) -> Self {
        self.said = Some(said.into());
        self
    }

    /// The same, with more members of the problem document (RFC 9457, section 3.2).
    pub fn reporting(mut self, members: Map<String, Value>) -> Self {
        self.members = Some(Box::new(members));
        self
    }

    /// What the caller is told of the request.
    pub fn said(&self) -> Option<&str> {
        self.said.as_deref()
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
        if let (Reads::Http, Some(said)) = (reads, &self.said) {
            let errors = serde_json::json!([{ "detail": said }]);
            *response.body_mut() = with_member(response.body(), "errors", &errors);
        }
        if let (Reads::Http, Some(members)) = (reads, &self.members) {
            for (name, value) in &**members {
                *response.body_mut() = with_member(response.body(), name, value);
            }
        }
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

impl From<Cut> for Error {
    /// What whoever sent the body is answered, if anybody still reads that.
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::TooLarge => Reason::RequestTooLarge.into(),
            cut => Self::new(Reason::BadRequest, cut.to_string()),
        }
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

/// A problem document with one more member (RFC 9457, section 3.2).
fn with_member(problem: &Bytes, name: &str, value: &Value) -> Bytes {
    let Some(open) = problem.strip_suffix(b"}") else {
        return problem.clone();
    };
    let member = format!(",\"{name}\":{value}}}");
    [open, member.as_bytes()].concat().into()
}

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
    use http::header::CONTENT_TYPE;

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
    fn what_is_wrong_with_a_request_is_told_beside_the_reason() {
        let error = Error::new(Reason::EventMalformed, "").saying("time: \"it\" is none");
        let response = error.response(Reads::Http);
        let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(problem["errors"][0]["detail"], "time: \"it\" is none");
        assert_eq!(problem["reason"], "event_malformed");
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
