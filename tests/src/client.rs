//! An ordinary HTTP client: directly, or through the sidecar beside it as its proxy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::mesh::Sidecar;

/// No test waits longer for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A caller.
pub struct Client {
    sidecar: Option<Sidecar>,
    /// The proxy that everything is sent to.
    proxy: Option<SocketAddr>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

// === impl Client ===

impl Client {
    /// Connects to the host of each URL itself.
    pub fn direct() -> Self {
        Self {
            sidecar: None,
            proxy: None,
        }
    }

    /// Sends everything to the sidecar, as `HTTP_PROXY` makes clients do.
    pub fn through(sidecar: Sidecar) -> Self {
        let proxy = Some(proxy(&sidecar));
        Self {
            sidecar: Some(sidecar),
            proxy,
        }
    }

    /// Another caller beside the same sidecar.
    pub fn another(&self) -> Self {
        Self {
            sidecar: None,
            proxy: self.proxy,
        }
    }

    /// The sidecar beside it.
    ///
    /// # Panics
    /// For a client without one.
    pub fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().expect("a client with a sidecar")
    }

    /// GET.
    pub async fn get(&self, url: &str) -> Result<Answer> {
        self.send(Method::GET, url, &[], Bytes::new()).await
    }

    /// GET with headers.
    pub async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        self.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// Any request, over a connection of its own.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, url, headers, body))
            .await
            .with_context(|| format!("{url}: no answer within {TIMEOUT:?}"))?
            .with_context(|| url.to_owned())
    }

    async fn exchange(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer> {
        let uri: Uri = url.parse()?;
        let authority = uri.authority().context("an absolute URL")?.clone();
        let (to, target) = match self.proxy {
            Some(proxy) => (proxy, uri.to_string()),
            None => {
                let port = authority.port_u16().unwrap_or(80);
                let path = uri
                    .path_and_query()
                    .map_or("/", |path| path.as_str())
                    .to_owned();
                (SocketAddr::new(authority.host().parse()?, port), path)
            }
        };
        let stream = TcpStream::connect(to).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", authority.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

fn proxy(sidecar: &Sidecar) -> SocketAddr {
    SocketAddr::new(sidecar.address().into(), 15001)
}

// === impl Answer ===

impl Answer {
    /// The reason of a refusal by the mesh; empty when the application answered.
    pub fn reason(&self) -> &str {
        self.headers
            .get("meshwright-reason")
            .and_then(|reason| reason.to_str().ok())
            .unwrap_or_default()
    }
}
