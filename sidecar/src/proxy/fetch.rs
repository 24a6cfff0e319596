//! Calls of the sidecar's own: for keys of issuers, and about tokens. In the mesh they go the way of
//! the application's calls, with all that governs these; outside, over TLS.

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::captured::Captured;
use super::context::Context;
use super::error::{Error, Reason};
use super::layers::{self, Layer};
use super::{Proxy, path};
use crate::config::remote::Remote;
use crate::policy::timeout::Deadline;
use crate::telemetry::metrics::Direction;

/// Calls, and reads the answer: at most `max` bytes of it, within `timeout`. Nothing is followed that
/// the answer leads to.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn fetch(
    px: &Rc<Proxy>,
    from: &Remote,
    mut request: Request<Bytes>,
    timeout: Duration,
    max: usize,
) -> Result<(StatusCode, Bytes), Error> {
    let authority = from
        .uri()
        .authority()
        .map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(authority);
    let host = host.map_err(|_| Error::from(Reason::UnknownHost))?;
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("meshwright-sidecar"));
    let asked = async {
        match from.tls() {
            None => in_the_mesh(px, request, timeout, max).await,
            Some(_) => outside(px, from, request, max).await,
        }
    };
    let answer = tokio::time::timeout(timeout, asked).await;
    answer.unwrap_or_else(|_| Err(Reason::RequestTimeout.into()))
}

/// Only whoever proves who it is may say whom to let in.
async fn in_the_mesh(
    px: &Rc<Proxy>,
    request: Request<Bytes>,
    timeout: Duration,
    max: usize,
) -> Result<(StatusCode, Bytes), Error> {
    let (mut head, body) = request.into_parts();
    let mut cx = Context::new(Direction::outbound, &mut head);
    path::settle(&mut cx, &mut head)?;
    let captured = Captured::Explicitly;
    let destination = captured.find(px, &head).await?;
    let routed = destination.route(&head)?;
    let backend = routed.backend.as_ref().ok_or(Reason::BackendMissing)?;
    let proves = |place: &crate::policy::load_balancer::Place<_>| {
        super::upstream::Upstream::is_peer(&place.endpoint)
    };
    if routed.leads_on() || !backend.balancer.places().iter().all(proves) {
        let why = "it is outside the mesh, where anybody could answer plaintext: write https";
        return Err(Error::new(Reason::PeerNotVerified, why));
    }
    let now = Instant::now();
    let layer = Layer {
        deadline: Deadline::start(routed.request_timeout(), now).or_sooner(Some(timeout), now),
        routed,
        captured,
        depth: 0,
    };
    let body = match body.is_empty() {
        true => RequestBody::Empty,
        false => RequestBody::whole(body),
    };
    let answer = Box::pin(layers::carry(px, &mut cx, layer, head, body)).await?;
    let status = answer.status();
    Ok((status, read(answer.into_body(), max).await?))
}

async fn outside(
    px: &Rc<Proxy>,
    from: &Remote,
    mut request: Request<Bytes>,
    max: usize,
) -> Result<(StatusCode, Bytes), Error> {
    let failed = |why: String| Error::new(Reason::ConnectFailed, why);
    let host = from.uri().host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = from.uri().port_u16().unwrap_or(443);
    let stream = px.dial.connector.to_host(bare, port).await;
    let stream = stream.map_err(|error| failed(format!("{host}: {error}")))?;
    let name = ServerName::try_from(bare.to_owned());
    let name = name.map_err(|_| failed(format!("{host} is no name of a server")))?;
    let tls = from.tls().ok_or(Reason::ConnectFailed)?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    let stream = stream.map_err(|error| failed(format!("{host}: {error}")))?;
    let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| Error::exchange(&error))?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the outside ended early");
        }
    });
    let path = from
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::from(Reason::BadRequest))?;
    let answer = sender.send_request(request.map(Full::new)).await;
    let answer = answer.map_err(|error| Error::exchange(&error))?;
    let status = answer.status();
    Ok((status, read(answer.into_body(), max).await?))
}

async fn read<B>(body: B, max: usize) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Error::new(Reason::UpstreamReset, error.to_string()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if read.len() + data.len() > max {
            let why = format!("the answer has more than {max} bytes");
            return Err(Error::new(Reason::BadResponse, why));
        }
        read.extend_from_slice(data);
    }
    Ok(read.freeze())
}
