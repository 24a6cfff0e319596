//! Exchanges and queues: what is there, and what is made.

use std::future::Future;
use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use tokio::time::{sleep, timeout};

use super::link::{Connected, refusal, text, told};
use crate::events::broker::{Unsubscribed, numbers};

/// How long the broker may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long after it was made a queue may be forgotten by a broker that is killed, with what is in it: RabbitMQ writes
/// down only every half a second which quorum queues it has.
pub(super) const SETTLES: Duration = Duration::from_secs(1);

/// Who asks for exchanges and queues, on a channel of its own, as each no ends one.
pub(super) struct Declarer<'a> {
    connected: &'a Connected,
    channel: Option<Channel>,
}

/// What the broker says no with.
#[derive(Debug)]
pub(super) enum No {
    /// It is not there.
    Missing,
    /// It is there, in another way: what differs.
    Differs(String),
    /// It is not allowed.
    Refused(String),
    /// There is no answer.
    Away(String),
}

// === impl Declarer ===

impl<'a> Declarer<'a> {
    pub(super) fn new(connected: &'a Connected) -> Self {
        Self {
            connected,
            channel: None,
        }
    }

    /// The version of the broker.
    pub(super) fn version(&self) -> &str {
        &self.connected.version
    }

    /// The channel, as long as nobody has said no on it.
    pub(super) async fn channel(&mut self) -> Result<Channel, No> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let opened = match self.connected.rested() {
            Some(rested) => rested,
            None => self.answer(self.connected.channel()).await?,
        };
        self.channel = Some(opened.clone());
        Ok(opened)
    }

    /// Leaves its channel to who asks next: everything that was asked on it has been answered.
    pub(super) fn leave(self) {
        if let Some(channel) = self.channel {
            self.connected.rests(channel);
        }
    }

    async fn answer<T>(&mut self, asked: impl Future<Output = lapin::Result<T>>) -> Result<T, No> {
        let answer = tokio::select! {
            biased;
            answer = timeout(ANSWER, asked) => answer,
            () = self.connected.ended() => return Err(No::Away("the connection broke".to_owned())),
        };
        let no = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => No::of(&error),
            Err(_) => No::Away("there was no answer in time".to_owned()),
        };
        self.channel = None;
        Err(no)
    }

    /// Makes a topic's exchange, or sees that it is there.
    pub(super) async fn exchange(&mut self, name: &str, create: bool) -> Result<(), No> {
        let options = ExchangeDeclareOptions {
            passive: !create,
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let channel = self.channel().await?;
        let kind = ExchangeKind::Fanout;
        let asked = channel.exchange_declare(text(name), kind, options, FieldTable::default());
        self.answer(asked).await
    }

    /// Makes a queue, or sees that it is there and as it is wanted.
    pub(super) async fn queue(&mut self, name: &str, arguments: FieldTable) -> Result<(), No> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.channel().await?;
        let asked = channel.queue_declare(text(name), options, arguments);
        self.answer(asked).await.map(drop)
    }

    /// Makes a queue that nothing comes to yet, and waits until it is not forgotten any more.
    pub(super) async fn settled(&mut self, name: &str, arguments: FieldTable) -> Result<(), No> {
        self.queue(name, arguments).await?;
        sleep(SETTLES).await;
        Ok(())
    }

    /// Deletes a queue, with what is in it.
    pub(super) async fn delete(&mut self, name: &str) -> Result<(), No> {
        let channel = self.channel().await?;
        let asked = channel.queue_delete(text(name), QueueDeleteOptions::default());
        self.answer(asked).await.map(drop)
    }

    /// How many messages are in a queue that nobody was delivered.
    pub(super) async fn count(&mut self, name: &str) -> Result<u64, No> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.channel().await?;
        let asked = channel.queue_declare(text(name), options, FieldTable::default());
        self.answer(asked).await.map(|it| it.message_count().into())
    }

    /// Has a queue hold what is published to an exchange.
    pub(super) async fn bind(&mut self, queue: &str, exchange: &str) -> Result<(), No> {
        let channel = self.channel().await?;
        let options = QueueBindOptions::default();
        let (queue, exchange) = (text(queue), text(exchange));
        let asked = channel.queue_bind(queue, exchange, text(""), options, FieldTable::default());
        self.answer(asked).await
    }
}

// === impl No ===

impl No {
    fn of(error: &lapin::Error) -> Self {
        match refusal(error) {
            Some((404, _)) => Self::Missing,
            Some((406, why)) => match differing(&why) {
                Some(argument) => Self::Differs(argument.to_owned()),
                None => Self::Refused(why),
            },
            Some((_, why)) => Self::Refused(why),
            None => Self::Away(told(error)),
        }
    }

    /// As an answer to whoever wants something that should be there.
    pub(super) fn unsubscribed(self, missing: Unsubscribed) -> Unsubscribed {
        match self {
            Self::Missing => missing,
            Self::Differs(what) => Unsubscribed::Differs(what),
            Self::Refused(why) => Unsubscribed::Refused(why),
            Self::Away(why) => Unsubscribed::Away(why),
        }
    }
}

/// What differs, from `... - inequivalent arg 'x-queue-type' for queue ...`.
fn differing(why: &str) -> Option<&str> {
    let (_, from) = why.split_once("inequivalent arg '")?;
    from.split_once('\'').map(|(argument, _)| argument)
}

/// The arguments of a queue that is replicated, and that counts how often it delivers. `version`: of the broker.
pub(super) fn quorum(version: &str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(text("x-queue-type"), words("quorum"));
    // Without being told otherwise, those throw away what was delivered 20 times.
    if numbers(version).is_some_and(|version| version >= (4, 0)) {
        arguments.insert(text("x-delivery-limit"), AMQPValue::LongLongInt(-1));
    }
    arguments
}

pub(super) fn words(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let why = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'a' in vhost '/': received none";
        assert_eq!(differing(why), Some("x-queue-type"));
        assert_eq!(differing("PRECONDITION_FAILED - no"), None);
        assert_eq!(differing("inequivalent arg 'x"), None);
    }
}
