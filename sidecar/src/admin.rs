//! Answers to people (15000, this host only), scrapers (15020) and the kubelet (15021).
//!
//! On the control thread: none of it can slow a request.

mod access;
mod cache;
mod events;
mod explain;
mod limits;
pub mod probes;
mod settings;
mod show;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::Resource;

use crate::config::State;
use crate::config::followers::Followers;
use crate::drain::Drain;
use crate::events::desk::Desk;
use crate::identity::certs::Credentials;
use crate::net::accept::{accept, listen};
use crate::net::original_dst::local;
use crate::net::places::{Keep, Places};
use crate::telemetry::access_log::selection::Selected;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::text::Format;
use crate::telemetry::tap::wanted::Wanted;
use crate::telemetry::tap::{MAX_TAPS, Taps};
use probes::{HookFailed, Prober};

/// Connections to one of these servers at a time; for one more the oldest of whoever has the most is
/// closed, so that nobody can keep the kubelet or a scraper out by staying, or by coming often.
const MAX_CONNECTIONS: usize = 64;
/// Of one address: the kubelet and a scraper need few, and no stranger has all.
const MAX_OF_ONE: usize = 16;

/// How long a question may take to arrive, and a connection may be kept for the next one: scrapers
/// come every minute at most.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a connection may stay.
const LIFE: Duration = Duration::from_secs(600);

/// Bytes of a body: a setting is a line.
const MAX_BODY: usize = 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What there is to ask on 15000.
const PAGES: &str = "\
GET /config            what is in force
GET /enter             ?path=/orders/1&source=spiffe://...&header=x-api-key:+...: whether it would be let in here
GET /explain           ?method=GET&url=http://orders/1&header=x-canary:+1: what would become of it,
                       or of a connection: ?url=tcp://ledger:7000, ?url=tls://db:5432&server-name=db
GET /endpoints         which are not called, or avoided
GET /plaintext         who calls without mutual TLS
GET /stalls            which ports to declare: their servers speak first
GET /tap               ?status=5xx&path=/orders&sample=10: requests as they end, until you hang up
GET /stats             what is going on
GET /metrics           the same for scrapers, and more
GET /ready
GET or PUT /events     such as show=shop/billing limit=10: EventSubscriptions, and their dead letters: show=,
                       count=, replay= or purge=, from=dead-letters, until=2026-11-20T08:00:00Z, rate=50
GET or PUT /cache      such as purge=/orders: what is kept of the own answers, or that it goes
GET or PUT /log-level  such as info, or info,sidecar=debug
GET or PUT /access-log such as sample=10 filter=slow:500ms
";

/// What is known about the process.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Whether it may receive traffic.
    pub readiness: Readiness,
    /// What the delta stream holds.
    pub held: watch::Receiver<Arc<Vec<Resource>>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Which requests are written down; not the log itself, which ends when nobody holds it.
    pub access_log: Option<Arc<Selected>>,
    /// Who watches requests live.
    pub taps: Arc<Taps>,
    /// Asks the application what the kubelet wants to know, where it wants to know something.
    pub prober: Option<Rc<Prober>>,
    /// Who carries out EventSubscriptions.
    pub desk: Desk,
}

/// What is missing when there is no certificate, or none that is in force.
const NO_CERTIFICATE: &str = "no certificate in force yet";

/// Ready means: a certificate in force, a complete configuration, and the own Guards in it.
#[derive(Clone, Debug)]
pub struct Readiness {
    /// The state in force.
    pub state: watch::Receiver<Arc<State>>,
    /// Who we are.
    pub credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// How things stand with the operator.
    pub stream: watch::Receiver<wire::client::State>,
    /// Whether the workers follow.
    pub followers: Arc<Followers>,
    /// Whether we are ending.
    pub drain: Drain,
}

/// Starts the three servers; returns when they listen.
///
/// # Errors
/// When an address cannot be listened on.
pub fn start(
    admin: Admin,
    people: SocketAddr,
    scrapers: SocketAddr,
    kubelet: SocketAddr,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let admin = Rc::new(admin);
    let mut servers = Vec::new();
    for (address, each, answer) in [
        // Of this host alone, and so all from one address.
        (
            people,
            MAX_CONNECTIONS,
            Admin::to_people as fn(&Admin, &Question) -> Answer,
        ),
        (scrapers, MAX_OF_ONE, Admin::to_scrapers),
    ] {
        let listener = listen(address)?;
        let admin = admin.clone();
        let answer = async move |question: Question| Ok(answer(&admin, &question));
        servers.push(tokio::task::spawn_local(serve(listener, each, answer)));
    }
    let listener = listen(kubelet)?;
    let answer = async move |question: Question| admin.to_kubelet(&question).await;
    servers.push(tokio::task::spawn_local(serve(
        listener, MAX_OF_ONE, answer,
    )));
    Ok(servers)
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A request, its body included.
#[derive(Debug)]
struct Question {
    method: Method,
    path: String,
    query: String,
    /// That of the target, which is there when a proxy is asked.
    authority: Option<String>,
    headers: HeaderMap,
    body: Bytes,
    /// The address of this host at which it came.
    called: IpAddr,
    /// For whoever shows that it is no stranger.
    place: Keep,
}

/// Serves for as long as it is polled, `each` address so many connections at a time. Where there is no
/// answer, the connection is closed.
async fn serve(
    listener: tokio::net::TcpListener,
    each: usize,
    answer: impl AsyncFn(Question) -> Result<Answer, HookFailed> + Clone + 'static,
) {
    let places = Places::with_each(MAX_CONNECTIONS, each);
    loop {
        let stream = accept(&listener).await;
        // Gone already, if it can't be told.
        let Ok(called) = local(&stream).map(|called| called.ip()) else {
            continue;
        };
        let source = stream.peer_addr().ok();
        let mut place = places.take_from(source.map(|source| source.ip().to_canonical()));
        let keep = place.keep();
        let answer = answer.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, keep) = (answer.clone(), keep.clone());
                async move {
                    match Question::read(request, called, keep).await {
                        Ok(question) => answer(question).await,
                        Err(refused) => Ok(refused),
                    }
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // However it ends, nothing is left to do.
            let _ = place.during(timeout(LIFE, connection)).await;
        });
        // What has arrived is read before more are let in, which could take its place.
        tokio::task::yield_now().await;
    }
}

// === impl Question ===

impl Question {
    async fn read(request: Request<Incoming>, called: IpAddr, place: Keep) -> Result<Self, Answer> {
        let (head, body) = request.into_parts();
        let body = match head.method {
            Method::PUT => {
                let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
                let late = |_| text(StatusCode::REQUEST_TIMEOUT, "the body is late\n");
                let large = |_| text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n");
                body.map_err(late)?.map_err(large)?.to_bytes()
            }
            // Nobody reads another's.
            _ => Bytes::new(),
        };
        Ok(Self {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            authority: head.uri.authority().map(ToString::to_string),
            headers: head.headers,
            body,
            called,
            place,
        })
    }

    /// What only tells is asked with GET or HEAD.
    fn tells(&self, answer: impl FnOnce() -> Answer) -> Answer {
        match self.method {
            Method::GET | Method::HEAD => answer(),
            _ => not_allowed("GET, HEAD"),
        }
    }

    /// What can be set is set with PUT.
    fn tells_or_sets(&self, answer: impl FnOnce() -> Answer) -> Answer {
        match self.method {
            Method::GET | Method::HEAD | Method::PUT => answer(),
            _ => not_allowed("GET, HEAD, PUT"),
        }
    }
}

// === impl Admin ===

impl Admin {
    fn to_people(&self, question: &Question) -> Answer {
        if let Some(why) = settings::refused(question) {
            return text(StatusCode::FORBIDDEN, why);
        }
        match &*question.path {
            "/config" => question.tells(|| json(StatusCode::OK, &self.config())),
            "/enter" => question.tells(|| self.enter(&question.query)),
            "/explain" => question.tells(|| self.explain(&question.query)),
            "/plaintext" => question.tells(|| json(StatusCode::OK, &self.plaintext())),
            "/endpoints" => question.tells(|| json(StatusCode::OK, &self.endpoints())),
            "/stalls" => question.tells(|| json(StatusCode::OK, &self.stalls())),
            "/tap" => question.tells(|| self.tap(&question.query)),
            "/stats" => question.tells(|| json(StatusCode::OK, &self.stats())),
            "/ready" => self.ready(question),
            "/metrics" => self.to_scrapers(question),
            "/events" => question.tells_or_sets(|| self.events(question)),
            "/cache" => question.tells_or_sets(|| self.cache(question)),
            "/log-level" => question.tells_or_sets(|| self.log_level(question)),
            "/access-log" => question.tells_or_sets(|| self.access_log(question)),
            _ => question.tells(|| text(StatusCode::NOT_FOUND, PAGES)),
        }
    }

    fn enter(&self, query: &str) -> Answer {
        match access::enter(&self.readiness.state.borrow(), query) {
            Ok(told) => json(StatusCode::OK, &told),
            Err(wrong) => text(StatusCode::BAD_REQUEST, wrong + "\n"),
        }
    }

    fn explain(&self, query: &str) -> Answer {
        let (state, held) = (&self.readiness.state, &self.held);
        let healths = &self.metrics.attempts.healths;
        match explain::answer(&state.borrow(), &held.borrow(), healths, query) {
            Ok(told) => json(StatusCode::OK, &told),
            Err(wrong) => text(StatusCode::BAD_REQUEST, wrong + "\n"),
        }
    }

    /// Requests as they end, for as long as somebody reads.
    fn tap(&self, query: &str) -> Answer {
        let wanted = match Wanted::read(query) {
            Ok(wanted) => wanted,
            Err(wrong) => return text(StatusCode::BAD_REQUEST, wrong + "\n"),
        };
        let Some(tap) = self.taps.open(wanted) else {
            let why = format!("{MAX_TAPS} taps are open here, and no more may be: end one\n");
            return text(StatusCode::TOO_MANY_REQUESTS, why);
        };
        let mut response = Response::new(tap.boxed_unsync());
        let lines = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(CONTENT_TYPE, lines);
        response
    }

    fn to_scrapers(&self, question: &Question) -> Answer {
        question.tells(|| {
            if question.path != "/metrics" {
                return text(StatusCode::NOT_FOUND, "GET /metrics\n");
            }
            let format = Format::wanted(&question.headers);
            let mut response = text(StatusCode::OK, self.metrics.render(format));
            let kind = HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        })
    }

    /// Whether the sidecar is ready, and what its application says.
    async fn to_kubelet(&self, question: &Question) -> Result<Answer, HookFailed> {
        if !Prober::is_asked(&question.path) {
            return Ok(self.ready(question));
        }
        if question.method != Method::GET {
            return Ok(not_allowed("GET"));
        }
        let Some(prober) = &self.prober else {
            return Ok(text(StatusCode::NOT_FOUND, "the pod has no such probe\n"));
        };
        if prober.knows(question) {
            question.place.no_stranger();
        }
        prober.answer(question, question.called).await
    }

    fn ready(&self, question: &Question) -> Answer {
        question.tells(|| {
            if !["/ready", wire::capture::READY].contains(&&*question.path) {
                return text(StatusCode::NOT_FOUND, "GET /ready\n");
            }
            match self.readiness.reason(SystemTime::now()) {
                None => text(StatusCode::OK, "ready\n"),
                Some(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
            }
        })
    }
}

// === impl Readiness ===

impl Readiness {
    /// What is missing before traffic may come; `None` when ready.
    pub fn missing(&self) -> Option<&'static str> {
        let certified = self
            .credentials
            .borrow()
            .as_ref()
            .is_some_and(|credentials| credentials.in_force());
        if self.drain.has_begun() {
            Some("draining")
        } else if !certified {
            Some(NO_CERTIFICATE)
        } else if !self.stream.borrow().complete {
            Some("the configuration has not arrived completely")
        } else if !self.state.borrow().is_complete() {
            Some("the operator has not said yet who may call this workload")
        } else if !self.followers.are_ready() {
            Some("not every worker has what it needs yet")
        } else {
            None
        }
    }

    /// What is missing, and for a certificate that is there its dates beside the node's `clock`.
    /// `missing` has none of those: pods that wait for the same are told together by it.
    fn reason(&self, clock: SystemTime) -> Option<String> {
        let missing = self.missing()?;
        let credentials = self.credentials.borrow();
        let dates = credentials
            .as_ref()
            .filter(|_| missing == NO_CERTIFICATE)
            .and_then(|credentials| credentials.out_of_force(clock));
        Some(match dates {
            Some(dates) => format!("{missing}: {dates}"),
            None => missing.to_owned(),
        })
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn not_allowed(allowed: &'static str) -> Answer {
    let why = format!("only {allowed} is answered here\n");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, why);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}

fn json(status: StatusCode, value: &Value) -> Answer {
    let mut response = text(status, format!("{value:#}\n"));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
#[path = "admin/tests.rs"]
mod tests;
