//! Answers the API server's questions over HTTPS (15017): about each new pod (`/inject`,
//! [`crate::inject`]), and about each object that people write (`/validate`, [`validate`]).
//!
//! The certificate that the API server knows us by has nothing to do with the mesh's authority,
//! which vouches for no host: [`certificate`] makes it, and tells the API server.

pub mod certificate;
mod review;
pub mod validate;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::api_server::in_time;
use crate::ca::{TrustBundle, rfc3339};
use crate::inject::{Config, SidecarArgs};
use crate::places::{Limits, Place, Places};

use review::BadReview;
use validate::Validator;

/// The largest review that is read, in bytes. etcd holds no larger object than half of it.
const MAX_BODY_BYTES: usize = 3 << 20;
/// How long a handshake may take, and a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request's body may take. The API server waits no longer for the answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may take in all: one review, and the answer to it.
const LIFE: Duration = Duration::from_secs(25);
/// Connections, by address. Without an answer to the API server no pod is created, so that it is
/// never kept waiting: who came before it gives way.
const CONNECTIONS: Limits = Limits {
    total: 128,
    each: 64,
    kept: Duration::ZERO,
};
/// How long the API server may take to say what labels a namespace has.
const LABELS: Duration = Duration::from_secs(3);
/// How long to wait after an accept failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is needed to answer.
#[derive(Clone)]
pub struct Webhook {
    /// What sidecars are to be like.
    pub sidecar: SidecarArgs,
    /// The operator's gRPC address, host:port, as a pod reaches it.
    pub operator: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// What a new sidecar trusts first.
    pub bundle: watch::Receiver<TrustBundle>,
    /// Who knows the namespaces.
    pub client: Client,
    /// Judges what people write.
    pub validator: Validator,
}

/// Why a review has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("{0}")]
    Bad(BadReview),
    #[error("the labels of the pod's namespace can't be read: {0}")]
    Namespace(kube::Error),
}

/// What the API server asks.
#[derive(Clone, Copy)]
enum Question {
    /// What is a new pod to be like?
    Inject,
    /// May this be stored?
    Validate,
}

impl fmt::Debug for Webhook {
    /// Without the client, which has no such form.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Webhook")
            .field("sidecar", &self.sidecar)
            .field("operator", &self.operator)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

// === impl Webhook ===

impl Webhook {
    /// Serves for as long as it is polled. Each connection has the configuration of its moment.
    pub async fn serve(self, listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>) {
        let webhook = Arc::new(self);
        let places = Places::new(CONNECTIONS);
        loop {
            let (tcp, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection couldn't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = places.take(from.ip().to_canonical()) else {
                continue;
            };
            let (webhook, tls) = (webhook.clone(), tls.borrow().clone());
            tokio::spawn(webhook.connection(tcp, tls, place));
        }
    }

    async fn connection(
        self: Arc<Self>,
        tcp: impl AsyncRead + AsyncWrite + Unpin,
        tls: Arc<ServerConfig>,
        place: Place<IpAddr>,
    ) {
        let from = *place.holder();
        tokio::select! {
            ended = timeout(LIFE, self.review(tcp, tls, from)) => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection to the webhook ended early");
                }
                Err(_) => tracing::debug!("a connection to the webhook took longer than {LIFE:?}"),
            },
            () = place.lost() => tracing::debug!("a connection to the webhook gave way to another"),
        }
    }

    /// One request. The API server comes with a new connection for the next: were this one kept, it
    /// might be closed just when that is sent, and a pod would not be created.
    async fn review(
        self: Arc<Self>,
        tcp: impl AsyncRead + AsyncWrite + Unpin,
        tls: Arc<ServerConfig>,
        from: IpAddr,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let stream = timeout(HEAD_TIMEOUT, TlsAcceptor::from(tls).accept(tcp)).await??;
        let service = service_fn(move |request| {
            let webhook = self.clone();
            async move { Ok::<_, Infallible>(webhook.answer(request, from).await) }
        });
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service)
            .await?;
        Ok(())
    }

    async fn answer(&self, request: Request<Incoming>, from: IpAddr) -> Response<Full<Bytes>> {
        let question = match request.uri().path() {
            "/inject" => Question::Inject,
            "/validate" => Question::Validate,
            _ => {
                let here = "here are /inject and /validate and nothing else";
                return plain(StatusCode::NOT_FOUND, here);
            }
        };
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview");
        }
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
        let body = match timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let why = format!("the review is larger than {MAX_BODY_BYTES} bytes");
                return plain(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Ok(Err(_)) => return plain(StatusCode::BAD_REQUEST, "the review broke off"),
            Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the review took too long"),
        };
        let answered = match question {
            Question::Inject => self.injected(&body).await,
            Question::Validate => self.validated(&body, from).await.map_err(Unanswered::Bad),
        };
        match answered {
            Ok(answer) => {
                let mut response = Response::new(Full::new(answer.into()));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Err(why) => {
                tracing::warn!(%why, "a review can't be answered");
                let status = match why {
                    Unanswered::Bad(_) => StatusCode::BAD_REQUEST,
                    Unanswered::Namespace(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                plain(status, &why.to_string())
            }
        }
    }

    async fn injected(&self, body: &[u8]) -> Result<Vec<u8>, Unanswered> {
        let request = review::read(body).map_err(Unanswered::Bad)?;
        let uid = request.uid.clone();
        let namespace = &request.namespace;
        if !namespace.is_empty() && !review::is_namespace(namespace) {
            let namespace = namespace.chars().take(63).collect();
            return Err(Unanswered::Bad(BadReview::Namespace(namespace)));
        }
        let labels = self.labels_of(namespace).await;
        let labels = labels.map_err(Unanswered::Namespace)?;
        let response = review::injected(request, &self.config(labels));
        let response = response.map_err(Unanswered::Bad)?;
        review::written(&uid, response).map_err(Unanswered::Bad)
    }

    async fn validated(&self, body: &[u8], from: IpAddr) -> Result<Vec<u8>, BadReview> {
        let request = review::read(body)?;
        let uid = request.uid.clone();
        review::written(&uid, self.validator.answer(&request, from).await)
    }

    /// What a namespace says of its pods that a review doesn't. Empty where there is no namespace.
    async fn labels_of(&self, namespace: &str) -> Result<BTreeMap<String, String>, kube::Error> {
        if namespace.is_empty() {
            return Ok(BTreeMap::new());
        }
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let found = in_time(LABELS, namespaces.get_metadata(namespace)).await?;
        Ok(found.metadata.labels.unwrap_or_default())
    }

    /// What a pod that is made now is told, in a namespace with these labels.
    pub(crate) fn config(&self, namespace: BTreeMap<String, String>) -> Config {
        let bundle = self.bundle.borrow();
        let ended = bundle.ended(SystemTime::now());
        Config {
            namespace,
            sidecar: self.sidecar.clone(),
            operator: self.operator.clone(),
            trust_domain: self.trust_domain.clone(),
            roots: bundle.to_pem(),
            roots_ended: ended.map(rfc3339),
            probe_token: probe_token(),
        }
    }
}

/// As hard to guess as a key: 128 bits.
fn probe_token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn plain(status: StatusCode, why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{why}\n"))));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
