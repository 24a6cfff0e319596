//! The three ways of asking an application how it is, each as the kubelet does it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use wire::probe::{HttpGet, SIDECAR_PORTS};

use super::Outcome;
use crate::net::connect::Connector;

/// Requests that redirects may make of one: the kubelet's bound.
const MOST_REQUESTS: usize = 10;
/// Bytes of an answer's body that are read, to see that it comes: the kubelet's bound.
const MAX_BODY: usize = 10 * 1024;
/// Bytes of an answer's head that are read.
const MAX_HEAD: usize = 64 * 1024;
/// Bytes of a gRPC answer, which holds one small number.
const MAX_MESSAGE: usize = 1024;
/// The kubelet's begins the same: applications leave such requests out of their logs by it.
const AGENT: &str = "kube-probe/meshwright";

/// Where one request of a GET goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    https: bool,
    port: u16,
    path: PathAndQuery,
    /// Whether the `Host` that was written still holds.
    host: bool,
}

/// A connection's other half, ended when the question is.
struct Driven(AbortHandle);

// === a connection ===

/// Whether the application accepts a connection.
pub(super) async fn tcp_socket(connector: &Connector, at: SocketAddr) -> Outcome {
    match connector.to_application_unbounded(at).await {
        Ok(_) => Outcome::Answered(StatusCode::OK, "accepts connections".to_owned()),
        Err(error) => Outcome::Unanswered(unreached(&error)),
    }
}

fn unreached(error: &io::Error) -> String {
    format!("can't be reached: {}", error.kind())
}

// === gRPC ===

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What the application says of one of its services.
pub(super) async fn grpc(connector: &Connector, at: SocketAddr, service: &str) -> Outcome {
    let connector = connector.clone();
    let connect = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            connector
                .to_application_unbounded(at)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{at}"))
        .and_then(|endpoint| endpoint.user_agent(AGENT));
    let Ok(endpoint) = endpoint else {
        return Outcome::Unanswered("has no address that gRPC could name".to_owned());
    };
    let Ok(channel) = endpoint.connect_with_connector(connect).await else {
        return Outcome::Unanswered("can't be reached by gRPC".to_owned());
    };
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
    if client.ready().await.is_err() {
        return Outcome::Unanswered("has closed the connection".to_owned());
    }
    let request = tonic::Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<_, HealthCheckResponse>::default();
    match client.unary(request, path, codec).await {
        Ok(response) => match response.get_ref().status {
            1 => Outcome::Answered(StatusCode::OK, "is SERVING".to_owned()),
            other => {
                let said = match other {
                    2 => "is NOT_SERVING",
                    3 => "knows no such service (SERVICE_UNKNOWN)",
                    _ => "does not know whether it serves (UNKNOWN)",
                };
                Outcome::Answered(StatusCode::SERVICE_UNAVAILABLE, said.to_owned())
            }
        },
        // What it says beside the code is the application's own, and may be anything.
        Err(status) => Outcome::Answered(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("answered the gRPC status {:?}", status.code()),
        ),
    }
}

// === HTTP ===

/// What the application answers to a GET, after redirects that stay with it.
pub(super) async fn http_get(
    connector: &Connector,
    tls: &Arc<ClientConfig>,
    pod: IpAddr,
    get: &HttpGet,
) -> Outcome {
    let Ok(path) = PathAndQuery::try_from(get.path.as_str()) else {
        return Outcome::Unanswered("can't be asked: the path is none".to_owned());
    };
    let mut target = Target {
        https: get.https,
        port: get.port,
        path,
        host: true,
    };
    for _ in 0..MOST_REQUESTS {
        let asked = once(connector, tls, pod, &target, &get.headers).await;
        // The connection is driven until the answer is read.
        let (response, _driven) = match asked {
            Ok(answered) => answered,
            Err(why) => return Outcome::Unanswered(why),
        };
        let status = response.status();
        match target.redirected(pod, status, response.headers()) {
            Some(next) => target = next,
            None if read(response).await => {
                return Outcome::Answered(status, format!("answered {}", status.as_u16()));
            }
            None => return Outcome::Unanswered("broke off its answer".to_owned()),
        }
    }
    Outcome::Unanswered(format!("redirected {MOST_REQUESTS} times"))
}

/// One request, on a connection of its own.
async fn once(
    connector: &Connector,
    tls: &Arc<ClientConfig>,
    pod: IpAddr,
    target: &Target,
    headers: &[(String, String)],
) -> Result<(Response<Incoming>, Driven), String> {
    let at = SocketAddr::new(pod, target.port);
    let stream = connector.to_application_unbounded(at).await;
    let stream = stream.map_err(|error| unreached(&error))?;
    if !target.https {
        return exchange(stream, false, target.request(at, headers, false)).await;
    }
    let name = ServerName::IpAddress(pod.into());
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
    let stream = stream.map_err(|_| "does not speak HTTPS there".to_owned())?;
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    exchange(stream, is_h2, target.request(at, headers, is_h2)).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_h2: bool,
    request: Request<Empty<Bytes>>,
) -> Result<(Response<Incoming>, Driven), String> {
    let broken = |_: hyper::Error| "does not answer in HTTP".to_owned();
    let stream = TokioIo::new(stream);
    if is_h2 {
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(stream)
            .await
            .map_err(broken)?;
        let driven = Driven(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(broken)?;
        return Ok((response, driven));
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(broken)?;
    let driven = Driven(tokio::spawn(connection).abort_handle());
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok((response, driven))
}

/// Whether a body comes, as far as it is read.
async fn read(response: Response<Incoming>) -> bool {
    let mut body = response.into_body();
    let mut left = MAX_BODY;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return false;
        };
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return true,
        }
    }
    true
}

// === impl Target ===

impl Target {
    fn request(
        &self,
        at: SocketAddr,
        headers: &[(String, String)],
        is_h2: bool,
    ) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        let mut host = HeaderValue::try_from(at.to_string()).ok();
        let map = request.headers_mut();
        for (name, value) in headers {
            let named = (HeaderName::try_from(name), HeaderValue::try_from(value));
            // What is none was refused when it was read.
            let (Ok(name), Ok(value)) = named else {
                continue;
            };
            match name {
                HOST if self.host => host = Some(value),
                HOST | CONNECTION => {}
                name => drop(map.append(name, value)),
            }
        }
        let mut unless_said = |name: HeaderName, value: &'static str| {
            map.entry(name).or_insert(HeaderValue::from_static(value));
        };
        unless_said(ACCEPT, "*/*");
        unless_said(USER_AGENT, AGENT);
        if is_h2 {
            let authority = host.as_ref().and_then(|host| host.to_str().ok());
            let uri = Uri::builder()
                .scheme("https")
                .authority(authority.unwrap_or_default())
                .path_and_query(self.path.clone())
                .build();
            *request.uri_mut() = uri.unwrap_or_default();
        } else {
            *request.uri_mut() = Uri::from(self.path.clone());
            let headers = request.headers_mut();
            headers.extend(host.map(|host| (HOST, host)));
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        request
    }

    /// Where an answer sends the asker on, if that is the same pod: to another host the kubelet doesn't
    /// follow, and takes the answer for good.
    fn redirected(&self, pod: IpAddr, status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = headers.get(LOCATION)?.to_str().ok()?;
        let location = location.split('#').next().unwrap_or_default();
        let scheme = if self.https { "https:" } else { "http:" };
        let absolute = match location {
            _ if location.starts_with("//") => format!("{scheme}{location}"),
            _ if location.contains("://") => location.to_owned(),
            _ => {
                let path = self.relative(location);
                let path = PathAndQuery::try_from(path).ok()?;
                return Some(Self {
                    path,
                    ..self.clone()
                });
            }
        };
        let uri = Uri::try_from(absolute).ok()?;
        let https = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_matches(['[', ']']).parse::<IpAddr>();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        if host != Ok(pod) || SIDECAR_PORTS.contains(&port) {
            return None;
        }
        let path = uri.path_and_query().cloned();
        Some(Self {
            https,
            port,
            path: path.unwrap_or(PathAndQuery::from_static("/")),
            host: false,
        })
    }

    fn relative(&self, location: &str) -> String {
        if location.starts_with('/') {
            return location.to_owned();
        }
        let path = self.path.path();
        match location.starts_with('?') {
            true => format!("{path}{location}"),
            false => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            }
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}
