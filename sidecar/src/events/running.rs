//! A subscription while it is carried out: whether it goes on, how many places are left, and until when nothing is
//! begun.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::done::Done;
use super::gathering::Gathering;
use super::replay::Tally;
use crate::config::subscription::Subscription;
use crate::policy::circuit_breaker::Sole;
use crate::proxy::Proxy;
use crate::proxy::error::Reason;
use crate::telemetry::metrics::events::Events;

/// For how long nothing is pulled until the group is left meanwhile.
const REST: Duration = Duration::from_secs(12);

/// Why nothing is delivered while the circuit is open.
const FAILS: &str = "the target fails, and is left alone for a while (circuit_open)";

/// A subscription while it is carried out.
pub(super) struct Running {
    pub(super) px: Weak<Proxy>,
    pub(super) subscription: Arc<Subscription>,
    going: watch::Receiver<bool>,
    /// Nothing is pulled until then.
    paused: Cell<Option<Instant>>,
    /// Until when the target has asked to wait, with what is delivered once more as well.
    asked: Rc<Cell<Option<Instant>>>,
    /// The target has said that it is gone: to all that is delivered of the subscription.
    gone: Rc<Cell<bool>>,
    unreached: Cell<Option<(Reason, Instant)>>,
    chosen: Cell<bool>,
    /// How many wait here until the target is reached.
    waiting: Cell<usize>,
    /// Whether it was told that the target is left alone: once, whatever it was that was delivered.
    told_to_fail: Rc<Cell<bool>>,
    /// Whether the target is called while it fails, for all that is delivered of the subscription.
    pub(super) circuit: Option<Rc<Sole>>,
    pub(super) places: Arc<Semaphore>,
    left: Notify,
    gathering: Gathering,
    /// Which events are done.
    pub(super) done: Rc<Done>,
    /// What is delivered was asked for once more: that it is done does not count.
    pub(super) replays: bool,
    /// What has become of events.
    pub(super) tally: Tally,
    /// How many were begun one by one and are not ended.
    begun: Cell<usize>,
}

/// Something that waits, as long as this is held.
struct Waiting<'r>(&'r Cell<usize>);

// === impl Waiting ===

impl<'r> Waiting<'r> {
    fn of(count: &'r Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

// === impl Running ===

impl Running {
    pub(super) fn new(
        px: &Weak<Proxy>,
        subscription: &Arc<Subscription>,
        (going, done): (watch::Receiver<bool>, Rc<Done>),
    ) -> Self {
        Self {
            done,
            replays: false,
            px: px.clone(),
            subscription: subscription.clone(),
            going,
            paused: Cell::new(None),
            asked: Rc::default(),
            gone: Rc::default(),
            unreached: Cell::new(None),
            chosen: Cell::new(false),
            waiting: Cell::new(0),
            told_to_fail: Rc::default(),
            circuit: {
                let breaker = subscription.circuit_breaker.clone();
                breaker.map(|breaker| Rc::new(Sole::new(breaker)))
            },
            places: Arc::new(Semaphore::new(subscription.max_in_flight)),
            left: Notify::new(),
            gathering: Gathering::of(subscription.max_in_flight),
            tally: Tally::default(),
            begun: Cell::new(0),
        }
    }

    /// The same subscription, for what is delivered beside what is new: in as many places of its own.
    pub(super) fn another(&self) -> Self {
        Self {
            replays: true,
            gone: self.gone.clone(),
            asked: self.asked.clone(),
            circuit: self.circuit.clone(),
            told_to_fail: self.told_to_fail.clone(),
            ..Self::new(
                &self.px,
                &self.subscription,
                (self.going.clone(), Rc::default()),
            )
        }
    }

    /// One is begun.
    pub(super) fn begins(&self) {
        self.begun.set(self.begun.get() + 1);
    }

    /// One that was begun has ended.
    pub(super) fn ends_one(&self) {
        self.begun.set(self.begun.get().saturating_sub(1));
        self.has_left();
    }

    /// Whether all that were begun have ended.
    pub(super) fn is_idle(&self) -> bool {
        self.begun.get() == 0
    }

    /// A place is free again.
    pub(super) fn has_left(&self) {
        self.left.notify_one();
    }

    /// Returns when a place is free again.
    pub(super) async fn left(&self) {
        self.left.notified().await;
    }

    pub(super) fn goes_on(&self) -> bool {
        self.going.has_changed().is_ok()
    }

    /// Returns when the subscription ends.
    pub(super) async fn ended(&self) {
        let mut going = self.going.clone();
        // It is never told anything but that whoever could tell is gone.
        let _ = going.changed().await;
    }

    /// Waits; whether the subscription goes on after that.
    pub(super) async fn goes_on_for(&self, wait: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.ended() => false,
            () = sleep(wait) => true,
        }
    }

    /// How many events may be pulled, when any may, and none when none may for long; nothing when the subscription ends.
    ///
    /// Where whoever pulls `asks` the broker, it is for several at once if that is no loss.
    pub(super) async fn room(&self, asks: bool) -> Option<usize> {
        let mut gathered = !asks;
        loop {
            if !self.goes_on() {
                return None;
            }
            // Whoever pulls leaves meanwhile: what was asked for would rot.
            if !self.replays && self.rests_or_fails() {
                return Some(0);
            }
            let left = self.left.notified();
            match self.paused() {
                Some(until) => tokio::select! {
                    () = self.ended() => return None,
                    () = sleep_until(until) => continue,
                },
                None => self.paused.set(None),
            }
            match self.places.available_permits() {
                free if free > 0 && !self.holds_back() => {
                    if self.target_fails() {
                        return Some(1);
                    }
                    if gathered || self.gathering.asks_at_once(free) {
                        return Some(free);
                    }
                    let free = || self.places.available_permits();
                    tokio::select! {
                        () = self.ended() => return None,
                        () = self.gathering.wait(free, &self.left) => gathered = true,
                    }
                }
                _ => tokio::select! {
                    () = self.ended() => return None,
                    () = left => {}
                },
            }
        }
    }

    /// Whether the target fails, and is left alone or tried.
    fn target_fails(&self) -> bool {
        let circuit = self.circuit.as_ref();
        circuit.is_some_and(|circuit| !circuit.is_closed())
    }

    /// Whether whatever is begun next has to wait for what is under way: a target that fails is tried with one at a
    /// time.
    pub(super) fn holds_back(&self) -> bool {
        let free = self.places.available_permits();
        self.target_fails() && free < self.subscription.max_in_flight
    }

    /// Whether something may be begun now, as far as there is a place for it.
    pub(super) fn may_begin(&self) -> bool {
        self.paused().is_none() && !self.holds_back()
    }

    /// Whether nothing is to be pulled for long, as the target has asked.
    pub(super) fn rests(&self) -> bool {
        let long = Instant::now() + REST;
        self.gone.get() || self.asked_to_wait().is_some_and(|until| until > long)
    }

    /// The same, or since it fails. What is held in order, or for a batch, is kept then: to give it back would count as an
    /// attempt.
    pub(super) fn rests_or_fails(&self) -> bool {
        let long = Instant::now() + REST;
        self.rests() || self.paused().is_some_and(|until| until > long)
    }

    /// Waits until it may be pulled again, and says why it was not; nothing when the subscription ends.
    pub(super) async fn rested(&self) -> Option<String> {
        let until = self.paused();
        let asked = self.asked_to_wait().is_some();
        tokio::select! {
            biased;
            () = self.ended() => None,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if !self.gone.get() => {
                let why = if asked { "the target asked to wait" } else { FAILS };
                Some(why.to_owned())
            }
        }
    }

    /// Until when nothing new is begun, if that is to be.
    pub(super) fn paused(&self) -> Option<Instant> {
        let circuit = self.circuit.as_ref();
        let open = circuit.and_then(|circuit| circuit.open_until());
        self.asked_to_wait().max(open)
    }

    /// Until when nothing new is begun since the target asked for that, or can't be reached.
    pub(super) fn asked_to_wait(&self) -> Option<Instant> {
        let paused = self.paused.get().filter(|until| *until > Instant::now());
        paused.max(self.rests_until())
    }

    /// Until when the target has asked that nothing be posted to it.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.asked.get().filter(|until| *until > Instant::now())
    }

    /// The target asks to wait for so long.
    pub(super) fn is_asked_to_wait(&self, wait: Duration) {
        let until = Instant::now() + wait;
        self.asked.set(self.asked.get().max(Some(until)));
    }

    /// Nothing is pulled until then.
    pub(super) fn pause_until(&self, until: Instant) {
        let later = self.paused.get().is_none_or(|paused| paused < until);
        if later {
            self.paused.set(Some(until));
        }
    }

    /// Whether the target has said that it is gone.
    pub(super) fn has_gone(&self) -> bool {
        self.gone.get()
    }

    /// The target has said that it is gone: nothing more is delivered, and the position is kept.
    pub(super) fn is_gone(&self) {
        if !self.gone.replace(true) {
            let object = &self.subscription.object;
            tracing::warn!(subscription = %object, "the target is gone (410): nothing is delivered any more");
            self.tell(|events, object| events.gone(object));
        }
    }

    /// Whether the broker delivers to this sidecar and to no other, of a subscription in order.
    pub(super) fn is_chosen(&self, is: bool) {
        if self.chosen.replace(is) != is {
            let object = &self.subscription.object;
            match is {
                true => tracing::info!(subscription = %object, "is delivered to, in order"),
                false => tracing::info!(subscription = %object, "is no longer delivered to"),
            }
            self.tell(|events, object| events.chosen(object, is));
        }
    }

    /// A delivery failed: with this status, or without an answer.
    pub(super) fn failed(&self, status: Option<StatusCode>, reason: &str) {
        self.tell(|events, object| events.failed(object, status, reason));
    }

    pub(super) fn tell(&self, what: impl FnOnce(&Events, &Arc<str>)) {
        if let Some(px) = self.px.upgrade() {
            what(&px.metrics.all().events, &self.subscription.object);
        }
    }

    /// Since when the target can't be reached, while something waits here for that.
    pub(super) fn unreached_since(&self) -> Option<Instant> {
        // What is being posted may have reached it.
        let unreached = self.unreached.get().filter(|_| self.waiting.get() > 0);
        unreached.map(|(_, since)| since)
    }

    /// Waits until the target may be reached; whether the subscription goes on after that.
    pub(super) async fn waits(&self, wait: Duration) -> bool {
        let _one = Waiting::of(&self.waiting);
        self.goes_on_for(wait).await
    }

    /// Says whether the target is left alone, as it is now.
    pub(super) fn tell_circuit(&self) {
        let fails = self.target_fails();
        let object = &self.subscription.object;
        match (self.told_to_fail.replace(fails), fails) {
            (false, false) => return,
            (false, true) => {
                tracing::warn!(subscription = %object, "the target fails: it is left alone for a while, and its events wait");
            }
            (true, false) => {
                tracing::info!(subscription = %object, "the target is well again");
            }
            (true, true) => {}
        }
        let why = match fails {
            true => FAILS,
            false => "",
        };
        self.tell(|events, object| events.waits(object, why));
    }

    /// Waits until the circuit may let something in, and no longer than that; whether the subscription goes on.
    pub(super) async fn circuit_changed(&self, until: Instant, most: Duration) -> bool {
        let Some(circuit) = &self.circuit else {
            return self.goes_on();
        };
        tokio::select! {
            biased;
            () = self.ended() => false,
            () = circuit.changed(until) => true,
            () = sleep(most) => true,
        }
    }

    /// The target can't be reached, or can again.
    pub(super) fn unreached(&self, why: Option<Reason>) {
        let before = self.unreached.get();
        let since = before.map_or_else(Instant::now, |(_, since)| since);
        self.unreached.set(why.map(|why| (why, since)));
        let object = &self.subscription.object;
        match (before, why) {
            (None, Some(why)) => {
                tracing::warn!(subscription = %object, reason = why.name(), "the target can't be reached: its events wait");
            }
            (Some(_), None) => {
                tracing::info!(subscription = %object, "the target is reached again");
            }
            _ => {}
        }
        if before.is_some() || why.is_some() {
            // Each time: that the group was joined anew meanwhile says nothing of the target.
            let why = why.map(|why| format!("the target can't be reached ({})", why.name()));
            self.tell(|events, object| events.waits(object, why.as_deref().unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::subscription::tests::sent;

    #[tokio::test(start_paused = true)]
    async fn only_who_asks_the_broker_waits_for_more_places_and_a_moment_at_most() {
        let subscription = Arc::new(Subscription::build(sent()).unwrap());
        let (_goes_on, going) = watch::channel(true);
        let running = Running::new(&Weak::new(), &subscription, (going, Rc::default()));
        // Nine of ten.
        let _taken = running.places.clone().acquire_many_owned(9).await.unwrap();
        let begun = Instant::now();
        assert_eq!(running.room(false).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(running.room(true).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::from_millis(1));
        // It was in vain.
        assert_eq!(running.room(true).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::from_millis(1));
    }
}
