//! Applications that answer badly: the caller gets a clean 502, or sees that the answer broke off.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tests::client::Client;
use tests::frames::{self, END_HEADERS, END_STREAM, HEADERS, block, frame};
use tests::mesh::{Mesh, SOON, Sidecar};
use tests::raw::{connect, h2, head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::routing::service;

/// A mesh whose application answers every request with the same bytes.
async fn world(answer: Vec<u8>, then: Then) -> Result<(Mesh, Sidecar, Client)> {
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, sidecar) = mesh.listener("orders").await?;
    let client = mesh.client("web").await?;
    tokio::spawn(application(listener, answer, then));
    Ok((mesh, sidecar, client))
}

/// What it does when it has answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Close,
    Stay,
    Repeat,
}

async fn application(listener: TcpListener, answer: Vec<u8>, then: Then) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answered(stream, answer.clone(), then));
    }
}

async fn answered(mut stream: TcpStream, answer: Vec<u8>, then: Then) {
    let mut asked = [0; 16 * 1024];
    while let Ok(1..) = stream.read(&mut asked).await {
        loop {
            // A sidecar that has had enough closes.
            if stream.write_all(&answer).await.is_err() || then == Then::Close {
                return;
            }
            if then == Then::Stay {
                break;
            }
        }
    }
}

/// What the caller sees.
#[derive(Clone, Copy, Debug)]
enum Expected {
    BadGateway,
    BreaksOff,
    Unavailable,
}

fn bytes(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[tokio::test]
async fn an_answer_that_is_none_becomes_a_502() -> Result<()> {
    let many = "x: 1\r\n".repeat(200);
    let long = format!("x: {}\r\n", "a".repeat(100_000));
    let cases = [
        ("nothing", bytes(""), Then::Close),
        (
            "garbage",
            bytes("\x16\x03\x01 not HTTP at all\r\n\r\n"),
            Then::Close,
        ),
        ("half a status line", bytes("HTTP/1.1 20"), Then::Close),
        (
            "half a head",
            bytes("HTTP/1.1 200 OK\r\ncontent-le"),
            Then::Close,
        ),
        ("no version", bytes("200 OK\r\n\r\n"), Then::Stay),
        (
            "HTTP/2.0",
            bytes("HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
            Then::Stay,
        ),
        (
            "a status of two digits",
            bytes("HTTP/1.1 20 OK\r\n\r\n"),
            Then::Stay,
        ),
        (
            "a status under 100",
            bytes("HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n"),
            Then::Stay,
        ),
        (
            "NUL",
            bytes("HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n"),
            Then::Stay,
        ),
        (
            "a folded line",
            bytes("HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n"),
            Then::Stay,
        ),
        (
            "two lengths",
            bytes("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"),
            Then::Stay,
        ),
        (
            "a list of lengths",
            bytes("HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok"),
            Then::Stay,
        ),
        (
            "a length with a sign",
            bytes("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok"),
            Then::Stay,
        ),
        (
            "chunks and a length",
            bytes(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ),
            Then::Stay,
        ),
        (
            "an odd coding",
            bytes("HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
            Then::Stay,
        ),
        (
            "too many headers",
            bytes(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")),
            Then::Stay,
        ),
        (
            "a head that is too long",
            bytes(&format!("HTTP/1.1 200 OK\r\n{long}\r\n")),
            Then::Stay,
        ),
        (
            "headers without end",
            bytes("HTTP/1.1 200 OK\r\nx: 1\r\ny: 2\r\nx: 1\r\n"),
            Then::Repeat,
        ),
        (
            "interim answers without end",
            bytes("HTTP/1.1 102 Processing\r\n\r\n"),
            Then::Repeat,
        ),
        (
            "hints without end",
            bytes("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"),
            Then::Repeat,
        ),
        (
            "another protocol, unasked",
            bytes("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            Then::Stay,
        ),
    ];
    for (case, answer, then) in cases {
        let (_mesh, sidecar, client) = world(answer, then).await?;
        let answer = client.get("http://orders/").await?;
        let said = (answer.status, answer.reason());
        let log = sidecar.log()?;
        assert!(
            [(502, "bad_response"), (502, "upstream_reset")].contains(&said),
            "{case}: {answer:?} {log}"
        );
        // And again: nothing of it is left over.
        let answer = client.get("http://orders/").await?;
        assert_eq!(answer.status, 502, "{case}: {answer:?}");
        let resident = sidecar.resident_bytes()?;
        assert!(resident < 64 << 20, "{case}: {resident} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_have_broken_off() -> Result<()> {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n-1\r\nx\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nfffffffffffffffff\r\n",
    ] {
        let (_mesh, _sidecar, client) = world(bytes(answer), Then::Close).await?;
        let mut stream = connect(&client).await?;
        stream
            .write_all(b"GET http://orders/ HTTP/1.1\r\nhost: orders\r\n\r\n")
            .await?;
        // Closed before the length is reached, or the last chunk is there; where the end came as
        // soon as the head, before anything.
        let mut seen = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut seen)).await?;
        let seen = String::from_utf8(seen)?;
        let whole = seen.ends_with("0\r\n\r\n") || seen.len() >= 200;
        assert!(
            !whole && (seen.is_empty() || seen.starts_with("HTTP/1.1 200 ")),
            "{answer:?}: {seen:?}"
        );

        let error = client
            .get("http://orders/")
            .await
            .expect_err("half an answer");
        assert!(
            !format!("{error:#}").contains("no answer within"),
            "{error:#}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_in_http2_that_is_none_becomes_a_502_and_one_that_breaks_off_a_reset()
-> Result<()> {
    let headers =
        |fields: &[(&str, &[u8])], flags| frame(HEADERS, END_HEADERS | flags, 1, &block(fields));
    let status: (&str, &[u8]) = (":status", b"200");
    let half = [
        headers(&[status, ("content-length", b"100")], 0),
        frame(frames::DATA, END_STREAM, 1, b"half"),
    ];
    let broken = [
        headers(&[status], 0),
        frame(frames::DATA, 0, 1, b"half"),
        frame(frames::RST_STREAM, 0, 1, &[0, 0, 0, 2]),
    ];
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        (
            "no status",
            headers(&[("x", b"1")], END_STREAM),
            Expected::BadGateway,
        ),
        (
            "an odd status",
            headers(&[(":status", b"2000")], END_STREAM),
            Expected::BadGateway,
        ),
        (
            "transfer-encoding",
            headers(&[status, ("transfer-encoding", b"chunked")], END_STREAM),
            Expected::BadGateway,
        ),
        (
            "a name in capitals",
            headers(&[status, ("X", b"1")], END_STREAM),
            Expected::BadGateway,
        ),
        (
            "reset at once",
            frame(frames::RST_STREAM, 0, 1, &[0, 0, 0, 2]),
            Expected::BadGateway,
        ),
        (
            "GOAWAY",
            frame(frames::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]),
            Expected::Unavailable,
        ),
        (
            "garbage",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            Expected::BadGateway,
        ),
        (
            "hints without end",
            headers(&[(":status", b"103")], 0).repeat(5000),
            Expected::BadGateway,
        ),
        ("less than its length", half.concat(), Expected::BreaksOff),
        ("reset in its middle", broken.concat(), Expected::BreaksOff),
    ];
    for (case, answer, expected) in cases {
        let mesh = Mesh::start(&service("orders", "kubernetes.io/h2c")).await?;
        let (listener, sidecar) = mesh.listener("orders").await?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    stream
                        .write_all(&frame(frames::SETTINGS, 0, 0, &[]))
                        .await?;
                    let mut asked = [0; 16 * 1024];
                    // Until there is a request: its HEADERS come with or after our SETTINGS' ACK.
                    let mut seen = Vec::new();
                    while !seen.windows(6).any(|six| six == [HEADERS, 5, 0, 0, 0, 1]) {
                        let read = stream.read(&mut asked).await?;
                        ensure!(read > 0, "no request");
                        seen.extend_from_slice(&asked[..read]);
                    }
                    stream.write_all(&answer).await?;
                    while stream.read(&mut asked).await? > 0 {}
                    anyhow::Ok(())
                });
            }
        });
        let client = mesh.client("web").await?;
        let mut h2 = h2(&client).await?;
        let request = Request::get("http://orders/").body(Empty::<Bytes>::new())?;
        let answer = timeout(SOON, h2.send_request(request)).await??;
        let got = answer.status().as_u16();
        let body = timeout(SOON, answer.into_body().collect()).await?;
        // Where the end comes as soon as the head, no head is passed on.
        let broke_off = got == 502 || (got == 200 && body.is_err());
        match expected {
            Expected::BadGateway => assert_eq!(got, 502, "{case}: {}", sidecar.log()?),
            Expected::BreaksOff => assert!(broke_off, "{case}: {got} {body:?}"),
            Expected::Unavailable => assert!([502, 503].contains(&got), "{case}: {got}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_before_the_request_has_ended_arrives() -> Result<()> {
    let answer =
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno.";
    let (_mesh, _sidecar, client) = world(bytes(answer), Then::Close).await?;
    let mut stream = connect(&client).await?;
    stream
        .write_all(b"POST http://orders/ HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000000\r\n\r\nthe beginning")
        .await?;
    let (head, _) = head(&mut stream).await?;
    assert!(head.starts_with("http/1.1 413"), "{head}");
    Ok(())
}

#[tokio::test]
async fn a_head_that_never_ends_is_waited_for_no_longer_than_any() -> Result<()> {
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let (listener, _sidecar) = mesh.listener("orders").await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await?;
                // A byte now and then, for as long as anybody reads.
                loop {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    stream.write_all(b"a").await?;
                }
                #[allow(unreachable_code)]
                anyhow::Ok(())
            });
        }
    });
    let client = mesh.client("web").await?;
    let limit = sidecar::proxy::limits::HEAD_TIME + SOON;
    let mut stream = connect(&client).await?;
    stream
        .write_all(b"GET http://orders/ HTTP/1.1\r\nhost: orders\r\n\r\n")
        .await?;
    let mut answer = vec![0; 12];
    timeout(limit, stream.read_exact(&mut answer)).await??;
    assert_eq!(answer, b"HTTP/1.1 502");
    Ok(())
}
