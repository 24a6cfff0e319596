//! Redis, with its streams: a topic is the stream of its name, a group is a consumer group of it.
//!
//! Anybody may add to a stream and read from it. What else there is of a topic stands beside it, all
//! in one hash slot: `meshwright:id:{topic}:<id>`, for as long as duplicates are told, and
//! `meshwright:leases:{topic}:<group>`. Redis Cluster is not supported: nobody is followed elsewhere.

mod entry;
mod link;
mod queue;
mod reader;
mod reply;
mod script;
mod wake;

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::future::{FutureExt as _, LocalBoxFuture};
use redis::Value;
use tokio::sync::Notify;

pub use link::{Address, Durability};

use super::{
    Broker, Group, Lag, Message, Queue, Reader, Since, Start, Unpublished, Unsubscribed,
    is_new_enough,
};
use entry::Unwritten;
use link::{Link, Unanswered};
use script::{CREATE, DISCARD, FORGET, JOIN, LAG, PUBLISH};

/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// For how long a message is nobody else's.
const LEASE: Duration = Duration::from_secs(30);
/// For how many seconds duplicates are told.
const DUPLICATES: &str = "120";
/// The first version whose streams can do what is asked of them.
const NEEDED: (u32, u32, &str) = (6, 2, "6.2");
/// The longest name of a topic, and of a group, in bytes.
const NAME: usize = 200;
const GROUP: usize = 512;
/// The longest id by which duplicates are told, in bytes.
const ID: usize = 1_024;
/// What keys begin with that are ours, and what names of members do.
const OURS: &str = "meshwright:";
const MEMBER: &str = "meshwright-";
/// For how many leases a member was silent that has left, and how many are looked at.
const LEFT: u32 = 10;
const MEMBERS: &str = "1000";

/// A Redis that is connected to, and again whenever the connection breaks.
pub struct Redis {
    link: Rc<Link>,
    lease: Duration,
}

/// Whether something may be a topic: visible ASCII characters without braces, which mark what belongs
/// to a topic, and not a key of ours.
pub fn is_topic(name: &str) -> bool {
    let may_be = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
    (1..=NAME).contains(&name.len()) && !name.starts_with(OURS) && name.bytes().all(may_be)
}

// === impl Redis ===

impl Redis {
    /// Connects in the background, for as long as this is held or a queue of it; returns at once.
    ///
    /// # Errors
    /// None: whoever can't be connected to is away.
    pub async fn open(address: Address) -> Result<Self, Unsubscribed> {
        Self::open_with_lease(address, LEASE).await
    }

    /// As [`Redis::open`], with another lease: tests wait for its end.
    #[doc(hidden)]
    pub async fn open_with_lease(address: Address, lease: Duration) -> Result<Self, Unsubscribed> {
        let link = Rc::new(Link::open(address));
        Ok(Self { link, lease })
    }

    /// What it does against the loss of what it has confirmed.
    pub fn durability(&self) -> Durability {
        self.link.durability()
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
        if id.is_some_and(|id| id.len() > ID) {
            return Err(refused("its id is too long"));
        }
        let fields = entry::written(&message).map_err(|why| match why {
            Unwritten::TooLong => Unpublished::TooLarge {
                max: entry::LONGEST,
            },
            Unwritten::Refused(why) => refused(why),
        })?;
        let told = match id {
            Some(id) => {
                let remembers = format!("{OURS}id:{{{topic}}}:{id}");
                let arguments = [&[DUPLICATES.as_bytes()], &fields[..]].concat();
                let keys = [topic, &*remembers];
                let asked = self.link.run(&PUBLISH, &keys, &arguments, patience);
                asked.await.map(|answer| reply::number(&answer))
            }
            // The same without a script: nothing where there is no such key.
            None => {
                let asked = self.link.say(&script::add(topic, &fields), patience).await;
                asked.map(|answer| Some(if answer == Value::Nil { -1 } else { 0 }))
            }
        };
        let told = told.map_err(|why| match why {
            Unanswered::Away(_) => Unpublished::Away,
            Unanswered::Refused(why) => Unpublished::Refused(why.to_string()),
            Unanswered::Unknown(why) => Unpublished::Unconfirmed(why.to_owned()),
        })?;
        match told {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(2) => {
                tracing::debug!(topic, "the broker does not remember the id of an event");
                Ok(false)
            }
            Some(-1) => Err(Unpublished::UnknownTopic),
            _ => Err(Unpublished::Unconfirmed(
                "its answer can't be read".to_owned(),
            )),
        }
    }

    async fn create(&self, topic: &str) -> Result<(), Unsubscribed> {
        may_be_topic(topic)?;
        let created = self.link.run(&CREATE, &[topic], &[], ANSWER).await;
        created.map(drop).map_err(unsubscribed)
    }

    async fn join(&self, group: &Group) -> Result<Box<dyn Queue>, Unsubscribed> {
        may_be_topic(&group.topic)?;
        if group.window.is_some() {
            return Err(Unsubscribed::Refused("it keeps no order here".to_owned()));
        }
        if !(1..=GROUP).contains(&group.name.len()) {
            let why = "the name of the group can't be one";
            return Err(Unsubscribed::Refused(why.to_owned()));
        }
        let version = self.link.version().map_err(Unsubscribed::Away)?;
        is_new_enough(&version, NEEDED)?;
        let leases = leases_of(group);
        let create = if group.create { "1" } else { "0" };
        let start = after(group.start);
        let left = millis(self.lease.saturating_mul(LEFT)).to_string();
        let arguments = [&*group.name, create, &start, &left, MEMBERS, MEMBER].map(str::as_bytes);
        let keys = [&*group.topic, &*leases];
        let joined = self.link.run(&JOIN, &keys, &arguments, ANSWER).await;
        match reply::number(&joined.map_err(unsubscribed)?) {
            Some(-1) => return Err(Unsubscribed::MissingTopic),
            Some(-2) => return Err(Unsubscribed::MissingGroup),
            _ => {}
        }
        Ok(Box::new(queue::Pulled::new(queue::Member {
            link: self.link.clone(),
            topic: group.topic.clone(),
            group: group.name.clone(),
            leases,
            name: format!("{MEMBER}{:016x}", rand::random::<u64>()),
            lease: self.lease,
            returned: Notify::new(),
        })))
    }

    async fn lag_of(&self, group: &Group) -> Result<Lag, Unsubscribed> {
        may_be_topic(&group.topic)?;
        let arguments = [group.name.as_bytes(), queue::COUNTED.as_bytes()];
        let keys = [&*group.topic];
        let asked = self.link.run(&LAG, &keys, &arguments, ANSWER);
        let answer = asked.await.map_err(|why| match why {
            Unanswered::Refused(why) if why.code == "NOGROUP" => Unsubscribed::MissingGroup,
            // It says so of what is no stream, or is not there.
            Unanswered::Refused(why) if why.to_string().contains("no such key") => {
                Unsubscribed::MissingTopic
            }
            why => unsubscribed(why),
        })?;
        let unsaid = || Unsubscribed::Refused("the broker does not say".to_owned());
        queue::counted(answer).ok_or_else(unsaid)
    }
}

impl Broker for Redis {
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

    fn join<'a>(
        &'a self,
        group: &'a Group,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Queue>, Unsubscribed>> {
        self.join(group).boxed_local()
    }

    fn read<'a>(
        &'a self,
        topic: &'a str,
        since: &'a Since,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Reader>, Unsubscribed>> {
        self.reader(topic, since).boxed_local()
    }

    fn lag<'a>(&'a self, group: &'a Group) -> LocalBoxFuture<'a, Result<Lag, Unsubscribed>> {
        self.lag_of(group).boxed_local()
    }

    fn forget<'a>(&'a self, group: &'a Group) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        let forgetting = async move {
            may_be_topic(&group.topic)?;
            let leases = leases_of(group);
            let keys = [&*group.topic, &*leases];
            let arguments = [group.name.as_bytes()];
            let forgotten = self.link.run(&FORGET, &keys, &arguments, ANSWER);
            forgotten.await.map(drop).map_err(unsubscribed)
        };
        forgetting.boxed_local()
    }

    fn discard<'a>(
        &'a self,
        topic: &'a str,
        place: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        let discarding = async move {
            may_be_topic(topic)?;
            let (keys, arguments) = ([topic], [place.as_bytes()]);
            let discarded = self.link.run(&DISCARD, &keys, &arguments, ANSWER);
            discarded.await.map(drop).map_err(unsubscribed)
        };
        discarding.boxed_local()
    }

    fn is_connected(&self) -> bool {
        self.link.is_connected()
    }
}

/// The key of a group's leases.
fn leases_of(group: &Group) -> String {
    format!("{OURS}leases:{{{}}}:{}", group.topic, group.name)
}

fn may_be_topic(topic: &str) -> Result<(), Unsubscribed> {
    let refused = || Unsubscribed::Refused("the name of the topic can't be one".to_owned());
    is_topic(topic).then_some(()).ok_or_else(refused)
}

fn unsubscribed(why: Unanswered) -> Unsubscribed {
    match why {
        Unanswered::Away(why) => Unsubscribed::Away(why),
        Unanswered::Refused(why) => Unsubscribed::Refused(why.to_string()),
        Unanswered::Unknown(why) => Unsubscribed::Away(why.to_owned()),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The id after which a group starts.
fn after(start: Start) -> String {
    let (millis, number) = match start {
        Start::New => return "$".to_owned(),
        Start::Earliest => return "0".to_owned(),
        // What came in the same millisecond may have come then.
        Start::Time(time) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            (millis(since.unwrap_or_default()), 0)
        }
        Start::Place(millis, number) => (millis, number),
    };
    match (millis, number.checked_sub(1), millis.checked_sub(1)) {
        (millis, Some(before), _) => format!("{millis}-{before}"),
        (_, None, Some(before)) => format!("{before}-{}", u64::MAX),
        (_, None, None) => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_a_key_that_is_not_ours() {
        for good in [
            "orders",
            "orders.placed",
            "a:b",
            "a-b_c.D/1",
            "..",
            "$a",
            "*",
        ] {
            assert!(is_topic(good), "{good}");
        }
        let long = "a".repeat(NAME + 1);
        for bad in ["", "a b", "{a}", "a}", "meshwright:a", "a\r\nb", "ä", &long] {
            assert!(!is_topic(bad), "{bad}");
        }
    }

    #[test]
    fn a_group_starts_after_the_last_that_it_is_not_to_get() {
        let at = |nanos| {
            after(Start::Time(
                SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos),
            ))
        };
        assert_eq!(after(Start::New), "$");
        assert_eq!(after(Start::Earliest), "0");
        assert_eq!(at(0), "0");
        assert_eq!(at(5_300_000), "4-18446744073709551615");
        assert_eq!(after(Start::Place(5, 7)), "5-6");
        assert_eq!(after(Start::Place(5, 0)), "4-18446744073709551615");
        assert_eq!(after(Start::Place(0, 0)), "0");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(after(Start::Time(before)), "0");
    }
}
