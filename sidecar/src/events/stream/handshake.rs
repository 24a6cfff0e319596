//! What a WebSocket begins with: RFC 6455, section 4, and the CloudEvents binding for WebSocket, section 1.4.
//!
//! A browser opens one for whichever page wants it, with the cookies that it has for the place, and keeps nothing
//! that is said from that page: CORS is not asked. So it is asked here, of whoever says by `Origin` that it is a
//! page: its own origin is what was called, or `cors` of the rule allows it.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode, Uri};

use crate::policy::cors::Cors;
use crate::proxy::body::{RequestBody, ResponseBody};
use crate::proxy::context::Context;
use crate::proxy::error::{Error, Reason};
use crate::proxy::upgrade::Answering;

/// The protocol that a connection becomes.
const WEBSOCKET: &str = "websocket";
/// The one version that there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
/// What a key is answered with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// How long a key is, decoded.
const KEY: usize = 16;
/// The subprotocol whose messages are events in JSON.
const CLOUD_EVENTS: &str = "cloudevents.json";

/// One that is in order.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: HeaderValue,
    /// Whether the caller names the subprotocol; the messages are the same.
    named: bool,
}

// === impl Handshake ===

impl Handshake {
    /// The one that a request is; `None` when it asks for no WebSocket.
    ///
    /// # Errors
    /// `bad_request`, which says what is missing; `origin_not_allowed`.
    pub(super) fn of(
        cx: &Context,
        cors: Option<&Cors>,
        head: &Parts,
        body: &RequestBody,
    ) -> Result<Option<Self>, Error> {
        let Some(upgrade) = &cx.upgrade else {
            // A proxy on the way may have left out what concerns one connection only.
            return match head.headers.contains_key(SEC_WEBSOCKET_KEY) {
                true => Err(upgrade_required(
                    "upgrade: a WebSocket is opened over HTTP/1.1, with Upgrade: websocket and Connection: Upgrade",
                )),
                false => Ok(None),
            };
        };
        if !upgrade.is_to(WEBSOCKET) {
            return Err(refused(
                "upgrade: a stream of events becomes a WebSocket, and no other protocol",
            ));
        }
        if !matches!(body, RequestBody::Empty) {
            return Err(refused("what opens a WebSocket has no body"));
        }
        if the_only(&head.headers, SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(upgrade_required(
                "sec-websocket-version: it must be 13, once",
            ));
        }
        let key = the_only(&head.headers, SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let is_key = |key: &&[u8]| STANDARD.decode(key).is_ok_and(|key| key.len() == KEY);
        let Some(key) = key.filter(is_key) else {
            return Err(refused(
                "sec-websocket-key: it must be 16 bytes in base64, once",
            ));
        };
        if !may_be_of(cors, head, upgrade.has_credentials()) {
            let said = "origin: add it to cors.allowOrigins of the rule, with allowCredentials where the page's \
                        browser sends cookies";
            return Err(Error::new(Reason::OriginNotAllowed, said).saying(said));
        }
        Ok(Some(Self {
            accept: accept(key),
            named: names_cloud_events(&head.headers),
        }))
    }

    /// Agrees.
    ///
    /// # Errors
    /// `bad_request`, when the request is not what it was.
    pub(super) fn answer(
        self,
        cx: &mut Context,
        answering: Answering,
    ) -> Result<Response<ResponseBody>, Error> {
        let upgrade = cx.upgrade.take().ok_or(Reason::BadRequest)?;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept);
        if self.named {
            let named = HeaderValue::from_static(CLOUD_EVENTS);
            headers.insert(SEC_WEBSOCKET_PROTOCOL, named);
        }
        let switched = upgrade.answer(headers, WEBSOCKET, answering);
        Ok(response.map(|()| ResponseBody::switched(switched)))
    }
}

fn refused(said: &'static str) -> Error {
    Error::new(Reason::BadRequest, said).saying(said)
}

/// RFC 6455, section 4.4; RFC 9110, section 15.5.22.
fn upgrade_required(said: &'static str) -> Error {
    let mut headers = HeaderMap::new();
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
    refused(said)
        .with_status(StatusCode::UPGRADE_REQUIRED)
        .with_headers(headers)
}

/// A header that comes once.
fn the_only(headers: &HeaderMap, name: http::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

fn accept(key: &[u8]) -> HeaderValue {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    let text = Bytes::from(STANDARD.encode(hash));
    // Base64 is visible characters.
    HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
}

fn names_cloud_events(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut names = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    names.any(|name| name.trim() == CLOUD_EVENTS)
}

/// Whether a page may have asked, if one did.
fn may_be_of(cors: Option<&Cors>, head: &Parts, credentials: bool) -> bool {
    if !head.headers.contains_key(ORIGIN) {
        return true;
    }
    let origin = the_only(&head.headers, ORIGIN);
    let origin = origin.and_then(|origin| origin.to_str().ok());
    origin.is_some_and(|origin| is_own(origin, head))
        || cors.is_some_and(|cors| cors.admits(head, credentials))
}

/// Whether an origin is that of what was called. By which scheme that was called is not known: whoever ends a
/// browser's TLS says so in no way that proves it.
fn is_own(origin: &str, head: &Parts) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else {
        return false;
    };
    let default = match origin.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return false,
    };
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let called = host.and_then(|host| host.parse().ok());
    let (Some(page), Some(called)) = (origin.authority(), head.uri.authority().cloned().or(called))
    else {
        return false;
    };
    page.host().eq_ignore_ascii_case(called.host())
        && page.port_u16().unwrap_or(default) == called.port_u16().unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use wire::mesh;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::get("/live");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_key_is_answered_as_the_standard_says() {
        // RFC 6455, section 1.3.
        let answer = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_subprotocol_is_named_in_any_line_and_place_and_in_no_other_case() {
        const NAME: &str = "sec-websocket-protocol";
        for (lines, named) in [
            (&["cloudevents.json"][..], true),
            (&["cloudevents.avro, cloudevents.json"], true),
            (&["chat", "a ,cloudevents.json"], true),
            (&["CloudEvents.json"], false),
            (&["cloudevents.json2", ""], false),
            (&[], false),
        ] {
            let lines = Vec::from_iter(lines.iter().map(|line| (NAME, *line)));
            assert_eq!(
                names_cloud_events(&head(&lines).headers),
                named,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_page_is_of_what_was_called_or_allowed_and_whoever_is_no_page_may() {
        let called = |host: &str, origin: &str| {
            may_be_of(None, &head(&[("host", host), ("origin", origin)]), true)
        };
        for (host, origin) in [
            ("shop.example", "https://shop.example"),
            ("shop.example", "http://shop.example"),
            ("Shop.example:443", "https://shop.example"),
            ("shop.example", "http://shop.example:80"),
            ("shop.example:8443", "https://shop.example:8443"),
            ("[::1]:8080", "http://[::1]:8080"),
        ] {
            assert!(called(host, origin), "{origin} at {host}");
        }
        for (host, origin) in [
            ("shop.example", "https://evil.example"),
            ("shop.example", "https://shop.example.evil.example"),
            ("shop.example", "https://shop.example:8443"),
            ("shop.example:80", "https://shop.example"),
            ("shop.example", "null"),
            ("shop.example", ""),
            ("shop.example", "shop.example"),
            ("", "https://shop.example"),
        ] {
            assert!(!called(host, origin), "{origin} at {host}");
        }
        assert!(may_be_of(None, &head(&[("host", "shop.example")]), true));
        let one = ("origin", "https://shop.example");
        let twice = head(&[("host", "shop.example"), one, one]);
        assert!(!may_be_of(None, &twice, false));
    }

    #[test]
    fn what_a_browser_adds_of_itself_is_taken_from_pages_that_may_send_it() {
        let page = head(&[("host", "shop.example"), ("origin", "https://a.example")]);
        for (origins, allowed, credentials, may) in [
            (&["https://a.example"][..], false, false, true),
            (&["https://a.example"], false, true, false),
            (&["https://a.example"], true, true, true),
            (&["https://b.example"], true, false, false),
            (&["*"], false, false, true),
            (&["*"], false, true, false),
        ] {
            let cors = Cors::build(mesh::Cors {
                allow_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
                allow_credentials: allowed,
                ..Default::default()
            });
            let cors = cors.unwrap();
            let is = may_be_of(Some(&cors), &page, credentials);
            assert_eq!(is, may, "{origins:?} {allowed} {credentials}");
        }
    }
}
