//! What is delivered once more, and dead letters on their way to be events again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::{FutureExt as _, LocalBoxFuture};

use crate::events::broker::{Broker, Delivered, Lost, Message};
use crate::events::cloud_event::Event;

/// The attributes that a dead letter has beside its event's.
const STORY: [&str; 7] = [
    "dlqreason",
    "dlqcode",
    "dlqattempts",
    "dlqsubscription",
    "dlqtopic",
    "dlqtime",
    "dlqbody",
];

/// What the attribute `dlqreason` says of what is no event.
pub(super) const MALFORMED: &str = "Malformed";

/// What is delivered once more.
pub(super) struct Replayed {
    pub(super) message: Box<dyn Delivered>,
    /// The topic of a dead letter: done with, it is gone from there.
    pub(super) letters: Option<(Rc<dyn Broker>, String)>,
    /// What the run is called.
    pub(super) run: Arc<str>,
}

/// When it became one; none for what does not say.
pub(super) fn time(letter: &Event) -> Option<SystemTime> {
    let time = letter.attribute("dlqtime")?;
    time.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// The event that it was.
pub(super) fn event(letter: &Event) -> Event {
    let mut event = letter.clone();
    for name in STORY {
        event.remove_extension(name);
    }
    event
}

impl Delivered for Replayed {
    fn message(&self) -> &Message {
        self.message.message()
    }

    fn attempt(&self) -> u32 {
        self.message.attempt()
    }

    /// A dead letter of it is another one than that of the first time.
    fn place(&self) -> String {
        format!("{}/{}", self.run, self.message.place())
    }

    fn position(&self) -> u128 {
        self.message.position()
    }

    /// It was older than it may be before anybody asked for it.
    fn published(&self) -> Option<SystemTime> {
        None
    }

    fn lease(&self) -> Duration {
        self.message.lease()
    }

    fn is_ours(&self) -> bool {
        self.message.is_ours()
    }

    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.message.extend()
    }

    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        let done = async {
            if let Some((broker, topic)) = &self.letters {
                let place = self.message.place();
                // One that stays, for want of a right, is replayed again by the next run, and by this one never.
                if let Err(why) = broker.discard(topic, &place).await {
                    tracing::warn!(%topic, %why, "a dead letter that was seen to stays in its topic");
                }
            }
            self.message.acknowledge().await
        };
        done.boxed_local()
    }

    fn give_back(&self, after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.message.give_back(after)
    }
}
