//! Answers to people (15000, this host only), scrapers (15020) and the kubelet (15021).
//!
//! On the control thread: none of it can slow a request.

mod explain;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wire::Resource;

use crate::config::State;
use crate::config::followers::Followers;
use crate::drain::Drain;
use crate::identity::certs::Credentials;
use crate::net::accept::{accept, listen};
use crate::net::places::Places;
use crate::telemetry::metrics::Metrics;

/// Connections to one of these servers at a time; for one more the oldest is closed, so that nobody
/// can keep the kubelet or a scraper out by staying.
const MAX_CONNECTIONS: usize = 64;

/// How long a question may take to arrive, and a connection may be kept for the next one: scrapers
/// come every minute at most.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a connection may stay.
const LIFE: Duration = Duration::from_secs(600);

/// What is known about the process.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Whether it may receive traffic.
    pub readiness: Readiness,
    /// What the delta stream holds.
    pub held: watch::Receiver<Arc<Vec<Resource>>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

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
    for (address, answer) in [
        (people, Admin::to_people as fn(&Admin, &Uri) -> Answer),
        (scrapers, Admin::to_scrapers),
        (kubelet, Admin::to_kubelet),
    ] {
        let listener = listen(address)?;
        let admin = admin.clone();
        servers.push(tokio::task::spawn_local(serve(listener, move |uri| {
            answer(&admin, uri)
        })));
    }
    Ok(servers)
}

type Answer = Response<Full<Bytes>>;

async fn serve(
    listener: tokio::net::TcpListener,
    answer: impl Fn(&Uri) -> Answer + Clone + 'static,
) {
    let places = Places::new(MAX_CONNECTIONS);
    loop {
        let stream = accept(&listener).await;
        let mut place = places.take();
        let answer = answer.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = match *request.method() {
                    Method::GET | Method::HEAD => answer(request.uri()),
                    _ => text(
                        StatusCode::METHOD_NOT_ALLOWED,
                        "only GET is answered here\n",
                    ),
                };
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // However it ends, nothing is left to do.
            let _ = place.during(timeout(LIFE, connection)).await;
        });
    }
}

// === impl Admin ===

impl Admin {
    fn to_people(&self, uri: &Uri) -> Answer {
        match uri.path() {
            "/config" => json(StatusCode::OK, &self.config()),
            "/explain" => {
                let (state, held) = (&self.readiness.state, &self.held);
                let query = uri.query().unwrap_or_default();
                match explain::answer(&state.borrow(), &held.borrow(), query) {
                    Ok(told) => json(StatusCode::OK, &told),
                    Err(wrong) => text(StatusCode::BAD_REQUEST, wrong + "
"),
                }
            }
            "/ready" => self.to_kubelet(uri),
            "/metrics" => self.to_scrapers(uri),
            "/plaintext" => json(StatusCode::OK, &self.plaintext()),
            _ => text(
                StatusCode::NOT_FOUND,
                "GET /config: what is in force
\
                 GET /explain?method=GET&url=http://orders/1&header=x-canary:+1: what would become of \
                 it
GET /metrics
GET /plaintext: who calls without mutual TLS
GET /ready
",
            ),
        }
    }

    fn to_scrapers(&self, uri: &Uri) -> Answer {
        if uri.path() != "/metrics" {
            return text(StatusCode::NOT_FOUND, "GET /metrics\n");
        }
        let mut response = text(StatusCode::OK, self.metrics.render());
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        );
        response
    }

    fn to_kubelet(&self, uri: &Uri) -> Answer {
        if uri.path() != "/ready" {
            return text(StatusCode::NOT_FOUND, "GET /ready\n");
        }
        match self.readiness.missing() {
            None => text(StatusCode::OK, "ready\n"),
            Some(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
        }
    }

    /// Who still calls in plaintext.
    fn plaintext(&self) -> Value {
        let (callers, forgotten) = self.metrics.plaintext_callers.all();
        let callers = callers.into_iter().map(|(address, caller)| {
            let last = caller.last.duration_since(UNIX_EPOCH);
            json!({
                "address": address.to_string(),
                "service": &*caller.service,
                "requests": caller.requests,
                "last": last.ok().and_then(|last| rfc3339(last.as_secs())),
            })
        });
        json!({ "callers": callers.collect::<Vec<_>>(), "forgotten": forgotten })
    }

    fn config(&self) -> Value {
        let credentials = self.readiness.credentials.borrow().clone();
        let stream = self.readiness.stream.borrow().clone();
        let state = self.readiness.state.borrow().clone();
        let held = self.held.borrow().clone();
        let certificate = credentials.map(|credentials| {
            let until = credentials.valid.1.duration_since(UNIX_EPOCH);
            json!({
                "identity": credentials.id.as_str(),
                "expires": until.ok().and_then(|until| rfc3339(until.as_secs())),
                "inForce": credentials.in_force(),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.readiness.missing().is_none(),
            "notReadyBecause": self.readiness.missing(),
            "certificate": certificate,
            "operator": {
                "connected": stream.connected,
                "complete": stream.complete,
                "error": stream.error,
            },
            "held": held.iter().map(held_line).collect::<Vec<_>>(),
            "inForce": in_force(&state),
        })
    }
}

/// One resource held.
fn held_line(resource: &Resource) -> Value {
    let hash = resource.hash.iter().map(|byte| format!("{byte:02x}"));
    json!({
        "id": resource.id.to_string(),
        "generation": resource.generation.to_string(),
        "hash": hash.collect::<String>(),
    })
}

/// The linked state, as requests see it.
fn in_force(state: &State) -> Value {
    let mut services: Vec<_> = state.services().collect();
    services.sort_by_key(|service| service.key.clone());
    let services = services.into_iter().map(|service| {
        let ports = service.ports.iter().map(|port| {
            let endpoints = port.endpoints.iter().map(|endpoint| {
                json!({
                    "address": endpoint.address.to_string(),
                    "pod": &*endpoint.pod,
                    "identity": endpoint.identity.as_ref().map(|id| id.as_str()),
                })
            });
            json!({
                "port": port.number,
                "protocol": format!("{:?}", port.protocol),
                "endpoints": endpoints.collect::<Vec<_>>(),
            })
        });
        json!({
            "service": service.key.to_string(),
            "addresses": service.addresses,
            "route": state.route(&service.key).map(|route| &*route.object),
            "ports": ports.collect::<Vec<_>>(),
        })
    });
    let served = state.built.guards.values().flat_map(|guard| {
        let ports = guard.ports.iter();
        ports.map(|(port, protocol)| {
            json!({
                "service": &*guard.service, "port": port, "protocol": format!("{protocol:?}"),
                "plaintext": state.served(*port).is_ok_and(|served| served.permissive),
            })
        })
    });
    json!({
        "workload": state.built.workload.as_ref().map(|own| &*own.pod),
        "complete": state.is_complete(),
        "serves": served.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
    })
}

fn rfc3339(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
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
            Some("no certificate in force yet")
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
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
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
