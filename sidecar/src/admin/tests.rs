use super::*;
use crate::config::guard::Workload;
use crate::config::state::Built;
use crate::drain;
use crate::net::tls::KeyAndChain;

/// Credentials whose leaf is in force from `from` to `to`, in years.
fn credentials(from: i32, to: i32) -> Arc<Credentials> {
    let mut params = rcgen::CertificateParams::default();
    let id = "spiffe://cluster.local/ns/shop/sa/web";
    params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.self_signed(&key).unwrap();
    let own = KeyAndChain {
        chain: vec![leaf.der().clone()],
        key: rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    };
    let roots = vec![leaf.der().to_vec()];
    Arc::new(Credentials::new(own, roots, "cluster.local").unwrap())
}

fn complete() -> Arc<State> {
    let workload = Workload::build(wire::mesh::Workload::default()).unwrap();
    Arc::new(State::link(Built {
        workload: Some(Arc::new(workload)),
        ..Built::default()
    }))
}

#[tokio::test]
async fn ready_means_a_certificate_in_force_a_whole_configuration_and_the_own_guards() {
    let (state, state_changes) = watch::channel(Arc::new(State::default()));
    let (certificate, certificates) = watch::channel(None);
    let (stream, stream_changes) = watch::channel(wire::client::State::default());
    let (trigger, drain) = drain::new();
    let followers = Arc::new(Followers::new(1));
    let readiness = Readiness {
        state: state_changes,
        credentials: certificates,
        stream: stream_changes,
        followers: followers.clone(),
        drain,
    };
    assert_eq!(readiness.missing(), Some("no certificate in force yet"));
    certificate.send_replace(Some(credentials(2001, 2002)));
    assert_eq!(readiness.missing(), Some("no certificate in force yet"));
    certificate.send_replace(Some(credentials(2001, 2901)));
    assert_eq!(
        readiness.missing(),
        Some("the configuration has not arrived completely")
    );
    stream.send_modify(|stream| stream.complete = true);
    assert_eq!(
        readiness.missing(),
        Some("the operator has not said yet who may call this workload")
    );
    state.send_replace(complete());
    assert_eq!(
        readiness.missing(),
        Some("not every worker has what it needs yet")
    );
    followers.is_ready(0);
    assert_eq!(readiness.missing(), None);
    trigger.begin().await;
    assert_eq!(readiness.missing(), Some("draining"));
}

#[tokio::test]
async fn who_waits_for_a_certificate_says_the_dates_of_one_that_is_not_in_force() {
    let (certificate, credentials_changes) = watch::channel(None);
    let (_trigger, drain) = drain::new();
    let readiness = Readiness {
        state: watch::channel(complete()).1,
        credentials: credentials_changes,
        stream: watch::channel(wire::client::State::default()).1,
        followers: Arc::new(Followers::new(0)),
        drain,
    };
    let clock = "2026-01-02T03:04:05Z".parse::<jiff::Timestamp>().unwrap();
    let reason = || readiness.reason(clock.into()).unwrap();
    assert_eq!(reason(), "no certificate in force yet");
    certificate.send_replace(Some(credentials(2900, 2901)));
    assert_eq!(
        reason(),
        "no certificate in force yet: it is valid from 2900-01-01T00:00:00Z until 2901-01-01T00:00:00Z, and this \
         node's clock says 2026-01-02T03:04:05Z"
    );
    certificate.send_replace(Some(credentials(2001, 2901)));
    assert_eq!(reason(), "the configuration has not arrived completely");
}

/// What the kubelet asks.
const READY: &str = "GET /ready HTTP/1.1\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn who_stays_connected_keeps_nobody_out() {
    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(serve(listener, MAX_OF_ONE, async |_| {
            Ok(text(StatusCode::OK, "ready\n"))
        }));
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let (status, _) = ask(address, READY).await;
        assert_eq!(status, "200");
    };
    local.run_until(test).await;
}

#[tokio::test]
async fn a_question_that_has_arrived_is_read_before_a_burst_behind_it_takes_its_place() {
    use tokio::io::AsyncWriteExt as _;

    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        // All of them wait in the kernel's queue: nobody has accepted anything yet.
        let mut probe = tokio::net::TcpStream::connect(address).await.unwrap();
        probe.write_all(READY.as_bytes()).await.unwrap();
        let mut burst = Vec::new();
        for _ in 0..4 * MAX_CONNECTIONS {
            burst.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        tokio::task::spawn_local(serve(listener, MAX_OF_ONE, async |question: Question| {
            // As of one that has shown the token, and whose application takes its time.
            question.place.no_stranger();
            tokio::task::yield_now().await;
            Ok(text(StatusCode::OK, "ready\n"))
        }));
        let (status, _) = answered(probe).await;
        assert_eq!(status, "200");
    };
    local.run_until(test).await;
}

/// Asks an admin that answers people; returns its status line and its body.
async fn ask(address: std::net::SocketAddr, request: &str) -> (String, String) {
    use tokio::io::AsyncWriteExt as _;

    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    answered(stream).await
}

/// The status line's number and the body of what comes until the connection ends.
async fn answered(mut stream: tokio::net::TcpStream) -> (String, String) {
    use tokio::io::AsyncReadExt as _;

    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(Duration::from_secs(5), read)
        .await
        .unwrap()
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.to_owned(), body.to_owned())
}

/// As [`ask`], with a method, a path and a body, under a host and with more headers.
async fn ask_as(
    address: std::net::SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (String, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    ask(address, &request).await
}

/// Runs a test beside an admin that answers people.
async fn beside_an_admin<F: Future<Output = ()>>(test: impl FnOnce(std::net::SocketAddr) -> F) {
    let (_, state) = watch::channel(complete());
    let (_, credentials) = watch::channel(None);
    let (_, stream) = watch::channel(wire::client::State::default());
    let (_, held) = watch::channel(Arc::default());
    let (_trigger, drain) = drain::new();
    let admin = Admin {
        readiness: Readiness {
            state,
            credentials,
            stream,
            followers: Arc::new(Followers::new(0)),
            drain,
        },
        held,
        metrics: Arc::new(Metrics::new()),
        access_log: Some(Arc::new(Selected::new(Default::default()))),
        taps: Arc::default(),
        prober: None,
        desk: Desk::default(),
    };
    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let admin = Rc::new(admin);
        let answer = async move |question| Ok(admin.to_people(&question));
        tokio::task::spawn_local(serve(listener, MAX_CONNECTIONS, answer));
        test(address).await;
    };
    local.run_until(test).await;
}

#[tokio::test]
async fn a_page_of_a_browser_neither_sets_nor_reads_anything() {
    beside_an_admin(async |address| {
        let put = async |headers: &str| {
            let path = "/access-log";
            ask_as(address, "PUT", path, headers, "filter=errors").await
        };
        for (headers, status) in [
            ("host: 127.0.0.1:15000\r\n", "200"),
            ("host: [::1]:15000\r\n", "200"),
            ("host: localhost\r\n", "200"),
            ("host: evil.example:15000\r\n", "403"),
            ("host: localhost.evil.example\r\n", "403"),
            ("host: 127.0.0.1\r\norigin: http://evil.example\r\n", "403"),
            ("host: 127.0.0.1\r\norigin: null\r\n", "403"),
            ("host: 127.0.0.1\r\nhost: 127.0.0.1\r\n", "403"),
            ("host: 127.0.0.1@evil.example\r\n", "403"),
            ("", "403"),
        ] {
            let (answered, body) = put(headers).await;
            assert_eq!(answered, status, "{headers}: {body}");
        }
        for path in ["/config", "/stats", "/metrics", "/log-level"] {
            let rebound = ask_as(address, "GET", path, "host: evil.example\r\n", "").await;
            assert_eq!(rebound.0, "403", "{path}");
            let fine = ask_as(address, "GET", path, "host: localhost:15000\r\n", "").await;
            assert_eq!(fine.0, "200", "{path}");
        }
        let proxied = ask_as(
            address,
            "GET",
            "http://evil.example/config",
            "host: localhost\r\n",
            "",
        );
        assert_eq!(proxied.await.0, "403");
    })
    .await;
}

#[tokio::test]
async fn what_is_set_is_validated_bounded_and_told() {
    beside_an_admin(async |address| {
        let here = "host: 127.0.0.1\r\n";
        let put = async |path: &str, body: &str| ask_as(address, "PUT", path, here, body).await;
        let (status, told) = put("/access-log", "sample=10 filter=slow:1s\n").await;
        assert_eq!(
            (&*status, &*told),
            ("200", "sample=10 filter=slow:1000ms\n")
        );
        let (status, told) = put("/access-log", "filter=errors").await;
        assert_eq!((&*status, &*told), ("200", "sample=10 filter=errors\n"));
        assert_eq!(put("/access-log", "filter=nothing").await.0, "400");
        assert_eq!(put("/access-log", "\u{0}").await.0, "400");
        let (_, told) = ask_as(address, "GET", "/access-log", here, "").await;
        assert_eq!(told, "sample=10 filter=errors\n");

        let (status, said) = put("/log-level", "loud").await;
        assert_eq!(status, "400");
        assert!(said.contains("debug"), "{said}");
        let large = "x".repeat(MAX_BODY + 1);
        assert_eq!(put("/log-level", &large).await.0, "413");

        for (method, path) in [
            ("POST", "/log-level"),
            ("DELETE", "/access-log"),
            ("PUT", "/config"),
            ("PUT", "/stats"),
            ("POST", "/metrics"),
            ("OPTIONS", "/log-level"),
        ] {
            let (status, _) = ask_as(address, method, path, here, "").await;
            assert_eq!(status, "405", "{method} {path}");
        }
    })
    .await;
}

#[tokio::test]
async fn stats_tell_what_goes_on() {
    beside_an_admin(async |address| {
        let (status, told) = ask_as(address, "GET", "/stats", "host: 127.0.0.1\r\n", "").await;
        assert_eq!(status, "200");
        let stats: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(stats["outbound"]["requests"]["inFlight"], 0);
        assert_eq!(stats["inbound"]["connections"]["mtls_http"], 0);
        assert_eq!(stats["upstreamConnections"]["peer http2"], 0);
        assert_eq!(stats["config"]["version"], 0);
        assert_eq!(stats["config"]["ageSeconds"], Value::Null);
        assert_eq!(stats["accessLog"]["selection"], "sample=100 filter=all");
        assert_eq!(stats["logLevel"], "off");
    })
    .await;
}
