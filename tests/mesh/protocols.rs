//! What an application and its callers speak arrives as they speak it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::client::Client;
use tests::mesh::{Mesh, SOON};
use tests::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::routing::{route, services};

/// A Service whose port is declared so; no declaration when empty.
fn service(name: &str, app_protocol: &str) -> String {
    let declared = match app_protocol {
        "" => String::new(),
        declared => format!(", appProtocol: {declared}"),
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ selector: {{ app: {name} }}, ports: [{{ port: 80, targetPort: 8080{declared} }}] }}\n"
    )
}

/// A connection to the outbound port of the client's sidecar.
async fn connect(client: &Client) -> Result<TcpStream> {
    let to = SocketAddr::new(client.sidecar().address().into(), 15001);
    Ok(TcpStream::connect(to).await?)
}

/// The head of an answer, and what came with it.
async fn head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = seen.split_off(end + 4);
            return Ok((String::from_utf8(seen)?.to_lowercase(), rest));
        }
        let read = timeout(SOON, stream.read_buf(&mut seen)).await??;
        ensure!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&seen)
        );
    }
}

/// Raw bytes both ways through the client's sidecar, to a Service and port.
async fn tunnel(client: &Client, to: &str) -> Result<TcpStream> {
    let mut stream = connect(client).await?;
    let ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let (head, rest) = head(&mut stream).await?;
    ensure!(head.starts_with("http/1.1 200"), "{head}");
    ensure!(rest.is_empty(), "{rest:?}");
    Ok(stream)
}

type H2<B> = http2::SendRequest<B>;

async fn h2<B>(client: &Client) -> Result<H2<B>>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let io = TokioIo::new(connect(client).await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

#[tokio::test]
async fn an_application_that_speaks_only_http2_is_spoken_to_in_http2() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "kubernetes.io/h2c")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;

    // However the caller speaks.
    assert_eq!(client.get("http://orders/1").await?.status, 200);
    let mut h2 = h2(&client).await?;
    let request = Request::get("http://orders/2").body(Empty::<Bytes>::new())?;
    let answer = h2.send_request(request).await?;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("meshwright-http2"));

    for seen in orders.upstream.seen() {
        assert_eq!(seen.version, Version::HTTP_2, "{seen:?}");
        assert!(!seen.headers.contains_key("meshwright-http2"), "{seen:?}");
    }
    assert_eq!(orders.upstream.requests(), 2);
    Ok(())
}

#[tokio::test]
async fn where_nothing_is_declared_an_application_is_spoken_to_as_its_caller_speaks() -> Result<()>
{
    let mesh = Mesh::start(&service("orders", "")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;

    assert_eq!(client.get("http://orders/1").await?.status, 200);
    let mut h2 = h2(&client).await?;
    let request = Request::get("http://orders/2").body(Empty::<Bytes>::new())?;
    assert_eq!(h2.send_request(request).await?.status(), 200);

    let versions: Vec<_> = orders.upstream.seen().iter().map(|s| s.version).collect();
    assert_eq!(versions, [Version::HTTP_11, Version::HTTP_2]);
    Ok(())
}

/// A gRPC service in miniature: answers each message with the same message, then its trailers.
async fn echo(listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
            let (mut answer, body) = Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                let mut asked = request.into_body();
                while let Some(Ok(frame)) = asked.frame().await {
                    let data = frame.into_data().unwrap_or_default();
                    let _ = answer.send_data(data).await;
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().expect("a value"));
                let _ = answer.send_trailers(trailers).await;
            });
            let answer = http::Response::builder().header("content-type", "application/grpc");
            answer.body(body)
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

#[tokio::test]
async fn both_sides_of_a_grpc_stream_flow_at_once_and_trailers_arrive() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "grpc")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let serving = tokio::spawn(echo(listener));
    let client = mesh.client("web").await?;

    let mut h2 = h2(&client).await?;
    let (mut ask, body) = Channel::<Bytes>::new(1);
    let request = Request::post("http://orders/shop.Orders/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)?;
    let answer = timeout(SOON, h2.send_request(request)).await??;
    let mut answer = answer.into_body();
    for message in ["one", "two", "three"] {
        ask.send_data(message.into()).await?;
        let frame = timeout(SOON, answer.frame()).await?.context("a frame")??;
        let data = frame.into_data().ok().context("data")?;
        assert_eq!(data, message);
    }
    drop(ask);
    let last = timeout(SOON, answer.frame()).await?.context("a frame")??;
    let trailers = last.into_trailers().ok().context("trailers")?;
    assert_eq!(trailers["grpc-status"], "0");
    serving.abort();
    Ok(())
}

#[tokio::test]
async fn a_call_that_its_caller_cancels_is_cancelled_at_the_application() -> Result<()> {
    /// Tells when the work that owns it is given up.
    struct UnderWay(tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for UnderWay {
        fn drop(&mut self) {
            let _ = self.0.send("given up");
        }
    }
    let mesh = Mesh::start(&service("orders", "grpc")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let application = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |_| {
                let _ = tell.send("begun");
                let under_way = UnderWay(tell.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(under_way);
                    Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<Bytes>::new()))
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let client = mesh.client("web").await?;

    let mut h2 = h2(&client).await?;
    let request = Request::post("http://orders/shop.Orders/Get").body(Empty::<Bytes>::new())?;
    let call = tokio::spawn(h2.send_request(request));
    assert_eq!(timeout(SOON, told.recv()).await?, Some("begun"));
    call.abort();
    assert_eq!(timeout(SOON, told.recv()).await?, Some("given up"));
    // The connection is as good as before.
    assert!(h2.ready().await.is_ok());
    application.abort();
    Ok(())
}

#[tokio::test]
async fn a_grpc_caller_reads_a_refusal_as_a_grpc_status_and_its_deadline_is_kept() -> Result<()> {
    let yaml = service("orders", "grpc") + "---\n" + &service("nobody", "grpc");
    let mesh = Mesh::start(&yaml).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.takes(Duration::from_secs(60));
    let client = mesh.client("web").await?;

    let mut h2 = h2(&client).await?;
    let mut call = async |host: &str, wait: &str| {
        let request = Request::post(format!("http://{host}/shop.Orders/Get"))
            .header("content-type", "application/grpc")
            .header("grpc-timeout", wait)
            .body(Empty::<Bytes>::new())?;
        let answer = timeout(SOON, h2.send_request(request)).await??;
        anyhow::Ok((answer.status().as_u16(), answer.headers().clone()))
    };
    let (status, headers) = call("nobody", "10S").await?;
    assert_eq!((status, &headers["grpc-status"]), (200, &"14".parse()?));
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(headers["meshwright-reason"], "no_endpoints");
    let (status, headers) = call("orders", "200m").await?;
    assert_eq!((status, &headers["grpc-status"]), (200, &"4".parse()?));
    assert_eq!(orders.upstream.seen()[0].headers["grpc-timeout"], "200m");
    Ok(())
}

const HANDSHAKE: &str = "GET http://orders/live HTTP/1.1\r\nhost: orders\r\n\
                         connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_opened_and_its_bytes_flow_both_ways() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let (asked, _) = head(&mut stream).await?;
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                  sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
            )
            .await?;
        let mut said = [0; 5];
        stream.read_exact(&mut said).await?;
        stream.write_all(&said).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        anyhow::Ok((asked, rest))
    });
    let client = mesh.client("web").await?;

    let mut stream = connect(&client).await?;
    stream.write_all(HANDSHAKE.as_bytes()).await?;
    let (answer, mut came) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    for line in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
    ] {
        assert!(answer.contains(line), "{answer}");
    }
    while came.len() < 5 {
        timeout(SOON, stream.read_buf(&mut came)).await??;
    }
    assert_eq!(came, b"hello");
    stream.write_all(b"world").await?;
    let mut echoed = [0; 5];
    timeout(SOON, stream.read_exact(&mut echoed)).await??;
    assert_eq!(&echoed, b"world");
    stream.write_all(b"bye").await?;
    drop(stream);

    let (asked, rest) = timeout(SOON, application).await???;
    assert!(asked.contains("upgrade: websocket"), "{asked}");
    assert!(asked.contains("connection: upgrade"), "{asked}");
    assert_eq!(rest, b"bye");
    wait_until("the whole of it is one line", SOON, async || {
        let log = client.sidecar().log()?;
        let line = log.lines().find(|line| line.contains(r#""path":"/live""#));
        let line: serde_json::Value = serde_json::from_str(line.context("no line yet")?)?;
        ensure!(
            line["status"] == 101 && line["outcome"] == "complete",
            "{line}"
        );
        ensure!(line["response_bytes"] == 10, "{line}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_upgrade_that_the_application_refuses_is_an_answer_like_any_other() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    orders.upstream.answers(426);
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    for _ in 0..2 {
        // The connection goes on as HTTP.
        stream.write_all(HANDSHAKE.as_bytes()).await?;
        let (answer, mut rest) = head(&mut stream).await?;
        assert!(answer.starts_with("http/1.1 426"), "{answer}");
        let length = orders.upstream.address().to_string().len();
        while rest.len() < length {
            timeout(SOON, stream.read_buf(&mut rest)).await??;
        }
    }
    assert_eq!(orders.upstream.requests(), 2);
    assert_eq!(orders.upstream.seen()[0].headers["upgrade"], "websocket");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let headers = [
        ("connection", "Upgrade, HTTP2-Settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ];
    let answer = client.get_with("http://orders/", &headers).await?;
    assert_eq!(answer.status, 200);
    let seen = &orders.upstream.seen()[0].headers;
    for name in ["upgrade", "http2-settings", "connection"] {
        assert!(!seen.contains_key(name), "{seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_switches_unasked_is_a_502() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let application = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = head(&mut stream).await;
            let switch =
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
            let _ = stream.write_all(switch).await;
        }
    });
    let client = mesh.client("web").await?;
    let answer = client.get("http://orders/").await?;
    assert_eq!((answer.status, answer.reason()), (502, "bad_response"));
    application.abort();
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_flow_both_ways_and_each_side_can_end_first() -> Result<()> {
    let mesh = Mesh::start(&service("ledger", "tcp")).await?;
    let (listener, _sidecar) = mesh.listener("ledger").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut asked = Vec::new();
        // Reads to the end of the question before it answers: the caller's half is closed then.
        stream.read_to_end(&mut asked).await?;
        stream.write_all(b"answer").await?;
        anyhow::Ok(asked)
    });
    let client = mesh.client("web").await?;
    let mut stream = tunnel(&client, "ledger:80").await?;
    stream.write_all(b"\0question").await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await??;
    assert_eq!(answer, b"answer");
    assert_eq!(timeout(SOON, application).await???, b"\0question");
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() -> Result<()> {
    for declared in ["smtp", ""] {
        let mesh = Mesh::start(&service("mail", declared)).await?;
        let (listener, _sidecar) = mesh.listener("mail").await?;
        let application = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"220 ready\r\n").await?;
            let mut said = [0; 6];
            stream.read_exact(&mut said).await?;
            anyhow::Ok(said)
        });
        let client = mesh.client("web").await?;
        let mut stream = tunnel(&client, "mail:80").await?;
        let mut greeting = [0; 11];
        timeout(SOON, stream.read_exact(&mut greeting)).await??;
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"HELO x").await?;
        assert_eq!(&timeout(SOON, application).await???, b"HELO x");
    }
    Ok(())
}

#[tokio::test]
async fn opaque_bytes_do_not_enter_a_port_that_is_declared_http() -> Result<()> {
    for declared in ["http", "grpc"] {
        let mesh = Mesh::start(&service("orders", declared)).await?;
        let orders = mesh.workload("orders").await?;
        let client = mesh.client("web").await?;
        let mut stream = tunnel(&client, "orders:80").await?;
        // In small letters, so that nobody takes it for HTTP who goes by its first letter.
        stream
            .write_all(b"get / HTTP/1.1\r\nhost: orders\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        // Closed or reset, but not answered.
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await?;
        assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
        assert_eq!(orders.upstream.requests(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_tunnel_leads_to_services_only_and_past_no_route() -> Result<()> {
    let yaml = services(&["orders"]) + &route("    - name: everything\n");
    let mesh = Mesh::start(&yaml).await?;
    let _orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    mesh.programmed("orders").await?;
    for (to, refusal) in [("example.com:443", "404"), ("orders:81", "404")] {
        let mut stream = connect(&client).await?;
        let ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
        let (answer, _) = head(&mut stream).await?;
        assert!(
            answer.starts_with(&format!("http/1.1 {refusal}")),
            "{to}: {answer}"
        );
        assert!(
            answer.contains("meshwright-reason: unknown_host"),
            "{answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_any_framing_arrives_whole_with_its_trailers() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    let application = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let (asked, mut body) = head(&mut stream).await?;
        while !body.ends_with(b"0\r\n\r\n") && !body.ends_with(b"x-sum: 7\r\n\r\n") {
            ensure!(stream.read_buf(&mut body).await? > 0);
        }
        stream
            .write_all(
                b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\ntrailer: x-checked\r\ntransfer-encoding: chunked\r\n\r\n\
                  3\r\nyes\r\n0\r\nx-checked: 1\r\n\r\n",
            )
            .await?;
        anyhow::Ok((asked, String::from_utf8(body)?))
    });
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(
            b"POST http://orders/ HTTP/1.1\r\nhost: orders\r\nte: trailers\r\nconnection: te\r\n\
              trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n4\r\ntwo!\r\n\
              0\r\nx-sum: 7\r\n\r\n",
        )
        .await?;
    let (asked, body) = timeout(SOON, application).await???;
    assert!(asked.contains("te: trailers"), "{asked}");
    assert!(body.contains("one") && body.contains("two!"), "{body}");
    assert!(body.contains("x-sum: 7"), "{body}");
    let (answer, mut rest) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    while !rest.ends_with(b"\r\n\r\n") {
        ensure!(timeout(SOON, stream.read_buf(&mut rest)).await?? > 0);
    }
    let rest = String::from_utf8(rest)?;
    assert!(
        rest.contains("yes") && rest.contains("x-checked: 1"),
        "{rest}"
    );
    Ok(())
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_gets_it_and_its_body_arrives() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(
            b"POST http://orders/ HTTP/1.1\r\nhost: orders\r\nexpect: 100-continue\r\n\
              content-length: 4\r\nconnection: close\r\n\r\n",
        )
        .await?;
    let (interim, _) = head(&mut stream).await?;
    assert!(interim.starts_with("http/1.1 100"), "{interim}");
    stream.write_all(b"body").await?;
    let (answer, _) = head(&mut stream).await?;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert_eq!(orders.upstream.seen()[0].body, "body");
    Ok(())
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    let mut ahead = String::new();
    for n in 1..=5 {
        let end = if n == 5 { "connection: close\r\n" } else { "" };
        ahead += &format!("GET http://orders/{n} HTTP/1.1\r\nhost: orders\r\n{end}\r\n");
    }
    stream.write_all(ahead.as_bytes()).await?;
    let mut answers = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answers)).await??;
    let answers = String::from_utf8(answers)?;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 5, "{answers}");
    let order: Vec<_> = orders
        .upstream
        .seen()
        .iter()
        .map(|s| s.target.clone())
        .collect();
    assert_eq!(order, ["/1", "/2", "/3", "/4", "/5"]);
    Ok(())
}

#[tokio::test]
async fn the_answer_to_head_has_the_length_and_no_body() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(b"HEAD http://orders/ HTTP/1.1\r\nhost: orders\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8(answer)?;
    let length = orders.upstream.address().to_string().len();
    assert!(
        answer.contains(&format!("content-length: {length}")),
        "{answer}"
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_large_body_flows_through_without_being_held() -> Result<()> {
    let mesh = Mesh::start(&services(&["orders"])).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    let mut h2 = h2(&client).await?;
    let body = Full::new(Bytes::from(vec![7; 32 << 20]));
    let request = Request::post("http://orders/").body(body)?;
    let answer = timeout(SOON, h2.send_request(request)).await??;
    assert_eq!(answer.status(), 200);
    assert_eq!(orders.upstream.seen()[0].body.len(), 32 << 20);
    let resident = client.sidecar().resident_bytes()?;
    assert!(resident < 64 << 20, "{resident} bytes for a body of 32 MiB");
    Ok(())
}
