//! RabbitMQ, over AMQP 0-9-1: a topic is an exchange, a group is a quorum queue that is bound to it.
//!
//! | what | named | is |
//! |---|---|---|
//! | topic | as the topic | a durable exchange, of type fanout if we make it |
//! | group | `topic/group` | a durable quorum queue, bound to the exchange |
//! | what a topic holds of itself | as the topic | a durable quorum queue, bound to the exchange |
//! | what comes again later | `topic/group#5s` | a durable quorum queue that the broker empties into the group's |
//!
//! An exchange holds nothing: what is published while nothing is bound to it is returned, and is told to
//! be of an unknown topic. So a group gets what is published once it is there, and where it starts can't
//! be chosen. RabbitMQ tells no duplicates.
//!
//! Other programs publish to the exchange by any routing key, and read a queue that they bind to it. An
//! exchange of another type that somebody has made will do where nothing is to be created: it is
//! published to with the topic as the routing key.
//!
//! The broker counts how often a queue has delivered a message, and starts anew when that comes from another
//! queue: so what is given back for later says how often it was delivered before. What a member was sent and
//! had no time to look at counts as well.
//!
//! Publishing and delivering have a connection each: a broker that is short of memory or of disk reads
//! nothing from one that publishes, and is helped by acknowledgements.
//!
//! The crate has one thread of its own for each connection, which only it writes and reads with; all else
//! runs where the connection was opened ([`kit`]).

mod declare;
mod delay;
mod delivered;
mod guard;
mod guarded;
mod kit;
mod link;
mod message;
mod pipeline;
mod publisher;
mod queue;

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{FutureExt as _, LocalBoxFuture};

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

pub use link::Address;

use super::{Broker, Group, Lag, Message, Queue, Start, Unpublished, Unsubscribed, is_new_enough};
use crate::policy::load_balancer::hash::of_text;
use declare::{ANSWER, Declarer, No, quorum};
use delay::Delays;
use link::{ASKED, Link, lock};
use publisher::{Letter, Publisher, Sent};

/// The longest message, headers included, in bytes.
const MAX: usize = 8 * 1024 * 1024;
/// The first version whose quorum queues throw nothing away on its way from one to another.
const NEEDED: (u32, u32, &str) = (3, 10, "3.10");
/// The longest name of a topic and the longest part of a queue's that is a group's, in bytes: a queue's may
/// have 255.
const TOPIC: usize = 150;
const GROUP: usize = 80;
/// How often what is before a group is counted until it is looked for queues that others have made meanwhile, in which
/// messages wait.
const LOOKS: u32 = 10;

/// A RabbitMQ that is connected to, and again whenever the connection breaks.
pub struct RabbitMq {
    address: Address,
    publishing: Arc<Link>,
    publisher: Arc<Publisher>,
    /// Opened when somebody first joins.
    delivering: Mutex<Option<Arc<Link>>>,
    /// By the queues of groups: what is known of where their messages wait, and how often it was asked.
    counted: Mutex<HashMap<String, (Arc<Delays>, u32)>>,
    /// Who counts at once: as many as there are channels kept for that.
    counting: Semaphore,
}

/// Whether something may be a topic: visible ASCII characters other than `/`, and not the broker's own.
pub fn is_topic(name: &str) -> bool {
    let may_be = |c: char| c.is_ascii_graphic() && c != '/';
    !name.is_empty() && name.len() <= TOPIC && !name.starts_with("amq.") && name.chars().all(may_be)
}

// === impl RabbitMq ===

impl RabbitMq {
    /// Connects in the background, for as long as this is held or a queue of it; returns at once. It is called
    /// within a runtime.
    ///
    /// # Errors
    /// That it will never be connected.
    pub fn open(address: Address) -> Result<Self, Unsubscribed> {
        if address.virtual_host.len() > 255 {
            let why = "the name of the virtual host is too long";
            return Err(Unsubscribed::Refused(why.to_owned()));
        }
        let publishing = Arc::new(Link::open(address.clone(), "meshwright: publishes"));
        Ok(Self {
            address,
            publisher: Publisher::open(publishing.clone()),
            publishing,
            delivering: Mutex::default(),
            counted: Mutex::default(),
            counting: Semaphore::new(ASKED),
        })
    }

    /// What a topic holds of itself is never forgotten.
    async fn forgotten(&self, group: &Group) -> Result<(), Unsubscribed> {
        if group.kept {
            return Ok(());
        }
        let connected = self.publishing.wait(ANSWER).await;
        let connected = connected.map_err(Unsubscribed::Away)?;
        let deleted = Declarer::new(&connected).delete(&queue_of(group)).await;
        deleted.map_err(|no| no.unsubscribed(Unsubscribed::MissingGroup))
    }

    /// What is in the hands of members is not told by the broker.
    async fn lag_of(&self, group: &Group) -> Result<Lag, Unsubscribed> {
        may_be_topic(&group.topic)?;
        let name = queue_of(group);
        let (delays, looks) = {
            let mut counted = lock(&self.counted);
            let new = || (Arc::new(Delays::new(name.clone(), false)), 0);
            let (delays, asked) = counted.entry(name.clone()).or_insert_with(new);
            *asked = asked.wrapping_add(1);
            (delays.clone(), *asked % LOOKS == 1)
        };
        let connected = self.publishing.wait(ANSWER).await;
        let connected = connected.map_err(Unsubscribed::Away)?;
        // Thousands that each opened a channel for it would cost the broker and us more than the question.
        let turn = timeout(ANSWER, self.counting.acquire()).await;
        let late = || Unsubscribed::Away("there was no answer in time".to_owned());
        let _turn = turn.map_err(|_| late())?.map_err(|_| late())?;
        let mut declarer = Declarer::new(&connected);
        let counting = async {
            let waiting = declarer.count(&name).await?;
            let unacknowledged = delays.waiting(&mut declarer, looks).await?;
            Ok(Lag {
                waiting,
                unacknowledged,
                again: 0,
            })
        };
        let counted = counting.await;
        declarer.leave();
        counted.map_err(|no: No| no.unsubscribed(Unsubscribed::MissingGroup))
    }

    fn delivering(&self) -> Arc<Link> {
        let mut link = lock(&self.delivering);
        let open = || Link::open(self.address.clone(), "meshwright: delivers");
        link.get_or_insert_with(|| Arc::new(open())).clone()
    }

    async fn hold(
        &self,
        topic: &str,
        id: Option<&str>,
        message: Message,
        patience: Duration,
    ) -> Result<bool, Unpublished> {
        let refused = |why: &str| Unpublished::Refused(why.to_owned());
        if !is_topic(topic) {
            return Err(refused("the name of its topic can't be one"));
        }
        let (until, place) = (Instant::now() + patience, rand::random());
        let mut may_be_held = false;
        loop {
            let (properties, length) = message::written(&message, id, place).map_err(refused)?;
            if length + message.data.len() > MAX {
                return Err(Unpublished::TooLarge { max: MAX });
            }
            // They are in one frame, and the broker ends a connection on which one is longer.
            if length > self.publisher.longest_properties() {
                return Err(refused("its headers are too long"));
            }
            let letter = Letter {
                exchange: topic,
                key: topic,
                properties,
                data: message.data.clone(),
            };
            match self.publisher.publish(letter, until).await {
                Ok(Sent::Held) => return Ok(false),
                Ok(Sent::Unknown) => may_be_held = true,
                // It may be from before, whatever is told of it now.
                Err(why) if may_be_held => return Err(Unpublished::Unconfirmed(why.to_string())),
                Err(why) => return Err(why),
            }
        }
    }

    /// Makes the exchange, and a queue that holds what is published there.
    async fn create(&self, topic: &str) -> Result<(), Unsubscribed> {
        may_be_topic(topic)?;
        let connected = self.publishing.wait(ANSWER).await;
        let connected = connected.map_err(Unsubscribed::Away)?;
        is_new_enough(&connected.version, NEEDED)?;
        let mut declarer = Declarer::new(&connected);
        let making = async {
            declarer.exchange(topic, true).await?;
            let arguments = quorum(&connected.version);
            match declarer.count(topic).await {
                Ok(_) => declarer.queue(topic, arguments).await?,
                Err(No::Missing) => declarer.settled(topic, arguments).await?,
                Err(no) => return Err(no),
            }
            declarer.bind(topic, topic).await
        };
        let made = making.await;
        made.map_err(|no: No| no.unsubscribed(Unsubscribed::MissingTopic))
    }

    /// Makes the exchange.
    async fn declare(&self, topic: &str) -> Result<(), Unsubscribed> {
        may_be_topic(topic)?;
        let connected = self.publishing.wait(ANSWER).await;
        let connected = connected.map_err(Unsubscribed::Away)?;
        is_new_enough(&connected.version, NEEDED)?;
        let made = Declarer::new(&connected).exchange(topic, true).await;
        made.map_err(|no| no.unsubscribed(Unsubscribed::MissingTopic))
    }

    async fn joined(&self, group: &Group) -> Result<Box<dyn Queue>, Unsubscribed> {
        may_be_topic(&group.topic)?;
        if group.window.is_some() {
            return Err(Unsubscribed::Refused("it keeps no order here".to_owned()));
        }
        if group.name.is_empty() {
            return Err(Unsubscribed::Refused("the group has no name".to_owned()));
        }
        let link = self.delivering();
        let connected = link.wait(ANSWER).await.map_err(Unsubscribed::Away)?;
        is_new_enough(&connected.version, NEEDED)?;
        let mut declarer = Declarer::new(&connected);
        let name = queue_of(group);
        match group.kept {
            true => {
                let there = declarer.count(&name).await;
                there.map_err(|no| no.unsubscribed(Unsubscribed::MissingTopic))?;
            }
            false => see_to(&mut declarer, group, &name).await?,
        }
        let channel = declarer.channel().await;
        let channel = channel.map_err(|no| no.unsubscribed(Unsubscribed::MissingGroup))?;
        let member = queue::Member {
            _link: link,
            publisher: self.publisher.clone(),
            channel,
            delays: Delays::new(name.clone(), group.create),
            takes: group.kept,
            queue: name,
            unique: rand::random(),
            unsettled: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            holds: Notify::new(),
            connected: connected.clone(),
        };
        Ok(Box::new(queue::Pulled::new(Arc::new(member))))
    }
}

/// Sees that exchange and queue of a group are there and as they are wanted, and makes them if they may be made.
async fn see_to(
    declarer: &mut Declarer<'_>,
    group: &Group,
    name: &str,
) -> Result<(), Unsubscribed> {
    let exchange = declarer.exchange(&group.topic, group.create).await;
    exchange.map_err(|no| no.unsubscribed(Unsubscribed::MissingTopic))?;
    let missing = |no: No| no.unsubscribed(Unsubscribed::MissingGroup);
    let is_there = match declarer.count(name).await {
        Ok(_) => true,
        Err(No::Missing) if group.create && group.start != Start::New => {
            let why = "RabbitMQ holds nothing for a group that is not there yet: a new one can only start with what \
                       is new";
            return Err(Unsubscribed::Refused(why.to_owned()));
        }
        Err(No::Missing) if group.create => false,
        Err(no) => return Err(missing(no)),
    };
    let arguments = quorum(declarer.version());
    let made = match is_there {
        true => declarer.queue(name, arguments).await,
        false => declarer.settled(name, arguments).await,
    };
    match made {
        // Who may make nothing is not told whether it is as it should be.
        Err(No::Refused(_)) if !group.create => return Ok(()),
        seen => seen.map_err(missing)?,
    }
    match group.create {
        true => declarer.bind(name, &group.topic).await.map_err(missing),
        false => Ok(()),
    }
}

impl Broker for RabbitMq {
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        id: Option<&'a str>,
        message: Message,
        patience: Duration,
    ) -> LocalBoxFuture<'a, Result<bool, Unpublished>> {
        self.hold(topic, id, message, patience).boxed_local()
    }

    fn create_topic<'a>(&'a self, topic: &'a str) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        self.create(topic).boxed_local()
    }

    fn declare_topic<'a>(&'a self, topic: &'a str) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        self.declare(topic).boxed_local()
    }

    fn join<'a>(
        &'a self,
        group: &'a Group,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Queue>, Unsubscribed>> {
        self.joined(group).boxed_local()
    }

    fn lag<'a>(&'a self, group: &'a Group) -> LocalBoxFuture<'a, Result<Lag, Unsubscribed>> {
        self.lag_of(group).boxed_local()
    }

    fn forget<'a>(&'a self, group: &'a Group) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        self.forgotten(group).boxed_local()
    }

    fn discard<'a>(
        &'a self,
        _topic: &'a str,
        _place: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        ready(Ok(())).boxed_local()
    }

    fn is_connected(&self) -> bool {
        self.publisher.is_connected()
    }
}

fn may_be_topic(topic: &str) -> Result<(), Unsubscribed> {
    let refused = || Unsubscribed::Refused("the name of the topic can't be one".to_owned());
    is_topic(topic).then_some(()).ok_or_else(refused)
}

/// The name of a group's queue. A topic has no `/`, and what follows one here no `#`: no two groups have one queue, and none
/// has that of a delay.
fn queue_of(group: &Group) -> String {
    if group.kept {
        return group.topic.clone();
    }
    let kept = |c: char| match c.is_ascii_graphic() && c != '#' {
        true => c,
        false => '_',
    };
    let text = &group.name;
    let name = String::from_iter(text.chars().take(GROUP).map(kept));
    match name == *text {
        true => format!("{}/{name}", group.topic),
        false => format!("{}/{name}-{:016x}", group.topic, of_text(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_made_of_visible_characters() {
        for good in ["orders", "orders.placed", "Contracts:Placed", "a-b_c.D"] {
            assert!(is_topic(good), "{good}");
        }
        let long = "a".repeat(TOPIC + 1);
        for bad in ["", "a b", "a/b", "amq.fanout", "a\r\nb", "ä", &long] {
            assert!(!is_topic(bad), "{bad}");
        }
    }

    #[test]
    fn no_two_groups_have_one_queue() {
        let of = |name: &str| {
            queue_of(&Group {
                name: name.to_owned(),
                topic: "orders".to_owned(),
                start: Start::New,
                create: true,
                window: None,
                kept: false,
            })
        };
        assert_eq!(of("shop/billing"), "orders/shop/billing");
        // It is what members of other versions compute as well.
        assert_eq!(of("a#5s"), "orders/a_5s-3a02ad29f2958533");
        assert_ne!(of("a b"), of("a#b"));
        let long = "a".repeat(300);
        assert_ne!(of(&long), of(&long[1..]));
        // As long as a topic may be, the queue of a delay still has a name.
        let longest = of(&long).len() - "orders".len() + TOPIC + "#3450s".len();
        assert!(longest <= 255, "{longest}");
    }
}
