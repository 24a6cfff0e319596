//! Asks an operator what everybody depends on, as they would ask: whether it is ready, and what it
//! answers about a new pod. `helm test` runs it in the cluster (`meshwright-operator probe`).
//!
//! Nothing is created, and nothing changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ServiceReference,
};
use kube::{Api, Client};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::api_server::{ANSWER, in_time};
use crate::webhook::certificate::INJECTOR;

/// The port of readiness, metrics and verdicts.
const HTTP_PORT: u16 = 15014;
/// How long one question may take, from the connection to the end of the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Which operator to ask.
#[derive(Clone, Debug, clap::Args)]
pub struct ProbeArgs {
    /// The namespace that the operator runs in.
    #[arg(
        long,
        default_value = "meshwright-system",
        env = "MESHWRIGHT_NAMESPACE"
    )]
    pub namespace: String,
    /// The Service, in that namespace, by which it is reached.
    #[arg(
        long,
        default_value = "meshwright-operator",
        env = "MESHWRIGHT_SERVICE"
    )]
    pub service: String,
}

/// Asks; returns a sentence for each thing that is as it should be.
///
/// # Errors
/// The first thing that is not, in a sentence.
pub async fn run(args: &ProbeArgs) -> Result<Vec<String>> {
    let host = format!("{}.{}.svc", args.service, args.namespace);
    let mut said = vec![ready(&host, dial).await?];
    let client = Client::try_default().await.context("no API server")?;
    said.extend(webhooks(client, dial).await?);
    Ok(said)
}

async fn dial(host: String, port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect((host.as_str(), port)).await
}

/// Whether the operator that is reached at `host` is ready.
async fn ready(
    host: &str,
    dial: impl AsyncFn(String, u16) -> std::io::Result<TcpStream>,
) -> Result<String> {
    let place = format!("http://{host}:{HTTP_PORT}/ready");
    let request = Request::get("/ready").header(header::HOST, host);
    let asked = async {
        let stream = dial(host.to_owned(), HTTP_PORT).await?;
        ask(stream, request.body(Full::default())?).await
    };
    let (status, body) = in_limit(&place, asked).await?;
    let said = String::from_utf8_lossy(&body);
    ensure!(status.is_success(), "{place}: {status}, {}", said.trim());
    Ok(format!("{place}: ready"))
}

/// Whether each webhook of the configuration answers, proves to be who the API server will expect,
/// and gives a new pod a sidecar.
async fn webhooks(
    client: Client,
    dial: impl AsyncFn(String, u16) -> std::io::Result<TcpStream>,
) -> Result<Vec<String>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let configuration = in_time(ANSWER, api.get(INJECTOR));
    let configuration = configuration
        .await
        .with_context(|| format!("the MutatingWebhookConfiguration {INJECTOR}"))?;
    let webhooks = configuration.webhooks.unwrap_or_default();
    ensure!(!webhooks.is_empty(), "{INJECTOR} has no webhook");
    let mut said = Vec::new();
    for webhook in &webhooks {
        let name = &webhook.name;
        let patch = in_limit(name, review(webhook, &dial)).await?;
        ensure!(
            patch.is_some(),
            "{name}: a new pod is let through without a sidecar"
        );
        said.push(format!("{name}: a new pod gets a sidecar"));
    }
    Ok(said)
}

/// The patch that a webhook has for a new pod.
async fn review(
    webhook: &MutatingWebhook,
    dial: &impl AsyncFn(String, u16) -> std::io::Result<TcpStream>,
) -> Result<Option<Value>> {
    let config = &webhook.client_config;
    let service = config.service.as_ref();
    let ServiceReference {
        name,
        namespace,
        path,
        port,
    } = service.context("it names no Service")?;
    let host = format!("{name}.{namespace}.svc");
    let port = u16::try_from(port.unwrap_or(443)).context("its port is none")?;
    let bundle = config
        .ca_bundle
        .as_ref()
        .map_or(&[][..], |bundle| &bundle.0);
    let tls = trusting(bundle)?;

    let body = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "probe",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "operation": "CREATE",
            "namespace": "default",
            "dryRun": true,
            "object": {
                "metadata": { "name": "probe" },
                "spec": { "containers": [{ "name": "probe", "image": "probe" }] },
            },
        },
    });
    let request = Request::builder()
        .method(Method::POST)
        .uri(path.as_deref().unwrap_or("/"))
        .header(header::HOST, &host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let stream = dial(host.clone(), port).await?;
    let stream = tls
        .connect(ServerName::try_from(host)?, stream)
        .await
        .context("it is not who the API server expects")?;
    let (status, body) = ask(stream, request).await?;
    if status != StatusCode::OK {
        bail!("{status}, {}", String::from_utf8_lossy(&body).trim());
    }
    let answer: Value = serde_json::from_slice(&body).context("its answer is no JSON")?;
    let response = &answer["response"];
    ensure!(
        response["allowed"] == true,
        "it refuses a new pod: {}",
        response["status"]["message"]
    );
    Ok(response.get("patch").cloned())
}

/// A client that expects a certificate of the bundle (PEM), as the API server does.
fn trusting(bundle: &[u8]) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle) {
        roots.add(certificate?)?;
    }
    ensure!(
        !roots.is_empty(),
        "the operator has not written its certificate into the configuration yet"
    );
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}

/// The answer to one request, which is all that a connection is for.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|error| anyhow!(error))?;
        Ok((status, body.to_bytes()))
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answered = &mut answered => answered,
        // Whoever closes behind its answer has answered.
        ended = connection => match ended {
            Ok(()) => answered.await,
            Err(error) => Err(error.into()),
        },
    }
}

async fn in_limit<T>(what: &str, asked: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(LIMIT, asked).await {
        Ok(answered) => answered.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: no answer within {LIMIT:?}"),
    }
}

#[cfg(test)]
mod tests;
