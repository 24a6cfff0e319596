//! Requests that wait until they are not too much any more: in order for each key, bounded for all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::bucket::{Buckets, Key, Level, Rate, TooMuch};

/// The queues of one limit, shared by all workers.
#[derive(Debug, Default)]
pub struct Queues {
    waiting: AtomicU32,
    by_key: Mutex<HashMap<Key, Arc<Queue>>>,
}

#[derive(Debug)]
struct Queue {
    /// Whose turn it is: the first has it, and waits for the bucket.
    turn: Semaphore,
    waiting: AtomicU32,
    /// How much they ask for together.
    costs: AtomicU64,
}

/// A place in a queue, given back when dropped.
struct Place<'a> {
    queues: &'a Queues,
    key: Key,
    queue: Arc<Queue>,
    cost: u64,
    /// How much those ask for together who came before.
    ahead: u64,
}

/// How one waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest.
    pub max: Duration,
    /// How many at once.
    pub max_queue: u32,
}

/// What is asked of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whose.
    pub key: Key,
    /// How fast.
    pub rate: Rate,
    /// How much.
    pub cost: u64,
}

// === impl Queues ===

impl Queues {
    /// How many wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Takes at once, or in turn; answers whether it waited, and when it took, in nanoseconds.
    ///
    /// # Errors
    /// That it would wait too long, or with too many.
    pub async fn take(
        &self,
        buckets: &Buckets,
        wanted: Wanted,
        patience: Patience,
    ) -> Result<(Level, bool, u64), TooMuch> {
        let Wanted { key, rate, cost } = wanted;
        let now = buckets.now();
        // Nobody overtakes who waits.
        if !self.waits(key)
            && let Ok(level) = buckets.take(key, rate, cost, now)
        {
            return Ok((level, false, now));
        }
        let until = Instant::now() + patience.max;
        let too_much = |wait| TooMuch {
            wait: Some(wait),
            level: Level {
                left: 0,
                unused_in: wait,
            },
        };
        if cost > u64::from(rate.burst) {
            return Err(TooMuch {
                wait: None,
                ..too_much(Duration::ZERO)
            });
        }
        let place = self.enter(key, cost, patience.max_queue);
        let ahead = place.as_ref().map_or(0, |place| place.ahead);
        let expected = buckets.wait(key, rate, ahead.saturating_add(cost), buckets.now());
        let Some(place) = place.filter(|_| expected <= patience.max) else {
            return Err(too_much(expected));
        };
        let turn = async {
            let _turn = place.queue.turn.acquire().await;
            loop {
                let now = buckets.now();
                match buckets.take(key, rate, cost, now) {
                    Ok(level) => return Ok((level, true, now)),
                    Err(TooMuch {
                        wait: Some(wait), ..
                    }) => sleep(wait).await,
                    Err(never) => return Err(never),
                }
            }
        };
        let waited = timeout_at(until, turn).await;
        waited.unwrap_or_else(|_| {
            let wait = buckets.wait(key, rate, cost, buckets.now());
            Err(too_much(wait))
        })
    }

    fn waits(&self, key: Key) -> bool {
        let all = || self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting() > 0 && all().contains_key(&key)
    }

    fn enter(&self, key: Key, cost: u64, most: u32) -> Option<Place<'_>> {
        let more = |count| (count < most).then_some(count + 1);
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .ok()?;
        let mut all = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Queue {
                turn: Semaphore::new(1),
                waiting: AtomicU32::new(0),
                costs: AtomicU64::new(0),
            })
        };
        let queue = all.entry(key).or_insert_with(new).clone();
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        let ahead = queue.costs.fetch_add(cost, Ordering::SeqCst);
        Some(Place {
            queues: self,
            key,
            queue,
            cost,
            ahead,
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let all = &self.queues.by_key;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        self.queue.costs.fetch_sub(self.cost, Ordering::SeqCst);
        if self.queue.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            all.remove(&self.key);
        }
        self.queues.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use tokio::task::{LocalSet, spawn_local};

    const PATIENCE: Patience = Patience {
        max: Duration::from_millis(500),
        max_queue: 3,
    };

    /// Ten a second, one at once.
    fn wanted(buckets: &Buckets, key: &str) -> Wanted {
        Wanted {
            key: buckets.key(key.as_bytes()),
            rate: Rate::build(10, 1_000, 1).unwrap(),
            cost: 1,
        }
    }

    fn on_one_thread(work: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, work);
    }

    #[test]
    fn requests_pass_in_order_as_fast_as_the_limit_lets_them() {
        on_one_thread(async {
            let (queues, buckets) = (Rc::new(Queues::default()), Rc::new(Buckets::default()));
            let passed = Rc::new(std::cell::RefCell::new(Vec::new()));
            let begun = Instant::now();
            let each = (0..4).map(|number| {
                let (queues, buckets, passed) = (queues.clone(), buckets.clone(), passed.clone());
                spawn_local(async move {
                    let wanted = wanted(&buckets, "a");
                    let taken = queues.take(&buckets, wanted, PATIENCE).await;
                    let waited = taken.unwrap().1;
                    passed
                        .borrow_mut()
                        .push((number, begun.elapsed().as_millis(), waited));
                })
            });
            for one in Vec::from_iter(each) {
                one.await.unwrap();
            }
            // A timer of tokio rounds up to the next millisecond.
            let passed = passed.borrow();
            let order = Vec::from_iter(passed.iter().map(|(number, ..)| *number));
            assert_eq!(order, [0, 1, 2, 3]);
            assert!(!passed[0].2 && passed[1].2);
            for (number, at, _) in passed.iter() {
                let at = *at as i128 - i128::from(*number) * 100;
                assert!((0..=4).contains(&at), "{passed:?}");
            }
            assert_eq!(queues.waiting(), 0);
        });
    }

    #[test]
    fn who_would_wait_too_long_or_with_too_many_is_told_so_at_once() {
        on_one_thread(async {
            let (queues, buckets) = (Rc::new(Queues::default()), Rc::new(Buckets::default()));
            let wanted = wanted(&buckets, "a");
            queues.take(&buckets, wanted, PATIENCE).await.unwrap();
            let short = Patience {
                max: Duration::from_millis(99),
                ..PATIENCE
            };
            let begun = Instant::now();
            let refused = queues.take(&buckets, wanted, short).await.unwrap_err();
            assert_eq!(refused.wait, Some(Duration::from_millis(100)));
            let waiting = (0..3).map(|_| {
                let (queues, buckets) = (queues.clone(), buckets.clone());
                spawn_local(async move { queues.take(&buckets, wanted, PATIENCE).await.is_ok() })
            });
            let waiting = Vec::from_iter(waiting);
            tokio::task::yield_now().await;
            assert_eq!(queues.waiting(), 3);
            assert!(queues.take(&buckets, wanted, PATIENCE).await.is_err());
            assert_eq!(begun.elapsed(), Duration::ZERO);
            // Another key does not wait behind them.
            let other = Wanted {
                key: buckets.key(b"b"),
                ..wanted
            };
            assert!(!queues.take(&buckets, other, PATIENCE).await.unwrap().1);
            for one in waiting {
                assert!(one.await.unwrap());
            }
        });
    }

    #[test]
    fn who_waits_is_told_by_what_those_ask_for_who_came_before() {
        on_one_thread(async {
            let (queues, buckets) = (Rc::new(Queues::default()), Rc::new(Buckets::default()));
            let of = |cost| Wanted {
                rate: Rate::build(10, 1_000, 4).unwrap(),
                cost,
                ..wanted(&buckets, "a")
            };
            queues.take(&buckets, of(4), PATIENCE).await.unwrap();
            let ahead = spawn_local({
                let (queues, buckets, wanted) = (queues.clone(), buckets.clone(), of(4));
                async move { queues.take(&buckets, wanted, PATIENCE).await.is_ok() }
            });
            tokio::task::yield_now().await;
            // 400 ms for those ahead, and 200 ms for its own: longer than half a second.
            let refused = queues.take(&buckets, of(2), PATIENCE).await.unwrap_err();
            assert_eq!(refused.wait, Some(Duration::from_millis(600)));
            assert!(queues.take(&buckets, of(1), PATIENCE).await.is_ok());
            assert!(ahead.await.unwrap());
        });
    }

    #[test]
    fn who_hangs_up_leaves_the_queue_and_takes_nothing() {
        on_one_thread(async {
            let (queues, buckets) = (Rc::new(Queues::default()), Rc::new(Buckets::default()));
            let wanted = wanted(&buckets, "a");
            queues.take(&buckets, wanted, PATIENCE).await.unwrap();
            let wait = || {
                let (queues, buckets) = (queues.clone(), buckets.clone());
                spawn_local(async move { queues.take(&buckets, wanted, PATIENCE).await.is_ok() })
            };
            let begun = Instant::now();
            let (first, second) = (wait(), wait());
            tokio::task::yield_now().await;
            first.abort();
            let _ = first.await;
            assert_eq!(queues.waiting(), 1);
            assert!(second.await.unwrap());
            assert!(begun.elapsed() < Duration::from_millis(110), "in its place");
            assert!(queues.by_key.lock().unwrap().is_empty());
        });
    }
}
