//! An ordinary HTTP client: resolves a name, connects, asks, reads the answer. As most clients do, it
//! goes by way of `http_proxy` if there is one, but not to this machine.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long an answer may take, from connecting to its last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest body read, in bytes.
const MAX_BODY: usize = 4 << 20;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Asks with GET.
///
/// # Errors
/// When the URL is none of `http://`, or no complete answer came within ten seconds.
pub async fn get(url: &str) -> anyhow::Result<Answer> {
    call(Method::GET, url, HeaderMap::new()).await
}

/// Asks with any method and without a body, over a connection of its own.
///
/// # Errors
/// When the URL is none of `http://`, or no complete answer came within ten seconds.
pub async fn call(method: Method, url: &str, headers: HeaderMap) -> anyhow::Result<Answer> {
    match tokio::time::timeout(TIMEOUT, exchange(method, url, headers)).await {
        Ok(answer) => answer.with_context(|| format!("no answer from {url}")),
        Err(_) => bail!("no answer from {url} within {} s", TIMEOUT.as_secs()),
    }
}

/// Whom to connect to, and what to ask of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) through: (String, u16),
    pub(crate) target: Uri,
}

async fn exchange(method: Method, url: &str, headers: HeaderMap) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse().context("this is no URL")?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!("this URL does not begin with http://");
    };
    let proxy = std::env::var("http_proxy").ok();
    let Way { through, target } = Way::to(&uri, authority, proxy.as_deref())?;
    let stream = TcpStream::connect(through).await?;
    // Requests are small and complete: waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = target;
    *request.headers_mut() = headers;
    request
        .headers_mut()
        .insert(HOST, authority.as_str().parse()?);
    // Moved in, and so dropped after the answer: that ends the connection.
    let answered = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    };
    match tokio::join!(answered, connection) {
        (Ok(answer), _) => Ok(answer),
        // What went wrong on the connection says more than that the exchange was cancelled.
        (Err(_), Err(error)) => Err(error.into()),
        (Err(error), Ok(())) => Err(error),
    }
}

// === impl Way ===

impl Way {
    pub(crate) fn to(
        uri: &Uri,
        authority: &Authority,
        proxy: Option<&str>,
    ) -> anyhow::Result<Self> {
        let place = |authority: &Authority| {
            let host = authority.host().trim_matches(['[', ']']).to_owned();
            (host, authority.port_u16().unwrap_or(80))
        };
        let (host, port) = place(authority);
        let here = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        match proxy.filter(|proxy| !proxy.is_empty() && !here) {
            Some(proxy) => {
                let proxy: Uri = proxy.parse().context("http_proxy is no URL")?;
                let proxy = proxy.authority().context("http_proxy names no host")?;
                Ok(Self {
                    through: place(proxy),
                    target: uri.clone(),
                })
            }
            None => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str());
                Ok(Self {
                    through: (host, port),
                    target: path.parse()?,
                })
            }
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_asked_for_the_whole_url_and_not_for_what_is_on_this_machine() {
        let way = |url: &str, proxy: Option<&str>| {
            let uri: Uri = url.parse().unwrap();
            let Way { through, target } = Way::to(&uri, uri.authority().unwrap(), proxy).unwrap();
            (format!("{}:{}", through.0, through.1), target.to_string())
        };
        let is = |through: &str, target: &str| (through.to_owned(), target.to_owned());
        let proxy = Some("http://127.77.0.2:15001");
        let url = "http://orders/orders?customer=1";
        assert_eq!(way(url, proxy), is("127.77.0.2:15001", url));
        assert_eq!(way(url, None), is("orders:80", "/orders?customer=1"));
        let here = "http://127.0.0.1:15000/config";
        assert_eq!(way(here, proxy), is("127.0.0.1:15000", "/config"));
    }
}
