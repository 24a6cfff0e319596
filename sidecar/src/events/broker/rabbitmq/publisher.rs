//! What is published, each on a channel of its own.
//!
//! The broker ends a channel on which something is published that it has no exchange for, with all that
//! is under way on it. And the crate hands what is returned to whichever confirmation comes next
//! (lapin 4.12), so that of two that are published together to where only one is held, either could be
//! told that it is. So there is one at a time on a channel, and as many channels as there are messages
//! under way; those that are done are used again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::link::{Connected, Link, lock, refusal, text, told};
use crate::events::broker::Unpublished;

/// How many messages are under way at once. A broker allows some 2000 channels.
const UNDER_WAY: usize = 256;

/// What publishes over a connection.
pub(super) struct Publisher {
    link: Arc<Link>,
    idle: Mutex<Vec<(Arc<Connected>, Channel)>>,
    places: Semaphore,
}

/// A message, with where it goes.
pub(super) struct Letter<'a> {
    pub(super) exchange: &'a str,
    pub(super) key: &'a str,
    pub(super) properties: BasicProperties,
    pub(super) data: &'a [u8],
}

// === impl Publisher ===

impl Publisher {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            idle: Mutex::default(),
            places: Semaphore::new(UNDER_WAY),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.connected().is_some()
    }

    /// How many bytes properties may have, as far as that is known.
    pub(super) fn longest_properties(&self) -> usize {
        let connected = self.link.connected();
        // The class, the length of the data and what is around a frame.
        connected.map_or(usize::MAX, |one| one.longest_frame().saturating_sub(64))
    }

    /// Publishes; returns once every queue that it goes to holds it, and at least one does.
    pub(super) async fn publish(
        &self,
        letter: Letter<'_>,
        patience: Duration,
    ) -> Result<(), Unpublished> {
        let until = Instant::now() + patience;
        let full = || Unpublished::Refused("too much is under way".to_owned());
        let place = timeout_at(until, self.places.acquire()).await;
        let _place = place.map_err(|_| full())?.map_err(|_| full())?;
        let (connected, channel) = timeout_at(until, self.channel())
            .await
            .unwrap_or(Err(Unpublished::Away))?;
        let sent = tokio::select! {
            biased;
            sent = send(&channel, letter) => sent,
            () = connected.ended() => Err(unconfirmed("the connection broke")),
            () = tokio::time::sleep_until(until) => Err(unconfirmed("there was no answer in time")),
        };
        // One with something under way, or that was ended, is not used again.
        if channel.status().connected() && !matches!(sent, Err(Unpublished::Unconfirmed(_))) {
            let mut idle = lock(&self.idle);
            // Those of a connection that has a successor are used no more, and it ends with them.
            if idle
                .first()
                .is_some_and(|(of, _)| !Arc::ptr_eq(of, &connected))
            {
                idle.retain(|(of, _)| Arc::ptr_eq(of, &connected));
            }
            idle.push((connected, channel));
        }
        sent
    }

    /// A channel on which nothing is under way.
    async fn channel(&self) -> Result<(Arc<Connected>, Channel), Unpublished> {
        let connected = self.link.connected().ok_or(Unpublished::Away)?;
        // It would lie there for nobody knows how long.
        if connected.is_blocked() {
            return Err(Unpublished::Away);
        }
        while let Some((of, channel)) = self.idle_one() {
            if Arc::ptr_eq(&of, &connected) && channel.status().connected() {
                return Ok((connected, channel));
            }
        }
        let opened = tokio::select! {
            biased;
            opened = connected.confirming() => opened,
            () = connected.ended() => return Err(Unpublished::Away),
        };
        let channel = opened.map_err(|_| Unpublished::Away)?;
        Ok((connected, channel))
    }

    fn idle_one(&self) -> Option<(Arc<Connected>, Channel)> {
        lock(&self.idle).pop()
    }
}

async fn send(channel: &Channel, letter: Letter<'_>) -> Result<(), Unpublished> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let (exchange, key) = (text(letter.exchange), text(letter.key));
    let sent = channel.basic_publish(exchange, key, options, letter.data, letter.properties);
    let confirmed = async { sent.await?.await }.await;
    match confirmed {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
            Err(Unpublished::UnknownTopic)
        }
        // One of the queues does not hold it. Others may.
        Ok(Confirmation::Nack(None)) => Err(unconfirmed("a queue did not take it")),
        Ok(Confirmation::NotRequested) => Err(unconfirmed("nobody confirms")),
        Err(error) => Err(match refusal(&error) {
            Some((404, _)) => Unpublished::UnknownTopic,
            Some((_, why)) => Unpublished::Refused(why),
            None => Unpublished::Unconfirmed(told(&error)),
        }),
    }
}

fn unconfirmed(why: &str) -> Unpublished {
    Unpublished::Unconfirmed(why.to_owned())
}
