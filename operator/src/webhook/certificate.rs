//! The certificate that the API server knows the webhooks by: made here, told to the API server in
//! the `caBundle` of their configurations, replaced at half its life.
//!
//! Each replica makes its own and keeps its key in memory alone. The `caBundle` holds those of all:
//! one that starts adds its own to what it finds.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api_server::{ANSWER, in_time};
use crate::ca::BACKDATED;
use crate::telemetry::Metrics;

/// The name of the MutatingWebhookConfiguration, which the chart makes.
pub const INJECTOR: &str = "meshwright-injector";
/// The name of the ValidatingWebhookConfiguration, which the chart makes.
pub const VALIDATOR: &str = "meshwright-validator";

const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is seen to that the API server knows our certificate. It is also how long a new
/// one is known before it is used.
const LOOK: Duration = Duration::from_secs(30);
/// How soon, when that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The most certificates in the `caBundle`: the newest. Replicas that live see to it that theirs is
/// among them.
const MAX_KNOWN: usize = 32;
/// How often it is tried again at once when another replica was first.
const CONFLICTS: usize = 5;

/// Why the webhook can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate could not be made.
    #[error("can't make the webhook's certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// What was made can't be used.
    #[error("the webhook's certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The API server was not told.
    #[error("can't write the certificate into the {kind} {name}: {error}")]
    Tell {
        /// MutatingWebhookConfiguration or ValidatingWebhookConfiguration.
        kind: Cow<'static, str>,
        /// Its name.
        name: &'static str,
        /// What the API server says.
        error: Box<kube::Error>,
    },
}

impl Error {
    /// Somebody else has changed the configuration since it was read.
    fn is_conflict(&self) -> bool {
        let Error::Tell { error, .. } = self else {
            return false;
        };
        matches!(&**error, kube::Error::Api(status) if status.code == 409)
    }
}

/// Makes certificates for the webhook, and sees to it that the API server knows them.
pub struct Serving {
    injector: Api<MutatingWebhookConfiguration>,
    validator: Api<ValidatingWebhookConfiguration>,
    names: Vec<String>,
    current: Own,
    next: Option<Own>,
    config: watch::Sender<Arc<ServerConfig>>,
}

/// A certificate of our own.
struct Own {
    certificate: CertificateDer<'static>,
    config: Arc<ServerConfig>,
    until: SystemTime,
}

// === impl Serving ===

impl Serving {
    /// For the Service of that name and namespace. The receiver always holds what to serve with.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(
        client: Client,
        service: &str,
        namespace: &str,
    ) -> Result<(Serving, watch::Receiver<Arc<ServerConfig>>), Error> {
        let names = vec![format!("{service}.{namespace}.svc")];
        let current = Own::make(&names, SystemTime::now())?;
        let (config, receiver) = watch::channel(current.config.clone());
        let serving = Serving {
            injector: Api::all(client.clone()),
            validator: Api::all(client),
            names,
            current,
            next: None,
            config,
        };
        Ok((serving, receiver))
    }

    /// Tells the API server and renews, for as long as it is polled.
    pub async fn keep(mut self, metrics: Arc<Metrics>) {
        let mut told = false;
        loop {
            metrics.webhook_certificate(self.current.until);
            let pause = match self.look(SystemTime::now()).await {
                Ok(()) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!("the API server knows the webhooks' certificate");
                    }
                    LOOK
                }
                Err(error) => {
                    tracing::warn!(%error, "pods in meshed namespaces can't be created until this succeeds; trying again in {LOOK_AGAIN:?}");
                    told = false;
                    LOOK_AGAIN
                }
            };
            sleep(pause).await;
        }
    }

    async fn look(&mut self, now: SystemTime) -> Result<(), Error> {
        // Made and told a while ago.
        if let Some(next) = self.next.take() {
            self.config.send_replace(next.config.clone());
            self.current = next;
        }
        if self.current.until.duration_since(now).unwrap_or_default() < LIFE / 2 {
            let next = Own::make(&self.names, now)?;
            self.tell(&[&next.certificate, &self.current.certificate], now)
                .await?;
            self.next = Some(next);
            return Ok(());
        }
        self.tell(&[&self.current.certificate], now).await
    }

    /// Adds what is missing to each `caBundle`. Replicas that start together change it at once: who came
    /// second reads it again.
    async fn tell(&self, own: &[&CertificateDer<'static>], now: SystemTime) -> Result<(), Error> {
        let mut told = tell(&self.injector, INJECTOR, own, now).await;
        for _ in 0..CONFLICTS {
            if !told.as_ref().is_err_and(Error::is_conflict) {
                break;
            }
            told = tell(&self.injector, INJECTOR, own, now).await;
        }
        told?;
        // Without it nothing is judged before it is stored, and that is all: it must not keep the
        // injector's from being renewed.
        if let Err(error) = tell(&self.validator, VALIDATOR, own, now).await {
            tracing::warn!(%error, "what people write is judged by its status alone until this succeeds");
        }
        Ok(())
    }
}

/// A configuration of webhooks, whichever they are.
trait Configuration {
    /// Of each webhook, its name and how it is reached.
    fn webhooks(&self) -> Vec<(&str, &WebhookClientConfig)>;
}

impl Configuration for MutatingWebhookConfiguration {
    fn webhooks(&self) -> Vec<(&str, &WebhookClientConfig)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks
            .map(|one| (&*one.name, &one.client_config))
            .collect()
    }
}

impl Configuration for ValidatingWebhookConfiguration {
    fn webhooks(&self) -> Vec<(&str, &WebhookClientConfig)> {
        let webhooks = self.webhooks.iter().flatten();
        webhooks
            .map(|one| (&*one.name, &one.client_config))
            .collect()
    }
}

/// Adds what is missing to the `caBundle` of one configuration.
async fn tell<K>(
    api: &Api<K>,
    name: &'static str,
    own: &[&CertificateDer<'static>],
    now: SystemTime,
) -> Result<(), Error>
where
    K: Configuration + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let failed = |error| Error::Tell {
        kind: K::kind(&()),
        name,
        error: Box::new(error),
    };
    let configuration = in_time(ANSWER, api.get(name)).await.map_err(failed)?;
    let mut webhooks = Vec::new();
    for (webhook, reached) in configuration.webhooks() {
        let known = reached.ca_bundle.as_ref();
        let known = known.map_or(&[][..], |bundle| &bundle.0);
        if let Some(bundle) = merged(known, own, now) {
            let config = json!({ "caBundle": STANDARD.encode(bundle) });
            webhooks.push(json!({ "name": webhook, "clientConfig": config }));
        }
    }
    if webhooks.is_empty() {
        return Ok(());
    }
    // With the version it was read at: a change by another replica meanwhile is a conflict, and
    // this is tried again.
    let version = &configuration.meta().resource_version;
    let patch = json!({ "metadata": { "resourceVersion": version }, "webhooks": webhooks });
    let params = PatchParams {
        field_manager: Some("meshwright-operator".into()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(patch);
    let patched = in_time(ANSWER, api.patch(name, &params, &patch));
    patched.await.map_err(failed)?;
    Ok(())
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

// === impl Own ===

impl Own {
    fn make(names: &[String], now: SystemTime) -> Result<Own, Error> {
        let until = now + LIFE;
        let mut params = CertificateParams::new(names)?;
        // Each has a name of its own: a verifier looks for an issuer by its name.
        let tag: u64 = rand::random();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Meshwright webhook {tag:016x}"));
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let seconds = |time: SystemTime| {
            Duration::from_secs(
                time.duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs(),
            )
        };
        params.not_before = epoch + seconds(now - BACKDATED);
        params.not_after = epoch + seconds(until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        let private = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], private.into())?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Own {
            certificate,
            config: Arc::new(config),
            until,
        })
    }
}

/// The `caBundle` (PEM) with our own certificates in it, the newest first; `None` when they are in
/// it already. What has ended, or is no certificate, is left out.
fn merged(known: &[u8], own: &[&CertificateDer<'static>], now: SystemTime) -> Option<Vec<u8>> {
    let known: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(known)
        .filter_map(Result::ok)
        .collect();
    if own.iter().all(|one| known.contains(one)) {
        return None;
    }
    let validity = |der: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        Some((
            parsed.validity().not_before.timestamp(),
            parsed.validity().not_after.timestamp(),
        ))
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut others: Vec<_> = known
        .into_iter()
        .filter(|one| !own.contains(&one))
        .filter_map(|one| validity(&one).map(|(from, until)| (from, until, one)))
        .filter(|(_, until, _)| u64::try_from(*until).is_ok_and(|until| until > now))
        .collect();
    others.sort_by_key(|(from, _, _)| std::cmp::Reverse(*from));
    let others = others.iter().map(|(_, _, one)| one);
    let all = own.iter().copied().chain(others).take(MAX_KNOWN);
    let pem: String = all
        .map(|one| crate::ca::pem_block("CERTIFICATE", one))
        .collect();
    Some(pem.into_bytes())
}

#[cfg(test)]
mod tests;
