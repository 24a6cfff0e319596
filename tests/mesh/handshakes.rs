//! Handshakes of TLS that begin and do not go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sidecar::identity::store::parse_bundle;
use sidecar::net::tls::{self, HANDSHAKE_TIMEOUT};
use tests::mesh::{APPLICATION_PORT, Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::routing::services;

/// What the clocks of two processes may differ in.
const CLOCKS: Duration = Duration::from_millis(500);

/// The first message of a handshake, as a peer without a certificate begins it.
fn client_hello(roots: &Sidecar) -> Result<Vec<u8>> {
    let roots = std::fs::read(roots.state().join("roots.pem"))?;
    let mut config = tls::anonymous_client(tls::root_store(&parse_bundle(&roots)?)?)?;
    config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
    let name = rustls::pki_types::ServerName::try_from("orders")?;
    let mut begun = rustls::ClientConnection::new(Arc::new(config), name)?;
    let mut hello = Vec::new();
    begun.write_tls(&mut hello)?;
    Ok(hello)
}

/// Somebody at the address of a sidecar that is gone, who accepts one connection, says nothing on
/// it, and listens no more. The connection is given when there is one.
async fn silent(sidecar: &Sidecar) -> Result<oneshot::Receiver<TcpStream>> {
    sidecar.kill().await?;
    let address = SocketAddr::new(sidecar.address().into(), APPLICATION_PORT);
    let listener = TcpListener::bind(address).await?;
    let (accepted, held) = oneshot::channel();
    tokio::spawn(async move {
        if let Ok((stream, _)) = listener.accept().await {
            // The test may be over.
            let _ = accepted.send(stream);
        }
    });
    Ok(held)
}

#[tokio::test]
async fn a_stranger_that_stops_within_a_handshake_is_closed_on_and_others_are_served() -> Result<()>
{
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let address = SocketAddr::new(orders.sidecar.address().into(), APPLICATION_PORT);
    let begun = Instant::now();
    let mut stranger = TcpStream::connect(address).await?;
    stranger.write_all(&client_hello(&orders.sidecar)?).await?;
    // It was understood: this is the other side's part of the handshake.
    let mut answer = vec![0; 5];
    timeout(SOON, stranger.read_exact(&mut answer)).await??;

    assert_eq!(client.get("http://orders/").await?.status, 200);
    assert!(begun.elapsed() < HANDSHAKE_TIMEOUT, "served afterwards");

    let _ = timeout(2 * HANDSHAKE_TIMEOUT, stranger.read_to_end(&mut answer)).await?;
    assert!(begun.elapsed() >= HANDSHAKE_TIMEOUT - CLOCKS);
    let refused =
        r#"meshwright_connections_refused_total{direction="inbound",reason="peer_not_verified"}"#;
    wait_until("it is counted", SOON, async || {
        let counted = orders.sidecar.metric(refused).await?;
        ensure!(counted == Some(1.0), "{counted:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_accepts_and_says_nothing_is_given_up_for_another() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let [orders, stopped] = mesh.workloads("orders").await?;
    let client = mesh.client("web").await?;
    let mut held = silent(&stopped.sidecar).await?;
    wait_until("somebody was sent to the silent one", SOON, async || {
        let begun = Instant::now();
        let asked = || client.get("http://orders/");
        let (one, two, three) = tokio::join!(asked(), asked(), asked());
        for answer in [one?, two?, three?] {
            assert_eq!((answer.status, answer.reason()), (200, ""));
            assert_eq!(answer.body, orders.upstream.address().to_string());
        }
        let _held = held.try_recv()?;
        assert!(begun.elapsed() >= HANDSHAKE_TIMEOUT - CLOCKS);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn where_all_endpoints_say_nothing_the_answer_is_503_in_bounded_time() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let stopped = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut held = silent(&stopped.sidecar).await?;
    let begun = Instant::now();
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
    let _held = held.try_recv()?;
    let took = begun.elapsed();
    assert!(took >= HANDSHAKE_TIMEOUT - CLOCKS && took < 2 * HANDSHAKE_TIMEOUT);
    Ok(())
}
