//! What may cross a hop, and what a request is called on each side of it.

mod attempts;
mod claims;
mod strict;

use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Version};

use super::error::{Error, Reason};
use super::upstream::Speak;

pub use attempts::{
    Told, grpc_status, hide_keeps, say_keeps, say_no_retry, says_no_retry, set_grpc_timeout,
    take_keeps, tell_peer,
};
pub use claims::{
    Origin, names_a_method, names_a_path, names_a_person, remove_claims, says_what_was_asked,
};
pub use strict::{check, clean_trailers};

/// Headers that concern one connection only (RFC 9110 section 7.6.1, and what predates it).
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// The prefix of headers that only the mesh sets.
const RESERVED: &str = "meshwright-";

/// Between sidecars: the caller spoke HTTP/2, and so may the application be spoken to.
const HTTP2_MARK: HeaderName = HeaderName::from_static("meshwright-http2");

/// A request's head, without what belongs to its connection.
pub fn copy(head: &Parts) -> Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

/// Removes what must not cross the hop: hop-by-hop headers, and those that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Reading trailers is a promise to whoever answers, wherever that is; gRPC needs it to arrive.
    let reads_trailers = headers.get_all(TE).iter().any(|te| {
        let codings = te.to_str().unwrap_or_default().split(',');
        codings
            .into_iter()
            .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
    });
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    match reads_trailers {
        true => drop(headers.insert(TE, HeaderValue::from_static("trailers"))),
        false => drop(headers.remove(TE)),
    }
}

/// Tells the peer's sidecar that the caller speaks HTTP/2.
pub fn mark_http2(headers: &mut HeaderMap) {
    headers.insert(HTTP2_MARK, HeaderValue::from_static("1"));
}

/// Whether the peer's sidecar says that the caller speaks HTTP/2.
pub fn is_marked_http2(headers: &HeaderMap) -> bool {
    headers.contains_key(HTTP2_MARK)
}

/// How long a gRPC caller waits for its answer (gRPC over HTTP/2, "Timeout"): at most eight digits
/// and a unit. What is malformed is no timeout; the application will say so.
pub fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Removes headers that only the mesh sets, which anybody else can only have made up.
pub fn remove_reserved(headers: &mut HeaderMap) {
    remove(headers, |name| name.as_str().starts_with(RESERVED));
}

/// Removes them from an answer of an application, which can say one thing with them.
pub fn remove_reserved_of_answer(headers: &mut HeaderMap) {
    let kept = says_no_retry(headers);
    remove_reserved(headers);
    if kept {
        say_no_retry(headers);
    }
}

/// Removes the headers that are `unwanted`; looks only, when there are none.
pub fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    if headers.keys().any(&unwanted) {
        let names: Vec<HeaderName> = headers.keys().filter(|n| unwanted(n)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

/// Whether a header is the mesh's own business: no rule edits it.
pub fn is_of_the_mesh(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || [TE, HOST, CONTENT_LENGTH].contains(name)
        || name.as_str().starts_with(RESERVED)
        || claims::is_identity(name)
}

/// The host that a request names, without port: the authority, else the Host header.
pub fn host(head: &Parts) -> Option<&str> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head.headers.get(HOST)?.to_str().ok()?,
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    Some(match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    })
}

/// The port that an absolute URI names; 80 when it names none.
pub fn port(head: &Parts) -> u16 {
    head.uri.port_u16().unwrap_or(80)
}

/// Gives a request the form that the next hop speaks. One that already has it is left as it is.
///
/// # Errors
/// `bad_request`.
pub fn fit<B>(request: &mut Request<B>, speak: Speak) -> Result<(), Error> {
    match speak {
        Speak::Http1 => for_h1(request),
        Speak::Http2 => for_h2(request),
    }
}

/// HTTP/2 (RFC 9113 section 8.3.1): the authority moves from the Host header into the URI.
fn for_h2<B>(request: &mut Request<B>) -> Result<(), Error> {
    let bad = |detail: &str| Error::new(Reason::BadRequest, detail);
    let host = request.headers_mut().remove(HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    // An absolute URI wins over the Host header (RFC 9112 section 3.2.2).
    if parts.authority.is_none() {
        let host = host.ok_or_else(|| bad("the request names no host"))?;
        let authority = Authority::try_from(host.as_bytes());
        parts.authority = Some(authority.map_err(|_| bad("the Host header is no host"))?);
    }
    parts.scheme = Some(Scheme::HTTP);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| bad("the target is no path"))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

/// HTTP/1.1 (RFC 9112 section 3.2): origin form, and the authority in the Host header.
fn for_h1<B>(request: &mut Request<B>) -> Result<(), Error> {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Error::new(Reason::BadRequest, "the authority is no host"))?;
        let path = request.uri().path_and_query().cloned();
        request.headers_mut().insert(HOST, host);
        // CONNECT has the authority where others have the path (RFC 9112 section 3.2.3).
        if request.method() != Method::CONNECT {
            // An absolute URI may have an empty path, which is shown as `/` there and as nothing here.
            let path = path.filter(|path| path.as_str() != "/");
            *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        }
    }
    // HTTP/1.0 may have named none; HTTP/1.1 has the line, empty (RFC 9112 section 3.2).
    let host = request.headers_mut().entry(HOST);
    host.or_insert(HeaderValue::from_static(""));
    join_cookies(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// HTTP/2 may spread cookies over several lines, HTTP/1.1 may not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    // What were header values still is one, joined.
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_do_not_cross() {
        let mut head = head(
            Request::get("/")
                .header("connection", "close, X-Secret, TE")
                .header("x-secret", "1")
                .header("keep-alive", "5")
                .header("te", "trailers, deflate")
                .header("x-kept", "1"),
        );
        remove_hop_by_hop(&mut head.headers);
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-kept"]);
        assert_eq!(head.headers["te"], "trailers");
    }

    #[test]
    fn te_trailers_crosses_because_grpc_needs_it() {
        let mut head = head(Request::get("/").header("te", "trailers"));
        remove_hop_by_hop(&mut head.headers);
        assert_eq!(head.headers["te"], "trailers");
    }

    #[test]
    fn headers_of_the_mesh_are_not_taken_from_others() {
        let mut head = head(
            Request::get("/")
                .header("Meshwright-Reason", "x")
                .header("meshwright-other", "y"),
        );
        remove_reserved(&mut head.headers);
        assert!(head.headers.is_empty());
    }

    #[test]
    fn host_becomes_authority_and_back() {
        let request = Request::get("/a?b=c").header("host", "orders.shop:80");
        let mut request = request.body(()).unwrap();
        fit(&mut request, Speak::Http2).unwrap();
        assert_eq!(request.uri(), "http://orders.shop:80/a?b=c");
        assert!(!request.headers().contains_key("host"));
        fit(&mut request, Speak::Http1).unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()["host"], "orders.shop:80");
    }

    #[test]
    fn a_target_without_a_path_has_one_on_the_wire() {
        for target in ["http://orders", "http://orders/", "http://orders#x"] {
            let mut request = Request::get(target).body(()).unwrap();
            fit(&mut request, Speak::Http1).unwrap();
            assert_eq!(request.uri().to_string(), "/", "{target}");
        }
    }

    #[test]
    fn the_host_is_read_without_port_and_credentials() {
        for (text, expected) in [
            ("orders", "orders"),
            ("orders:8080", "orders"),
            ("u:p@orders:8080", "orders"),
            ("[::1]:80", "[::1]"),
        ] {
            let head = head(Request::get("/").header("host", text));
            assert_eq!(host(&head), Some(expected));
        }
    }

    #[test]
    fn cookies_that_http2_spread_are_one_line_in_http1() {
        let request = Request::get("/")
            .header("cookie", "a=1")
            .header("cookie", "b=2");
        let mut request = request.body(()).unwrap();
        fit(&mut request, Speak::Http1).unwrap();
        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn a_grpc_timeout_is_up_to_eight_digits_and_a_unit() {
        let timeout = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        assert_eq!(timeout("5u"), Some(Duration::from_micros(5)));
        for wrong in ["", "m", "123456789S", "1.5S", "5x", "-1S", "S5"] {
            assert_eq!(timeout(wrong), None, "{wrong:?}");
        }
    }
}
