//! Health checks, both ends of them: a caller's sidecar asks endpoints of the Services that it calls,
//! as [`crate::policy::health_check`] says, and a destination's asks its application for all callers
//! at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{FutureExt, LocalBoxFuture, Shared};
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt as _;
use rand::Rng;
use tokio::time::Instant;

use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::error::{Error, Reason};
use super::forward;
use super::upstream::{Dial, Speak, Upstream};
use super::{Proxy, attempt};
use crate::config::guard::Guard;
use crate::config::retry_policy::HealthCheck;
use crate::policy::health_check::{Health, Healths, SHARED, UNUSED_ROUNDS};
use crate::policy::load_balancer::LoadBalancer;
use crate::telemetry::metrics::{Direction, RequestMetrics};

/// Between sidecars: a health check, which may be answered for several at once.
const MARK: HeaderName = HeaderName::from_static("meshwright-health-check");

/// How much of an answer is read, so that its connection can be used again.
const MAX_ANSWER: usize = 64 * 1024;

/// Paths whose answers are shared at a time: more than anybody checks, and a bound for what peers
/// can make up. Of one port, and of all.
const MAX_PATHS: (usize, usize) = (8, 64);

// === the caller's end ===

/// What is asked of the endpoints of one port of a Service, by one worker. Dropped, it ends.
pub struct Asking {
    balancer: RefCell<Weak<LoadBalancer<Upstream>>>,
    check: RefCell<HealthCheck>,
    speak: Speak,
    /// `namespace/name`.
    service: Box<str>,
    dial: Dial,
}

impl Asking {
    /// Begins to ask. `service` is `namespace/name`.
    pub fn begin(
        balancer: &Rc<LoadBalancer<Upstream>>,
        check: HealthCheck,
        speak: Speak,
        service: &str,
        dial: Dial,
    ) -> Rc<Self> {
        let asking = Rc::new(Self {
            balancer: RefCell::new(Rc::downgrade(balancer)),
            check: RefCell::new(check),
            speak,
            service: service.into(),
            dial,
        });
        let (healths, metrics) = (asking.dial.healths.clone(), asking.dial.metrics.clone());
        tokio::task::spawn_local(rounds(Rc::downgrade(&asking), healths, metrics));
        asking
    }

    /// Asks these endpoints from here on.
    pub fn follow(&self, balancer: &Rc<LoadBalancer<Upstream>>, check: HealthCheck) {
        *self.balancer.borrow_mut() = Rc::downgrade(balancer);
        *self.check.borrow_mut() = check;
    }

    /// Whether it asks as `speak` says.
    pub fn speaks(&self, speak: Speak) -> bool {
        self.speak == speak
    }

    async fn ask(&self, upstream: &Rc<Upstream>, health: &Health) {
        let check = self.check.borrow().clone();
        let Some(good) = answers(upstream, self.speak, &check, &self.service).await else {
            return;
        };
        if health.observe(good, &check) {
            count(&self.dial.healths, &self.dial.metrics);
            let (pod, path) = (&upstream.pod, &check.path);
            match good {
                true => tracing::info!(%pod, %path, "an endpoint is well again"),
                false => tracing::warn!(%pod, %path, "an endpoint is not well, and is avoided"),
            }
        }
    }
}

/// Says how many are avoided.
fn count(healths: &Healths, metrics: &RequestMetrics) {
    let avoided = i64::try_from(healths.avoided()).unwrap_or(i64::MAX);
    metrics.all().endpoints_avoided.set(avoided);
}

/// One round after the other, as long as somebody wants to know.
async fn rounds(asking: Weak<Asking>, healths: Arc<Healths>, metrics: Rc<RequestMetrics>) {
    let asker = healths.asker();
    let mut asked: Vec<Arc<Health>> = Vec::new();
    let mut unused = 0;
    loop {
        let begun = Instant::now();
        let Some(now) = asking.upgrade() else {
            break;
        };
        let interval = now.check.borrow().interval;
        count(&healths, &metrics);
        let balancer = now.balancer.borrow().upgrade();
        let used = balancer.as_ref().is_some_and(|one| one.was_used());
        unused = if used { 0 } else { unused + 1 };
        let places: Vec<_> = match &balancer {
            Some(balancer) if unused <= UNUSED_ROUNDS => {
                let places = balancer.places().iter();
                let mine = places.filter_map(|place| {
                    let health = place.health.clone()?;
                    let mine = health.ask_as(asker);
                    mine.then(|| (place.endpoint.clone(), health))
                });
                mine.collect()
            }
            _ => Vec::new(),
        };
        let mine = |health: &Arc<Health>| places.iter().any(|(_, one)| Arc::ptr_eq(one, health));
        for gone in asked.iter().filter(|health| !mine(health)) {
            gone.leave(asker);
        }
        asked = places.iter().map(|(_, health)| health.clone()).collect();
        drop((balancer, now));
        for (upstream, health) in places {
            tokio::time::sleep_until(healths.turn()).await;
            let Some(now) = asking.upgrade() else {
                break;
            };
            tokio::task::spawn_local(async move { now.ask(&upstream, &health).await });
        }
        // A tenth more or less, so that callers which began together do not go on together.
        let jitter = rand::rng().random_range(0.9..1.1);
        tokio::time::sleep_until(begun + interval.mul_f64(jitter)).await;
    }
    for health in asked {
        health.leave(asker);
    }
    count(&healths, &metrics);
}

/// Whether an endpoint answers as it should; `None` when that it does not is our own fault.
async fn answers(
    upstream: &Rc<Upstream>,
    speak: Speak,
    check: &HealthCheck,
    service: &str,
) -> Option<bool> {
    let mut request = question(check.path.clone(), service).map(|()| RequestBody::Empty);
    if upstream.is_peer() {
        let headers = request.headers_mut();
        headers.insert(MARK, HeaderValue::from_static("1"));
    }
    let asked = async {
        let (response, lease) =
            attempt::send(upstream, speak, None, attempt::Hop::only(), request).await?;
        // Who is not let in, without credentials or for now, learns nothing of who is behind.
        let refused = Reason::of(response.headers()).filter(|_| upstream.is_peer());
        let limited = [Reason::RateLimited, Reason::LimitUnknown];
        let told =
            refused.is_none_or(|reason| !reason.is_of_access() && !limited.contains(&reason));
        let good = told.then(|| is_good(response.status()));
        if read(response.into_body()).await {
            lease.complete();
        }
        Ok::<_, (Error, _)>(good)
    };
    match tokio::time::timeout(check.timeout, asked).await {
        Ok(Ok(good)) => good,
        Ok(Err((error, _))) => match error.reason {
            Reason::NoCertificate | Reason::Overloaded => None,
            _ => Some(false),
        },
        Err(_) => Some(false),
    }
}

fn is_good(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// Reads an answer; whether that came to its end.
async fn read<B>(mut body: B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut left = MAX_ANSWER;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return false;
        };
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    true
}

// === the destination's end ===

/// What the own application answered lately, to each question.
#[derive(Debug, Default)]
pub struct Answers(RefCell<HashMap<(SocketAddr, PathAndQuery), Answer>>);

#[derive(Debug)]
struct Answer {
    since: Instant,
    status: Shared<LocalBoxFuture<'static, StatusCode>>,
}

/// Whether a peer's sidecar asks how the application is.
pub fn is_asked(head: &Parts) -> bool {
    head.method == Method::GET && head.headers.contains_key(MARK)
}

/// The status that the application answers, now or within the last second; 503 when it can't be
/// reached. `None` when so many other things were asked that this is a request like any. The application
/// is asked in the mesh's own words: whoever asks first asks for all, so nothing that a peer has written
/// but the path goes to it.
pub async fn answer(
    px: &Rc<Proxy>,
    called: SocketAddr,
    speak: Speak,
    guard: &Guard,
    head: &Parts,
) -> Option<Response<ResponseBody>> {
    let path = head.uri.path_and_query().cloned();
    let path = path.unwrap_or(PathAndQuery::from_static("/"));
    let asked = || {
        let question = question(path.clone(), &guard.service);
        let asked = ask(px.application(called), speak, question);
        asked.boxed_local().shared()
    };
    let status = px.health_answers.shared((called, path.clone()), asked)?;
    let mut response = Response::new(ResponseBody::mesh(Bytes::new()));
    *response.status_mut() = status.await;
    Some(response)
}

impl Answers {
    fn shared(
        &self,
        key: (SocketAddr, PathAndQuery),
        asked: impl FnOnce() -> Shared<LocalBoxFuture<'static, StatusCode>>,
    ) -> Option<Shared<LocalBoxFuture<'static, StatusCode>>> {
        let mut answers = self.0.borrow_mut();
        let now = Instant::now();
        answers.retain(|_, answer| now.duration_since(answer.since) < SHARED);
        if !answers.contains_key(&key) {
            let of_port = answers.keys().filter(|(port, _)| *port == key.0).count();
            if of_port >= MAX_PATHS.0 || answers.len() >= MAX_PATHS.1 {
                return None;
            }
        }
        let answer = || Answer {
            since: now,
            status: asked(),
        };
        Some(answers.entry(key).or_insert_with(answer).status.clone())
    }
}

/// Asks the own application.
async fn ask(application: Rc<Upstream>, speak: Speak, question: Request<()>) -> StatusCode {
    let (mut head, ()) = question.into_parts();
    let mut cx = Context::new(Direction::inbound, &mut head);
    let sent = forward::once(&mut cx, &application, speak, head, RequestBody::Empty);
    match sent.await {
        Ok(answer) => {
            let status = answer.status();
            // Left unread, it would cost the connection.
            read(answer.into_body()).await;
            status
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// `service` is `namespace/name`.
fn question(path: PathAndQuery, service: &str) -> Request<()> {
    let mut question = Request::new(());
    *question.uri_mut() = path.into();
    let headers = question.headers_mut();
    headers.insert(HOST, host(service));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static("meshwright-health-check"),
    );
    question
}

fn host(service: &str) -> HeaderValue {
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    let host = HeaderValue::try_from(format!("{name}.{namespace}"));
    host.unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_paths_of_a_port_are_asked_in_a_second_than_a_few() {
        let answers = Answers::default();
        let asked = std::cell::Cell::new(0);
        let is_answered = |port: u16, path: usize| {
            let called = SocketAddr::from(([10, 0, 0, 1], port));
            let path = PathAndQuery::try_from(format!("/{path}")).unwrap();
            let ask = || {
                asked.set(asked.get() + 1);
                std::future::ready(StatusCode::OK).boxed_local().shared()
            };
            answers.shared((called, path), ask).is_some()
        };
        let count = |port, paths: usize| (0..paths).filter(|path| is_answered(port, *path)).count();
        assert_eq!(count(80, 1_000), MAX_PATHS.0);
        assert!(is_answered(80, 0), "who came first is still answered");
        assert_eq!(count(81, 1_000), MAX_PATHS.0, "another port has its own");
        let ports = (82..1_000).map(|port| count(port, 9)).sum::<usize>();
        assert_eq!(ports, MAX_PATHS.1 - 2 * MAX_PATHS.0);
        assert_eq!(asked.get(), MAX_PATHS.1, "nobody is asked twice");
        tokio::time::advance(SHARED).await;
        assert_eq!(count(80, 1_000), MAX_PATHS.0);
    }
}
