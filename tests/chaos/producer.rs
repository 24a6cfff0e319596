//! Who publishes: some side by side, each one event after the other, until it is answered 202.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use http::Method;
use tests::client::{Answer, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::history::{Id, Journal, Published};

/// How long an answer is waited for: a sidecar waits 5 s for its broker.
const ANSWER: Duration = Duration::from_secs(10);
/// From one try to publish an event to the next.
const AGAIN: Duration = Duration::from_millis(100);
/// For how long an event is tried once nothing more is to be published.
const PATIENCE: Duration = Duration::from_secs(90);

/// All who publish, until they are told to end.
pub(crate) struct Producers {
    end: watch::Sender<bool>,
    producers: JoinSet<()>,
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Accepted,
    /// It was told to nobody, or the broker was told nothing.
    Untold,
    /// The broker may hold it.
    Unconfirmed,
}

// === impl Producers ===

impl Producers {
    /// So many, each with a key of its own and an event at most so often, by the sidecar there.
    pub(crate) fn start(count: u32, each: Duration, sidecar: Ipv4Addr, journal: &Journal) -> Self {
        let (end, ends) = watch::channel(false);
        let mut producers = JoinSet::new();
        for key in 1..=count {
            producers.spawn(produce(key, each, sidecar, journal.clone(), ends.clone()));
        }
        Self { end, producers }
    }

    /// Lets each publish what it has begun, and begins nothing new.
    pub(crate) async fn end(mut self) {
        self.end.send_replace(true);
        while self.producers.join_next().await.is_some() {}
    }
}

async fn produce(
    key: u32,
    each: Duration,
    sidecar: Ipv4Addr,
    journal: Journal,
    mut ends: watch::Receiver<bool>,
) {
    let mut ticks = interval(each);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        tokio::select! {
            biased;
            _ = ends.wait_for(|end| *end) => return,
            _ = ticks.tick() => {}
        }
        let published = publish(Id { key, number }, sidecar, &ends).await;
        journal.published(published);
        // What follows one of which nobody knows whether it is held may stand before it.
        if !published.accepted {
            return;
        }
    }
}

async fn publish(id: Id, sidecar: Ipv4Addr, ends: &watch::Receiver<bool>) -> Published {
    let mut published = Published {
        id,
        at: SystemTime::now(),
        accepted: false,
        unconfirmed: 0,
    };
    let mut since = None;
    loop {
        let tried = timeout(ANSWER, send(id, sidecar)).await;
        match tried.map_or(Tried::Unconfirmed, |sent| Tried::of(&sent)) {
            Tried::Accepted => {
                published.accepted = true;
                return published;
            }
            Tried::Untold => {}
            Tried::Unconfirmed => published.unconfirmed += 1,
        }
        if *ends.borrow() && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return published;
        }
        sleep(AGAIN).await;
    }
}

async fn send(id: Id, sidecar: Ipv4Addr) -> Result<Answer> {
    let (text, key) = (id.to_string(), id.key.to_string());
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", &*text),
        ("ce-source", "/chaos"),
        ("ce-type", "com.shop.stock"),
        ("ce-partitionkey", &*key),
        ("content-type", "application/json"),
    ];
    let url = format!("http://{sidecar}:15090/publish/events/stock");
    let body = Bytes::from(id.data());
    Client::direct()
        .send(Method::POST, &url, &headers, body)
        .await
}

// === impl Tried ===

impl Tried {
    fn of(sent: &Result<Answer>) -> Self {
        match sent {
            Ok(answer) if answer.status == 202 => Self::Accepted,
            Ok(answer) => match answer.reason() {
                "publish_unconfirmed" => Self::Unconfirmed,
                // These say that the broker was told nothing, or refused it.
                _ => Self::Untold,
            },
            Err(why) => match why.downcast_ref::<std::io::Error>() {
                Some(why) if why.kind() == ErrorKind::ConnectionRefused => Self::Untold,
                _ => Self::Unconfirmed,
            },
        }
    }
}
