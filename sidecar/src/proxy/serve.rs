//! Requests of one connection, until it ends; and one response and account for each.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::body::ResponseBody;
use super::context::Account;
use super::error::{Error, Reason};
use super::gate::{Ended, Gate};
use super::load::Seat;
use super::{Proxy, headers, limits};
use crate::telemetry::metrics::{Direction, DirectionLabels};

/// Serves HTTP until the connection ends; when draining, until what is in flight has ended. HTTP/2
/// when there is no `h1`.
pub(crate) async fn http<I, S, F>(
    px: &Proxy,
    io: I,
    seat: &Rc<Seat>,
    h1: Option<http1::Builder>,
    service: S,
) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = Response<ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
    F: Future<Output = Result<Response<ResponseBody>, std::convert::Infallible>> + 'static,
{
    http_until(px, io, seat, h1, service, std::future::pending()).await
}

/// The same until `over`: what is in flight then still ends, and nothing else begins.
pub(super) async fn http_until<I, S, F>(
    px: &Proxy,
    io: I,
    seat: &Rc<Seat>,
    h1: Option<http1::Builder>,
    service: S,
    over: impl Future<Output = ()>,
) -> Result<(), Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = Response<ResponseBody>,
            Error = std::convert::Infallible,
            Future = F,
        >,
    F: Future<Output = Result<Response<ResponseBody>, std::convert::Infallible>> + 'static,
{
    /// The two kinds of connection have the same methods and no trait.
    macro_rules! until_drained {
        ($connection:expr, $greeted:expr) => {{
            let mut connection = std::pin::pin!($connection);
            let mut drain = px.drain.clone();
            let told_to_end = async {
                tokio::select! {
                    () = drain.begun() => {}
                    () = over => {}
                }
                $greeted.await;
            };
            tokio::select! {
                // A request that has already arrived is read before the connection is told to end.
                biased;
                ended = connection.as_mut() => ended,
                () = told_to_end => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                () = seat.given_way() => {
                    connection.as_mut().graceful_shutdown();
                    let ended = tokio::time::timeout(limits::GIVE_WAY, connection).await;
                    ended.unwrap_or(Ok(()))
                }
            }
        }};
    }
    let _resting = seat.rest();
    let ended = match h1 {
        None => {
            let io = TokioIo::new(Gate::http2_client(io));
            // Told to end, it says which requests it has seen: others are sent elsewhere.
            let greeted = std::future::ready(());
            until_drained!(limits::h2_server().serve_connection(io, service), greeted)
        }
        Some(h1) => {
            let answered = Arc::default();
            let io = TokioIo::new(Gate::requests(io, Arc::clone(&answered)));
            // HTTP/1.1 has no words for that: a connection that has just been opened for a request
            // which is to become something else would be closed with the request on its way.
            let begun = Notify::new();
            let greeted = async {
                let _ = tokio::time::timeout(limits::FIRST_REQUEST, begun.notified()).await;
            };
            let telling = service_fn(|request| {
                begun.notify_one();
                let (answer, answered) = (service.call(request), answered.clone());
                async move {
                    let mut answer = answer.await?;
                    if answer.body().is_switched() {
                        answered.switched();
                    }
                    // Whoever sent what can not be carried may mean what follows otherwise, too.
                    if Reason::of(answer.headers()) == Some(Reason::BadRequest) {
                        let close = HeaderValue::from_static("close");
                        answer.headers_mut().insert(CONNECTION, close);
                    }
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            until_drained!(h1.serve_connection(io, telling).with_upgrades(), greeted)
        }
    };
    match ended {
        // hyper has answered 400 or 431 itself: no request came of it.
        Err(error) if error.is_parse() => Err(Error::new(Reason::BadRequest, error.to_string())),
        Err(error) => match Ended::of(&error) {
            Some(why) => Err(Error::new(Reason::BadRequest, why)),
            None => {
                tracing::debug!(%error, "a connection ended early");
                Ok(())
            }
        },
        Ok(()) => Ok(()),
    }
}

/// Makes one response of a result, and leaves its account open until the body has ended.
pub(crate) fn account_for(
    mut account: Account,
    result: Result<Response<ResponseBody>, Error>,
) -> Response<ResponseBody> {
    let mut response = match result {
        Ok(mut response) => {
            // One that agrees to another protocol says so hop by hop.
            if !response.body().is_switched() {
                headers::remove_hop_by_hop(response.headers_mut());
            }
            account.cx.responds(&response);
            response
        }
        Err(error) => {
            let mut response = error.response(account.cx.reads);
            if account.cx.is_head() {
                // As long as it would be, and not there (RFC 9110 section 9.3.2).
                let length = HeaderValue::from(response.body().len());
                response.headers_mut().insert(CONTENT_LENGTH, length);
                *response.body_mut() = Bytes::new();
            }
            account.cx.refused(response.status(), error);
            response.map(ResponseBody::mesh)
        }
    };
    if account.cx.retried.given_up.get() {
        headers::say_no_retry(response.headers_mut());
    }
    response.map(|body| body.with(account))
}

/// Counts a connection as open, and keeps the process from ending while it is.
pub(crate) struct Open {
    px: Rc<Proxy>,
    direction: Direction,
    _work: crate::drain::Work,
}

impl Open {
    pub(crate) fn new(px: &Rc<Proxy>, direction: Direction) -> Self {
        let labels = DirectionLabels { direction };
        px.metrics.all().sockets_open.get_or_create(&labels).inc();
        Self {
            px: px.clone(),
            direction,
            _work: px.drain.work(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let labels = DirectionLabels {
            direction: self.direction,
        };
        let open = &self.px.metrics.all().sockets_open;
        open.get_or_create(&labels).dec();
    }
}
