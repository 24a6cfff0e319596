//! Events that are delivered once more: dead letters of a subscription, or what its topic has held since some moment.
//!
//! A run has a group of its own, named after it, which remembers how far it is: whatever dies, it goes on there, and a
//! run that is done finds nothing more. What it delivers goes to the subscription's own target, as what is new
//! does, and takes its places. Dead letters are taken out of their topic as they are seen to; those of others, and
//! what came later than the run is about, stay.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};
use wire::discovery::ReplayReport;

use super::broker::{Broker, Delivered, Group, Queue, Start};
use super::cloud_event::Event;
use super::deliver::{deliver, deliver_batch};
use super::lanes::Fate;
use super::received::Received;
use super::running::Running;
use super::subscriber::in_flight;
use crate::config::subscription::{Exhausted, Replay, ReplayFrom, Source, Subscription};
use crate::proxy::Proxy;
use crate::telemetry::metrics::events::Delivered as Outcome;

mod letter;

use letter::Replayed;

/// From one try to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How many are asked for at once.
const MOST: usize = 64;
/// For how many seconds it has enough to begin.
const SOON: usize = 4;
/// How many that are not seen to may be held where acknowledging takes them from everybody, and how many bytes of them.
const ASIDE: (usize, usize) = (1_000, 64 * 1024 * 1024);
/// Why a run does not go on behind so many.
const IN_THE_WAY: &str = "1000 that are not to be replayed, or 64 MiB of them, stand in the queue before what is: replay \
                          or purge those first";
/// How often it is looked whether those that come again are done.
const LOOK: Duration = Duration::from_millis(250);

/// What is done with what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// It is delivered.
    Deliver,
    /// It is dropped, for good.
    Discard,
    /// It is shown, and stays: so many at most.
    Show(usize),
}

/// What has become of a run so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Taken by the target, or dropped.
    done: Cell<u64>,
    /// Exhausted anew.
    failed: Cell<u64>,
}

/// A run.
pub(super) struct Run<'r> {
    pub(super) running: &'r Rc<Running>,
    pub(super) replay: &'r Replay,
    pub(super) work: Work,
    /// Whether nobody will ask for it again once it is done: its group is forgotten.
    pub(super) once: bool,
    /// Told of each that is found.
    pub(super) shown: &'r dyn Fn(&Event),
}

/// Whether there was more than a run has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    All,
    Some,
}

/// Messages that are held until a run ends, and then are where they were.
#[derive(Default)]
struct Aside {
    messages: Vec<Box<dyn Delivered>>,
    bytes: usize,
}

/// What a message is to a run.
enum Kind {
    /// It is to be seen to: the event as it is in its topic.
    Ours(Box<Event>),
    /// It came later than what the run is about.
    Later,
    /// It is another's, or can't be delivered.
    Others,
}

// === impl Tally ===

impl Tally {
    /// This became of one.
    pub(super) fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged | Outcome::Filtered | Outcome::Dropped => {
                self.done.set(self.done.get() + 1);
            }
            Outcome::DeadLettered => self.failed.set(self.failed.get() + 1),
            _ => {}
        }
    }

    /// How many were taken, and how many exhausted anew.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.done.get(), self.failed.get())
    }
}

/// Carries out what `spec.replay` says, and tells how it goes.
pub(super) async fn carry_out(running: &Running) -> Infallible {
    let subscription = running.subscription.clone();
    let replay = subscription.replay.as_ref();
    let Some(replay) = replay.filter(|_| !subscription.counts_only) else {
        return pending().await;
    };
    let own = Rc::new(running.another());
    let tell = |finished: bool, why: &str| {
        let (done, failed) = own.tally.numbers();
        let report = ReplayReport {
            request: replay.request.to_string(),
            done,
            failed,
            finished,
            why: why.to_owned(),
        };
        running.tell(|events, object| events.replays(object, report));
    };
    let mut pause = AGAIN.0;
    tell(false, "");
    loop {
        let run = Run {
            running: &own,
            replay,
            work: Work::Deliver,
            once: false,
            shown: &|_| {},
        };
        let ended = {
            let going = run.go();
            tokio::pin!(going);
            loop {
                tokio::select! {
                    ended = &mut going => break ended,
                    () = sleep(LOOK) => tell(false, ""),
                }
            }
        };
        match ended {
            Ok(_) => {
                tell(true, "");
                return pending().await;
            }
            Err(why) => {
                tracing::warn!(subscription = %subscription.object, %why, "a replay does not go on for now");
                tell(false, &why);
            }
        }
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// Has the broker forget what a run was remembered by that is not written any more, where the subscription goes on.
/// Who can't be told now remembers it for ever, which costs next to nothing.
pub(super) fn forget(px: &Rc<Proxy>, before: &Arc<Subscription>, next: Option<&Subscription>) {
    let group_of = |one: &Subscription| {
        let replay = one.replay.as_ref()?;
        group(one, replay)
    };
    let Some(group) = group_of(before).filter(|_| next.is_some()) else {
        return;
    };
    if next.and_then(group_of).is_some_and(|next| next == group) {
        return;
    }
    let Source::Broker(broker) = before.source.clone() else {
        return;
    };
    let px = px.clone();
    tokio::task::spawn_local(async move {
        if let Ok(broker) = px.brokers.at(&px, &broker).await {
            let _ = broker.forget(&group).await;
        }
    });
}

/// The group of a run.
pub(super) fn group(subscription: &Subscription, replay: &Replay) -> Option<Group> {
    let (topic, start, kept) = match (&replay.from, &subscription.exhausted) {
        (ReplayFrom::Since(time), _) => (&*subscription.group.topic, Start::Time(*time), false),
        (ReplayFrom::DeadLetters, Exhausted::DeadLetter(topic)) => {
            (&**topic, Start::Earliest, true)
        }
        (ReplayFrom::DeadLetters, _) => return None,
    };
    Some(Group {
        name: format!("{}.replay.{}", subscription.group.name, replay.request),
        topic: topic.to_owned(),
        start,
        create: subscription.group.create,
        window: None,
        kept,
    })
}

/// Leaves one alone; whether others may be left alone as well.
async fn pass_by(
    message: Box<dyn Delivered>,
    queue: &dyn Queue,
    aside: &mut Aside,
) -> Result<Seen, String> {
    // It is still there for everybody but this run.
    if !queue.takes() {
        let passed_by = message.acknowledge().await;
        return passed_by.map(|()| Seen::All).map_err(|why| why.to_string());
    }
    aside.bytes += message.message().data.len();
    aside.messages.push(message);
    let is_full = aside.messages.len() >= ASIDE.0 || aside.bytes >= ASIDE.1;
    Ok(if is_full { Seen::Some } else { Seen::All })
}

// === impl Run ===

impl Run<'_> {
    /// Goes on with it until there is no more.
    ///
    /// # Errors
    /// Why it does not go on for now: a sentence.
    pub(super) async fn go(&self) -> Result<Seen, String> {
        let running = self.running;
        let gone = || "this sidecar ends".to_owned();
        let px = running.px.upgrade().ok_or_else(gone)?;
        let subscription = &running.subscription;
        let group = group(subscription, self.replay);
        let group = group.ok_or_else(|| "it has no dead letter topic".to_owned())?;
        let Source::Broker(broker) = &subscription.source else {
            return Err("a schedule has no broker".to_owned());
        };
        let broker = px.brokers.at(&px, broker).await;
        let broker = broker.map_err(|why| why.to_string())?;
        drop(px);
        let mut queue = broker.join(&group).await.map_err(|why| why.to_string())?;
        // What is there is all that there is.
        queue.hurry();
        let mut aside = Aside::default();
        let ended = self.pull(&broker, &mut *queue, (&group, &mut aside)).await;
        queue.leave().await;
        for message in &aside.messages {
            let _ = message.give_back(Duration::ZERO).await;
        }
        drop((queue, aside));
        // What only looks leaves nothing behind.
        if matches!(self.work, Work::Show(_)) || (self.once && ended.is_ok()) {
            let _ = broker.forget(&group).await;
        }
        ended
    }

    async fn pull(
        &self,
        broker: &Rc<dyn Broker>,
        queue: &mut dyn Queue,
        (group, aside): (&Group, &mut Aside),
    ) -> Result<Seen, String> {
        let running = self.running;
        let (mut next, mut seen) = (Instant::now(), 0_usize);
        loop {
            // Whoever only looks, or throws away, asks nothing of the target.
            let room = match self.work {
                Work::Deliver => running.room(queue.would_ask()).await,
                Work::Show(_) | Work::Discard => running.goes_on().then_some(usize::MAX),
            };
            let Some(room) = room else {
                return Err("the subscription ends, or is written anew".to_owned());
            };
            let pulled = tokio::select! {
                biased;
                () = running.ended() => return Err("the subscription ends, or is written anew".to_owned()),
                pulled = queue.pull(room.min(self.most())) => pulled.map_err(|why| why.to_string())?,
            };
            let mut ours = false;
            for message in pulled {
                let event = match self.kind(&*message) {
                    Kind::Ours(event) => event,
                    Kind::Others | Kind::Later => {
                        match (pass_by(message, &*queue, aside).await?, self.work) {
                            (Seen::All, _) => continue,
                            (Seen::Some, Work::Show(_)) => return Ok(Seen::Some),
                            (Seen::Some, _) => return Err(IN_THE_WAY.to_owned()),
                        }
                    }
                };
                ours = true;
                seen += 1;
                (self.shown)(&event);
                let run = self.replay.request.clone();
                let letters = (group.kept).then(|| (broker.clone(), group.topic.clone()));
                match self.work {
                    Work::Show(most) => {
                        let passed_by = pass_by(message, &*queue, aside).await?;
                        if passed_by == Seen::Some || seen >= most {
                            return Ok(Seen::Some);
                        }
                    }
                    Work::Discard => {
                        sleep_until(next).await;
                        next = Instant::now() + Duration::from_secs(1) / self.replay.rate;
                        let done = Replayed {
                            message,
                            letters,
                            run,
                        };
                        done.acknowledge().await.map_err(|why| why.to_string())?;
                        running.tally.count(Outcome::Dropped);
                    }
                    Work::Deliver => {
                        sleep_until(next).await;
                        next = Instant::now() + Duration::from_secs(1) / self.replay.rate;
                        let message = Box::new(Replayed {
                            message,
                            letters,
                            run,
                        });
                        let event = Ok(match group.kept {
                            true => letter::event(&event),
                            false => *event,
                        });
                        self.begin(broker, Received { message, event })?;
                    }
                }
            }
            if ours {
                continue;
            }
            // Nothing of it was left to begin. What was begun may come again.
            let lag = queue.lag().await.map_err(|why| why.to_string())?;
            let aside = u64::try_from(aside.messages.len()).unwrap_or(u64::MAX);
            if running.is_idle() && lag.unacknowledged <= aside {
                return Ok(Seen::All);
            }
            sleep(LOOK).await;
        }
    }

    /// How many are asked for at once: they are begun before their lease ends.
    fn most(&self) -> usize {
        let soon = usize::try_from(self.replay.rate).unwrap_or(MOST);
        soon.saturating_mul(SOON).min(MOST)
    }

    fn kind(&self, message: &dyn Delivered) -> Kind {
        let subscription = &self.running.subscription;
        let is_later = |time: Option<SystemTime>| time.is_some_and(|time| time > self.replay.until);
        let read = Received::read(subscription, message);
        if let ReplayFrom::Since(_) = self.replay.from {
            return match read {
                _ if is_later(message.published()) => Kind::Later,
                Ok(event) => Kind::Ours(Box::new(event)),
                // It is a dead letter since it came first.
                Err(_) => Kind::Others,
            };
        }
        let (Ok(event) | Err(event)) = read;
        let of_ours = event.attribute("dlqsubscription") == Some(&*subscription.object);
        let is_event = event.attribute("dlqreason") != Some(letter::MALFORMED);
        match of_ours && (is_event || self.work != Work::Deliver) {
            false => Kind::Others,
            true if is_later(letter::time(&event)) => Kind::Later,
            true => Kind::Ours(Box::new(event)),
        }
    }

    /// Begins to deliver one. There is a place for it: no more were asked for.
    fn begin(&self, broker: &Rc<dyn Broker>, received: Received) -> Result<(), String> {
        let (running, broker) = (self.running.clone(), broker.clone());
        let Ok(place) = running.places.clone().try_acquire_owned() else {
            return Err("more came than were asked for".to_owned());
        };
        running.begins();
        tokio::task::spawn_local(async move {
            let batch = running.subscription.batch.is_some();
            {
                let delivering = pin!(async {
                    if batch {
                        deliver_batch(&running, &*broker, std::slice::from_ref(&received)).await;
                        return;
                    }
                    // Nothing rests here, as what is in order would.
                    if let Fate::Rests(after) = deliver(&running, &*broker, &received).await {
                        let _ = received.message.give_back(after).await;
                    }
                });
                in_flight(&running, 1, delivering).await;
            }
            drop((place, received));
            running.ends_one();
        });
        Ok(())
    }
}
