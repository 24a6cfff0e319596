//! Connections whose bytes nobody reads, governed by an ApiRoute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tests::mesh::{Mesh, SOON};
use tests::raw::tunnel;
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::routing::service;

/// An ApiRoute for the Service `ledger`.
fn route(protocol: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\n\
         metadata: {{ name: ledger-route, namespace: shop }}\n\
         spec:\n  hosts: [ledger]\n  protocol: {protocol}\n  rules:\n{rules}"
    )
}

/// Answers every connection with a word and closes it.
fn says(listener: TcpListener, word: &'static str) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(word.as_bytes()).await;
        }
    });
}

/// The applications' own TLS, which the mesh has nothing to do with.
fn own_tls() -> Result<(TlsAcceptor, TlsConnector)> {
    let names = ["db.example.com", "a.eu.example.com", "other.org"];
    let made = rcgen::generate_simple_self_signed(names.map(str::to_owned))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    Ok((TlsAcceptor::from(Arc::new(server)), connector))
}

/// Answers every connection of the application's own TLS with a word and closes it.
fn says_encrypted(listener: TcpListener, acceptor: TlsAcceptor, word: &'static str) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(word.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
}

#[tokio::test]
async fn connections_are_shared_by_weight_and_an_edit_moves_the_next_ones() -> Result<()> {
    // Nothing is declared of the ports: the ApiRoute says what they carry, so that nobody waits for
    // a server that speaks first.
    let ports = service("ledger", "") + "---\n" + &service("ledger-next", "tcp");
    let to = |first: u32, next: u32| {
        route(
            "TCP",
            &format!(
                "  - backendRefs:\n    - {{ name: ledger, port: 80, weight: {first} }}\n    \
                 - {{ name: ledger-next, port: 80, weight: {next} }}\n"
            ),
        )
    };
    let mesh = Mesh::start(&(ports.clone() + &to(1, 1))).await?;
    let (first, _first) = mesh.listener("ledger").await?;
    let (next, _next) = mesh.listener("ledger-next").await?;
    says(first, "first");
    says(next, "next");
    let client = mesh.client("web").await?;
    mesh.programmed("ledger-route").await?;
    let said = async || {
        let mut stream = tunnel(&client, "ledger:80").await?;
        let mut said = String::new();
        timeout(SOON, stream.read_to_string(&mut said)).await??;
        anyhow::Ok(said)
    };
    let mut counted = [0; 2];
    for _ in 0..60 {
        match said().await?.as_str() {
            "first" => counted[0] += 1,
            "next" => counted[1] += 1,
            other => bail!("{other:?}"),
        }
    }
    // Six standard deviations of a fair draw are 23.
    assert!(counted.iter().all(|count| *count >= 7), "{counted:?}");
    let stalled = client.sidecar().admin("/stalls", None).await?;
    assert!(!stalled.body.contains("ledger"), "{stalled:?}");

    mesh.write("routes.yaml", &(ports + &to(0, 1)))?;
    wait_until("the next ones go to the other", SOON, async || {
        for _ in 0..10 {
            if said().await? != "next" {
                bail!("one went to the first");
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tls_passes_through_to_whom_its_server_name_means() -> Result<()> {
    let ports = service("ledger", "tls") + "---\n" + &service("ledger-eu", "tls");
    let rules = "  - name: main\n    matches: [{ sni: db.example.com }]\n  \
                 - name: eu\n    matches: [{ sni: \"*.eu.example.com\" }]\n    \
                 backendRefs: [{ name: ledger-eu, port: 80 }]\n";
    let mesh = Mesh::start(&(ports + &route("TLS", rules))).await?;
    let (main, _main) = mesh.listener("ledger").await?;
    let (eu, _eu) = mesh.listener("ledger-eu").await?;
    let (acceptor, connector) = own_tls()?;
    says_encrypted(main, acceptor.clone(), "main");
    says_encrypted(eu, acceptor, "eu");
    let client = mesh.client("web").await?;
    mesh.programmed("ledger-route").await?;
    let said = async |name: &'static str| {
        let stream = tunnel(&client, "ledger:80").await?;
        let connected = connector.connect(ServerName::try_from(name)?, stream);
        let mut stream = timeout(SOON, connected).await??;
        let mut said = String::new();
        timeout(SOON, stream.read_to_string(&mut said)).await??;
        anyhow::Ok(said)
    };
    assert_eq!(said("db.example.com").await?, "main");
    assert_eq!(said("a.eu.example.com").await?, "eu");
    // No rule is for it: the connection is closed, and nobody has heard of it.
    assert!(said("other.org").await.is_err());
    // Nor for what asks for no name, or is no TLS.
    let mut stream = tunnel(&client, "ledger:80").await?;
    stream.write_all(b"\x01no TLS").await?;
    let mut said = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await?;
    assert!(said.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_silent_for_too_long_is_closed() -> Result<()> {
    let rules = "  - timeouts: { idle: 2s }\n";
    let mesh = Mesh::start(&(service("ledger", "tcp") + &route("TCP", rules))).await?;
    let (listener, _sidecar) = mesh.listener("ledger").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("ledger-route").await?;
    let mut stream = tunnel(&client, "ledger:80").await?;
    let (mut application, _) = timeout(SOON, listener.accept()).await??;
    // What talks now and then goes on, for much longer than it may be silent.
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let (mut byte, mut last) = ([0], begun);
    while begun.elapsed() < Duration::from_secs(5) {
        pace.tick().await;
        last = Instant::now();
        stream.write_all(b"x").await?;
        timeout(SOON, application.read_exact(&mut byte)).await??;
    }
    let ended = timeout(SOON, stream.read(&mut byte)).await?;
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert!(last.elapsed() >= Duration::from_secs(2));
    Ok(())
}
