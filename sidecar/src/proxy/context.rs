//! What a request has learned so far, and the account that is rendered when it has ended.

mod request_bytes;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};
use tokio::time::Instant;

pub use self::request_bytes::RequestBytes;
use super::destination::Routed;
use super::error::{Error, Reads, Reason};
use super::headers::Told;
use super::limits;
use super::load::{Admitted, Seat};
use super::upgrade::Upgrade;
use crate::identity::SpiffeId;
use crate::policy::authentication::Caller;
use crate::policy::cache::status::Outcome as Cached;
use crate::policy::cache::store::Room;
use crate::policy::concurrency::Place;
use crate::policy::cors::Share;
use crate::policy::idempotency::outcome::Outcome as Once;
use crate::policy::retry::Failure;
use crate::telemetry::access_log::selection::Facts;
use crate::telemetry::access_log::{AccessLog, Line, Timestamp};
use crate::telemetry::metrics::{
    Code, CodeClass, Direction, Ended, GrpcStatus, ReasonLabel, RequestLabels, RequestMetrics,
    Shared, Source,
};
use crate::telemetry::trace::Trace;

/// Facts about one request. Each field is written in one place; none is configuration.
#[derive(Debug)]
pub struct Context {
    /// Which way.
    pub direction: Direction,
    /// When the head had arrived.
    pub started: Instant,
    /// The caller, on inbound requests.
    pub source: Option<SpiffeId>,
    /// `namespace/service`, once found.
    pub service: Option<Arc<str>>,
    /// The ApiRoute and its rule, once found.
    pub route: Option<(Arc<str>, Arc<str>)>,
    /// The pod that was sent to, last.
    pub endpoint: RefCell<Option<Arc<str>>>,
    /// Attempts begun.
    pub attempts: Cell<u32>,
    /// Why there was more than one, and whether one more was wanted.
    pub retried: Retried,
    /// What a caller's sidecar says of it.
    pub told: Told,
    /// The other protocol that it asks to become.
    pub upgrade: Option<Upgrade>,
    /// How the caller reads a refusal.
    pub reads: Reads,
    /// What the answer says of who may read it.
    pub cors: Option<Share>,
    /// A fault has delayed it.
    pub delayed: bool,
    /// How long its rule lets it wait while no byte of it moves.
    pub idle: Option<Duration>,
    /// Whose key it was sent with.
    pub consumer: Option<Arc<str>>,
    /// What it brought tells who sends it.
    credentials: bool,
    /// What became of it where answers are kept.
    cached: Option<Cached>,
    /// The room of what it is given of them.
    given: Option<Arc<Room>>,
    decided: Option<Decided>,
    limited: Option<Limited>,
    /// What became of it where calls are carried out once.
    once: Option<Once>,
    /// Its place among what is in flight, as long as anything is done for it.
    pub admitted: Option<Rc<Admitted>>,
    /// Its places among the requests of the rules that govern it, until its account is closed.
    pub places: Vec<Place>,
    trace: Trace,
    time: SystemTime,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    status: Option<StatusCode>,
    error: Option<Error>,
    outcome: Outcome,
    grpc_status: GrpcStatus,
    request_bytes: RequestBytes,
    response_bytes: u64,
}

/// What was decided of who may do what, last or against it.
#[derive(Debug)]
struct Decided {
    /// `allowed`, `denied` or `would_deny`.
    outcome: &'static str,
    rule: Option<Arc<str>>,
    audited: bool,
}

/// The limit that it met, last.
#[derive(Debug)]
struct Limited {
    /// `namespace/name/limit`.
    limit: String,
    /// `limited`, `delayed` or `would_limit`.
    outcome: &'static str,
}

/// Why a request was sent again.
#[derive(Debug, Default)]
pub struct Retried {
    /// After what, last.
    pub after: Cell<Option<Failure>>,
    /// Another attempt was wanted, and there was none.
    pub given_up: Cell<bool>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The caller went away, or the future was dropped: what holds until something else does.
    Cancelled,
    Complete,
    Failed,
}

/// Accounts for one request when dropped, however it ends: hyper drops the work of a caller that
/// hung up, and that is an outcome too.
#[derive(Debug)]
pub struct Account {
    /// The facts.
    pub cx: Context,
    metrics: Rc<RequestMetrics>,
    log: AccessLog,
}

// === impl Context ===

impl Context {
    /// At the arrival of a request's head, in which it keeps or begins the trace. Cloning method,
    /// URI and header copies no text.
    pub fn new(direction: Direction, head: &mut Parts) -> Self {
        Self {
            direction,
            started: Instant::now(),
            source: None,
            service: None,
            route: None,
            endpoint: RefCell::default(),
            attempts: Cell::new(0),
            retried: Retried::default(),
            told: match direction {
                Direction::inbound => Told::by_peer(&head.headers),
                Direction::outbound => Told::default(),
            },
            upgrade: None,
            reads: Reads::of(&head.headers),
            cors: None,
            delayed: false,
            idle: None,
            consumer: None,
            credentials: false,
            cached: None,
            given: None,
            decided: None,
            limited: None,
            once: None,
            admitted: None,
            places: Vec::new(),
            trace: Trace::of(&mut head.headers),
            time: SystemTime::now(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: head.headers.get(HOST).cloned(),
            status: None,
            error: None,
            outcome: Outcome::Cancelled,
            grpc_status: GrpcStatus::None,
            request_bytes: RequestBytes::default(),
            response_bytes: 0,
        }
    }

    /// Another rule governs it from here on.
    pub fn governed_by(&mut self, routed: &Routed) {
        if let Some(backend) = &routed.backend {
            self.service = Some(backend.service.clone());
        }
        let idle = [self.idle, routed.idle_timeout()];
        self.idle = idle.into_iter().flatten().min();
    }

    /// Who calls is known.
    pub fn calls(&mut self, caller: &Caller) {
        self.credentials |= caller.token.is_some() || caller.consumer.is_some();
        if let Some(consumer) = &caller.consumer {
            self.consumer = Some(consumer.name.clone());
        }
    }

    /// Whether it is known who sends it by what it brought.
    pub fn has_credentials(&self) -> bool {
        self.credentials
    }

    /// It is given this of what is kept.
    pub fn is_given(&mut self, room: &Arc<Room>) {
        self.given = Some(room.clone());
    }

    /// This became of it where answers are kept.
    pub fn cached(&mut self, outcome: Cached) {
        self.cached = Some(outcome);
    }

    /// It was decided whether it may: what was decided against it stays.
    pub fn decided(&mut self, rule: Option<Arc<str>>, outcome: &'static str, audited: bool) {
        let before = self.decided.take();
        let audited = audited || before.as_ref().is_some_and(|before| before.audited);
        // What was only told is nothing beside what is carried out.
        let weight = |outcome| match outcome {
            "allowed" => 0,
            "would_deny" => 1,
            _ => 2,
        };
        let decided = match before {
            Some(before) if weight(before.outcome) >= weight(outcome).max(1) => {
                Decided { audited, ..before }
            }
            _ => Decided {
                outcome,
                rule,
                audited,
            },
        };
        self.decided = Some(decided);
    }

    /// It met a limit of a RateLimit.
    pub fn limited(&mut self, object: &str, limit: &str, outcome: &'static str) {
        let limit = format!("{object}/{limit}");
        self.limited = Some(Limited { limit, outcome });
    }

    /// This became of it where calls are carried out once.
    pub fn carried_out(&mut self, outcome: Once) {
        self.once = Some(outcome);
    }

    /// The path has another form than it was sent in, and this is the one that counts.
    pub fn settled(&mut self, uri: &Uri) {
        self.uri = uri.clone();
    }

    /// Whether the response must have no body.
    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The request has a body: what is returned counts it.
    pub fn sends(&mut self) -> RequestBytes {
        self.request_bytes = RequestBytes::counted();
        self.request_bytes.clone()
    }

    /// How much of the request's body has been passed on.
    pub fn sent(&self) -> RequestBytes {
        self.request_bytes.clone()
    }

    /// How long it may wait for its answer while no byte of it moves.
    pub fn idle_limit(&self) -> Duration {
        self.idle.unwrap_or(limits::BODY_IDLE)
    }

    /// How many bytes have moved, in both directions.
    pub fn moved(&self) -> u64 {
        self.request_bytes.get() + self.response_bytes
    }

    /// Why there is no answer. A request whose own body broke off has none because of that, and not
    /// because of whom it was sent to.
    pub fn unanswered(&self, error: Error) -> Error {
        match error.reason {
            Reason::UpstreamReset | Reason::KeptConnectionClosed if self.broke_off_itself() => {
                Error::new(Reason::BadRequest, "the request's body broke off")
            }
            _ => error,
        }
    }

    /// Whether the request's own body broke off.
    pub fn broke_off_itself(&self) -> bool {
        self.request_bytes.has_broken_off()
    }

    /// The response's head is known.
    pub fn responds<B>(&mut self, response: &Response<B>) {
        self.status = Some(response.status());
        // One that has failed before it began has no trailers.
        self.says(response.headers());
    }

    /// The response says how it ended, if it is one of gRPC.
    pub fn says(&mut self, trailers: &HeaderMap) {
        if self.reads == Reads::Grpc
            && let Some(status) = GrpcStatus::of(trailers)
        {
            self.grpc_status = status;
        }
    }

    /// The mesh answers itself.
    pub fn refused(&mut self, status: StatusCode, error: Error) {
        self.status = Some(status);
        if self.reads == Reads::Grpc {
            self.grpc_status = error.reason.grpc_status().into();
        }
        self.error = Some(error);
    }

    /// More of the response was passed on.
    pub fn passed_on(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// The response has ended as it should.
    pub fn completed(&mut self) {
        self.outcome = Outcome::Complete;
    }

    /// The response broke off after its head had been sent.
    pub fn broke_off(&mut self, error: Error) {
        self.error = Some(error);
        self.outcome = Outcome::Failed;
    }

    fn labels(&self, own: impl FnOnce() -> Source) -> RequestLabels {
        let empty = || Shared(Arc::default());
        let (route, rule) = match &self.route {
            Some((route, rule)) => (Shared(route.clone()), Shared(rule.clone())),
            None => (empty(), empty()),
        };
        RequestLabels {
            direction: self.direction,
            source: match (self.direction, &self.source) {
                (Direction::outbound, _) => own(),
                (Direction::inbound, Some(peer)) => Source::Workload(peer.clone()),
                (Direction::inbound, None) => Source::Unknown,
            },
            service: self.service.clone().map_or_else(empty, Shared),
            route,
            rule,
            code_class: CodeClass::of(self.status),
            code: Code::of(self.status),
            grpc_status: self.grpc_status,
            reason: ReasonLabel(self.reason()),
        }
    }

    fn reason(&self) -> Option<Reason> {
        let delayed = self.delayed.then_some(Reason::FaultInjected);
        self.error.as_ref().map(|error| error.reason).or(delayed)
    }

    fn facts(&self, duration: Duration) -> Facts {
        let failed = self.error.is_some()
            || self.outcome != Outcome::Complete
            || self.status.is_some_and(|status| status.is_server_error())
            || self.grpc_status.is_failure();
        Facts {
            failed,
            audited: self.decided.as_ref().is_some_and(|decided| decided.audited),
            duration,
            lot: self.trace.lot(),
        }
    }

    /// `endpoint` is its own, which may change as long as it is sent.
    fn line<'a>(&'a self, endpoint: &'a str) -> Line<'a> {
        let host = match (self.uri.authority(), &self.host) {
            (Some(authority), _) => without_credentials(authority.as_str()),
            (None, Some(host)) => without_credentials(host.to_str().unwrap_or_default()),
            (None, None) => "",
        };
        let (route, rule) = match &self.route {
            Some((route, rule)) => (&**route, &**rule),
            None => ("", ""),
        };
        Line {
            time: Timestamp(self.time),
            direction: self.direction.name(),
            method: short(self.method.as_str()),
            host: short(host),
            path: short(self.uri.path()),
            source: self.source.as_ref().map_or("", SpiffeId::as_str),
            service: self.service.as_deref().unwrap_or_default(),
            route,
            rule,
            consumer: self.consumer.as_deref().unwrap_or_default(),
            decision: self.decided.as_ref().map_or("", |decided| decided.outcome),
            decided_by: match &self.decided {
                Some(decided) => decided.rule.as_deref().unwrap_or_default(),
                None => "",
            },
            cache: self.cached.map_or("", Cached::name),
            limit: self.limited.as_ref().map_or("", |one| &one.limit),
            limited: self.limited.as_ref().map_or("", |one| one.outcome),
            idempotency: self.once.map_or("", Once::name),
            endpoint,
            status: self.status.map_or(0, |status| status.as_u16()),
            grpc_status: self.grpc_status,
            reason: self.reason().map_or("", Reason::name),
            detail: self.error.as_ref().map_or("", |error| short(&error.detail)),
            outcome: match self.outcome {
                Outcome::Cancelled => "cancelled",
                Outcome::Complete => "complete",
                Outcome::Failed => "failed",
            },
            attempts: self.attempts.get(),
            attempt: self
                .told
                .attempt
                .filter(|_| self.source.is_some())
                .unwrap_or(0),
            retried_after: self
                .retried
                .after
                .get()
                .map_or("", |failure| failure.names().0),
            duration_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            request_bytes: self.request_bytes.get(),
            response_bytes: self.response_bytes,
            trace_id: self.trace.trace_id(),
            request_id: self.trace.request_id(),
        }
    }
}

/// Lines wait in memory for a writer that may be slow: no caller decides how large they are.
fn short(text: &str) -> &str {
    const LONGEST: usize = 2048;
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// An authority may carry `user:password@` (RFC 3986 3.2.1); the log never does.
fn without_credentials(authority: &str) -> &str {
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host)
}

// === impl Account ===

impl Account {
    /// Opens the account of a request.
    pub fn open(cx: Context, metrics: Rc<RequestMetrics>, log: AccessLog) -> Self {
        metrics.begun(cx.direction);
        Self { cx, metrics, log }
    }

    /// Takes a place among what is in flight, until the response has ended.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn admit(&mut self, seat: &Rc<Seat>) -> Result<(), Error> {
        self.cx.admitted = Some(Rc::new(seat.admit().ok_or(Reason::Overloaded)?));
        Ok(())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let ended = Ended {
            duration: self.cx.started.elapsed(),
            request_bytes: self.cx.request_bytes.get(),
            response_bytes: self.cx.response_bytes,
        };
        let labels = self.cx.labels(|| self.metrics.own());
        self.metrics.ended(labels, ended);
        let facts = self.cx.facts(ended.duration);
        let endpoint = self.cx.endpoint.take();
        let endpoint = endpoint.as_deref().unwrap_or_default();
        self.log.ended(facts, || self.cx.line(endpoint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn a_line_has_no_query_and_no_credentials() {
        let request = Request::get("http://user:secret@orders.shop/orders/1?token=secret");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let cx = Context::new(Direction::outbound, &mut head);
        let line = serde_json::to_string(&cx.line("")).unwrap();
        assert!(line.contains(r#""path":"/orders/1""#), "{line}");
        assert!(line.contains(r#""host":"orders.shop""#), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }

    #[test]
    fn a_line_has_the_path_that_was_settled() {
        let request = Request::get("/public/../%61dmin?a=//");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let mut cx = Context::new(Direction::outbound, &mut head);
        crate::proxy::path::settle(&mut cx, &mut head).unwrap();
        assert_eq!(cx.line("").path, "/admin");
    }
}
