//! Concurrency: how many requests of a rule are under way at once.
//!
//! Phase: before all attempts, until the response has ended, in the caller's sidecar. From
//! `ApiRoute.rules[].concurrency`. A request that finds no place waits in order with as many others
//! as the rule lets wait, for as long as it says and its own deadline allows; one more, and one that
//! has waited too long, is answered 503 with reason `concurrency_limit`. A place is held until the
//! response's last byte has passed or its caller has gone.
//!
//! Places are counted for the sidecar, exactly, by atomics that its workers share; who finds one free
//! takes no lock. A rule keeps its count when it is edited: what is under way stays under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use wire::mesh;

use super::timeout::Deadline;
use crate::proxy::error::{Error, Reason};

/// The limits of one rule, and its places.
#[derive(Debug)]
pub struct Concurrency {
    max: u32,
    queue: u32,
    queue_timeout: Duration,
    places: Arc<Places>,
}

/// What all workers count together, from one state to the next.
#[derive(Debug)]
pub struct Places {
    max: AtomicU32,
    taken: AtomicU32,
    waiting: AtomicU32,
    /// Whose turn it is: the first in the queue has it, and waits for a place that is given back.
    turn: Semaphore,
    given_back: Notify,
}

/// A request's place, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

/// A request in the queue.
struct Waiting<'a>(&'a Places);

// === build ===

impl Concurrency {
    /// Builds from what was sent. Of a rule that had a limit, the count goes on.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Concurrency, old: Option<&Concurrency>) -> Result<Self, String> {
        if sent.max == 0 {
            return Err("no request at all could be under way".to_owned());
        }
        let places = match old {
            Some(old) => old.places.clone(),
            None => Arc::new(Places::new(sent.max)),
        };
        Ok(Self {
            max: sent.max,
            queue: sent.queue,
            queue_timeout: Duration::from_millis(sent.queue_timeout_ms),
            places,
        })
    }

    /// From now on, also for those who wait already.
    pub fn in_force(&self) {
        self.places.max.store(self.max, Ordering::SeqCst);
        self.places.given_back.notify_one();
    }

    /// What it counts.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    // === request ===

    /// Takes a place, at once or in turn.
    ///
    /// # Errors
    /// `concurrency_limit`; `request_timeout` when the deadline passes first.
    pub async fn enter(&self, deadline: Deadline) -> Result<Place, Error> {
        // Nobody overtakes who waits.
        let free = self.places.waiting() == 0;
        match free.then(|| self.places.take()).flatten() {
            Some(place) => Ok(place),
            None => Box::pin(self.wait(deadline)).await,
        }
    }

    async fn wait(&self, deadline: Deadline) -> Result<Place, Error> {
        let places = &self.places;
        let full = |what| {
            let why = format!(
                "{} requests of {} at once, {what}",
                places.taken(),
                self.max
            );
            Error::new(Reason::ConcurrencyLimit, why)
        };
        let Some(_waiting) = Waiting::begin(places, self.queue) else {
            return Err(full(format!("{} wait", places.waiting())));
        };
        let turn = async {
            let _turn = places.turn.acquire().await;
            loop {
                if let Some(place) = places.take() {
                    return Ok(place);
                }
                places.given_back.notified().await;
            }
        };
        let late = |error: Error| Error::new(error.reason, "waiting for others of its rule");
        let turn = async { deadline.bound(turn).await.map_err(late) };
        let waited = tokio::time::timeout(self.queue_timeout, turn).await;
        waited.unwrap_or_else(|_| Err(full(format!("for {:?}", self.queue_timeout))))
    }
}

impl Places {
    fn new(max: u32) -> Self {
        Self {
            max: AtomicU32::new(max),
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            turn: Semaphore::new(1),
            given_back: Notify::new(),
        }
    }

    /// How many are taken now.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::SeqCst)
    }

    /// How many wait for one now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let max = self.max.load(Ordering::SeqCst);
        one_more(&self.taken, max).then(|| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
        // Kept for whoever looks next, if nobody waits now.
        self.0.given_back.notify_one();
    }
}

impl<'a> Waiting<'a> {
    fn begin(places: &'a Places, most: u32) -> Option<Self> {
        one_more(&places.waiting, most).then(|| Self(places))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

fn one_more(count: &AtomicU32, most: u32) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;
    use tokio::time::Instant;

    fn sent(max: u32, queue: u32) -> mesh::Concurrency {
        mesh::Concurrency {
            max,
            queue,
            queue_timeout_ms: 1000,
        }
    }

    fn concurrency(max: u32, queue: u32) -> Concurrency {
        Concurrency::build(sent(max, queue), None).unwrap()
    }

    fn edited(old: &Concurrency, max: u32, queue: u32) -> Concurrency {
        let edited = Concurrency::build(sent(max, queue), Some(old)).unwrap();
        edited.in_force();
        edited
    }

    async fn enter(concurrency: &Concurrency) -> Result<Place, Reason> {
        let no_deadline = Deadline::start(None, Instant::now());
        let entered = concurrency.enter(no_deadline).await;
        entered.map_err(|error| error.reason)
    }

    /// What a future has come to, without waiting for it.
    async fn now<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        poll_fn(|task| {
            Poll::Ready(match std::pin::Pin::new(&mut *future).poll(task) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_queue_one_more_than_the_limit_is_refused_at_once() {
        let concurrency = concurrency(2, 0);
        let begun = Instant::now();
        let first = enter(&concurrency).await.unwrap();
        let _second = enter(&concurrency).await.unwrap();
        assert_eq!(
            enter(&concurrency).await.unwrap_err(),
            Reason::ConcurrencyLimit
        );
        drop(first);
        let _third = enter(&concurrency).await.unwrap();
        assert_eq!(concurrency.places().taken(), 2);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_get_their_turn_in_order_and_nobody_overtakes_them() {
        let concurrency = concurrency(1, 3);
        let first = enter(&concurrency).await.unwrap();
        let mut second = pin!(enter(&concurrency));
        let mut third = pin!(enter(&concurrency));
        assert!(now(&mut second).await.is_none());
        assert!(now(&mut third).await.is_none());
        assert_eq!(concurrency.places().waiting(), 2);
        drop(first);
        // A place is free, and not for who comes now.
        let mut fourth = pin!(enter(&concurrency));
        assert!(now(&mut fourth).await.is_none());
        assert!(now(&mut third).await.is_none());
        // The queue is full.
        assert_eq!(
            enter(&concurrency).await.unwrap_err(),
            Reason::ConcurrencyLimit
        );
        let second = now(&mut second).await.unwrap().unwrap();
        assert!(now(&mut third).await.is_none());
        drop(second);
        let third = now(&mut third).await.unwrap().unwrap();
        drop(third);
        let _fourth = now(&mut fourth).await.unwrap().unwrap();
        let places = concurrency.places();
        assert_eq!((places.taken(), places.waiting()), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_queues_time_or_the_requests_own() {
        let concurrency = concurrency(1, 1);
        let _place = enter(&concurrency).await.unwrap();
        let begun = Instant::now();
        let refused = enter(&concurrency).await.unwrap_err();
        assert_eq!(refused, Reason::ConcurrencyLimit);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));

        let begun = Instant::now();
        let deadline = Deadline::start(Some(Duration::from_millis(300)), begun);
        let refused = concurrency.enter(deadline).await.unwrap_err();
        assert_eq!(refused.reason, Reason::RequestTimeout);
        assert_eq!(begun.elapsed(), Duration::from_millis(300));
        assert_eq!(concurrency.places().waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_while_it_waits_leaves_its_turn_to_the_next() {
        let concurrency = concurrency(1, 2);
        let place = enter(&concurrency).await.unwrap();
        let mut gone = Box::pin(enter(&concurrency));
        let mut next = pin!(enter(&concurrency));
        assert!(now(&mut gone).await.is_none());
        assert!(now(&mut next).await.is_none());
        // The place was meant for it already.
        drop(place);
        drop(gone);
        let _next = now(&mut next).await.unwrap().unwrap();
        assert_eq!(concurrency.places().waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_that_is_edited_keeps_its_count() {
        let old = concurrency(2, 1);
        let first = enter(&old).await.unwrap();
        let second = enter(&old).await.unwrap();
        let mut waits = pin!(enter(&old));
        assert!(now(&mut waits).await.is_none());

        // What is built and not in force changes nothing.
        let smaller = Concurrency::build(sent(1, 0), Some(&old)).unwrap();
        drop(first);
        let waited = now(&mut waits).await.unwrap().unwrap();
        smaller.in_force();
        drop(second);
        assert!(enter(&smaller).await.is_err());
        drop(waited);
        let _one = enter(&smaller).await.unwrap();
        assert!(enter(&smaller).await.is_err());

        // A larger one is there at once, for those who wait already too.
        let queued = edited(&smaller, 1, 1);
        let mut waits = pin!(enter(&queued));
        assert!(now(&mut waits).await.is_none());
        let _larger = edited(&queued, 2, 1);
        assert!(now(&mut waits).await.unwrap().is_ok());
    }

    #[test]
    fn no_worker_ever_sees_more_than_the_limit() {
        const MAX: u32 = 3;
        let concurrency = Arc::new(concurrency(MAX, 1000));
        let done = Arc::new(AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (concurrency, done) = (concurrency.clone(), done.clone());
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let requests = (0..50).map(async |_| {
                            let place = enter(&concurrency).await.unwrap();
                            assert!(concurrency.places().taken() <= MAX);
                            tokio::task::yield_now().await;
                            drop(place);
                            done.fetch_add(1, Ordering::SeqCst);
                        });
                        futures::future::join_all(requests).await;
                    });
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 200);
        let places = concurrency.places();
        assert_eq!((places.taken(), places.waiting()), (0, 0));
    }

    #[test]
    fn a_limit_of_none_is_refused() {
        assert!(Concurrency::build(sent(0, 1), None).is_err());
    }
}
