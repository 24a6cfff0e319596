//! What people ask of subscriptions that are carried out here: to see dead letters, to have them delivered once
//! more, or dropped.
//!
//! Who asks is on the control thread, and the subscription on one worker's: all are asked, and whoever carries it out
//! answers.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::cloud_event::Event;
use super::replay::{Run, Seen, Work, group};
use super::running::Running;
use crate::config::subscription::{Replay, ReplayFrom};
use crate::proxy::Proxy;

/// How many orders wait at a worker.
const WAITING: usize = 16;
/// How many lines of an answer wait until somebody reads, and how many dead letters are shown at most.
const LINES: usize = 128;
const MOST: usize = 63;
/// From one line about how it goes to the next.
const PROGRESS: Duration = Duration::from_millis(250);
/// How many dead letters are counted.
const COUNTED: usize = 10_000;
/// How long data may be that are shown, in bytes.
const SHOWN: usize = 128 * 1024;
/// How many are thrown away in a second where nobody says.
const PURGED: u32 = 1000;

/// Where orders are given. Cheap to share.
#[derive(Clone, Debug, Default)]
pub struct Desk(Arc<Mutex<Vec<mpsc::Sender<Order>>>>);

/// One order, and where its answer goes.
#[derive(Clone, Debug)]
pub struct Order {
    /// `namespace/name` of the EventSubscription.
    pub object: String,
    /// What is to be done.
    pub what: What,
    lines: mpsc::Sender<Value>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// So many dead letters are shown; with what stands in them.
    Show {
        /// How many at most.
        limit: usize,
        /// Whether their data is, too.
        data: bool,
    },
    /// How many there would be is told, and nothing done.
    Count(Replay),
    /// They are delivered once more.
    Replay(Replay),
    /// They are dropped, for good.
    Purge(Replay),
}

// === impl Desk ===

impl Desk {
    /// Where a worker gets orders.
    pub fn orders(&self) -> mpsc::Receiver<Order> {
        let (sender, orders) = mpsc::channel(WAITING);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(sender);
        orders
    }

    /// Gives an order: the lines of its answer, until there are no more; none at all where the subscription is not carried
    /// out here.
    pub fn order(&self, object: &str, what: What) -> mpsc::Receiver<Value> {
        let (lines, answer) = mpsc::channel(LINES);
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in &*all {
            let order = Order {
                object: object.to_owned(),
                what: what.clone(),
                lines: lines.clone(),
            };
            // One that has no time for so many says nothing.
            let _ = worker.try_send(order);
        }
        answer
    }
}

/// Takes orders for as long as there are any.
pub async fn serve(px: Rc<Proxy>, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        let Some(running) = px.subscribers.running(&px, &order.object) else {
            continue;
        };
        let running = Rc::new(running);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = carry_out(&running, &order) => {}
                // Nobody wants to know any more: what was begun ends, and nothing else is begun.
                () = order.lines.closed() => {}
            }
        });
    }
}

async fn carry_out(running: &Rc<Running>, order: &Order) {
    let (replay, work) = match &order.what {
        What::Show { limit, .. } => (letters(), Work::Show(*limit)),
        What::Count(replay) => {
            // As a run of its own: it is forgotten, and the one that is to be is not.
            let request = letters().request;
            let counts = Replay {
                request,
                ..replay.clone()
            };
            (counts, Work::Show(COUNTED))
        }
        What::Replay(replay) => (replay.clone(), Work::Deliver),
        What::Purge(replay) => (replay.clone(), Work::Discard),
    };
    let found = std::cell::Cell::new(0_u64);
    let shown = |event: &Event| {
        found.set(found.get() + 1);
        if let What::Show { data, .. } = order.what {
            // Whoever reads slowly is not waited for: there are as many places as may be asked for.
            let _ = order.lines.try_send(told(event, data));
        }
    };
    if let Some(group) = group(&running.subscription, &replay) {
        tracing::info!(subscription = %running.subscription.object, topic = %group.topic, what = order.what.name(), "somebody asks");
    }
    let run = Run {
        running,
        replay: &replay,
        work,
        once: true,
        shown: &shown,
    };
    let tell = |seen: Option<Seen>, why: Option<&str>| {
        let (done, failed) = running.tally.numbers();
        let done = match &order.what {
            What::Count(_) | What::Show { .. } => found.get(),
            _ => done,
        };
        let (finished, more) = (seen.is_some(), seen == Some(Seen::Some));
        json!({ "done": done, "failed": failed, "finished": finished, "more": more, "why": why })
    };
    if running.subscription.suspended && work == Work::Deliver {
        let why = "it is suspended, and nothing is delivered";
        let _ = order.lines.send(tell(None, Some(why))).await;
        return;
    }
    if running.subscription.counts_only && work == Work::Deliver {
        let why = "no pod that it is for has a sidecar, and nothing is delivered";
        let _ = order.lines.send(tell(None, Some(why))).await;
        return;
    }
    let ended = {
        let going = run.go();
        tokio::pin!(going);
        loop {
            tokio::select! {
                ended = &mut going => break ended,
                () = sleep(PROGRESS) => {
                    let _ = order.lines.try_send(tell(None, None));
                }
            }
        }
    };
    let last = match ended {
        Ok(seen) => tell(Some(seen), None),
        Err(why) => tell(None, Some(&why)),
    };
    let _ = order.lines.send(last).await;
}

/// A run of what became dead letters until now, at the usual rate.
fn letters() -> Replay {
    Replay {
        request: format!("{:016x}", rand::random::<u64>()).into(),
        from: ReplayFrom::DeadLetters,
        until: SystemTime::now(),
        rate: 50,
    }
}

/// An event, for people: its data where they are wanted and not too long.
fn told(event: &Event, data: bool) -> Value {
    let mut told: Value = serde_json::from_slice(&event.to_json()).unwrap_or_default();
    let length = event.data.len();
    let omitted = (data && length > SHOWN).then_some(length);
    if let Some(members) = told.as_object_mut().filter(|_| !data || omitted.is_some()) {
        members.remove("data");
        members.remove("data_base64");
    }
    json!({ "event": told, "omitted": omitted })
}

// === impl What ===

impl What {
    fn name(&self) -> &'static str {
        match self {
            Self::Show { .. } => "show",
            Self::Count(_) => "count",
            Self::Replay(_) => "replay",
            Self::Purge(_) => "purge",
        }
    }

    /// Reads what is to be done: `show=shop/billing limit=10 data=true`, and with `replay=`, `purge=` or `count=`
    /// `from=dead-letters` or a moment, `until=` another, `rate=50`, `request=again`.
    ///
    /// # Errors
    /// What is wrong, and how it is written.
    pub fn read(words: &str) -> Result<(String, Self), String> {
        let mut object = None;
        let (mut limit, mut data) = (20, false);
        let mut replay = letters();
        let mut rate = None;
        for word in words.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let wrong = |how: &str| format!("{name}: write it as {how}");
            match name {
                "show" | "replay" | "purge" | "count" => object = Some((name, value.to_owned())),
                "limit" => {
                    let read = value.parse().ok();
                    let read = read.filter(|limit| (1..=MOST).contains(limit));
                    limit = read.ok_or_else(|| wrong("a number from 1 to 63"))?;
                }
                "data" => data = value.parse().map_err(|_| wrong("true or false"))?,
                "from" if value == "dead-letters" => replay.from = ReplayFrom::DeadLetters,
                "from" => {
                    replay.from = ReplayFrom::Since(moment(value).ok_or_else(|| {
                        wrong("dead-letters, or a moment such as 2026-11-20T08:00:00Z")
                    })?)
                }
                "until" => {
                    let read = moment(value);
                    replay.until =
                        read.ok_or_else(|| wrong("a moment such as 2026-11-20T08:00:00Z"))?;
                }
                "rate" => {
                    let read = value.parse().ok();
                    let read = read.filter(|rate| (1..=10_000).contains(rate));
                    rate = Some(read.ok_or_else(|| wrong("a number from 1 to 10000"))?);
                }
                "request" => {
                    let may_be = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
                    let is_name = (1..=63).contains(&value.len()) && value.chars().all(may_be);
                    if !is_name {
                        return Err(wrong("letters, digits, `_`, `.` and `-`, 63 at most"));
                    }
                    replay.request = value.into();
                }
                _ => return Err(format!("{name}: nobody knows what that is")),
            }
        }
        let Some((what, object)) = object.filter(|(_, object)| object.contains('/')) else {
            let how = "write what is to be done, and of which: show=shop/billing, replay=, purge= or count=";
            return Err(how.to_owned());
        };
        // To throw away asks nothing of a target.
        replay.rate = rate.unwrap_or(if what == "purge" { PURGED } else { replay.rate });
        let what = match what {
            "show" => Self::Show { limit, data },
            "replay" => Self::Replay(replay),
            "purge" => Self::Purge(replay),
            _ => Self::Count(replay),
        };
        let since = |replay: &Replay| replay.from != ReplayFrom::DeadLetters;
        if matches!(&what, Self::Purge(replay) if since(replay)) {
            return Err("from: dead letters are purged, and nothing else".to_owned());
        }
        Ok((object, what))
    }
}

fn moment(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(words: &str) -> String {
        What::read(words).unwrap_err()
    }

    #[test]
    fn an_order_says_what_is_to_be_done_and_of_which() {
        let (object, what) = What::read("show=shop/billing limit=5 data=true").unwrap();
        assert_eq!(object, "shop/billing");
        let (limit, data) = (5, true);
        assert_eq!(what, What::Show { limit, data });
        let words = "replay=shop/billing from=2026-11-20T08:00:00Z until=2026-11-20T09:00:00Z rate=7 request=a";
        let Ok((_, What::Replay(replay))) = What::read(words) else {
            panic!("{words}")
        };
        assert_eq!((replay.rate, &*replay.request), (7, "a"));
        let span = match replay.from {
            ReplayFrom::Since(since) => replay.until.duration_since(since).unwrap(),
            ReplayFrom::DeadLetters => panic!("{words}"),
        };
        assert_eq!(span, Duration::from_secs(3600));
        for (words, rate) in [
            ("purge=shop/billing", 1000),
            ("purge=shop/billing rate=3", 3),
            ("replay=shop/billing", 50),
        ] {
            let (Ok((_, What::Purge(read))) | Ok((_, What::Replay(read)))) = What::read(words)
            else {
                panic!("{words}")
            };
            assert_eq!(read.rate, rate, "{words}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_order_is_told_with_its_word() {
        for (words, told) in [
            ("", "write what is to be done"),
            ("show=billing", "write what is to be done"),
            ("show=shop/billing limit=0", "limit: "),
            ("show=shop/billing limit=64", "limit: "),
            ("show=shop/billing data=yes", "data: "),
            ("replay=shop/billing from=yesterday", "from: "),
            ("replay=shop/billing until=now", "until: "),
            ("replay=shop/billing rate=0", "rate: "),
            ("replay=shop/billing request=a/b", "request: "),
            ("purge=shop/billing from=2026-11-20T08:00:00Z", "from: "),
            ("purge=shop/billing all", "all: "),
        ] {
            assert!(wrong(words).starts_with(told), "{words}: {}", wrong(words));
        }
    }
}
