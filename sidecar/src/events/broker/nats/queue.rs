//! A member of a group: what it asks for, and what it is delivered.
//!
//! JetStream sends what was asked for whenever it has it, long after whoever asked has been given the
//! first of it. So one inbox is kept for the member's whole life, and one request is under way at a
//! time: whatever comes of it, however late, comes to that inbox and is handed out from there, and
//! nothing more is asked for until the request is used up. No message is sent to where nobody reads.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{FutureExt as _, LocalBoxFuture};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::link::{Link, Unanswered};
use super::{ANSWER, ITS_OWN, json as api, nanos};
use crate::events::broker::{Delivered, Lag, Lost, Message, Queue};

/// How long a request waits at the broker for messages.
const WAITS: Duration = Duration::from_secs(5);
/// How much later it may be told that there were none. It needs no heartbeats: when that passes in
/// silence, nobody is there.
const SILENCE: Duration = Duration::from_secs(2);
/// The most that is asked for at once. As many, and what is said about them, have room in the inbox.
const MOST: usize = 1_024;
/// The part of a lease after which it is begun anew before a message is handed out.
const STALE: u32 = 4;

/// A member of a group.
pub(super) struct Pulled {
    link: Rc<Link>,
    stream: String,
    name: String,
    lease: Duration,
    /// Where it is asked for more.
    next: Subject,
    inbox: Subject,
    subscriber: Subscriber,
    /// Over which connection it was asked.
    number: u64,
    /// How many it was asked for and has not sent.
    outstanding: usize,
    /// When it is no longer waited for.
    until: Instant,
    /// When nothing was in the inbox last: what is in it came later.
    empty: Instant,
}

/// A message that was delivered.
struct Event {
    link: Rc<Link>,
    message: Message,
    /// Where it is acknowledged.
    reply: Subject,
    attempt: u32,
    /// In its stream.
    place: u64,
    published: Option<SystemTime>,
    lease: Duration,
}

// === impl Pulled ===

impl Pulled {
    /// Of this stream and consumer.
    pub(super) async fn open(
        link: Rc<Link>,
        (stream, name): (String, String),
        lease: Duration,
    ) -> Result<Self, String> {
        let inbox = Subject::from(link.client.new_inbox());
        let subscriber = link.client.subscribe(inbox.clone()).await;
        let next = Subject::from(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"));
        Ok(Self {
            stream,
            name,
            lease,
            next,
            inbox,
            subscriber: subscriber.map_err(|error| error.to_string())?,
            number: link.number(),
            outstanding: 0,
            until: Instant::now(),
            empty: Instant::now(),
            link,
        })
    }

    async fn messages(&mut self, most: usize) -> Result<Vec<Box<dyn Delivered>>, Lost> {
        let most = most.min(MOST);
        let mut found = Vec::new();
        self.take_ready(most, &mut found).await?;
        while found.is_empty() && most > 0 {
            // What was asked for over another connection will not come.
            if self.link.number() != self.number {
                return Err(Lost("the connection broke".to_owned()));
            }
            if self.outstanding == 0 {
                self.ask(most).await?;
            }
            let (broken, until) = (self.link.broken(), self.until);
            let first = tokio::select! {
                biased;
                first = self.subscriber.next() => first,
                () = broken => return Err(Lost("the connection broke".to_owned())),
                () = sleep_until(until) => return Err(Lost("the broker is silent".to_owned())),
            };
            let first = first.ok_or_else(|| Lost("the connection was closed".to_owned()))?;
            self.empty = Instant::now();
            let asked = self.outstanding > 0;
            self.sort(first, &mut found)?;
            // None came in time.
            if asked && self.outstanding == 0 && found.is_empty() {
                break;
            }
            self.take_ready(most, &mut found).await?;
        }
        Ok(found)
    }

    /// Asks for so many.
    async fn ask(&mut self, most: usize) -> Result<(), Lost> {
        let expires = nanos(WAITS);
        let body = Bytes::from(format!(r#"{{"batch":{most},"expires":{expires}}}"#));
        let told = self
            .link
            .tell(self.next.clone(), Some(self.inbox.clone()), body);
        told.await.map_err(Lost)?;
        self.outstanding = most;
        self.until = Instant::now() + WAITS + SILENCE;
        Ok(())
    }

    /// Takes what is there, without waiting.
    async fn take_ready(
        &mut self,
        most: usize,
        found: &mut Vec<Box<dyn Delivered>>,
    ) -> Result<(), Lost> {
        // What lay there for long has little of its lease left.
        let stale = self.empty.elapsed() > self.lease / STALE;
        while found.len() < most {
            let Some(next) = self.subscriber.next().now_or_never() else {
                self.empty = Instant::now();
                return Ok(());
            };
            let next = next.ok_or_else(|| Lost("the connection was closed".to_owned()))?;
            let before = found.len();
            self.sort(next, found)?;
            if let Some(late) = found.get(before).filter(|_| stale) {
                late.extend().await?;
            }
        }
        Ok(())
    }

    /// Tells a message from what is said about the request.
    fn sort(
        &mut self,
        said: async_nats::Message,
        found: &mut Vec<Box<dyn Delivered>>,
    ) -> Result<(), Lost> {
        // A status that somebody published with a message is not said about the request.
        let is_delivered = said
            .reply
            .as_ref()
            .and_then(|reply| delivery(reply.as_str()));
        match said.status.filter(|_| is_delivered.is_none()) {
            None | Some(StatusCode::OK) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                // What does not say where it is acknowledged was not sent by JetStream.
                if let Some(event) = self.event(said) {
                    found.push(Box::new(event));
                }
                Ok(())
            }
            Some(StatusCode::IDLE_HEARTBEAT) => Ok(()),
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => {
                self.outstanding = 0;
                Ok(())
            }
            Some(StatusCode::NO_RESPONDERS) => Err(Lost("the group is no more".to_owned())),
            Some(status) => {
                self.outstanding = 0;
                let why = said.description.unwrap_or_default();
                Err(Lost(format!("{} {why}", status.as_u16())))
            }
        }
    }

    fn event(&self, said: async_nats::Message) -> Option<Event> {
        let reply = said.reply?;
        let (attempt, place, published) = delivery(reply.as_str())?;
        let mut headers = Vec::new();
        for (name, values) in said.headers.iter().flat_map(HeaderMap::iter) {
            let name: &str = name.as_ref();
            let name = name.to_ascii_lowercase();
            // The broker's own are no part of what was published.
            if !name.starts_with(ITS_OWN) {
                let values = values.iter().map(|value| value.as_str().to_owned());
                headers.extend(values.map(|value| (name.clone(), value)));
            }
        }
        Some(Event {
            link: self.link.clone(),
            message: Message {
                headers,
                data: said.payload,
            },
            reply,
            attempt,
            place,
            published,
            lease: self.lease,
        })
    }

    async fn count(&self) -> Result<Lag, Lost> {
        let what = format!("CONSUMER.INFO.{}.{}", self.stream, self.name);
        let asked = api::ask(&self.link, &what, &json!({}), ANSWER).await;
        let answer = asked.map_err(|why| Lost(why.to_string()))?;
        let answer = answer.map_err(|failure| Lost(failure.to_string()))?;
        let number = |field: &str| answer.get(field).and_then(Value::as_u64);
        match (number("num_pending"), number("num_ack_pending")) {
            (Some(waiting), Some(unacknowledged)) => Ok(Lag {
                waiting,
                unacknowledged,
            }),
            _ => Err(Lost("the broker does not say".to_owned())),
        }
    }
}

impl Queue for Pulled {
    fn pull(&mut self, most: usize) -> LocalBoxFuture<'_, Result<Vec<Box<dyn Delivered>>, Lost>> {
        self.messages(most).boxed_local()
    }

    fn lag(&mut self) -> LocalBoxFuture<'_, Result<Lag, Lost>> {
        self.count().boxed_local()
    }
}

/// Which delivery it is, where it stands and when it was published, from where it is acknowledged:
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<sequence>.<nanoseconds>.<pending>`, with the
/// domain and the account before the stream if there are more parts, and perhaps more at its end.
fn delivery(reply: &str) -> Option<(u32, u64, Option<SystemTime>)> {
    let parts = Vec::from_iter(reply.strip_prefix("$JS.ACK.")?.split('.'));
    let parts = match parts.len() {
        7 => parts.get(2..)?,
        9.. => parts.get(4..)?,
        _ => return None,
    };
    let attempt = parts.first()?.parse::<u64>().ok()?;
    let place = parts.get(1)?.parse().ok()?;
    let published = parts.get(3)?.parse().ok().map(Duration::from_nanos);
    let published = published.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
    Some((u32::try_from(attempt).unwrap_or(u32::MAX), place, published))
}

// === impl Event ===

impl Event {
    async fn tell(&self, what: impl Into<Bytes>) -> Result<(), Lost> {
        let told = self.link.tell(self.reply.clone(), None, what.into());
        told.await.map_err(Lost)
    }

    async fn done(&self) -> Result<(), Lost> {
        let done = Bytes::from_static(b"+ACK");
        let asked = self
            .link
            .ask(self.reply.clone(), HeaderMap::new(), done, ANSWER);
        match asked.await {
            Ok(_) => Ok(()),
            Err(Unanswered::Nobody) => Err(Lost("the group is no more".to_owned())),
            Err(Unanswered::Away(why) | Unanswered::Refused(why)) => Err(Lost(why)),
            Err(Unanswered::Unknown(why)) => Err(Lost(why.to_owned())),
            Err(Unanswered::TooLong) => Err(Lost("the broker takes nothing".to_owned())),
        }
    }
}

impl Delivered for Event {
    fn message(&self) -> &Message {
        &self.message
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn place(&self) -> String {
        self.place.to_string()
    }

    fn published(&self) -> Option<SystemTime> {
        self.published
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.tell("+WPI").boxed_local()
    }

    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.done().boxed_local()
    }

    fn give_back(&self, after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>> {
        let delay = nanos(after);
        self.tell(format!(r#"-NAK {{"delay":{delay}}}"#))
            .boxed_local()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_says_which_it_is() {
        let at = |nanos| Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        for (reply, found) in [
            ("$JS.ACK.S.C.2.10.11.1500.0", Some((2, 10, at(1_500)))),
            (
                "$JS.ACK._.hash.S.C.3.10.11.1500.0",
                Some((3, 10, at(1_500))),
            ),
            (
                "$JS.ACK.d.hash.S.C.3.10.11.1500.0.token",
                Some((3, 10, at(1_500))),
            ),
            ("$JS.ACK.S.C.2.10", None),
            ("$JS.ACK.S.C.x.10.11.1500.0", None),
            ("_INBOX.a.b", None),
        ] {
            assert_eq!(delivery(reply), found, "{reply}");
        }
    }
}
