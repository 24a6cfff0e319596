//! A connection to RabbitMQ: kept.
//!
//! Why not the crate's own recovery: it does again whatever was done before the connection broke, with
//! what was under way among it. Here a connection that breaks is over, with all that was opened on it,
//! and there is another one.
//!
//! The crate never forgets the number of a channel that the broker has ended, and fails what is opened with it once
//! more (lapin 4.12), with what was said then. So it is opened again, with the next number; and before there are none
//! left, after some thousand questions to which the answer was no, as whoever publishes to what is not there gets,
//! another connection takes the place of this one, which ends when nobody uses it any more.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_rs::Runtime;
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::guard::MAX_FRAME;
use super::guarded::{Closing, Guarded, Seen};
use super::kit::Kit;
use crate::events::broker::dial::{Dial, refuses, shown};

/// How long a connection may take until it can be used.
const CONNECT: Duration = Duration::from_secs(5);
/// From one try to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How often each side says that it is still there, in seconds, when it says nothing else; and after how long a
/// silence it is not.
const HEARTBEAT: u16 = 10;
const SILENCE: Duration = Duration::from_secs(25);
/// How many channels are kept on which something was asked.
pub(super) const ASKED: usize = 2;
/// What one says first that does not take who we are.
const REFUSES: &str = "ACCESS_REFUSED";

/// Where a broker is, and what it wants to know. There is no `Debug`: the password is shown to nobody.
///
/// TLS is not spoken here. Whatever leads there from `dial` brings it.
#[derive(Clone)]
pub struct Address {
    /// What is dialled: what leads to the broker.
    pub dial: Dial,
    /// What the broker is called in logs.
    pub name: String,
    /// Who we are.
    pub user: String,
    /// What only we know.
    pub password: String,
    /// Which of its virtual hosts is meant: `/`, if nobody has made another.
    pub virtual_host: String,
}

/// A connection that is kept as long as this is.
pub(super) struct Link {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    address: Address,
    /// What it is for, which the broker shows.
    purpose: &'static str,
    connected: watch::Sender<Option<Arc<Connected>>>,
    why: Mutex<String>,
    away: AtomicBool,
}

/// A connection, until it breaks.
pub(super) struct Connected {
    connection: Connection,
    /// The version of the broker.
    pub(super) version: String,
    /// What the broker says on it, as it is seen before the crate reads it.
    pub(super) seen: Arc<Seen>,
    /// Channels on which something was asked, and nothing is under way.
    asked: Mutex<Vec<Channel>>,
    ended: watch::Receiver<()>,
    /// Dropped with this, which is told.
    _used: oneshot::Sender<Infallible>,
}

/// How a connection ended.
enum End {
    /// Another one is to take its place, and nothing is wrong.
    Worn,
    /// Why it broke, or was never made.
    Broken(String),
}

// === impl Link ===

impl Link {
    /// Opens it in the background, and again whenever it breaks.
    pub(super) fn open(address: Address, purpose: &'static str) -> Self {
        let shared = Arc::new(Shared {
            address,
            purpose,
            connected: watch::Sender::new(None),
            why: Mutex::new("it is not connected yet".to_owned()),
            away: AtomicBool::new(false),
        });
        let keeper = tokio::spawn(keep(shared.clone()));
        Self { shared, keeper }
    }

    /// The connection, if there is one.
    pub(super) fn connected(&self) -> Option<Arc<Connected>> {
        self.shared.connected.borrow().clone()
    }

    /// Each that takes the place of another.
    pub(super) fn connections(&self) -> watch::Receiver<Option<Arc<Connected>>> {
        self.shared.connected.subscribe()
    }

    /// The connection, when there is one; why there is none in time.
    pub(super) async fn wait(&self, patience: Duration) -> Result<Arc<Connected>, String> {
        let mut connected = self.shared.connected.subscribe();
        let waited = timeout(patience, connected.wait_for(Option::is_some)).await;
        let found = waited.ok().and_then(|found| found.ok()?.clone());
        found.ok_or_else(|| lock(&self.shared.why).clone())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The socket goes with it, and with that the thread of the crate.
        self.keeper.abort();
    }
}

// === impl Shared ===

impl Shared {
    /// There is no new connection. One that was to have a successor is used on as long as it goes on.
    fn has_none(&self, why: &str) {
        let ended = |one: &mut Option<Arc<Connected>>| one.take_if(|one| one.is_over()).is_some();
        self.connected.send_if_modified(ended);
        if self.connected.borrow().is_none() {
            self.is_away(why);
        }
    }

    fn is_away(&self, why: &str) {
        let mut known = lock(&self.why);
        known.clear();
        known.push_str(why);
        drop(known);
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(broker = %self.address.name, why, "the broker is away");
        }
    }

    fn is_there(&self, connected: Connected) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!(broker = %self.address.name, "the broker is back");
        }
        self.connected.send_replace(Some(Arc::new(connected)));
    }
}

// === impl Connected ===

impl Connected {
    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, lapin::Error> {
        loop {
            match self.connection.create_channel().await {
                // It was said of an earlier one of that number, which is used no more.
                Err(error) if refusal(&error).is_some() && !self.is_over() => {}
                opened => return opened,
            }
        }
    }

    /// A channel on which something was asked before.
    pub(super) fn rested(&self) -> Option<Channel> {
        let mut asked = lock(&self.asked);
        while let Some(channel) = asked.pop() {
            if channel.status().connected() {
                return Some(channel);
            }
        }
        None
    }

    /// Keeps a channel for who asks next, if there are not enough of them.
    pub(super) fn rests(&self, channel: Channel) {
        let mut asked = lock(&self.asked);
        if asked.len() < ASKED {
            asked.push(channel);
        }
    }

    /// Opens a channel on which it is confirmed what is published.
    pub(super) async fn confirming(&self) -> Result<Channel, lapin::Error> {
        let channel = self.channel().await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        confirm.await.map(|()| channel)
    }

    /// Whether the broker reads nothing from here for now: it has too little memory, or disk.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// How many channels there may be at once.
    pub(super) fn channels(&self) -> usize {
        self.connection.configuration().channel_max().into()
    }

    /// How many bytes a frame may have.
    pub(super) fn longest_frame(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// Returns when it is over.
    pub(super) async fn ended(&self) {
        // It is never told anything but that whoever could tell is gone.
        let _ = self.ended.clone().changed().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended.has_changed().is_err()
    }
}

/// Connects, again and again.
async fn keep(shared: Arc<Shared>) {
    let mut pause = AGAIN.0;
    loop {
        let since = Instant::now();
        let why = match hold(&shared).await {
            End::Broken(why) => why,
            End::Worn => {
                pause = AGAIN.0;
                continue;
            }
        };
        let why = match why.starts_with(REFUSES) {
            true => refuses(why),
            false => why,
        };
        shared.has_none(&why);
        if since.elapsed() > CONNECT + AGAIN.1 {
            pause = AGAIN.0;
        }
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// Connects, and returns when that failed, the connection broke, or it is to have a successor.
async fn hold(shared: &Shared) -> End {
    let dialled = timeout(CONNECT, shared.address.dial.open()).await;
    let socket = match dialled {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return End::Broken(error.to_string()),
        Err(_) => return End::Broken("nobody answers there".to_owned()),
    };
    let seen = Seen::new();
    let near = Guarded::new(socket, seen.clone());
    let closing = Seen::closing(seen.clone());
    let mut over = pin!(seen.ended(SILENCE));
    let connecting = timeout(CONNECT, connect(shared, near));
    let connection = tokio::select! {
        biased;
        connected = connecting => match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                return End::Broken(seen.reason().unwrap_or_else(|| told(&error)));
            }
            Err(_) => return End::Broken("it does not answer in time".to_owned()),
        },
        why = &mut over => return End::Broken(why),
    };
    let channels = connection.configuration().channel_max();
    let (going, ended) = watch::channel(());
    let (used, unused) = oneshot::channel();
    shared.is_there(Connected {
        connection,
        version: seen.version().unwrap_or_default(),
        seen: seen.clone(),
        asked: Mutex::default(),
        ended,
        _used: used,
    });
    tokio::select! {
        biased;
        why = over => End::Broken(why),
        // Half of the numbers are left to those who use it.
        () = seen.has_ended((u32::from(channels) / 2).max(1)) => {
            tracing::debug!(broker = %shared.address.name, "another connection takes the place of one on which much was refused");
            tokio::spawn(go_on(seen.clone(), closing, (going, unused)));
            End::Worn
        }
    }
}

/// Keeps a connection that has a successor until nobody uses it any more.
async fn go_on(
    seen: Arc<Seen>,
    closing: Closing,
    (going, unused): (watch::Sender<()>, oneshot::Receiver<Infallible>),
) {
    tokio::select! {
        _ = seen.ended(SILENCE) => {}
        _ = unused => {}
    }
    drop((going, closing));
}

async fn connect(shared: &Shared, near: Guarded) -> lapin::Result<Connection> {
    let address = &shared.address;
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: address.user.clone(),
                password: address.password.clone(),
            },
            // It dials nothing.
            host: String::new(),
            port: 0,
        },
        vhost: address.virtual_host.clone(),
        query: AMQPQueryString {
            frame_max: u32::try_from(MAX_FRAME).ok(),
            heartbeat: Some(HEARTBEAT),
            ..AMQPQueryString::default()
        },
    };
    let properties = ConnectionProperties::default()
        .with_connection_name(shared.purpose.into())
        .with_client_property(text("product"), "meshwright".into())
        .with_client_property(text("version"), env!("CARGO_PKG_VERSION").into());
    let near = Mutex::new(Some(near));
    // It would dial; what it is to speak over is there already, once.
    let dial = async move |_, _| match lock(&near).take() {
        Some(near) => Ok(AsyncTcpStream::Plain(near)),
        None => Err(io::Error::from(io::ErrorKind::NotConnected).into()),
    };
    Connection::connector(uri, Runtime::new(Kit::current()), dial, properties).await
}

/// What went wrong, as it may stand in a log.
pub(super) fn told(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => shown(error.get_message().as_str()),
        ErrorKind::IOError(error) => shown(&error.to_string()),
        ErrorKind::MissingHeartbeatError => "it is silent".to_owned(),
        _ => "the connection broke".to_owned(),
    }
}

/// The code with which the broker has ended a channel, and what it says of that; nothing when it was something else.
pub(super) fn refusal(error: &lapin::Error) -> Option<(u16, String)> {
    let ErrorKind::ProtocolError(error) = error.kind() else {
        return None;
    };
    match error.kind() {
        // What is no matter of one channel ends the connection, for whatever reason. Of these RabbitMQ says one
        // of channels.
        AMQPErrorKind::Hard(hard) if *hard != AMQPHardError::NOTIMPLEMENTED => None,
        _ => Some((error.get_id(), shown(error.get_message().as_str()))),
    }
}

/// A text of at most 255 bytes: the crate panics at a longer one. Nothing here is longer, or it is cut.
pub(super) fn text(text: &str) -> lapin::types::ShortString {
    let cut = text.floor_char_boundary(255);
    lapin::types::ShortString::try_new(&text[..cut]).unwrap_or_default()
}

/// Nothing is done under these locks that could leave something half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
