use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::ca::LEAF_LIFE;
use crate::ca::store::Folder;

const LIVE: &[u8] = b"GET /live HTTP/1.1\r\nhost: operator\r\n\r\n";

async fn ca() -> Arc<Ca> {
    let folder = tempfile::tempdir().unwrap();
    let store = Folder::open(folder.path()).unwrap();
    Ca::open(Box::new(store), "cluster.local", LEAF_LIFE)
        .await
        .unwrap()
}

async fn http() -> Http {
    let streams = Arc::new(Streams::default());
    let replicas = Replicas::new(streams.clone(), None);
    Http {
        verdicts: Arc::new(Verdicts::new(replicas.clone())),
        streams,
        replicas,
        leader: Leader::alone(),
        ca: ca().await,
        metrics: Metrics::new(),
        ready: watch::channel(true).1,
        injection: None,
    }
}

async fn start() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(http().await.serve(listener, CancellationToken::new()));
    address
}

/// A connection from 127.0.0.`host`.
async fn connect(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = SocketAddr::from(([127, 0, 0, host], 0));
    socket.bind(from).unwrap();
    socket.connect(to).await.unwrap()
}

/// All that is answered until the connection ends.
async fn answered(mut stream: impl AsyncRead + Unpin) -> String {
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn connections_that_say_nothing_keep_no_probe_waiting() {
    let address = start().await;
    let mut idle = Vec::new();
    for host in 2..7 {
        for _ in 0..CONNECTIONS.each {
            idle.push(connect(host, address).await);
        }
    }
    assert!(idle.len() > CONNECTIONS.total);
    for _ in 0..3 {
        let mut probe = connect(1, address).await;
        probe.write_all(LIVE).await.unwrap();
        // Sooner than the first of them has to have said something.
        let answer = timeout(HEAD_TIMEOUT / 2, answered(probe)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_is_for_one_request() {
    let address = start().await;
    let mut stream = connect(1, address).await;
    stream.write_all(&LIVE.repeat(2)).await.unwrap();
    let answer = answered(stream).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_the_answer_is_not_waited_for_for_ever() {
    // Smaller than any answer.
    let (mut client, server) = tokio::io::duplex(64);
    let place = Places::new(CONNECTIONS).take([127, 0, 0, 1].into());
    let served = http().await.connection(
        server,
        Kept::default(),
        place.unwrap(),
        CancellationToken::new(),
    );
    client.write_all(LIVE).await.unwrap();
    assert!(timeout(LIFE * 2, served).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_sends_half_a_head_is_closed_on() {
    let (mut client, server) = tokio::io::duplex(1024);
    let place = Places::new(CONNECTIONS).take([127, 0, 0, 1].into());
    let served = http().await.connection(
        server,
        Kept::default(),
        place.unwrap(),
        CancellationToken::new(),
    );
    client.write_all(&LIVE[..20]).await.unwrap();
    assert!(timeout(HEAD_TIMEOUT * 2, served).await.is_ok());
}
