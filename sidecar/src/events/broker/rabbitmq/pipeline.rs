//! A channel that many publish on, and one task that does it for all of them.
//!
//! The crate tells of each message that it is written, and then that it is confirmed. Whoever publishes is a request,
//! which it costs much to look at again: the task hears of both, and wakes whoever waits once, at the end. It also brings
//! to the end what nobody waits for any more: what is to be written when its channel is closed is written after that,
//! at which the broker ends the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::guarded::Unwritten;
use super::publisher::{BROKE, LATE, Letter, On, Packed, REST, UNDER_WAY, unconfirmed};
use crate::events::broker::Unpublished;

/// It ends some time after this is dropped.
pub(super) struct Pipeline {
    on: Arc<On>,
    posted: mpsc::UnboundedSender<Posted>,
    under_way: Arc<AtomicUsize>,
}

/// A place for a message that is to be published.
pub(super) struct Begun {
    unwritten: Unwritten,
    counted: Counted,
}

/// One of those that are under way, until this is dropped.
struct Counted(Arc<AtomicUsize>);

/// A message, and who is told what became of it.
struct Posted {
    packed: Packed,
    begun: Begun,
    told: oneshot::Sender<Told>,
}

/// What became of a message.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) sent: Result<(), Unpublished>,
    /// Whether it is this message that this is told of.
    pub(super) certain: bool,
}

// === impl Pipeline ===

impl Pipeline {
    /// Opens one on a channel on which nothing is under way; it is called within a runtime.
    pub(super) fn open(on: Arc<On>) -> Self {
        on.connected.seen.share(on.channel.id());
        // No longer than there are places.
        let (posted, posts) = mpsc::unbounded_channel();
        tokio::spawn(carry_on(on.clone(), posts));
        Self {
            on,
            posted,
            under_way: Arc::default(),
        }
    }

    pub(super) fn on(&self) -> &Arc<On> {
        &self.on
    }

    /// A place, if a message may be published here: not where what was said of others is not certain, and not where
    /// many are under way that the broker does not confirm, although whoever published them has left.
    pub(super) fn begin(&self) -> Option<Begun> {
        let counted = Counted::new(&self.under_way);
        if self.under_way.load(Ordering::Relaxed) > UNDER_WAY {
            return None;
        }
        let unwritten = self.on.connected.seen.writes(self.on.channel.id())?;
        Some(Begun { unwritten, counted })
    }

    /// Nobody begins to publish here any more.
    pub(super) fn leave(&self) {
        self.on.connected.seen.leave(self.on.channel.id());
    }

    /// Publishes; returns when the broker has confirmed, or refused.
    pub(super) async fn send(&self, letter: Letter<'_>, begun: Begun, until: Instant) -> Told {
        let (told, tells) = oneshot::channel();
        let packed = Packed::of(letter);
        let posted = Posted {
            packed,
            begun,
            told,
        };
        if self.posted.send(posted).is_err() {
            return Told {
                sent: Err(Unpublished::Away),
                certain: true,
            };
        }
        let why = match timeout_at(until, tells).await {
            Ok(Ok(told)) => return told,
            Ok(Err(_)) => BROKE,
            Err(_) => LATE,
        };
        Told {
            sent: Err(unconfirmed(why)),
            certain: self.on.is_certain(),
        }
    }
}

// === impl Counted ===

impl Counted {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Publishes what is posted, until nobody posts any more and all of it has been told.
async fn carry_on(on: Arc<On>, posts: mpsc::UnboundedReceiver<Posted>) {
    tokio::select! {
        biased;
        () = publish_all(&on, posts) => {}
        () = on.connected.ended() => {}
    }
    on.connected.seen.unshare(on.channel.id());
}

async fn publish_all(on: &On, mut posts: mpsc::UnboundedReceiver<Posted>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            posted = posts.recv() => match posted {
                // Nobody is told that it is published.
                Some(posted) if posted.told.is_closed() => {}
                Some(posted) => under_way.push(publish(on, posted)),
                None => break,
            },
        }
    }
    let rest = async { while under_way.next().await.is_some() {} };
    drop(timeout(REST, rest).await);
}

async fn publish(on: &On, posted: Posted) {
    let Begun { unwritten, counted } = posted.begun;
    let sent = on.published(posted.packed, || drop(unwritten)).await;
    // What is returned is seen before the crate can have what is confirmed after it.
    let certain = on.is_certain();
    drop(counted);
    // Who has gone is not told.
    let _ = posted.told.send(Told { sent, certain });
}
