use super::*;
use std::net::{Ipv4Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::api_server::fake;

/// What serves as the operator's webhook, and the bundle by which it is known.
fn certificate() -> (TlsAcceptor, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["op.mesh.svc".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private.into())
        .unwrap();
    (Arc::new(server).into(), certificate.pem())
}

/// Answers each connection with `status` and `body`.
async fn serve(tls: Option<TlsAcceptor>, status: u16, body: String) -> SocketAddr {
    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: String) {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => answer(stream, text.clone()).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, text.clone()).await;
                    }
                }
            }
        }
    });
    address
}

/// What `webhooks` says of a webhook at `address` that the API server knows by `bundle`.
async fn asked(address: SocketAddr, bundle: &str) -> Result<Vec<String>> {
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": INJECTOR },
        "webhooks": [{
            "name": "inject.meshwright.dev", "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {
                "caBundle": STANDARD.encode(bundle),
                "service": { "name": "op", "namespace": "mesh", "port": 15017, "path": "/inject" },
            },
        }],
    });
    let client = fake::client(move |_| {
        let configuration = configuration.clone();
        async move { fake::json(&configuration) }
    });
    let dial = async |host: String, port: u16| {
        assert_eq!((host.as_str(), port), ("op.mesh.svc", 15017));
        TcpStream::connect(address).await
    };
    webhooks(client, dial).await
}

fn answer(response: Value) -> String {
    json!({ "kind": "AdmissionReview", "response": response }).to_string()
}

#[tokio::test]
async fn an_operator_that_is_not_ready_is_told_with_its_own_words() {
    for (status, body, expected) in [
        (200, "ready\n", Ok("http://op.mesh.svc:15014/ready: ready")),
        (503, "not compiled yet\n", Err("not compiled yet")),
    ] {
        let address = serve(None, status, body.to_owned()).await;
        let said = ready("op.mesh.svc", async |_, _| {
            TcpStream::connect(address).await
        })
        .await;
        match expected {
            Ok(expected) => assert_eq!(said.unwrap(), expected),
            Err(expected) => assert!(format!("{:#}", said.unwrap_err()).contains(expected)),
        }
    }
}

#[tokio::test]
async fn a_webhook_must_be_whom_the_api_server_expects_and_give_a_pod_a_sidecar() {
    let (tls, bundle) = certificate();
    let patched = answer(json!({ "allowed": true, "patch": "W10=" }));
    let address = serve(Some(tls.clone()), 200, patched).await;
    assert_eq!(
        asked(address, &bundle).await.unwrap(),
        ["inject.meshwright.dev: a new pod gets a sidecar"]
    );
    let wrong =
        async |address, bundle: &str| format!("{:#}", asked(address, bundle).await.unwrap_err());
    let (_, other) = certificate();
    let said = wrong(address, &other).await;
    assert!(
        said.contains("it is not who the API server expects"),
        "{said}"
    );
    let said = wrong(address, "").await;
    assert!(said.contains("has not written its certificate"), "{said}");

    let plain = serve(Some(tls.clone()), 200, answer(json!({ "allowed": true }))).await;
    let said = wrong(plain, &bundle).await;
    assert!(said.contains("let through without a sidecar"), "{said}");
    let refusing = answer(json!({ "allowed": false, "status": { "message": "no" } }));
    let refusing = serve(Some(tls), 200, refusing).await;
    let said = wrong(refusing, &bundle).await;
    assert!(said.contains("it refuses a new pod: \"no\""), "{said}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for_for_ever() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let said = ready("op.mesh.svc", async |_, _| {
        TcpStream::connect(address).await
    })
    .await;
    let said = format!("{:#}", said.unwrap_err());
    assert!(said.ends_with("no answer within 10s"), "{said}");
}
