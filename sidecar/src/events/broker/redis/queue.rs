//! A member of a group: what it is delivered.
//!
//! Redis knows no delay, and no lease of a length that is ours. So each group has a sorted set of what
//! was handed out, by when it may be again: at the end of its lease, or when whoever gave it back
//! said. A script finds what is due there without looking at what is not, and hands it out in the same
//! step in which it begins the next lease; how often something was delivered is counted by Redis.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use futures::future::{FutureExt as _, LocalBoxFuture};
use redis::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::link::{Link, Unanswered};
use super::script::{LAG, PULL, SETTLE};
use super::wake::Wake;
use super::{ANSWER, entry, millis, reply};
use crate::events::broker::{Delivered, Lag, Lost, Message, Queue};

/// How long a pull waits for messages.
const WAITS: Duration = Duration::from_secs(5);
/// The most that is handed out at once.
const MOST: usize = 1_024;
/// How many bytes are enough for one answer; the entry that exceeds it is still handed out.
pub(super) const ENOUGH: &str = "4194304";
/// The longest entry that is handed out, in bytes: twice what is published.
pub(super) const LONGEST: &str = "16777216";
/// How often in a lease a page of what is pending is looked through for what lacks a lease.
const LOOKS: u32 = 30;
/// The longest time that something is given back for: half of what a group's leases live for.
const DELAY: Duration = Duration::from_secs(12 * 60 * 60);
/// How long a member waits when another was faster, so that they do not all ask at each message.
const BEATEN: Duration = Duration::from_millis(20);
/// The part of a lease by which it counts as ended sooner here than at the broker.
const STALE: u32 = 4;
/// How many messages are counted one by one.
pub(super) const COUNTED: &str = "100";

/// A place in a group, which outlives the queue as long as something was handed out.
pub(super) struct Member {
    pub(super) link: Rc<Link>,
    pub(super) topic: String,
    pub(super) group: String,
    /// The key of the group's leases.
    pub(super) leases: String,
    /// What Redis knows the member by.
    pub(super) name: String,
    pub(super) lease: Duration,
    /// Something was given back here.
    pub(super) returned: Notify,
}

/// A member of a group.
pub(super) struct Pulled {
    member: Rc<Member>,
    wake: Wake,
    /// Whether what comes again goes first: it and what comes for the first time take turns.
    again: bool,
    /// What is being asked: whoever gives a pull up loses none of it.
    asking: Option<LocalBoxFuture<'static, Result<Value, Unanswered>>>,
    looks: bool,
    /// Nothing is waited for.
    hurries: bool,
    /// What came and was not handed out.
    came: VecDeque<Event>,
    /// From where on pending entries are looked through, and when they were.
    from: String,
    looked: Option<Instant>,
}

/// A message that was delivered.
struct Event {
    member: Rc<Member>,
    message: Message,
    /// In its stream.
    id: String,
    attempt: u32,
    /// Until when it is nobody else's.
    until: Cell<Instant>,
}

/// What was pulled.
struct Found {
    events: Vec<Event>,
    /// What is pending and no longer held.
    gone: Vec<String>,
    more: bool,
    /// When the next lease ends.
    next: Option<Duration>,
    /// The last that the group was delivered.
    last: String,
    /// Nobody of the group has anything.
    rests: bool,
}

// === impl Pulled ===

impl Pulled {
    pub(super) fn new(member: Member) -> Self {
        Self {
            wake: Wake::new(member.link.address.clone()),
            member: Rc::new(member),
            again: false,
            asking: None,
            looks: false,
            hurries: false,
            came: VecDeque::new(),
            from: "-".to_owned(),
            looked: None,
        }
    }

    async fn messages(&mut self, most: usize) -> Result<Vec<Box<dyn Delivered>>, Lost> {
        let waits = if self.hurries { Duration::ZERO } else { WAITS };
        let (most, until) = (most.min(MOST), Instant::now() + waits);
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut woken = false;
        loop {
            if !self.came.is_empty() {
                let handed = self.came.drain(..most.min(self.came.len()));
                let handed = handed.map(|one| Box::new(one) as Box<dyn Delivered>);
                return Ok(handed.collect());
            }
            let mut found = self.ask(most).await?;
            if let Some(id) = found.gone.first() {
                self.member.were_trimmed(found.gone.len(), id);
            }
            let left = until.saturating_duration_since(Instant::now());
            self.came.extend(found.events.drain(..));
            if !self.came.is_empty() || found.more {
                continue;
            }
            if left.is_zero() {
                return Ok(Vec::new());
            }
            if woken {
                sleep(BEATEN).await;
            }
            let wait = left.min(found.next.unwrap_or(left));
            let behind = (&*found.last, found.rests);
            let waiting = self.wake.wait(&self.member.topic, behind, wait);
            woken = tokio::select! {
                biased;
                () = self.member.returned.notified() => false,
                came = waiting => came.map_err(Lost)?,
            };
        }
    }

    async fn ask(&mut self, most: usize) -> Result<Found, Lost> {
        let asking = match &mut self.asking {
            Some(asking) => asking,
            None => {
                let member = self.member.clone();
                self.again = !self.again;
                let looked = self.looked;
                self.looks = looked.is_none_or(|looked| looked.elapsed() > member.lease / LOOKS);
                let again = if self.again { "1" } else { "0" };
                let from = match self.looks {
                    true => self.from.clone(),
                    false => String::new(),
                };
                let asking = async move {
                    let (most, lease) = (most.to_string(), millis(member.lease).to_string());
                    let arguments = [
                        &*member.group,
                        &*member.name,
                        &*most,
                        &*lease,
                        again,
                        &*from,
                        ENOUGH,
                        LONGEST,
                    ];
                    let arguments = arguments.map(str::as_bytes);
                    let keys = [&*member.topic, &*member.leases];
                    member.link.run(&PULL, &keys, &arguments, ANSWER).await
                };
                self.asking.insert(asking.boxed_local())
            }
        };
        let answer = asking.await;
        self.asking = None;
        let answer = answer.map_err(lost)?;
        let read = self.read(answer);
        let (found, from) = read.ok_or_else(|| Lost("its answer can't be read".to_owned()))?;
        if self.looks {
            self.looked = Some(Instant::now());
            self.from = from;
        }
        Ok(found)
    }

    fn read(&self, answer: Value) -> Option<(Found, String)> {
        let mut parts = reply::parts(answer)?.into_iter();
        let mut part = || parts.next();
        let events = reply::parts(part()?)?.into_iter();
        let events = events.map(|one| self.event(one));
        let events = events.collect::<Option<_>>()?;
        let gone = reply::parts(part()?)?.into_iter();
        let gone = gone.map(reply::text).collect::<Option<_>>()?;
        let more = reply::number(&part()?)? == 1;
        let next = u64::try_from(reply::number(&part()?)?);
        let last = reply::text(part()?)?;
        let from = reply::text(part()?)?;
        let rests = reply::number(&part()?)? == 1;
        let found = Found {
            events,
            gone,
            more,
            next: next.ok().map(Duration::from_millis),
            last,
            rests,
        };
        Some((found, from))
    }

    fn event(&self, one: Value) -> Option<Event> {
        let mut parts = reply::parts(one)?.into_iter();
        let id = reply::text(parts.next()?)?;
        let attempt = reply::number(&parts.next()?)?;
        let message = match parts.next()? {
            Value::Int(bytes) => {
                let (topic, group) = (&self.member.topic, &self.member.group);
                tracing::warn!(%topic, %group, %id, bytes, "an entry is too long to be delivered: it is left in the stream");
                entry::too_long()
            }
            fields => {
                let fields = reply::parts(fields)?.into_iter();
                entry::read(fields.map(reply::bytes).collect::<Option<_>>()?)
            }
        };
        Some(Event {
            member: self.member.clone(),
            message,
            id,
            attempt: u32::try_from(attempt.max(1)).unwrap_or(u32::MAX),
            until: Cell::new(Instant::now() + self.member.lease),
        })
    }

    /// Gives back what came, and what is on its way.
    async fn give_back(&mut self) {
        if self.asking.is_some()
            && let Ok(found) = self.ask(1).await
        {
            self.came.extend(found.events);
        }
        for one in self.came.drain(..) {
            // What is not heard of comes again later.
            let _ = one.give_back(Duration::ZERO).await;
        }
    }

    async fn count(&self) -> Result<Lag, Lost> {
        let member = &self.member;
        let arguments = [member.group.as_bytes(), COUNTED.as_bytes()];
        let keys = [&*member.topic];
        let asked = member.link.run(&LAG, &keys, &arguments, ANSWER);
        let answer = asked.await.map_err(lost)?;
        counted(answer).ok_or_else(|| Lost("the broker does not say".to_owned()))
    }
}

/// How much is before a group, from what `lag.lua` answers.
pub(super) fn counted(answer: Value) -> Option<Lag> {
    let counted = reply::parts(answer)?;
    let mut counted = counted
        .iter()
        .map(|one| u64::try_from(reply::number(one)?).ok());
    Some(Lag {
        waiting: counted.next()??,
        unacknowledged: counted.next()??,
        again: 0,
    })
}

impl Queue for Pulled {
    fn pull(&mut self, most: usize) -> LocalBoxFuture<'_, Result<Vec<Box<dyn Delivered>>, Lost>> {
        self.messages(most).boxed_local()
    }

    fn hurry(&mut self) {
        self.hurries = true;
    }

    fn lag(&mut self) -> LocalBoxFuture<'_, Result<Lag, Lost>> {
        self.count().boxed_local()
    }

    fn leave(&mut self) -> LocalBoxFuture<'_, ()> {
        self.give_back().boxed_local()
    }
}

pub(super) fn lost(why: Unanswered) -> Lost {
    Lost(match why {
        Unanswered::Refused(why) if why.code == "NOGROUP" => "the group is no more".to_owned(),
        Unanswered::Refused(why) => why.to_string(),
        Unanswered::Away(why) => why,
        Unanswered::Unknown(why) => why.to_owned(),
    })
}

// === impl Member ===

impl Member {
    async fn settle(&self, id: &str, arguments: &[&[u8]]) -> Result<i64, Lost> {
        let keys = [&*self.topic, &*self.leases];
        let always = [self.group.as_bytes(), id.as_bytes()];
        let arguments = [&always[..], arguments].concat();
        let settled = self.link.run(&SETTLE, &keys, &arguments, ANSWER).await;
        Ok(reply::number(&settled.map_err(lost)?).unwrap_or_default())
    }

    fn were_trimmed(&self, count: usize, id: &str) {
        let (topic, group) = (&self.topic, &self.group);
        tracing::warn!(%topic, %group, count, first = %id, "events are lost: they were deleted or trimmed before they were acknowledged");
    }
}

// === impl Event ===

impl Event {
    /// Has it handed out again after that, unless it is somebody else's by now.
    async fn keep(&self, after: Duration) -> Result<(), Lost> {
        let from = Instant::now();
        let (attempt, millis) = (self.attempt.to_string(), millis(after).to_string());
        let arguments = [&self.member.name, &attempt, &millis].map(|text| text.as_bytes());
        match self.member.settle(&self.id, &arguments).await? {
            1 => self.until.set(from + after),
            2 => self.member.were_trimmed(1, &self.id),
            _ => {}
        }
        Ok(())
    }

    async fn done(&self) -> Result<(), Lost> {
        self.member.settle(&self.id, &[]).await.map(drop)
    }

    async fn give_back(&self, after: Duration) -> Result<(), Lost> {
        self.keep(after.min(DELAY)).await?;
        self.member.returned.notify_one();
        Ok(())
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
        self.id.clone()
    }

    fn position(&self) -> u128 {
        position(&self.id).unwrap_or_default()
    }

    fn is_ours(&self) -> bool {
        Instant::now() + self.member.lease / STALE < self.until.get()
    }

    fn published(&self) -> Option<SystemTime> {
        published(&self.id)
    }

    fn lease(&self) -> Duration {
        self.member.lease
    }

    fn extend(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.keep(self.member.lease).boxed_local()
    }

    fn acknowledge(&self) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.done().boxed_local()
    }

    fn give_back(&self, after: Duration) -> LocalBoxFuture<'_, Result<(), Lost>> {
        self.give_back(after).boxed_local()
    }
}

/// Where an entry stands, as a number.
fn position(id: &str) -> Option<u128> {
    let (since, number) = id.split_once('-')?;
    let (since, number) = (since.parse::<u64>().ok()?, number.parse::<u64>().ok()?);
    Some(u128::from(since) << 64 | u128::from(number))
}

/// When an entry came, from where it stands: `<milliseconds>-<number>`, unless whoever wrote it chose
/// another place.
fn published(id: &str) -> Option<SystemTime> {
    let (since, _) = id.split_once('-')?;
    let since = Duration::from_millis(since.parse().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_later_stands_behind() {
        let places = ["0-1", "5-1", "5-2", "9-0", "18446744073709551615-0"].map(position);
        assert!(places.is_sorted() && places.iter().all(Option::is_some));
    }

    #[test]
    fn a_place_says_when_it_was_taken() {
        let at = |millis| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(published("1500-3"), at(1_500));
        assert_eq!(published("0-1"), at(0));
        assert_eq!(published("99999999999999999999-0"), None);
        assert_eq!(published("x"), None);
        // Whatever becomes of it.
        let _ = published("18446744073709551615-18446744073709551615");
    }
}
