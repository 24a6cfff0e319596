//! What may cross a hop, and what a request is called on each side of it.

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Version};

use super::error::{Error, Reason};

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

/// Removes what must not cross the hop: hop-by-hop headers, and those that `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
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
    // "trailers" alone is end to end in effect: it says that the caller reads them (gRPC needs it).
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

/// Removes headers that only the mesh sets, which anybody else can only have made up.
pub fn remove_reserved(headers: &mut HeaderMap) {
    let made_up = |name: &HeaderName| name.as_str().starts_with(RESERVED);
    if headers.keys().any(made_up) {
        let names: Vec<HeaderName> = headers.keys().filter(|n| made_up(n)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Refuses what cannot be carried as a request with a response.
///
/// # Errors
/// `bad_request`.
pub fn check(head: &Parts) -> Result<(), Error> {
    if head.method == Method::CONNECT {
        return Err(Error::new(Reason::BadRequest, "CONNECT is not carried"));
    }
    // RFC 9112 section 3.2: more than one Host line is an attack or a mistake.
    if head.headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Error::new(Reason::BadRequest, "more than one Host header"));
    }
    Ok(())
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
pub fn fit<B>(request: &mut Request<B>, h2: bool) -> Result<(), Error> {
    if h2 { for_h2(request) } else { for_h1(request) }
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
        *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
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
                .header("connection", "close, X-Secret")
                .header("x-secret", "1")
                .header("keep-alive", "5")
                .header("te", "trailers, deflate")
                .header("x-kept", "1"),
        );
        remove_hop_by_hop(&mut head.headers);
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-kept"]);
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
        fit(&mut request, true).unwrap();
        assert_eq!(request.uri(), "http://orders.shop:80/a?b=c");
        assert!(!request.headers().contains_key("host"));
        fit(&mut request, false).unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()["host"], "orders.shop:80");
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
    fn two_host_headers_are_refused() {
        let head = head(Request::get("/").header("host", "a").header("host", "b"));
        assert_eq!(check(&head).unwrap_err().reason, Reason::BadRequest);
    }
}
