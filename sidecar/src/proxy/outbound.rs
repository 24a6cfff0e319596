//! Calls of the application: application → destination → route → forward.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, Version};
use hyper::body::Incoming;

use super::body::{RequestBody, ResponseBody};
use super::context::{Account, Context};
use super::destination::Destination;
use super::error::{Error, Reason};
use super::upgrade::Upgrade;
use super::upstream::Speak;
use super::{Proxy, forward, headers, opaque, path};
use crate::config::State;
use crate::policy::timeout::Deadline;
use crate::telemetry::metrics::Direction;

/// A captured connection, as far as its requests care.
#[derive(Clone, Copy, Debug)]
pub enum Captured {
    /// It was going to this address.
    To(SocketAddr),
    /// It came to our own port: an explicit proxy request, whose host selects.
    Explicitly,
}

/// Total: every request gets exactly one response, one count and one line in the access log.
///
/// # Errors
/// None; the type is hyper's.
pub async fn serve(
    px: Rc<Proxy>,
    captured: Captured,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let cx = Context::new(Direction::outbound, &mut head);
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    let state = px.destinations.state();
    let request = Request::from_parts(head, RequestBody::of(body, &mut account.cx));
    let response = outbound(&px, &state, &mut account.cx, captured, request).await;
    Ok(super::serve::account_for(account, response))
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
    let destination = destination(px, state, captured, &head)?;
    cx.service = Some(destination.service.clone());
    if let (Captured::Explicitly, Some(tunnel)) = (captured, cx.upgrade.take_if(|u| u.is_tunnel()))
    {
        return Box::pin(opaque::tunnel(px, &destination, tunnel)).await;
    }
    let routed = destination.route(&head).map_err(|(error, route)| {
        cx.route = route.map(|route| (route, Default::default()));
        error
    })?;
    cx.service = Some(routed.service);
    let timeout = routed
        .route
        .as_ref()
        .and_then(|(_, rule)| rule.request_timeout);
    cx.route = routed
        .route
        .map(|(object, rule)| (object, rule.name.clone()));
    let deadline = Deadline::start(timeout, cx.started)
        .or_sooner(headers::grpc_timeout(&head.headers), cx.started);
    headers::remove_hop_by_hop(&mut head.headers);
    headers::remove_reserved(&mut head.headers);
    let speak = Speak::to_application(routed.protocol, head.version == Version::HTTP_2);
    let forwarded = forward::forward(cx, &routed.balancer, speak, deadline, head, body);
    // One box here keeps the future of every connection small.
    Box::pin(forwarded).await
}

/// The address called selects the Service; the host does only when there is no such address.
fn destination(
    px: &Proxy,
    state: &State,
    captured: Captured,
    head: &http::request::Parts,
) -> Result<Rc<Destination>, Error> {
    let address = match captured {
        // It was there when the connection was accepted, and may be gone since.
        Captured::To(address) => address,
        Captured::Explicitly => {
            let (host, port) = (headers::host(head), headers::port(head));
            let host = host.ok_or(Reason::UnknownHost)?;
            if let Some(service) = state.named(host) {
                let port = service.port(port).ok_or(Reason::UnknownHost)?;
                return Ok(px.destinations.find(service, port));
            }
            let address = host.parse().map_err(|_| Reason::UnknownHost)?;
            SocketAddr::new(address, port)
        }
    };
    match state.called(address) {
        Some(called) => Ok(px.destinations.at(address, called)),
        None if state.refuses_unknown() => Err(Reason::AddressNotKnown.into()),
        None => Err(Reason::UnknownHost.into()),
    }
}
