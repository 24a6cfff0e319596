//! From the task of a stream to its transport: a delta, and a last word.
//!
//! A channel of tokio has room for 32 messages from its first one on. This has room for what can be
//! there at all.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::Stream;
use tonic::Status;

use crate::discovery::Delta;

/// Where a task leaves what is to be sent. Dropping it ends the stream after what is there.
#[derive(Debug)]
pub(super) struct Outbox(Arc<Mutex<Shared>>);

/// The deltas of one stream, for the transport to send.
#[derive(Debug)]
pub struct Deltas(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    delta: Option<Box<Delta>>,
    last_word: Option<Box<Status>>,
    /// Nothing more is put here.
    ended: bool,
    /// Nothing more is taken from here.
    unwanted: bool,
    /// Wakes the transport, for something to send.
    transport: Option<Waker>,
    /// Wakes the task, for nobody wants it any more.
    task: Option<Waker>,
}

/// Why a delta isn't sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The transport wants no more.
    Unwanted,
    /// The one before it is still there.
    Full,
}

/// Both ends.
pub(super) fn outbox() -> (Outbox, Deltas) {
    let shared = Arc::<Mutex<Shared>>::default();
    (Outbox(shared.clone()), Deltas(shared))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Outbox ===

impl Outbox {
    /// Leaves the next delta, if there is none.
    pub(super) fn put(&self, delta: Delta) -> Result<(), Unsent> {
        let mut shared = lock(&self.0);
        if shared.unwanted {
            return Err(Unsent::Unwanted);
        }
        if shared.delta.is_some() {
            return Err(Unsent::Full);
        }
        shared.delta = Some(Box::new(delta));
        shared.tell_transport();
        Ok(())
    }

    /// Ends the stream, after a delta that is there, with a status.
    pub(super) fn end(self, status: Status) {
        lock(&self.0).last_word = Some(Box::new(status));
    }

    /// Until the transport wants no more.
    pub(super) async fn unwanted(&self) {
        poll_fn(|cx| {
            let mut shared = lock(&self.0);
            if shared.unwanted {
                return Poll::Ready(());
            }
            remember(&mut shared.task, cx);
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.ended = true;
        shared.tell_transport();
    }
}

// === impl Shared ===

impl Shared {
    fn tell_transport(&mut self) {
        if let Some(waker) = self.transport.take() {
            waker.wake();
        }
    }
}

fn remember(known: &mut Option<Waker>, cx: &Context<'_>) {
    match known {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *known = Some(cx.waker().clone()),
    }
}

// === impl Deltas ===

impl Stream for Deltas {
    type Item = Result<Delta, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut shared = lock(&self.0);
        if let Some(delta) = shared.delta.take() {
            return Poll::Ready(Some(Ok(*delta)));
        }
        if let Some(status) = shared.last_word.take() {
            return Poll::Ready(Some(Err(*status)));
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        remember(&mut shared.transport, cx);
        Poll::Pending
    }
}

impl Drop for Deltas {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.unwanted = true;
        shared.delta = None;
        if let Some(waker) = shared.task.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use tokio::task::yield_now;

    use super::*;

    fn delta(nonce: u64) -> Delta {
        Delta {
            nonce,
            ..Delta::default()
        }
    }

    #[tokio::test]
    async fn a_delta_is_there_until_it_is_taken_and_the_last_word_comes_after_it() {
        let (outbox, mut deltas) = outbox();
        let taken = tokio::spawn(async move {
            let taken = (
                deltas.next().await,
                deltas.next().await,
                deltas.next().await,
            );
            (taken, deltas.next().await.is_none())
        });
        yield_now().await;
        outbox.put(delta(1)).unwrap();
        assert_eq!(outbox.put(delta(2)), Err(Unsent::Full));
        yield_now().await;
        outbox.put(delta(3)).unwrap();
        outbox.end(Status::unavailable("away"));
        let ((first, second, last), is_over) = taken.await.unwrap();
        assert_eq!(first.unwrap().unwrap().nonce, 1);
        assert_eq!(second.unwrap().unwrap().nonce, 3);
        assert_eq!(last.unwrap().unwrap_err().message(), "away");
        assert!(is_over);
    }

    #[tokio::test]
    async fn who_wants_no_more_is_noticed_at_once_and_nothing_is_kept_for_it() {
        let (outbox, deltas) = outbox();
        outbox.put(delta(1)).unwrap();
        assert_eq!(outbox.unwanted().now_or_never(), None);
        let (outbox, ()) = tokio::join!(
            async {
                outbox.unwanted().await;
                outbox
            },
            async {
                yield_now().await;
                drop(deltas);
            }
        );
        assert!(lock(&outbox.0).delta.is_none());
        assert_eq!(outbox.put(delta(2)), Err(Unsent::Unwanted));
    }

    #[tokio::test]
    async fn a_task_that_ends_without_a_word_ends_the_stream() {
        let (outbox, mut deltas) = outbox();
        let (next, ()) = tokio::join!(deltas.next(), async {
            yield_now().await;
            drop(outbox);
        });
        assert!(next.is_none());
    }
}
