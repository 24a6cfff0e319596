//! What is asked: `method` (GET), `url`, `server-name`, and any number of `header` (`name: value`).

use std::net::IpAddr;

use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Uri;
use http::{Method, Request};

use crate::config::route::query::parameters;
use crate::proxy::headers;

/// What an application would do.
#[derive(Debug)]
pub(super) struct Asked {
    /// What it would send, as far as anybody reads it.
    pub(super) head: Parts,
    /// How it would begin.
    pub(super) begins: Begins,
    /// Whom it calls.
    pub(super) host: String,
    /// At which port.
    pub(super) port: u16,
}

/// How a connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// With a request: `http://`.
    Request,
    /// With TLS of the application's own, in which it asks for a name if there is one: `https://`,
    /// `tls://`.
    Tls(Option<String>),
    /// With other bytes, or the server's: `tcp://`.
    Bytes,
}

// === impl Asked ===

impl Asked {
    /// Reads the query.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let mut request = Request::builder();
        let (mut url, mut server_name) = (None, None);
        for (name, value) in parameters(query.as_bytes()) {
            match &*name {
                b"method" => {
                    let method = Method::from_bytes(&value);
                    request = request.method(method.map_err(|_| "that is no method")?);
                }
                b"url" => url = Some(value.into_owned()),
                b"server-name" => {
                    let name = String::from_utf8(value.into_owned());
                    let name = name.map_err(|_| "that is no server name")?;
                    server_name = Some(name.to_ascii_lowercase());
                }
                b"header" => {
                    let colon = value.iter().position(|byte| *byte == b':');
                    let (name, rest) =
                        value.split_at(colon.ok_or("write a header as name: value")?);
                    let name = HeaderName::from_bytes(name.trim_ascii());
                    let value = HeaderValue::from_bytes(rest[1..].trim_ascii());
                    request = request.header(
                        name.map_err(|_| "that is no header name")?,
                        value.map_err(|_| "that is no header value")?,
                    );
                }
                _ => return Err("ask with method, url, server-name and header".to_owned()),
            }
        }
        let url = url.ok_or("which url? such as url=http://orders/1")?;
        let uri = Uri::from_maybe_shared(url).map_err(|_| "that is no URL")?;
        if uri.authority().is_none() {
            return Err("write the URL with its host, such as http://orders/1".to_owned());
        }
        let request = request
            .uri(uri)
            .body(())
            .map_err(|error| error.to_string())?;
        Self::of(request.into_parts().0, server_name)
    }

    fn of(head: Parts, server_name: Option<String>) -> Result<Self, String> {
        let host = headers::host(&head).unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let own_name = || {
            // Clients ask for no name where they were given an address (RFC 6066 section 3).
            let is_name = host.parse::<IpAddr>().is_err();
            is_name.then(|| host.to_ascii_lowercase())
        };
        let (begins, usual) = match head.uri.scheme_str() {
            Some("http") | None => (Begins::Request, Some(80)),
            Some("https") => (
                Begins::Tls(server_name.clone().or_else(own_name)),
                Some(443),
            ),
            Some("tls") => (Begins::Tls(server_name.clone().or_else(own_name)), None),
            Some("tcp") => (Begins::Bytes, None),
            Some(other) => {
                return Err(format!(
                    "{other}: begin the URL with http, https, tls or tcp"
                ));
            }
        };
        if server_name.is_some() && !matches!(begins, Begins::Tls(_)) {
            return Err("a server name is asked for with tls:// and https://".to_owned());
        }
        let port = head.uri.port_u16().or(usual);
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or("write the port of tcp:// and tls://, such as tcp://orders:5432")?,
            begins,
            head,
        })
    }
}
