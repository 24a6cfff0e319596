//! Calls of the application: application → destination → route → forward.

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

pub use super::captured::Captured;

use super::body::{RequestBody, ResponseBody};
use super::context::{Account, Context};
use super::error::{Error, Reads, Reason};
use super::layers::Layer;
use super::load::Seat;
use super::upgrade::Upgrade;
use super::{Proxy, headers, layers, opaque, path};
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
    let request = Request::from_parts(head, RequestBody::of(body, &mut account.cx));
    let response = outbound(&px, &mut account.cx, captured, request).await;
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
    px: &Rc<Proxy>,
    cx: &mut Context,
    captured: Captured,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Error> {
    let (mut head, body) = request.into_parts();
    headers::check(&head)?;
    cx.upgrade = Upgrade::wanted(&mut head, &px.drain);
    path::settle(cx, &mut head)?;
    let destination = captured.find(px, &head).await?;
    cx.service = Some(destination.service.clone());
    if let (Captured::Explicitly, Some(tunnel)) = (captured, cx.upgrade.take_if(|u| u.is_tunnel()))
    {
        return Box::pin(opaque::tunnel(px, destination, tunnel)).await;
    }
    let routed = destination.route(&head).inspect_err(|_| {
        cx.route = destination
            .object()
            .map(|route| (route, Default::default()));
    })?;
    cx.route = routed.names();
    cx.governed_by(&routed);
    let callers = match cx.reads {
        Reads::Grpc => headers::grpc_timeout(&head.headers),
        Reads::Http => None,
    };
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    let started = cx.started;
    let layer = Layer {
        deadline: Deadline::start(routed.request_timeout(), started).or_sooner(callers, started),
        routed,
        captured,
        depth: 0,
    };
    layers::carry(px, cx, layer, head, body).await
}
