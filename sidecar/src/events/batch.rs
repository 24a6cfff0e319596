//! A subscription in batches: events are gathered until there are as many as one may have, or one has waited for long
//! enough, and are delivered in one request.
//!
//! What comes again comes alone, so that one that always fails takes no other with it.

use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;

use futures::future::join_all;
use tokio::time::Instant;

use super::broker::{Broker, Delivered, Queue};
use super::deliver::deliver_batch;
use super::received::Received;
use super::running::Running;
use super::subscriber::{Ended, at, in_flight};
use crate::config::subscription::Batch;

/// Events that wait for others.
struct Gathered {
    running: Rc<Running>,
    broker: Rc<dyn Broker>,
    batch: Batch,
    /// With about how long each is, in bytes.
    waiting: VecDeque<(Received, usize)>,
    bytes: usize,
    /// When the first of them came.
    since: Instant,
    /// What came again, and is delivered alone.
    again: VecDeque<Received>,
    /// When the leases of what waits here are begun anew.
    extend: Option<Instant>,
}

/// Pulls and delivers until no more is to be pulled; why, and what waits to be delivered then.
pub(super) async fn pull(
    running: &Rc<Running>,
    broker: &Rc<dyn Broker>,
    queue: &mut dyn Queue,
    batch: Batch,
) -> (Ended, Vec<Received>) {
    let mut gathered = Gathered {
        running: running.clone(),
        broker: broker.clone(),
        batch,
        waiting: VecDeque::new(),
        bytes: 0,
        since: Instant::now(),
        again: VecDeque::new(),
        extend: None,
    };
    let ended = gathered.go_on(queue).await;
    let waiting = gathered.waiting.into_iter().map(|(one, _)| one);
    (ended, waiting.chain(gathered.again).collect())
}

// === impl Gathered ===

impl Gathered {
    async fn go_on(&mut self, queue: &mut dyn Queue) -> Ended {
        let running = self.running.clone();
        loop {
            if running.rests() {
                return Ended::Rests;
            }
            let left = running.left();
            self.begin();
            let paused = running.paused();
            // While there is no place for another batch, it is gathered: what was asked for comes, and its lease is kept.
            let held = self.waiting.len() + self.again.len();
            let most = match running.asked_to_wait().is_some() {
                true => 0,
                false => self.batch.size.saturating_sub(held),
            };
            let may_begin = running.may_begin() && running.places.available_permits() > 0;
            let due = (may_begin && !self.waiting.is_empty()).then(|| self.since + self.batch.wait);
            let extend = self.extend;
            tokio::select! {
                biased;
                () = running.ended() => return Ended::Over,
                pulled = queue.pull(most), if most > 0 => match pulled {
                    Ok(pulled) => self.came(pulled),
                    Err(why) => return Ended::Lost(why.to_string()),
                },
                () = left => {}
                () = at(due) => {}
                () = at(paused) => {}
                () = at(extend) => self.extend().await,
            }
        }
    }

    fn came(&mut self, pulled: Vec<Box<dyn Delivered>>) {
        for message in pulled {
            if self.extend.is_none() {
                self.extend = Some(Instant::now() + message.lease() / 3);
            }
            let again = message.attempt() > 1;
            let received = Received::of(&self.running.subscription, message);
            if again {
                self.again.push_back(received);
                continue;
            }
            if self.waiting.is_empty() {
                self.since = Instant::now();
            }
            let length = length(&received);
            self.bytes += length;
            self.waiting.push_back((received, length));
        }
    }

    /// Delivers what is due, as far as there are places.
    fn begin(&mut self) {
        while self.running.may_begin() && (self.is_due() || !self.again.is_empty()) {
            let Ok(place) = self.running.places.clone().try_acquire_owned() else {
                return;
            };
            let (running, broker) = (self.running.clone(), self.broker.clone());
            let again = self.again.pop_front();
            let batch = again.map_or_else(|| self.take(), |alone| vec![alone]);
            tokio::task::spawn_local(async move {
                let delivering = pin!(deliver_batch(&running, &*broker, &batch));
                in_flight(&running, batch.len(), delivering).await;
                drop(place);
                running.has_left();
            });
        }
    }

    fn is_due(&self) -> bool {
        let full = self.waiting.len() >= self.batch.size || self.bytes >= self.batch.bytes;
        !self.waiting.is_empty() && (full || self.since.elapsed() >= self.batch.wait)
    }

    /// As many as one batch may have; at least one, however long it is.
    fn take(&mut self) -> Vec<Received> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((_, length)) = self.waiting.front() {
            let fits = batch.len() < self.batch.size && bytes + length <= self.batch.bytes;
            if !fits && !batch.is_empty() {
                break;
            }
            if let Some((received, length)) = self.waiting.pop_front() {
                bytes += length;
                batch.push(received);
            }
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        batch
    }

    fn messages(&self) -> impl Iterator<Item = &dyn Delivered> {
        let waiting = self.waiting.iter().map(|(one, _)| one);
        waiting.chain(&self.again).map(|one| &*one.message)
    }

    /// Begins the leases of what waits here anew.
    async fn extend(&mut self) {
        // One that could not be kept comes again, perhaps while this one is still delivered: at least once.
        join_all(self.messages().map(|one| one.extend())).await;
        let lease = self.messages().next().map(|one| one.lease());
        self.extend = lease.map(|lease| Instant::now() + lease / 3);
    }
}

/// About how long an event is in a batch, in bytes.
fn length(received: &Received) -> usize {
    let (Ok(event) | Err(event)) = &received.event;
    let attributes = event.attributes();
    let attributes = attributes.map(|(name, value)| name.len() + value.len() + 6);
    attributes.sum::<usize>() + event.data.len() + 16
}
