//! A channel that many publish on, and one task that does it for all of them.
//!
//! The crate tells of each message that it is written, and then that it is confirmed. Whoever publishes is a request,
//! which it costs much to look at again: the task hears of both, and wakes whoever waits once, at the end. It also brings
//! to the end what nobody waits for any more: what is to be written when its channel is closed is written after that,
//! at which the broker ends the connection.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::guarded::Unwritten;
use super::publisher::{BROKE, LATE, Letter, On, Packed, REST, unconfirmed};
use crate::events::broker::Unpublished;

/// It ends some time after this is dropped.
pub(super) struct Pipeline {
    on: Arc<On>,
    posted: mpsc::UnboundedSender<Posted>,
}

/// A message, and who is told what became of it.
struct Posted {
    packed: Packed,
    unwritten: Unwritten,
    told: oneshot::Sender<Result<(), Unpublished>>,
}

// === impl Pipeline ===

impl Pipeline {
    /// Opens one; it is called within a runtime.
    pub(super) fn open(on: Arc<On>) -> Self {
        // No more are under way than whoever publishes has places for.
        let (posted, posts) = mpsc::unbounded_channel();
        tokio::spawn(publish_all(on.clone(), posts));
        Self { on, posted }
    }

    pub(super) fn on(&self) -> &Arc<On> {
        &self.on
    }

    /// Publishes; returns when the broker has confirmed, or refused.
    pub(super) async fn send(
        &self,
        letter: Letter<'_>,
        unwritten: Unwritten,
        until: Instant,
    ) -> Result<(), Unpublished> {
        let (told, tells) = oneshot::channel();
        let posted = Posted {
            packed: Packed::of(letter),
            unwritten,
            told,
        };
        self.posted.send(posted).map_err(|_| Unpublished::Away)?;
        match timeout_at(until, tells).await {
            Ok(Ok(sent)) => sent,
            Ok(Err(_)) => Err(unconfirmed(BROKE)),
            Err(_) => Err(unconfirmed(LATE)),
        }
    }
}

/// Publishes what is posted, until nobody posts any more and all of it has been told.
async fn publish_all(on: Arc<On>, mut posts: mpsc::UnboundedReceiver<Posted>) {
    let carry = async |posted: Posted| {
        let unwritten = posted.unwritten;
        let sent = on.published(posted.packed, || drop(unwritten)).await;
        // Who has gone is not told.
        let _ = posted.told.send(sent);
    };
    let all = async {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = under_way.next() => {}
                posted = posts.recv() => match posted {
                    Some(posted) => under_way.push(carry(posted)),
                    None => break,
                },
            }
        }
        let rest = async { while under_way.next().await.is_some() {} };
        drop(timeout(REST, rest).await);
    };
    tokio::select! {
        biased;
        () = all => {}
        () = on.connected.ended() => {}
    }
}
