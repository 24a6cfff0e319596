//! The connection to the operator: gRPC over TLS 1.3, the operator known by its identity.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::connect::Connector;
use super::tls::HANDSHAKE_TIMEOUT;
use crate::identity::certs::is_operator;

/// Sent on an idle stream, so that an operator that vanished without a word is noticed.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Where the operator is, and how to get there.
#[derive(Clone, Debug)]
pub struct Operator {
    /// `host:port`; the name is looked up anew for every connection.
    pub address: String,
    /// Our trust domain, which must be the operator's.
    pub trust_domain: String,
    /// How this process opens connections.
    pub connector: Connector,
}

// === impl Operator ===

impl Operator {
    /// Opens one connection. The channel does not reconnect by itself with other credentials:
    /// drop it and connect again.
    ///
    /// # Errors
    /// When the operator cannot be reached, or is not the operator.
    pub async fn connect(
        &self,
        tls: Arc<ClientConfig>,
    ) -> Result<Channel, tonic::transport::Error> {
        let this = self.clone();
        // The URI is a formality of gRPC; who answers is decided by its certificate.
        Endpoint::from_static("http://meshwright-operator")
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let (this, tls) = (this.clone(), tls.clone());
                async move { this.open(tls).await.map(TokioIo::new) }
            }))
            .await
    }

    async fn open(&self, tls: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let mut last = io::Error::new(
            io::ErrorKind::NotFound,
            format!("`{}` names no address", self.address),
        );
        for address in tokio::net::lookup_host(&self.address).await? {
            let tcp = match self.connector.to_peer(address).await {
                Ok(tcp) => tcp,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let name = ServerName::IpAddress(address.ip().into());
            let handshake = TlsConnector::from(tls.clone()).connect(name, tcp);
            let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
            let stream = match handshake.map_err(io::Error::from).flatten() {
                Ok(stream) => stream,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let leaf = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|chain| chain.first())
                .ok_or_else(|| io::Error::other("the operator showed no certificate"))?;
            is_operator(leaf, &self.trust_domain).map_err(io::Error::other)?;
            return Ok(stream);
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use wire::client::{BACKOFF_MAX_INCOMPLETE, CONNECT_TIMEOUT};

    use super::*;
    use crate::net::connect;

    #[test]
    fn within_five_seconds_of_the_operators_return_a_sidecar_that_has_nothing_has_called_it() {
        // An attempt where nobody answers, a wait, an attempt.
        let longest = connect::CONNECT_TIMEOUT + BACKOFF_MAX_INCOMPLETE;
        assert!(longest < Duration::from_secs(5));
        // Who answers and is slow is given more time than that.
        assert!(connect::CONNECT_TIMEOUT + HANDSHAKE_TIMEOUT < CONNECT_TIMEOUT);
    }
}
