//! What is due, delivered by the same way as what a broker delivers.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, ready};
use jiff::Timestamp;
use wire::discovery::{Claim, Grant};

use super::{Fired, Hindrance, World};
use crate::config::schedule::Schedule;
use crate::config::subscription::Target;
use crate::events::broker::{
    Broker, Delivered, Group, Lag, Lost, Message, Queue, Unpublished, Unsubscribed,
};
use crate::events::cloud_event::{CORRELATION, Event};
use crate::events::deliver::deliver;
use crate::events::lanes::Fate;
use crate::events::received::Received;
use crate::events::running::Running;
use crate::events::subscriber::{Told, in_flight};

/// How long a delivery is this sidecar's as far as it knows itself: what is claimed says so.
const LEASE: Duration = Duration::from_secs(3600);
/// What there would have to be for it.
const NONE: &str = "a schedule has no broker";

/// The mesh around a schedule.
pub(super) struct Mesh<'r> {
    running: &'r Rc<Running>,
    schedule: &'r Arc<Schedule>,
    told: &'r Told<'r>,
    /// Whether the operator answered last.
    answers: Cell<Option<bool>>,
}

/// What was due, as if a broker had delivered it.
struct Due {
    message: Message,
    at: Timestamp,
    attempt: u32,
}

/// A broker that holds nothing: dead letters and replies, which need one, are refused where there is a schedule.
struct Nowhere;

// === impl Mesh ===

impl<'r> Mesh<'r> {
    pub(super) fn new(
        running: &'r Rc<Running>,
        schedule: &'r Arc<Schedule>,
        told: &'r Told<'r>,
    ) -> Self {
        Self {
            running,
            schedule,
            told,
            answers: Cell::new(None),
        }
    }
}

impl World for Mesh<'_> {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn claim(&self, claim: Claim) -> LocalBoxFuture<'static, Option<Grant>> {
        let Some(px) = self.running.px.upgrade() else {
            return ready(None).boxed_local();
        };
        let (asking, work) = (px.asking.clone(), px.drain.work());
        async move {
            let granted = asking.claim(claim).await;
            drop(work);
            granted
        }
        .boxed_local()
    }

    fn deliver(&self, due: Timestamp, attempts: Rc<Cell<u32>>) -> LocalBoxFuture<'static, Fired> {
        let (running, schedule) = (self.running.clone(), self.schedule.clone());
        fire(running, schedule, due, attempts).boxed_local()
    }

    fn hindrance(&self) -> Hindrance {
        let own = matches!(self.running.subscription.target, Target::Application(_));
        Hindrance {
            is_gone: self.running.has_gone(),
            paused: self.running.paused(),
            // Others reach a Service no better.
            unreached: self.running.unreached_since().filter(|_| own),
        }
    }

    fn answered(&self, is: bool) {
        let object = &self.running.subscription.object;
        let before = self.answers.replace(Some(is));
        if before == Some(is) {
            return;
        }
        self.told.set(is);
        if !is {
            let why = "the operator does not grant what is due";
            tracing::warn!(subscription = %object, %why, "nothing that is due begins for now");
            self.running
                .tell(|events, object| events.waits(object, why));
        } else if before.is_some() {
            tracing::info!(subscription = %object, "goes on");
        }
    }
}

/// Delivers what was due until it is done, or the subscription ends.
async fn fire(
    running: Rc<Running>,
    schedule: Arc<Schedule>,
    due: Timestamp,
    attempts: Rc<Cell<u32>>,
) -> Fired {
    let work = running.px.upgrade().map(|px| px.drain.work());
    let event = traced(schedule.event(due));
    tracing::debug!(subscription = %running.subscription.object, %due, "is delivered");
    let is_done = loop {
        let message = Due {
            message: Message::default(),
            at: due,
            attempt: attempts.get(),
        };
        let received = Received {
            message: Box::new(message),
            event: Ok(event.clone()),
        };
        let delivering = pin!(deliver(&running, &Nowhere, &received));
        let fate = in_flight(&running, 1, delivering).await;
        let after = match fate {
            Some(Fate::Done) => break true,
            Some(Fate::ComesAgain(after) | Fate::Rests(after)) => after,
            Some(Fate::Unknown) | None => break false,
        };
        if running.has_gone() || !running.goes_on_for(after).await {
            break false;
        }
        attempts.set(attempts.get().saturating_add(1));
    };
    Fired { is_done, work }
}

/// The attempts of a sidecar belong to one trace, and what follows from what was due is correlated by its id.
fn traced(mut event: Event) -> Event {
    let id = event.attribute("id").unwrap_or_default().to_owned();
    let _ = event.set(CORRELATION, id);
    let (trace, span) = (rand::random::<u128>() | 1, rand::random::<u64>() | 1);
    // It is one, whatever the numbers are.
    let _ = event.set("traceparent", format!("00-{trace:032x}-{span:016x}-01"));
    event
}

// === impl Due ===

impl Delivered for Due {
    fn message(&self) -> &Message {
        &self.message
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn place(&self) -> String {
        self.at.to_string()
    }

    fn position(&self) -> u128 {
        u128::try_from(self.at.as_millisecond()).unwrap_or_default()
    }

    fn published(&self) -> Option<SystemTime> {
        Some(self.at.into())
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        ready(Ok(())).boxed_local()
    }

    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        ready(Ok(())).boxed_local()
    }

    fn give_back(&self, _after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>> {
        ready(Ok(())).boxed_local()
    }
}

// === impl Nowhere ===

impl Broker for Nowhere {
    fn publish<'a>(
        &'a self,
        _topic: &'a str,
        _id: Option<&'a str>,
        _message: Message,
        _patience: Duration,
    ) -> LocalBoxFuture<'a, Result<bool, Unpublished>> {
        ready(Err(Unpublished::Refused(NONE.to_owned()))).boxed_local()
    }

    fn create_topic<'a>(&'a self, _topic: &'a str) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        ready(Err(Unsubscribed::Refused(NONE.to_owned()))).boxed_local()
    }

    fn join<'a>(
        &'a self,
        _group: &'a Group,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Queue>, Unsubscribed>> {
        ready(Err(Unsubscribed::Refused(NONE.to_owned()))).boxed_local()
    }

    fn lag<'a>(&'a self, _group: &'a Group) -> LocalBoxFuture<'a, Result<Lag, Unsubscribed>> {
        ready(Err(Unsubscribed::Refused(NONE.to_owned()))).boxed_local()
    }

    fn forget<'a>(&'a self, _group: &'a Group) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        ready(Ok(())).boxed_local()
    }

    fn discard<'a>(
        &'a self,
        _topic: &'a str,
        _place: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        ready(Ok(())).boxed_local()
    }

    fn is_connected(&self) -> bool {
        false
    }
}
