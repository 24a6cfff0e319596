//! Another root takes the place of the one that signs, under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sidecar::net::tls::{KeyAndChain, TlsContext, root_store};
use tests::client::Client;
use tests::mesh::{APPLICATION_PORT, Mesh, SOON, Sidecar};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::routing::services;

/// A step takes a leaf's life, here a minute, and what replicas take to know of it; on a machine that
/// does other things.
const STEP: Duration = Duration::from_secs(150);
/// Between two requests of a caller: enough of them, and a machine that does other things as well.
const PAUSE: Duration = Duration::from_millis(25);

/// Callers that go on and on, and what became of their requests.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn begin(clients: impl IntoIterator<Item = Client>) -> Load {
        let (stop, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let caller = |client: Client| {
            let (stop, asked) = (stop.clone(), asked.clone());
            tokio::spawn(async move {
                let mut failed = Vec::new();
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    match ask(&client, &mut kept).await {
                        Ok(StatusCode::OK) => {}
                        Ok(status) => failed.push(status.to_string()),
                        Err(error) => failed.push(format!("{error:#}")),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                failed
            })
        };
        let callers = clients.into_iter().map(caller).collect();
        Load {
            stop,
            asked,
            callers,
        }
    }

    /// How many were asked, and which failed.
    async fn end(self) -> Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for caller in self.callers {
            failed.extend(caller.await?);
        }
        Ok((self.asked.load(Ordering::Relaxed), failed))
    }
}

/// One request, over a connection to the sidecar that is kept for the next.
async fn ask(client: &Client, kept: &mut Option<SendRequest<Empty<Bytes>>>) -> Result<StatusCode> {
    if kept.as_ref().is_none_or(SendRequest::is_closed) {
        let stream = TcpStream::connect((client.sidecar().address(), 15001)).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        *kept = Some(sender);
    }
    let sender = kept.as_mut().context("a connection")?;
    sender.ready().await?;
    let request = Request::get("http://orders/").header("host", "orders");
    let asked = sender.send_request(request.body(Empty::new())?);
    let answer = timeout(SOON, asked).await??;
    let status = answer.status();
    answer.into_body().collect().await?;
    Ok(status)
}

async fn stage(mesh: &Mesh, wanted: &str) -> Result<()> {
    wait_until(&format!("the stage is {wanted}"), STEP, async || {
        let report = mesh.certificates().await?;
        ensure!(report["stage"] == wanted, "{report}");
        Ok(())
    })
    .await
}

/// A leaf of `web` that whoever has the signing key of now can make at any time.
struct Thief {
    signer: Issuer<'static, KeyPair>,
    intermediate: CertificateDer<'static>,
}

impl Thief {
    fn of(mesh: &Mesh) -> Result<Thief> {
        let kept = mesh.authority()?;
        let line = &kept["lines"][0];
        let text = |field: &str| line[field].as_str().context("a field").map(str::to_owned);
        let intermediate = CertificateDer::from_pem_slice(text("signer")?.as_bytes())?;
        let key = KeyPair::from_pem(&text("signerKey")?)?;
        Ok(Thief {
            signer: Issuer::from_ca_cert_der(&intermediate, key)?,
            intermediate,
        })
    }

    /// Whether a sidecar lets it in: what it says when not.
    async fn enters(&self, orders: &Sidecar) -> Result<(), String> {
        let connect = async {
            let mut stream = self.connected(orders, SystemTime::now() + STEP).await?;
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            anyhow::Ok(())
        };
        connect.await.map_err(|error| format!("{error:#}"))
    }

    /// A connection to a sidecar, with a leaf that ends then.
    async fn connected(&self, orders: &Sidecar, ends: SystemTime) -> Result<TlsStream<TcpStream>> {
        let mut params = CertificateParams::default();
        let uri = "spiffe://cluster.local/ns/shop/sa/web";
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + ends.duration_since(UNIX_EPOCH)?;
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.signer)?;
        let own = KeyAndChain {
            chain: vec![leaf.der().clone(), self.intermediate.clone()],
            key: rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        };
        let roots = std::fs::read(orders.state().join("roots.pem"))?;
        let roots = sidecar::identity::store::parse_bundle(&roots)?;
        let tls = TlsContext::new(&own, root_store(&roots)?)?;
        let address = SocketAddr::new(orders.address().into(), APPLICATION_PORT);
        let tcp = TcpStream::connect(address).await?;
        let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
        let connector = tokio_rustls::TlsConnector::from(tls.client_h1);
        Ok(connector.connect(name, tcp).await?)
    }
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_peer() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let ends = SystemTime::now() + Duration::from_secs(5);
    let thief = Thief::of(&mesh)?;
    let mut stream = thief.connected(&orders.sidecar, ends).await?;
    let mut heard = [0; 4096];
    let mut answered = 0;
    // Whoever has stolen a leaf keeps its connection busy.
    let closed = timeout(SOON, async {
        loop {
            let asked = stream
                .write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
                .await;
            match (asked, stream.read(&mut heard).await) {
                (Ok(()), Ok(1..)) => answered += 1,
                _ => break SystemTime::now(),
            }
        }
    });
    let closed = closed.await.context("it is not closed on")?;
    assert!(answered > 0, "it was never let in");
    let since = closed.duration_since(ends - Duration::from_secs(1));
    assert!(since.is_ok(), "closed on before its end");
    // Within the second of its end it is still good for a handshake.
    wait_until("a leaf that has ended is refused", SOON, async || {
        let mut stream = match thief.connected(&orders.sidecar, ends).await {
            Ok(stream) => stream,
            Err(_) => return Ok(()),
        };
        let asked = stream
            .write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
            .await;
        let refused = asked.is_err() || stream.read(&mut heard).await.is_err();
        ensure!(refused, "it is let in");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_rotated_under_load_and_no_request_fails() -> Result<()> {
    let mesh = Mesh::start_with(&services(&["orders"]), &["--leaf-life=1m"]).await?;
    let mut orders = vec![mesh.workload("orders").await?];
    let before = mesh.certificates().await?;
    assert_eq!(before["stage"], "settled");
    let thief = Thief::of(&mesh)?;
    thief
        .enters(&orders[0].sidecar)
        .await
        .map_err(anyhow::Error::msg)?;
    let mut callers = Vec::new();
    for _ in 0..16 {
        callers.push(mesh.client("web").await?);
    }
    let load = Load::begin(callers);

    mesh.rotate("now")?;
    let mut newcomers = Vec::new();
    for wanted in ["announced", "retiring", "settled"] {
        stage(&mesh, wanted).await?;
        // Whoever comes now knows only what is trusted now, and connects anew to all others; and they
        // to it.
        orders.push(mesh.workload("orders").await?);
        let client = mesh.client("web").await?;
        for _ in 0..10 {
            let answer = client.get("http://orders/").await?;
            assert_eq!(answer.status, 200, "{wanted}: {answer:?}");
        }
        newcomers.push(client);
        // It goes on with what it kept.
        mesh.kill_operator().await?;
        mesh.start_operator().await?;
        let report = mesh.certificates().await?;
        assert_eq!(report["stage"], wanted, "{report}");
    }
    for client in &newcomers {
        assert_eq!(client.get("http://orders/").await?.status, 200);
    }
    let (asked, failed) = load.end().await?;
    eprintln!("{} requests during a rotation", asked);
    assert!(failed.is_empty(), "of {asked}: {failed:?}");
    assert!(asked >= 10_000, "only {asked}");

    let after = mesh.certificates().await?;
    let fingerprint = |report: &serde_json::Value| report["certificates"][0]["fingerprint"].clone();
    assert_ne!(fingerprint(&before), fingerprint(&after));
    // The old root's key is worth nothing now.
    wait_until("the old root is trusted no more", SOON, async || {
        match thief.enters(&orders[0].sidecar).await {
            Ok(()) => anyhow::bail!("it is let in"),
            Err(why) => ensure!(
                why.contains("UnknownCA") || why.contains("UnknownCa"),
                "{why}"
            ),
        }
        Ok(())
    })
    .await?;
    let metrics = mesh.operator_metrics().await?;
    let root = r#"meshwright_operator_certificate_expiry_timestamp_seconds{certificate="root",part="signs"} "#;
    assert!(metrics.contains(root), "{metrics}");
    assert!(!metrics.contains(r#"part="previous""#), "{metrics}");
    Ok(())
}
