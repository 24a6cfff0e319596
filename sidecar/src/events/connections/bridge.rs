//! What leads the client of a broker to it: a way that is opened for it, or an address of this host.

use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
#[cfg(feature = "nats")]
use tokio::io::AsyncWriteExt as _;
#[cfg(feature = "nats")]
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
#[cfg(feature = "nats")]
use tokio::net::{TcpListener, TcpStream};
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use wire::broker::Address;

use crate::config;
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
use crate::events::broker::dial::{Ask, Dial};
#[cfg(feature = "nats")]
use crate::events::broker::nats::{guarded::Guarded, upgrade::upgrade};
#[cfg(feature = "nats")]
use crate::net::accept::accept;
use crate::proxy::Proxy;
use crate::proxy::destination::Destination;
#[cfg(feature = "nats")]
use crate::proxy::opaque;
use crate::proxy::opaque::way::{self, Io};

/// How long a way to a broker may take to open.
const CONNECT: Duration = Duration::from_secs(5);
/// The same, for whoever gives up by then, and is told why before.
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
const OPEN: Duration = Duration::from_millis(4_500);
/// How many bytes are read at once.
#[cfg(feature = "nats")]
const READ: usize = 16 * 1024;

/// Opens a way to a broker for whoever asks.
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
pub(super) fn within(
    px: Weak<Proxy>,
    broker: &Arc<config::broker::Broker>,
) -> (Dial, AbortOnDropHandle<()>) {
    let (asks, mut asked) = mpsc::unbounded_channel::<Ask>();
    let broker = broker.clone();
    let answering = async move {
        while let Some(ask) = asked.recv().await {
            let (px, broker) = (px.clone(), broker.clone());
            tokio::task::spawn_local(async move {
                let mut ask = ask;
                let opened = tokio::select! {
                    biased;
                    opened = open(&px, &broker) => opened,
                    // Whoever asked has given up.
                    () = ask.closed() => return,
                };
                if let Err(error) = &opened {
                    tracing::debug!(%broker, %error, "there is no way to a broker");
                }
                let _ = ask.send(opened);
            });
        }
    };
    (
        Dial::Within(asks),
        AbortOnDropHandle::new(tokio::task::spawn_local(answering)),
    )
}

/// A way to a broker, over TLS where it is outside the mesh. Its client looks at what comes itself.
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
async fn open(px: &Weak<Proxy>, broker: &config::broker::Broker) -> io::Result<Box<dyn Io>> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    let address = broker.address.as_ref().ok_or_else(gone)?;
    let px = px.upgrade().ok_or_else(gone)?;
    let opening = async {
        let Some(tls) = &broker.tls else {
            let destination = in_the_mesh(&px, address).await?;
            let opened = way::open(&px, &destination).await;
            return opened.map_err(|error| io::Error::other(error.to_string()));
        };
        let far = reach(&px, address).await?;
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(tls.clone()).connect(name, far).await?;
        Ok(way::parting(tls))
    };
    let opened = timeout(OPEN, opening).await;
    opened.unwrap_or_else(|_| {
        let why = "nobody answers there in time";
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

/// Leads what dials the listener to a broker.
#[cfg(feature = "nats")]
pub(super) fn listen(
    px: Weak<Proxy>,
    listener: TcpListener,
    broker: Arc<config::broker::Broker>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::task::spawn_local(async move {
        loop {
            spawn_lead(&px, accept(&listener).await, &broker);
        }
    }))
}

#[cfg(feature = "nats")]
fn spawn_lead(px: &Weak<Proxy>, near: TcpStream, broker: &Arc<config::broker::Broker>) {
    let (px, broker) = (px.clone(), broker.clone());
    tokio::task::spawn_local(async move {
        if let Err(error) = lead(&px, near, &broker).await {
            tracing::debug!(%broker, %error, "a connection to a broker ended");
        }
    });
}

/// Carries what a client says to its broker, and back.
#[cfg(feature = "nats")]
async fn lead(
    px: &Weak<Proxy>,
    near: TcpStream,
    broker: &config::broker::Broker,
) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    let address = broker.address.as_ref().ok_or_else(gone)?;
    let px = px.upgrade().ok_or_else(gone)?;
    let Some(tls) = &broker.tls else {
        let destination = in_the_mesh(&px, address).await?;
        let carried = opaque::outbound(&px, Guarded::new(near, b"")?, &destination).await;
        return carried
            .map(drop)
            .map_err(|error| io::Error::other(error.to_string()));
    };
    let opening = async {
        let far = reach(&px, address).await?;
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
        upgrade(far, &TlsConnector::from(tls.clone()), name).await
    };
    // Who dials gives up by then, too.
    let (mut far, said) = timeout(CONNECT, opening).await??;
    drop(px);
    carry_guarded(near, &mut far, &said).await
}

/// The Service of the mesh that is a broker without TLS of its own, which is reached as the application's calls are.
async fn in_the_mesh(px: &Proxy, address: &Address) -> io::Result<Rc<Destination>> {
    let named = timeout(CONNECT, px.named(&address.host, address.port)).await?;
    named.ok_or_else(|| io::Error::other("it is no Service of the mesh, and not tls"))
}

/// Carries what a NATS says past the guard, and first what it has said already: its client says nothing before that, and the
/// broker nothing more.
#[cfg(feature = "nats")]
async fn carry_guarded<A, B>(near: A, far: &mut B, said: &[u8]) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut near = Guarded::new(near, said)?;
    near.flush().await?;
    carry(&mut near, far).await
}

/// Carries bytes until both ends have closed.
#[cfg(feature = "nats")]
async fn carry<A, B>(near: &mut A, far: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional_with_sizes(near, far, READ, READ)
        .await
        .map(drop)
}

/// Opens a way to a broker that speaks TLS itself: over the mesh where it is a Service, else out of it.
async fn reach(px: &Rc<Proxy>, address: &Address) -> io::Result<Box<dyn Io>> {
    let (host, port) = (address.host.as_str(), address.port);
    match px.named(host, port).await {
        Some(destination) => {
            let opened = way::open(px, &destination).await;
            opened.map_err(|error| io::Error::other(error.to_string()))
        }
        None => Ok(Box::new(px.dial.connector.to_host(host, port).await?)),
    }
}

#[cfg(all(test, feature = "nats"))]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt as _, ReadBuf};

    use super::*;

    /// A broker that has said all that it says; and how often it was read.
    struct Said<'t>(&'t [u8], &'t Cell<usize>);

    impl AsyncRead for Said<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let (now, later) = self.0.split_at(self.0.len().min(into.remaining()));
            into.put_slice(now);
            self.0 = later;
            self.1.set(self.1.get() + 1);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Said<'_> {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_broker_says_is_read_in_large_parts() -> io::Result<()> {
        let (near, mut client) = tokio::io::duplex(READ);
        let (said, reads) = ("+OK\r\n".repeat(20_000), Cell::new(0));
        let (mut near, mut far) = (Guarded::new(near, b"")?, Said(said.as_bytes(), &reads));
        let mut heard = Vec::new();
        let (led, read) = tokio::join!(carry(&mut near, &mut far), async {
            let read = client.read_to_end(&mut heard).await;
            drop(client);
            read
        });
        led?;
        read?;
        assert_eq!(heard, said.as_bytes());
        assert!(reads.get() <= 2 + said.len() / READ, "{}", reads.get());
        Ok(())
    }

    #[tokio::test]
    async fn what_a_broker_has_said_before_tls_is_told_before_anybody_says_more() -> io::Result<()>
    {
        let (near, mut client) = tokio::io::duplex(READ);
        let (mut far, mut broker) = tokio::io::duplex(READ);
        let (mut first, mut heard) = ([0; 9], [0; 6]);
        let talking = async {
            client.read_exact(&mut first).await?;
            client.write_all(b"PING\r\n").await?;
            broker.read_exact(&mut heard).await?;
            drop((client, broker));
            Ok(())
        };
        let carried = carry_guarded(near, &mut far, b"INFO {}\r\n");
        let both = async { tokio::try_join!(carried, talking) };
        timeout(CONNECT, both).await??;
        assert_eq!((&first, &heard), (b"INFO {}\r\n", b"PING\r\n"));
        Ok(())
    }
}
