//! The certificate that the API server knows the webhook by: made here, told to the API server in
//! the `caBundle` of the webhook's configuration, replaced at half its life.
//!
//! Each replica makes its own and keeps its key in memory alone. The `caBundle` holds those of all:
//! one that starts adds its own to what it finds.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api_server::{ANSWER, in_time};
use crate::ca::BACKDATED;
use crate::telemetry::Metrics;

/// The name of the MutatingWebhookConfiguration, which the chart makes.
pub const NAME: &str = "meshwright-injector";

const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often it is seen to that the API server knows our certificate. It is also how long a new
/// one is known before it is used.
const LOOK: Duration = Duration::from_secs(30);
/// How soon, when that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The most certificates in the `caBundle`: the newest. Replicas that live see to it that theirs is
/// among them.
const MAX_KNOWN: usize = 8;

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
    #[error("can't write the certificate into the MutatingWebhookConfiguration {NAME}: {0}")]
    Tell(Box<kube::Error>),
}

/// Makes certificates for the webhook, and sees to it that the API server knows them.
pub struct Serving {
    api: Api<MutatingWebhookConfiguration>,
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
            api: Api::all(client),
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
                        tracing::info!("the API server knows the injection webhook's certificate");
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

    /// Adds what is missing to the `caBundle`.
    async fn tell(&self, own: &[&CertificateDer<'static>], now: SystemTime) -> Result<(), Error> {
        let tell = |error| Error::Tell(Box::new(error));
        let get = in_time(ANSWER, self.api.get(NAME));
        let configuration = get.await.map_err(tell)?;
        let mut webhooks = Vec::new();
        for webhook in configuration.webhooks.iter().flatten() {
            let known = webhook
                .client_config
                .ca_bundle
                .as_ref()
                .map(|bundle| bundle.0.as_slice());
            if let Some(bundle) = merged(known.unwrap_or_default(), own, now) {
                let config = json!({ "caBundle": STANDARD.encode(bundle) });
                webhooks.push(json!({ "name": webhook.name, "clientConfig": config }));
            }
        }
        if webhooks.is_empty() {
            return Ok(());
        }
        // With the version it was read at: a change by another replica meanwhile is a conflict, and
        // this is tried again.
        let version = configuration.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version }, "webhooks": webhooks });
        let params = PatchParams {
            field_manager: Some("meshwright-operator".into()),
            ..PatchParams::default()
        };
        let patch = Patch::Strategic(patch);
        let patched = in_time(ANSWER, self.api.patch(NAME, &params, &patch));
        patched.await.map_err(tell)?;
        Ok(())
    }
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
mod tests {
    use super::*;
    use crate::api_server::fake;
    use serde_json::Value;
    use std::sync::Mutex;

    const SERVICE: (&str, &str) = ("meshwright-operator", "meshwright-system");

    /// The MutatingWebhookConfiguration of an API server.
    #[derive(Clone)]
    struct ApiServer(Arc<Mutex<Kept>>);

    struct Kept {
        configuration: Value,
        version: u32,
        /// What it does instead of answering.
        fault: Option<Fault>,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Fault {
        Refuses,
        SaysNothing,
    }

    impl ApiServer {
        fn start() -> (ApiServer, Client) {
            let configuration = json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": { "name": NAME, "resourceVersion": "1" },
                "webhooks": [{
                    "name": "inject.meshwright.dev", "sideEffects": "None",
                    "admissionReviewVersions": ["v1"], "clientConfig": {},
                }],
            });
            let server = ApiServer(Arc::new(Mutex::new(Kept {
                configuration,
                version: 1,
                fault: None,
            })));
            let answering = server.clone();
            let client = fake::client(move |request| {
                let fault = answering.0.lock().unwrap().fault;
                let answer = answering.answer(&request);
                async move {
                    match fault {
                        Some(Fault::Refuses) => fake::refusal(500),
                        Some(Fault::SaysNothing) => fake::silence().await,
                        None => answer,
                    }
                }
            });
            (server, client)
        }

        fn answer(&self, request: &http::Request<bytes::Bytes>) -> http::Response<fake::Body> {
            let mut kept = self.0.lock().unwrap();
            if request.method() == http::Method::PATCH && kept.fault.is_none() {
                let patch: Value = serde_json::from_slice(request.body()).unwrap();
                let version = kept.configuration["metadata"]["resourceVersion"].clone();
                if patch["metadata"]["resourceVersion"] != version {
                    return fake::refusal(409);
                }
                let bundle = patch["webhooks"][0]["clientConfig"]["caBundle"].clone();
                kept.version += 1;
                kept.configuration["metadata"]["resourceVersion"] = json!(kept.version.to_string());
                kept.configuration["webhooks"][0]["clientConfig"]["caBundle"] = bundle;
            }
            fake::json(&kept.configuration)
        }

        fn fault(&self, fault: impl Into<Option<Fault>>) {
            self.0.lock().unwrap().fault = fault.into();
        }

        /// What it knows the webhook by, and how often it was told.
        fn knows(&self) -> (Vec<CertificateDer<'static>>, u32) {
            let kept = self.0.lock().unwrap();
            let bundle = &kept.configuration["webhooks"][0]["clientConfig"]["caBundle"];
            let bundle = STANDARD.decode(bundle.as_str().unwrap()).unwrap();
            (read(&bundle), kept.version - 1)
        }
    }

    #[tokio::test]
    async fn at_half_its_life_a_certificate_is_replaced_once_the_api_server_knows_the_next() {
        let (server, client) = ApiServer::start();
        let (mut serving, config) = Serving::new(client, SERVICE.0, SERVICE.1).unwrap();
        let (old, made) = (serving.current.certificate.clone(), SystemTime::now());
        let first = config.borrow().clone();
        serving.look(made).await.unwrap();
        assert_eq!(server.knows(), (vec![old.clone()], 1));
        let early = made + LIFE / 2 - Duration::from_secs(60);
        serving.look(early).await.unwrap();
        assert_eq!(server.knows(), (vec![old.clone()], 1), "nothing to do yet");

        let due = made + LIFE / 2 + Duration::from_secs(60);
        serving.look(due).await.unwrap();
        let (known, told) = server.knows();
        let [next, and] = known.try_into().unwrap();
        assert_eq!((&and, told), (&old, 2));
        assert_ne!(next, old);
        assert!(Arc::ptr_eq(&config.borrow(), &first), "known, not yet used");

        serving.look(due + LOOK).await.unwrap();
        assert!(!Arc::ptr_eq(&config.borrow(), &first));
        assert!(Arc::ptr_eq(&config.borrow(), &serving.current.config));
        assert_eq!(serving.current.certificate, next);
        serving.look(due + LOOK * 2).await.unwrap();
        assert_eq!(server.knows().1, 2, "for half a life");
    }

    #[tokio::test]
    async fn a_certificate_that_the_api_server_was_not_told_of_is_not_used() {
        let (server, client) = ApiServer::start();
        let (mut serving, config) = Serving::new(client, SERVICE.0, SERVICE.1).unwrap();
        let now = SystemTime::now();
        let first = config.borrow().clone();
        serving.look(now).await.unwrap();
        let known = server.knows();

        server.fault(Fault::Refuses);
        let due = now + LIFE * 2 / 3;
        for look in 0..3 {
            let told = serving.look(due + LOOK_AGAIN * look).await;
            assert!(matches!(told, Err(Error::Tell(_))), "{told:?}");
            assert!(Arc::ptr_eq(&config.borrow(), &first));
        }
        assert_eq!(server.knows(), known);

        server.fault(None);
        serving.look(due + LOOK).await.unwrap();
        assert_eq!(server.knows().0.len(), 2);
        assert!(Arc::ptr_eq(&config.borrow(), &first));
        serving.look(due + LOOK * 2).await.unwrap();
        assert_eq!(server.knows().0[0], serving.current.certificate);
        assert!(Arc::ptr_eq(&config.borrow(), &serving.current.config));
        assert!(!Arc::ptr_eq(&config.borrow(), &first));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_says_nothing_is_given_up_and_told_later() {
        let (server, client) = ApiServer::start();
        server.fault(Fault::SaysNothing);
        let (serving, _config) = Serving::new(client, SERVICE.0, SERVICE.1).unwrap();
        let own = serving.current.certificate.clone();
        let keeping = tokio::spawn(serving.keep(Metrics::new()));
        sleep(ANSWER / 2).await;
        server.fault(None);
        sleep(ANSWER + LOOK_AGAIN).await;
        assert_eq!(server.knows(), (vec![own], 1));
        keeping.abort();
    }

    fn own(now: SystemTime) -> Own {
        Own::make(
            &["meshwright-operator.meshwright-system.svc".to_owned()],
            now,
        )
        .unwrap()
    }

    fn read(pem: &[u8]) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(pem)
            .map(Result::unwrap)
            .collect()
    }

    #[test]
    fn a_replica_adds_its_certificate_to_those_of_the_others() {
        let now = SystemTime::now();
        let (first, second) = (own(now), own(now));
        let one = merged(b"", &[&first.certificate], now).unwrap();
        assert_eq!(read(&one), std::slice::from_ref(&first.certificate));
        let both = merged(&one, &[&second.certificate], now).unwrap();
        assert_eq!(
            read(&both),
            [second.certificate.clone(), first.certificate.clone()]
        );
        for own in [&first, &second] {
            assert_eq!(
                merged(&both, &[&own.certificate], now),
                None,
                "nothing to do"
            );
        }
    }

    #[test]
    fn what_has_ended_and_what_is_no_certificate_is_left_out() {
        let now = SystemTime::now();
        let old = own(now - LIFE - Duration::from_secs(1));
        let known = merged(b"", &[&old.certificate], now).unwrap();
        let known = [
            &known[..],
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ]
        .concat();
        let new = own(now);
        let bundle = merged(&known, &[&new.certificate], now).unwrap();
        assert_eq!(read(&bundle), [new.certificate]);
        assert!(merged(b"nonsense", &[&old.certificate], now).is_some());
    }

    #[test]
    fn the_bundle_does_not_grow_without_end() {
        let now = SystemTime::now();
        let mut bundle = Vec::new();
        let mut last = Vec::new();
        for age in (0..20).rev() {
            let one = own(now - Duration::from_secs(age));
            bundle = merged(&bundle, &[&one.certificate], now).unwrap();
            last.push(one.certificate);
        }
        last.reverse();
        assert_eq!(read(&bundle), last[..MAX_KNOWN]);
    }
}
