//! NATS, with JetStream: a topic is a subject that a stream holds, a group is a durable pull consumer.
//!
//! Why not the crate's own JetStream: what it asks JetStream for leaves nothing behind when it is
//! answered, and does otherwise; each of its batches and of its confirmed acknowledgements subscribes
//! anew; and what it reads of a configuration is less than what it would write back. JetStream is
//! asked in JSON, which is all that is needed.

mod consumer;
mod delivery;
pub mod guard;
pub mod guarded;
mod json;
mod link;
mod queue;
mod reader;
pub mod upgrade;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Subject};
use futures::future::{FutureExt as _, LocalBoxFuture};
use serde_json::{Value, json};

pub use link::{Address, Credentials};

use super::{
    Broker, Group, Lag, Message, Queue, Reader, Since, Unpublished, Unsubscribed, is_new_enough,
};
use crate::policy::load_balancer::hash::of_text;
use consumer::same;
use json::{Answer, Failure, Held};
use link::{Link, Unanswered};

/// How long JetStream may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// For how long a message is nobody else's.
const LEASE: Duration = Duration::from_secs(30);
/// How long a stream that we create tells duplicates.
const DUPLICATES: Duration = Duration::from_secs(2 * 60);
/// The first version whose consumers can do what is asked of them, and the first that delivers to one
/// member at a time.
const NEEDED: (u32, u32, &str) = (2, 10, "2.10");
const NEEDED_IN_ORDER: (u32, u32, &str) = (2, 11, "2.11");
/// What the members of a group in order are called.
const IN_ORDER: &str = "ordered";
/// The longest name of a topic or a group, in bytes: a stream's or a consumer's may have 255.
const NAME: usize = 200;
/// The header by which JetStream tells duplicates.
const ID: &str = "Nats-Msg-Id";
/// What headers begin with that tell JetStream to do something.
const ITS_OWN: &str = "nats-";

/// The codes of JetStream's refusals that are told apart.
mod code {
    pub(super) const CONSUMER_NOT_FOUND: u64 = 10_014;
    pub(super) const NO_MESSAGE: u64 = 10_037;
    pub(super) const STREAM_NAME_IN_USE: u64 = 10_058;
    pub(super) const STREAM_NOT_FOUND: u64 = 10_059;
    pub(super) const CONSUMER_EXISTS: u64 = 10_148;
}

/// A NATS that is connected to, and again whenever the connection breaks.
pub struct Nats {
    link: Rc<Link>,
    lease: Duration,
    /// Of groups in order: by what this one is known as the member that is delivered to.
    pins: Rc<RefCell<HashMap<String, String>>>,
}

/// Whether something may be a topic: words between dots, of visible ASCII characters, none of them a
/// wildcard, and not the broker's own.
pub fn is_topic(name: &str) -> bool {
    let may_be = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>');
    name.len() <= NAME
        && !name.starts_with('$')
        && name
            .split('.')
            .all(|word| !word.is_empty() && word.chars().all(may_be))
}

// === impl Nats ===

impl Nats {
    /// Connects in the background, for as long as this is held or a queue of it; returns at once.
    ///
    /// # Errors
    /// That it will never be connected.
    pub async fn open(address: Address) -> Result<Self, Unsubscribed> {
        Self::open_with_lease(address, LEASE).await
    }

    /// As [`Nats::open`], with another lease of the groups that are created: tests wait for its end.
    #[doc(hidden)]
    pub async fn open_with_lease(address: Address, lease: Duration) -> Result<Self, Unsubscribed> {
        let link = Link::open(address).await.map_err(Unsubscribed::Refused)?;
        let link = Rc::new(link);
        let pins = Rc::default();
        Ok(Self { link, lease, pins })
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
        let headers = written(&message.headers, id).map_err(refused)?;
        let max = self.link.client.max_payload();
        let length = length(&headers) + message.data.len();
        if self.link.is_connected() && length > max {
            return Err(Unpublished::TooLarge { max });
        }
        let subject = Subject::from(topic);
        let asked = self.link.ask(subject, headers, message.data, patience);
        let answer = asked.await.map_err(|why| match why {
            Unanswered::Away(_) => Unpublished::Away,
            Unanswered::Nobody => Unpublished::UnknownTopic,
            Unanswered::TooLong => Unpublished::TooLarge { max },
            Unanswered::Refused(why) => Unpublished::Refused(why),
            Unanswered::Unknown(why) => Unpublished::Unconfirmed(why.to_owned()),
        })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Answer::Good(Held { duplicate, .. })) => Ok(duplicate),
            Ok(Answer::Bad { error }) => Err(Unpublished::Refused(error.to_string())),
            // Somebody else listens there, and no stream does.
            Err(_) => Err(Unpublished::UnknownTopic),
        }
    }

    /// Asks JetStream.
    async fn ask(&self, what: &str, body: &Value) -> Result<Result<Value, Failure>, Unsubscribed> {
        json::ask(&self.link, what, body, ANSWER).await
    }

    /// The name of the stream that holds a topic.
    async fn stream_of(&self, topic: &str) -> Result<Option<String>, Unsubscribed> {
        let found = self
            .ask("STREAM.NAMES", &json!({ "subject": topic }))
            .await?;
        let found = found.map_err(refused)?;
        let name = found.pointer("/streams/0").and_then(Value::as_str);
        Ok(name.map(str::to_owned))
    }

    async fn create(&self, topic: &str) -> Result<String, Unsubscribed> {
        if let Some(stream) = self.stream_of(topic).await? {
            return Ok(stream);
        }
        let name = named(
            topic,
            |c| c.is_ascii_alphanumeric() || "-_".contains(c),
            true,
        );
        // No limits: whoever wants some creates the stream. With limits that somebody sets later, what
        // was confirmed stays, and what is new is refused.
        let wanted = json!({
            "name": name,
            "subjects": [topic],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "max_age": 0,
            "num_replicas": 1,
            "duplicate_window": nanos(DUPLICATES),
        });
        let created = self.ask(&format!("STREAM.CREATE.{name}"), &wanted).await?;
        let stream = match created {
            // Another may have created it meanwhile, in another way.
            Err(failure) if failure.err_code == code::STREAM_NAME_IN_USE => {
                let there = self.ask(&format!("STREAM.INFO.{name}"), &json!({})).await?;
                there.map_err(refused)?
            }
            created => created.map_err(refused)?,
        };
        let compared = ["subjects", "storage", "retention", "duplicate_window"];
        same(&stream["config"], &wanted, &compared)?;
        Ok(name)
    }

    async fn join(&self, group: &Group) -> Result<Box<dyn Queue>, Unsubscribed> {
        may_be_topic(&group.topic)?;
        if group.name.is_empty() {
            return Err(Unsubscribed::Refused("the group has no name".to_owned()));
        }
        let needed = match group.window {
            None => NEEDED,
            Some(_) => NEEDED_IN_ORDER,
        };
        is_new_enough(&self.version()?, needed)?;
        let stream = match self.stream_of(&group.topic).await? {
            Some(stream) => stream,
            None if group.create => self.create(&group.topic).await?,
            None => return Err(Unsubscribed::MissingTopic),
        };
        let name = consumer_of(group);
        let config = self.consumer(&stream, &name, group).await?;
        let lease = Duration::from_nanos(config["ack_wait"].as_u64().unwrap_or_default());
        let pins = group.window.map(|_| self.pins.clone());
        let queue = queue::Pulled::open(self.link.clone(), (stream, name), lease, pins).await;
        Ok(Box::new(queue.map_err(Unsubscribed::Away)?))
    }

    async fn lag_of(&self, group: &Group) -> Result<Lag, Unsubscribed> {
        may_be_topic(&group.topic)?;
        let stream = self.stream_of(&group.topic).await?;
        let stream = stream.ok_or(Unsubscribed::MissingTopic)?;
        let what = format!("CONSUMER.INFO.{stream}.{}", consumer_of(group));
        let info = match self.ask(&what, &json!({})).await? {
            Ok(info) => info,
            Err(failure) if failure.err_code == code::CONSUMER_NOT_FOUND => {
                return Err(Unsubscribed::MissingGroup);
            }
            Err(failure) => return Err(refused(failure)),
        };
        let unsaid = || Unsubscribed::Refused("the broker does not say".to_owned());
        queue::counted(&info).ok_or_else(unsaid)
    }

    async fn forgotten(&self, group: &Group) -> Result<(), Unsubscribed> {
        may_be_topic(&group.topic)?;
        let Some(stream) = self.stream_of(&group.topic).await? else {
            return Ok(());
        };
        let what = format!("CONSUMER.DELETE.{stream}.{}", consumer_of(group));
        match self.ask(&what, &json!({})).await? {
            Err(failure) if failure.err_code == code::CONSUMER_NOT_FOUND => Ok(()),
            answer => answer.map(drop).map_err(refused),
        }
    }

    async fn discarded(&self, topic: &str, place: &str) -> Result<(), Unsubscribed> {
        may_be_topic(topic)?;
        let stream = self.stream_of(topic).await?;
        let stream = stream.ok_or(Unsubscribed::MissingTopic)?;
        let no_place = |_| Unsubscribed::Refused("this is no place".to_owned());
        let place = place.parse::<u64>().map_err(no_place)?;
        let what = format!("STREAM.MSG.DELETE.{stream}");
        let body = json!({ "seq": place, "no_erase": true });
        match self.ask(&what, &body).await? {
            Err(failure) if failure.err_code == code::NO_MESSAGE => Ok(()),
            answer => answer.map(drop).map_err(refused),
        }
    }

    fn version(&self) -> Result<String, Unsubscribed> {
        let info = self.link.client.try_server_info();
        // It says so a moment after it is connected.
        let info = info.filter(|_| self.link.is_connected());
        let away = || Unsubscribed::Away(self.link.why_away());
        info.map(|info| info.version).ok_or_else(away)
    }
}

impl Broker for Nats {
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
        let create = async move {
            may_be_topic(topic)?;
            self.create(topic).await.map(drop)
        };
        create.boxed_local()
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
        self.forgotten(group).boxed_local()
    }

    fn discard<'a>(
        &'a self,
        topic: &'a str,
        place: &'a str,
    ) -> LocalBoxFuture<'a, Result<(), Unsubscribed>> {
        self.discarded(topic, place).boxed_local()
    }

    fn is_connected(&self) -> bool {
        self.link.is_connected()
    }
}

/// The name of a group's consumer.
fn consumer_of(group: &Group) -> String {
    let may_be = |c: char| c.is_ascii_graphic() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
    named(&group.name, may_be, false)
}

fn may_be_topic(topic: &str) -> Result<(), Unsubscribed> {
    let refused = || Unsubscribed::Refused("the name of the topic can't be one".to_owned());
    is_topic(topic).then_some(()).ok_or_else(refused)
}

/// Headers as the crate writes them, which panics at what it can't.
fn written(headers: &[(String, String)], id: Option<&str>) -> Result<HeaderMap, &'static str> {
    let mut map = HeaderMap::new();
    let value = |value: &str| match value.chars().any(char::is_control) {
        true => Err("a header has a control character"),
        false => value
            .parse::<HeaderValue>()
            .map_err(|_| "a header can't be written"),
    };
    for (name, text) in headers {
        // One of these can purge a stream.
        let its_own = name.get(..ITS_OWN.len());
        if its_own.is_some_and(|begin| begin.eq_ignore_ascii_case(ITS_OWN)) {
            return Err("a header is the broker's own");
        }
        let parsed = name.parse::<HeaderName>();
        let parsed = parsed.ok().filter(|_| !name.is_empty());
        map.append(
            parsed.ok_or("the name of a header can't be one")?,
            value(text)?,
        );
    }
    if let Some(id) = id {
        map.insert(HeaderName::from_static(ID), value(id)?);
    }
    Ok(map)
}

/// How many bytes headers are, as they are sent.
fn length(headers: &HeaderMap) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let lines = headers.iter().map(|(name, values)| {
        let lengths = values.iter().map(|value| value.as_str().len() + 4);
        lengths.sum::<usize>() + values.len() * AsRef::<str>::as_ref(name).len()
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

fn refused(failure: Failure) -> Unsubscribed {
    Unsubscribed::Refused(failure.to_string())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A name that JetStream takes: with `_` for what may not be in one, and then, so that no two meet,
/// with a hash of what it was.
fn named(text: &str, may_be: impl Fn(char) -> bool, always: bool) -> String {
    let kept = |c: char| if may_be(c) { c } else { '_' };
    let name = String::from_iter(text.chars().take(NAME).map(kept));
    match name == text && !always {
        true => name,
        false => format!("{name}-{:016x}", of_text(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_words_between_dots() {
        for good in ["orders", "orders.placed", "a-b_c.D/1", "_a"] {
            assert!(is_topic(good), "{good}");
        }
        let long = "a".repeat(NAME + 1);
        for bad in [
            "", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "$JS.API", "a\r\nb", "ä", &long,
        ] {
            assert!(!is_topic(bad), "{bad}");
        }
    }

    #[test]
    fn names_that_are_changed_never_meet() {
        let of = |text: &str| named(text, |c| c.is_ascii_alphanumeric(), false);
        assert_eq!(of("billing"), "billing");
        // It is what members of other versions compute as well.
        assert_eq!(of("a.b"), "a_b-9a7f24d24ce83a4e");
        assert_ne!(of("a.b"), of("a*b"));
        assert_ne!(of(&"a".repeat(300)), of(&"a".repeat(301)));
        assert!(of(&"a".repeat(300)).len() < 255);
    }

    #[test]
    fn a_header_that_would_tell_the_broker_something_is_refused() {
        let of = |name: &str, value: &str| written(&[(name.to_owned(), value.to_owned())], None);
        assert!(of("ce-id", "a b").is_ok());
        for (name, value) in [
            ("a", "b\r\nNats-Rollup: all"),
            ("a", "b\rc"),
            ("a\r\nb", "c"),
            ("a: b", "c"),
            ("", "c"),
            ("Nats-Rollup", "all"),
            ("nats-msg-id", "1"),
        ] {
            assert!(of(name, value).is_err(), "{name:?}: {value:?}");
        }
        assert!(written(&[], Some("a\nb")).is_err());
    }
}
