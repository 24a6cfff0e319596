//! What applications, peers and strangers send to a sidecar.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use sidecar::identity::SpiffeId;
use sidecar::policy::compression::accepts_gzip;
use sidecar::proxy::gate::answers::{Answers, Asked};
use sidecar::proxy::gate::frames::Frames;
use sidecar::proxy::gate::requests::Requests;
use sidecar::proxy::gate::{Gate, Refused};
use sidecar::proxy::headers::{self, Origin};
use sidecar::proxy::limits;
use sidecar::proxy::upstream::Speak;
use tests::frames::{DATA, END_HEADERS, HEADERS, PING, SETTINGS, block, frame};
use tokio::io::AsyncWriteExt;

use crate::{fuzz, text};

const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nx: 1\r\n\r\n\
      GET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    b"POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\nok",
];
const REQUEST_PIECES: &[&[u8]] = &[
    b"content-length: 5\r\n",
    b"content-length: 0\r\n",
    b"content-length: 6\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    b"\r\n ",
    b" :",
];

/// What is decided must not depend on how the bytes are cut on their way.
fn cut_anyhow(bytes: &[u8], read: impl Fn(Vec<&[u8]>) -> Option<Refused>) {
    let whole = read(vec![bytes]).map(|refused| refused.why);
    for size in [1, 7] {
        let cut = read(bytes.chunks(size).collect()).map(|refused| refused.why);
        assert_eq!(cut, whole, "in pieces of {size}");
    }
}

#[test]
fn fuzz_the_gate_for_requests() {
    fuzz(5_000, REQUESTS, REQUEST_PIECES, |bytes| {
        cut_anyhow(bytes, |pieces| {
            let mut requests = Requests::new(Arc::default());
            pieces
                .into_iter()
                .find_map(|piece| requests.read(piece).err())
        });
    });
}

/// One request, as far as two readers could differ about it.
type Read = (String, Bytes);

/// The simplest reader that takes nothing but what the standard calls right, for the whole at once.
fn by_the_book(mut bytes: &[u8]) -> Vec<Read> {
    fn one(bytes: &mut &[u8]) -> Option<Read> {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            *bytes = rest;
        }
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        *bytes = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let target = lines.next()?.split(' ').nth(1)?.to_owned();
        let (mut length, mut chunked) = (None, false);
        for line in lines {
            if line.contains(['\r', '\n']) {
                return None;
            }
            let (name, value) = line.split_once(':')?;
            let value = value.trim_matches([' ', '\t']);
            match name.to_ascii_lowercase().as_str() {
                "content-length" if length.is_none() => length = Some(value.parse::<usize>().ok()?),
                "transfer-encoding" if !chunked && value.eq_ignore_ascii_case("chunked") => {
                    chunked = true
                }
                "content-length" | "transfer-encoding" => return None,
                _ => {}
            }
        }
        let body = match (length, chunked) {
            (Some(_), true) => return None,
            (length, false) => take(bytes, length.unwrap_or(0))?.to_vec(),
            (None, true) => chunks(bytes)?,
        };
        Some((target, body.into()))
    }
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let end = bytes.windows(2).position(|two| two == b"\r\n")?;
        let line = take(bytes, end)?;
        take(bytes, 2)?;
        (!line.contains(&b'\n') && !line.contains(&b'\r')).then_some(line)
    }
    fn chunks(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = line(bytes)?.split(|b| *b == b';').next()?;
            let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
            if size == 0 {
                while !line(bytes)?.is_empty() {}
                return Some(body);
            }
            body.extend_from_slice(take(bytes, size)?);
            (take(bytes, 2)? == b"\r\n").then_some(())?;
        }
    }
    std::iter::from_fn(|| one(&mut bytes)).collect()
}

#[test]
fn fuzz_what_hyper_reads_behind_the_gate_against_the_book() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    fuzz(1_500, REQUESTS, REQUEST_PIECES, |bytes| {
        let seen = Arc::new(Mutex::new(Vec::<Read>::new()));
        let record = seen.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let record = record.clone();
            async move {
                let (head, body) = request.into_parts();
                // A body that does not come to its end makes no request.
                if let Ok(body) = body.collect().await {
                    let read = (head.uri.to_string(), body.to_bytes());
                    record.lock().expect("no panic").push(read);
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        runtime.block_on(async {
            let (mut far, near) = tokio::io::duplex(64 * 1024);
            let gate = Gate::requests(near, Arc::default());
            let serving = limits::h1_server().serve_connection(TokioIo::new(gate), service);
            far.write_all(bytes).await.expect("room");
            far.shutdown().await.expect("still there");
            let _ = serving.await;
        });
        let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
        let book = by_the_book(bytes);
        assert!(
            seen.len() <= book.len(),
            "hyper read {seen:?}, the book {book:?}"
        );
        for (read, right) in seen.iter().zip(&book) {
            // hyper drops fragments, and gives an absolute target a path.
            assert_eq!(read.1, right.1, "hyper read {seen:?}, the book {book:?}");
            let target = right.0.split('#').next().unwrap_or_default();
            assert!(
                read.0.starts_with(target),
                "hyper read {seen:?}, the book {book:?}"
            );
        }
    });
}

#[test]
fn fuzz_the_gate_for_answers() {
    let examples: &[&[u8]] = &[
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 204 No Content\n\n",
    ];
    fuzz(5_000, examples, REQUEST_PIECES, |bytes| {
        cut_anyhow(bytes, |pieces| {
            let asked = Arc::new(Asked::default());
            let mut answers = Answers::new(asked.clone());
            asked.one();
            pieces
                .into_iter()
                .find_map(|piece| answers.read(piece).err())
        });
    });
}

/// What passes of a piece, as the gate reads it.
fn sifted(frames: &mut Frames, piece: &[u8], passed: &mut Vec<u8>) -> Result<(), Refused> {
    let missing = frames.withheld();
    let now = missing.len().min(piece.len());
    missing[..now].copy_from_slice(&piece[..now]);
    if now > 0 {
        passed.extend(frames.came(now)?.into_iter().flatten());
    }
    let mut rest = piece[now..].to_vec();
    let left = frames.sift(&mut rest)?;
    passed.extend_from_slice(&rest[..left]);
    Ok(())
}

#[test]
fn fuzz_the_gate_for_frames() {
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let request = frame(HEADERS, END_HEADERS, 1, &block(&[(":method", b"GET")]));
    let whole = [
        preface,
        &frame(SETTINGS, 0, 0, &[]),
        &request,
        &frame(PING, 0, 0, &[0; 8]),
    ]
    .concat();
    let flood = frame(PING, 0, 0, &[0; 8]).repeat(400);
    let empty = frame(DATA, 0, 1, &[]);
    fuzz(
        2_000,
        &[&whole, &flood],
        &[&frame(PING, 0, 0, &[0; 8]), &request, &empty],
        |bytes| {
            let passes = |pieces: Vec<&[u8]>| {
                let mut frames = Frames::of_client();
                let mut passed = Vec::new();
                let read = pieces
                    .into_iter()
                    .try_for_each(|piece| sifted(&mut frames, piece, &mut passed));
                frames.written(bytes);
                read.map(|()| passed).map_err(|refused| refused.why)
            };
            let whole = passes(vec![bytes]);
            for size in [1, 7] {
                assert_eq!(
                    passes(bytes.chunks(size).collect()),
                    whole,
                    "in pieces of {size}"
                );
            }
        },
    );
}

/// Whether gzip weighs something, and no less than nothing does: by the grammar of RFC 9110, sections
/// 12.4.2 and 12.5.3.
fn gzip_by_the_book(accepts: &[u8]) -> bool {
    let entry = Regex::new(
        r"(?-u)^[ \t]*([^; \t]+)[ \t]*(?:;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?$",
    )
    .expect("an expression");
    let weight = |names: &[&str]| {
        let entries = accepts.split(|byte| *byte == b',');
        let weights = entries.filter_map(|one| {
            let read = entry.captures(one)?;
            let name = String::from_utf8_lossy(&read[1]).to_ascii_lowercase();
            let weight = read.get(2).map_or("1".into(), |weight| {
                String::from_utf8_lossy(weight.as_bytes()).into_owned()
            });
            names.contains(&&*name).then(|| weight.parse::<f64>())?.ok()
        });
        weights.reduce(f64::min)
    };
    let gzip = weight(&["gzip", "x-gzip"]).or_else(|| weight(&["*"]));
    gzip.is_some_and(|gzip| gzip > 0.0 && gzip >= weight(&["identity"]).unwrap_or(0.0))
}

#[test]
fn fuzz_what_is_accepted_to_be_compressed() {
    let examples: &[&[u8]] = &[
        b"gzip",
        b"gzip, deflate, br, zstd",
        b"gzip;q=1.0, identity; q=0.5, *;q=0",
        b"*;q=0.001, br ; q=0.9",
        b"identity;q=1, x-gzip;q=1.000",
    ];
    let pieces: &[&[u8]] = &[b",", b"gzip", b";q=0", b"*", b"identity", b"Q=0.999", b" "];
    fuzz(5_000, examples, pieces, |bytes| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else {
            return;
        };
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT_ENCODING, value);
        assert_eq!(accepts_gzip(&headers), gzip_by_the_book(bytes));
        // Who refuses it once is believed.
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip;q=0"));
        assert!(!accepts_gzip(&headers));
    });
}

/// A request whose head these lines are, if hyper could have read it.
fn request(bytes: &[u8]) -> Option<Request<()>> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let mut words = first.split(' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    if let Some(version) = words.next() {
        request = request.version(match version {
            "1.0" => Version::HTTP_10,
            "2" => Version::HTTP_2,
            _ => Version::HTTP_11,
        });
    }
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..at]).ok()?;
        request = request.header(
            name,
            HeaderValue::from_bytes(line[at + 1..].trim_ascii()).ok()?,
        );
    }
    request.body(()).ok()
}

fn shown(headers: &HeaderMap) -> String {
    format!("{headers:?}")
}

#[test]
fn fuzz_heads() {
    let examples: &[&[u8]] = &[
        b"GET /a?b=c 1.1\nhost: orders.shop:80\naccept: */*",
        b"GET http://orders/a 1.1\nhost: orders\nconnection: close, x-secret\nx-secret: 1\nte: trailers",
        b"POST http://orders/ 2\ncontent-length: 5\ncookie: a=1\ncookie: b=2\ngrpc-timeout: 10S",
        b"CONNECT orders:80 1.1\nhost: orders:80",
        b"OPTIONS * 1.1\nhost: [::1]:80\nx-forwarded-for: 1.2.3.4\nssl-client-verify: SUCCESS",
        b"GET / 1.0\nmeshwright-reason: x\nforwarded: for=1",
        b"GET http://orders#x 1.1\nhost: orders",
    ];
    let pieces: &[&[u8]] = &[
        b"\nhost: a",
        b"\nhost:",
        b"\ncontent-length: 5",
        b"\nte: trailers",
        b"\nconnection: host",
    ];
    fuzz(20_000, examples, pieces, |bytes| {
        let Some(request) = request(bytes) else {
            return;
        };
        let (head, ()) = request.into_parts();
        let _ = (headers::host(&head), headers::port(&head));
        if let Some(wait) = headers::grpc_timeout(&head.headers) {
            assert!(wait.as_secs() <= 99_999_999 * 3600);
        }
        // What is removed stays removed.
        for from in [Origin::Peer, Origin::Outside] {
            let mut once = head.headers.clone();
            headers::remove_hop_by_hop(&mut once);
            headers::remove_reserved(&mut once);
            headers::remove_claims(&mut once, from);
            headers::clean_trailers(&mut HeaderMap::clone(&once));
            let mut twice = once.clone();
            headers::remove_hop_by_hop(&mut twice);
            headers::remove_reserved(&mut twice);
            headers::remove_claims(&mut twice, from);
            assert_eq!(shown(&once), shown(&twice));
        }
        if headers::check(&head).is_err() {
            return;
        }
        // What is carried has one host, the same on every hop and in either version.
        let host = headers::host(&head).map(str::to_owned);
        let mut request = Request::from_parts(head, ());
        if headers::fit(&mut request, Speak::Http2).is_err() {
            assert!(request.version() == Version::HTTP_10 || host.as_deref() == Some(""));
            return;
        }
        headers::fit(&mut request, Speak::Http1).expect("what HTTP/2 can say");
        assert_eq!(request.headers().get_all("host").iter().count(), 1);
        let (head, ()) = request.into_parts();
        assert_eq!(headers::host(&head).map(str::to_owned), host);
        headers::check(&head).expect("what was carried can be carried");
    });
}

#[test]
fn fuzz_identities() {
    let examples: &[&[u8]] = &[
        b"spiffe://cluster.local/ns/shop/sa/orders",
        b"spiffe://a/ns/b/sa/c",
    ];
    let pieces: &[&[u8]] = &[b"/ns/", b"/sa/", b"spiffe://", b"a.b-c"];
    fuzz(
        20_000,
        examples,
        pieces,
        text(|text| {
            let Ok(id) = text.parse::<SpiffeId>() else {
                return;
            };
            assert_eq!(id.as_str(), text);
            let (domain, namespace, account) =
                (id.trust_domain(), id.namespace(), id.service_account());
            assert_eq!(
                format!("spiffe://{domain}/ns/{namespace}/sa/{account}"),
                text
            );
        }),
    );
}

#[test]
fn fuzz_paths() {
    let examples: &[&[u8]] = &[
        b"/a/b",
        b"/a/../b/./c//d",
        b"/%61%2F%2e%2e/%zz",
        b"/",
        b"/a;b=c/d",
    ];
    let pieces: &[&[u8]] = &[
        b"/..", b"/.", b"%2e%2e", b"%2f", b"%5c", b"\\", b"%25", b"%00",
    ];
    fuzz(20_000, examples, pieces, |bytes| {
        let Ok(form) = wire::path::normalise(bytes) else {
            return;
        };
        // One form: read again it is the same, and it leads nowhere else.
        let again = wire::path::normalise(form.as_bytes()).expect("a form is a path");
        assert_eq!(again, form);
        assert!(form.starts_with('/'));
        assert!(
            !form.split('/').any(|segment| matches!(segment, "." | "..")),
            "{form}"
        );
    });
}
