//! The attempts of one request, one after the other and beside each other, as
//! [`crate::policy::retry`] and [`crate::policy::hedging`] say, within the budget.
//!
//! An attempt is told in three places what became of it: how long the endpoint takes to answer, its
//! circuit, and what decides whether there is another. The answer that is not passed on is dropped before
//! the next attempt begins, so that one request never holds two.

mod again;

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::stream::{FuturesUnordered, StreamExt as _};
use http::{Request, Response};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::time::Instant;

use self::again::{Again, Body};
use super::attempt::{self, Failed, Hop};
use super::body::RequestBody;
use super::body::replay::Replay;
use super::context::{Context, RequestBytes};
use super::destination::Backend;
use super::error::{Error, Fault, Reads, Reason};
use super::forward::MAX_ATTEMPTS;
use super::headers;
use super::upstream::{Lease, Speak, Upstream};
use crate::policy::circuit_breaker::{self, Trial};
use crate::policy::hedging::Hedging;
use crate::policy::retry::{self, Failure, Retries};
use crate::policy::timeout::Deadline;

/// What every attempt of one request has in common.
pub struct Attempts<'a> {
    /// What is known of the request.
    pub cx: &'a Context,
    /// Where it goes.
    pub backend: &'a Backend,
    /// When it is sent again.
    pub retries: &'a Retries,
    /// How the application is spoken to.
    pub speak: Speak,
    /// When it must be answered.
    pub deadline: Deadline,
    /// What endpoints are found by.
    pub key: Option<u64>,
}

type Answer = (Response<Incoming>, Lease);

/// Endpoints that a request has been sent to; most have been sent to one.
type Tried = SmallVec<[Rc<Upstream>; 2]>;

/// What became of an attempt.
struct Ended {
    answer: Result<Answer, Failed>,
    /// What may be followed by another.
    failure: Option<Failure>,
}

// === impl Attempts ===

impl<'a> Attempts<'a> {
    /// Sends the request as often as it takes, and as it may.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn carry(&self, request: Request<RequestBody>) -> Result<Answer, Error> {
        let (mut request, again) = self.prepare(request);
        let mut tried = Tried::new();
        let (mut retried, mut closed) = (0, 0);
        loop {
            let ended = self.attempt(request, &again, &mut tried).await?;
            let wait = match &ended.answer {
                // A kept connection turned out to be closed: nobody has seen anything of it.
                Err((error, Some(_))) if !error.reason.unsent() && closed < MAX_ATTEMPTS => {
                    closed += 1;
                    None
                }
                _ => match self.follows(&ended, retried, &again, &tried) {
                    None => return ended.answer.map_err(|(error, _)| error),
                    Some(wait) => Some(wait),
                },
            };
            let next = match ended.answer {
                Err((_, Some(request))) => Some(request),
                Err((error, None)) => again.request().ok_or(error).map(Some)?,
                // It goes before the next begins.
                Ok(answer) => {
                    drop(answer);
                    again.request()
                }
            };
            request = next.ok_or(Reason::UpstreamReset)?;
            if let Some(wait) = wait {
                retried += 1;
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// What is needed to send it again, if it ever is. Without a policy, that is only elsewhere.
    fn prepare(&self, request: Request<RequestBody>) -> (Request<RequestBody>, Again) {
        let without_policy = self.retries.object.is_empty();
        let alone = self.backend.balancer.len() < 2;
        let hedged = self.hedging(&request).is_some();
        let once = (self.retries.max == 0 && !hedged) || (without_policy && alone);
        if once {
            let (head, body) = (None, Body::Gone);
            return (request, Again { head, body });
        }
        let (head, body) = request.into_parts();
        let (body, kept) = match body {
            RequestBody::Empty => (RequestBody::Empty, Body::None),
            body => {
                let (limit, kept) = (self.retries.max_replay_bytes, &self.backend.terms.kept);
                let (body, replay) = Replay::of(body, limit, kept);
                (body, replay.map_or(Body::Gone, Body::Kept))
            }
        };
        let again = Again {
            head: Some(Request::from_parts(headers::copy(&head), ())),
            body: kept,
        };
        (Request::from_parts(head, body), again)
    }

    /// How long to wait before another attempt, if there is one.
    fn follows(
        &self,
        ended: &Ended,
        retried: u32,
        again: &Again,
        tried: &[Rc<Upstream>],
    ) -> Option<Duration> {
        let failure = ended.failure?;
        let (cx, retries) = (self.cx, self.retries);
        let repeated = failure.is_unsent()
            || cx.upgrade.is_none() && again.head.as_ref().is_some_and(|head| retries.repeat(head));
        if !retries.want(failure) || !repeated || retries.max == 0 {
            return None;
        }
        let elsewhere = self.backend.balancer.has_another(tried);
        if retries.object.is_empty() && !elsewhere && !matches!(ended.answer, Err((_, Some(_)))) {
            return None;
        }
        let refused = |why: &'static str| {
            self.gives_up(why);
            None
        };
        if retried >= retries.max {
            return refused("exhausted");
        }
        // Nobody can be called: what there is says more than that.
        if !self.backend.balancer.has_another(&[]) {
            return refused("no_endpoint");
        }
        let comes_back = matches!(ended.answer, Err((_, Some(_))));
        if !comes_back && !again.is_possible() {
            return refused("body");
        }
        let mut asked = None;
        if let Ok((response, _)) = &ended.answer {
            if headers::says_no_retry(response.headers()) && !failure.is_unsent() {
                return refused("no_retry");
            }
            let (status, headers) = (response.status(), response.headers());
            asked = retry::asks_to_wait(status, headers, SystemTime::now());
        }
        let wait = match failure.is_unsent() && elsewhere {
            true => Duration::ZERO,
            false => retries.wait(retried, asked),
        };
        let now = Instant::now();
        let late = self.deadline.instant().is_some_and(|end| end <= now + wait);
        if late || wait >= cx.idle_limit() {
            return refused("deadline");
        }
        let terms = &self.backend.terms;
        if !terms.budget.take(&terms.allowance, now) {
            return refused("budget");
        }
        cx.retried.after.set(Some(failure));
        terms.metrics.all().retried(&terms.service, failure);
        Some(wait)
    }

    /// By when an endpoint that says nothing has failed. One that is still being sent to is given its time.
    fn must_answer_by(&self, body: &RequestBody) -> Option<Instant> {
        let end = self.deadline.instant();
        let idle = self.cx.idle.filter(|_| matches!(body, RequestBody::Empty));
        let silent = idle.map(|idle| Instant::now() + idle);
        end.into_iter().chain(silent).min()
    }

    /// Another attempt was wanted, and there is none.
    fn gives_up(&self, why: &'static str) {
        let terms = &self.backend.terms;
        self.cx.retried.given_up.set(true);
        terms.metrics.all().not_retried(&terms.service, why);
    }

    /// One attempt, with others beside it where it is hedged.
    async fn attempt(
        &self,
        request: Request<RequestBody>,
        again: &Again,
        tried: &mut Tried,
    ) -> Result<Ended, Error> {
        let hedging = self.hedging(&request);
        let first = self.begin(request, tried)?;
        match hedging {
            None => Ok(first.await),
            Some(hedging) => Ok(Box::pin(self.hedged(first, hedging, again, tried)).await),
        }
    }

    fn hedging(&self, request: &Request<RequestBody>) -> Option<Hedging> {
        let hedging = self.retries.hedging?;
        let empty = matches!(request.body(), RequestBody::Empty);
        let suits = empty && Hedging::suits(request.method()) && self.cx.upgrade.is_none();
        suits.then_some(hedging)
    }

    async fn hedged<F>(&self, first: F, hedging: Hedging, again: &Again, tried: &mut Tried) -> Ended
    where
        F: Future<Output = Ended>,
    {
        let mut under_way = FuturesUnordered::new();
        under_way.push(futures::future::Either::Left(first));
        let mut left = hedging.max;
        let mut next = Instant::now() + hedging.after;
        loop {
            let hedge = async {
                match left {
                    0 => std::future::pending().await,
                    _ => tokio::time::sleep_until(next).await,
                }
            };
            tokio::select! {
                biased;
                ended = under_way.next() => match ended {
                    // Others may still answer well.
                    Some(ended) if ended.failure.is_some() && !under_way.is_empty() => drop(ended),
                    Some(ended) => return ended,
                    None => return Ended {
                        answer: Err((Reason::UpstreamReset.into(), None)),
                        failure: Some(Failure::Reset),
                    },
                },
                () = hedge => {
                    left -= 1;
                    next += hedging.after;
                    if let Some(hedge) = self.hedge(again, tried) {
                        under_way.push(futures::future::Either::Right(hedge));
                    }
                }
            }
        }
    }

    /// Another attempt beside those under way, at another endpoint.
    fn hedge<'s>(
        &'s self,
        again: &Again,
        tried: &mut Tried,
    ) -> Option<impl Future<Output = Ended> + use<'s, 'a>> {
        let terms = &self.backend.terms;
        if !self.backend.balancer.has_another(tried) {
            return None;
        }
        let request = again.request()?;
        if !terms.budget.take(&terms.allowance, Instant::now()) {
            self.gives_up("budget");
            return None;
        }
        terms.metrics.all().hedged(&terms.service);
        self.begin(request, tried).ok()
    }

    /// Begins an attempt at an endpoint that is not among those `tried`, if there is another.
    fn begin<'s>(
        &'s self,
        request: Request<RequestBody>,
        tried: &mut Tried,
    ) -> Result<impl Future<Output = Ended> + use<'s, 'a>, Error> {
        let cx = self.cx;
        let end = self.must_answer_by(request.body());
        let picked = self.backend.balancer.enter(self.key, tried, end);
        let (upstream, trial) = picked?;
        if cx.attempts.get() == 0 {
            // By the clock that was read when it arrived. What nobody is called for allows no retry.
            let terms = &self.backend.terms;
            terms.budget.requested(&terms.allowance, cx.started);
        }
        cx.attempts.set(cx.attempts.get() + 1);
        cx.endpoint.replace(Some(upstream.pod.clone()));
        tried.push(upstream.clone());
        let hop = Hop {
            number: cx.attempts.get(),
            deadline: self.deadline,
            end: self.end_of_try(),
            reads: cx.reads,
        };
        Ok(self.one(request, upstream, trial, hop))
    }

    /// When a try that begins now ends without an answer; the request's own end is told as such.
    fn end_of_try(&self) -> Option<Instant> {
        let end = Instant::now().checked_add(self.retries.per_try_timeout?)?;
        let sooner = self.deadline.instant().is_none_or(|all| end < all);
        sooner.then_some(end)
    }

    async fn one(
        &self,
        request: Request<RequestBody>,
        upstream: Rc<Upstream>,
        trial: Option<Trial>,
        hop: Hop,
    ) -> Ended {
        let asked = upstream.asked();
        let upgrade = self.cx.upgrade.as_ref();
        let sending = attempt::send(&upstream, self.speak, upgrade, hop, request);
        let watched = Watched::new(trial, self.cx.sent());
        let mut sent = sending.await;
        let trial = watched.trial();
        let failure = self.failure(&upstream, &sent);
        match (&sent, failure) {
            (Ok(_), Some(Failure::RefusedStream)) => asked.failed(),
            (Ok((response, _)), _) if response.status().is_server_error() => asked.erred(),
            (Ok(_), _) => asked.answered(),
            // That is nothing that it has done.
            (Err((error, _)), _) if error.reason.is_ours() => drop(asked),
            (Err(_), Some(Failure::PerTryTimeout)) => drop(asked),
            (Err(_), _) => asked.failed(),
        }
        if let Some(trial) = trial {
            self.told(trial, &mut sent);
        }
        Ended {
            answer: sent,
            failure,
        }
    }

    /// Tells the circuit of the endpoint what has become of the attempt, as far as that is known.
    fn told(&self, mut trial: Trial, sent: &mut Result<Answer, Failed>) {
        use circuit_breaker::Fault::{Connect, Reset, ServerError, Timeout};
        let (response, lease) = match sent {
            Ok(answer) => (&answer.0, &mut answer.1),
            Err((error, request)) => {
                return match error.reason {
                    reason if reason.is_ours() => drop(trial),
                    // It waits for its caller.
                    Reason::TryTimeout | Reason::RequestTimeout if self.cx.sent().is_awaited() => {
                        trial.forgive();
                    }
                    Reason::TryTimeout | Reason::RequestTimeout => trial.failed(Timeout),
                    // As it does when it is about to end, in good order.
                    Reason::StreamRefused | Reason::KeptConnectionClosed => drop(trial),
                    reason if reason.unsent() => trial.failed(Connect),
                    // A kept connection that was closed says nothing.
                    _ if request.is_some() => drop(trial),
                    _ if self.cx.broke_off_itself() => drop(trial),
                    _ => trial.failed(Reset),
                };
            }
        };
        let status = response.status();
        match of_the_mesh(lease.from_peer(), response) {
            Some(reason) if reason.fault() == Fault::Caller => trial.answered(),
            Some(Reason::ApplicationUnreachable) => trial.failed(Connect),
            Some(Reason::KeptConnectionClosed) => drop(trial),
            Some(Reason::UpstreamReset | Reason::BadResponse) => trial.failed(Reset),
            Some(Reason::RequestTimeout | Reason::IdleTimeout) if self.cx.sent().is_awaited() => {
                trial.forgive();
            }
            Some(Reason::RequestTimeout | Reason::IdleTimeout) => trial.failed(Timeout),
            _ if status.is_server_error() => trial.failed(ServerError),
            _ => match headers::grpc_status(response.headers()) {
                Some(code) if self.cx.reads == Reads::Grpc && is_servers_fault(code) => {
                    trial.failed(ServerError);
                }
                _ => {
                    trial.answered();
                    lease.watch(trial, self.cx.reads);
                }
            },
        }
    }

    /// What may be followed by another attempt, if it is that.
    fn failure(&self, upstream: &Upstream, sent: &Result<Answer, Failed>) -> Option<Failure> {
        match sent {
            Ok((response, _)) if attempt::unsent(upstream, response) => {
                Some(Failure::RefusedStream)
            }
            Ok((response, _)) => {
                match of_the_mesh(upstream.is_peer(), response) {
                    Some(Reason::UpstreamReset) => return Some(Failure::Reset),
                    Some(reason) if reason.fault() == Fault::Caller => return None,
                    _ => {}
                }
                let grpc = headers::grpc_status(response.headers());
                match (self.cx.reads, grpc) {
                    (Reads::Grpc, Some(status)) if status != 0 => Some(Failure::Grpc(status)),
                    _ => {
                        let status = response.status();
                        let failed = status.is_client_error() || status.is_server_error();
                        failed.then_some(Failure::Status(status))
                    }
                }
            }
            Err((error, _)) => match error.reason {
                // It broke off because its caller did.
                _ if self.cx.broke_off_itself() => None,
                // Another endpoint would meet the same.
                reason if reason.is_ours() => None,
                Reason::StreamRefused | Reason::KeptConnectionClosed => {
                    Some(Failure::RefusedStream)
                }
                Reason::ConnectFailed | Reason::PeerNotVerified => Some(Failure::ConnectFailure),
                Reason::UpstreamReset => Some(Failure::Reset),
                Reason::TryTimeout => Some(Failure::PerTryTimeout),
                _ => None,
            },
        }
    }
}

/// What the circuit of an endpoint is told, while the endpoint is waited for: what ends meanwhile is not
/// its fault when its caller has still to send.
struct Watched {
    trial: Option<Trial>,
    sent: RequestBytes,
}

impl Watched {
    fn new(trial: Option<Trial>, sent: RequestBytes) -> Self {
        Self { trial, sent }
    }

    fn trial(mut self) -> Option<Trial> {
        self.trial.take()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(trial) = self.trial.take()
            && self.sent.is_awaited()
        {
            trial.forgive();
        }
    }
}

/// Why a peer's sidecar answered in its application's place. Nobody else can say so.
fn of_the_mesh(from_peer: bool, response: &Response<Incoming>) -> Option<Reason> {
    Reason::of(response.headers()).filter(|_| from_peer)
}

/// The gRPC statuses that say that the server failed, not its caller: UNKNOWN, DEADLINE_EXCEEDED,
/// INTERNAL, UNAVAILABLE, DATA_LOSS.
pub(super) fn is_servers_fault(grpc_status: u16) -> bool {
    [2, 4, 13, 14, 15].contains(&grpc_status)
}
