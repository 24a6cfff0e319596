//! Which events of a subscription are done already, as far back as its window: one that is published twice, or comes
//! again although it was done, is acknowledged undelivered.
//!
//! An event is noted once its target has answered well, or the broker holds it as a dead letter, and before the broker is told
//! that it is done: never earlier, so that nothing is lost. While an event is delivered, those of its key wait in this
//! sidecar. Where a store can't be asked, they are delivered: twice rather than never.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::cloud_event::Event;
use super::publish::{digest, hex};
use super::running::Running;
use crate::config::subscription::{Deduplication, Done as Where};
use crate::net::resp::{Reply, command};
use crate::proxy::Proxy;
use crate::proxy::store::{Store, Use};

/// How many events a sidecar remembers of a subscription, each in about 100 bytes.
const MOST: usize = 100_000;
/// How many questions of a batch are under way.
const UNDER_WAY: usize = 128;

/// What tells an event apart: a part of a digest, of which nobody finds a second event.
type Key = [u8; 16];

/// What this sidecar knows of a subscription's events, from one form of it to the next.
#[derive(Default)]
pub(super) struct Done {
    memory: RefCell<Memory>,
    /// What is being delivered, and who waits for what becomes of it.
    in_hand: RefCell<HashMap<Key, Rc<Notify>>>,
}

/// What was done here, and when.
#[derive(Default)]
struct Memory {
    when: HashMap<Key, Instant>,
    /// In the order of time. One that was noted again stands here twice.
    order: VecDeque<(Key, Instant)>,
    /// Whether it has been told that there were more than are remembered.
    told: Cell<bool>,
}

/// Whether an event is to be delivered.
pub(super) enum Turn<'r> {
    /// It is, and those of its key wait meanwhile.
    Own(#[allow(dead_code, reason = "it ends when it is dropped")] Option<InHand<'r>>),
    /// It is done already.
    Done,
    /// The subscription has ended before that was known.
    Over,
}

/// An event that is being delivered: until this is dropped, others of its key wait.
pub(super) struct InHand<'r> {
    done: &'r Done,
    key: Key,
}

/// Returns once no other event of the same key is being delivered here.
pub(super) async fn turn<'r>(running: &'r Running, px: &Rc<Proxy>, event: &Event) -> Turn<'r> {
    let Some(key) = key(running, event) else {
        return Turn::Own(None);
    };
    let held = tokio::select! {
        biased;
        held = running.done.take(key) => held,
        () = running.ended() => return Turn::Over,
    };
    match is_done(running, px, &key).await {
        true => Turn::Done,
        false => Turn::Own(Some(held)),
    }
}

/// What is known of an event of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    /// It is done.
    Done,
    /// It has the key of the one at that place.
    LikeThat(usize),
}

/// What is known of those events of a batch that would be posted. Those that are being delivered elsewhere are not waited for: who waits for
/// several, and holds several, might wait for ever.
pub(super) async fn known(
    running: &Running,
    px: &Rc<Proxy>,
    events: &[Option<&Event>],
) -> Vec<Known> {
    let mut first: HashMap<Key, usize> = HashMap::new();
    let mut questions = Vec::with_capacity(events.len());
    let mut known = vec![Known::Nothing; events.len()];
    for (place, event) in events.iter().enumerate() {
        let Some(key) = event.and_then(|event| key(running, event)) else {
            continue;
        };
        match first.get(&key) {
            Some(before) => known[place] = Known::LikeThat(*before),
            None => {
                first.insert(key, place);
                questions.push((place, key));
            }
        }
    }
    let asking = questions
        .into_iter()
        .map(async |(place, key)| (place, is_done(running, px, &key).await));
    let mut answers = futures::stream::iter(asking).buffer_unordered(UNDER_WAY);
    while let Some((place, is_done)) = answers.next().await {
        if is_done {
            known[place] = Known::Done;
        }
    }
    known
}

/// Notes that an event is done.
pub(super) async fn note(running: &Running, px: &Rc<Proxy>, event: &Event) {
    let (Some(policy), Some(key)) = (&running.subscription.deduplication, key(running, event))
    else {
        return;
    };
    let object = &running.subscription.object;
    match &policy.done {
        Where::Memory => {
            let mut memory = running.done.memory.borrow_mut();
            if memory.note(key, Instant::now(), policy.window) && !memory.told.replace(true) {
                tracing::warn!(subscription = %object, most = MOST, "more events are done in the window than are remembered: older ones may be delivered twice");
            }
        }
        Where::Store(_) => {
            let window = policy.window.as_millis().to_string().into_bytes();
            let words = [
                b"SET".to_vec(),
                name(object, &key),
                b"1".to_vec(),
                b"PX".to_vec(),
                window,
            ];
            // One that is not noted may be delivered twice.
            if ask(running, px, policy, &words).await.is_none() {
                tracing::debug!(subscription = %object, "the store was not told that an event is done");
            }
        }
    }
}

async fn is_done(running: &Running, px: &Rc<Proxy>, key: &Key) -> bool {
    let Some(policy) = &running.subscription.deduplication else {
        return false;
    };
    let object = &running.subscription.object;
    match &policy.done {
        Where::Memory => {
            let memory = running.done.memory.borrow();
            memory.holds(key, Instant::now(), policy.window)
        }
        Where::Store(_) => {
            let words = [b"GET".to_vec(), name(object, key)];
            match ask(running, px, policy, &words).await {
                Some(Reply::Bulk(found)) => found.is_some(),
                _ => {
                    px.metrics.all().events.not_deduplicated(object);
                    false
                }
            }
        }
    }
}

async fn ask(
    running: &Running,
    px: &Rc<Proxy>,
    policy: &Deduplication,
    words: &[Vec<u8>],
) -> Option<Reply> {
    let store: Rc<Store> = px.stores.at(px, policy.store()?, Use::Events);
    tokio::select! {
        biased;
        answer = store.ask(command(words)) => answer.ok(),
        () = running.ended() => None,
    }
}

/// What the store knows it by.
fn name(object: &str, key: &Key) -> Vec<u8> {
    format!("meshwright:done:{object}:{}", hex(key)).into_bytes()
}

/// The key of an event; nothing when it lacks an attribute, or nobody asks.
fn key(running: &Running, event: &Event) -> Option<Key> {
    if running.replays {
        return None;
    }
    let policy = running.subscription.deduplication.as_ref()?;
    of(&policy.attributes, event)
}

fn of(attributes: &[String], event: &Event) -> Option<Key> {
    let mut parts = Vec::with_capacity(2 * attributes.len());
    for name in attributes {
        parts.extend([name.as_bytes(), event.attribute(name)?.as_bytes()]);
    }
    digest(&parts).first_chunk().copied()
}

// === impl Done ===

impl Done {
    async fn take(&self, key: Key) -> InHand<'_> {
        loop {
            let waiting = {
                let mut in_hand = self.in_hand.borrow_mut();
                match in_hand.get(&key) {
                    Some(other) => other.clone(),
                    None => {
                        in_hand.insert(key, Rc::default());
                        return InHand { done: self, key };
                    }
                }
            };
            // Nobody can have been told between: this thread is the only one.
            waiting.notified().await;
        }
    }
}

// === impl InHand ===

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let ended = self.done.in_hand.borrow_mut().remove(&self.key);
        if let Some(waiting) = ended {
            waiting.notify_waiters();
        }
    }
}

// === impl Memory ===

impl Memory {
    fn holds(&self, key: &Key, now: Instant, window: Duration) -> bool {
        let when = self.when.get(key);
        when.is_some_and(|when| now.duration_since(*when) < window)
    }

    /// Whether one had to be forgotten for it before its time.
    fn note(&mut self, key: Key, now: Instant, window: Duration) -> bool {
        self.when.insert(key, now);
        self.order.push_back((key, now));
        let mut early = false;
        while let Some((oldest, when)) = self.order.front() {
            let is_old = now.duration_since(*when) >= window;
            if !is_old && self.order.len() <= MOST {
                break;
            }
            if self.when.get(oldest) == Some(when) {
                early |= !is_old;
                self.when.remove(oldest);
            }
            self.order.pop_front();
        }
        early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn key(number: usize) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_is_remembered_as_long_as_its_window() {
        let mut memory = Memory::default();
        let since = Instant::now();
        assert!(!memory.note(key(1), since, WINDOW));
        let at = |seconds| since + Duration::from_secs(seconds);
        assert!(memory.holds(&key(1), at(599), WINDOW));
        assert!(!memory.holds(&key(1), at(600), WINDOW));
        assert!(!memory.holds(&key(2), since, WINDOW));
        // Done again, it counts from then.
        assert!(!memory.note(key(1), at(500), WINDOW));
        assert!(!memory.note(key(2), at(700), WINDOW));
        assert!(memory.holds(&key(1), at(700), WINDOW));
        assert!(!memory.note(key(3), at(1100), WINDOW));
        assert_eq!((memory.when.len(), memory.order.len()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_remembered_than_the_most_and_the_oldest_goes_first() {
        let mut memory = Memory::default();
        let now = Instant::now();
        for number in 0..MOST {
            assert!(!memory.note(key(number), now, WINDOW));
        }
        assert!(memory.note(key(MOST), now, WINDOW));
        assert!(!memory.holds(&key(0), now, WINDOW));
        assert!(memory.holds(&key(1), now, WINDOW));
        assert!(memory.holds(&key(MOST), now, WINDOW));
        // One that is done again and again takes no place of others.
        for _ in 0..10 * MOST {
            memory.note(key(MOST), now, WINDOW);
        }
        assert!(memory.order.len() <= MOST && memory.when.len() <= MOST);
    }

    #[test]
    fn events_are_told_apart_by_all_of_their_key_and_by_nothing_else() {
        let names = |names: &[&str]| Vec::from_iter(names.iter().map(|name| (*name).to_owned()));
        let usual = names(&["source", "id"]);
        let one = Event::trusted("1", "/a", "t");
        let is = |event: &Event| of(&usual, event);
        assert_eq!(is(&one), is(&Event::trusted("1", "/a", "other")));
        for other in [("2", "/a"), ("1", "/b"), ("a1", "/")] {
            assert_ne!(is(&one), is(&Event::trusted(other.0, other.1, "t")));
        }
        let mut order = one.clone();
        assert_eq!(of(&names(&["orderid"]), &order), None);
        order.set("orderid", "7").unwrap();
        assert!(of(&names(&["orderid"]), &order).is_some());
    }

    #[tokio::test]
    async fn who_has_the_same_key_waits_until_it_is_known_what_became_of_the_first() {
        let done = Done::default();
        let first = done.take(key(1)).await;
        drop(done.take(key(2)).await);
        let mut second = Box::pin(done.take(key(1)));
        assert!(futures::poll!(&mut second).is_pending());
        let mut third = Box::pin(done.take(key(1)));
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        let second = second.await;
        assert!(futures::poll!(&mut third).is_pending());
        drop(second);
        drop(third.await);
        assert!(done.in_hand.borrow().is_empty());
    }
}
