//! Compression: what callers accept to have compressed is compressed for them, with gzip.
//!
//! Phase: after all attempts, and while the body streams, in the caller's sidecar. From
//! `ApiRoute.rules[].compression`. The client sees `Content-Encoding: gzip`, no length, a weak
//! validator in place of a strong one, and `Vary: Accept-Encoding` also where it accepts nothing.
//! What is compressed of each piece that comes is passed on at once: a slow stream stays as slow as
//! it is, and no more than a piece is held. A response beyond what a worker compresses at a time
//! ([`MAX_UNDER_WAY`]) passes as it is: nothing fails for want of it.
//!
//! Whoever can choose a part of a response and see its length can learn what stands beside that part
//! (BREACH). Therefore nothing is compressed that no rule asks for, and the field says so.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::rc::Rc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, VARY,
};
use http::{Response, StatusCode};
use http_body::Body as _;

use crate::proxy::body::ResponseBody;
use crate::proxy::error::Reason;

/// Responses that one worker compresses at a time. Each has some 350 KiB of tables: together 22 MiB.
const MAX_UNDER_WAY: usize = 64;

/// zlib's levels are 1 to 9. Nothing else of a worker goes on while it compresses a piece: speed
/// counts for more than the last per cent of size.
const LEVEL: u32 = 4;

/// Digests of what is sent: another encoding makes them wrong (RFC 9530).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// Responses from this length on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    min_bytes: u64,
}

/// What one request asks for of what its rule allows.
#[derive(Debug)]
pub struct Asked {
    compression: Compression,
    gzip: bool,
    /// Validators of what the caller has already.
    known: Option<HeaderValue>,
    is_head: bool,
}

/// The responses that one worker compresses.
#[derive(Debug, Default)]
pub struct Compressors {
    under_way: Cell<usize>,
}

/// One response's compressor; a place among [`Compressors`] until it is dropped.
#[derive(Debug)]
pub struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    _place: Place,
}

#[derive(Debug)]
struct Place(Rc<Compressors>);

// === build ===

impl Compression {
    /// Of responses that have `min_bytes` or say no length.
    pub fn new(min_bytes: u64) -> Self {
        Self { min_bytes }
    }

    // === request ===

    /// Reads what the caller accepts, before anything is edited.
    pub fn ask(self, headers: &HeaderMap, is_head: bool) -> Asked {
        Asked {
            compression: self,
            gzip: accepts_gzip(headers),
            known: headers.get(IF_NONE_MATCH).cloned(),
            is_head,
        }
    }

    /// Whether a response is such as is compressed, whoever asks.
    fn fits(self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> bool {
        let whole = !matches!(
            status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT
        );
        let is_there = |name: &HeaderName| headers.contains_key(name);
        whole
            && !status.is_informational()
            && length.is_none_or(|length| length > 0 && length >= self.min_bytes)
            && !is_there(&CONTENT_ENCODING)
            && !is_there(&CONTENT_RANGE)
            && !DIGESTS.iter().any(|digest| headers.contains_key(*digest))
            && !lists(headers, &CACHE_CONTROL, |item| {
                item.eq_ignore_ascii_case(b"no-transform")
            })
            && headers.get(CONTENT_TYPE).is_some_and(is_compressible)
            && Reason::of(headers).is_none()
    }
}

impl Asked {
    /// Compresses a response if it fits and the caller accepts it.
    pub fn apply(
        self,
        response: Response<ResponseBody>,
        compressors: &Rc<Compressors>,
    ) -> Response<ResponseBody> {
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::NOT_MODIFIED {
            self.not_modified(&mut head.headers);
            return Response::from_parts(head, body);
        }
        // To HEAD all is said of a body that does not come.
        let is_empty = body.is_end_stream() && !self.is_head;
        let known = || {
            let said = head.headers.get(CONTENT_LENGTH)?;
            said.to_str().ok()?.parse::<u64>().ok()
        };
        let exact = || body.size_hint().exact().filter(|_| !self.is_head);
        let length = known().or_else(exact);
        if is_empty || !self.compression.fits(head.status, &head.headers, length) {
            return Response::from_parts(head, body);
        }
        vary(&mut head.headers);
        if !self.gzip {
            return Response::from_parts(head, body);
        }
        let body = match self.is_head {
            true => body,
            false => match compressors.begin() {
                Some(gzip) => body.compressed(gzip),
                None => return Response::from_parts(head, body),
            },
        };
        let headers = &mut head.headers;
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.remove(CONTENT_LENGTH);
        headers.remove(ACCEPT_RANGES);
        weaken(headers);
        Response::from_parts(head, body)
    }

    /// What the caller has is what it was given: its validator is said as it was then, or a cache
    /// would not find it (RFC 9111 section 4.3.4).
    fn not_modified(&self, headers: &mut HeaderMap) {
        let weak = headers.get(ETAG).and_then(weak);
        if let (Some(weak), Some(known)) = (weak, &self.known)
            && known
                .as_bytes()
                .windows(weak.len())
                .any(|part| part == weak.as_bytes())
        {
            headers.insert(ETAG, weak);
            vary(headers);
        }
    }
}

/// Whether `Accept-Encoding` prefers gzip to nothing (RFC 9110 section 12.5.3). Who says nothing
/// gets nothing; an entry that cannot be read is none.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for line in headers.get_all(ACCEPT_ENCODING) {
        for entry in line.as_bytes().split(|byte| *byte == b',') {
            let Some((coding, weight)) = weighed(entry) else {
                continue;
            };
            let slot = match coding.to_ascii_lowercase().as_slice() {
                b"gzip" | b"x-gzip" => &mut gzip,
                b"*" => &mut any,
                b"identity" => &mut identity,
                _ => continue,
            };
            // Who refuses it once is believed.
            *slot = Some(slot.map_or(weight, |one: u16| one.min(weight)));
        }
    }
    gzip.or(any)
        .is_some_and(|gzip| gzip > 0 && gzip >= identity.unwrap_or(0))
}

/// A coding and its weight in thousandths.
fn weighed(entry: &[u8]) -> Option<(&[u8], u16)> {
    let mut parts = entry.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let coding = parts.next().filter(|coding| !coding.is_empty())?;
    let weight = match (parts.next(), parts.next()) {
        (None, _) => 1000,
        (Some(weight), None) => match weight {
            [b'q' | b'Q', b'=', digits @ ..] => thousandths(digits)?,
            _ => return None,
        },
        (Some(_), Some(_)) => return None,
    };
    Some((coding, weight))
}

/// `0.5` as 500 (RFC 9110 section 12.4.2).
fn thousandths(digits: &[u8]) -> Option<u16> {
    let (whole, rest) = digits.split_first()?;
    let rest = match rest {
        [] | [b'.'] => &[][..],
        [b'.', rest @ ..] if rest.len() <= 3 => rest,
        _ => return None,
    };
    let mut value = u16::from(whole.checked_sub(b'0').filter(|one| *one <= 1)?);
    for place in 0..3 {
        let digit = rest.get(place).copied().unwrap_or(b'0');
        value = value * 10 + u16::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
    }
    (value <= 1000).then_some(value)
}

/// What people and programs read, and no codec has made small already. Event streams are left alone:
/// each would have its tables for as long as it is open. What frames messages of its own (gRPC,
/// Connect) compresses them itself.
fn is_compressible(kind: &HeaderValue) -> bool {
    const APPLICATIONS: &[&str] = &[
        "json",
        "json-seq",
        "jsonl",
        "ndjson",
        "x-ndjson",
        "xml",
        "javascript",
        "x-javascript",
        "ecmascript",
        "yaml",
        "x-yaml",
        "wasm",
    ];
    let Ok(kind) = kind.to_str() else {
        return false;
    };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let Some((top, sub)) = kind.split_once('/') else {
        return false;
    };
    let is_built_on_text = matches!(sub.rsplit_once('+'), Some((_, "json" | "xml" | "yaml")));
    match top {
        "text" => sub != "event-stream",
        "application" if sub.starts_with("grpc") || sub.starts_with("connect") => false,
        "application" => is_built_on_text || APPLICATIONS.contains(&sub),
        _ => is_built_on_text,
    }
}

/// Whether one of the items that a header lists, in however many lines, is such.
fn lists(headers: &HeaderMap, name: &HeaderName, is_such: impl Fn(&[u8]) -> bool) -> bool {
    let lines = headers.get_all(name).iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .any(|item| is_such(item.trim_ascii()))
}

/// Caches must know that others may get it otherwise.
fn vary(headers: &mut HeaderMap) {
    let varies = lists(headers, &VARY, |item| {
        item == b"*" || item.eq_ignore_ascii_case(b"accept-encoding")
    });
    if !varies {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Compressed, the bytes are others: what names them to the byte no longer does.
fn weaken(headers: &mut HeaderMap) {
    if let Some(weak) = headers.get(ETAG).and_then(weak) {
        headers.insert(ETAG, weak);
    }
}

/// The weak form of a strong validator.
fn weak(etag: &HeaderValue) -> Option<HeaderValue> {
    let strong = etag.as_bytes();
    if strong.starts_with(b"W/") {
        return None;
    }
    HeaderValue::from_bytes(&[b"W/", strong].concat()).ok()
}

// === impl Compressors ===

impl Compressors {
    /// A compressor for another response, if there is a place for one.
    pub fn begin(self: &Rc<Self>) -> Option<Gzip> {
        let under_way = self.under_way.get();
        (under_way < MAX_UNDER_WAY).then(|| {
            self.under_way.set(under_way + 1);
            Gzip {
                encoder: GzEncoder::new(Vec::new(), flate2::Compression::new(LEVEL)),
                _place: Place(self.clone()),
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

// === impl Gzip ===

impl Gzip {
    /// A piece, compressed so far that its reader can read all of it.
    ///
    /// # Errors
    /// The encoder's; there is none for memory.
    pub fn more(&mut self, piece: &[u8]) -> io::Result<Bytes> {
        self.encoder.write_all(piece)?;
        self.encoder.flush()?;
        Ok(std::mem::take(self.encoder.get_mut()).into())
    }

    /// The last piece, and the end.
    ///
    /// # Errors
    /// As [`Gzip::more`].
    pub fn end(mut self, piece: &[u8]) -> io::Result<Bytes> {
        self.encoder.write_all(piece)?;
        self.encoder.finish().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::Read as _;
    use std::pin::Pin;

    use flate2::read::GzDecoder;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn accepts(value: &str) -> bool {
        accepts_gzip(&headers(&[("accept-encoding", value)]))
    }

    const BODY: &str = "A body of some length, a body of some length, a body of some length.";

    /// What becomes of a response to a caller that accepts gzip.
    fn compressed(
        compressors: &Rc<Compressors>,
        lines: &[(&'static str, &str)],
        status: u16,
    ) -> Response<ResponseBody> {
        let asked = headers(&[
            ("accept-encoding", "gzip"),
            ("if-none-match", "W/\"1\", \"2\""),
        ]);
        let asked = Compression::new(10).ask(&asked, false);
        let mut response = Response::new(ResponseBody::mesh(Bytes::from_static(BODY.as_bytes())));
        *response.headers_mut() = headers(lines);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        asked.apply(response, compressors)
    }

    fn is_compressed(lines: &[(&'static str, &str)], status: u16) -> bool {
        let response = compressed(&Rc::default(), lines, status);
        response.headers().get(CONTENT_ENCODING).is_some()
    }

    #[test]
    fn gzip_is_taken_for_accepted_when_it_weighs_something_and_no_less_than_nothing() {
        for accepted in [
            "gzip",
            "GZIP",
            "x-gzip",
            "deflate, gzip",
            "br;q=1.0, gzip;q=0.001",
            "gzip ; q=0.5",
            "gzip;Q=1.000",
            "*",
            "*;q=0.1",
            "identity;q=0.5, gzip",
            "gzip;q=1.0, identity; q=0.5, *;q=0",
            "identity;q=0, *",
            "gzip;q=0.",
            ",, gzip ,",
        ] {
            assert_eq!(accepts(accepted), accepted != "gzip;q=0.", "{accepted}");
        }
        for refused in [
            "",
            "identity",
            "br, deflate",
            "gzip;q=0",
            "gzip;q=0.000",
            "*;q=0",
            "*, gzip;q=0",
            "gzip, gzip;q=0",
            "gzip;q=0.5, identity",
            "gzip;q=",
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.5555",
            "gzip;q=-1",
            "gzip;level=1",
            "gzip;q=1;q=1",
            "gzipped",
            ";q=1",
        ] {
            assert!(!accepts(refused), "{refused}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
        let lines = [("accept-encoding", "br"), ("accept-encoding", "gzip")];
        assert!(accepts_gzip(&headers(&lines)));
    }

    #[test]
    fn what_programs_and_people_read_is_compressed_and_nothing_else() {
        for kind in [
            "text/html; charset=utf-8",
            "TEXT/PLAIN",
            "application/json",
            "application/problem+json",
            "application/vnd.api+json;v=1",
            "application/xml",
            "application/javascript",
            "application/wasm",
            "image/svg+xml",
            "model/gltf+json",
        ] {
            assert!(is_compressed(&[("content-type", kind)], 200), "{kind}");
        }
        for kind in [
            "text/event-stream",
            "text/event-stream;charset=utf-8",
            "application/grpc",
            "application/grpc+json",
            "application/grpc-web+proto",
            "application/connect+json",
            "application/octet-stream",
            "application/zip",
            "image/png",
            "video/mp4",
            "json",
            "",
        ] {
            assert!(!is_compressed(&[("content-type", kind)], 200), "{kind}");
        }
        assert!(!is_compressed(&[], 200));
    }

    #[test]
    fn a_response_that_must_not_be_changed_or_is_small_is_not() {
        const KIND: (&str, &str) = ("content-type", "text/plain");
        assert!(is_compressed(&[KIND, ("cache-control", "no-cache")], 404));
        for line in [
            ("content-encoding", "br"),
            ("content-encoding", "identity"),
            ("cache-control", "max-age=1, No-Transform"),
            ("content-range", "bytes 0-1/2"),
            ("repr-digest", "sha-256=:AA=:"),
            ("content-length", "9"),
            ("content-length", "0"),
            ("meshwright-reason", "no_endpoints"),
        ] {
            let response = compressed(&Rc::default(), &[KIND, line], 200);
            assert!(!response.headers().contains_key("vary"), "{line:?}");
            assert_eq!(response.headers()[line.0], line.1);
            assert_eq!(response.body().size_hint().exact(), Some(BODY.len() as u64));
        }
        for status in [101, 204, 205, 206] {
            assert!(!is_compressed(&[KIND], status), "{status}");
        }
    }

    #[test]
    fn a_compressed_response_says_so_and_takes_back_what_is_no_longer_true() {
        let lines = [
            ("content-type", "text/plain"),
            ("content-length", "68"),
            ("accept-ranges", "bytes"),
            ("etag", "\"1\""),
            ("vary", "Origin"),
        ];
        let response = compressed(&Rc::default(), &lines, 200);
        let said = response.headers();
        assert_eq!(said["content-encoding"], "gzip");
        assert_eq!(said["etag"], "W/\"1\"");
        assert!(!said.contains_key("content-length") && !said.contains_key("accept-ranges"));
        assert_eq!(response.body().size_hint().exact(), None);
        let vary: Vec<_> = said.get_all("vary").iter().collect();
        assert_eq!(vary, ["Origin", "Accept-Encoding"]);
        for known in ["accept-encoding, x", "*"] {
            let lines = [lines[0], ("vary", known), ("etag", "W/\"1\"")];
            let response = compressed(&Rc::default(), &lines, 200);
            let vary = response.headers().get_all("vary").iter();
            assert_eq!(vary.collect::<Vec<_>>(), [known]);
            assert_eq!(response.headers()["etag"], "W/\"1\"");
        }
    }

    #[test]
    fn who_accepts_nothing_is_told_that_others_may_and_gets_it_as_it_is() {
        let asked = Compression::new(10).ask(&HeaderMap::new(), false);
        let mut response = Response::new(ResponseBody::mesh(BODY.into()));
        let lines = [("content-type", "text/plain"), ("etag", "\"1\"")];
        *response.headers_mut() = headers(&lines);
        let response = asked.apply(response, &Rc::default());
        assert_eq!(response.headers()["vary"], "Accept-Encoding");
        assert_eq!(response.headers()["etag"], "\"1\"");
        assert!(!response.headers().contains_key("content-encoding"));
        assert_eq!(response.body().size_hint().exact(), Some(BODY.len() as u64));
    }

    #[test]
    fn the_answer_to_head_says_what_that_to_get_would() {
        let get = headers(&[("accept-encoding", "gzip")]);
        let asked = Compression::new(10).ask(&get, true);
        let mut response = Response::new(ResponseBody::mesh(Bytes::new()));
        let lines = [("content-type", "text/plain"), ("content-length", "68")];
        *response.headers_mut() = headers(&lines);
        let response = asked.apply(response, &Rc::default());
        assert_eq!(response.headers()["content-encoding"], "gzip");
        assert!(!response.headers().contains_key("content-length"));
        assert!(response.body().is_end_stream());
    }

    #[test]
    fn not_modified_names_what_the_caller_has() {
        // The caller has W/"1", which was compressed, and "2", which was not.
        let weak = compressed(&Rc::default(), &[("etag", "\"1\"")], 304);
        assert_eq!(weak.headers()["etag"], "W/\"1\"");
        assert_eq!(weak.headers()["vary"], "Accept-Encoding");
        let strong = compressed(&Rc::default(), &[("etag", "\"2\"")], 304);
        assert_eq!(strong.headers()["etag"], "\"2\"");
        assert!(!strong.headers().contains_key("content-encoding"));
    }

    #[tokio::test]
    async fn a_body_ends_as_gzip_does_and_gives_its_place_back() {
        let compressors = Rc::default();
        let response = compressed(&compressors, &[("content-type", "text/plain")], 200);
        assert_eq!(compressors.under_way.get(), 1);
        let mut body = response.into_body();
        let mut read = Vec::new();
        while let Some(frame) = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
            read.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
        assert!(body.is_end_stream());
        let mut text = String::new();
        GzDecoder::new(&read[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, BODY);
        assert_eq!(compressors.under_way.get(), 0);
    }

    #[test]
    fn each_piece_can_be_read_before_the_next_has_come() {
        let compressors: Rc<Compressors> = Rc::default();
        let mut gzip = compressors.begin().unwrap();
        let mut sent = Vec::new();
        for piece in ["first, ", "second, ", "third"] {
            let passed = gzip.more(piece.as_bytes()).unwrap();
            assert!(!passed.is_empty());
            sent.extend_from_slice(&passed);
            let mut text = vec![0; piece.len()];
            // What was said before is skipped: all that is there is read, and no end is.
            let mut reader = GzDecoder::new(&sent[..]);
            let mut all = Vec::new();
            while let Ok(read @ 1..) = reader.read(&mut text) {
                all.extend_from_slice(&text[..read]);
            }
            assert!(all.ends_with(piece.as_bytes()), "{piece}");
        }
    }

    #[test]
    fn beyond_what_a_worker_compresses_at_once_a_response_passes_as_it_is() {
        let compressors = Rc::default();
        let lines = [("content-type", "text/plain"), ("etag", "\"1\"")];
        let mut held: Vec<_> = (0..MAX_UNDER_WAY)
            .map(|_| compressed(&compressors, &lines, 200))
            .collect();
        let encoded =
            |response: &Response<ResponseBody>| response.headers().contains_key("content-encoding");
        assert!(held.iter().all(encoded));
        let one_more = compressed(&compressors, &lines, 200);
        assert!(!encoded(&one_more));
        assert_eq!(one_more.headers()["vary"], "Accept-Encoding");
        assert_eq!(one_more.headers()["etag"], "\"1\"");
        held.pop();
        assert!(encoded(&compressed(&compressors, &lines, 200)));
    }
}
