//! Two pods talk.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::wait_until;
use tokio::io::AsyncReadExt;

use crate::installation::{PODS, installed};
use crate::shop::{Shop, Stranger};

#[tokio::test]
async fn two_pods_talk_and_between_them_is_tls_1_3_only() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    shop.first_answered_by("http://orders/before").await?;
    let orders = shop.pod("orders").await?;

    // On the wire between the pods: everything from or to the application's port.
    let capture = tempfile::NamedTempFile::new()?;
    let mut tcpdump = shop
        .cluster
        .command_in_pod(&shop.namespace, &orders, "orders", "tcpdump")
        .await?;
    let file = capture.path().to_str().unwrap_or_default().to_owned();
    tcpdump.args([
        "-i", "eth0", "-U", "-Z", "root", "-w", &file, "tcp", "port", "8080",
    ]);
    let mut tcpdump = tcpdump
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut listening = tcpdump
        .stderr
        .take()
        .ok_or_else(|| anyhow::anyhow!("no stderr"))?;
    let mut said = String::new();
    while !said.contains("listening on") {
        let mut some = [0; 256];
        let read = tokio::time::timeout(PODS, listening.read(&mut some)).await??;
        ensure!(read > 0, "tcpdump ended: {said}");
        said.push_str(&String::from_utf8_lossy(&some[..read]));
    }

    // A new connection, so that its handshake is in the capture.
    shop.cluster
        .kubectl(&[
            "rollout",
            "restart",
            "deployment/web",
            "-n",
            &shop.namespace,
        ])
        .await?;
    shop.cluster
        .ready(&shop.namespace, "deployment/web", PODS)
        .await?;
    let bytes = wait_until("the exchange is captured", PODS, async || {
        shop.answered_by("http://orders/a-path-that-must-not-be-seen")
            .await?;
        let bytes = std::fs::read(capture.path())?;
        ensure!(
            records(&bytes).iter().any(|record| record.kind == 23),
            "{} bytes",
            bytes.len()
        );
        Ok(bytes)
    })
    .await?;
    tcpdump.kill().await?;

    let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    assert!(
        !contains(b"a-path-that-must-not-be-seen"),
        "the path is readable on the wire"
    );
    assert!(!contains(b"GET /"), "HTTP is readable on the wire");
    let records = records(&bytes);
    let hellos: Vec<_> = records
        .iter()
        .filter(|record| record.is_server_hello())
        .collect();
    assert!(!hellos.is_empty(), "no ServerHello was captured");
    for hello in hellos {
        assert!(
            hello.chooses_tls_1_3(),
            "a ServerHello chose another version than TLS 1.3"
        );
    }
    for record in &records {
        assert!(record.is_tls(), "bytes that are no TLS record: {record:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_pod_without_a_sidecar_cannot_call_one_with() -> Result<()> {
    let shop = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let stranger = Stranger::start(shop.cluster).await?;
    let url = format!("http://orders.{}/", shop.namespace);
    let (status, body) = stranger.get(&url).await?;
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("plaintext_refused"), "{body}");
    Ok(())
}

#[tokio::test]
async fn a_call_crosses_namespaces_by_its_name() -> Result<()> {
    let orders = Shop::open(installed().await?, &[("orders", 1)]).await?;
    let caller = orders.another(&[]).await?;
    let url = format!("http://orders.{}.svc.cluster.local/x", orders.namespace);
    wait_until(
        "the other namespace answers",
        Duration::from_secs(20),
        async || {
            let pod = caller.answered_by(&url).await?;
            ensure!(pod.starts_with("orders-"), "{pod}");
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn an_applications_own_tls_passes_as_it_is() -> Result<()> {
    // The API server's Service: HTTPS, outside the mesh. `web` does not know its authority, and
    // says so only when it has seen the server's own certificate through the sidecar.
    let shop = Shop::open(installed().await?, &[]).await?;
    let url = "https://kubernetes.default.svc/version";
    let args = ["/web", "get", url];
    let refused = shop
        .cluster
        .exec(&shop.namespace, "deployment/web", "web", &args)
        .await
        .expect_err("the certificate is of an unknown authority");
    let said = format!("{refused:#}");
    assert!(
        said.contains("x509: certificate signed by unknown authority"),
        "{said}"
    );
    Ok(())
}

/// A TLS record header and what follows it, as a TCP segment begins with it.
#[derive(Debug)]
struct Record {
    kind: u8,
    version: [u8; 2],
    body: Vec<u8>,
}

impl Record {
    /// change_cipher_spec, alert, handshake, application_data (RFC 8446 section 5.1).
    fn is_tls(&self) -> bool {
        (20..=23).contains(&self.kind) && self.version[0] == 3
    }

    fn is_server_hello(&self) -> bool {
        self.kind == 22 && self.body.first() == Some(&2)
    }

    /// Whether supported_versions (43) says 0x0304 (RFC 8446 section 4.2.1).
    fn chooses_tls_1_3(&self) -> bool {
        self.body
            .windows(6)
            .any(|window| window == [0, 43, 0, 2, 3, 4])
    }
}

/// The first record of every TCP segment of a capture whose segment begins a record; segments that
/// continue one begin with ciphertext and are told apart by the length announced before.
fn records(pcap: &[u8]) -> Vec<Record> {
    let mut open: std::collections::HashMap<[u8; 12], usize> = Default::default();
    let mut records = Vec::new();
    let mut rest = pcap.get(24..).unwrap_or_default();
    while rest.len() >= 16 {
        let length = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let Some(frame) = rest.get(16..16 + length) else {
            break;
        };
        rest = &rest[16 + length..];
        // Ethernet, IPv4 without options, TCP.
        let Some(ip) = frame.get(14..) else { continue };
        if ip.len() < 40 || ip[0] != 0x45 {
            continue;
        }
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let header = 20 + usize::from(ip[32] >> 4) * 4;
        let Some(mut payload) = ip.get(header..total) else {
            continue;
        };
        let mut flow = [0; 12];
        flow.copy_from_slice(&ip[12..24]);
        while !payload.is_empty() {
            let pending = open.entry(flow).or_default();
            if *pending > 0 {
                let skip = (*pending).min(payload.len());
                *pending -= skip;
                payload = &payload[skip..];
                continue;
            }
            if payload.len() < 5 {
                break;
            }
            let length = usize::from(u16::from_be_bytes([payload[3], payload[4]]));
            let body = &payload[5..(5 + length).min(payload.len())];
            records.push(Record {
                kind: payload[0],
                version: [payload[1], payload[2]],
                body: body.to_vec(),
            });
            *pending = length - body.len();
            payload = &payload[5 + body.len()..];
        }
    }
    records
}
