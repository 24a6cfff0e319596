//! Calls of the application: application → destination → route → forward.

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;

pub use super::captured::Captured;

use super::body::{RequestBody, ResponseBody};
use super::context::{Account, Context};
use super::error::{Error, Reads, Reason};
use super::load::Seat;
use super::upgrade::Upgrade;
use super::upstream::Speak;
use super::{Proxy, copy, forward, headers, opaque, path};
use crate::config::State;
use crate::policy::timeout::Deadline;
use crate::telemetry::metrics::Direction;

/// Total: every request gets exactly one response, one count and one line in the access log.
///
/// # Errors
/// None; the type is hyper's.
pub async fn serve(
    px: Rc<Proxy>,
    captured: Captured,
    seat: Rc<Seat>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let cx = Context::new(Direction::outbound, &mut head);
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    if let Err(overloaded) = account.admit(&seat) {
        return Ok(super::serve::account_for(account, Err(overloaded)));
    }
    let state = px.destinations.state();
    let request = Request::from_parts(head, RequestBody::of(body, &mut account.cx));
    let response = outbound(&px, &state, &mut account.cx, captured, request).await;
    let (delayed, cors) = (account.cx.delayed, account.cx.cors.take());
    let mut response = super::serve::account_for(account, response);
    if let Some(cors) = cors {
        cors.apply(response.headers_mut());
    }
    if delayed {
        Reason::FaultInjected.label(response.headers_mut());
    }
    Ok(response)
}

/// Fallible: reads like the picture in [`super`].
async fn outbound(
    px: &Proxy,
    state: &State,
    cx: &mut Context,
    captured: Captured,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Error> {
    let (mut head, body) = request.into_parts();
    headers::check(&head)?;
    cx.upgrade = Upgrade::wanted(&mut head, &px.drain);
    path::settle(cx, &mut head)?;
    let destination = captured.destination(px, state, &head)?;
    cx.service = Some(destination.service.clone());
    if let (Captured::Explicitly, Some(tunnel)) = (captured, cx.upgrade.take_if(|u| u.is_tunnel()))
    {
        return Box::pin(opaque::tunnel(px, &destination, tunnel)).await;
    }
    let routed = destination.route(&head).map_err(|(error, route)| {
        cx.route = route.map(|route| (route, Default::default()));
        error
    })?;
    if let Some(backend) = &routed.backend {
        cx.service = Some(backend.service.clone());
    }
    cx.route = routed.names();
    let callers = match cx.reads {
        Reads::Grpc => headers::grpc_timeout(&head.headers),
        Reads::Http => None,
    };
    let deadline =
        Deadline::start(routed.request_timeout(), cx.started).or_sooner(callers, cx.started);
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    let filters = routed.filters();
    if let Some(cors) = &filters.cors {
        if let Some(answer) = cors.preflight(&head)? {
            return Ok(answer);
        }
        cx.cors = Some(cors.share(&head));
    }
    if let Some(fault) = &filters.fault {
        cx.delayed = Box::pin(fault.inject(deadline)).await?;
    }
    if let Some(redirect) = &filters.redirect {
        return redirect.answer(&head, captured.port(&head), routed.prefix);
    }
    if let Some(direct) = &filters.direct_response {
        return Ok(direct.answer(cx.is_head()));
    }
    let (body, overrun) = match filters.max_request_bytes {
        Some(limit) => limit.guard(body)?,
        None => (body, Default::default()),
    };
    if let Some(edits) = &filters.request_headers {
        edits.apply(&mut head.headers);
    }
    if let Some(rewrite) = &filters.rewrite {
        rewrite.apply(&mut head, routed.prefix)?;
    }
    let body = copy::begin(px, cx, &routed, &head, body);
    let backend = routed.backend.as_ref().ok_or(Reason::BackendMissing)?;
    let speak = Speak::to_application(backend.protocol, head.version == Version::HTTP_2);
    let forwarded = forward::forward(cx, &backend.balancer, speak, deadline, head, body);
    // One box here keeps the future of every connection small.
    let forwarded = Box::pin(forwarded).await;
    let mut response = forwarded.map_err(|error| overrun.blame(error))?;
    if let Some(edits) = &filters.response_headers
        && Reason::of(response.headers()).is_none()
    {
        edits.apply(response.headers_mut());
    }
    Ok(response)
}
