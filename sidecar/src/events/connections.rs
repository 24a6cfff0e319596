//! Connections to brokers: one for each worker and broker, opened when it is first needed.
//!
//! A broker that is a Service of the mesh is reached as the application's calls are, with the mesh's mutual TLS
//! where it has a sidecar; another one over TLS. Its client is led there within this process, but for the one of NATS, which
//! dials an address of this host: whoever else finds that gets to a broker that it could have called itself, and without
//! credentials.

#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
mod bridge;

use std::cell::RefCell;
use std::collections::HashMap;
#[cfg(feature = "nats")]
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "nats")]
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use wire::broker::BrokerKind;

#[cfg(any(feature = "rabbitmq", feature = "redis"))]
use super::broker::dial::Dial;
#[cfg(feature = "nats")]
use super::broker::nats::{self, Nats};
#[cfg(feature = "rabbitmq")]
use super::broker::rabbitmq::{self, RabbitMq};
#[cfg(feature = "redis")]
use super::broker::redis::{self, Redis};
use super::broker::{Broker, Unsubscribed};
use crate::config;
use crate::config::State;
use crate::proxy::Proxy;

/// How long a broker is waited for that was asked for the first time, and how often it is looked whether it is
/// there.
const FIRST: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

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
    /// What leads there.
    _bridge: AbortOnDropHandle<()>,
}

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

async fn open(
    px: &Rc<Proxy>,
    broker: &Arc<config::broker::Broker>,
) -> Result<Opened, Unsubscribed> {
    let missing = || Unsubscribed::Refused("its Secret can't be used".to_owned());
    let address = broker.address.clone().ok_or_else(missing)?;
    let (broker, _bridge) = client(address.kind, Rc::downgrade(px), broker).await?;
    Ok(Opened {
        broker,
        since: Instant::now(),
        _bridge,
    })
}

/// The client of a broker, and what leads it there.
async fn client(
    kind: BrokerKind,
    px: Weak<Proxy>,
    broker: &Arc<config::broker::Broker>,
) -> Result<(Rc<dyn Broker>, AbortOnDropHandle<()>), Unsubscribed> {
    match kind {
        // Its crate dials addresses only.
        #[cfg(feature = "nats")]
        BrokerKind::Nats => {
            let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listening = listening.and_then(|listener| Ok((listener.local_addr()?, listener)));
            let (dial, listener) =
                listening.map_err(|error| Unsubscribed::Away(error.to_string()))?;
            // Whoever asks may go before it is open.
            let bridge = bridge::listen(px, listener, broker.clone());
            let nats = Nats::open(nats_address(dial, broker)).await?;
            Ok((Rc::new(nats), bridge))
        }
        #[cfg(feature = "rabbitmq")]
        BrokerKind::RabbitMq => {
            let (dial, bridge) = bridge::within(px, broker);
            let rabbitmq = RabbitMq::open(rabbitmq_address(dial, broker))?;
            Ok((Rc::new(rabbitmq), bridge))
        }
        #[cfg(feature = "redis")]
        BrokerKind::Redis => {
            let (dial, bridge) = bridge::within(px, broker);
            let redis = Redis::open(redis_address(dial, broker)).await?;
            Ok((Rc::new(redis), bridge))
        }
        #[cfg(not(all(feature = "nats", feature = "rabbitmq", feature = "redis")))]
        kind => {
            let why = format!("this sidecar was built without {}", kind.name());
            let _ = (px, broker);
            Err(Unsubscribed::Refused(why))
        }
    }
}

#[cfg(feature = "rabbitmq")]
fn rabbitmq_address(dial: Dial, broker: &config::broker::Broker) -> rabbitmq::Address {
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
fn redis_address(dial: Dial, broker: &config::broker::Broker) -> redis::Address {
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
