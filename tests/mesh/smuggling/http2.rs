//! The same in HTTP/2, frame by frame.

use anyhow::{Context as _, Result, ensure};
use tests::client::Client;
use tests::frames::{self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Outcome, block};
use tests::mesh::{Mesh, Workload};
use tests::raw::connect;
use tests::upstream::Seen;

use super::SMUGGLED;
use crate::routing::service;

/// What a request in HTTP/2 must have, first.
fn pseudo(path: &[u8]) -> Vec<(&'static str, &[u8])> {
    vec![
        (":method", b"POST"),
        (":scheme", b"http"),
        (":authority", b"orders"),
        (":path", path),
    ]
}

/// A mesh whose application reads both versions, and records what it has read: an application is
/// spoken to as its caller speaks, so that what comes as HTTP/2 stays it.
async fn world_of_both() -> Result<(Mesh, Workload, Client)> {
    let mesh = Mesh::start(&service("orders", "http")).await?;
    let orders = mesh.workload("orders").await?;
    let client = mesh.client("web").await?;
    Ok((mesh, orders, client))
}

/// What the application has seen since the last look, as [`World::seen`] does it.
async fn seen_of_both(orders: &Workload, client: &Client, before: &mut usize) -> Result<Vec<Seen>> {
    let answer = client.get("http://orders/last").await?;
    ensure!(answer.status == 200, "{answer:?}");
    let mut seen = orders.upstream.seen().split_off(*before);
    *before += seen.len();
    seen.retain(|one| one.target != "/last");
    Ok(seen)
}

/// Sends a header block and a body over a connection of its own.
async fn http2(client: &Client, fields: &[(&str, &[u8])], body: Option<&[u8]>) -> Result<Outcome> {
    let mut frames = frames::Frames::client(connect(client).await?).await?;
    let end = if body.is_none() { END_STREAM } else { 0 };
    let mut bytes = frames::frame(HEADERS, END_HEADERS | end, 1, &block(fields));
    if let Some(body) = body {
        bytes.extend(frames::frame(DATA, END_STREAM, 1, body));
    }
    frames.send(&bytes).await?;
    frames.outcome(1).await
}

#[tokio::test]
async fn http2_that_can_be_read_in_two_ways_reaches_nobody() -> Result<()> {
    let (_mesh, orders, client) = world_of_both().await?;
    let mut before = 0;
    let with = |more: &[(&'static str, &'static [u8])]| [pseudo(b"/case"), more.to_vec()].concat();
    let without = |name: &str| {
        let mut fields = pseudo(b"/case");
        fields.retain(|(one, _)| *one != name);
        fields
    };
    let instead = |name: &str, value: &'static [u8]| {
        let mut fields = pseudo(b"/case");
        for field in &mut fields {
            if field.0 == name {
                field.1 = value;
            }
        }
        fields
    };
    type Case<'a> = (
        &'a str,
        Vec<(&'static str, &'static [u8])>,
        Option<&'a [u8]>,
    );
    let smuggled = SMUGGLED.as_bytes();
    let cases: Vec<Case<'_>> = vec![
        (
            "less than its length",
            with(&[("content-length", b"500")]),
            Some(b"hello"),
        ),
        (
            "more than its length",
            with(&[("content-length", b"0")]),
            Some(smuggled),
        ),
        (
            "a length without a body",
            with(&[("content-length", b"5")]),
            None,
        ),
        (
            "two lengths",
            with(&[("content-length", b"5"), ("content-length", b"6")]),
            Some(b"hello"),
        ),
        (
            "the same twice",
            with(&[("content-length", b"5"), ("content-length", b"5")]),
            Some(b"hello"),
        ),
        (
            "a length with a sign",
            with(&[("content-length", b"+5")]),
            Some(b"hello"),
        ),
        (
            "transfer-encoding",
            with(&[("transfer-encoding", b"chunked")]),
            Some(b"0\r\n\r\n"),
        ),
        ("connection", with(&[("connection", b"keep-alive")]), None),
        ("upgrade", with(&[("upgrade", b"websocket")]), None),
        ("keep-alive", with(&[("keep-alive", b"5")]), None),
        (
            "proxy-connection",
            with(&[("proxy-connection", b"close")]),
            None,
        ),
        ("te", with(&[("te", b"gzip")]), None),
        (
            "a host that is not the authority",
            with(&[("host", b"billing")]),
            None,
        ),
        (
            "two hosts",
            with(&[("host", b"orders"), ("host", b"orders")]),
            None,
        ),
        ("a name in capitals", with(&[("X-Case", b"1")]), None),
        ("a name with a colon", with(&[("x:y", b"1")]), None),
        ("a name with CRLF", with(&[("x: 1\r\ny", b"1")]), None),
        ("a name with a space", with(&[("x y", b"1")]), None),
        ("no name", with(&[("", b"1")]), None),
        ("a value with CRLF", with(&[("x", b"1\r\ny: 2")]), None),
        ("a value with LF", with(&[("x", b"1\ny: 2")]), None),
        ("a value with NUL", with(&[("x", b"1\0")]), None),
        (
            "a pseudo-header after others",
            [vec![("x", &b"1"[..])], pseudo(b"/case")].concat(),
            None,
        ),
        (
            "a pseudo-header twice",
            with(&[(":path", b"/smuggled")]),
            None,
        ),
        (
            "an unknown pseudo-header",
            with(&[(":smuggled", b"1")]),
            None,
        ),
        ("a status", with(&[(":status", b"200")]), None),
        ("no method", without(":method"), None),
        ("no path", without(":path"), None),
        ("no scheme", without(":scheme"), None),
        ("no authority", without(":authority"), None),
        ("an empty authority", instead(":authority", b""), None),
        (
            "an authority with credentials",
            instead(":authority", b"u:p@orders"),
            None,
        ),
        (
            "an authority with a path",
            instead(":authority", b"orders/x"),
            None,
        ),
        (
            "an authority with CRLF",
            instead(":authority", b"orders\r\nx: 1"),
            None,
        ),
        ("an empty path", instead(":path", b""), None),
        ("a path without a slash", instead(":path", b"case"), None),
        (
            "a path that is a URL",
            instead(":path", b"http://billing/"),
            None,
        ),
        (
            "a path with CRLF",
            instead(":path", b"/ HTTP/1.1\r\nx: 1"),
            None,
        ),
        (
            "a path with a space",
            instead(":path", b"/case HTTP/1.1"),
            None,
        ),
        (
            "a method with a space",
            instead(":method", b"GET /smuggled HTTP/1.1\r\n\r\nGET"),
            None,
        ),
        (
            "a method in small letters",
            instead(":method", b"post"),
            None,
        ),
        ("CONNECT", instead(":method", b"CONNECT"), None),
    ];
    for (case, fields, body) in cases {
        let outcome = http2(&client, &fields, body)
            .await
            .with_context(|| case.to_owned())?;
        let answered = match outcome {
            Outcome::Answered(status) => (400..500).contains(&status) || status == 502,
            Outcome::Reset | Outcome::Ended => true,
        };
        assert!(answered, "{case}: {outcome:?}");
        let seen = seen_of_both(&orders, &client, &mut before).await?;
        assert!(seen.is_empty(), "{case}: {seen:?}");
    }
    Ok(())
}

#[tokio::test]
async fn http2_that_is_odd_and_clear_arrives_as_one_request() -> Result<()> {
    let (_mesh, orders, client) = world_of_both().await?;
    let mut before = 0;
    let with = |more: &[(&'static str, &'static [u8])]| [pseudo(b"/case"), more.to_vec()].concat();
    let inner: &[u8] = b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let cases = [
        (
            "cookies split",
            with(&[("cookie", b"a=1"), ("cookie", b"b=2")]),
            None,
        ),
        ("te: trailers", with(&[("te", b"trailers")]), None),
        (
            "a host that is the authority",
            with(&[("host", b"orders")]),
            None,
        ),
        (
            "a body of its length",
            with(&[("content-length", b"5")]),
            Some(&b"hello"[..]),
        ),
        ("a body of no length", with(&[]), Some(inner)),
    ];
    for (case, fields, body) in cases {
        let outcome = http2(&client, &fields, body).await?;
        assert_eq!(outcome, Outcome::Answered(200), "{case}");
        let seen = seen_of_both(&orders, &client, &mut before).await?;
        let [seen] = &seen[..] else {
            panic!("{case}: {seen:?}")
        };
        assert_eq!(seen.body, body.unwrap_or_default(), "{case}");
        assert_eq!(seen.target, "http://orders/case", "{case}");
        assert!(!seen.headers.contains_key("host"), "{case}: {seen:?}");
    }
    // A head in pieces is one head.
    let mut frames = frames::Frames::client(connect(&client).await?).await?;
    let block = block(&pseudo(b"/pieces"));
    let (first, last) = block.split_at(block.len() / 2);
    frames
        .send(&frames::frame(HEADERS, END_STREAM, 1, first))
        .await?;
    frames
        .send(&frames::frame(CONTINUATION, END_HEADERS, 1, last))
        .await?;
    assert_eq!(frames.outcome(1).await?, Outcome::Answered(200));
    assert_eq!(seen_of_both(&orders, &client, &mut before).await?.len(), 1);
    Ok(())
}
