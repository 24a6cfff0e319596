//! Brokers, behind one small trait: what is published, and what groups are delivered of it.
//!
//! A broker holds what it has confirmed, and delivers it to one member of each group until that one
//! acknowledges it: at least once, in no order that may be relied on. Whoever is delivered something
//! has a lease on it; when that ends, it is delivered again. In a group with a window, one member at a
//! time is delivered anything, in the topic's order but for what it gave back, until it has pulled
//! nothing for long: who comes after it first gets again what it has left.
//!
//! Everything here belongs to one worker: futures stay on its thread.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::LocalBoxFuture;

#[cfg(any(feature = "rabbitmq", feature = "redis"))]
pub mod dial;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;

/// What a broker holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Names in lower case, and values: visible characters and spaces. Of several of one name the
    /// order is kept, of others it is not. None begins with `nats-`, or is `data`, which are brokers' own.
    pub headers: Vec<(String, String)>,
    /// The rest, byte for byte.
    pub data: Bytes,
}

/// Why something was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpublished {
    /// Nothing at the broker holds what is published there.
    #[error("nothing at the broker holds this topic")]
    UnknownTopic,
    /// It is longer than the broker takes.
    #[error("it is longer than the {max} bytes, headers included, that the broker takes")]
    TooLarge {
        /// How long it may be with its headers, in bytes.
        max: usize,
    },
    /// The broker does not want it, or could not be given it; it does not hold it.
    #[error("it was refused: {0}")]
    Refused(String),
    /// The broker may hold it or not, now or later: nobody confirmed.
    #[error("the broker did not confirm it: {0}")]
    Unconfirmed(String),
    /// There is no connection, and the broker was told nothing.
    #[error("the broker is away")]
    Away,
}

/// Why a topic or a group can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsubscribed {
    /// The topic is not there, and was not to be created.
    #[error("nothing at the broker holds this topic")]
    MissingTopic,
    /// The group is not there, and was not to be created.
    #[error("the broker does not know this group")]
    MissingGroup,
    /// What is there is not what is needed: the field that differs, by the broker's name for it.
    #[error("what the broker has differs in {0}")]
    Differs(String),
    /// The version that the broker is of, which can't do what is needed, and the first that can.
    #[error("the broker is of version {version}, and {needed} is needed")]
    TooOld {
        /// The version of the broker.
        version: String,
        /// The first version that will do.
        needed: &'static str,
    },
    /// The broker says no.
    #[error("the broker refused: {0}")]
    Refused(String),
    /// Nothing could be delivered to the target, whatever the broker says.
    #[error("what its target asks for can't be had: {0}")]
    Lacking(String),
    /// There is no connection, or no answer on it. It may be asked again later.
    #[error("the broker is away: {0}")]
    Away(String),
}

// === impl Unsubscribed ===

impl Unsubscribed {
    /// The same to those who have written what can't be carried out: of which broker, and with `manage: Never` which field
    /// names what is missing, and what to do.
    pub(super) fn told(&self, broker: &str, group: &Group) -> String {
        // What may be long comes last: no more than so much of it is shown.
        let make = format!(
            "with manage: Never it is not made: make it at the broker {broker}, or write manage: CreateIfMissing"
        );
        match self {
            Self::MissingTopic if !group.create => format!(
                "spec.source.broker.topic: {make}; nothing there holds the topic {}",
                group.topic
            ),
            Self::MissingGroup if !group.create => format!(
                "spec.source.broker.consumerGroup: {make}; it does not know the group {}",
                group.name
            ),
            // It is about no broker.
            Self::Lacking(_) => self.to_string(),
            _ => format!("broker {broker}: {self}"),
        }
    }
}

/// What was delivered is no longer ours, or the group can't be asked any more: whoever wants more
/// joins again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group was lost: {0}")]
pub struct Lost(pub String);

/// A broker.
pub trait Broker {
    /// Publishes; returns once the broker holds it, and says whether it held one of that `id` already,
    /// as far back as it remembers. Gives up after `patience`. What has no `id` was never published before, nor will
    /// whoever asks publish it again: the broker need remember nothing of it.
    ///
    /// # Errors
    /// That the broker does not hold it, or may not.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        id: Option<&'a str>,
        message: Message,
        patience: Duration,
    ) -> LocalBoxFuture<'a, Result<bool, Unpublished>>;

    /// Sees to it that something holds what is published to the topic, whether anybody is in a group of it or not,
    /// and creates what does if nothing does.
    ///
    /// # Errors
    /// That nothing does.
    fn create_topic<'a>(&'a self, topic: &'a str) -> LocalBoxFuture<'a, Result<(), Unsubscribed>>;

    /// Sees to it that the topic is there, and creates it if it is not. In brokers where a topic holds nothing by itself,
    /// what is published there is held for its groups alone.
    ///
    /// # Errors
    /// That it is not there.
    fn declare_topic<'a>(&'a self, topic: &'a str) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        self.create_topic(topic)
    }

    /// Joins a group. The group and its position stay when nobody is left in it.
    ///
    /// # Errors
    /// That it can't be joined.
    fn join<'a>(
        &'a self,
        group: &'a Group,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Queue>, Unsubscribed>>;

    /// Reads a topic by itself, in no group: what is read stays for everybody else.
    ///
    /// # Errors
    /// That it can't be read, or not from there.
    fn read<'a>(
        &'a self,
        topic: &'a str,
        since: &'a Since,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Reader>, Unsubscribed>> {
        let _ = (topic, since);
        let why = "it keeps nothing that can be read from a place on".to_owned();
        Box::pin(std::future::ready(Err(Unsubscribed::Refused(why))))
    }

    /// How much is before a group, whether anybody has joined it or not.
    ///
    /// # Errors
    /// That the broker does not say.
    fn lag<'a>(&'a self, group: &'a Group) -> LocalBoxFuture<'a, Result<Lag, Unsubscribed>>;

    /// Forgets a group, its position and what is before it; the topic stays. One that is not there is forgotten.
    ///
    /// # Errors
    /// That it may still be there.
    fn forget<'a>(&'a self, group: &'a Group) -> LocalBoxFuture<'a, Result<(), Unsubscribed>>;

    /// Deletes what stands at a [place](Delivered::place) of a topic, for all. Where a topic is a queue, and what is
    /// acknowledged is gone, there is nothing to do.
    ///
    /// # Errors
    /// That it may still be there.
    fn discard<'a>(
        &'a self,
        topic: &'a str,
        place: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), Unsubscribed>>;

    /// Whether there is a connection.
    fn is_connected(&self) -> bool;
}

/// A group: those that share what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What it is known by.
    pub name: String,
    /// What it is delivered.
    pub topic: String,
    /// Where it starts, if it is not there yet.
    pub start: Start,
    /// Whether topic and group may be created, and the group's bounds be set.
    pub create: bool,
    /// In order: one member at a time is delivered anything, at most so many that are not acknowledged.
    pub window: Option<usize>,
    /// It is delivered what the topic holds of itself. Where that is a queue, what is acknowledged is gone from it for
    /// everybody: [`Queue::takes`].
    pub kept: bool,
}

/// Where a group starts when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    New,
    /// With the first that is still held.
    Earliest,
    /// With the first that came then or later.
    Time(SystemTime),
    /// With that of this place, or the next one that is still held: of NATS the number in the stream, and zero; of Redis both
    /// numbers of the id.
    Place(u64, u64),
}

/// Where a topic is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// As a new group.
    Start(Start),
    /// Behind the message that stands there ([`Read::place`]).
    Place(String),
}

/// A message that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where it stands in its topic.
    pub place: String,
    /// What was published.
    pub message: Message,
}

/// One who reads a topic.
pub trait Reader {
    /// Where it reads: behind the message that stands there.
    fn place(&self) -> String;

    /// Waits for messages, a few at most. None when none came for some seconds. One that is given up loses nothing.
    ///
    /// # Errors
    /// That no more will come here.
    fn next(&mut self) -> LocalBoxFuture<'_, Result<Vec<Read>, Lost>>;
}

/// How much a group has before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// How many messages were not delivered yet.
    pub waiting: u64,
    /// How many were, and are not acknowledged: also those that were given back.
    pub unacknowledged: u64,
    /// How many of these were delivered more than once, where the broker keeps an order.
    pub again: u64,
}

/// A member's place in a group.
///
/// What it has asked for goes on coming while it is not pulled: whoever stops pulling leaves, or drops it.
pub trait Queue {
    /// Waits for messages, at most `most`. None when none came for some seconds, so that whoever pulls
    /// can look at other things. A pull that is given up loses nothing: the next one hands it out.
    ///
    /// # Errors
    /// That no more will come here.
    fn pull(&mut self, most: usize) -> LocalBoxFuture<'_, Result<Vec<Box<dyn Delivered>>, Lost>>;

    /// From now on who pulls is told at once that there is nothing, where the broker can say so.
    fn hurry(&mut self) {}

    /// Whether the next pull is a question to the broker, which had better be for several messages.
    fn would_ask(&self) -> bool {
        false
    }

    /// Whether it is the one member that the broker delivers to, as far as it was told; of a group in order.
    fn is_chosen(&self) -> bool {
        false
    }

    /// How much is before the group, all of its members together.
    ///
    /// # Errors
    /// That the broker does not say.
    fn lag(&mut self) -> LocalBoxFuture<'_, Result<Lag, Lost>>;

    /// Whether what is acknowledged is gone for everybody, and not only for this group.
    fn takes(&self) -> bool {
        false
    }

    /// Gives back what came and was not handed out, so that others need not wait for its lease to end, and is
    /// delivered nothing any more: nothing is to be pulled after that. What the broker does not hear comes again
    /// when its lease ends, as it does when a queue is dropped.
    fn leave(&mut self) -> LocalBoxFuture<'_, ()>;
}

/// A message that was delivered. To drop it is to let its lease end.
pub trait Delivered {
    /// What was published.
    fn message(&self) -> &Message;

    /// Which delivery this is, from 1, as the broker counts.
    fn attempt(&self) -> u32;

    /// Where it stands in its topic: no other one ever stands there.
    fn place(&self) -> String;

    /// The same as a number: what was published later has a greater one, in brokers that keep an order.
    fn position(&self) -> u128;

    /// When the broker got it, if it says.
    fn published(&self) -> Option<SystemTime>;

    /// For how long it is nobody else's, from when it was handed out or from the last `extend`.
    fn lease(&self) -> Duration;

    /// Whether it is nobody else's for now: its lease has not ended, as far as the broker has confirmed.
    fn is_ours(&self) -> bool;

    /// Begins the lease anew; returns once the broker has confirmed it.
    ///
    /// # Errors
    /// That nobody confirmed.
    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>>;

    /// Done; returns once the broker has confirmed it. One that is killed just then may forget that,
    /// and deliver it again.
    ///
    /// # Errors
    /// That nobody confirmed: it may come again.
    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>>;

    /// To be delivered again after so long. Nobody confirms that: if the broker does not hear it, it
    /// comes again when the lease ends.
    ///
    /// # Errors
    /// That the broker can't be told.
    fn give_back(&self, after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>>;
}

/// Whether a broker's version is the first that will do, or a later one.
///
/// # Errors
/// That it is not, or that nobody can read it.
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
fn is_new_enough(
    version: &str,
    (major, minor, needed): (u32, u32, &'static str),
) -> Result<(), Unsubscribed> {
    match numbers(version) {
        Some(version) if version >= (major, minor) => Ok(()),
        _ => Err(Unsubscribed::TooOld {
            version: version.to_owned(),
            needed,
        }),
    }
}

/// The first two numbers of a version.
#[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(all(test, feature = "nats"))]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_carried_out_is_told_with_its_broker_or_field() {
        let never = Group {
            name: "takers".to_owned(),
            topic: "stock".to_owned(),
            start: Start::New,
            create: false,
            window: None,
            kept: false,
        };
        let told = |why: Unsubscribed, group: &Group| why.told("events", group);
        let make = "with manage: Never it is not made: make it at the broker events, or write manage: CreateIfMissing";
        let said = format!("spec.source.broker.topic: {make}; nothing there holds the topic stock");
        assert_eq!(told(Unsubscribed::MissingTopic, &never), said);
        let said =
            format!("spec.source.broker.consumerGroup: {make}; it does not know the group takers");
        assert_eq!(told(Unsubscribed::MissingGroup, &never), said);
        let away = Unsubscribed::Away("it is silent".to_owned());
        let said = "broker events: the broker is away: it is silent";
        assert_eq!(told(away, &never), said);
        let made = Group {
            create: true,
            ..never
        };
        let said = "broker events: nothing at the broker holds this topic";
        assert_eq!(told(Unsubscribed::MissingTopic, &made), said);
        let target = Unsubscribed::Lacking("no key".to_owned());
        let said = "what its target asks for can't be had: no key";
        assert_eq!(told(target, &made), said);
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, found) in [
            ("3.10.8", Some((3, 10))),
            ("4.2.0-rc.1", Some((4, 2))),
            ("3.9", Some((3, 9))),
            ("3", None),
            ("", None),
            ("x.y", None),
        ] {
            assert_eq!(numbers(version), found, "{version}");
            let is_one = found.is_some_and(|found| found >= (3, 10));
            assert_eq!(
                is_new_enough(version, (3, 10, "3.10")).is_ok(),
                is_one,
                "{version}"
            );
        }
    }
}
