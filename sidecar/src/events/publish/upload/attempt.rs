//! One record, from the body to a broker.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::super::super::broker::{Broker, Unpublished};
use super::super::super::cloud_event::Event;
use super::super::error;
use super::super::hold::hold;
use super::super::id::known_by;
use crate::config::publish::{Publishing, Split};
use crate::proxy::Proxy;
use crate::proxy::error::{Error, Reason};

/// What became of a record.
pub(super) struct Settled {
    pub(super) number: u64,
    pub(super) bytes: usize,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    /// The broker holds it.
    Held,
    /// It is none, and that was dealt with.
    Failed(Reason, String),
    /// Nobody knows, or nothing else will be held either.
    Stopped(Error),
}

/// Who sent a record, and the digest of what stands in it: whose duplicates are told apart.
pub(super) type Content = (Bytes, [u8; 32]);

/// One record on its way.
pub(super) struct Attempt<'u> {
    pub(super) px: &'u Rc<Proxy>,
    pub(super) to: &'u Arc<Publishing>,
    pub(super) split: &'u Split,
    pub(super) broker: Rc<dyn Broker>,
    pub(super) number: u64,
}

// === impl Attempt ===

impl Attempt<'_> {
    pub(super) async fn hold(self, event: Event, content: Content, bytes: usize) -> Settled {
        let number = self.number;
        let id = known_by(&self.to.topic, &event, &[&content.0, &content.1]);
        let at = (&*self.to.broker, &self.to.topic);
        let outcome = match hold(self.px, &*self.broker, at, (&event, Some(&id))).await {
            Ok(()) => Outcome::Held,
            Err(why @ Unpublished::TooLarge { .. }) => {
                let mut letter = event;
                letter.data = Bytes::new();
                let failed = (Reason::RequestTooLarge, why.to_string(), true);
                self.failed(letter, content, failed).await
            }
            Err(why) => Outcome::Stopped(error(self.to, why)),
        };
        Settled {
            number,
            bytes,
            outcome,
        }
    }

    /// Deals with a record that is none: there is a dead letter of it, or nothing is done.
    pub(super) async fn failed(
        self,
        mut letter: Event,
        content: Content,
        (reason, why, long): (Reason, String, bool),
    ) -> Outcome {
        let Some(topic) = &self.split.dead_letter else {
            return Outcome::Failed(reason, why);
        };
        let story = if long { "TooLarge" } else { "Malformed" };
        if letter.set("dlqreason", story).is_err() {
            tracing::debug!(route = %self.to.object, "a dead letter lacks an attribute");
        }
        let id = known_by(topic, &letter, &[&content.0, &content.1]);
        let at = (&*self.to.broker, topic);
        match hold(self.px, &*self.broker, at, (&letter, Some(&id))).await {
            Ok(()) => Outcome::Failed(reason, why),
            // Then it is told what it is, and nothing of it is left.
            Err(Unpublished::TooLarge { .. }) if !letter.data.is_empty() => {
                letter.data = Bytes::new();
                let again = hold(self.px, &*self.broker, at, (&letter, Some(&id))).await;
                again.map_or_else(
                    |why| Outcome::Stopped(error(self.to, why)),
                    |()| Outcome::Failed(reason, why),
                )
            }
            Err(why) => Outcome::Stopped(error(self.to, why)),
        }
    }
}
