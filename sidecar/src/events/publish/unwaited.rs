//! Events whose senders wait for nothing: they go to the broker when there is room for them, and are lost
//! when there is none, or when the broker does not hold them.
//!
//! Whoever writes `ack: None` has said that this may be. It is counted for each event
//! (`meshwright_events_published_total`), and told in the log now and then.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::broker::Unpublished;
use super::super::cloud_event::Event;
use super::hold::hold;
use crate::config::publish::Publishing;
use crate::proxy::Proxy;
use crate::telemetry::metrics::events::Published;

/// How many of them a worker holds at once, and how many bytes of them. A broker that takes 5 s to confirm
/// anything is given 200 a second by each worker.
const EVENTS: usize = 1024;
const BYTES: usize = 16 * 1024 * 1024;
/// How often the log tells what was lost, at the most.
const TELLS: Duration = Duration::from_secs(10);

/// Those of a worker.
#[derive(Debug, Default)]
pub(super) struct Unwaited {
    taken: Rc<Taken>,
    lost: RefCell<Lost>,
}

/// What is taken of the room for them.
#[derive(Debug, Default)]
struct Taken {
    events: Cell<usize>,
    bytes: Cell<usize>,
}

/// The room of one of them, given back when it is dropped.
#[derive(Debug)]
struct Place {
    taken: Rc<Taken>,
    bytes: usize,
}

/// What was lost, and is not told yet.
#[derive(Debug, Default)]
struct Lost {
    count: u64,
    told: Option<Instant>,
}

// === impl Unwaited ===

impl Unwaited {
    /// Begins to publish, after those before it, or loses it at once.
    pub(super) fn publish(
        &self,
        px: &Rc<Proxy>,
        to: &Arc<Publishing>,
        (event, id): (Event, Option<String>),
    ) {
        let attributes = event.attributes();
        let attributes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let Some(place) = self.taken.place(attributes + event.data.len()) else {
            let events = &px.metrics.all().events;
            events.published(&to.broker, &to.topic, Published::Dropped);
            return self.loses(to, &"more wait for the broker than may");
        };
        let (px, to, work) = (px.clone(), to.clone(), px.drain.work());
        tokio::task::spawn_local(async move {
            let _held = (place, work);
            let held = match px.brokers.at(&px, &to.broker).await {
                Ok(broker) => {
                    let at = (&*to.broker, &to.topic);
                    hold(&px, &*broker, at, (&event, id.as_deref())).await
                }
                Err(_) => {
                    let events = &px.metrics.all().events;
                    events.published(&to.broker, &to.topic, Published::Unconfirmed);
                    Err(Unpublished::Away)
                }
            };
            if let Err(why) = held {
                px.publishing.unwaited.loses(&to, &why);
            }
        });
    }

    fn loses(&self, to: &Publishing, why: &dyn fmt::Display) {
        if let Some(count) = self.lost.borrow_mut().one_more(Instant::now()) {
            tracing::warn!(
                broker = %to.broker,
                topic = %to.topic,
                %why,
                count,
                "events were lost whose senders wait for nothing (ack: None)"
            );
        }
    }
}

// === impl Taken ===

impl Taken {
    fn place(self: &Rc<Self>, bytes: usize) -> Option<Place> {
        let (events, all) = (self.events.get() + 1, self.bytes.get() + bytes);
        (events <= EVENTS && all <= BYTES).then(|| {
            self.events.set(events);
            self.bytes.set(all);
            Place {
                taken: self.clone(),
                bytes,
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.events.set(self.taken.events.get() - 1);
        self.taken.bytes.set(self.taken.bytes.get() - self.bytes);
    }
}

// === impl Lost ===

impl Lost {
    /// How many were lost since that was told last, when it is to be told again.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let told = self.told.filter(|told| now.duration_since(*told) < TELLS);
        told.is_none().then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_there_is_room_for_and_room_is_given_back() {
        let taken = Rc::<Taken>::default();
        let places = Vec::from_iter((0..EVENTS).map(|_| taken.place(1).unwrap()));
        assert!(taken.place(1).is_none());
        drop(places);
        let large = taken.place(BYTES);
        assert!(large.is_some() && taken.place(1).is_none());
        drop(large);
        assert!(taken.place(1).is_some());
        assert!(taken.place(BYTES + 1).is_none());
        assert_eq!((taken.events.get(), taken.bytes.get()), (0, 0));
    }

    #[test]
    fn what_is_lost_is_told_at_once_and_then_not_too_often_and_all_of_it() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        assert_eq!(lost.one_more(start), Some(1));
        for _ in 0..5 {
            assert_eq!(lost.one_more(start + TELLS / 2), None);
        }
        assert_eq!(lost.one_more(start + TELLS), Some(6));
        assert_eq!(lost.one_more(start + TELLS), None);
    }
}
