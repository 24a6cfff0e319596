use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use wire::probe::HttpGet;

use super::*;
use crate::net::places::Places;

const TOKEN: &str = "t0ken";
const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const READY: &str = "/app-health/orders/readyz";

/// A prober with one question, whose sockets are bound to no address that only a pod has.
fn prober(ask: Ask, timeout_seconds: Option<u32>, is_hook: bool) -> Prober {
    let question = Question {
        ask,
        timeout_seconds,
        is_hook,
    };
    let probes = Probes {
        token: TOKEN.into(),
        questions: [(READY.to_owned(), question)].into(),
    };
    let connector = Connector {
        application: Some(POD),
        ..Connector::default()
    };
    Prober::new(probes, connector).unwrap()
}

fn get(port: u16, path: &str) -> HttpGet {
    HttpGet {
        port,
        path: path.into(),
        https: false,
        headers: Vec::new(),
    }
}

fn question(path: &str, token: Option<&str>) -> super::super::Question {
    let token = token.map(|token| (TOKEN_HEADER.try_into().unwrap(), token.try_into().unwrap()));
    super::super::Question {
        method: Method::GET,
        path: path.to_owned(),
        query: "evil=1".to_owned(),
        authority: Some("evil.example".to_owned()),
        headers: token.into_iter().collect(),
        body: Bytes::new(),
        called: POD,
        place: Places::new(1).take().keep(),
    }
}

/// Status and sentence.
async fn told(answer: Answer) -> (u16, String) {
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn answered(prober: &Prober) -> (u16, String) {
    told(
        prober
            .answer(&question(READY, Some(TOKEN)), POD)
            .await
            .unwrap(),
    )
    .await
}

/// An application that answers each request as `answer` says, given its path, its query and its headers.
async fn application(
    answer: impl Fn(&str, &HeaderMap) -> Response<Full<Bytes>> + Clone + 'static,
) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path_and_query().unwrap().to_string();
                let response = answer(&path, request.headers());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(connection);
        }
    });
    port
}

fn status(code: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"secret of the application")));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn to(location: &str) -> Response<Full<Bytes>> {
    let mut response = status(302);
    response
        .headers_mut()
        .insert("location", location.parse().unwrap());
    response
}

#[tokio::test]
async fn a_get_is_good_from_200_to_399_and_what_is_not_is_passed_on_without_its_body() {
    let test = async {
        let answer = |path: &str, _: &HeaderMap| status(path[1..].parse().unwrap());
        let port = application(answer).await;
        for (code, told) in [(200, 200), (204, 200), (399, 200), (404, 404), (500, 500)] {
            let path = format!("/{code}");
            let answer = answered(&prober(Ask::HttpGet(get(port, &path)), Some(5), false)).await;
            let said =
                format!("GET http://127.0.0.1:{port}/{code}: the application answered {code}\n");
            assert_eq!(answer, (told, said));
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn headers_and_host_are_as_they_were_written_and_nothing_of_the_asker_is_among_them() {
    let test = async {
        let answer = |path: &str, headers: &HeaderMap| {
            let is = |name: &str, value: &str| {
                let values: Vec<_> = headers.get_all(name).iter().collect();
                values == [value]
            };
            let good = path == "/ready?full=1"
                && is("host", "orders.example")
                && is("x-a", "b")
                && is("accept", "*/*")
                && is("user-agent", "kube-probe/meshwright")
                && is("connection", "close")
                && headers.len() == 5;
            status(if good { 200 } else { 500 })
        };
        let port = application(answer).await;
        let written = HttpGet {
            headers: vec![
                ("Host".into(), "orders.example".into()),
                ("X-A".into(), "b".into()),
            ],
            ..get(port, "/ready?full=1")
        };
        let answer = answered(&prober(Ask::HttpGet(written), Some(5), false)).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn redirects_within_the_pod_are_followed_ten_requests_long_and_others_are_good_as_they_are() {
    let test = async {
        let elsewhere = application(|_, _| status(503)).await;
        let answer = move |path: &str, headers: &HeaderMap| {
            let host = headers["host"].to_str().unwrap();
            match path.split('?').next().unwrap() {
                "/path" => to("/in/here"),
                "/in/here" => to("there?x=1"),
                "/in/there" if host == "orders.example" => status(200),
                "/port" => to(&format!("http://127.0.0.1:{elsewhere}/")),
                "/outside" => to("http://169.254.169.254/secrets"),
                "/own" => to("http://127.0.0.1:15000/config"),
                "/for-ever" => to("/for-ever"),
                _ => status(500),
            }
        };
        let port = application(answer).await;
        for (path, told, says) in [
            ("/path", 200, "answered 200"),
            ("/port", 503, "answered 503"),
            ("/outside", 200, "answered 302"),
            ("/own", 200, "answered 302"),
            ("/for-ever", 503, "redirected 10 times"),
        ] {
            let written = HttpGet {
                headers: vec![("Host".into(), "orders.example".into())],
                ..get(port, path)
            };
            let answer = answered(&prober(Ask::HttpGet(written), Some(5), false)).await;
            assert_eq!(answer.0, told, "{path}: {}", answer.1);
            assert!(answer.1.contains(says), "{path}: {}", answer.1);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn https_is_spoken_with_whatever_certificate_there_is() {
    let test = async {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        let leaf = leaf.self_signed(&key).unwrap();
        for alpn in ["h2", "http/1.1", ""] {
            let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
            let provider = crate::net::tls::provider();
            let mut server = rustls::ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], key)
                .unwrap();
            server.alpn_protocols = Vec::from_iter((!alpn.is_empty()).then(|| alpn.into()));
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let stream = TokioIo::new(acceptor.accept(stream).await.unwrap());
                let service = service_fn(async |_| Ok::<_, Infallible>(status(204)));
                let _ = match alpn {
                    "h2" => {
                        let server = http2::Builder::new(TokioExecutor::new());
                        server.serve_connection(stream, service).await
                    }
                    _ => {
                        http1::Builder::new()
                            .serve_connection(stream, service)
                            .await
                    }
                };
            });
            let written = HttpGet {
                https: true,
                ..get(port, "/")
            };
            let answer = answered(&prober(Ask::HttpGet(written), Some(5), false)).await;
            assert_eq!(answer.0, 200, "{alpn}: {}", answer.1);
        }
    };
    LocalSet::new().run_until(test).await;
}

/// An application that serves gRPC and says this of its health.
async fn grpc(health: u8) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            // HealthCheckRequest { service: "orders" }, in a frame.
            let wanted = asked.as_ref() == b"\0\0\0\0\x08\x0a\x06orders";
            let frame = match (wanted, health) {
                (true, 1..) => Bytes::from(vec![0, 0, 0, 0, 2, 8, health]),
                _ => Bytes::new(),
            };
            let code = if wanted && health > 0 { "0" } else { "12" };
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            trailers.insert("grpc-message", "secret of the application".parse().unwrap());
            let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers))));
            let mut response = Response::new(body);
            let kind = "application/grpc".parse().unwrap();
            response.headers_mut().insert("content-type", kind);
            Ok::<_, Infallible>(response)
        });
        let server = http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    });
    port
}

#[tokio::test]
async fn grpc_is_good_when_the_named_service_is_serving() {
    let test = async {
        for (health, told, says) in [
            (1, 200, "is SERVING"),
            (2, 503, "is NOT_SERVING"),
            (3, 503, "SERVICE_UNKNOWN"),
            (0, 503, "the gRPC status Unimplemented"),
        ] {
            let ask = Ask::Grpc {
                port: grpc(health).await,
                service: "orders".into(),
            };
            let answer = answered(&prober(ask, Some(5), false)).await;
            assert_eq!(answer.0, told, "{}", answer.1);
            assert!(
                answer.1.contains(says) && !answer.1.contains("secret"),
                "{}",
                answer.1
            );
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn an_application_that_is_dead_or_hangs_is_seen_as_dead_however_it_is_asked() {
    let test = async {
        let dead = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let hanging = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let hangs = hanging.local_addr().unwrap().port();
        let service = String::new();
        for (ask, says) in [
            (
                Ask::HttpGet(get(dead, "/")),
                "can't be reached: connection refused",
            ),
            (
                Ask::TcpSocket { port: dead },
                "can't be reached: connection refused",
            ),
            (
                Ask::Grpc {
                    port: dead,
                    service: service.clone(),
                },
                "can't be reached by gRPC",
            ),
            (Ask::HttpGet(get(hangs, "/")), "gave no answer within 1 s"),
            (
                Ask::Grpc {
                    port: hangs,
                    service,
                },
                "gave no answer within 1 s",
            ),
        ] {
            let answer = answered(&prober(ask, Some(1), false)).await;
            assert_eq!(answer.0, 503, "{}", answer.1);
            assert!(answer.1.contains(says), "{}", answer.1);
        }
        let accepts = answered(&prober(Ask::TcpSocket { port: hangs }, Some(1), false)).await;
        assert_eq!(accepts.0, 200, "{}", accepts.1);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn an_application_may_be_as_slow_to_accept_as_the_probe_allows() {
    // Whose queue is full: the kernel answers no connection then.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let full: Vec<_> = (0..8)
        .map(|_| {
            let waiting =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            waiting.set_nonblocking(true).unwrap();
            let at = std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let _ = waiting.connect(&at.into());
            waiting
        })
        .collect();
    let service = String::new();
    for ask in [
        Ask::HttpGet(get(port, "/")),
        Ask::TcpSocket { port },
        Ask::Grpc { port, service },
    ] {
        let (status, said) = answered(&prober(ask, Some(30), false)).await;
        assert_eq!(status, 503);
        assert!(said.contains("gave no answer within 30 s"), "{said}");
    }
    drop(full);
}

#[tokio::test]
async fn a_hook_that_was_called_has_succeeded_whatever_it_answers_and_one_that_was_not_gets_no_answer()
 {
    let test = async {
        let port = application(|_, _| status(500)).await;
        let hook = |port| prober(Ask::HttpGet(get(port, "/stop")), None, true);
        assert_eq!(answered(&hook(port)).await.0, 200);
        let dead = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let asked = hook(dead);
        assert!(
            asked
                .answer(&question(READY, Some(TOKEN)), POD)
                .await
                .is_err()
        );
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_does_not_show_the_token_and_who_asks_something_else_reach_no_application() {
    let test = async {
        let port = application(|_, _| panic!("it was asked")).await;
        let asked = prober(Ask::HttpGet(get(port, "/")), Some(5), false);
        for (path, token, refused) in [
            (READY, None, 403),
            (READY, Some("token"), 403),
            (READY, Some(""), 403),
            ("/app-health/orders/readyz/", Some(TOKEN), 404),
            ("/app-health/orders/../../ready", Some(TOKEN), 404),
            (
                "/app-health/http://127.0.0.1:15000/config",
                Some(TOKEN),
                404,
            ),
        ] {
            let answer = asked.answer(&question(path, token), POD).await.unwrap();
            assert_eq!(told(answer).await.0, refused, "{path} {token:?}");
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn few_of_one_question_are_under_way_at_a_time() {
    let test = async {
        let hanging = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = hanging.local_addr().unwrap().port();
        let asked = Rc::new(prober(Ask::HttpGet(get(port, "/")), Some(60), false));
        let (mut asking, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..AT_A_TIME {
            let asked = asked.clone();
            asking.push(tokio::task::spawn_local(
                async move { answered(&asked).await },
            ));
            // It is under way once the application has its connection.
            accepted.push(hanging.accept().await.unwrap());
        }
        let more = answered(&asked).await;
        assert_eq!(more, (503, "4 of this question are under way\n".to_owned()));
        // Who hangs up leaves room for the next.
        asking.pop().unwrap().abort();
        tokio::task::yield_now().await;
        // And has found the application wanting.
        assert!(asked.questions[READY].fails.get());
        let again = asked.clone();
        let again = tokio::task::spawn_local(async move { answered(&again).await });
        accepted.push(hanging.accept().await.unwrap());
        assert!(!again.is_finished());
    };
    LocalSet::new().run_until(test).await;
}
