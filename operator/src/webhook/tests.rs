use super::*;
use crate::api_server::fake;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use rcgen::KeyPair;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    sidecar: SidecarArgs,
}

fn webhook() -> Webhook {
    let metadata = json!({ "name": "shop", "labels": { "team": "shop" } });
    webhook_of(move |path| {
        if path != "/api/v1/namespaces/shop" {
            return fake::refusal(404);
        }
        fake::json(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
    })
}

/// One whose API server answers so, by path.
fn webhook_of(
    api_server: impl Fn(&str) -> Response<fake::Body> + Clone + Send + 'static,
) -> Webhook {
    Webhook {
        client: fake::client(move |request: Request<Bytes>| {
            let answer = api_server(request.uri().path());
            async move { answer }
        }),
        sidecar: Command::parse_from(["operator"]).sidecar,
        operator: "meshwright-operator.meshwright-system.svc:15012".into(),
        trust_domain: "cluster.local".into(),
        bundle: watch::channel(TrustBundle::default()).1,
        validator: Validator::new(watch::channel(None).1),
    }
}

fn pod() -> Value {
    json!({ "metadata": { "name": "orders" }, "spec": { "containers": [{ "name": "orders" }] } })
}

fn review(pod: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "operation": "CREATE",
            "namespace": "shop",
            "object": pod,
        },
    })
}

fn answer(review: &Value) -> Value {
    answer_of(&webhook(), review)
}

fn answer_of(webhook: &Webhook, review: &Value) -> Value {
    let request = review::read(review.to_string().as_bytes()).unwrap();
    let uid = request.uid.clone();
    let config = webhook.config(BTreeMap::new());
    let response = review::injected(request, &config).unwrap();
    let answer = review::written(&uid, response).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "705ab4f5");
    answer["response"].clone()
}

#[tokio::test]
async fn a_new_pod_is_let_through_with_a_sidecar() {
    let answer = answer(&review(pod()));
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["patchType"], "JSONPatch");
    let patch = STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut pod = pod();
    json_patch::patch(&mut pod, &patch).unwrap();
    assert_eq!(
        pod["spec"]["initContainers"][1]["name"],
        "meshwright-sidecar"
    );
}

#[tokio::test]
async fn a_pod_that_can_not_have_one_is_refused_with_the_reason_and_the_way_out() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    let answer = answer(&review(pod));
    assert_eq!(answer["allowed"], false);
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.contains("hostNetwork: true"), "{message}");
    assert!(
        message.ends_with("label it meshwright.dev/inject: disabled"),
        "{message}"
    );
}

/// A root that ends then.
fn root(end: SystemTime) -> CertificateDer<'static> {
    let mut params = rcgen::CertificateParams::default();
    let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since;
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

/// An operator that is about to leave may not know yet that there is another root.
#[tokio::test]
async fn no_pod_is_given_roots_that_have_all_ended_and_a_pod_without_a_sidecar_needs_none() {
    let with = |roots: Vec<CertificateDer<'static>>| Webhook {
        bundle: watch::channel(TrustBundle { roots, revision: 1 }).1,
        ..webhook()
    };
    let (now, second) = (SystemTime::now(), Duration::from_secs(1));
    let ended = with(vec![root(now - second)]);
    let refused = answer_of(&ended, &review(pod()));
    assert_eq!(refused["allowed"], false);
    assert_eq!(refused["status"]["code"], 503);
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("the mesh's root has ended, at 2"),
        "{message}"
    );

    let mut without = pod();
    without["metadata"]["labels"] = json!({ "meshwright.dev/inject": "disabled" });
    assert_eq!(answer_of(&ended, &review(without))["allowed"], true);
    let one_is_left = with(vec![root(now - second), root(now + 60 * second)]);
    assert_eq!(answer_of(&one_is_left, &review(pod()))["allowed"], true);
}

#[tokio::test]
async fn what_is_no_new_pod_is_let_through_as_it_is() {
    let mut update = review(pod());
    update["request"]["operation"] = json!("UPDATE");
    let mut other = review(json!({}));
    other["request"]["kind"] = json!({ "group": "apps", "version": "v1", "kind": "Deployment" });
    for review in [update, other] {
        let answer = answer(&review);
        assert_eq!(answer["allowed"], true);
        assert!(answer.get("patch").is_none());
    }
}

#[tokio::test]
async fn what_is_no_review_is_said_to_be_none() {
    let bad = |body: &str| {
        let request = review::read(body.as_bytes())?;
        review::injected(request, &webhook().config(BTreeMap::new()))
    };
    let bad = |body: &str| bad(body).unwrap_err();
    assert!(
        bad("hello")
            .to_string()
            .starts_with("not an AdmissionReview in JSON")
    );
    let old = json!({ "apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview" });
    assert!(bad(&old.to_string()).to_string().contains("v1beta1"));
    let empty = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" });
    assert!(bad(&empty.to_string()).to_string().contains("no request"));
    assert!(
        bad(&review(json!({ "spec": { "containers": 7 } })).to_string())
            .to_string()
            .contains("invalid type")
    );
}

/// One request over a connection of its own, without TLS's part in it.
async fn ask(request: Vec<u8>) -> String {
    ask_of(webhook(), request).await
}

async fn ask_of(webhook: Webhook, request: Vec<u8>) -> String {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let webhook = Arc::new(webhook);
    let service = service_fn(move |request| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(webhook.answer(request, Ipv4Addr::LOCALHOST.into()).await) }
    });
    let served =
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    // A server that refuses doesn't read on.
    let _ = client.write_all(&request).await;
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    let _ = served.await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn the_api_server_is_answered_in_json_and_everyone_else_with_a_sentence() {
    let answer = ask(post("/inject", review(pod()).to_string().as_bytes())).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("content-type: application/json"),
        "{answer}"
    );
    let bad = ask(post("/inject", b"{}")).await;
    assert!(
        bad.starts_with("HTTP/1.1 400") && bad.contains("not an AdmissionReview"),
        "{bad}"
    );
    assert!(
        ask(post("/elsewhere", b"{}"))
            .await
            .starts_with("HTTP/1.1 404")
    );
    let validated = ask(post("/validate", review(pod()).to_string().as_bytes())).await;
    assert!(validated.starts_with("HTTP/1.1 200"), "{validated}");
    assert!(validated.contains(r#""allowed":true"#), "{validated}");
    let get = b"GET /inject HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec();
    assert!(ask(get).await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn the_labels_of_the_namespace_decide_who_captures_and_without_them_no_pod_is_answered_for() {
    let review = post("/inject", review(pod()).to_string().as_bytes());
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let restricted = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": labels },
    });
    let webhook = webhook_of(move |_| fake::json(&restricted));
    let answer = ask_of(webhook, review.clone()).await;
    let (_, answer) = answer.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(answer).unwrap();
    let patch = answer["response"]["patch"].as_str().unwrap();
    let patch = String::from_utf8(STANDARD.decode(patch).unwrap()).unwrap();
    assert!(
        patch.contains(wire::capture::REDIRECT.replace('/', "~1").as_str()),
        "{patch}"
    );
    assert!(!patch.contains("NET_ADMIN"), "{patch}");

    let answer = ask_of(webhook_of(|_| fake::refusal(403)), review).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("the labels of the pod's namespace can't be read"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_review_of_any_size_is_not_read() {
    let large = vec![b' '; MAX_BODY_BYTES + 1];
    let answer = ask(post("/inject", &large)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

const NAME: &str = "meshwright-operator.meshwright-system.svc";

/// A certificate to serve with, and the API server's trust in it.
fn tls() -> (Arc<ServerConfig>, TlsConnector) {
    let key = KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], private.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client).into())
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

#[tokio::test]
async fn connections_that_say_nothing_keep_no_api_server_waiting() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, client) = tls();
    tokio::spawn(webhook().serve(listener, watch::channel(server).1));
    let connect = async |host: u8| -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let from = SocketAddr::from(([127, 0, 0, host], 0));
        socket.bind(from).unwrap();
        socket.connect(address).await.unwrap()
    };
    let mut idle = Vec::new();
    for host in 2..5 {
        for _ in 0..CONNECTIONS.each {
            idle.push(connect(host).await);
        }
    }
    assert!(idle.len() > CONNECTIONS.total);

    let reviewed = async {
        let mut stream = client.connect(name(), connect(1).await).await.unwrap();
        let review = post("/inject", review(pod()).to_string().as_bytes());
        stream.write_all(&review).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    // Sooner than the first of them has to have said something.
    let answer = timeout(HEAD_TIMEOUT / 2, reviewed).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

/// What a client has done so far that now does nothing more.
async fn stuck(then: impl AsyncFnOnce(&mut TlsStream<DuplexStream>)) -> Duration {
    // Less than any answer.
    let (client, server) = tokio::io::duplex(512);
    let (config, connector) = tls();
    let place = Places::new(CONNECTIONS).take([127, 0, 0, 1].into());
    let served = Arc::new(webhook()).connection(server, config, place.unwrap());
    let served = tokio::spawn(served);
    let mut stream = connector.connect(name(), client).await.unwrap();
    then(&mut stream).await;
    let start = tokio::time::Instant::now();
    let _ = timeout(LIFE * 2, served).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn no_connection_is_for_ever() {
    let nothing = stuck(async |_| ()).await;
    assert!(nothing <= HEAD_TIMEOUT * 2, "{nothing:?}");
    let half = stuck(async |stream| stream.write_all(&post("/inject", b"")[..20]).await.unwrap());
    let half = half.await;
    assert!(half <= HEAD_TIMEOUT * 2, "{half:?}");
    let body = post("/inject", &[b' '; 1000]);
    let body = stuck(async |stream| stream.write_all(&body[..200]).await.unwrap()).await;
    assert!(body <= BODY_TIMEOUT * 2, "{body:?}");
    let whole = post("/inject", review(pod()).to_string().as_bytes());
    let unread = stuck(async |stream| stream.write_all(&whole).await.unwrap()).await;
    assert!(unread >= BODY_TIMEOUT && unread <= LIFE, "{unread:?}");

    let (_silent, server) = tokio::io::duplex(4096);
    let place = Places::new(CONNECTIONS).take([127, 0, 0, 1].into());
    let served = Arc::new(webhook()).connection(server, tls().0, place.unwrap());
    assert!(timeout(HEAD_TIMEOUT * 2, served).await.is_ok());
}

#[tokio::test]
async fn garbage_is_answered_and_the_next_question_as_ever() {
    let webhook = Arc::new(webhook());
    let ask = async |path: &str, body: &[u8]| {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let webhook = webhook.clone();
        let service = service_fn(move |request| {
            let webhook = webhook.clone();
            async move { Ok::<_, Infallible>(webhook.answer(request, Ipv4Addr::LOCALHOST.into()).await) }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let served = tokio::spawn(serving);
        client.write_all(&post(path, body)).await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let _ = served.await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let good = review(pod()).to_string();
    let deep = "[".repeat(100_000);
    let mut garbage: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0xff; 1000],
        deep.into_bytes(),
        b"null".to_vec(),
        b"{\"apiVersion\": 1}".to_vec(),
        good.replace("\"uid\"", "\"nil\"").into_bytes(),
    ];
    // A good one, broken off anywhere, or with a byte of it spoilt.
    for at in (0..good.len()).step_by(7) {
        garbage.push(good.as_bytes()[..at].to_vec());
        let mut spoilt = good.clone().into_bytes();
        spoilt[at] ^= 0x55;
        garbage.push(spoilt);
    }
    for body in garbage {
        for path in ["/inject", "/validate"] {
            let answer = ask(path, &body).await;
            let status = answer.get(..12).unwrap_or_default();
            // Of a namespace that isn't there nothing can be said.
            assert!(
                ["HTTP/1.1 200", "HTTP/1.1 400", "HTTP/1.1 503"].contains(&status),
                "{}: {answer}",
                String::from_utf8_lossy(&body)
            );
        }
    }
    let answer = ask("/inject", good.as_bytes()).await;
    assert!(answer.contains("JSONPatch"), "{answer}");
}

#[tokio::test]
async fn a_review_does_not_choose_what_the_api_server_is_asked() {
    for namespace in ["../nodes/one", "shop/../../secrets", "shop?watch=1", "Shop"] {
        let mut review = review(pod());
        review["request"]["namespace"] = json!(namespace);
        let webhook = webhook_of(|path| panic!("{path} is asked for"));
        let answered = webhook.injected(review.to_string().as_bytes()).await;
        let why = answered.unwrap_err().to_string();
        assert!(why.contains("is no name of one"), "{why}");
    }
}
