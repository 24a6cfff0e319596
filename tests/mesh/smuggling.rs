//! Requests that two readers could take for different ones: the application sees exactly one, well
//! formed, or none.
//!
//! Every case is a connection of its own, through two sidecars, to an application that keeps the
//! bytes that it was sent. What is written here by hand is what no client library would send.

mod http2;

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use tests::client::Client;
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::raw::connect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::routing::service;

/// A mesh whose application keeps what it is sent, byte by byte.
struct World {
    _mesh: Mesh,
    _sidecar: Sidecar,
    client: Client,
    seen: Arc<Mutex<Vec<Message>>>,
}

/// One request as the application was sent it.
#[derive(Clone, Debug, Default)]
struct Message {
    head: String,
    body: Vec<u8>,
    /// It came to its end.
    whole: bool,
}

impl World {
    async fn new() -> Result<Self> {
        let mesh = Mesh::start(&service("orders", "http")).await?;
        let (listener, sidecar) = mesh.listener("orders").await?;
        let client = mesh.client("web").await?;
        let seen = Arc::default();
        tokio::spawn(record(listener, Arc::clone(&seen)));
        Ok(Self {
            _mesh: mesh,
            _sidecar: sidecar,
            client,
            seen,
        })
    }

    /// What the application has seen since the last look, once it has seen a request that was sent
    /// after everything else: it arrives last, on a connection of its own.
    async fn seen(&self) -> Result<Vec<Message>> {
        let answer = self.client.get("http://orders/last").await?;
        ensure!(answer.status == 200, "{answer:?}");
        tests::wait_until("the last request is there", SOON, async || {
            let mut seen = self.seen.lock().expect("no panic");
            let last = seen
                .iter()
                .position(|one| one.head.starts_with("get /last "));
            seen.remove(last.context("not yet")?);
            Ok(std::mem::take(&mut *seen))
        })
        .await
    }

    /// Sends bytes over a connection of their own and reads what comes back until it is closed.
    async fn http1(&self, bytes: &[u8]) -> Result<String> {
        let mut stream = connect(&self.client).await?;
        // Who refuses may close before it has read all.
        let _ = stream.write_all(bytes).await;
        if bytes.ends_with(UNFINISHED) {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer))
            .await
            .context("not closed")?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Answers 200 to every request; strict, so that what is not one request is seen as what it is.
async fn record(listener: TcpListener, seen: Arc<Mutex<Vec<Message>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut stream = stream;
            while let Ok(true) = one(&mut stream, &seen).await {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Reads one request, as the simplest correct server would.
async fn one(stream: &mut TcpStream, seen: &Mutex<Vec<Message>>) -> Result<bool> {
    let mut bytes = Vec::new();
    let mut message = Message::default();
    let read = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            ensure!(bytes.is_empty(), "half a head: {bytes:?}");
            return Ok(false);
        }
    };
    let rest = bytes.split_off(read);
    message.head = String::from_utf8_lossy(&bytes).to_lowercase();
    message.body = rest;
    let chunked = message.head.contains("\r\ntransfer-encoding: chunked\r\n");
    let length = message.head.split("\r\ncontent-length: ").nth(1);
    let length: Option<usize> = length.and_then(|text| text.split("\r\n").next()?.parse().ok());
    message.whole = loop {
        let whole = match (chunked, length) {
            (true, _) => message.body.ends_with(b"0\r\n\r\n"),
            (false, length) => message.body.len() >= length.unwrap_or(0),
        };
        if whole {
            break true;
        }
        if stream.read_buf(&mut message.body).await? == 0 {
            break false;
        }
    };
    let whole = message.whole;
    seen.lock().expect("no panic").push(message);
    Ok(whole)
}

/// One request with one length at most, one host, and no line but header lines.
fn assert_well_formed(message: &Message, case: &str) {
    let head = message.head.strip_suffix("\r\n\r\n").expect("a head");
    let mut lines = head.split("\r\n");
    let first = lines.next().expect("a request line");
    assert_eq!(first.split(' ').count(), 3, "{case}: {message:?}");
    assert!(first.ends_with(" http/1.1"), "{case}: {message:?}");
    let (mut hosts, mut lengths) = (0, 0);
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header line");
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b);
        assert!(
            !name.is_empty() && name.bytes().all(token),
            "{case}: {message:?}"
        );
        assert!(!value.contains(['\r', '\n', '\0']), "{case}: {message:?}");
        hosts += usize::from(name == "host");
        lengths += usize::from(matches!(name, "content-length" | "transfer-encoding"));
    }
    assert_eq!(hosts, 1, "{case}: {message:?}");
    assert!(lengths <= 1, "{case}: {message:?}");
}

/// POST with these lines and this body, and a request behind it that nobody must see as one.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST http://orders/case HTTP/1.1\r\nhost: orders\r\n{lines}\r\n{body}").into_bytes()
}

/// What is left open by these bytes can only be ended by their sender.
const UNFINISHED: &[u8] = b"unfinished";

const SMUGGLED: &str = "GET http://orders/smuggled HTTP/1.1\r\nhost: orders\r\n\r\n";

/// The application sees none of these, and their sender a 400 or nothing.
async fn refused(world: &World, cases: &[(&str, Vec<u8>)]) -> Result<()> {
    for (case, bytes) in cases {
        let answer = world.http1(bytes).await?;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 400 ");
        assert!(refused, "{case}: {answer}");
        let seen = world.seen().await?;
        // A request whose body broke off is one that never came to its end.
        assert!(seen.iter().all(|one| !one.whole), "{case}: {seen:?}");
        assert!(
            !seen.iter().any(|one| one.head.contains("/smuggled")),
            "{case}: {seen:?}"
        );
    }
    // Nor is the application blamed for any.
    let log = world.client.sidecar().log()?;
    assert!(!log.contains("upstream_reset"), "{log}");
    Ok(())
}

#[tokio::test]
async fn lengths_that_can_be_read_in_two_ways_reach_nobody() -> Result<()> {
    let world = World::new().await?;
    let lines = |lines: &str| post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
    refused(
        &world,
        &[
            (
                "two lengths",
                lines("content-length: 5\r\ncontent-length: 6\r\n"),
            ),
            (
                "the same twice",
                lines("content-length: 5\r\ncontent-length: 5\r\n"),
            ),
            ("a list", lines("content-length: 5, 5\r\n")),
            ("another list", lines("content-length: 5,6\r\n")),
            ("a sign", lines("content-length: +5\r\n")),
            ("a negative one", lines("content-length: -5\r\n")),
            ("hexadecimal", lines("content-length: 0x5\r\n")),
            ("none", lines("content-length: \r\n")),
            (
                "too large",
                lines("content-length: 99999999999999999999\r\n"),
            ),
            (
                "both",
                lines("content-length: 5\r\ntransfer-encoding: chunked\r\n"),
            ),
            (
                "both, turned",
                lines("transfer-encoding: chunked\r\ncontent-length: 5\r\n"),
            ),
            ("xchunked", lines("transfer-encoding: xchunked\r\n")),
            (
                "chunked twice",
                lines("transfer-encoding: chunked, chunked\r\n"),
            ),
            (
                "two lines",
                lines("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"),
            ),
            ("a parameter", lines("transfer-encoding: chunked;x\r\n")),
            ("identity", lines("transfer-encoding: identity\r\n")),
            ("compressed", lines("transfer-encoding: gzip, chunked\r\n")),
            ("a tab within", lines("transfer-encoding: chun\tked\r\n")),
            ("vertical tab", lines("transfer-encoding: \x0bchunked\r\n")),
            (
                "a space before the colon",
                lines("transfer-encoding : chunked\r\n"),
            ),
            ("folded", lines("transfer-encoding:\r\n chunked\r\n")),
        ],
    )
    .await
}

#[tokio::test]
async fn lines_that_can_be_read_in_two_ways_reach_nobody() -> Result<()> {
    let world = World::new().await?;
    let lines = |lines: &str| post(lines, SMUGGLED);
    let raw = |text: &str| text.as_bytes().to_vec();
    refused(
        &world,
        &[
            ("folded", lines("x: a\r\n b\r\n")),
            ("folded by a tab", lines("x: a\r\n\tb\r\n")),
            ("a bare LF", lines("x: a\ny: b\r\n")),
            ("a bare CR", lines("x: a\ry: b\r\n")),
            ("CR before CRLF", lines("x: a\r\r\n")),
            ("a space before the colon", lines("x : a\r\n")),
            (
                "a space before the name",
                raw("GET http://orders/ HTTP/1.1\r\n host: orders\r\n\r\n"),
            ),
            ("a space within the name", lines("x y: a\r\n")),
            ("a control within the name", lines("x\x01y: a\r\n")),
            ("a name with obs-text", lines("x\u{e9}: a\r\n")),
            ("no name", lines(": a\r\n")),
            ("no colon", lines("x\r\n")),
            ("NUL in a value", lines("x: a\0b\r\n")),
            (
                "the head ends in LF LF",
                raw("GET http://orders/ HTTP/1.1\nhost: orders\n\n"),
            ),
            (
                "the head ends in LF",
                raw("GET http://orders/ HTTP/1.1\r\nhost: orders\r\n\n"),
            ),
            (
                "two hosts",
                raw("GET http://orders/ HTTP/1.1\r\nhost: orders\r\nhost: billing\r\n\r\n"),
            ),
            ("no host", raw("GET http://orders/ HTTP/1.1\r\n\r\n")),
            (
                "a host that is a list",
                raw("GET http://orders/ HTTP/1.1\r\nhost: orders, billing\r\n\r\n"),
            ),
            (
                "a host with a path",
                raw("GET http://orders/ HTTP/1.1\r\nhost: orders/x\r\n\r\n"),
            ),
            (
                "credentials",
                raw("GET http://u:p@orders/ HTTP/1.1\r\nhost: orders\r\n\r\n"),
            ),
        ],
    )
    .await
}

#[tokio::test]
async fn request_lines_that_can_be_read_in_two_ways_reach_nobody() -> Result<()> {
    let world = World::new().await?;
    let line = |line: &str| format!("{line}\r\nhost: orders\r\n\r\n{SMUGGLED}").into_bytes();
    refused(
        &world,
        &[
            (
                "two spaces before the target",
                line("GET  http://orders/ HTTP/1.1"),
            ),
            ("two spaces behind it", line("GET http://orders/  HTTP/1.1")),
            ("a space within it", line("GET http://orders/a b HTTP/1.1")),
            ("a tab", line("GET\thttp://orders/ HTTP/1.1")),
            ("a space at the end", line("GET http://orders/ HTTP/1.1 ")),
            (
                "a space at the beginning",
                line(" GET http://orders/ HTTP/1.1"),
            ),
            ("HTTP/1.2", line("GET http://orders/ HTTP/1.2")),
            ("HTTP/2.0", line("GET http://orders/ HTTP/2.0")),
            ("http/1.1", line("GET http://orders/ http/1.1")),
            ("HTTP/0.9", line("GET http://orders/")),
            ("HTTP/1.01", line("GET http://orders/ HTTP/1.01")),
            (
                "a method in small letters",
                line("Get http://orders/ HTTP/1.1"),
            ),
            (
                "a method that is no token",
                line("G{T http://orders/ HTTP/1.1"),
            ),
            ("an authority alone", line("GET orders:80 HTTP/1.1")),
            ("an asterisk", line("GET * HTTP/1.1")),
            (
                "chunks in HTTP/1.0",
                post_1_0("transfer-encoding: chunked\r\n"),
            ),
        ],
    )
    .await
}

fn post_1_0(lines: &str) -> Vec<u8> {
    let head = format!("POST http://orders/case HTTP/1.0\r\nhost: orders\r\n{lines}\r\n");
    format!("{head}0\r\n\r\n{SMUGGLED}").into_bytes()
}

#[tokio::test]
async fn chunks_that_can_be_read_in_two_ways_never_become_a_whole_request() -> Result<()> {
    let world = World::new().await?;
    let chunks = |body: &str| {
        post(
            "transfer-encoding: chunked\r\n",
            &format!("{body}{SMUGGLED}"),
        )
    };
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000));
    refused(
        &world,
        &[
            ("negative", chunks("-5\r\nhello\r\n0\r\n\r\n")),
            ("a sign", chunks("+5\r\nhello\r\n0\r\n\r\n")),
            ("0x", chunks("0x5\r\nhello\r\n0\r\n\r\n")),
            (
                "more than 64 bits",
                chunks("10000000000000005\r\nhello\r\n0\r\n\r\n"),
            ),
            (
                "huge",
                post(
                    "transfer-encoding: chunked\r\n",
                    "ffffffffffffffff\r\nunfinished",
                ),
            ),
            (
                "a space behind the size",
                chunks("5 \r\nhello\r\n0\r\n\r\n"),
            ),
            ("no size", chunks("\r\nhello\r\n0\r\n\r\n")),
            ("a bare LF behind the size", chunks("5\nhello\r\n0\r\n\r\n")),
            (
                "a bare LF behind the chunk",
                chunks("5\r\nhello\n0\r\n\r\n"),
            ),
            ("nothing behind the chunk", chunks("5\r\nhello0\r\n\r\n")),
            ("shorter than it says", chunks("6\r\nhello\r\n0\r\n\r\n")),
            ("longer than it says", chunks("4\r\nhello\r\n0\r\n\r\n")),
            (
                "an LF in the extension",
                chunks("5;x\ny\r\nhello\r\n0\r\n\r\n"),
            ),
            (
                "a CR in the extension",
                chunks("5;x\ry\r\nhello\r\n0\r\n\r\n"),
            ),
            ("an endless extension", chunks(&long)),
            (
                "a bare LF in the trailers",
                chunks("5\r\nhello\r\n0\r\nx: 1\n\r\n"),
            ),
            ("LF as the last line", chunks("5\r\nhello\r\n0\r\n\n")),
        ],
    )
    .await
}

#[tokio::test]
async fn what_is_odd_and_clear_arrives_as_one_request() -> Result<()> {
    let world = World::new().await?;
    let close = "connection: close\r\n";
    let cases: &[(&str, Vec<u8>, &str)] = &[
        (
            "the target's host wins",
            format!("GET http://orders/case HTTP/1.1\r\nhost: billing\r\n{close}\r\n").into_bytes(),
            "host: orders\r\n",
        ),
        (
            "an empty line first",
            format!("\r\nGET http://orders/case HTTP/1.1\r\nhost: orders\r\n{close}\r\n")
                .into_bytes(),
            "get /case http/1.1\r\n",
        ),
        (
            "HTTP/1.0",
            b"GET http://orders/case HTTP/1.0\r\nhost: orders\r\n\r\n".to_vec(),
            "get /case http/1.1\r\n",
        ),
        (
            "HTTP/1.0 without a host",
            b"GET http://orders/case HTTP/1.0\r\n\r\n".to_vec(),
            "host: orders\r\n",
        ),
        (
            "a chunk with an extension and leading zeros",
            post(
                &format!("{close}transfer-encoding: chunked\r\n"),
                "005;a=b\r\nhello\r\n0\r\n\r\n",
            ),
            "transfer-encoding: chunked\r\n",
        ),
        (
            "a length with leading zeros",
            post(&format!("{close}content-length: 05\r\n"), "hello"),
            "content-length: ",
        ),
        (
            "hop-by-hop headers, and those that Connection names",
            post(
                "connection: close, x-secret\r\nx-secret: 1\r\nkeep-alive: 5\r\nproxy-connection: x\r\n",
                "",
            ),
            "post /case http/1.1\r\n",
        ),
    ];
    for (case, bytes, has) in cases {
        let answer = world.http1(bytes).await?;
        assert!(
            answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"),
            "{case}: {answer}"
        );
        let seen = world.seen().await?;
        assert_eq!(seen.len(), 1, "{case}: {seen:?}");
        assert!(seen[0].whole, "{case}: {seen:?}");
        assert_well_formed(&seen[0], case);
        assert!(seen[0].head.contains(has), "{case}: {seen:?}");
        for gone in ["x-secret", "keep-alive", "proxy-connection", "connection"] {
            assert!(
                !seen[0].head.contains(&format!("\r\n{gone}:")),
                "{case}: {seen:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_request_behind_another_is_looked_at_as_closely() -> Result<()> {
    let world = World::new().await?;
    let first = "POST http://orders/first HTTP/1.1\r\nhost: orders\r\n";
    for first in [
        format!("{first}content-length: 5\r\n\r\nhello"),
        format!("{first}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        "GET http://orders/first HTTP/1.1\r\nhost: orders\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"
            .to_owned(),
    ] {
        let second = "GET http://orders/second HTTP/1.1\r\nhost: orders\nx: 1\r\n\r\n";
        let answer = world.http1(format!("{first}{second}").as_bytes()).await?;
        // One answer, and then a refusal or the end.
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{first:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{first:?}: {answer}");
        let seen = world.seen().await?;
        assert_eq!(seen.len(), 1, "{first:?}: {seen:?}");
        assert_well_formed(&seen[0], &first);
    }
    Ok(())
}
