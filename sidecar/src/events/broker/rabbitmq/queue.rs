//! A member of a group: what it is sent, and what becomes of that.
//!
//! The broker sends without being asked, as many messages at a time as it was allowed: as many as were ever asked
//! for at once. It costs nothing while there are none. What the member has and hands out to nobody goes back when
//! the member leaves; what it has handed out stays, with the channel, until that is done with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, LocalBoxFuture};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::declare::{ANSWER, Declarer, No};
use super::delay::{Delays, seconds};
use super::delivered::{Event, Share, Unsettled};
use super::link::{Connected, Link, text, told};
use super::message::again;
use super::publisher::{Letter, Publisher, Sent};
use crate::events::broker::{Delivered, Lag, Lost, Queue, Unpublished, Unsubscribed};

/// How long messages are waited for.
const WAITS: Duration = Duration::from_secs(5);
/// The most that is asked for at once.
const MOST: usize = 1_024;
/// The most that are held here while others are sent.
const HELD: usize = 1_024;
/// What a member and its messages share.
pub(super) struct Member {
    /// The connection goes with the last of these.
    pub(super) _link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) connected: Arc<Connected>,
    pub(super) channel: Channel,
    pub(super) queue: String,
    pub(super) delays: Delays,
    /// Whether the queue is the topic's own.
    pub(super) takes: bool,
    /// No two channels have the same.
    pub(super) unique: u64,
    /// How many messages were handed out and are not settled, and how many of these are held here.
    pub(super) unsettled: AtomicUsize,
    pub(super) held: AtomicUsize,
    /// Told of each that is held.
    pub(super) holds: Notify,
}

/// What sends us messages, and what the last one has left.
type Started = (Vec<Delivery>, Consumer);

/// A member of a group.
pub(super) struct Pulled {
    member: Arc<Member>,
    /// What sends us messages.
    consumer: Option<Consumer>,
    /// Another one that is being started, with what the last one has left.
    starting: Option<BoxFuture<'static, Result<Started, Lost>>>,
    /// What came, and was not handed out.
    left: VecDeque<Delivery>,
    /// How many messages the consumer may send that are not settled.
    prefetch: usize,
    share: Arc<Share>,
    /// How many consumers there were.
    number: u64,
    /// Whether it was looked for queues in which messages wait.
    looked: bool,
}

// === impl Member ===

impl Member {
    /// Waits for an answer.
    pub(super) async fn answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Lost> {
        tokio::select! {
            biased;
            answer = timeout(ANSWER, asked) => match answer {
                Ok(answer) => answer.map_err(|error| Lost(told(&error))),
                Err(_) => Err(Lost("there was no answer in time".to_owned())),
            },
            () = self.connected.ended() => Err(broke()),
        }
    }

    pub(super) async fn acknowledge(&self, tag: u64) -> Result<(), Lost> {
        let options = BasicAckOptions::default();
        self.answer(self.channel.basic_ack(tag, options)).await
    }

    /// Gives a message back at once.
    pub(super) async fn give_back(&self, tag: u64) -> Result<(), Lost> {
        let options = BasicNackOptions {
            multiple: false,
            requeue: true,
        };
        self.answer(self.channel.basic_nack(tag, options)).await
    }

    /// Has the broker send so many messages, and no others.
    async fn start(
        self: Arc<Self>,
        last: Option<Consumer>,
        prefetch: usize,
        number: u64,
    ) -> Result<Started, Lost> {
        let left = match last {
            Some(last) => self.stop(last).await?,
            None => Vec::new(),
        };
        let prefetch = u16::try_from(prefetch).unwrap_or(u16::MAX);
        let qos = BasicQosOptions::default();
        self.answer(self.channel.basic_qos(prefetch, qos)).await?;
        let (queue, tag) = (text(&self.queue), text(&format!("meshwright-{number}")));
        let options = BasicConsumeOptions::default();
        let consume = self
            .channel
            .basic_consume(queue, tag, options, FieldTable::default());
        Ok((left, self.answer(consume).await?))
    }

    /// Has the broker send nothing more. Returns what came and nobody has taken.
    async fn stop(&self, mut consumer: Consumer) -> Result<Vec<Delivery>, Lost> {
        let cancel = self
            .channel
            .basic_cancel(consumer.tag(), BasicCancelOptions::default());
        self.answer(cancel).await?;
        let mut left = Vec::new();
        while let Some(Some(Ok(delivery))) = consumer.next().now_or_never() {
            left.push(delivery);
        }
        Ok(left)
    }

    /// Has a message come again after so long, and is done with it then.
    pub(super) async fn delay(&self, message: &Unsettled, after: Duration) -> Result<(), String> {
        let seconds = seconds(after);
        let (place, published) = (&message.place, message.published);
        let (properties, length) = again(&message.properties, message.attempt, place, published);
        if length > self.publisher.longest_properties() {
            return Err("its headers are too long".to_owned());
        }
        let mut tried = false;
        loop {
            let delay = self.delays.at(&self.connected, seconds).await;
            let delay =
                delay.map_err(|no| no.unsubscribed(Unsubscribed::MissingTopic).to_string())?;
            let delay = delay.ok_or("where it would wait was only just made")?;
            let letter = Letter {
                exchange: "",
                key: &delay,
                properties: properties.clone(),
                data: message.data.clone(),
            };
            let until = Instant::now() + ANSWER;
            match self.publisher.publish(letter, until).await {
                Ok(Sent::Held) => break,
                Ok(Sent::Unknown) => return Err("nobody knows whether it waits".to_owned()),
                // Somebody has deleted it.
                Err(Unpublished::UnknownTopic) if !tried => self.delays.forget(seconds),
                Err(why) => return Err(why.to_string()),
            }
            tried = true;
        }
        // If that is not heard, it comes twice.
        message.acknowledge().await.map_err(|why| why.to_string())
    }
}

// === impl Pulled ===

impl Pulled {
    pub(super) fn new(member: Arc<Member>) -> Self {
        Self {
            member,
            consumer: None,
            starting: None,
            left: VecDeque::new(),
            prefetch: 0,
            share: Arc::default(),
            number: 0,
            looked: false,
        }
    }

    async fn messages(&mut self, most: usize) -> Result<Vec<Box<dyn Delivered>>, Lost> {
        let most = most.min(MOST);
        if most == 0 {
            return Ok(Vec::new());
        }
        loop {
            // Whoever pulled may have gone before that was done.
            if let Some(starting) = &mut self.starting {
                let started = starting.await;
                self.starting = None;
                let (left, consumer) = started?;
                self.left.extend(left);
                self.consumer = Some(consumer);
            }
            let found = self.ready(most)?;
            if !found.is_empty() {
                return Ok(found);
            }
            let member = self.member.clone();
            let is_short = self.is_short(most);
            let Some(consumer) = self.consumer.as_mut().filter(|_| !is_short) else {
                // What a consumer may be sent can't be changed. What the last one has sent counts no more here, but
                // is not settled, either.
                let last = self.consumer.take();
                self.number += 1;
                (self.prefetch, self.share) = (most, Arc::default());
                self.starting = Some(member.start(last, most, self.number).boxed());
                continue;
            };
            let next = tokio::select! {
                biased;
                next = consumer.next() => next,
                () = member.connected.ended() => return Err(broke()),
                () = member.holds.notified() => continue,
                () = sleep(WAITS) => return Ok(Vec::new()),
            };
            self.left.push_back(one(next)?);
        }
    }

    /// Whether the consumer may not be sent what is asked for: more than ever before, or all that it may be is held
    /// here.
    fn is_short(&self, most: usize) -> bool {
        let handed = self.share.handed.load(Ordering::Relaxed);
        let held = self.share.held.load(Ordering::Relaxed);
        let may_hold = self.member.held.load(Ordering::Relaxed) < HELD;
        most + handed > self.prefetch || (held > 0 && handed + held >= self.prefetch && may_hold)
    }

    /// Takes what is there, without waiting.
    fn ready(&mut self, most: usize) -> Result<Vec<Box<dyn Delivered>>, Lost> {
        let ended = self.receive();
        if self.left.is_empty() {
            ended?;
        }
        let found = self.left.drain(..self.left.len().min(most));
        let (member, share) = (&self.member, &self.share);
        let found = found.map(|delivery| Event::new(member, share, delivery));
        let found = found.map(|event| Box::new(event) as Box<dyn Delivered>);
        Ok(found.collect())
    }

    fn receive(&mut self) -> Result<(), Lost> {
        if self.member.connected.is_over() {
            // The broker has it back.
            self.left.clear();
            return Err(broke());
        }
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        while let Some(next) = consumer.next().now_or_never() {
            self.left.push_back(one(next)?);
        }
        Ok(())
    }

    async fn count(&mut self) -> Result<Lag, Lost> {
        // It is known at its end.
        let _ = self.receive();
        let member = self.member.clone();
        let lost = |no: No| Lost(no.unsubscribed(Unsubscribed::MissingGroup).to_string());
        let mut declarer = Declarer::new(&member.connected);
        let waiting = declarer.count(&member.queue).await.map_err(lost)?;
        let delayed = member.delays.waiting(&mut declarer, !self.looked).await;
        let delayed = delayed.map_err(lost)?;
        self.looked = true;
        let (here, unsettled) = (self.left.len(), member.unsettled.load(Ordering::Relaxed));
        let number = |it: usize| u64::try_from(it).unwrap_or(u64::MAX);
        Ok(Lag {
            waiting: waiting + number(here),
            unacknowledged: delayed + number(unsettled),
            again: 0,
        })
    }
}

impl Queue for Pulled {
    fn pull(&mut self, most: usize) -> LocalBoxFuture<'_, Result<Vec<Box<dyn Delivered>>, Lost>> {
        self.messages(most).boxed_local()
    }

    fn lag(&mut self) -> LocalBoxFuture<'_, Result<Lag, Lost>> {
        self.count().boxed_local()
    }

    fn takes(&self) -> bool {
        self.member.takes
    }

    fn leave(&mut self) -> LocalBoxFuture<'_, ()> {
        self.end().boxed_local()
    }
}

impl Drop for Pulled {
    fn drop(&mut self) {
        // Without a runtime there is no connection, either.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.end());
        }
    }
}

impl Pulled {
    /// Is sent nothing more, and gives back what it has.
    fn end(&mut self) -> impl Future<Output = ()> + Send + 'static {
        let (consumer, starting) = (self.consumer.take(), self.starting.take());
        let (member, mut left) = (self.member.clone(), std::mem::take(&mut self.left));
        async move {
            let started = match starting {
                Some(starting) => starting.await.ok(),
                None => None,
            };
            let (more, started) = started.unzip();
            left.extend(more.into_iter().flatten());
            for consumer in consumer.into_iter().chain(started) {
                left.extend(member.stop(consumer).await.unwrap_or_default());
            }
            for delivery in left {
                if member.give_back(delivery.delivery_tag).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn one(next: Option<lapin::Result<Delivery>>) -> Result<Delivery, Lost> {
    match next {
        Some(next) => next.map_err(|error| Lost(told(&error))),
        None => Err(Lost("the group is no more".to_owned())),
    }
}

pub(super) fn broke() -> Lost {
    Lost("the connection broke".to_owned())
}
