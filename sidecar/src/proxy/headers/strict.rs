//! Which heads are carried at all.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, Method, Version};

use super::super::error::{Error, Reason};

/// Refuses what cannot be carried as a request with a response, and what the application might
/// read in another way than we do. What hyper and h2 refuse themselves, and what only bytes show
/// ([`super::super::gate`]), does not come here.
///
/// # Errors
/// `bad_request`.
pub fn check(head: &Parts) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::new(Reason::BadRequest, why));
    if head.method == Method::CONNECT && head.version != Version::HTTP_11 {
        return bad("CONNECT is carried over HTTP/1.1 only");
    }
    // Methods are case-sensitive (RFC 9110 section 9.1), and there are applications for which they
    // are not: `get` must not pass a rule that is about GET.
    if head.method.as_str().bytes().any(|b| b.is_ascii_lowercase()) {
        return bad("a method in small letters");
    }
    check_target(head)?;
    check_host(head)?;
    check_framing(&head.headers)
}

fn check_target(head: &Parts) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::new(Reason::BadRequest, why));
    if head.method == Method::CONNECT {
        return Ok(());
    }
    match head.uri.path() {
        "*" if head.method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        // `GET orders:80`: where CONNECT has its target, others have none (RFC 9112 section 3.2).
        "" if head.uri.scheme().is_some() => Ok(()),
        _ => bad("the target is no path"),
    }
}

/// One host, which is one (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn check_host(head: &Parts) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::new(Reason::BadRequest, why));
    let authority = head.uri.authority();
    if authority.is_some_and(|authority| !is_plain(authority.as_str().as_bytes())) {
        return bad("the target's authority is no host");
    }
    let mut lines = head.headers.get_all(HOST).iter();
    let Some(host) = lines.next() else {
        return match (head.version, authority) {
            (Version::HTTP_11, _) => bad("no Host header"),
            (Version::HTTP_2, None) => bad("neither :authority nor Host"),
            _ => Ok(()),
        };
    };
    if lines.next().is_some() {
        return bad("more than one Host header");
    }
    let parsed = Authority::try_from(host.as_bytes());
    let Some(host) = parsed.ok().filter(|_| is_plain(host.as_bytes())) else {
        return bad("the Host header is no host");
    };
    match authority {
        // An absolute target wins over Host (RFC 9112 section 3.2.2), which is then replaced. In
        // HTTP/2 both come from the same place, and one that differs was put there.
        Some(authority) if head.version == Version::HTTP_2 && *authority != host => {
            bad("Host is not :authority")
        }
        _ => Ok(()),
    }
}

/// Made of what names and addresses are made of: neither credentials (`@`) nor lists (`,`), which the
/// grammar of a host allows and readers split in different ways.
fn is_plain(host: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(b);
    host.iter().all(plain)
}

/// One length at most, said once.
fn check_framing(headers: &HeaderMap) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::new(Reason::BadRequest, why));
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() {
            return bad("more than one Content-Length");
        }
        if !length.as_bytes().iter().all(u8::is_ascii_digit) || length.is_empty() {
            return bad("Content-Length is no number");
        }
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() || headers.contains_key(CONTENT_LENGTH) {
            return bad("a Transfer-Encoding other than chunked");
        }
    }
    Ok(())
}

/// Removes from trailers what is decided before they come: where a message ends, whom it is for,
/// who sends it, and what only the mesh says (RFC 9110 section 6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    super::remove(trailers, |name| {
        let decided: [&HeaderName; 4] = [&CONTENT_LENGTH, &TRANSFER_ENCODING, &HOST, &TRAILER];
        decided.contains(&name)
            || super::is_hop_by_hop(name)
            || name.as_str().starts_with(super::RESERVED)
            || super::claims::is_claim(name)
            || matches!(
                name.as_str(),
                "authorization" | "cookie" | "set-cookie" | "content-type" | "content-encoding"
            )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    fn refused(request: http::request::Builder) -> bool {
        match check(&head(request)) {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.reason, Reason::BadRequest);
                true
            }
        }
    }

    #[test]
    fn two_host_headers_are_refused() {
        assert!(refused(
            Request::get("/").header("host", "a").header("host", "b")
        ));
        assert!(refused(
            Request::get("/").header("host", "a").header("host", "a")
        ));
    }

    #[test]
    fn a_host_is_a_host() {
        for wrong in [
            "", "a b", "a,b", "a/b", "u@a", "a:b:c", "a\tb", "[::1", "a?b", "a#b",
        ] {
            assert!(
                refused(Request::get("/").header("host", wrong)),
                "{wrong:?}"
            );
        }
        for right in ["a", "a:80", "A.b", "[::1]:80", "10.0.0.1"] {
            assert!(
                !refused(Request::get("/").header("host", right)),
                "{right:?}"
            );
        }
        assert!(refused(Request::get("/")), "HTTP/1.1 without Host");
        assert!(!refused(Request::get("/").version(Version::HTTP_10)));
        assert!(refused(Request::get("http://u:p@a/").header("host", "a")));
    }

    #[test]
    fn in_http2_the_host_header_is_the_authority_or_not_there() {
        let request = || Request::get("http://Orders/").version(Version::HTTP_2);
        assert!(!refused(request()));
        assert!(!refused(request().header("host", "orders")));
        assert!(refused(request().header("host", "billing")));
        assert!(!refused(
            Request::get("/")
                .version(Version::HTTP_2)
                .header("host", "a")
        ));
        assert!(refused(Request::get("/").version(Version::HTTP_2)));
    }

    #[test]
    fn a_target_is_a_path_and_a_method_has_no_small_letters() {
        let request = |method: &str, target: &str| {
            Request::builder()
                .method(method)
                .uri(target)
                .header("host", "a")
        };
        for (method, target) in [
            ("GET", "/"),
            ("OPTIONS", "*"),
            ("GET", "http://a"),
            ("CONNECT", "a:80"),
        ] {
            assert!(!refused(request(method, target)), "{method} {target}");
        }
        for (method, target) in [("GET", "*"), ("GET", "a:80"), ("get", "/"), ("Post", "/")] {
            assert!(refused(request(method, target)), "{method} {target}");
        }
    }

    #[test]
    fn a_length_is_said_once_and_is_a_number() {
        let request = |lines: &[(&str, &str)]| {
            let begun = Request::post("/").header("host", "a");
            refused(
                lines
                    .iter()
                    .fold(begun, |r, (name, value)| r.header(*name, *value)),
            )
        };
        assert!(request(&[("content-length", "5"), ("content-length", "5")]));
        for wrong in ["", "+5", "-1", "5,5", "0x5"] {
            assert!(request(&[("content-length", wrong)]), "{wrong:?}");
        }
        for wrong in ["gzip, chunked", "identity", "chunked, chunked"] {
            assert!(request(&[("transfer-encoding", wrong)]), "{wrong:?}");
        }
        assert!(request(&[
            ("transfer-encoding", "chunked"),
            ("content-length", "5")
        ]));
        assert!(!request(&[("transfer-encoding", "Chunked")]));
        assert!(!request(&[("content-length", "5")]));
    }

    #[test]
    fn trailers_decide_nothing() {
        let mut trailers = HeaderMap::new();
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "connection",
            "meshwright-reason",
            "x-forwarded-client-cert",
            "authorization",
        ] {
            trailers.insert(HeaderName::from_static(name), "1".parse().unwrap());
        }
        trailers.insert("grpc-status", "0".parse().unwrap());
        clean_trailers(&mut trailers);
        assert_eq!(
            trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["grpc-status"]
        );
    }
}
