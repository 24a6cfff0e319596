//! What is given back for later: queues in which it waits.
//!
//! RabbitMQ gives back at once or never. So what is to come later is published to a queue that nobody reads, from
//! which the broker moves it to the group's queue when it has lain there for that queue's time. There is a queue
//! for each of some times, as one in which messages wait for different times holds up those that are due behind
//! one that is not. They are made when they are first needed, and stay: one that the broker may delete could have
//! something in it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use lapin::types::AMQPValue;
use tokio::time::Instant;

use super::declare::{Declarer, No, SETTLES, quorum, words};
use super::link::{Connected, lock, text};

/// The times, in seconds. Of each time that is asked for, one is no shorter than 4/5 of it, and no longer than 3/2 of
/// it and 2 seconds.
const TIMES: [u64; 14] = [
    1, 2, 5, 10, 20, 35, 60, 110, 200, 300, 560, 1_000, 1_850, 3_450,
];

/// The longest of them.
const LONGEST: u64 = 3_450;

/// The queues of a group in which messages wait.
pub(super) struct Delays {
    queue: String,
    /// Whether they may be made.
    create: bool,
    /// Those that are there, and from when what is in them is as safe as it is elsewhere.
    known: Mutex<BTreeMap<u64, Instant>>,
    /// One is made at a time: many that wait for the same one do not make it many times at once.
    making: tokio::sync::Mutex<()>,
}

/// The time, in seconds, of the queue for what is to come after so long; the longest for all that is longer.
pub(super) fn seconds(after: Duration) -> u64 {
    let least = after.mul_f64(0.8);
    let mut times = TIMES.into_iter();
    times
        .find(|time| Duration::from_secs(*time) >= least)
        .unwrap_or(LONGEST)
}

// === impl Delays ===

impl Delays {
    pub(super) fn new(queue: String, create: bool) -> Self {
        Self {
            queue,
            create,
            known: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    fn name(&self, seconds: u64) -> String {
        format!("{}#{seconds}s", self.queue)
    }

    /// The name of the queue of that time, which is there then. None if it was only just made.
    pub(super) async fn at(
        &self,
        connected: &Connected,
        seconds: u64,
    ) -> Result<Option<String>, No> {
        let name = self.name(seconds);
        let since = || lock(&self.known).get(&seconds).copied();
        let mut settled = since();
        if settled.is_none() {
            let _making = self.making.lock().await;
            settled = since();
            if settled.is_none() {
                let from = self.make(connected, &name, seconds).await?;
                lock(&self.known).insert(seconds, from);
                settled = Some(from);
            }
        }
        Ok(settled
            .is_some_and(|from| from <= Instant::now())
            .then_some(name))
    }

    /// Makes it unless it is there. Returns from when it can be used.
    async fn make(&self, connected: &Connected, name: &str, seconds: u64) -> Result<Instant, No> {
        let mut declarer = Declarer::new(connected);
        let now = Instant::now();
        let is_there = match declarer.count(name).await {
            Ok(_) => true,
            Err(No::Missing) if self.create => false,
            Err(no) => return Err(no),
        };
        if self.create {
            let arguments = self.arguments(&connected.version, seconds);
            declarer.queue(name, arguments).await?;
        }
        Ok(match is_there {
            true => now,
            false => Instant::now() + SETTLES,
        })
    }

    /// It is not there any more.
    pub(super) fn forget(&self, seconds: u64) {
        lock(&self.known).remove(&seconds);
    }

    fn arguments(&self, version: &str, seconds: u64) -> lapin::types::FieldTable {
        let millis = i64::try_from(seconds * 1_000).unwrap_or(i64::MAX);
        let mut arguments = quorum(version);
        arguments.insert(text("x-message-ttl"), AMQPValue::LongLongInt(millis));
        // To the group's queue alone, whatever else is bound to the topic.
        arguments.insert(text("x-dead-letter-exchange"), words(""));
        arguments.insert(text("x-dead-letter-routing-key"), words(&self.queue));
        // It leaves this queue once the other one holds it, and not before.
        arguments.insert(text("x-dead-letter-strategy"), words("at-least-once"));
        arguments.insert(text("x-overflow"), words("reject-publish"));
        arguments
    }

    /// How many messages wait. Queues that others have made are looked for only if `all` is asked for.
    pub(super) async fn waiting(&self, declarer: &mut Declarer<'_>, all: bool) -> Result<u64, No> {
        let mut waiting = 0;
        for seconds in TIMES {
            if !all && !lock(&self.known).contains_key(&seconds) {
                continue;
            }
            match declarer.count(&self.name(seconds)).await {
                Ok(count) => {
                    let mut known = lock(&self.known);
                    known.entry(seconds).or_insert_with(Instant::now);
                    waiting += count;
                }
                Err(No::Missing) => self.forget(seconds),
                Err(no) => return Err(no),
            }
        }
        Ok(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_hardly_shorter_and_not_much_longer_than_what_was_asked_for() {
        for millis in (500..=3_600_000).step_by(50) {
            let asked = Duration::from_millis(millis);
            let delay = Duration::from_secs(seconds(asked));
            assert!(delay >= asked.mul_f64(0.8), "{asked:?}: {delay:?}");
            let most = asked.mul_f64(1.5) + Duration::from_secs(2);
            assert!(delay <= most, "{asked:?}: {delay:?}");
        }
        assert_eq!(seconds(Duration::from_secs(1_000_000)), LONGEST);
    }
}
