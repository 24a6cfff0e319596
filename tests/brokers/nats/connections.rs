//! Connections to a NATS: kept, refused, broken, over TLS.

use tests::brokers::older;

use super::*;

#[tokio::test]
async fn a_broker_that_is_away_is_reconnected_to() {
    let mut server = Server::start("");
    server.kill();
    let nats = Nats::open(server.address(Credentials::None)).await.unwrap();
    assert!(!nats.is_connected());
    let billing = group("billing", "orders");
    let joined = nats.join(&billing).await.map(drop);
    assert!(matches!(joined, Err(Unsubscribed::Away(_))), "{joined:?}");
    server.start_again();
    until(|| nats.is_connected()).await;
    let mut queue = nats.join(&billing).await.unwrap();
    publish(&nats, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    // Who waits when it goes is told, and joins again when it is back.
    let (_, lost) = tokio::join!(async { server.kill() }, async {
        let since = Instant::now();
        loop {
            if let Err(lost) = queue.pull(1).await {
                return (lost, since.elapsed());
            }
        }
    });
    assert!(lost.1 < Duration::from_secs(4), "{lost:?}");
    server.start_again();
    until(|| nats.is_connected()).await;
    publish(&nats, "orders", "b").await;
    let mut queue = nats.join(&billing).await.unwrap();
    // A position is not as durable as what is held: one that was killed may deliver "a" again.
    let mut found = texts(&pull(&mut *queue, 1).await);
    if found == ["a"] {
        found = texts(&pull(&mut *queue, 1).await);
    }
    assert_eq!(found, ["b"]);
}

#[tokio::test]
async fn publishing_while_it_is_away_answers_at_once() {
    let mut server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    server.kill();
    until(|| !nats.is_connected()).await;
    let since = Instant::now();
    let published = nats.publish("orders", None, message("a"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::Away));
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
    server.start_again();
    until(|| nats.is_connected()).await;
    // Nor is it said later.
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    assert_eq!(queue.lag().await.unwrap().waiting, 0);
}

#[tokio::test]
async fn what_is_under_way_when_the_connection_breaks_is_unconfirmed() {
    // It says that it is a NATS, and confirms nothing.
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = Address {
        dial: listener.local_addr().unwrap(),
        name: "nats.test".to_owned(),
        credentials: Credentials::None,
    };
    let nats = Nats::open(address).await.unwrap();
    let serve = async {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
        let (io, _) = listener.accept().await.unwrap();
        let mut io = BufReader::new(io);
        let info = br#"INFO {"version":"2.10.0","max_payload":1000,"headers":true}"#;
        io.write_all(&[info, b"\r\n".as_slice()].concat())
            .await
            .unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            io.read_line(&mut line).await.unwrap();
            match line.split(' ').next().unwrap().trim() {
                "PING" => io.write_all(b"PONG\r\n").await.unwrap(),
                "HPUB" => return,
                _ => {}
            }
        }
    };
    let publish = async {
        until(|| nats.is_connected()).await;
        let since = Instant::now();
        let published = nats.publish("orders", None, message("a"), SOON).await;
        (published, since.elapsed())
    };
    let ((), (published, took)) = tokio::join!(serve, publish);
    assert!(
        matches!(published, Err(Unpublished::Unconfirmed(_))),
        "{published:?}"
    );
    assert!(took < PATIENCE, "{took:?}");
}

/// What is logged, kept.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn wrong_credentials_are_told_without_a_word_of_them() {
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start(r#"authorization { user: "mesh", password: "right-one" }"#);
    let wrong =
        |password: &str| server.address(Credentials::UserPassword("mesh".into(), password.into()));
    let nats = Nats::open(wrong("wrong-one")).await.unwrap();
    let logged = || String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let mut tries = 0;
    until(|| {
        tries = logged().matches("authorization violation").count();
        tries > 6
    })
    .await;
    let joined = nats.join(&group("billing", "orders")).await.map(drop);
    let told = joined.unwrap_err();
    assert_eq!(
        told,
        Unsubscribed::Away(
            "it refuses what its Secret has as username and password, or token: authorization violation".to_owned()
        )
    );
    // Once, however often it is tried.
    assert_eq!(logged().matches("the broker is away").count(), 1);
    let right = Nats::open(wrong("right-one")).await.unwrap();
    until(|| right.is_connected()).await;
    right.create_topic("orders").await.unwrap();
    for secret in ["wrong-one", "right-one"] {
        assert!(!logged().contains(secret), "{}", logged());
    }
}

#[tokio::test]
async fn what_may_not_be_published_is_refused_and_not_waited_for() {
    let server = Server::start(PERMISSIONS);
    let address = server.address(Credentials::UserPassword("mesh".into(), "p".into()));
    let nats = Nats::open(address).await.unwrap();
    until(|| nats.is_connected()).await;
    let since = Instant::now();
    let published = nats.publish("secret", None, message("a"), SOON).await;
    assert!(
        matches!(published, Err(Unpublished::Refused(_))),
        "{published:?}"
    );
    assert!(since.elapsed() < PATIENCE);
}

const PERMISSIONS: &str = r#"
authorization { users = [
  { user: "mesh", password: "p", permissions: { publish: { deny: "secret" } } }
] }"#;

#[tokio::test]
async fn a_deleted_stream_is_lost_and_joined_again() {
    let server = Server::start("");
    let nats = server.open().await;
    let billing = group("billing", "orders");
    let mut queue = nats.join(&billing).await.unwrap();
    publish(&nats, "orders", "a").await;
    let held = pull(&mut *queue, 1).await;
    let stream = server.stream("orders").await;
    // One is waiting when it goes, and one asks afterwards.
    let mut other = nats.join(&billing).await.unwrap();
    let what = format!("STREAM.DELETE.{stream}");
    let (deleted, waiting) = tokio::join!(server.ask(&what, json!({})), async {
        let since = Instant::now();
        let pulled = other.pull(1).await.map(|found| found.len());
        (pulled, since.elapsed())
    });
    assert_eq!(deleted["success"], true);
    assert!(waiting.0.is_err(), "{waiting:?}");
    assert!(waiting.1 < Duration::from_secs(4), "{waiting:?}");
    assert!(queue.pull(1).await.is_err());
    assert!(held[0].acknowledge().await.is_err());
    let published = nats.publish("orders", None, message("b"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::UnknownTopic));
    let mut queue = nats.join(&billing).await.unwrap();
    publish(&nats, "orders", "c").await;
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["c"]);
}

#[tokio::test]
async fn what_differs_is_told_or_set_and_the_rest_is_kept() {
    let server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let stream = server.stream("orders").await;
    let create = async |name: &str, changed: Value| {
        let mut config = json!({
            "durable_name": name, "name": name, "filter_subject": "orders", "ack_policy": "explicit",
            "ack_wait": 30_000_000_000_u64, "max_deliver": -1, "max_ack_pending": 10_000,
            "replay_policy": "instant", "deliver_policy": "new", "metadata": { "of": "others" },
        });
        for (field, value) in changed.as_object().unwrap() {
            config[field] = value.clone();
        }
        let body = json!({ "stream_name": stream, "config": config });
        let created = server
            .ask(&format!("CONSUMER.CREATE.{stream}.{name}"), body)
            .await;
        assert!(created["error"].is_null(), "{created}");
    };
    for (field, value) in [
        ("ack_wait", json!(60_000_000_000_u64)),
        ("max_deliver", json!(3)),
        ("ack_policy", json!("all")),
        ("filter_subject", json!("")),
        ("headers_only", json!(true)),
    ] {
        create(field, json!({ field: value })).await;
        let joined = nats.join(&group(field, "orders")).await.map(drop);
        assert_eq!(joined, Err(Unsubscribed::Differs(field.to_owned())));
    }
    create(
        "g",
        json!({ "max_ack_pending": 5, "inactive_threshold": 3_600_000_000_000_u64 }),
    )
    .await;
    let kept = Group {
        create: false,
        ..group("g", "orders")
    };
    let joined = nats.join(&kept).await.map(drop);
    let differs = Unsubscribed::Differs("max_ack_pending".to_owned());
    assert_eq!(joined, Err(differs));
    nats.join(&group("g", "orders")).await.unwrap();
    let config = &server
        .ask(&format!("CONSUMER.INFO.{stream}.g"), json!({}))
        .await["config"];
    assert_eq!(config["max_ack_pending"], 10_000);
    assert_eq!(config["inactive_threshold"], Value::Null);
    assert_eq!(config["deliver_policy"], "new");
    assert_eq!(config["metadata"]["of"], "others");
    nats.join(&kept).await.unwrap();
}

#[tokio::test]
async fn nobody_dials_for_one_that_was_dropped() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = Address {
        dial: listener.local_addr().unwrap(),
        name: "nats.test".to_owned(),
        credentials: Credentials::Token("secret".to_owned()),
    };
    let nats = Nats::open(address).await.unwrap();
    // It is dialled, and hangs up; so it is dialled again.
    for _ in 0..2 {
        let dialled = tokio::time::timeout(SOON, listener.accept()).await;
        drop(dialled.unwrap().unwrap());
    }
    drop(nats);
    // One try may be under way.
    let mut dialled = 0;
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await {
        dialled += 1;
    }
    assert!(dialled <= 1, "{dialled}");
}

/// Leads to a broker, and lets what comes from there pass a guard.
async fn bridge(to: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
            let mut near = Guarded::new(near, b"").unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    address
}

#[tokio::test]
async fn headers_that_nobody_can_read_end_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::start("");
    let direct = server.open().await;
    direct.create_topic("orders").await.unwrap();
    let address = Address {
        dial: bridge(server.address).await,
        ..server.address(Credentials::None)
    };
    let nats = Nats::open(address).await.unwrap();
    until(|| nats.is_connected()).await;
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    let mut anybody = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let mut said = "CONNECT {\"headers\":true,\"verbose\":false}\r\n".to_owned();
    let bad = ["a: b\rc\r\n", "a b: c\r\n", "no name\r\n"];
    for header in bad {
        let block = format!("NATS/1.0\r\n{header}\r\n");
        let (headers, whole) = (block.len(), block.len() + 3);
        said += &format!("HPUB orders {headers} {whole}\r\n{block}bad\r\n");
    }
    said += "PING\r\n";
    anybody.write_all(said.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"PONG\r\n") {
        assert!(anybody.read_buf(&mut answer).await.unwrap() > 0);
    }
    publish(&nats, "orders", "good").await;
    let found = pull(&mut *queue, 4).await;
    assert_eq!(texts(&found), ["bad", "bad", "bad", "good"]);
    assert!(
        found[..3]
            .iter()
            .all(|one| one.message().headers.is_empty())
    );
    assert_eq!(found[3].message(), &message("good"));
    acknowledge(&found).await;
}

#[tokio::test]
async fn a_broker_that_wants_tls_is_shown_the_name_that_was_given() {
    let folder = TempDir::new().unwrap();
    let key = rcgen::generate_simple_self_signed(["nats.test".to_owned()]).unwrap();
    let (cert, private) = (folder.path().join("cert"), folder.path().join("key"));
    std::fs::write(&cert, key.cert.pem()).unwrap();
    std::fs::write(&private, key.signing_key.serialize_pem()).unwrap();
    let files = format!(
        "cert_file: {:?}, key_file: {:?}",
        cert.display().to_string(),
        private.display().to_string()
    );
    let server = Server::start(&format!("tls {{ {files} }}"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let dial = async |name: &str| {
        let mut io = tokio::net::TcpStream::connect(server.address).await;
        let since = Instant::now();
        while io.is_err() && since.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(5)).await;
            io = tokio::net::TcpStream::connect(server.address).await;
        }
        let name = name.to_owned().try_into().unwrap();
        upgrade(io.unwrap(), &tls, name).await
    };
    assert!(dial("other.test").await.is_err());
    let (far, said) = dial("nats.test").await.unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    let address = Address {
        dial: listener.local_addr().unwrap(),
        ..server.address(Credentials::None)
    };
    let nats = Nats::open(address).await.unwrap();
    let (mut near, _) = listener.accept().await.unwrap();
    tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut near, &said).await?;
        let mut far = far;
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    until(|| nats.is_connected()).await;
    nats.create_topic("orders").await.unwrap();
    publish(&nats, "orders", "a").await;
}

#[tokio::test]
async fn nothing_that_is_said_before_tls_is_taken_for_what_is_said_over_it() {
    use tokio::io::AsyncWriteExt as _;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    for said in [
        "INFO {}\r\nMSG a 1 0\r\n",
        "INFO x\r\n",
        "PING\r\n",
        "INFO {}",
    ] {
        let (near, mut far) = tokio::io::duplex(1_000);
        far.write_all(said.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let name = "nats.test".try_into().unwrap();
        let failed = upgrade(near, &tls, name).await.map(drop).unwrap_err();
        let kind = failed.kind();
        let wanted = [
            std::io::ErrorKind::InvalidData,
            std::io::ErrorKind::UnexpectedEof,
        ];
        assert!(wanted.contains(&kind), "{said:?}: {failed}");
        // A hello would have been sent.
        let mut sent = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut sent)
            .await
            .unwrap();
        assert!(sent.is_empty(), "{said:?}");
    }
}

/// A NATS that says that it is of another version.
async fn of_version(server: &Server, version: &'static str) -> Nats {
    let dial = older::that_says(server.address, move |said| older::nats(said, Some(version)));
    let address = Address {
        dial: dial.await,
        ..server.address(Credentials::None)
    };
    let nats = Nats::open(address).await.unwrap();
    until(|| nats.is_connected()).await;
    nats
}

#[tokio::test]
async fn a_version_that_can_not_do_what_is_needed_is_told_and_more_is_needed_for_order() {
    let server = Server::start("");
    let plain = group("billing", "orders");
    let ordered = Group {
        name: "in-order".to_owned(),
        window: Some(16),
        ..plain.clone()
    };
    let told = |version: &str, needed| {
        Err(Unsubscribed::TooOld {
            version: version.to_owned(),
            needed,
        })
    };
    let before = of_version(&server, "2.9.25").await;
    assert_eq!(before.join(&plain).await.map(drop), told("2.9.25", "2.10"));
    let between = of_version(&server, "2.10.29").await;
    assert_eq!(
        between.join(&ordered).await.map(drop),
        told("2.10.29", "2.11")
    );
    assert!(between.join(&plain).await.is_ok());
    // To publish needs nothing of that.
    publish(&before, "orders", "a").await;
}
