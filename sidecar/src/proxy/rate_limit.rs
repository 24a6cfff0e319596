//! How much callers use: every limit that is about a request, before the application gets it; and what is
//! called outside the cluster, before it leaves.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Request, Response};

use super::body::{RequestBody, ResponseBody};
use super::context::Context;
use super::error::{Error, Reads, Reason};
use super::inbound::FromPeer;
use super::store::Use;
use super::{Proxy, headers};
use crate::config::rate_limit::{Limited, OnFailure, Shared};
use crate::identity::SpiffeId;
use crate::policy::authentication::Caller;
use crate::policy::rate_limit::key::Asking;
use crate::policy::rate_limit::question::Question;
use crate::policy::rate_limit::shared;
use crate::policy::rate_limit::told::{Standing, seconds};
use crate::policy::rate_limit::{Limit, Refused, Taken};
use crate::telemetry::metrics::Direction;

/// How long a gRPC client is to wait before it tries again, in milliseconds.
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What the response is to say of limits.
#[derive(Debug, Default)]
pub(crate) struct Told(HeaderMap);

/// Whose a request is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// Who it proved to be.
    peer: Option<&'a SpiffeId>,
    /// Its address.
    from: IpAddr,
    /// Who was found to call, for each ApiRoute that says who may enter.
    callers: &'a [Caller],
}

/// Lets a request go on that is within every limit; one that is not counts in none of them. What is
/// counted in a store comes last: what was taken there is not given back.
///
/// # Errors
/// `rate_limited`; `limit_unknown`; `request_too_large` for a body that could never pass.
pub(crate) async fn request<'a>(
    px: &Rc<Proxy>,
    cx: &mut Context,
    limits: impl Iterator<Item = &'a Limited>,
    sender: Sender<'_>,
    head: &Parts,
    body: RequestBody,
) -> Result<(RequestBody, Told), Error> {
    let length = match &body {
        RequestBody::Empty => Some(0),
        _ => length(&head.headers),
    };
    let asking = |limited| Asking {
        head,
        peer: sender.peer,
        from: sender.from,
        callers: sender.callers,
        target: Limited::target(limited),
        length,
    };
    let mut told = Told::default();
    let (own, common): (Vec<_>, Vec<_>) =
        limits.partition(|limited| limited.rate_limit.shared.is_none());
    let mut taken = Vec::with_capacity(own.len());
    for limited in own {
        let all = about(limited, head);
        taken.push((limited, take(cx, limited, all, asking(limited)).await?));
    }
    for limited in common {
        if let Some(shared) = &limited.rate_limit.shared {
            let standings = ask(px, cx, (limited, shared), asking(limited)).await?;
            let shown = standings.into_iter();
            limited.rate_limit.says.write(shown, &mut told.0);
        }
    }
    let mut paces = Vec::new();
    for (limited, taken) in taken {
        let shown = taken.iter().filter(|taken| !taken.limit().is_shadow());
        let says = limited.rate_limit.says;
        says.write(shown.map(Taken::standing), &mut told.0);
        for taken in taken {
            note(cx, limited, &taken);
            paces.extend(taken.kept(asking(limited)));
        }
    }
    Ok((body.paced(paces), told))
}

/// Lets a connection go on whose requests nobody reads, as though it were one: limits for it are about
/// nothing that only a request has.
///
/// # Errors
/// As [`request`].
pub(super) async fn connection<'a>(
    px: &Rc<Proxy>,
    limits: impl Iterator<Item = &'a Limited>,
    sender: Sender<'_>,
) -> Result<(), Error> {
    let (mut head, ()) = Request::new(()).into_parts();
    let mut cx = Context::new(Direction::outbound, &mut head);
    let within = request(px, &mut cx, limits, sender, &head, RequestBody::Empty);
    within.await.map(drop)
}

/// The limits that are about a request.
fn about<'a>(limited: &'a Limited, head: &Parts) -> impl Iterator<Item = &'a Limit> {
    let limits = limited.rate_limit.limits.iter();
    limits.filter(|limit| limit.is_about(head))
}

/// Takes of what this sidecar counts.
async fn take<'a>(
    cx: &mut Context,
    limited: &'a Limited,
    limits: impl Iterator<Item = &'a Limit>,
    asking: Asking<'_>,
) -> Result<Vec<Taken<'a>>, Error> {
    let grpc = match cx.reads {
        Reads::Grpc => headers::grpc_timeout(&asking.head.headers),
        Reads::Http => None,
    };
    // Nobody but a peer's sidecar knows how long the caller waits.
    let told = cx.told.timeout.filter(|_| cx.source.is_some());
    let patience = grpc.into_iter().chain(told).min();
    let mut all = Vec::new();
    for limit in limits {
        let taken = limit.take(asking, patience).await;
        all.push(taken.map_err(|refused| refusal(cx, limited, &refused))?);
    }
    Ok(all)
}

/// Takes of what replicas count together: without asking, or with one question for all limits.
async fn ask<'a>(
    px: &Rc<Proxy>,
    cx: &mut Context,
    (limited, shared): (&'a Limited, &Shared),
    asking: Asking<'_>,
) -> Result<Vec<Standing<'a>>, Error> {
    let object = &limited.rate_limit.object;
    let questions = about(limited, asking.head);
    let questions = questions.map(|limit| limit.question(object, asking));
    let mut questions = Vec::from_iter(questions);
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    if Question::may_lease(&questions) {
        if let Some(levels) = Question::leased(&questions) {
            let each = questions.iter().zip(levels);
            return Ok(each.map(|(one, level)| one.passed(level)).collect());
        }
        questions.iter_mut().for_each(Question::lease);
    }
    let asks = questions.iter().map(|question| question.ask.clone());
    let asks = Vec::from_iter(asks);
    let answer = match &shared.address {
        Some(address) => {
            let store = px.stores.at(px, address, Use::Limits);
            store.ask(shared::asks(&asks)).await.ok()
        }
        None => None,
    };
    let Some(found) = answer.and_then(|reply| shared::found(&asks, &reply)) else {
        return unasked(cx, limited, shared.on_failure, asking).await;
    };
    let refused = questions.iter().zip(&found).find_map(|(question, found)| {
        let too_much = found.passes.err().filter(|_| !question.ask.shadow);
        too_much.map(|too_much| question.refused(too_much))
    });
    for (question, found) in questions.iter().zip(&found) {
        question.keep(found, refused.is_none());
    }
    if let Some(refused) = refused {
        return Err(refusal(cx, limited, &refused));
    }
    let mut standings = Vec::with_capacity(questions.len());
    for (question, found) in questions.iter().zip(&found) {
        match found.passes {
            Ok(level) if question.ask.shadow => drop(question.passed(level)),
            Ok(level) => standings.push(question.passed(level)),
            Err(_) => {
                question.limit.counts.would_limit();
                cx.limited(object, &question.limit.name, "would_limit");
            }
        }
    }
    Ok(standings)
}

/// The store does not answer.
async fn unasked<'a>(
    cx: &mut Context,
    limited: &'a Limited,
    on_failure: OnFailure,
    asking: Asking<'_>,
) -> Result<Vec<Standing<'a>>, Error> {
    let object = &limited.rate_limit.object;
    let all = || about(limited, asking.head);
    let own = |limit: &&Limit| on_failure == OnFailure::LocalFallback && !limit.is_quota();
    all()
        .filter(|limit| !own(limit))
        .for_each(|limit| limit.counts.unasked());
    match on_failure {
        OnFailure::Allow => Ok(Vec::new()),
        OnFailure::Deny => {
            let why = format!("the store of RateLimit {object} does not answer");
            let mut said = HeaderMap::new();
            come_back(cx.reads, Duration::from_secs(1), &mut said);
            Err(Error::new(Reason::LimitUnknown, why).with_headers(said))
        }
        OnFailure::LocalFallback => {
            let taken = take(cx, limited, all().filter(own), asking).await?;
            let shown = taken.iter().filter(|taken| !taken.limit().is_shadow());
            let standings = shown.map(Taken::standing).collect();
            for taken in taken {
                note(cx, limited, &taken);
                taken.kept(asking);
            }
            Ok(standings)
        }
    }
}

fn note(cx: &mut Context, limited: &Limited, taken: &Taken<'_>) {
    let (object, name) = (&limited.rate_limit.object, &taken.limit().name);
    match (taken.exceeds, taken.waited) {
        (true, _) => cx.limited(object, name, "would_limit"),
        (false, true) => cx.limited(object, name, "delayed"),
        (false, false) => {}
    }
}

fn refusal(cx: &mut Context, limited: &Limited, refused: &Refused<'_>) -> Error {
    let (object, name) = (&limited.rate_limit.object, &refused.limit.name);
    refused.limit.counts.limited();
    cx.limited(object, name, "limited");
    let mut said = HeaderMap::new();
    let one = std::iter::once(refused.standing());
    limited.rate_limit.says.write(one, &mut said);
    let Some(wait) = refused.too_much.wait else {
        let why = format!("it is longer than limit {name} of RateLimit {object} could ever pass");
        return Error::new(Reason::RequestTooLarge, why).with_headers(said);
    };
    come_back(cx.reads, wait, &mut said);
    let why = format!("limit {name} of RateLimit {object}");
    Error::new(Reason::RateLimited, why).with_headers(said)
}

/// Says when to try again: a client that comes back too early would only be sent away again.
fn come_back(reads: Reads, wait: Duration, said: &mut HeaderMap) {
    said.insert(RETRY_AFTER, HeaderValue::from(seconds(wait).max(1)));
    if reads == Reads::Grpc {
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000));
        said.insert(PUSHBACK, HeaderValue::from(millis.unwrap_or(u64::MAX)));
    }
}

/// How long the body is, where that is said; hyper holds it to that.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl<'a> Sender<'a> {
    /// Who calls the application beside this sidecar.
    pub(super) fn peer(peer: &'a FromPeer, callers: &'a [Caller]) -> Self {
        Self {
            peer: peer.identity.as_ref(),
            from: peer.from,
            callers,
        }
    }

    /// The application beside this sidecar.
    pub(crate) fn own(identity: Option<&'a SpiffeId>) -> Self {
        Self {
            peer: identity,
            // Nothing outside is counted by it.
            from: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            callers: &[],
        }
    }
}

impl Told {
    /// Says it in a response.
    pub(super) fn say(self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        let mut name = None;
        for (next, value) in self.0 {
            name = next.or(name);
            if let Some(name) = &name {
                response.headers_mut().append(name.clone(), value);
            }
        }
        response
    }
}
