//! A member of a group: what it asks for, and what it is delivered.
//!
//! JetStream sends what was asked for whenever it has it, long after whoever asked has been given the
//! first of it. So one inbox is kept for the member's whole life, and one request is under way at a
//! time: whatever comes of it, however late, comes to that inbox and is handed out from there, and
//! nothing more is asked for until the request is used up. No message is sent to where nobody reads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{FutureExt as _, LocalBoxFuture};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use super::delivery::delivery;
use super::link::{Link, Unanswered};
use super::{ANSWER, IN_ORDER, ITS_OWN, json as api, nanos};
use crate::events::broker::{Delivered, Lag, Lost, Message, Queue};

/// How long a request waits at the broker for messages, and in order at most which part of a lease: who asks for nothing
/// for long is not delivered to any more.
const WAITS: (Duration, u32) = (Duration::from_secs(5), 6);
/// How much later it may be told that there were none. It needs no heartbeats: when that passes in
/// silence, nobody is there.
const SILENCE: Duration = Duration::from_secs(2);
/// The most that is asked for at once. As many, and what is said about them, have room in the inbox.
const MOST: usize = 1_024;
/// The part of a lease after which it is begun anew before a message is handed out, and by which it counts
/// as ended sooner here than at the broker.
const STALE: u32 = 4;
/// The header that says to whom something is delivered in order, and the status for who asks as one that is
/// not that one any more.
const PIN: &str = "Nats-Pin-Id";
const WRONG_PIN: u16 = 423;

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
    /// Nothing is waited for.
    hurries: bool,
    /// What came and was not handed out.
    came: Vec<Event>,
    /// Of a group in order.
    pin: Option<Pin>,
}

/// By what the broker knows the one member that is delivered to.
struct Pin {
    /// Left to whoever joins after this one, over the same connection or another.
    kept: Rc<RefCell<HashMap<String, String>>>,
    /// By stream and consumer.
    key: String,
    /// With what this one asks: nobody else does meanwhile.
    id: Option<String>,
    /// Whether it was delivered something with that.
    delivered: bool,
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
    /// Of a group in order.
    in_order: bool,
    lease: Duration,
    /// Until when it is nobody else's.
    until: Cell<Instant>,
}

// === impl Pulled ===

impl Pulled {
    /// Of this stream and consumer.
    pub(super) async fn open(
        link: Rc<Link>,
        (stream, name): (String, String),
        lease: Duration,
        pins: Option<Rc<RefCell<HashMap<String, String>>>>,
    ) -> Result<Self, String> {
        let inbox = Subject::from(link.client.new_inbox());
        let subscriber = link.client.subscribe(inbox.clone()).await;
        let next = Subject::from(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"));
        let pin = pins.map(|kept| {
            let key = format!("{stream}/{name}");
            let id = kept.borrow_mut().remove(&key);
            Pin {
                kept,
                key,
                id,
                delivered: false,
            }
        });
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
            hurries: false,
            came: Vec::new(),
            pin,
            link,
        })
    }

    async fn messages(&mut self, most: usize) -> Result<Vec<Box<dyn Delivered>>, Lost> {
        let most = most.min(MOST);
        self.take_ready(most).await?;
        while self.came.is_empty() && most > 0 {
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
            self.sort(first)?;
            // None came in time.
            if asked && self.outstanding == 0 && self.came.is_empty() {
                break;
            }
            self.take_ready(most).await?;
        }
        let handed = self.came.drain(..most.min(self.came.len()));
        Ok(handed
            .map(|one| Box::new(one) as Box<dyn Delivered>)
            .collect())
    }

    /// Gives back what came.
    async fn give_back(&mut self) {
        // What came over a connection that broke comes again when its lease ends.
        if self.link.number() != self.number || !self.link.is_connected() {
            return;
        }
        // Else it would be sent here again.
        let _ = timeout(SILENCE, self.subscriber.drain()).await;
        self.unpin().await;
        // Whatever is wrong, there is no more of it.
        while let Ok(Some(next)) = timeout(SILENCE, self.subscriber.next()).await {
            if self.sort(next).is_err() {
                break;
            }
        }
        for one in self.came.drain(..) {
            let _ = one.give_back(Duration::ZERO).await;
        }
    }

    /// Asks for so many.
    async fn ask(&mut self, most: usize) -> Result<(), Lost> {
        let waits = match &self.pin {
            _ if self.hurries => Duration::ZERO,
            Some(_) => WAITS.0.min(self.lease / WAITS.1),
            None => WAITS.0,
        };
        let mut body = match self.hurries {
            true => json!({ "batch": most, "no_wait": true }),
            false => json!({ "batch": most, "expires": nanos(waits) }),
        };
        if let Some(pin) = &self.pin {
            body["group"] = IN_ORDER.into();
            if let Some(id) = &pin.id {
                body["id"] = id.as_str().into();
            }
        }
        let body = Bytes::from(body.to_string());
        let told = self
            .link
            .tell(self.next.clone(), Some(self.inbox.clone()), body);
        told.await.map_err(Lost)?;
        self.outstanding = most;
        self.until = Instant::now() + waits + SILENCE;
        Ok(())
    }

    /// Is not the one any more that is delivered to, if it still is. Where that may not be said, the next one waits.
    async fn unpin(&mut self) {
        let Some(id) = self.pin.as_ref().and_then(|pin| pin.id.clone()) else {
            return;
        };
        let body = json!({});
        let asked = api::ask(&self.link, &self.of("INFO"), &body, ANSWER).await;
        let pinned = asked.ok().and_then(Result::ok);
        let pinned = pinned.as_ref().and_then(|info| {
            let id = info.pointer("/priority_groups/0/pinned_client_id");
            id.and_then(Value::as_str)
        });
        // Another one may be by now.
        if pinned != Some(&*id) {
            return;
        }
        let body = json!({ "group": IN_ORDER });
        if let Ok(Ok(_)) = api::ask(&self.link, &self.of("UNPIN"), &body, ANSWER).await
            && let Some(pin) = &mut self.pin
        {
            pin.id = None;
        }
    }

    /// What JetStream is asked of the consumer.
    fn of(&self, what: &str) -> String {
        format!("CONSUMER.{what}.{}.{}", self.stream, self.name)
    }

    /// Takes what is there, without waiting.
    async fn take_ready(&mut self, most: usize) -> Result<(), Lost> {
        // What lay there for long has little of its lease left.
        let stale = self.empty.elapsed() > self.lease / STALE;
        while self.came.len() < most {
            let Some(next) = self.subscriber.next().now_or_never() else {
                self.empty = Instant::now();
                return Ok(());
            };
            let next = next.ok_or_else(|| Lost("the connection was closed".to_owned()))?;
            let before = self.came.len();
            self.sort(next)?;
            if let Some(late) = self.came.get(before).filter(|_| stale) {
                late.extend().await?;
            }
        }
        Ok(())
    }

    /// Tells a message from what is said about the request.
    fn sort(&mut self, said: async_nats::Message) -> Result<(), Lost> {
        // A status that somebody published with a message is not said about the request.
        let is_delivered = said
            .reply
            .as_ref()
            .and_then(|reply| delivery(reply.as_str()));
        match said.status.filter(|_| is_delivered.is_none()) {
            None | Some(StatusCode::OK) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.pinned(&said)?;
                // What does not say where it is acknowledged was not sent by JetStream.
                if let Some(event) = self.event(said) {
                    self.came.push(event);
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
                if let Some(pin) = self.pin.as_mut().filter(|_| status.as_u16() == WRONG_PIN) {
                    pin.id = None;
                    return Err(Lost("another member is delivered to now".to_owned()));
                }
                let why = said.description.unwrap_or_default();
                Err(Lost(format!("{} {why}", status.as_u16())))
            }
        }
    }

    /// In a group in order, whatever is delivered says to whom. With another name, others may have been
    /// delivered something in between.
    fn pinned(&mut self, said: &async_nats::Message) -> Result<(), Lost> {
        let Some(pin) = &mut self.pin else {
            return Ok(());
        };
        // Whoever did nothing for long is not the one any more, though it may still find what it was sent then.
        if Instant::now() > self.until {
            return Err(Lost("the broker was not asked for too long".to_owned()));
        }
        // The broker says it after what whoever published says.
        let headers = said.headers.as_ref();
        let id = headers.and_then(|headers| headers.get_last(PIN));
        let id = id.ok_or_else(|| Lost("the broker keeps no order".to_owned()))?;
        match &pin.id {
            Some(own) if own == id.as_str() => {}
            Some(_) if pin.delivered => {
                return Err(Lost("another member was delivered to meanwhile".to_owned()));
            }
            _ => pin.id = Some(id.as_str().to_owned()),
        }
        pin.delivered = true;
        Ok(())
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
            in_order: self.pin.is_some(),
            lease: self.lease,
            until: Cell::new(Instant::now() + self.lease),
        })
    }

    async fn count(&self) -> Result<Lag, Lost> {
        let asked = api::ask(&self.link, &self.of("INFO"), &json!({}), ANSWER).await;
        let answer = asked.map_err(|why| Lost(why.to_string()))?;
        let answer = answer.map_err(|failure| Lost(failure.to_string()))?;
        counted(&answer).ok_or_else(|| Lost("the broker does not say".to_owned()))
    }
}

/// How much is before a group, from what is said of its consumer.
pub(super) fn counted(info: &Value) -> Option<Lag> {
    let number = |field: &str| info.get(field).and_then(Value::as_u64);
    Some(Lag {
        waiting: number("num_pending")?,
        unacknowledged: number("num_ack_pending")?,
        again: number("num_redelivered").unwrap_or_default(),
    })
}

impl Drop for Pulled {
    fn drop(&mut self) {
        if let Some(pin) = &mut self.pin
            && let Some(id) = pin.id.take()
        {
            pin.kept.borrow_mut().insert(pin.key.clone(), id);
        }
    }
}

impl Queue for Pulled {
    fn pull(&mut self, most: usize) -> LocalBoxFuture<'_, Result<Vec<Box<dyn Delivered>>, Lost>> {
        self.messages(most).boxed_local()
    }

    fn hurry(&mut self) {
        self.hurries = true;
    }

    fn would_ask(&self) -> bool {
        self.outstanding == 0 && self.came.is_empty()
    }

    fn is_chosen(&self) -> bool {
        let pin = self.pin.as_ref();
        pin.is_some_and(|pin| pin.delivered && pin.id.is_some())
    }

    fn lag(&mut self) -> LocalBoxFuture<'_, Result<Lag, Lost>> {
        self.count().boxed_local()
    }

    fn leave(&mut self) -> LocalBoxFuture<'_, ()> {
        self.give_back().boxed_local()
    }
}

// === impl Event ===

impl Event {
    async fn tell(&self, what: impl Into<Bytes>) -> Result<(), Lost> {
        let told = self.link.tell(self.reply.clone(), None, what.into());
        told.await.map_err(Lost)
    }

    async fn confirmed(&self, what: &'static [u8]) -> Result<(), Lost> {
        let what = Bytes::from_static(what);
        let asked = self
            .link
            .ask(self.reply.clone(), HeaderMap::new(), what, ANSWER);
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

    fn position(&self) -> u128 {
        self.place.into()
    }

    fn published(&self) -> Option<SystemTime> {
        self.published
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn is_ours(&self) -> bool {
        Instant::now() + self.lease / STALE < self.until.get()
    }

    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        let extended = async {
            // The broker begins whoever's lease it is anew.
            if self.in_order && !self.is_ours() {
                return Err(Lost("the lease of an event has ended".to_owned()));
            }
            let from = Instant::now();
            self.confirmed(b"+WPI").await?;
            self.until.set(from + self.lease);
            Ok(())
        };
        extended.boxed_local()
    }

    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.confirmed(b"+ACK").boxed_local()
    }

    fn give_back(&self, after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>> {
        let delay = nanos(after);
        self.tell(format!(r#"-NAK {{"delay":{delay}}}"#))
            .boxed_local()
    }
}
