//! A gRPC client for one call: any method that takes an item and answers with amounts, once or often.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::{Status, body, client};
use tonic_prost::ProstCodec;

use crate::client::Way;
use crate::shop::stock::proto::{Amount, Item};

/// How long a call may take, whatever its deadline is.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What came of a call.
#[derive(Debug)]
pub struct Answer {
    /// In the order in which they came.
    pub messages: Vec<Amount>,
    /// How it ended.
    pub status: Status,
}

/// A connection as `tonic` uses it.
struct Connection(http2::SendRequest<body::Body>);

/// Calls the method at `url`, `http://host/package.Service/Method`.
///
/// # Errors
/// When the URL is none, nobody can be connected to, or the call did not end within ten seconds.
pub async fn call(url: &str, item: &str, metadata: HeaderMap) -> anyhow::Result<Answer> {
    match tokio::time::timeout(TIMEOUT, exchange(url, item, metadata)).await {
        Ok(answer) => answer.with_context(|| format!("no answer from {url}")),
        Err(_) => bail!("no answer from {url} within {} s", TIMEOUT.as_secs()),
    }
}

async fn exchange(url: &str, item: &str, metadata: HeaderMap) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse().context("this is no URL")?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        bail!("this URL does not begin with http://");
    };
    let proxy = std::env::var("http_proxy").ok();
    let Way { through, .. } = Way::to(&uri, authority, proxy.as_deref())?;
    let stream = TcpStream::connect(through).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);

    let origin = Uri::builder()
        .scheme("http")
        .authority(authority.clone())
        .path_and_query("/")
        .build()?;
    let mut grpc = client::Grpc::with_origin(Connection(sender), origin);
    let method = uri.path_and_query().context("no method")?.clone();
    let name = item.to_owned();
    let mut request = tonic::Request::new(futures::stream::iter([Item { name }]));
    *request.metadata_mut() = MetadataMap::from_headers(metadata);
    grpc.ready().await?;
    let codec = ProstCodec::<Item, Amount>::default();
    let mut answer = Answer {
        messages: Vec::new(),
        status: Status::ok(""),
    };
    let mut messages = match grpc.streaming(request, method, codec).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            answer.status = status;
            return Ok(answer);
        }
    };
    loop {
        match messages.message().await {
            Ok(Some(message)) => answer.messages.push(message),
            Ok(None) => return Ok(answer),
            Err(status) => {
                answer.status = status;
                return Ok(answer);
            }
        }
    }
}

// === impl Connection ===

impl Service<Request<body::Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

// === impl Answer ===

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Amount { in_stock, says } in &self.messages {
            writeln!(f, "in_stock: {in_stock}, says: {says:?}")?;
        }
        let code = self.status.code();
        writeln!(f, "grpc-status: {} {code:?}", i32::from(code))?;
        if !self.status.message().is_empty() {
            writeln!(f, "grpc-message: {}", self.status.message())?;
        }
        if let Some(reason) = self.status.metadata().get("meshwright-reason") {
            let reason = String::from_utf8_lossy(reason.as_encoded_bytes());
            writeln!(f, "meshwright-reason: {reason}")?;
        }
        Ok(())
    }
}
