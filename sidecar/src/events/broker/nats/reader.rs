//! Who reads a topic by itself: a consumer of its own, which JetStream forgets when nobody asks for more.

use std::time::Duration;

use futures::future::{FutureExt as _, LocalBoxFuture};
use serde_json::{Value, json};

use super::queue::Pulled;
use super::{NEEDED, Nats, code, consumer, may_be_topic, nanos, refused};
use crate::events::broker::{
    Lost, Queue as _, Read, Reader, Since, Start, Unsubscribed, is_new_enough,
};

/// How long a consumer stays that nobody asks for more: one who does not read for so long goes on from its place.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Nothing that is read is anybody's: it needs no lease.
const NO_LEASE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How many messages are asked for at once: as many are held of those who read slowly.
const MOST: usize = 4;

/// One who reads.
struct Reading {
    pulled: Pulled,
    place: u64,
}

// === impl Nats ===

impl Nats {
    pub(super) async fn reader(
        &self,
        topic: &str,
        since: &Since,
    ) -> Result<Box<dyn Reader>, Unsubscribed> {
        may_be_topic(topic)?;
        is_new_enough(&self.version()?, NEEDED)?;
        let stream = self.stream_of(topic).await?;
        let stream = stream.ok_or(Unsubscribed::MissingTopic)?;
        let name = format!("meshwright-{:032x}", rand::random::<u128>());
        let mut wanted = json!({
            "name": name,
            "filter_subject": topic,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": nanos(FORGOTTEN),
            "mem_storage": true,
            "num_replicas": 1,
        });
        match since {
            Since::Start(start) => consumer::starts(&mut wanted, *start)?,
            Since::Place(place) => {
                let place = place
                    .parse::<u64>()
                    .ok()
                    .and_then(|place| place.checked_add(1));
                let place =
                    place.ok_or_else(|| Unsubscribed::Refused("the place is none".to_owned()))?;
                consumer::starts(&mut wanted, Start::Place(place, 0))?;
            }
        }
        let create = format!("CONSUMER.CREATE.{stream}.{name}.{topic}");
        let body = json!({ "stream_name": stream, "config": wanted, "action": "create" });
        let created = match self.ask(&create, &body).await? {
            Ok(created) => created,
            Err(failure) if failure.err_code == code::STREAM_NOT_FOUND => {
                return Err(Unsubscribed::MissingTopic);
            }
            Err(failure) => return Err(refused(failure)),
        };
        let place = match since {
            Since::Place(place) => place.parse().ok(),
            Since::Start(_) => created
                .pointer("/delivered/stream_seq")
                .and_then(Value::as_u64),
        };
        let pulled = Pulled::open(self.link.clone(), (stream, name), NO_LEASE, None).await;
        Ok(Box::new(Reading {
            pulled: pulled.map_err(Unsubscribed::Away)?,
            place: place.unwrap_or_default(),
        }))
    }
}

// === impl Reading ===

impl Reading {
    async fn read(&mut self) -> Result<Vec<Read>, Lost> {
        let came = self.pulled.pull(MOST).await?;
        let read = came.iter().map(|one| Read {
            place: one.place(),
            message: one.message().clone(),
        });
        let read = Vec::from_iter(read);
        if let Some(place) = read.last().and_then(|last| last.place.parse().ok()) {
            self.place = place;
        }
        Ok(read)
    }
}

impl Reader for Reading {
    fn place(&self) -> String {
        self.place.to_string()
    }

    fn next(&mut self) -> LocalBoxFuture<'_, Result<Vec<Read>, Lost>> {
        self.read().boxed_local()
    }
}
