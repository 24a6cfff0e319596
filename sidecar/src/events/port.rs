//! The port of the own application: `POST /publish/<broker>/<topic>`, at 127.0.0.1.
//!
//! It takes what an ApiRoute that is for this pod publishes there, and nothing else; see
//! [`publish`](super::publish).

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpStream;

use super::publish;
use crate::config::publish::Publishing;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::context::{Account, Context};
use crate::proxy::error::{Error, Reason};
use crate::proxy::load::Seat;
use crate::proxy::serve::{Open, account_for, http};
use crate::proxy::{Proxy, headers, limits};
use crate::telemetry::metrics::{ConnectionKind, Direction};

/// Carries one connection of the application, from accept to close.
pub async fn connection(px: Rc<Proxy>, stream: TcpStream) {
    let _open = Open::new(&px, Direction::outbound);
    let Some(seat) = px.outbound.take(None) else {
        return px
            .metrics
            .all()
            .refused(Direction::outbound, Reason::Overloaded);
    };
    let metrics = px.metrics.all();
    let _carried = metrics.connection(Direction::outbound, ConnectionKind::http);
    let service = {
        let (px, seat) = (px.clone(), seat.clone());
        service_fn(move |request| serve(px.clone(), seat.clone(), request))
    };
    let ended = http(&px, stream, &seat, Some(limits::h1_server()), service).await;
    if let Err(error) = ended {
        metrics.refused(Direction::outbound, error.reason);
        tracing::debug!(%error, "a connection to publish ended");
    }
}

/// Total: every request gets exactly one response, one count and one line in the access log.
async fn serve(
    px: Rc<Proxy>,
    seat: Rc<Seat>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (mut head, body) = request.into_parts();
    let cx = Context::new(Direction::outbound, &mut head);
    let mut account = Account::open(cx, px.metrics.clone(), px.access_log.clone());
    if let Err(overloaded) = account.admit(&seat) {
        return Ok(account_for(account, Err(overloaded)));
    }
    let body = RequestBody::of(body, &mut account.cx);
    let response = published(&px, &mut account.cx, head, body).await;
    Ok(account_for(account, response))
}

async fn published(
    px: &Rc<Proxy>,
    cx: &mut Context,
    head: Parts,
    body: RequestBody,
) -> Result<Response<ResponseBody>, Error> {
    headers::check(&head)?;
    let to = granted(px, &head)?;
    cx.route = Some((to.object.clone(), to.rule.clone()));
    Box::pin(publish::carry(px, cx, (&to, None), head, body)).await
}

/// Where the application may publish, as the path says.
fn granted(px: &Proxy, head: &Parts) -> Result<Arc<Publishing>, Error> {
    let named = head.uri.path().strip_prefix("/publish/");
    let named = named.and_then(|rest| rest.split_once('/'));
    let (broker, topic) = named.ok_or_else(|| {
        let why = "events are published to /publish/<broker>/<topic>";
        Error::new(Reason::NoRoute, why).saying(why)
    })?;
    let state = px.destinations.state();
    let granted = state.built.publish.values().flat_map(|one| one.all());
    let granted = granted.filter(|to| to.broker.name() == broker && *to.topic == *topic);
    // Of several ApiRoutes the first by name, whatever the order sent.
    // One that takes events goes before one that takes records.
    let place = |to: &Arc<Publishing>| (to.split.is_some(), to.object.clone(), to.rule.clone());
    let first = granted.min_by_key(|to| place(to));
    first.cloned().ok_or_else(|| {
        let why = "no ApiRoute that is for this workload publishes to this broker and topic";
        Error::new(Reason::PublishNotGranted, why)
    })
}
