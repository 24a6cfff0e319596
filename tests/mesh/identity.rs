//! Who may speak to whom.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::client::Client;
use tests::mesh::{APPLICATION_PORT, Mesh, Sidecar};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::routing::services;

#[tokio::test]
async fn plaintext_into_a_meshed_workload_is_refused_with_a_reason() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let url = format!("http://{}:{APPLICATION_PORT}/", orders.sidecar.address());
    let refused = Client::direct().get(&url).await?;
    assert_eq!(
        (refused.status, refused.reason()),
        (403, "plaintext_refused"),
        "{refused:?}"
    );
    assert_eq!(orders.upstream.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_neither_tls_nor_http_are_closed_on() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let address = SocketAddr::new(orders.sidecar.address().into(), APPLICATION_PORT);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[0, 1, 2, 3, 4, 5, 6, 7]).await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => assert!(answer.is_empty(), "{answer:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert_eq!(orders.upstream.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_tls_client_without_a_certificate_of_the_mesh_gets_nowhere() -> Result<()> {
    use std::sync::Arc;
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let roots = std::fs::read(orders.sidecar.state().join("roots.pem"))?;
    let roots = sidecar::identity::store::parse_bundle(&roots)?;
    let roots = sidecar::net::tls::root_store(&roots)?;
    let mut config = sidecar::net::tls::anonymous_client(roots)?;
    config.alpn_protocols = vec![sidecar::net::tls::ALPN_H2.to_vec()];
    let address = SocketAddr::new(orders.sidecar.address().into(), APPLICATION_PORT);
    let tcp = TcpStream::connect(address).await?;
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    // In TLS 1.3 the client learns of the refusal with its first read.
    if let Ok(mut stream) = connected {
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut answer = [0; 1];
        let refused = stream.read(&mut answer).await.expect_err("an alert");
        assert!(
            refused.to_string().contains("CertificateRequired"),
            "{refused}"
        );
    }
    assert_eq!(orders.upstream.requests(), 0);
    Ok(())
}

#[tokio::test]
async fn a_peer_that_does_not_accept_our_certificate_is_an_endpoint_that_is_not_verified()
-> Result<()> {
    use std::sync::Arc;
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);

    // In its place: one with the same key and leaf, that trusts another authority.
    orders.sidecar.kill().await?;
    let store = sidecar::identity::store::Store::open(&orders.sidecar.state())?;
    let own = store.key_and_chain().context("a key and a chain")?;
    let other = rcgen::generate_simple_self_signed(["other".to_owned()])?;
    let trusted = sidecar::net::tls::root_store(&[other.cert.der().to_vec()])?;
    let tls = sidecar::net::tls::TlsContext::new(&own, trusted)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.server));
    let address = SocketAddr::new(orders.sidecar.address().into(), APPLICATION_PORT);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let refusing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let refused = acceptor.accept(stream).await;
            assert!(refused.is_err());
        }
    });

    let answer = client.get("http://orders/").await?;
    refusing.abort();
    assert_eq!((answer.status, answer.reason()), (503, "peer_not_verified"));
    Ok(())
}

#[tokio::test]
async fn the_destination_knows_the_caller_by_its_certificate() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    assert_eq!(client.get("http://orders/").await?.status, 200);
    let log = tests::wait_until(
        "the access log has the call",
        tests::mesh::SOON,
        async || {
            let log = orders.sidecar.log()?;
            anyhow::ensure!(log.contains(r#""direction":"inbound""#), "{log}");
            Ok(log)
        },
    )
    .await?;
    assert!(
        log.contains(r#""source":"spiffe://cluster.local/ns/shop/sa/web""#),
        "{log}"
    );
    Ok(())
}

#[tokio::test]
async fn a_peer_that_is_not_who_the_endpoint_should_be_is_not_sent_anything() -> Result<()> {
    // The pod of `orders` claims to run as another service account than its certificate proves.
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    mesh.claim(orders.sidecar.pod(), "somebody-else")?;
    let client = mesh.client("web").await?;
    tests::wait_until("the claim has arrived", tests::mesh::SOON, async || {
        let answer = client.get("http://orders/").await?;
        anyhow::ensure!(answer.reason() == "peer_not_verified", "{answer:?}");
        assert_eq!(answer.status, 503);
        Ok(())
    })
    .await?;
    let before = orders.upstream.requests();
    client.get("http://orders/").await?;
    assert_eq!(orders.upstream.requests(), before);
    Ok(())
}

#[tokio::test]
async fn key_certificate_and_configuration_are_for_their_owner_alone() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let folder = orders.sidecar.state();
    assert_eq!(
        std::fs::metadata(&folder)?.permissions().mode() & 0o777,
        0o700
    );
    let mut names = Vec::new();
    for file in std::fs::read_dir(&folder)? {
        let file = file?;
        assert_eq!(
            file.metadata()?.permissions().mode() & 0o777,
            0o600,
            "{:?}",
            file.path()
        );
        names.push(file.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["chain.pem", "config.bin", "key.pem", "roots.pem"]);
    Ok(())
}

#[tokio::test]
async fn an_unknown_token_gets_no_certificate_and_the_log_does_not_repeat_it() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let stranger = mesh
        .with_token("web", "0123456789abcdef-not-issued")
        .await?;
    let log = tests::wait_until("the refusal is logged", tests::mesh::SOON, async || {
        let log = stranger.log()?;
        anyhow::ensure!(log.contains("no certificate"), "{log}");
        Ok(log)
    })
    .await?;
    assert!(!log.contains("0123456789abcdef-not-issued"), "{log}");
    assert!(stranger.config().await?["certificate"].is_null());
    Ok(())
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_its_life_and_no_call_fails() -> Result<()> {
    let mesh = Mesh::start_with(&services(&["orders"]), &["--leaf-life=1m"]).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let expires = async |sidecar: &Sidecar| -> Result<String> {
        let config = sidecar.config().await?;
        let expires = config["certificate"]["expires"].as_str();
        expires
            .map(str::to_owned)
            .with_context(|| format!("no certificate: {config}"))
    };
    let sidecars = [&orders.sidecar, client.sidecar()];
    let first = [expires(sidecars[0]).await?, expires(sidecars[1]).await?];

    let (mut calls, mut failures) = (0, Vec::new());
    // Well before the first ones end.
    let limit = Duration::from_secs(50);
    wait_until("both certificates are others", limit, async || {
        let answer = client.get("http://orders/").await;
        calls += 1;
        if !answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            failures.push(answer);
        }
        for (sidecar, first) in sidecars.iter().zip(&first) {
            let now = expires(sidecar).await?;
            // RFC 3339 sorts as time does.
            ensure!(now > *first, "{} has it until {now}", sidecar.pod());
        }
        Ok(())
    })
    .await?;
    assert!(failures.is_empty(), "of {calls} calls: {failures:?}");

    let log = mesh.operator_log()?;
    for sidecar in sidecars {
        let issued = log
            .lines()
            .filter(|line| line.contains("certificate issued") && line.contains(sidecar.pod()));
        let proven_by: Vec<_> = issued
            .filter_map(|line| line.split_once("proven_by="))
            .map(|(_, by)| by)
            .collect();
        assert_eq!(proven_by, [r#""token""#, r#""certificate""#], "{log}");
    }
    Ok(())
}
