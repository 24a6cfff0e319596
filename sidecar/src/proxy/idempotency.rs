//! Calls that are carried out once: whose key a request has, and what it is given for it.
//!
//! A request with a key is read to its end before anything is asked, so that it can be told from
//! another one; then it is the first with its key, or gets what that one got. The first call is a work
//! of its own, which goes on when its caller hangs up and keeps the sidecar from ending.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::request::Parts;
use http::{Response, response};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::body::{Cut, RequestBody, ResponseBody};
use super::cache::{self, origin::Origin};
use super::context::Context;
use super::error::{Error, Reads, Reason};
use super::store::Store;
use super::{Proxy, headers, idle};
use crate::policy::cache::Cache;
use crate::policy::idempotency::answer::Answer;
use crate::policy::idempotency::key::{Fingerprint, Key, Principal};
use crate::policy::idempotency::memory::{Claim, Room, Ticket};
use crate::policy::idempotency::outcome::Outcome;
use crate::policy::idempotency::shared::{self, Claimed, Ended, Owner};
use crate::policy::idempotency::{Idempotency, Together};
use crate::telemetry::metrics::Direction;

/// From one look at a call under way at another replica to the next, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// From one try to tell the store how a call has ended to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Where requests go on that are not answered here.
#[derive(Clone, Debug)]
pub(super) struct Onward {
    application: Origin,
    cache: Option<Arc<Cache>>,
}

/// A request with a key, all of which is there.
struct Call<'c> {
    px: &'c Rc<Proxy>,
    policy: &'c Arc<Idempotency>,
    onward: &'c Onward,
    key: Key,
    principal: Principal,
    fingerprint: Fingerprint,
    head: Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
    room: Room,
}

/// Where it is noted how a call ends.
enum Right {
    /// Here.
    Own(Ticket),
    /// In a store that replicas share.
    Common(Rc<Store>, Owner),
}

/// What is done about a request.
enum Verdict {
    /// It is the first.
    First(Right),
    /// It is given this.
    Give(Arc<Answer>),
    /// It comes again when this has ended: a call here, or a while.
    Wait(Option<tokio::sync::watch::Receiver<()>>),
    /// Not this.
    Refuse(Outcome),
    /// It goes on as though it had no key.
    Pass,
}

/// What came of a call.
enum Came {
    /// All of an answer.
    Whole(Arc<Answer>),
    /// One that is too large to be kept.
    Larger(Box<Response<ResponseBody>>),
}

// === impl Onward ===

impl Onward {
    /// To the application, by way of what is kept of its answers if any is.
    pub(super) fn new(application: Origin, cache: Option<&Arc<Cache>>) -> Self {
        Self {
            application,
            cache: cache.cloned(),
        }
    }

    /// Has a request answered.
    ///
    /// # Errors
    /// Those of [`super::forward::to_application`], and of [`cache::carry`].
    pub(super) async fn answer(
        &self,
        cx: &mut Context,
        head: Parts,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Error> {
        match &self.cache {
            Some(cache) => Box::pin(cache::carry(cx, cache, &self.application, head, body)).await,
            None => Box::pin(self.application.ask(cx, head, body)).await,
        }
    }
}

/// Answers a request that is to be carried out once.
///
/// # Errors
/// `idempotency_key_required`, `idempotency_conflict`, `idempotency_in_progress`,
/// `idempotency_unknown`, `idempotency_unavailable`; `request_too_large`; and those of
/// [`Onward::answer`].
pub(super) async fn carry(
    px: &Rc<Proxy>,
    cx: &mut Context,
    policy: &Arc<Idempotency>,
    principal: Principal,
    onward: &Onward,
    (head, body): (Parts, RequestBody),
) -> Result<Response<ResponseBody>, Error> {
    let key = match policy.key(&head) {
        Ok(None) if !policy.required => return onward.answer(cx, head, body).await,
        Ok(Some(key)) => Key::of(&policy.object, principal, key),
        Ok(None) | Err(_) => return Err(refuse(cx, policy, Outcome::KeyRequired)),
    };
    if cx.upgrade.is_some() {
        let why = "a call that is carried out once can't become another protocol";
        return Err(Error::new(Reason::BadRequest, why));
    }
    let mut room = policy.memory.room();
    let (body, trailers) = read(cx, policy, &mut room, &head, body).await?;
    let call = Call {
        fingerprint: Fingerprint::of(&head, &body, trailers.as_ref()),
        px,
        policy,
        onward,
        key,
        principal,
        head,
        body,
        trailers,
        room,
    };
    call.carry_out(cx).await
}

/// All of a request's body.
async fn read(
    cx: &mut Context,
    policy: &Idempotency,
    room: &mut Room,
    head: &Parts,
    body: RequestBody,
) -> Result<(Bytes, Option<HeaderMap>), Error> {
    let too_large = || {
        let object = &policy.object;
        let why = format!("it is longer than ApiRoute {object} carries out once");
        Error::new(Reason::RequestTooLarge, why)
    };
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > policy.max_request_bytes) {
        return Err(too_large());
    }
    let (limit, sent) = (cx.idle_limit(), cx.sent());
    let mut trailers = None;
    let mut whole = BytesMut::new();
    let reading = async {
        let mut body = body;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|cut| match cut {
                Cut::TooLarge => Reason::RequestTooLarge.into(),
                cut => Error::new(Reason::BadRequest, cut.to_string()),
            })?;
            match frame.into_data() {
                Ok(data) => {
                    let length = whole.len() as u64 + data.len() as u64;
                    if length > policy.max_request_bytes {
                        return Err(too_large());
                    }
                    if !room.more(data.len() as u64) {
                        return Err(Reason::IdempotencyUnavailable.into());
                    }
                    whole.extend_from_slice(&data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(())
    };
    let read = idle::bound(limit, || sent.get(), reading).await;
    let read = read.unwrap_or_else(|idle| Err(idle.into()));
    match read {
        Ok(()) => Ok((whole.freeze(), trailers)),
        Err(error) if error.reason == Reason::IdempotencyUnavailable => {
            Err(refuse(cx, policy, Outcome::Unavailable))
        }
        Err(error) => Err(error),
    }
}

// === impl Call ===

impl Call<'_> {
    async fn carry_out(self, cx: &mut Context) -> Result<Response<ResponseBody>, Error> {
        let policy = self.policy;
        let patience = patience(cx, &self.head).unwrap_or(policy.timeout);
        let until = cx.started + patience;
        let mut look = LOOKS.0;
        loop {
            match self.claim().await {
                Verdict::First(right) => return self.first(cx, right).await,
                Verdict::Pass => {
                    note(cx, policy, Outcome::Unprotected);
                    let body = RequestBody::trailed(self.body, self.trailers);
                    return self.onward.answer(cx, self.head, body).await;
                }
                Verdict::Give(answer) => {
                    note(cx, policy, Outcome::Replayed);
                    return Ok(given(answer, true));
                }
                Verdict::Refuse(outcome) => return Err(refuse(cx, policy, outcome)),
                Verdict::Wait(call) => {
                    if !policy.waits || Instant::now() >= until {
                        return Err(refuse(cx, policy, Outcome::InProgress));
                    }
                    match call {
                        // Ready when whoever carries it out has let go of it.
                        Some(mut call) => {
                            let _ = tokio::time::timeout_at(until, call.changed()).await;
                        }
                        None => {
                            tokio::time::sleep_until(until.min(Instant::now() + look)).await;
                            look = (look * 2).min(LOOKS.1);
                        }
                    }
                }
            }
        }
    }

    /// Whether it is the first with its key.
    async fn claim(&self) -> Verdict {
        let policy = self.policy;
        let Some(together) = &policy.together else {
            let (memory, window) = (&policy.memory, policy.window);
            let claim = memory.claim(self.key, self.fingerprint, self.principal, window);
            return match claim {
                Claim::First(ticket) => Verdict::First(Right::Own(ticket)),
                Claim::Answered(answer) => Verdict::Give(answer),
                Claim::UnderWay(call) => Verdict::Wait(Some(call)),
                Claim::Unknown => Verdict::Refuse(Outcome::Unknown),
                Claim::Other => Verdict::Refuse(Outcome::Conflict),
                Claim::Full => Verdict::Refuse(Outcome::Unavailable),
            };
        };
        match self.claim_in(together).await {
            Some((Claimed::First, right)) => Verdict::First(right),
            Some((Claimed::Answered(answer), _)) => Verdict::Give(Arc::new(*answer)),
            Some((Claimed::UnderWay, _)) => Verdict::Wait(None),
            Some((Claimed::Unknown, _)) => Verdict::Refuse(Outcome::Unknown),
            Some((Claimed::Other, _)) => Verdict::Refuse(Outcome::Conflict),
            None if together.allows => Verdict::Pass,
            None => Verdict::Refuse(Outcome::Unavailable),
        }
    }

    /// The same, as a store has it that replicas share; `None` when it does not answer.
    async fn claim_in(&self, together: &Together) -> Option<(Claimed, Right)> {
        let policy = self.policy;
        let store = self.px.stores.at(self.px, together.address.as_ref()?);
        let owner = Owner::new();
        let (timeout, window) = (policy.timeout, policy.window);
        let question = shared::claim(self.key, self.fingerprint, owner, timeout, window);
        let claimed = match store.ask(question).await {
            Ok(reply) => shared::claimed(reply),
            Err(away) => {
                // It may have been noted all the same: nobody carries it out.
                if away.may_have_been_told {
                    let right = Right::Common(store.clone(), owner);
                    tokio::task::spawn_local(right.ended(self.key, Ended::Released, timeout));
                }
                None
            }
        };
        Some((claimed?, Right::Common(store, owner)))
    }

    /// Carries it out, and notes how it ends.
    async fn first(self, cx: &mut Context, right: Right) -> Result<Response<ResponseBody>, Error> {
        let (policy, onward, key) = (self.policy.clone(), self.onward.clone(), self.key);
        let (mut head, mut room) = (self.head, self.room);
        let body = RequestBody::trailed(self.body, self.trailers);
        let (answer, answered) = oneshot::channel();
        let work = (self.px.drain.work(), cx.admitted.clone());
        tokio::task::spawn_local(async move {
            // It is in flight, and keeps the sidecar from ending, as long as it takes.
            let _work = work;
            // Nobody's request: whoever sent it has the line and the count.
            let mut inner = Context::new(Direction::inbound, &mut head);
            let most = policy.max_answer_bytes;
            let asking = async {
                let response = onward.answer(&mut inner, head, body).await?;
                collect(response, most, &mut room).await
            };
            let came = timeout(policy.timeout, asking).await;
            let came = came.unwrap_or_else(|_| Err(Reason::RequestTimeout.into()));
            let (outcome, response) = settle(&policy, key, right, came).await;
            // Whoever sent it may have gone.
            let _ = answer.send((outcome, response, inner.attempts.get()));
        });
        let Ok((outcome, response, attempts)) = answered.await else {
            let why = "the work that carried it out has ended";
            return Err(Error::new(Reason::UpstreamReset, why));
        };
        cx.attempts.set(attempts);
        note(cx, self.policy, outcome);
        response
    }
}

/// Notes how a call has ended, and what of it is passed on.
async fn settle(
    policy: &Idempotency,
    key: Key,
    right: Right,
    came: Result<Came, Error>,
) -> (Outcome, Result<Response<ResponseBody>, Error>) {
    let span = policy.timeout;
    match came {
        Err(error) if error.reason.unsent() => {
            right.settle(key, Ended::Released, span).await;
            (Outcome::Released, Err(error))
        }
        Err(error) => {
            right.settle(key, Ended::Unknown, span).await;
            (Outcome::Unkept, Err(error))
        }
        Ok(Came::Larger(response)) => {
            right.settle(key, Ended::Unknown, span).await;
            (Outcome::Unkept, Ok(*response))
        }
        Ok(Came::Whole(answer)) if policy.releases(answer.status) => {
            right.settle(key, Ended::Released, span).await;
            (Outcome::Released, Ok(given(answer, false)))
        }
        Ok(Came::Whole(answer)) => {
            let kept = match right {
                Right::Own(ticket) => ticket.answered(answer.clone()),
                common @ Right::Common(..) => {
                    let ended = Ended::Answered(answer.stored());
                    common.settle(key, ended, span).await;
                    true
                }
            };
            let outcome = if kept {
                Outcome::First
            } else {
                Outcome::Unkept
            };
            (outcome, Ok(given(answer, false)))
        }
    }
}

// === impl Right ===

impl Right {
    /// Notes how a call has ended: at once, or as soon as the store answers.
    async fn settle(self, key: Key, ended: Ended, span: Duration) {
        match (self, ended) {
            (Self::Own(ticket), Ended::Released) => ticket.release(),
            // Dropped, nobody knows how.
            (Self::Own(_), _) => {}
            (Self::Common(store, owner), ended) => {
                if store.ask(shared::ended(key, owner, &ended)).await.is_err() {
                    let right = Self::Common(store, owner);
                    tokio::task::spawn_local(right.ended(key, ended, span));
                }
            }
        }
    }

    /// Tells the store again and again how a call has ended, as long as it can make a difference.
    async fn ended(self, key: Key, ended: Ended, span: Duration) {
        let Self::Common(store, owner) = self else {
            return;
        };
        let until = Instant::now() + span;
        let mut pause = AGAIN.0;
        while Instant::now() < until {
            sleep(pause).await;
            if store.ask(shared::ended(key, owner, &ended)).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(AGAIN.1);
        }
    }
}

/// All of an answer, if it can be kept.
async fn collect(
    response: Response<ResponseBody>,
    most: u64,
    room: &mut Room,
) -> Result<Came, Error> {
    let (mut head, mut body) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let mut bytes = Answer::bytes_of_head(&head);
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if bytes.saturating_add(length.unwrap_or(0)) > most || !room.more(bytes) {
        return Ok(Came::Larger(Box::new(Response::from_parts(head, body))));
    }
    let mut whole = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                bytes += data.len() as u64;
                let fits = bytes <= most && room.more(data.len() as u64);
                whole.extend_from_slice(&data);
                if !fits {
                    let body = ResponseBody::begun(whole.freeze(), body);
                    return Ok(Came::Larger(Box::new(Response::from_parts(head, body))));
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let answer = kept(head, whole.freeze(), trailers);
    Ok(Came::Whole(Arc::new(answer)))
}

fn kept(head: response::Parts, body: Bytes, trailers: Option<HeaderMap>) -> Answer {
    Answer {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    }
}

fn given(answer: Arc<Answer>, replayed: bool) -> Response<ResponseBody> {
    let body = ResponseBody::trailed(answer.body.clone(), answer.trailers.clone());
    answer.response(replayed).map(|()| body)
}

/// How long a request waits for another's answer, where that is known.
fn patience(cx: &Context, head: &Parts) -> Option<Duration> {
    let grpc = match cx.reads {
        Reads::Grpc => headers::grpc_timeout(&head.headers),
        Reads::Http => None,
    };
    // Nobody but a peer's sidecar knows how long the caller waits.
    let told = cx.told.timeout.filter(|_| cx.source.is_some());
    grpc.into_iter().chain(told).min()
}

fn note(cx: &mut Context, policy: &Idempotency, outcome: Outcome) {
    policy.counts.became(outcome);
    cx.carried_out(outcome);
}

fn refuse(cx: &mut Context, policy: &Idempotency, outcome: Outcome) -> Error {
    note(cx, policy, outcome);
    let why = format!("ApiRoute {}", policy.object);
    match outcome {
        Outcome::KeyRequired => Error::new(Reason::IdempotencyKeyRequired, why),
        Outcome::Conflict => Error::new(Reason::IdempotencyConflict, why),
        Outcome::InProgress => Error::new(Reason::IdempotencyInProgress, why),
        Outcome::Unknown => Error::new(Reason::IdempotencyUnknown, why),
        _ => Error::new(Reason::IdempotencyUnavailable, why),
    }
}
