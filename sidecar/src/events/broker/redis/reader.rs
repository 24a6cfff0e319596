//! Who reads a topic by itself: from its place on, again and again.

use std::rc::Rc;
use std::time::Duration;

use futures::future::{FutureExt as _, LocalBoxFuture};
use redis::Value;
use tokio::time::Instant;

use super::link::Link;
use super::queue::{ENOUGH, LONGEST, lost};
use super::script::READ;
use super::wake::Wake;
use super::{ANSWER, NEEDED, Redis, after, entry, may_be_topic, reply, unsubscribed};
use crate::events::broker::{Lost, Read, Reader, Since, Start, Unsubscribed, is_new_enough};

/// How long one waits for messages.
const WAITS: Duration = Duration::from_secs(5);
/// How many messages are asked for at once.
const MOST: &str = "4";

/// One who reads.
struct Reading {
    link: Rc<Link>,
    topic: String,
    wake: Wake,
    /// The id of the last one that was read.
    place: String,
}

// === impl Redis ===

impl Redis {
    pub(super) async fn reader(
        &self,
        topic: &str,
        since: &Since,
    ) -> Result<Box<dyn Reader>, Unsubscribed> {
        may_be_topic(topic)?;
        let version = self.link.version().map_err(Unsubscribed::Away)?;
        is_new_enough(&version, NEEDED)?;
        let behind = match since {
            Since::Start(Start::Earliest) => "0-0".to_owned(),
            Since::Start(start) => after(*start),
            Since::Place(place) => place.clone(),
        };
        let mut reading = Reading {
            wake: Wake::new(self.link.address.clone()),
            link: self.link.clone(),
            topic: topic.to_owned(),
            place: behind.clone(),
        };
        // That it is there, and where it ends.
        let found = reading.ask("0").await.map_err(unsubscribed)?;
        let (_, place) = found.ok_or(Unsubscribed::MissingTopic)?;
        if behind == "$" {
            reading.place = place;
        }
        Ok(Box::new(reading))
    }
}

// === impl Reading ===

impl Reading {
    /// What stands behind its place; nothing when the topic is gone.
    async fn ask(
        &self,
        most: &str,
    ) -> Result<Option<(Vec<Read>, String)>, super::link::Unanswered> {
        let arguments = [&*self.place, most, ENOUGH, LONGEST].map(str::as_bytes);
        let keys = [&*self.topic];
        let asked = self.link.run(&READ, &keys, &arguments, ANSWER);
        Ok(self.found(asked.await?))
    }

    fn found(&self, answer: Value) -> Option<(Vec<Read>, String)> {
        let mut parts = reply::parts(answer)?.into_iter();
        let found = reply::parts(parts.next()?)?.into_iter();
        let found = found.map(|one| {
            let mut parts = reply::parts(one)?.into_iter();
            let place = reply::text(parts.next()?)?;
            let message = match parts.next()? {
                Value::Int(bytes) => {
                    let topic = &self.topic;
                    tracing::warn!(%topic, %place, bytes, "an entry is too long to be read: it is left in the stream");
                    entry::too_long()
                }
                fields => {
                    let fields = reply::parts(fields)?.into_iter();
                    entry::read(fields.map(reply::bytes).collect::<Option<_>>()?)
                }
            };
            Some(Read { place, message })
        });
        Some((found.collect::<Option<_>>()?, reply::text(parts.next()?)?))
    }

    async fn read(&mut self) -> Result<Vec<Read>, Lost> {
        let until = Instant::now() + WAITS;
        loop {
            let found = self.ask(MOST).await.map_err(lost)?;
            let (read, place) = found.ok_or_else(|| Lost("the topic is gone".to_owned()))?;
            let left = until.saturating_duration_since(Instant::now());
            if !read.is_empty() || left.is_zero() {
                self.place = place;
                return Ok(read);
            }
            let waiting = self.wake.wait(&self.topic, (&self.place, false), left);
            waiting.await.map_err(Lost)?;
        }
    }
}

impl Reader for Reading {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn next(&mut self) -> LocalBoxFuture<'_, Result<Vec<Read>, Lost>> {
        self.read().boxed_local()
    }
}
