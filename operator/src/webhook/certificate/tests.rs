use super::*;
use crate::api_server::fake;
use serde_json::Value;
use std::sync::Mutex;

const SERVICE: (&str, &str) = ("meshwright-operator", "meshwright-system");

/// The webhooks' configurations, as an API server has them.
#[derive(Clone)]
struct ApiServer(Arc<Mutex<Kept>>);

struct Kept {
    injector: Configuration,
    validator: Configuration,
    /// What it does instead of answering.
    fault: Option<Fault>,
}

struct Configuration {
    object: Value,
    version: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refuses,
    RefusesTheValidator,
    SaysNothing,
}

// === impl Configuration ===

impl Configuration {
    fn new(kind: &str, name: &str) -> Configuration {
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": name, "resourceVersion": "1" },
            "webhooks": [{
                "name": "a.meshwright.dev", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "clientConfig": {},
            }],
        });
        Configuration { object, version: 1 }
    }

    /// Whether it is of the version that is there.
    fn patch(&mut self, patch: &Value) -> bool {
        if patch["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"] {
            return false;
        }
        let bundle = patch["webhooks"][0]["clientConfig"]["caBundle"].clone();
        self.version += 1;
        self.object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.object["webhooks"][0]["clientConfig"]["caBundle"] = bundle;
        true
    }

    /// What it knows the webhook by, and how often it was told.
    fn knows(&self) -> (Vec<CertificateDer<'static>>, u32) {
        let bundle = &self.object["webhooks"][0]["clientConfig"]["caBundle"];
        let bundle = STANDARD.decode(bundle.as_str().unwrap_or_default());
        (read(&bundle.unwrap()), self.version - 1)
    }
}

// === impl ApiServer ===

impl ApiServer {
    fn start() -> (ApiServer, Client) {
        let server = ApiServer(Arc::new(Mutex::new(Kept {
            injector: Configuration::new("MutatingWebhookConfiguration", INJECTOR),
            validator: Configuration::new("ValidatingWebhookConfiguration", VALIDATOR),
            fault: None,
        })));
        let answering = server.clone();
        let client = fake::client(move |request| {
            let fault = answering.0.lock().unwrap().fault;
            let answering = answering.clone();
            async move {
                let of_validator = request.uri().path().ends_with(VALIDATOR);
                match fault {
                    Some(Fault::Refuses) => fake::refusal(500),
                    Some(Fault::RefusesTheValidator) if of_validator => fake::refusal(403),
                    Some(Fault::SaysNothing) => fake::silence().await,
                    _ => answering.answer(&request, of_validator),
                }
            }
        });
        (server, client)
    }

    fn answer(
        &self,
        request: &http::Request<bytes::Bytes>,
        of_validator: bool,
    ) -> http::Response<fake::Body> {
        let mut kept = self.0.lock().unwrap();
        let configuration = match of_validator {
            true => &mut kept.validator,
            false => &mut kept.injector,
        };
        if request.method() == http::Method::PATCH {
            let patch: Value = serde_json::from_slice(request.body()).unwrap();
            if !configuration.patch(&patch) {
                return fake::refusal(409);
            }
        }
        fake::json(&configuration.object)
    }

    fn fault(&self, fault: impl Into<Option<Fault>>) {
        self.0.lock().unwrap().fault = fault.into();
    }

    /// What it knows the injector by, and how often it was told.
    fn knows(&self) -> (Vec<CertificateDer<'static>>, u32) {
        self.0.lock().unwrap().injector.knows()
    }

    /// The same of the validator.
    fn knows_of_the_validator(&self) -> (Vec<CertificateDer<'static>>, u32) {
        self.0.lock().unwrap().validator.knows()
    }
}

#[tokio::test]
async fn both_webhooks_are_known_by_it_and_the_injector_depends_on_nobody() {
    let (server, client) = ApiServer::start();
    let (mut serving, _config) = Serving::new(client, SERVICE.0, SERVICE.1).unwrap();
    let own = vec![serving.current.certificate.clone()];
    let now = SystemTime::now();
    server.fault(Fault::RefusesTheValidator);
    serving.look(now).await.unwrap();
    assert_eq!(server.knows(), (own.clone(), 1));
    assert_eq!(server.knows_of_the_validator(), (vec![], 0));

    server.fault(None);
    serving.look(now).await.unwrap();
    assert_eq!(server.knows_of_the_validator(), (own, 1));
    serving.look(now).await.unwrap();
    assert_eq!(
        (server.knows().1, server.knows_of_the_validator().1),
        (1, 1)
    );
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
        assert!(matches!(told, Err(Error::Tell { .. })), "{told:?}");
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
    for age in (0..MAX_KNOWN as u64 + 4).rev() {
        let one = own(now - Duration::from_secs(age));
        bundle = merged(&bundle, &[&one.certificate], now).unwrap();
        last.push(one.certificate);
    }
    last.reverse();
    assert_eq!(read(&bundle), last[..MAX_KNOWN]);
}
