//! What is published, over channels.
//!
//! The broker ends a channel on which something is published that it has no exchange for, with all that
//! is under way on it. And the crate hands what is returned to whichever confirmation comes next
//! (lapin 4.12), so that of two that are published together to where only one is held, either could be
//! told that it is. So what goes to an exchange of which nothing is known goes on a channel of its own,
//! on which nothing else is under way; those that are done are used again.
//!
//! An exchange that has confirmed something has a channel that is shared by all that goes there, of
//! which the broker confirms many at once ([`super::pipeline`]). When something is returned on it, or the broker ends it, then
//! nobody knows what became of what is under way on it: it is published once more, on channels of its
//! own, and the exchange is one of which nothing is known for a while.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::link::{Connected, Link, lock, refusal, text, told};
use super::pipeline::{Pipeline, Told};
use crate::events::broker::Unpublished;

/// How many messages are under way at once. A broker allows some 2000 channels.
pub(super) const UNDER_WAY: usize = 256;
/// How many exchanges have a channel that is shared, at most: and no more than a quarter of all channels.
const SHARED: usize = 256;
/// How many bytes a message has at most that shares a channel: one that is too long for the broker ends it.
const LARGE: usize = 256 * 1024;
/// For how long an exchange has none after that has told of another message than it was asked for.
const UNSHARABLE: Duration = Duration::from_secs(10);
/// For how long it is still waited for what becomes of a message that nobody waits for any more.
pub(super) const REST: Duration = Duration::from_secs(30);
/// After how long a channel is closed on which nothing has been under way: the crate looks at each for every frame that
/// it writes.
const IDLE: Duration = Duration::from_secs(2);
/// Why nobody knows whether a message is held.
pub(super) const BROKE: &str = "the connection broke";
pub(super) const LATE: &str = "there was no answer in time";

/// What publishes over a connection. It belongs to one thread: the crate numbers what is published on a channel in
/// one step, and queues it in another.
pub(super) struct Publisher {
    link: Arc<Link>,
    /// On which nothing is under way, and since when: the one of the last moment at the end.
    idle: Mutex<VecDeque<(Arc<On>, Instant)>>,
    /// By exchange.
    shared: Mutex<HashMap<String, Arc<Pipeline>>>,
    /// Exchanges that are to have no such channel until then.
    unsharable: Mutex<HashMap<String, Instant>>,
    places: Semaphore,
}

/// A channel on which it is confirmed what is published, with the connection that it is of.
pub(super) struct On {
    pub(super) connected: Arc<Connected>,
    pub(super) channel: Channel,
}

/// A message on its way, to the end, also when nobody wants to know any more: what is to be written when its channel
/// is closed is written after that, at which the broker ends the connection, and a confirmation that nobody waits for is
/// kept by the crate.
struct Sending(Option<BoxFuture<'static, Result<(), Unpublished>>>);

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Every queue that it goes to holds it, and at least one does.
    Held,
    /// Nobody knows, and it is to be published once more: its channel was shared, and told of another one.
    Unknown,
}

/// A message, with where it goes.
pub(super) struct Letter<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    pub(super) properties: BasicProperties,
    pub(super) data: Bytes,
}

/// One that lends nothing.
pub(super) struct Packed {
    exchange: ShortString,
    key: ShortString,
    properties: BasicProperties,
    data: Bytes,
}

// === impl Publisher ===

impl Publisher {
    /// Publishes over the connection that there is, at any time; it is called within a runtime.
    pub(super) fn open(link: Arc<Link>) -> Arc<Self> {
        let connections = link.connections();
        let publisher = Arc::new(Self {
            link,
            idle: Mutex::default(),
            shared: Mutex::default(),
            unsharable: Mutex::default(),
            places: Semaphore::new(UNDER_WAY),
        });
        tokio::spawn(forget(Arc::downgrade(&publisher), connections));
        publisher
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.connected().is_some()
    }

    /// How many bytes properties may have, as far as that is known.
    pub(super) fn longest_properties(&self) -> usize {
        let connected = self.link.connected();
        // The class, the length of the data and what is around a frame.
        connected.map_or(usize::MAX, |one| one.longest_frame().saturating_sub(64))
    }

    /// Publishes; returns when the broker has told what became of it.
    pub(super) async fn publish(
        &self,
        letter: Letter<'_>,
        until: Instant,
    ) -> Result<Sent, Unpublished> {
        let full = || Unpublished::Refused("too much is under way".to_owned());
        let place = timeout_at(until, self.places.acquire()).await;
        let _place = place.map_err(|_| full())?.map_err(|_| full())?;
        let connected = self.link.connected().ok_or(Unpublished::Away)?;
        // It would lie there for nobody knows how long.
        if connected.is_blocked() {
            return Err(Unpublished::Away);
        }
        let exchange = letter.exchange;
        self.close_idle();
        let shared = self.shared(exchange, &connected);
        if let Some(shared) = shared.filter(|_| letter.data.len() <= LARGE) {
            if let Some(begun) = shared.begin() {
                let Told { sent, certain } = shared.send(letter, begun, until).await;
                if certain {
                    // What is confirmed late is not waited for by more and more.
                    if matches!(sent, Err(Unpublished::Unconfirmed(_) | Unpublished::Away)) {
                        self.unshare(exchange, &shared);
                    }
                    return sent.map(|()| Sent::Held);
                }
                self.unshare(exchange, &shared);
                let too_late = connected.is_over() || Instant::now() >= until;
                return match sent {
                    Err(why @ Unpublished::Unconfirmed(_)) if too_late => Err(why),
                    _ => Ok(Sent::Unknown),
                };
            }
            self.unshare(exchange, &shared);
        }
        let on = timeout_at(until, self.alone(connected)).await;
        let on = on.unwrap_or(Err(Unpublished::Away))?;
        let sent = on.send(letter, until).await;
        // One with something under way, that was ended, or whose connection has a successor, is not used again.
        let now = self.link.connected();
        let is_of_now = now.is_some_and(|now| Arc::ptr_eq(&now, &on.connected));
        if is_of_now && on.channel.status().connected() {
            match sent {
                Ok(()) => self.share(exchange, on),
                Err(Unpublished::Unconfirmed(_)) => {}
                Err(_) => self.rest(on),
            }
        }
        sent.map(|()| Sent::Held)
    }

    /// The channel that all share that goes to this exchange, if there is one.
    fn shared(&self, exchange: &str, connected: &Arc<Connected>) -> Option<Arc<Pipeline>> {
        let shared = lock(&self.shared);
        let one = shared.get(exchange)?;
        Arc::ptr_eq(&one.on().connected, connected).then(|| one.clone())
    }

    /// An exchange has confirmed on this channel, on which nothing is under way.
    fn share(&self, exchange: &str, on: Arc<On>) {
        let now = Instant::now();
        let mut unsharable = lock(&self.unsharable);
        unsharable.retain(|_, until| *until > now);
        // To the default one goes what is for a queue, of which the next may not be there.
        let may_be = !exchange.is_empty() && !unsharable.contains_key(exchange);
        drop(unsharable);
        let mut shared = lock(&self.shared);
        let most = SHARED.min(on.connected.channels() / 4);
        if may_be && shared.len() < most && !shared.contains_key(exchange) {
            shared.insert(exchange.to_owned(), Arc::new(Pipeline::open(on)));
        } else {
            drop(shared);
            self.rest(on);
        }
    }

    /// It is not known any more what is told on this channel.
    fn unshare(&self, exchange: &str, one: &Arc<Pipeline>) {
        let mut shared = lock(&self.shared);
        if shared.get(exchange).is_some_and(|it| Arc::ptr_eq(it, one)) {
            shared.remove(exchange);
            one.leave();
            // What goes wrong once may go wrong again, for all that share it.
            lock(&self.unsharable).insert(exchange.to_owned(), Instant::now() + UNSHARABLE);
        }
    }

    /// Nothing is under way on this channel.
    fn rest(&self, on: Arc<On>) {
        lock(&self.idle).push_back((on, Instant::now()));
    }

    /// Closes those that are not used any more, but for one.
    fn close_idle(&self) {
        let mut idle = lock(&self.idle);
        while idle.len() > 1
            && let Some((_, since)) = idle.front()
            && since.elapsed() > IDLE
        {
            // The crate closes a channel that nobody holds.
            idle.pop_front();
        }
    }

    /// A channel on which nothing is under way.
    async fn alone(&self, connected: Arc<Connected>) -> Result<Arc<On>, Unpublished> {
        while let Some(on) = self.idle_one() {
            if Arc::ptr_eq(&on.connected, &connected) && on.channel.status().connected() {
                return Ok(on);
            }
        }
        let opened = tokio::select! {
            biased;
            opened = connected.confirming() => opened,
            () = connected.ended() => return Err(Unpublished::Away),
        };
        let channel = opened.map_err(|_| Unpublished::Away)?;
        Ok(Arc::new(On { connected, channel }))
    }

    fn idle_one(&self) -> Option<Arc<On>> {
        lock(&self.idle).pop_back().map(|(on, _)| on)
    }
}

/// Forgets the channels of connections that have a successor, which end when nobody has one of theirs.
async fn forget(
    publisher: Weak<Publisher>,
    mut connections: watch::Receiver<Option<Arc<Connected>>>,
) {
    while connections.changed().await.is_ok() {
        let Some(publisher) = publisher.upgrade() else {
            return;
        };
        let now = connections.borrow_and_update().clone();
        let is_of_now = |on: &On| {
            let now = now.as_ref();
            now.is_some_and(|now| Arc::ptr_eq(now, &on.connected))
        };
        lock(&publisher.idle).retain(|(on, _)| is_of_now(on));
        lock(&publisher.shared).retain(|_, one| is_of_now(one.on()));
    }
}

// === impl On ===

impl On {
    /// Whether what is told on it, where it is shared, is told of the message that it seems to be told of.
    pub(super) fn is_certain(&self) -> bool {
        self.channel.status().connected() && self.connected.seen.is_certain(self.channel.id())
    }

    async fn send(self: &Arc<Self>, letter: Letter<'_>, until: Instant) -> Result<(), Unpublished> {
        let (on, packed) = (self.clone(), Packed::of(letter));
        let published = async move { on.published(packed, || ()).await };
        tokio::select! {
            biased;
            sent = Sending(Some(Box::pin(published))) => sent,
            () = self.connected.ended() => Err(unconfirmed(BROKE)),
            () = sleep_until(until) => Err(unconfirmed(LATE)),
        }
    }

    /// Publishes; `written` is called once the message is written. To be polled to the end: what is begun and not
    /// awaited is kept by the crate.
    pub(super) async fn published(
        &self,
        packed: Packed,
        written: impl FnOnce(),
    ) -> Result<(), Unpublished> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let channel = &self.channel;
        let Packed {
            exchange,
            key,
            properties,
            data,
        } = packed;
        let confirmed = async {
            let sent = channel.basic_publish(exchange, key, options, &data, properties);
            let confirm = sent.await?;
            written();
            drop(data);
            confirm.await
        };
        match confirmed.await {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
                Err(Unpublished::UnknownTopic)
            }
            // One of the queues does not hold it. Others may.
            Ok(Confirmation::Nack(None)) => Err(unconfirmed("a queue did not take it")),
            Ok(Confirmation::NotRequested) => Err(unconfirmed("nobody confirms")),
            Err(error) => Err(match refusal(&error) {
                Some((404, _)) => Unpublished::UnknownTopic,
                Some((_, why)) => Unpublished::Refused(why),
                None => Unpublished::Unconfirmed(told(&error)),
            }),
        }
    }
}

// === impl Packed ===

impl Packed {
    pub(super) fn of(letter: Letter<'_>) -> Self {
        Self {
            exchange: text(letter.exchange),
            key: text(letter.key),
            properties: letter.properties,
            data: letter.data,
        }
    }
}

// === impl Sending ===

impl Future for Sending {
    type Output = Result<(), Unpublished>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(sending) = &mut self.0 else {
            return Poll::Ready(Err(unconfirmed("it is told already")));
        };
        let told = sending.as_mut().poll(task);
        if told.is_ready() {
            self.0 = None;
        }
        told
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(rest) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async { drop(timeout(REST, rest).await) });
        }
    }
}

pub(super) fn unconfirmed(why: &str) -> Unpublished {
    Unpublished::Unconfirmed(why.to_owned())
}
