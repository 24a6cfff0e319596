//! Callers that aren't in the mesh yet.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::client::{Answer, Client};
use tests::mesh::{APPLICATION_PORT, Mesh, SOON, Sidecar};
use tests::raw::head;
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::routing::{service, services};

const MODE: &str = "meshwright.dev/mode";

/// The namespace of the tests, with this mode.
fn namespace(mode: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, labels: {{ {MODE}: {mode} }} }}\n"
    )
}

fn address(sidecar: &Sidecar) -> SocketAddr {
    SocketAddr::new(sidecar.address().into(), APPLICATION_PORT)
}

async fn call(sidecar: &Sidecar) -> Result<Answer> {
    Client::direct()
        .get(&format!("http://{}/", address(sidecar)))
        .await
}

/// Waits until a plaintext call has this status.
async fn answers(sidecar: &Sidecar, status: u16, reason: &str) -> Result<()> {
    wait_until(
        &format!("plaintext is answered {status}"),
        SOON,
        async || {
            let answer = call(sidecar).await?;
            ensure!(
                (answer.status, answer.reason()) == (status, reason),
                "{answer:?}"
            );
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn where_it_is_permissive_plaintext_is_taken_beside_mutual_tls_and_nobody_is_behind_it()
-> Result<()> {
    let mesh = Mesh::start(&(services(&["orders"]) + &namespace("permissive"))).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let answer = call(&orders.sidecar).await?;
    assert_eq!((answer.status, answer.reason()), (200, ""), "{answer:?}");
    assert_eq!(client.get("http://orders/").await?.status, 200);
    let log = wait_until("the access log has both calls", SOON, async || {
        let log = orders.sidecar.log()?;
        let calls = log.matches(r#""direction":"inbound""#).count();
        ensure!(calls == 2, "{log}");
        Ok(log)
    })
    .await?;
    assert_eq!(log.matches(r#""source":"#).count(), 1, "{log}");
    let peer = r#""source":"spiffe://cluster.local/ns/shop/sa/web""#;
    assert!(log.contains(peer), "{log}");
    Ok(())
}

#[tokio::test]
async fn who_calls_in_plaintext_can_be_found() -> Result<()> {
    let mesh = Mesh::start(&(services(&["orders"]) + &namespace("permissive"))).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    for _ in 0..3 {
        assert_eq!(call(&orders.sidecar).await?.status, 200);
    }
    assert_eq!(client.get("http://orders/").await?.status, 200);
    let count = orders
        .sidecar
        .metric(r#"meshwright_plaintext_requests_total{service="shop/orders",port="8080"}"#)
        .await?;
    assert_eq!(count, Some(3.0), "and not the peer's");
    let found = orders.sidecar.plaintext().await?;
    let callers = found["callers"].as_array().cloned().unwrap_or_default();
    let [caller] = callers.as_slice() else {
        panic!("{found}");
    };
    assert_eq!(caller["address"], "127.0.0.1");
    assert_eq!(caller["service"], "shop/orders");
    assert_eq!(caller["requests"], 3);
    assert!(caller["last"].is_string(), "{caller}");
    Ok(())
}

#[tokio::test]
async fn a_plaintext_caller_can_claim_nothing() -> Result<()> {
    let mesh = Mesh::start(&(services(&["orders"]) + &namespace("permissive"))).await?;
    let orders = mesh.workload("orders").await?;
    let url = format!("http://{}/", address(&orders.sidecar));
    let claims = [
        ("meshwright-source", "spiffe://cluster.local/ns/shop/sa/web"),
        // Between sidecars: that the application is to be spoken to in HTTP/2.
        ("meshwright-http2", "1"),
    ];
    let answer = Client::direct()
        .send(Method::GET, &url, &claims, Bytes::new())
        .await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = &orders.upstream.seen()[0];
    assert_eq!(seen.version, Version::HTTP_11);
    let names = seen.headers.keys().map(|name| name.as_str());
    let claimed: Vec<_> = names
        .filter(|name| name.starts_with("meshwright-"))
        .collect();
    assert!(claimed.is_empty(), "{claimed:?}");
    Ok(())
}

#[tokio::test]
async fn http2_is_taken_in_plaintext_too() -> Result<()> {
    for declared in ["http", ""] {
        let yaml = service("orders", declared) + &namespace("permissive");
        let mesh = Mesh::start(&yaml).await?;
        let orders = mesh.workload("orders").await?;
        let stream = TcpStream::connect(address(&orders.sidecar)).await?;
        let io = TokioIo::new(stream);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request = Request::get("http://orders/").body(Empty::<Bytes>::new())?;
        let answer = timeout(SOON, sender.send_request(request)).await??;
        assert_eq!(answer.status(), 200);
        assert_eq!(orders.upstream.seen()[0].version, Version::HTTP_2);
    }
    Ok(())
}

#[tokio::test]
async fn a_pods_own_label_outweighs_its_namespaces() -> Result<()> {
    let mesh = Mesh::start(&(services(&["orders"]) + &namespace("permissive"))).await?;
    let orders = mesh.workload("orders").await?;
    answers(&orders.sidecar, 200, "").await?;
    mesh.mark(orders.sidecar.pod(), "labels", MODE, "strict")?;
    answers(&orders.sidecar, 403, "plaintext_refused").await?;
    mesh.mark(orders.sidecar.pod(), "labels", MODE, "permissive")?;
    answers(&orders.sidecar, 200, "").await
}

#[tokio::test]
async fn one_port_alone_can_take_plaintext() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let ports = |ports: &str| {
        let key = "meshwright.dev/permissive-ports";
        mesh.mark(orders.sidecar.pod(), "annotations", key, ports)
    };
    ports("9090, 8080")?;
    answers(&orders.sidecar, 200, "").await?;
    ports("9090")?;
    answers(&orders.sidecar, 403, "plaintext_refused").await
}

#[tokio::test]
async fn back_in_strict_the_next_request_of_an_open_connection_is_refused() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    mesh.write("namespace.yaml", &namespace("permissive"))?;
    let orders = mesh.workload("orders").await?;
    answers(&orders.sidecar, 200, "").await?;
    let mut stream = TcpStream::connect(address(&orders.sidecar)).await?;
    let ask = b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n";
    stream.write_all(ask).await?;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");

    mesh.write("namespace.yaml", &namespace("strict"))?;
    answers(&orders.sidecar, 403, "plaintext_refused").await?;
    let before = orders.upstream.requests();
    stream.write_all(ask).await?;
    let mut answer = String::new();
    while !answer.contains("403 forbidden") || !answer.contains("\r\n\r\n") {
        let mut bytes = [0; 4096];
        let read = timeout(SOON, stream.read(&mut bytes)).await??;
        ensure!(read > 0, "closed after {answer}");
        answer += &String::from_utf8_lossy(&bytes[..read]).to_lowercase();
    }
    assert!(answer.contains("plaintext_refused"), "{answer}");
    assert_eq!(orders.upstream.requests(), before);
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_in_plaintext_enter_where_the_port_carries_such() -> Result<()> {
    // The second begins like an application's own TLS, of which no protocol of the mesh is asked.
    let tls = client_hello();
    for (declared, sent) in [
        ("tcp", &b"\0question"[..]),
        ("tcp", &tls),
        ("", b"\0question"),
        ("", &tls),
        ("tcp", b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let yaml = service("ledger", declared) + &namespace("permissive");
        let mesh = Mesh::start(&yaml).await?;
        let (listener, sidecar) = mesh.listener("ledger").await?;
        let length = sent.len();
        let application = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut asked = vec![0; length];
            stream.read_exact(&mut asked).await?;
            stream.write_all(b"answer").await?;
            anyhow::Ok(asked)
        });
        let mut stream = TcpStream::connect(address(&sidecar)).await?;
        stream.write_all(sent).await?;
        let mut answer = [0; 6];
        timeout(SOON, stream.read_exact(&mut answer)).await??;
        assert_eq!(&answer, b"answer", "{declared:?}");
        assert_eq!(timeout(SOON, application).await???, sent);
        assert_eq!(sidecar.plaintext().await?["callers"][0]["requests"], 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_in_plaintext() -> Result<()> {
    for declared in ["smtp", ""] {
        let yaml = service("mail", declared) + &namespace("permissive");
        let mesh = Mesh::start(&yaml).await?;
        let (listener, sidecar) = mesh.listener("mail").await?;
        let application = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"220 ready\r\n").await?;
            let mut said = [0; 6];
            stream.read_exact(&mut said).await?;
            anyhow::Ok(said)
        });
        let mut stream = TcpStream::connect(address(&sidecar)).await?;
        let mut greeting = [0; 11];
        timeout(SOON, stream.read_exact(&mut greeting)).await??;
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"HELO x").await?;
        assert_eq!(&timeout(SOON, application).await???, b"HELO x");
    }
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_in_plaintext_do_not_enter_a_port_that_is_declared_http() -> Result<()> {
    let mesh = Mesh::start(&(services(&["orders"]) + &namespace("permissive"))).await?;
    let orders = mesh.workload("orders").await?;
    for sent in [
        &b"get / HTTP/1.1\r\nhost: orders\r\n\r\n"[..],
        &client_hello(),
    ] {
        let mut stream = TcpStream::connect(address(&orders.sidecar)).await?;
        stream.write_all(sent).await?;
        let mut answer = Vec::new();
        // Closed or reset, or taken for a peer that has no certificate, but not answered.
        stream.shutdown().await?;
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await?;
        assert!(
            !answer.starts_with(b"HTTP"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(orders.upstream.requests(), 0);
    Ok(())
}

/// What a client of an application's own TLS begins with.
fn client_hello() -> Vec<u8> {
    let config = sidecar::net::tls::anonymous_client(rustls::RootCertStore::empty().into());
    let mut config = config.expect("a configuration");
    config.alpn_protocols.clear();
    let name = "ledger".try_into().expect("a name");
    let mut client =
        rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client
            .write_tls(&mut bytes)
            .expect("a vector is written to");
    }
    bytes
}
