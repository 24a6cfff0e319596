//! What people and probes ask: verdicts, problems, readiness, metrics. Plain HTTP on 15014.

mod kept;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::ca::Ca;
use crate::leader::Leader;
use crate::places::{Limits, Place, Places};
use crate::push::Streams;
use crate::replicas::Replicas;
use crate::telemetry::Metrics;
use crate::verdicts::Verdicts;
use crate::webhook::Webhook;
use kept::Kept;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long a connection may take in all: one request, and the answer to it.
const LIFE: Duration = Duration::from_secs(30);
/// Connections, by address. The kubelet, whose probes end the operator when they are not answered,
/// is never kept waiting: who came before it gives way.
const CONNECTIONS: Limits = Limits {
    total: 128,
    each: 32,
    kept: Duration::ZERO,
};

/// What is answered from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    /// For `/verdicts` and `/problems`.
    pub verdicts: Arc<Verdicts>,
    /// For `/metrics`.
    pub streams: Arc<Streams>,
    /// For `/certificates` and `/metrics`.
    pub ca: Arc<Ca>,
    /// For `/metrics`.
    pub replicas: Arc<Replicas>,
    /// For `/metrics`.
    pub leader: watch::Receiver<Leader>,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/ready`: whether the first world was compiled.
    pub ready: watch::Receiver<bool>,
    /// For `/injection`: how pods are injected, in a cluster.
    pub injection: Option<Webhook>,
}

// === impl Http ===

impl Http {
    /// Serves until `stop`; then finishes the requests that are being answered.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        let places = Places::new(CONNECTIONS);
        let reports = Kept::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        if let Some(place) = places.take(from.ip().to_canonical()) {
                            let (http, stop) = (self.clone(), stop.clone());
                            let reports = reports.clone();
                            connections.spawn(http.connection(stream, reports, place, stop));
                        }
                    }
                    Err(error) => {
                        // Usually out of file descriptors: wait for some to come back.
                        tracing::warn!(%error, "can't accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }

    async fn connection(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        reports: Kept,
        place: Place<IpAddr>,
        stop: CancellationToken,
    ) {
        let service = service_fn(move |request| {
            let (http, reports) = (self.clone(), reports.clone());
            async move { Ok::<_, Infallible>(http.answer(request, &reports).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            // Probes and scrapers come back with new ones anyway.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let served = async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        tokio::select! {
            ended = timeout(LIFE, served) => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection broke"),
                Err(_) => tracing::debug!("an HTTP connection took longer than {LIFE:?}"),
            },
            () = place.lost() => tracing::debug!("an HTTP connection gave way to another"),
        }
    }

    async fn answer(&self, request: Request<Incoming>, reports: &Kept) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/verdicts" => {
                let verdicts = self.verdicts.clone();
                match reports.get(move || written(&verdicts.reports())).await {
                    Ok(body) => json_of(body),
                    Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
                }
            }
            "/problems" => json(&*self.verdicts.problems()),
            "/certificates" => json(&self.ca.report()),
            "/metrics" => {
                let leads = self.leader.borrow().is_us();
                self.metrics.led(leads, self.replicas.len());
                self.metrics.certificates(&self.ca);
                let body = self
                    .metrics
                    .text(&self.streams, self.verdicts.problems().len());
                let mut response = text(StatusCode::OK, body);
                let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static(openmetrics));
                response
            }
            "/ready" if *self.ready.borrow() => text(StatusCode::OK, "ready\n".to_owned()),
            "/ready" => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "not compiled yet\n".to_owned(),
            ),
            // The process answers: that is all that liveness is about.
            "/live" => text(StatusCode::OK, "live\n".to_owned()),
            // Nothing of it is secret: it is in every pod.
            "/injection" => match &self.injection {
                Some(webhook) => json(&webhook.config(BTreeMap::new())),
                None => text(
                    StatusCode::NOT_FOUND,
                    "pods are injected in a cluster only\n".to_owned(),
                ),
            },
            _ => {
                let paths = "try /verdicts, /problems, /injection, /certificates, /ready, /live or /metrics\n";
                text(StatusCode::NOT_FOUND, paths.to_owned())
            }
        }
    }
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match written(value) {
        Ok(body) => json_of(body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn written(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut body = serde_json::to_vec_pretty(value)?;
    body.push(b'\n');
    Ok(body.into())
}

fn json_of(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests;
