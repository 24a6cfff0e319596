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
async fn who_stays_connected_keeps_nobody_out() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(serve(listener, |_| text(StatusCode::OK, "ready\n")));
        let mut idle = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let mut probe = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET /ready HTTP/1.1\r\nconnection: close\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = String::new();
        let read = probe.read_to_string(&mut answer);
        timeout(Duration::from_secs(5), read)
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    };
    local.run_until(test).await;
}
