//! An ordinary HTTP server: listens where `HOST` and `PORT` say, and ends gently on SIGTERM.

use std::convert::Infallible;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How long requests in flight may take once the service is to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; the next one waits.
const MAX_CONNECTIONS: usize = 1024;

/// How a service fails on purpose, as `SHOP_FAILS` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    Never,
    /// Every other request, the first one first.
    EveryOther,
    Always,
}

/// What a service answers.
pub type Reply = Response<Full<Bytes>>;

/// Serves `answer` as the service called `name`, on `HOST` (0.0.0.0 when unset) and `PORT` (8080),
/// until SIGTERM or SIGINT.
///
/// # Errors
/// When the address can't be listened on.
pub async fn serve<F>(
    name: &str,
    answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Reply> + Send + 'static,
{
    let listener = listen(name).await?;
    let mut asked_to_end = std::pin::pin!(asked_to_end()?);
    let (ending, ended) = watch::channel(false);
    let fails = Fails::of(&env::var("SHOP_FAILS").unwrap_or_default())?;
    let requests = AtomicUsize::new(0);
    let answer = Arc::new(move |request| {
        let fails = fails.next(requests.fetch_add(1, Ordering::Relaxed));
        let reply = (!fails).then(|| answer(request));
        async {
            match reply {
                Some(reply) => reply.await,
                None => json(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({"error": "not this time"}),
                ),
            }
        }
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut asked_to_end => break,
            Some(_) = connections.join_next() => {}
            (place, accepted) = accept => {
                // A caller that went away before it was accepted is not worth ending for.
                let Ok((stream, _)) = accepted else { continue };
                let (answer, ended) = (answer.clone(), ended.clone());
                connections.spawn(async move {
                    let _place = place;
                    connection(stream, answer, ended).await;
                });
            }
        }
    }
    drop(listener);
    ending.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    eprintln!("{name} has ended");
    Ok(())
}

// === impl Fails ===

impl Fails {
    fn of(text: &str) -> anyhow::Result<Self> {
        Ok(match text {
            "" => Self::Never,
            "every-other" => Self::EveryOther,
            "always" => Self::Always,
            other => anyhow::bail!("SHOP_FAILS is {other:?}: it is every-other or always"),
        })
    }

    /// Whether the next request after so many does.
    fn next(self, before: usize) -> bool {
        match self {
            Self::Never => false,
            Self::EveryOther => before.is_multiple_of(2),
            Self::Always => true,
        }
    }
}

/// Listens as the service called `name`, where `HOST` and `PORT` say.
///
/// # Errors
/// When the address can't be listened on.
pub async fn listen(name: &str) -> anyhow::Result<TcpListener> {
    let host = env::var("HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
    let port = env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let address = format!("{host}:{port}");
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("{name} can't listen on {address}"))?;
    eprintln!("{name} listens on {address}");
    Ok(listener)
}

/// Ends with SIGTERM or SIGINT.
///
/// # Errors
/// When the signals can't be waited for.
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn connection<F>(
    stream: TcpStream,
    answer: Arc<impl Fn(Request<Incoming>) -> F>,
    mut ended: watch::Receiver<bool>,
) where
    F: Future<Output = Reply>,
{
    // Answers are small and complete: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let reply = answer(request);
        async { Ok::<_, Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ended is its caller's business.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// An answer in JSON, with a line's end after it for those who read it in a terminal.
pub fn json(status: StatusCode, value: &Value) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
