//! Answers that are kept: what is given of them, and when the application is asked.
//!
//! Every request to a port with a cache comes here, behind whoever decides whether it may enter; and
//! every one that goes out by a rule of an ApiRoute whose answers callers keep, before it is sent
//! anywhere.

pub mod origin;

use std::sync::Arc;

use http::request::Parts;
use http::{Response, StatusCode, response};
use tokio::time::Instant;

use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::error::{Error, Reads, Reason};
use super::headers::{copy, say_keeps, take_keeps};
use crate::policy::cache::entry::{Draft, Entry, Freshened};
use crate::policy::cache::flight::{Joined, Lead, Patience};
use crate::policy::cache::status::{self, Forwarded, Status};
use crate::policy::cache::{Asked, Cache, Question, Verdict, answer};
use crate::telemetry::metrics::Direction;
use origin::Origin;

/// What is asked of the application, and what for.
struct Fetch<'c> {
    cache: &'c Arc<Cache>,
    question: &'c Question,
    why: Forwarded,
    /// What it is asked about, or given if it does not answer.
    entry: Option<Arc<Entry>>,
    lead: Option<Lead>,
}

/// Answers a request with what is kept, or sends it to the application and keeps what may be kept.
///
/// # Errors
/// `not_cached`, and those of [`Origin::ask`].
pub(super) async fn carry(
    cx: &mut Context,
    cache: &Arc<Cache>,
    origin: &Origin,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    let has_body = !matches!(body, RequestBody::Empty);
    let past = has_body || cx.upgrade.is_some() || cx.reads == Reads::Grpc;
    let asked = cache.ask(origin.to(), &head, past, cx.has_credentials());
    let (mut response, status) = match asked {
        Asked::Past(why) => {
            let response = origin.ask(cx, head, body).await?;
            (response, Status::forwarded(why))
        }
        Asked::Unsafe => {
            let change = Change::begin(cache, origin.to().port, &head);
            let response = origin.ask(cx, head, body).await?;
            let (parts, body) = response.into_parts();
            change.answered(&parts);
            let response = Response::from_parts(parts, body);
            (response, Status::forwarded(Forwarded::Method))
        }
        Asked::Question(question) => {
            let answered = resolve(cx, cache, origin, &question, head).await;
            if answered.is_err() {
                cache.counts.became(status::Outcome::Miss);
                cx.cached(status::Outcome::Miss);
            }
            answered?
        }
    };
    cache.counts.became(status.outcome());
    cx.cached(status.outcome());
    if let (Direction::inbound, Some(revision)) = (cache.side, cache.revision)
        && cx.source.is_some()
        && cx.told.keeps == Some(revision)
    {
        say_keeps(response.headers_mut(), revision);
    }
    if !response.body().is_switched() {
        status.tell(cache.name(), response.headers_mut());
    }
    Ok(response)
}

/// A request that changes something, until it is answered. If it never is, it may have done so all the
/// same: its caller has gone, or its connection has.
struct Change<'c> {
    cache: &'c Cache,
    port: u16,
    about: Parts,
    answered: bool,
}

impl<'c> Change<'c> {
    fn begin(cache: &'c Cache, port: u16, head: &Parts) -> Self {
        Self {
            cache,
            port,
            about: about(head),
            answered: false,
        }
    }

    fn answered(mut self, response: &response::Parts) {
        self.answered = true;
        self.cache.changed(self.port, &self.about, response);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.cache.may_have_changed(self.port, &self.about);
        }
    }
}

/// A request's head without its headers but the host.
fn about(head: &Parts) -> Parts {
    let mut about = http::Request::new(()).into_parts().0;
    about.uri = head.uri.clone();
    if let Some(host) = head.headers.get(http::header::HOST) {
        about.headers.insert(http::header::HOST, host.clone());
    }
    about
}

type Answered = (Response<ResponseBody>, Status);

async fn resolve(
    cx: &mut Context,
    cache: &Arc<Cache>,
    origin: &Origin,
    question: &Question,
    head: Parts,
) -> Result<Answered, Error> {
    let mut patience = Patience::default();
    loop {
        let (why, entry) = match cache.consult(question, &head.headers) {
            Verdict::Give(entry, status) => {
                let waited = patience.is_tried();
                return Ok(give(cx, question, &entry, &head, status, waited));
            }
            Verdict::Refresh(entry, status) => {
                refresh(cx, cache, origin, question, &entry, &head);
                return Ok(give(cx, question, &entry, &head, status, false));
            }
            Verdict::Refuse => return Err(Reason::NotCached.into()),
            Verdict::Fetch(why, entry) => (why, entry),
        };
        let share = cache.may_share(question, entry.is_some());
        let lead = match share && patience.is_left(why) {
            false => None,
            true => match Lead::or_wait(&cache.store, &question.wanted) {
                Joined::Lead(lead) => Some(lead),
                Joined::Wait(waiting) => {
                    origin.wait(patience.wait(waiting)).await?;
                    continue;
                }
            },
        };
        let fetch = Fetch {
            cache,
            question,
            why,
            entry,
            lead,
        };
        return fetch.carry_out(cx, origin, head).await;
    }
}

/// What is kept, as the request asks for it.
fn give(
    cx: &mut Context,
    question: &Question,
    entry: &Entry,
    head: &Parts,
    status: Status,
    waited: bool,
) -> Answered {
    let status = match waited {
        false => status,
        true => Status {
            collapsed: true,
            ..Status::forwarded(Forwarded::Uri)
        },
    };
    cx.is_given(&entry.body().room);
    let now = Instant::now();
    let response = answer::answer(entry, &head.headers, question.head_only, now);
    (response.map(ResponseBody::mesh), status)
}

/// Fetches a new answer in the background, unless somebody does.
fn refresh(
    cx: &Context,
    cache: &Arc<Cache>,
    origin: &Origin,
    question: &Question,
    entry: &Arc<Entry>,
    head: &Parts,
) {
    let Joined::Lead(lead) = Lead::or_wait(&cache.store, &question.wanted) else {
        return;
    };
    let (cache, origin, entry) = (cache.clone(), origin.clone(), entry.clone());
    let mut copy = copy(head);
    copy.method = http::Method::GET;
    let question = question.whole();
    let place = cx.admitted.clone();
    tokio::task::spawn_local(async move {
        // Nobody's request: it has no line of its own, and counts as none.
        let mut cx = Context::new(cache.side, &mut copy);
        // But it is in flight, for who was given the stale one.
        cx.admitted = place;
        let fetch = Fetch {
            cache: &cache,
            question: &question,
            why: Forwarded::Stale,
            entry: Some(entry),
            lead: Some(lead),
        };
        if let Err(error) = fetch.carry_out(&mut cx, &origin, copy).await {
            tracing::debug!(%error, "an answer could not be fetched anew");
        }
    });
}

// === impl Fetch ===

impl Fetch<'_> {
    async fn carry_out(
        mut self,
        cx: &mut Context,
        origin: &Origin,
        mut head: Parts,
    ) -> Result<Answered, Error> {
        let (cache, question) = (self.cache, self.question);
        let asked = head.headers.clone();
        let about = cache.prepare(question, self.entry.as_deref(), &mut head.headers);
        let (begun, since) = (cache.store.begin(), Instant::now());
        let again = about.then(|| copy(&head));
        // Only what is answered by who was told the same may be kept at the caller's side.
        let agrees = match (cache.side, cache.revision) {
            (Direction::outbound, Some(revision)) => {
                say_keeps(&mut head.headers, revision);
                Some(revision)
            }
            _ => None,
        };
        let response = match origin.ask(cx, head, RequestBody::Empty).await {
            Ok(response) => response,
            Err(error) => {
                if error.reason == Reason::RequestTimeout {
                    // That was its own time: others may have more.
                    drop(self.lead.take());
                }
                return self.instead(cx, &asked, None).ok_or(error);
            }
        };
        let (mut parts, body) = response.into_parts();
        let may = agrees.is_none_or(|revision| take_keeps(&mut parts.headers, revision));
        if failed(parts.status)
            && let Some(given) = self.instead(cx, &asked, Some(parts.status))
        {
            return Ok(given);
        }
        if parts.status == StatusCode::NOT_MODIFIED
            && let Some(mut all) = again
            && let Some(entry) = self.entry.take()
        {
            let freshened = cache.freshen(question, &asked, &entry, &parts, since);
            return match freshened {
                Some(Freshened { draft, kept }) => {
                    cx.is_given(&entry.body().room);
                    let made = draft.into_entry(entry.body().clone(), begun);
                    Ok(self.still_right(made, kept.is_ok() && may, &asked))
                }
                // It speaks of something else: then all of it is asked for.
                None => {
                    cache.store.forget(&question.wanted.key, begun);
                    answer::ask_for_all(&mut all.headers);
                    Box::pin(self.carry_out(cx, origin, all)).await
                }
            };
        }
        let kept = cache.judge(question, &asked, &parts, since);
        let kept = kept.ok().filter(|_| may);
        Ok(self.pass_on(cx, (parts, body), kept, begun))
    }

    /// What is given where the application has no answer.
    fn instead(
        &mut self,
        cx: &mut Context,
        asked: &http::HeaderMap,
        answered: Option<StatusCode>,
    ) -> Option<Answered> {
        let given = self.cache.instead(self.question, self.entry.as_ref());
        let given = given.map(|(entry, mut status)| {
            cx.is_given(&entry.body().room);
            status.forwarded = Some(self.why);
            status.answered = answered.map(|status| status.as_u16());
            let (head_only, now) = (self.question.head_only, Instant::now());
            let response = answer::answer(entry, asked, head_only, now);
            (response.map(ResponseBody::mesh), status)
        });
        // Each of those who wait finds the same.
        if let Some(lead) = self.lead.take() {
            lead.alone();
        }
        given
    }

    /// The application says that what is kept is still right, with these headers; and whether it still
    /// is kept.
    fn still_right(mut self, entry: Entry, kept: bool, asked: &http::HeaderMap) -> Answered {
        let begun = entry.begun();
        let (cache, question) = (self.cache, self.question);
        let now = Instant::now();
        let mut status = Status::forwarded(self.why);
        status.answered = Some(StatusCode::NOT_MODIFIED.as_u16());
        let response = answer::answer(&entry, asked, question.head_only, now);
        let lead = self.lead.take();
        status.stored = kept;
        if kept {
            let fresh = entry.ttl(now).is_some();
            cache.store.keep(&question.wanted.key, entry);
            match (lead, fresh) {
                (Some(lead), true) => lead.kept(),
                (lead, _) => cache.alone(&question.wanted, lead),
            }
        } else {
            cache.store.forget(&question.wanted.key, begun);
            cache.alone(&question.wanted, lead);
        }
        (response.map(ResponseBody::mesh), status)
    }

    /// What the application answers, and it is kept if it may be.
    fn pass_on(
        mut self,
        cx: &Context,
        (parts, body): (response::Parts, ResponseBody),
        kept: Option<Draft>,
        begun: u64,
    ) -> Answered {
        let (cache, question) = (self.cache, self.question);
        let mut status = Status::forwarded(self.why);
        let lead = self.lead.take();
        let body = match kept {
            Some(draft) => {
                status.stored = true;
                let fill = cache.fill(&question.wanted, draft, begun, lead);
                ResponseBody::filling(body, fill, cx.admitted.clone())
            }
            None => {
                // Whatever is kept in its place is no longer what the application answers.
                // Where something was kept, it was asked about in place of what the sender has.
                let whole = !question.asks_for_a_part() || refuses(parts.status);
                if self.entry.is_some() && !failed(parts.status) && whole {
                    cache.store.forget(&question.wanted.key, begun);
                }
                cache.alone_if_whole(question, failed(parts.status), lead);
                body
            }
        };
        (Response::from_parts(parts, body), status)
    }
}

/// What says that who asks may not have it, nor any part of it.
fn refuses(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403)
}

/// What says that the application can't answer (RFC 5861 section 4).
fn failed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
