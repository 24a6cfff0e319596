//! Calls of peers: peer's identity → Guard of the port → application. Where plaintext is taken, its
//! callers go the same way with no identity ([`super::plaintext`]).

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use http::{Method, Request, Response, Version};
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody};
use super::context::{Account, Context};
use super::error::{Error, Reason};
use super::idempotency::{self, Onward};
use super::load::Seat;
use super::rate_limit::Sender;
use super::upgrade::Upgrade;
use super::upstream::Speak;
use super::{Proxy, access, headers, health, path, rate_limit};
use crate::config::State;
use crate::config::state::{NotServed, Served};
use crate::identity::SpiffeId;
use crate::policy::idempotency::key::Principal;
use crate::telemetry::metrics::Direction;

/// A peer's connection, as far as its requests care.
#[derive(Clone, Debug)]
pub struct FromPeer {
    /// Who the peer proved to be; `None` in plaintext, where nobody proves anything.
    pub identity: Option<SpiffeId>,
    /// The address that it has, which proves nothing either.
    pub from: IpAddr,
    /// The address that it called.
    pub called: SocketAddr,
}

/// Total: every request gets exactly one response, one count and one line in the access log.
///
/// # Errors
/// None; the type is hyper's.
pub async fn serve(
    px: Rc<Proxy>,
    peer: Rc<FromPeer>,
    seat: Rc<Seat>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let mut cx = Context::new(Direction::inbound, &mut head);
    cx.source = peer.identity.clone();
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    if let Err(overloaded) = account.admit(&seat) {
        return Ok(super::serve::account_for(account, Err(overloaded)));
    }
    let state = px.destinations.state();
    let request = Request::from_parts(head, RequestBody::of(body, &mut account.cx));
    let response = inbound(&px, &state, &mut account.cx, &peer, request).await;
    Ok(super::serve::account_for(account, response))
}

/// Fallible: reads like the picture in [`super`]. The order is the specification: what a later
/// step protects is never reached when an earlier one refuses.
async fn inbound(
    px: &Rc<Proxy>,
    state: &State,
    cx: &mut Context,
    peer: &FromPeer,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Error> {
    let (mut head, body) = request.into_parts();
    headers::check(&head)?;
    cx.upgrade = Upgrade::wanted(&mut head, &px.drain);
    path::settle(cx, &mut head)?;
    let served = state.served(peer.called.port()).map_err(refusal)?;
    cx.service = Some(served.guard.service.clone());
    admit(px, served, peer)?;
    let http2 = match peer.identity {
        Some(_) => headers::is_marked_http2(&head.headers),
        None => head.version == Version::HTTP_2,
    };
    let speak = Speak::to_application(served.protocol, http2);
    let alone = matches!(body, RequestBody::Empty);
    let asked = alone && peer.identity.is_some() && health::is_asked(&head);
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    headers::remove_claims(
        &mut head.headers,
        headers::Origin::of(peer.identity.as_ref()),
    );
    // Here, in this order: authentication, authorization, rate limit, idempotency, and publish or cache.
    if head.method == Method::CONNECT && !served.for_requests().is_empty() {
        let why = "CONNECT names no path, and an ApiRoute says who may enter here";
        return Err(Error::new(Reason::BadRequest, why));
    }
    let callers = match served.for_requests().is_empty() {
        true => Vec::new(),
        false => Box::pin(access::request(px, cx, served, peer, &mut head)).await?,
    };
    let application = px.application(peer.called);
    if asked
        && let Some(answer) = health::answer(px, peer.called, speak, &served.guard, &head).await
    {
        return Ok(answer);
    }
    let (body, told) = match served.limits().is_empty() {
        true => (body, None),
        false => {
            let (limits, sender) = (served.limits().iter(), Sender::peer(peer, &callers));
            let within = rate_limit::request(px, cx, limits, sender, &head, body);
            let (body, told) = Box::pin(within).await?;
            (body, Some(told))
        }
    };
    let onward = Onward::of(px, served, &head, (application, speak), (peer, &callers));
    let answer = match served.idempotency(&head) {
        None => onward.answer(cx, head, body).await,
        Some(policy) => {
            let who = Principal::of(peer.identity.as_ref(), &callers);
            let once = idempotency::carry(px, cx, policy, who, &onward, (head, body));
            Box::pin(once).await
        }
    };
    match told {
        None => answer,
        Some(told) => answer.map(|answer| told.say(answer)),
    }
}

/// Lets a peer in, and a caller without an identity where plaintext is taken at this moment.
///
/// # Errors
/// `plaintext_refused`.
pub(super) fn admit(px: &Proxy, served: &Served, peer: &FromPeer) -> Result<(), Error> {
    match peer.identity {
        Some(_) => Ok(()),
        None if served.permissive => {
            let metrics = px.metrics.all();
            metrics.plaintext(&served.guard.service, peer.called.port(), peer.from);
            Ok(())
        }
        None => Err(Reason::PlaintextRefused.into()),
    }
}

/// What a port says that no Guard opens.
pub(crate) fn refusal(why: NotServed) -> Reason {
    match why {
        NotServed::Incomplete => Reason::NotReady,
        NotServed::NoGuard => Reason::PortNotServed,
    }
}
