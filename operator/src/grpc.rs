//! The server of gRPC: one task for each connection, which knows who has connected, and which service a call
//! is for.
//!
//! On hyper itself: a connection of tonic's own server takes some kilobytes more, for as long as a sidecar
//! runs, and there are thousands of them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service as _;
use wire::discovery::certificates_server::CertificatesServer;
use wire::replicas::replicas_server::ReplicasServer;

use crate::certificates::Certificates;
use crate::push::Grpc;
use crate::replicas::service::Listener;
use crate::tls::{Acceptor, Connection, Peer};

/// A connection on which nothing was heard for so long is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// And this long later it is taken for dead.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many calls one connection may carry at a time: a sidecar makes one, and another now and then.
const MAX_CALLS: u32 = 8;

type Answer = Result<http::Response<Body>, Infallible>;

/// What may be called.
#[derive(Debug)]
pub(crate) struct Services {
    /// What sidecars receive their resources from.
    pub discovery: Grpc,
    /// What gives them their certificates.
    pub certificates: CertificatesServer<Certificates>,
    /// What other replicas report to.
    pub replicas: ReplicasServer<Listener>,
}

/// What one connection may call, and who calls.
struct Calls {
    services: Arc<Services>,
    peer: Arc<Peer>,
}

/// One connection, for as long as it lasts: a future by hand, since an `async fn` would keep the room of
/// the connection twice, where it comes from and where it is polled.
struct Carried {
    served: http2::Connection<TokioIo<Connection>, Calls, TokioExecutor>,
    /// Until the server stops; `None` afterwards.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Serves who connects until `stop`, and then until what was begun has ended.
pub(crate) async fn serve(
    acceptor: Acceptor,
    listener: TcpListener,
    services: Services,
    stop: CancellationToken,
) {
    let services = Arc::new(services);
    let connections = TaskTracker::new();
    let mut incoming = Box::pin(acceptor.incoming(listener));
    while let Some(Some((connection, peer))) = stop.run_until_cancelled(incoming.next()).await {
        let services = services.clone();
        connections.spawn(carried(connection, Calls { services, peer }, &stop));
    }
    // Nobody else gets in.
    drop(incoming);
    connections.close();
    connections.wait().await;
}

/// A connection, ready to be carried.
fn carried(connection: Connection, calls: Calls, stop: &CancellationToken) -> Carried {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    Carried {
        served: server.serve_connection(TokioIo::new(connection), calls),
        stop: Some(Box::pin(stop.clone().cancelled_owned())),
    }
}

// === impl Carried ===

impl Future for Carried {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let stops = this.stop.as_mut();
        if stops.is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
            this.stop = None;
            Pin::new(&mut this.served).graceful_shutdown();
        }
        let ended = ready!(Pin::new(&mut this.served).poll(cx));
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
        Poll::Ready(())
    }
}

// === impl Calls ===

impl Service<http::Request<Incoming>> for Calls {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    /// What the service answers that the path names.
    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let path = request.uri().path().strip_prefix('/').unwrap_or_default();
        let (name, _) = path.split_once('/').unwrap_or_default();
        let name = name.to_owned();
        request.extensions_mut().insert(self.peer.clone());
        let services = &self.services;
        match &*name {
            Grpc::NAME => services.discovery.clone().call(request),
            CertificatesServer::<Certificates>::NAME => services.certificates.clone().call(request),
            ReplicasServer::<Listener>::NAME => services.replicas.clone().call(request),
            _ => Box::pin(async {
                Ok(Status::unimplemented("there is no such service").into_http())
            }),
        }
    }
}
