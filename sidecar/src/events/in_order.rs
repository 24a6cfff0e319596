//! A subscription in order: one sidecar holds the next events of all keys, and delivers each when those before it
//! with its key are done.
//!
//! Who comes after another one waits until the broker has given it all that the other one left, since what was left is older than
//! what is new. What it can't keep a lease on it does not begin, as somebody else may deliver it by now.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::broker::{Broker, Delivered, Lost, Queue};
use super::deliver::deliver;
use super::lanes::{Fate, Key, Lanes};
use super::received::Received;
use super::running::Running;
use super::subscriber::{Ended, at, in_flight};
use crate::config::subscription::{Ordering, Subscription};

/// How late an event may come again.
const LATE: Duration = Duration::from_secs(60);
/// Why nothing is begun of what is held here.
const LAPSED: &str = "the lease of an event has ended";

/// What became of an event that was begun.
struct Told {
    key: Key,
    position: u128,
    fate: Fate,
    received: Received,
}

/// Events that a sidecar holds in their order.
struct InOrder {
    running: Rc<Running>,
    broker: Rc<dyn Broker>,
    lanes: Lanes<Received>,
    window: usize,
    /// What is being delivered tells its fate here.
    tell: mpsc::UnboundedSender<Told>,
    /// When the leases of what waits here are begun anew.
    extend: Option<Instant>,
}

/// Pulls and delivers in order until no more is to be pulled; why, and what waits to be delivered then.
pub(super) async fn pull(
    running: &Rc<Running>,
    broker: &Rc<dyn Broker>,
    queue: &mut dyn Queue,
    window: usize,
) -> (Ended, Vec<Received>) {
    let (tell, mut fates) = mpsc::unbounded_channel();
    let mut held = InOrder {
        running: running.clone(),
        broker: broker.clone(),
        lanes: Lanes::default(),
        window,
        tell,
        extend: None,
    };
    let ended = held.go_on(queue, &mut fates).await;
    running.is_chosen(false);
    // What ends from now on is given back by itself.
    fates.close();
    let mut waiting = held.lanes.into_waiting();
    while let Ok(told) = fates.try_recv() {
        if let Fate::Rests(_) = told.fate {
            waiting.push(told.received);
        }
    }
    (ended, waiting)
}

// === impl InOrder ===

impl InOrder {
    async fn go_on(
        &mut self,
        queue: &mut dyn Queue,
        fates: &mut mpsc::UnboundedReceiver<Told>,
    ) -> Ended {
        let running = self.running.clone();
        loop {
            if running.rests() {
                return Ended::Rests;
            }
            if let Err(why) = self.begin() {
                return Ended::Lost(why);
            }
            self.give_back_rested().await;
            let (extend, paused) = (self.extend, running.paused());
            let rested = self.lanes.next_rested();
            // One more is always asked for: who asks for nothing would not be the one that is delivered to any more, and
            // the broker gives no more than the window.
            let most = self.window.saturating_sub(self.lanes.held()).max(1);
            tokio::select! {
                biased;
                () = running.ended() => return Ended::Over,
                Some(Told { key, position, fate, received }) = fates.recv() => match fate {
                    Fate::Done => self.lanes.done(&key, position),
                    Fate::ComesAgain(after) => {
                        self.lanes.went_back(&key, position, Instant::now() + after);
                    }
                    // The broker would count it among what others must wait for, should they follow.
                    Fate::Rests(after) => {
                        self.keep_leases(&received);
                        self.lanes.rests(&key, position, received, Instant::now() + after);
                    }
                    Fate::Unknown => return Ended::Lost("it is not known whether an event is done".to_owned()),
                },
                pulled = queue.pull(most) => {
                    match pulled {
                        Ok(pulled) => self.came(pulled),
                        Err(why) => return Ended::Lost(why.to_string()),
                    }
                    running.is_chosen(queue.is_chosen());
                    if !self.lanes.is_alone() && self.lanes.held() > 0 {
                        let lag = match queue.lag().await {
                            Ok(lag) => lag,
                            Err(why) => return Ended::Lost(why.to_string()),
                        };
                        // What was done by another one meanwhile is none of those that were counted.
                        if !self.lanes.waiting().all(|one| one.message.is_ours()) {
                            return Ended::Lost(LAPSED.to_owned());
                        }
                        self.lanes.counted(lag.unacknowledged, lag.again);
                    }
                    // Whoever begins anew asks the broker what there is.
                    let before = Instant::now().checked_sub(LATE);
                    if before.is_some_and(|before| self.lanes.misses(before)) {
                        return Ended::Lost("an event did not come again".to_owned());
                    }
                }
                () = at(extend) => if let Err(why) = self.extend().await {
                    return Ended::Lost(why.to_string());
                },
                () = at(paused) => {}
                () = at(rested) => {}
            }
        }
    }

    /// Has the broker deliver again, and count, what has rested.
    async fn give_back_rested(&mut self) {
        for one in self.lanes.rested(Instant::now()) {
            // What is not heard comes again when its lease ends.
            let _ = one.message.give_back(Duration::ZERO).await;
        }
    }

    /// What is held here has its lease begun anew in time.
    fn keep_leases(&mut self, received: &Received) {
        if self.extend.is_none() {
            self.extend = Some(Instant::now() + received.message.lease() / 3);
        }
    }

    fn came(&mut self, pulled: Vec<Box<dyn Delivered>>) {
        for message in pulled {
            let position = message.position();
            let received = Received::of(&self.running.subscription, message);
            let key = key(&self.running.subscription, &received, position);
            self.keep_leases(&received);
            let attempt = received.message.attempt();
            self.lanes.came(key, (position, attempt), received);
        }
    }

    /// Begins what may be begun.
    fn begin(&mut self) -> Result<(), String> {
        while self.running.may_begin() {
            let Ok(place) = self.running.places.clone().try_acquire_owned() else {
                return Ok(());
            };
            let Some((key, position, received)) = self.lanes.begin() else {
                return Ok(());
            };
            if !received.message.is_ours() {
                return Err(LAPSED.to_owned());
            }
            let (running, broker, tell) =
                (self.running.clone(), self.broker.clone(), self.tell.clone());
            tokio::task::spawn_local(async move {
                let fate = {
                    let delivering = pin!(deliver(&running, &*broker, &received));
                    in_flight(&running, 1, delivering).await
                };
                // There is one for each: it is free before anything else can be begun.
                drop(place);
                let told = Told {
                    key,
                    position,
                    fate: fate.unwrap_or(Fate::Unknown),
                    received,
                };
                // Nobody is left who waits for it: whoever comes next need not wait for its lease to end.
                if let Err(mpsc::error::SendError(told)) = tell.send(told)
                    && let Fate::Rests(_) = told.fate
                {
                    let _ = told.received.message.give_back(Duration::ZERO).await;
                }
            });
        }
        Ok(())
    }

    /// Begins the leases of what waits here anew.
    async fn extend(&mut self) -> Result<(), Lost> {
        let waiting = self.lanes.waiting();
        let extended = join_all(waiting.map(|one| one.message.extend())).await;
        let lease = self.lanes.waiting().next();
        let lease = lease.map(|one| one.message.lease());
        self.extend = lease.map(|lease| Instant::now() + lease / 3);
        extended.into_iter().collect()
    }
}

/// For which others an event waits.
fn key(subscription: &Subscription, received: &Received, position: u128) -> Key {
    let attribute = match &subscription.ordering {
        Ordering::Global => return Key::All,
        Ordering::None => return Key::Alone(position),
        Ordering::Key(attribute) => attribute,
    };
    let event = received.event.as_ref().ok();
    let value = event.and_then(|event| event.attribute(attribute));
    // One without a key comes after none.
    value.map_or(Key::Alone(position), |value| Key::Of(value.to_owned()))
}
