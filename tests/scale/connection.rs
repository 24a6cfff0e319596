//! The connection of one sidecar's end: TCP from an address of its own, mutual TLS as sidecars speak it,
//! and gRPC; what passes is counted.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Error};

use crate::board::Told;

/// As a sidecar asks an idle stream, and how long it waits.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How long a sidecar waits for TCP, and for TLS.
const TCP: Duration = Duration::from_secs(2);
const TLS: Duration = Duration::from_secs(5);

/// How one end gets to the operator.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) operator: SocketAddr,
    /// Each end calls from an address of its own, as pods do.
    pub(crate) source: Ipv4Addr,
    pub(crate) tls: Arc<ClientConfig>,
}

/// TLS of which the bytes within are counted: HTTP/2, without what TLS adds.
struct Counted {
    stream: TlsStream<TcpStream>,
    told: Arc<Told>,
}

// === impl Way ===

impl Way {
    /// Opens a connection, whose bytes `told` counts.
    pub(crate) async fn connect(self, told: Arc<Told>) -> Result<Channel, Error> {
        told.attempt();
        Endpoint::from_static("http://meshwright-operator")
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .connect_with_connector(tower::service_fn(move |_| {
                let (way, told) = (self.clone(), told.clone());
                async move {
                    let stream = way.open().await?;
                    Ok::<_, io::Error>(TokioIo::new(Counted { stream, told }))
                }
            }))
            .await
    }

    async fn open(&self) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(self.source.into(), 0))?;
        let tcp = timeout(TCP, socket.connect(self.operator)).await??;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.operator.ip().into());
        let handshake = TlsConnector::from(self.tls.clone()).connect(name, tcp);
        timeout(TLS, handshake).await?
    }
}

// === impl Counted ===

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let done = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.told.received(buffer.filled().len() - before);
        done
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.told.sent();
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
