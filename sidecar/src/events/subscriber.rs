//! Subscriptions that are carried out: each by one worker of a sidecar, which pulls as many events as it may
//! deliver at once, and no more.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::broker::{Broker, Queue, Unsubscribed};
use super::deliver::deliver;
use super::done::Done;
use super::received::Received;
use super::running::Running;
use super::{batch, in_order, replay, schedule};
use crate::config::subscription::{Exhausted, Source, Subscription, Target};
use crate::config::{self, State};
use crate::policy::load_balancer::hash::of_text;
use crate::proxy::Proxy;

/// From one try to join to the next, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long it is from one count of what is before a group to the next: while it changes, and at most.
const COUNTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// How often a group is seen to whose events nobody is delivered.
const REJOIN: Duration = Duration::from_secs(30);
/// When it is counted first.
const FIRST_COUNT: Duration = Duration::from_millis(500);

/// The subscriptions that a worker carries out.
#[derive(Default)]
pub struct Subscribers {
    carried_out: RefCell<HashMap<String, Subscriber>>,
    suspended: RefCell<Vec<Arc<Subscription>>>,
    /// Held for as long as there is a worker.
    ends: watch::Sender<bool>,
    /// Which events of each are done, from one form of it to the next.
    done: RefCell<HashMap<String, Rc<Done>>>,
}

/// A subscription, as long as it is carried out as it is.
struct Subscriber {
    running: Rc<Running>,
    /// Dropped, it ends: what is being delivered is delivered.
    _going: watch::Sender<bool>,
}

// === impl Subscribers ===

impl Subscribers {
    /// Carries out what a state says, where it is this worker's share: `number` of `count` workers.
    pub fn keep(px: &Rc<Proxy>, state: &State, (number, count): (usize, usize)) {
        let known = known(state);
        let own = |id: &str| share(id, count) == number;
        let own = known.iter().filter(|(id, _)| own(id));
        let own = own.map(|(id, one)| (id, *one));
        let (suspended, wanted): (HashMap<_, _>, HashMap<_, _>) =
            own.partition(|(_, one)| one.suspended);
        px.subscribers.suspend(px, suspended.into_values());
        let mut all = px.subscribers.carried_out.borrow_mut();
        all.retain(|id, held| {
            let same = wanted
                .get(id)
                .is_some_and(|one| Arc::ptr_eq(one, &held.running.subscription));
            if !same {
                let before = &held.running.subscription;
                tracing::info!(subscription = %before.object, "ends");
                replay::forget(px, before, wanted.get(id).map(|next| &***next));
            }
            same
        });
        let mut done = px.subscribers.done.borrow_mut();
        done.retain(|id, _| known.contains_key(id));
        for (id, subscription) in wanted {
            all.entry(id.clone()).or_insert_with(|| {
                let done = done.entry(id.clone()).or_default();
                start(px, subscription, done.clone())
            });
        }
    }

    /// Tells of those that are suspended, and no longer of those that were.
    fn suspend<'s>(&self, px: &Proxy, suspended: impl Iterator<Item = &'s Arc<Subscription>>) {
        let events = &px.metrics.all().events;
        let suspended = Vec::from_iter(suspended.cloned());
        for one in &suspended {
            events.suspended(&one.object);
        }
        for one in self.suspended.replace(suspended) {
            if !self.tells_of(&one.object) {
                events.subscribed(&one.object, None);
            }
        }
    }

    /// Whether one of this name (`namespace/name`) is carried out, or suspended.
    fn tells_of(&self, object: &str) -> bool {
        let all = self.carried_out.borrow();
        let suspended = self.suspended.borrow();
        let carried_out = all.values().map(|one| &one.running.subscription);
        let mut all = carried_out.chain(&*suspended);
        all.any(|one| *one.object == *object)
    }

    /// One of this name, for what somebody wants of it beside.
    pub(super) fn running(&self, px: &Rc<Proxy>, object: &str) -> Option<Running> {
        let all = self.carried_out.borrow();
        let mut carried_out = all.values().map(|one| &one.running);
        if let Some(running) = carried_out.find(|one| *one.subscription.object == *object) {
            return Some(running.another());
        }
        let suspended = self.suspended.borrow();
        let one = suspended.iter().find(|one| *one.object == *object)?;
        let going = (self.ends.subscribe(), Rc::default());
        Some(Running::new(&Rc::downgrade(px), one, going).another())
    }

    /// Ends all of them: nothing more is pulled.
    pub fn end(&self) {
        self.carried_out.borrow_mut().clear();
        self.suspended.borrow_mut().clear();
    }
}

/// All that are to be carried out: EventSubscriptions, and those by which results are taken.
fn known(state: &State) -> HashMap<String, &Arc<Subscription>> {
    let written = state.built.subscriptions.iter();
    let written = written.map(|(id, one)| (id.clone(), one));
    let publish = state.built.publish.values();
    let results = publish.flat_map(|one| one.async_replies());
    let results = results.map(|one| (format!("results/{}", one.kept.name), &one.taking));
    written.chain(results).collect()
}

/// Which worker carries out a subscription.
fn share(id: &str, count: usize) -> usize {
    let hash = of_text(id.as_bytes());
    usize::try_from(hash % count.max(1) as u64).unwrap_or(0)
}

fn start(px: &Rc<Proxy>, subscription: &Arc<Subscription>, done: Rc<Done>) -> Subscriber {
    let (going, goes) = watch::channel(true);
    let running = Rc::new(Running::new(&Rc::downgrade(px), subscription, (goes, done)));
    px.metrics.all().events.begins(&subscription.object);
    let carried_out = running.clone();
    tokio::task::spawn_local(async move {
        let running = carried_out;
        let broker = match &running.subscription.source {
            Source::Broker(broker) => broker.clone(),
            // What is due for nobody is late.
            Source::Schedule(_) if running.subscription.counts_only => {
                let _told = Told(&running);
                running.tell(|events, object| events.nobody(object));
                return running.ended().await;
            }
            Source::Schedule(schedule) => {
                let schedule = schedule.clone();
                return schedule::carry_out(running, schedule).await;
            }
        };
        tokio::select! {
            () = carry_out(running.clone(), &broker) => {}
            never = count(&running, &broker) => match never {},
            never = replay::carry_out(&running) => match never {},
        }
    });
    Subscriber {
        running,
        _going: going,
    }
}

/// What metrics say of a subscription, as long as this is held.
pub(super) struct Told<'r>(pub(super) &'r Running);

impl Told<'_> {
    pub(super) fn set(&self, is: bool) {
        if let Some(px) = self.0.px.upgrade() {
            let events = &px.metrics.all().events;
            events.subscribed(&self.0.subscription.object, Some(is));
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let object = &self.0.subscription.object;
        // Another may carry it out already, as it is written by now.
        if let Some(px) = self.0.px.upgrade()
            && !px.subscribers.tells_of(object)
        {
            px.metrics.all().events.subscribed(object, None);
        }
    }
}

/// Joins and pulls, until it ends.
async fn carry_out(running: Rc<Running>, broker: &Arc<config::broker::Broker>) {
    let object = running.subscription.object.clone();
    let counts_only = running.subscription.counts_only;
    if counts_only {
        running.tell(|events, object| events.nobody(object));
    }
    tracing::info!(subscription = %object, topic = %running.subscription.group.topic, "begins");
    let (mut pause, mut told) = (AGAIN.0, None);
    let subscribed = Told(&running);
    while running.goes_on() {
        subscribed.set(false);
        let why = match joined(&running, broker).await {
            // The group is there, so that what is published from now on waits for it.
            Ok((_, mut queue)) if counts_only => {
                queue.leave().await;
                drop(queue);
                running.tell(|events, object| events.waits(object, ""));
                // Whatever takes it away meanwhile, it is there again before long.
                if !running.goes_on_for(REJOIN).await {
                    return;
                }
                continue;
            }
            Ok((broker, queue)) => {
                subscribed.set(true);
                running.tell_circuit();
                if told.take().is_some() {
                    tracing::info!(subscription = %object, "goes on");
                }
                let since = Instant::now();
                // The process does not end before what was pulled and not delivered has gone back.
                let work = running.px.upgrade().map(|px| px.drain.work());
                let lost = pull(&running, &broker, queue).await;
                drop(work);
                // One that is lost as soon as it is joined is not joined at every turn.
                if since.elapsed() > AGAIN.1 {
                    pause = AGAIN.0;
                }
                match lost {
                    None => return,
                    Some(why) => why,
                }
            }
            Err(why) => why,
        };
        if told.as_ref() != Some(&why) {
            tracing::warn!(subscription = %object, %why, "nothing is delivered for now");
            running.tell(|events, object| events.waits(object, &why));
            told = Some(why);
        }
        if !running
            .goes_on_for(pause.mul_f64(rand::random_range(0.5..=1.0)))
            .await
        {
            return;
        }
        pause = (pause * 2).min(AGAIN.1);
    }
}

/// Counts what is before the group, now and then.
async fn count(running: &Running, broker: &Arc<config::broker::Broker>) -> Infallible {
    let subscription = &running.subscription;
    let (mut pause, mut before) = (FIRST_COUNT, None);
    loop {
        sleep(pause.mul_f64(rand::random_range(0.9..=1.0))).await;
        let Some(px) = running.px.upgrade() else {
            return pending().await;
        };
        let lag = match px.brokers.at(&px, broker).await {
            Ok(broker) => broker.lag(&subscription.group).await.ok(),
            Err(_) => None,
        };
        px.metrics.all().events.lag(&subscription.object, lag);
        pause = match lag == before {
            true => (pause * 2).clamp(COUNTS.0, COUNTS.1),
            false => COUNTS.0,
        };
        before = lag;
    }
}

/// Joins the group, or says why that can't be.
async fn joined(
    running: &Running,
    source: &Arc<config::broker::Broker>,
) -> Result<(Rc<dyn Broker>, Box<dyn Queue>), String> {
    let gone = || "this sidecar ends".to_owned();
    let px = running.px.upgrade().ok_or_else(gone)?;
    let subscription = &running.subscription;
    let of = |broker: &config::broker::Broker, why: Unsubscribed| {
        why.told(broker.name(), &subscription.group)
    };
    let (broker, mut queue) = of_source(&px, subscription, source)
        .await
        .map_err(|why| of(source, why))?;
    // After that, so that what is published meanwhile waits for the group, whatever is wrong with the other topic.
    if subscription.group.create
        && let Target::Topic(to) = &subscription.target
        && subscription.target.lacks().is_none()
    {
        let declared = async {
            let broker = px.brokers.at(&px, &to.broker).await?;
            broker.declare_topic(&to.name).await
        };
        if let Err(why) = declared.await {
            queue.leave().await;
            return Err(of(&to.broker, why));
        }
    }
    // What is published meanwhile waits for the group.
    if let Some(why) = subscription.target.lacks() {
        queue.leave().await;
        return Err(of(source, Unsubscribed::Lacking(why.to_owned())));
    }
    Ok((broker, queue))
}

/// Joins the group, once what is needed beside it is there.
async fn of_source(
    px: &Rc<Proxy>,
    subscription: &Subscription,
    source: &Arc<config::broker::Broker>,
) -> Result<(Rc<dyn Broker>, Box<dyn Queue>), Unsubscribed> {
    let broker = px.brokers.at(px, source).await?;
    if subscription.group.create {
        // Before anything has to go there.
        if let Exhausted::DeadLetter(topic) = &subscription.exhausted {
            broker.create_topic(topic).await?;
        }
        if let Some(topic) = &subscription.reply {
            broker.declare_topic(topic).await?;
        }
    }
    let queue = broker.join(&subscription.group).await?;
    Ok((broker, queue))
}

/// Pulls and delivers until the group is lost, and says why; nothing when the subscription ends.
async fn pull(
    running: &Rc<Running>,
    broker: &Rc<dyn Broker>,
    mut queue: Box<dyn Queue>,
) -> Option<String> {
    let subscription = &running.subscription;
    let (ended, waiting) = match (subscription.group.window, subscription.batch) {
        (Some(window), _) => in_order::pull(running, broker, &mut *queue, window).await,
        (None, Some(batch)) => batch::pull(running, broker, &mut *queue, batch).await,
        (None, None) => (one_by_one(running, broker, &mut *queue).await, Vec::new()),
    };
    // Whoever comes next need not wait for leases to end. What was asked for would come to nobody.
    queue.leave().await;
    let back = waiting.iter();
    join_all(back.map(|one| one.message.give_back(Duration::ZERO))).await;
    drop((queue, waiting));
    match ended {
        Ended::Over => None,
        Ended::Lost(why) => Some(why),
        Ended::Rests => running.rested().await,
    }
}

/// Why no more is pulled.
pub(super) enum Ended {
    /// The subscription ends.
    Over,
    /// Nothing is to be pulled for long.
    Rests,
    Lost(String),
}

/// Returns then; never when there is no such moment.
pub(super) async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Pulls, and delivers each event for itself.
async fn one_by_one(
    running: &Rc<Running>,
    broker: &Rc<dyn Broker>,
    queue: &mut dyn Queue,
) -> Ended {
    loop {
        if running.rests_or_fails() {
            return Ended::Rests;
        }
        let Some(most) = running.room(queue.would_ask()).await else {
            return Ended::Over;
        };
        if most == 0 {
            continue;
        }
        let pulled = tokio::select! {
            biased;
            () = running.ended() => return Ended::Over,
            pulled = queue.pull(most) => pulled,
        };
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(why) => return Ended::Lost(why.to_string()),
        };
        for message in pulled {
            // There is one for each: nobody else takes any.
            let Ok(place) = running.places.clone().try_acquire_owned() else {
                return Ended::Lost("more came than were asked for".to_owned());
            };
            let (running, broker) = (running.clone(), broker.clone());
            tokio::task::spawn_local(async move {
                let received = Received::of(&running.subscription, message);
                // It is large, and the task is moved before it begins.
                let delivering = Box::pin(deliver(&running, &*broker, &received));
                in_flight(&running, 1, delivering).await;
                drop(place);
                running.has_left();
            });
        }
    }
}

/// Delivers so many events; the process does not end before their fate is known. Nothing when it has ended.
pub(super) async fn in_flight<T>(
    running: &Running,
    count: usize,
    delivering: impl Future<Output = T>,
) -> Option<T> {
    let px = running.px.upgrade()?;
    let _work = px.drain.work();
    let events = &px.metrics.all().events;
    let in_flight = events.in_flight(&running.subscription.object);
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    in_flight.inc_by(count);
    drop(px);
    let fate = delivering.await;
    in_flight.dec_by(count);
    Some(fate)
}
