//! Answers the API server's question about each new pod (15017, `/inject`): [`crate::inject`] over
//! HTTPS.
//!
//! The certificate that the API server knows us by has nothing to do with the mesh's authority,
//! which vouches for no host: [`certificate`] makes it, and tells the API server.

pub mod certificate;
mod review;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::ca::TrustBundle;
use crate::inject::{Config, SidecarArgs};

/// The largest review that is read, in bytes. etcd holds no larger object than half of it.
const MAX_BODY_BYTES: usize = 3 << 20;
/// How long a handshake, a request's head or its body may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once. The API server needs few.
const MAX_CONNECTIONS: usize = 128;
/// How long to wait after an accept failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is needed to answer.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// What sidecars are to be like.
    pub sidecar: SidecarArgs,
    /// The operator's gRPC address, host:port, as a pod reaches it.
    pub operator: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// What a new sidecar trusts first.
    pub bundle: watch::Receiver<TrustBundle>,
}

// === impl Webhook ===

impl Webhook {
    /// Serves for as long as it is polled. Each connection has the configuration of its moment.
    pub async fn serve(self, listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>) {
        let webhook = Arc::new(self);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let tcp = match listener.accept().await {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "a connection couldn't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (webhook, tls) = (webhook.clone(), tls.borrow().clone());
            tokio::spawn(async move {
                if let Err(error) = webhook.connection(tcp, tls).await {
                    tracing::debug!(%error, "a connection to the webhook ended early");
                }
                drop(place);
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        tls: Arc<ServerConfig>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let stream = timeout(PATIENCE, TlsAcceptor::from(tls).accept(tcp)).await??;
        let service = service_fn(move |request| {
            let webhook = self.clone();
            async move { Ok::<_, Infallible>(webhook.answer(request).await) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .await?;
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/inject" {
            return plain(StatusCode::NOT_FOUND, "here is /inject and nothing else");
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview");
        }
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
        let body = match timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let why = format!("the review is larger than {MAX_BODY_BYTES} bytes");
                return plain(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the review broke off"),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the review took too long"),
        };
        match review::answer(&body, &self.config()) {
            Ok(answer) => {
                let mut response = Response::new(Full::new(answer.into()));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(bad) => {
                tracing::warn!(%bad, "a review can't be answered");
                plain(StatusCode::BAD_REQUEST, &bad.to_string())
            }
        }
    }

    fn config(&self) -> Config {
        Config {
            sidecar: self.sidecar.clone(),
            operator: self.operator.clone(),
            trust_domain: self.trust_domain.clone(),
            roots: self.bundle.borrow().to_pem(),
        }
    }
}

fn plain(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
