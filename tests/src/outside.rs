//! A system outside the mesh.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A name that it proves beside its address.
pub const NAME: &str = "partner.example.com";

/// The media type of an event in JSON.
const EVENT: &str = "application/cloudevents+json";

/// What a system outside was sent.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Path and query.
    pub uri: Uri,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

/// A system outside the mesh, which lets in who shows a certificate of its authority, and nobody else.
pub struct System {
    /// Where it is called.
    pub address: SocketAddr,
    /// What its certificate and those of callers are below.
    pub authority: String,
    /// What it lets in: certificate and key.
    pub shown: (String, String),
    posted: Arc<Mutex<Vec<Posted>>>,
    reply: Arc<Mutex<Option<String>>>,
    /// How many were let in.
    pub connections: Arc<AtomicUsize>,
    /// What it answers.
    pub status: Arc<AtomicU16>,
    /// While it is so, nothing that comes is answered.
    pub silent: watch::Sender<bool>,
}

// === impl System ===

impl System {
    /// One of this host, which proves [`NAME`] as well.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        Self::at(listener)
    }

    /// One that is called there.
    pub fn at(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let above_key = KeyPair::generate()?;
        let above = params.self_signed(&above_key)?;
        let issuer = Issuer::from_params(&params, &above_key);
        let below = |names: &[&str]| -> Result<_> {
            let key = KeyPair::generate()?;
            let names = names.iter().map(|name| (*name).to_owned());
            let params = CertificateParams::new(Vec::from_iter(names))?;
            Ok((params.signed_by(&key, &issuer)?, key))
        };
        let ((own, own_key), (client, client_key)) = (
            below(&[&address.ip().to_string(), NAME])?,
            below(&["shop"])?,
        );
        let mut roots = rustls::RootCertStore::empty();
        roots.add(above.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own_key.serialize_der()));
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![own.der().clone()], key)?;
        let system = Self {
            address,
            authority: above.pem(),
            shown: (client.pem(), client_key.serialize_pem()),
            posted: Arc::default(),
            reply: Arc::default(),
            connections: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            silent: watch::channel(false).0,
        };
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (posted, connections) = (system.posted.clone(), system.connections.clone());
        let (status, reply) = (system.status.clone(), system.reply.clone());
        let silent = system.silent.subscribe();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, posted) = (acceptor.clone(), posted.clone());
                let (connections, status) = (connections.clone(), status.clone());
                let reply = reply.clone();
                let silent = silent.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    connections.fetch_add(1, Ordering::SeqCst);
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (posted, status) = (posted.clone(), status.clone());
                        let reply = reply.clone();
                        let mut silent = silent.clone();
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.map(|body| body.to_bytes());
                            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into();
                            lock(&posted).push(Posted {
                                uri: head.uri,
                                headers: head.headers,
                                body,
                            });
                            let reply = lock(&reply).clone();
                            let _ = silent.wait_for(|is| !is).await;
                            let mut answer = Response::new(Full::<Bytes>::default());
                            if let Some(event) = reply {
                                let media = HeaderValue::from_static(EVENT);
                                answer.headers_mut().insert("content-type", media);
                                *answer.body_mut() = event.into();
                            }
                            let status = status.load(Ordering::SeqCst);
                            *answer.status_mut() = status.try_into().unwrap_or_default();
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(system)
    }

    /// What it was sent so far.
    pub fn posted(&self) -> Vec<Posted> {
        lock(&self.posted).clone()
    }

    /// From now on it answers with this event.
    pub fn replies(&self, event: &Value) {
        *lock(&self.reply) = Some(event.to_string());
    }

    /// The Secret `partner`, with what it asks for, which says that this authority vouches for it.
    pub fn secret(&self, namespace: &str, authority: &str) -> String {
        let part = |name: &str, pem: &str| {
            let lines = pem.lines().map(|line| format!("    {line}\n"));
            format!("  {name}: |\n{}", String::from_iter(lines))
        };
        let (certificate, key) = &self.shown;
        format!(
            "---\napiVersion: v1\nkind: Secret\n\
             metadata: {{ name: partner, namespace: {namespace}, labels: {{ meshwright.dev/credential: \"\" }} }}\n\
             stringData:\n  token: t0ken\n{}{}{}",
            part("ca.crt", authority),
            part("tls.crt", certificate),
            part("tls.key", key),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
