//! A system outside the mesh.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::carried;

/// A name that it proves beside its address.
pub(super) const NAME: &str = "partner.example.com";

/// What a system outside was sent.
#[derive(Clone, Debug)]
pub(super) struct Posted {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

/// A system outside the mesh, which lets in who shows a certificate of its authority, and nobody else.
pub(super) struct System {
    pub(super) address: SocketAddr,
    pub(super) authority: String,
    /// What it lets in: certificate and key.
    pub(super) shown: (String, String),
    posted: Arc<Mutex<Vec<Posted>>>,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) status: Arc<AtomicU16>,
    /// While it is so, nothing that comes is answered.
    pub(super) silent: watch::Sender<bool>,
}

// === impl System ===

impl System {
    pub(super) async fn start() -> Result<Self> {
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
        let ((own, own_key), (client, client_key)) =
            (below(&["127.0.0.1", NAME])?, below(&["shop"])?);
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let system = Self {
            address: listener.local_addr()?,
            authority: above.pem(),
            shown: (client.pem(), client_key.serialize_pem()),
            posted: Arc::default(),
            connections: Arc::default(),
            status: Arc::new(AtomicU16::new(200)),
            silent: watch::channel(false).0,
        };
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (posted, connections) = (system.posted.clone(), system.connections.clone());
        let (status, silent) = (system.status.clone(), system.silent.subscribe());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, posted) = (acceptor.clone(), posted.clone());
                let (connections, status) = (connections.clone(), status.clone());
                let silent = silent.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    connections.fetch_add(1, Ordering::SeqCst);
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (posted, status) = (posted.clone(), status.clone());
                        let mut silent = silent.clone();
                        async move {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.map(|body| body.to_bytes());
                            let body = String::from_utf8_lossy(&body.unwrap_or_default()).into();
                            posted
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .push(Posted {
                                    uri: head.uri,
                                    headers: head.headers,
                                    body,
                                });
                            let _ = silent.wait_for(|is| !is).await;
                            let mut answer = Response::new(Full::<Bytes>::default());
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

    pub(super) fn posted(&self) -> Vec<Posted> {
        let posted = self.posted.lock();
        posted.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An EventSubscription that posts to it, and the Secret with what it asks for, whose authority is this one.
    pub(super) fn subscription(&self, authority: &str) -> String {
        self.subscription_at(&self.address.to_string(), authority)
    }

    /// The same, at this host and port.
    pub(super) fn subscription_at(&self, address: &str, authority: &str) -> String {
        let part = |name: &str, pem: &str| {
            let lines = pem.lines().map(|line| format!("    {line}\n"));
            format!("  {name}: |\n{}", String::from_iter(lines))
        };
        let (certificate, key) = &self.shown;
        let url = format!(
            "{{ type: URL, url: {{ address: \"https://{address}/hooks/stock?from=shop\", secretRef: {{ name: partner }} }} }}"
        );
        format!(
            "{}---\napiVersion: v1\nkind: Secret\n\
             metadata: {{ name: partner, namespace: shop, labels: {{ meshwright.dev/credential: \"\" }} }}\n\
             stringData:\n  token: t0ken\n{}{}{}",
            carried(&url, ""),
            part("ca.crt", authority),
            part("tls.crt", certificate),
            part("tls.key", key),
        )
    }
}
