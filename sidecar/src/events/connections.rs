//! Connections to brokers: one for each worker and broker, opened when it is first needed.
//!
//! A broker that is a Service of the mesh is reached as the application's calls are, with the mesh's mutual TLS
//! where it has a sidecar; another one over TLS. Its client dials an address of this host that leads there: whoever else finds that
//! address gets to a broker that it could have called itself, and without credentials.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
#[cfg(feature = "nats")]
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use wire::broker::{Address, BrokerKind};

#[cfg(feature = "nats")]
use super::broker::nats::{self, Nats, guard::Guard, upgrade::upgrade};
#[cfg(feature = "rabbitmq")]
use super::broker::rabbitmq::{self, RabbitMq};
#[cfg(feature = "redis")]
use super::broker::redis::{self, Redis};
use super::broker::{Broker, Unsubscribed};
use crate::config;
use crate::config::State;
use crate::net::accept::accept;
use crate::proxy::{Proxy, opaque};

/// How long a way to a broker may take to open.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a broker is waited for that was asked for the first time, and how often it is looked whether it is
/// there.
const FIRST: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// How many bytes of what comes from a broker are read at once.
#[cfg(feature = "nats")]
const READ: usize = 16 * 1024;

/// A connection, whatever it goes over.
trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// The brokers of a worker.
#[derive(Default)]
pub struct Connections(RefCell<HashMap<Arc<config::broker::Broker>, Rc<Connection>>>);

/// A broker, once it was asked for.
#[derive(Default)]
struct Connection {
    opened: OnceCell<Opened>,
}

struct Opened {
    broker: Rc<dyn Broker>,
    since: Instant,
    _bridge: Bridge,
}

/// What leads to a broker, until this is dropped.
struct Bridge(JoinHandle<()>);

// === impl Connections ===

impl Connections {
    /// A broker, connected or not: it connects by itself, again and again.
    ///
    /// # Errors
    /// That it can't be had: its Secret says nothing that can be used.
    pub async fn at(
        &self,
        px: &Rc<Proxy>,
        broker: &Arc<config::broker::Broker>,
    ) -> Result<Rc<dyn Broker>, Unsubscribed> {
        let connection = {
            let mut all = self.0.borrow_mut();
            all.entry(broker.clone()).or_default().clone()
        };
        let opened = connection
            .opened
            .get_or_try_init(|| Box::pin(open(px, broker)))
            .await?;
        // Whoever asks first is not told that a broker is away that was never tried.
        while !opened.broker.is_connected() && opened.since.elapsed() < FIRST {
            sleep(LOOK).await;
        }
        Ok(opened.broker.clone())
    }

    /// Forgets the brokers that a state names no more.
    pub fn keep(&self, state: &State) {
        let publishing = state.built.publish.values();
        let publishing = publishing.flat_map(|one| one.brokers());
        let subscribed = state.built.subscriptions.values();
        let subscribed = subscribed.flat_map(|one| one.brokers());
        let named: Vec<_> = publishing.chain(subscribed).collect();
        self.0
            .borrow_mut()
            .retain(|broker, _| named.contains(&broker));
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn open(
    px: &Rc<Proxy>,
    broker: &Arc<config::broker::Broker>,
) -> Result<Opened, Unsubscribed> {
    let missing = || Unsubscribed::Refused("its Secret can't be used".to_owned());
    let address = broker.address.clone().ok_or_else(missing)?;
    let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listening = listening.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (dial, listener) = listening.map_err(|error| Unsubscribed::Away(error.to_string()))?;
    let bridge = bridge(Rc::downgrade(px), listener, broker.clone());
    // Whoever asks may go before it is open.
    let _bridge = Bridge(tokio::task::spawn_local(bridge));
    let broker = client(address.kind, dial, broker).await?;
    Ok(Opened {
        broker,
        since: Instant::now(),
        _bridge,
    })
}

/// The client of a broker that is reached at `dial`.
async fn client(
    kind: BrokerKind,
    dial: SocketAddr,
    broker: &config::broker::Broker,
) -> Result<Rc<dyn Broker>, Unsubscribed> {
    match kind {
        #[cfg(feature = "nats")]
        BrokerKind::Nats => Ok(Rc::new(Nats::open(nats_address(dial, broker)).await?)),
        #[cfg(feature = "rabbitmq")]
        BrokerKind::RabbitMq => Ok(Rc::new(RabbitMq::open(rabbitmq_address(dial, broker))?)),
        #[cfg(feature = "redis")]
        BrokerKind::Redis => Ok(Rc::new(Redis::open(redis_address(dial, broker)).await?)),
        #[cfg(not(all(feature = "nats", feature = "rabbitmq", feature = "redis")))]
        kind => {
            let why = format!("this sidecar was built without {}", kind.name());
            let _ = (dial, broker);
            Err(Unsubscribed::Refused(why))
        }
    }
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq_address(dial: SocketAddr, broker: &config::broker::Broker) -> rabbitmq::Address {
    let (user, password) = broker.password();
    rabbitmq::Address {
        dial,
        name: broker.to_string(),
        user: user.to_owned(),
        password: password.to_owned(),
        virtual_host: broker.virtual_host().to_owned(),
    }
}

#[cfg(feature = "redis")]
fn redis_address(dial: SocketAddr, broker: &config::broker::Broker) -> redis::Address {
    let (user, password) = broker.password();
    redis::Address {
        dial,
        name: broker.to_string(),
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

#[cfg(feature = "nats")]
fn nats_address(dial: SocketAddr, broker: &config::broker::Broker) -> nats::Address {
    let credentials = match (broker.token(), broker.password()) {
        ("", ("", "")) => nats::Credentials::None,
        ("", (user, password)) => {
            nats::Credentials::UserPassword(user.to_owned(), password.to_owned())
        }
        (token, _) => nats::Credentials::Token(token.to_owned()),
    };
    nats::Address {
        dial,
        name: broker.to_string(),
        credentials,
    }
}

/// Leads what dials the listener to a broker.
async fn bridge(px: Weak<Proxy>, listener: TcpListener, broker: Arc<config::broker::Broker>) {
    loop {
        let stream = accept(&listener).await;
        let (px, broker) = (px.clone(), broker.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = lead(&px, stream, &broker).await {
                tracing::debug!(%broker, %error, "a connection to a broker ended");
            }
        });
    }
}

async fn lead(
    px: &Weak<Proxy>,
    mut near: TcpStream,
    broker: &config::broker::Broker,
) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    let address = broker.address.as_ref().ok_or_else(gone)?;
    let px = px.upgrade().ok_or_else(gone)?;
    let opening = async {
        let far = reach(&px, address).await?;
        let Some(tls) = &broker.tls else {
            return Ok((far, Vec::new()));
        };
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(tls.clone());
        let opened: (Box<dyn Io>, Vec<u8>) = match address.kind {
            #[cfg(feature = "nats")]
            BrokerKind::Nats => {
                let (far, said) = upgrade(far, &tls, name).await?;
                (Box::new(far), said)
            }
            _ => (Box::new(tls.connect(name, far).await?), Vec::new()),
        };
        io::Result::Ok(opened)
    };
    // Who dials gives up by then, too.
    #[cfg_attr(
        not(feature = "nats"),
        allow(unused_variables, reason = "only a NATS speaks first")
    )]
    let (mut far, said) = timeout(CONNECT, opening).await??;
    drop(px);
    match address.kind {
        #[cfg(feature = "nats")]
        BrokerKind::Nats => guarded(near, far, &said).await,
        // Their clients look at what comes themselves.
        _ => tokio::io::copy_bidirectional(&mut near, &mut far)
            .await
            .map(drop),
    }
}

/// Opens a way to a broker: over the mesh where it is a Service, else out of it.
async fn reach(px: &Rc<Proxy>, address: &Address) -> io::Result<Box<dyn Io>> {
    let (host, port) = (address.host.as_str(), address.port);
    match px.named(host, port).await {
        Some(destination) => {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let px = px.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = opaque::outbound(&px, far, &destination).await {
                    tracing::debug!(%error, "a connection to a broker ended");
                }
            });
            Ok(Box::new(near))
        }
        None if !address.tls => Err(io::Error::other(
            "it is no Service of the mesh, and not tls",
        )),
        None => Ok(Box::new(px.dial.connector.to_host(host, port).await?)),
    }
}

/// Carries bytes until one end closes. What comes from the broker passes a guard; `said`: what it has said
/// already.
#[cfg(feature = "nats")]
async fn guarded(near: TcpStream, far: impl Io, said: &[u8]) -> io::Result<()> {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = tokio::io::split(far);
    let there = async {
        tokio::io::copy(&mut from_near, &mut to_far).await?;
        to_far.shutdown().await
    };
    let back = async {
        let (mut guard, mut passed) = (Guard::default(), Vec::new());
        // One without room has room for 64 bytes made at each read, and has no more then.
        let mut read = Vec::with_capacity(READ);
        guard.pass(said, &mut passed).map_err(io::Error::other)?;
        loop {
            if !passed.is_empty() {
                to_near.write_all(&passed).await?;
                passed.clear();
            }
            read.clear();
            if from_far.read_buf(&mut read).await? == 0 {
                return to_near.shutdown().await;
            }
            guard.pass(&read, &mut passed).map_err(io::Error::other)?;
        }
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}

#[cfg(all(test, feature = "nats"))]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut client = TcpStream::connect(listener.local_addr()?).await?;
        let (near, _) = listener.accept().await?;
        let (said, reads) = ("+OK\r\n".repeat(20_000), Cell::new(0));
        let mut heard = Vec::new();
        let (led, read) = tokio::join!(
            guarded(near, Said(said.as_bytes(), &reads), b""),
            client.read_to_end(&mut heard)
        );
        led?;
        read?;
        assert_eq!(heard, said.as_bytes());
        assert!(reads.get() <= 2 + said.len() / READ, "{}", reads.get());
        Ok(())
    }
}
