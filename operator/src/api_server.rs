//! Asking the API server, with an end to the waiting.
//!
//! `kube`'s client waits for an answer for ever, for a watch has none until something happens, and
//! tries what the API server has no time for again by itself. On a connection that died without a
//! word nobody would ever hear of it.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

/// How long one object may take to be read or written.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// What the API server answers, unless that takes longer than `limit`.
pub(crate) async fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    match timeout(limit, asked).await {
        Ok(answered) => answered,
        Err(_) => {
            let late = format!("the API server gave no answer within {limit:?}");
            Err(kube::Error::Service(late.into()))
        }
    }
}

/// An API server in this process: no socket, so that the clock can be paused.
#[cfg(test)]
pub(crate) mod fake {
    use std::convert::Infallible;
    use std::future::Future;

    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::combinators::UnsyncBoxBody;
    use http_body_util::{BodyExt, Full};
    use kube::Client;
    use serde_json::{Value, json};

    pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

    /// A client that is answered by `answer`.
    pub(crate) fn client<F, A>(answer: F) -> Client
    where
        F: Fn(Request<Bytes>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send,
    {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok::<_, kube::Error>(answer(Request::from_parts(head, body)).await)
            }
        });
        Client::new(service, "default")
    }

    /// An object, or a list.
    pub(crate) fn json(value: &Value) -> Response<Body> {
        let body = Full::new(Bytes::from(value.to_string()));
        Response::new(body.boxed_unsync())
    }

    /// A refusal.
    pub(crate) fn refusal(code: u16) -> Response<Body> {
        let mut response = json(&json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": code,
        }));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    }

    /// There is no such object.
    pub(crate) fn absence() -> Response<Body> {
        let mut response = json(&json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no",
            "reason": "NotFound", "code": 404,
        }));
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    }

    /// None, ever: the connection is dead and nobody has said so.
    pub(crate) async fn silence() -> Response<Body> {
        std::future::pending().await
    }
}
