//! How a call has ended, and that whoever must know it does.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::policy::idempotency::key::Key;
use crate::policy::idempotency::memory::Ticket;
use crate::policy::idempotency::shared::{self, Ended, Owner};
use crate::proxy::store::Store;

/// From one try to tell the store how a call has ended to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// For how long a store is told at least.
const TOLD_FOR: Duration = Duration::from_secs(600);

/// Where it is noted how a call ends.
pub(super) enum Right {
    /// Here.
    Own(Ticket),
    /// In a store that replicas share.
    Common(Rc<Store>, Owner),
}

// === impl Right ===

impl Right {
    /// What is set aside for the answer.
    pub(super) fn set_aside(&self) -> u64 {
        match self {
            Self::Own(ticket) => ticket.set_aside(),
            Self::Common(..) => 0,
        }
    }

    /// Notes in the store how a call has ended: at once, or as soon as it answers. What the call `held`
    /// is held until then.
    pub(super) async fn settle(
        self,
        key: Key,
        ended: Ended,
        window: Duration,
        held: impl Sized + 'static,
    ) {
        let Self::Common(store, owner) = self else {
            return;
        };
        if store.ask(shared::ended(key, owner, &ended)).await.is_err() {
            let right = Self::Common(store, owner);
            let span = told_for(window);
            tokio::task::spawn_local(right.tell(key, ended, span, held));
        }
    }

    /// Tells the store again and again how a call has ended, as long as it can make a difference.
    pub(super) async fn tell(
        self,
        key: Key,
        ended: Ended,
        span: Duration,
        held: impl Sized + 'static,
    ) {
        let Self::Common(store, owner) = self else {
            return;
        };
        let Some(_place) = store.place() else {
            tracing::warn!("a store has been away for too long: what became of a call is not told");
            return;
        };
        let until = Instant::now() + span;
        let mut pause = AGAIN.0;
        while Instant::now() < until {
            sleep(pause).await;
            if store.ask(shared::ended(key, owner, &ended)).await.is_ok() {
                break;
            }
            pause = (pause * 2).min(AGAIN.1);
        }
        drop(held);
    }
}

/// For how long a store is told how a call has ended whose key stands for so long.
pub(super) fn told_for(window: Duration) -> Duration {
    window.min(TOLD_FOR)
}
