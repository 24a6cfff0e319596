//! A schedule, as each sidecar carries it out: whoever claims first what is due delivers it, and goes on claiming it until
//! it is done. What a sidecar leaves undone another one is granted ([`wire::grant`]), as the same event.
//!
//! What is due is begun once the operator holds that it is, and not before. So a schedule waits while there is no
//! operator, and what had begun goes on for as long as it is granted.

mod fired;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::LocalBoxFuture;
use jiff::Timestamp;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use wire::discovery::{self, Claim, Grant};
use wire::grant::{LIFE, MAX_OPEN, RENEW};

use super::running::Running;
use super::subscriber::{Told, at};
use crate::config::schedule::{Overlap, Schedule};
use crate::drain::Work;
use fired::Mesh;

/// From one claim that nobody answered to the next.
const AGAIN: Duration = Duration::from_secs(1);
/// How often the clock is looked at, at least: it may be set.
const LOOK: Duration = Duration::from_secs(30);
/// For how long the application beside may be unreachable until another sidecar is let try.
const HAND_ON: Duration = Duration::from_secs(10);

/// Carries out a schedule until the subscription ends.
pub(super) async fn carry_out(running: Rc<Running>, schedule: Arc<Schedule>) {
    let object = &running.subscription.object;
    tracing::info!(subscription = %object, schedule = schedule.text, "begins");
    let subscribed = Told(&running);
    subscribed.set(false);
    let mesh = Mesh::new(&running, &schedule, &subscribed);
    let most = running.subscription.max_in_flight;
    Scheduled::new(mesh, schedule.clone(), object, most)
        .run(running.ended())
        .await;
}

/// What a schedule needs of what is around it.
trait World {
    /// What time it is.
    fn now(&self) -> Timestamp;

    /// Claims; nothing when nobody answers.
    fn claim(&self, claim: Claim) -> LocalBoxFuture<'static, Option<Grant>>;

    /// Delivers what was due then, again and again; `attempts` counts.
    fn deliver(&self, due: Timestamp, attempts: Rc<Cell<u32>>) -> LocalBoxFuture<'static, Fired>;

    /// What keeps this sidecar from delivering.
    fn hindrance(&self) -> Hindrance;

    /// Whether the operator answers, or why it is in vain.
    fn answered(&self, is: bool);
}

/// What became of a delivery.
struct Fired {
    is_done: bool,
    /// The process does not end before that has been told.
    work: Option<Work>,
}

/// What keeps a sidecar from delivering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hindrance {
    /// The target is gone.
    is_gone: bool,
    /// It asked to wait until then.
    paused: Option<Instant>,
    /// It has not been reached since then, and another sidecar may reach it.
    unreached: Option<Instant>,
}

/// A schedule that is carried out.
struct Scheduled<W> {
    world: W,
    schedule: Arc<Schedule>,
    /// The resource that says so.
    id: String,
    object: String,
    owner: u64,
    /// How many are delivered at a time.
    most: usize,
    /// Up to where all was begun, or missed; not known at first.
    begun: Option<Timestamp>,
    held: Option<Hold>,
    /// By when each was due.
    runs: BTreeMap<Timestamp, Run>,
    tasks: JoinSet<(Timestamp, Fired)>,
    /// Nothing is claimed before that, unless it is held.
    not_before: Instant,
    /// Whether something is to be claimed then, due or not.
    looks: bool,
    is_ending: bool,
}

/// What is held.
#[derive(Clone, Copy)]
struct Hold {
    token: u64,
    /// Since when.
    since: Instant,
    until: Instant,
    renew: Instant,
}

/// What has begun.
struct Run {
    attempts: Rc<Cell<u32>>,
    task: AbortHandle,
    /// It is delivered, or exhausted. Until the operator has heard that, it stays.
    is_done: bool,
    /// Another sidecar is to have it.
    is_left: bool,
    /// The process does not end before the operator has heard what became of it.
    work: Option<Work>,
}

// === impl Scheduled ===

impl<W: World> Scheduled<W> {
    fn new(world: W, schedule: Arc<Schedule>, object: &str, most: usize) -> Self {
        Self {
            world,
            schedule,
            id: format!("subscription/{object}"),
            object: object.to_owned(),
            owner: rand::random(),
            most: most.min(MAX_OPEN),
            begun: None,
            held: None,
            runs: BTreeMap::new(),
            tasks: JoinSet::new(),
            not_before: Instant::now(),
            looks: true,
            is_ending: false,
        }
    }

    /// Goes on until `ended` returns and what is under way is delivered.
    async fn run(mut self, ended: impl Future<Output = ()>) {
        let mut ended = std::pin::pin!(ended);
        loop {
            self.lose();
            if self.is_ending && self.tasks.is_empty() {
                return self.leave().await;
            }
            if let Some(claim) = self.due() {
                self.ask(claim).await;
                continue;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                () = &mut ended, if !self.is_ending => self.is_ending = true,
                Some(fired) = self.tasks.join_next() => {
                    // One that was broken off has been seen to.
                    if let Ok((due, fired)) = fired {
                        self.fired(due, fired);
                    }
                }
                () = at(wake) => {}
            }
        }
    }

    /// Breaks off what is no longer granted: somebody else may deliver it by now.
    fn lose(&mut self) {
        if self.held.is_some_and(|held| held.until <= Instant::now()) {
            tracing::warn!(subscription = %self.object, "what is under way is broken off: the operator has not answered for long");
            self.drop_all();
            self.look_in(Duration::ZERO);
        }
        if self.hands_on().is_some_and(|then| then <= Instant::now()) {
            for run in self.runs.values_mut() {
                if !run.is_done && !run.is_left {
                    // It reached nobody.
                    run.attempts.set(run.attempts.get().saturating_sub(1));
                    run.is_left = true;
                    run.task.abort();
                }
            }
        }
    }

    /// When another sidecar is let try.
    fn hands_on(&self) -> Option<Instant> {
        let held = self.held.filter(|_| !self.is_ending)?;
        let since = self.world.hindrance().unreached?;
        Some(since.max(held.since) + HAND_ON)
    }

    fn drop_all(&mut self) {
        self.held = None;
        self.runs.clear();
        self.tasks.abort_all();
        self.tasks = JoinSet::new();
    }

    fn look_in(&mut self, wait: Duration) {
        self.looks = true;
        self.not_before = Instant::now() + wait.mul_f64(rand::random_range(0.8..=1.2));
    }

    /// What is to be claimed now.
    fn due(&mut self) -> Option<Claim> {
        let now = Instant::now();
        let hindrance = self.world.hindrance();
        let hindered = hindrance.is_gone || hindrance.paused.is_some_and(|until| until > now);
        let Some(held) = self.held else {
            if self.is_ending || hindered || self.not_before > now {
                return None;
            }
            let begin = self.candidate();
            return (self.looks || begin.is_some()).then(|| self.says(begin));
        };
        if self.not_before > now {
            return None;
        }
        let left = self.tasks.is_empty() && self.runs.values().any(|run| !run.is_done);
        if left {
            // What is not done here goes to another one.
            tracing::info!(subscription = %self.object, "another sidecar may deliver what is due");
            return Some(Claim {
                released: true,
                ..self.says(None)
            });
        }
        let is_told = !self.runs.values().any(|run| run.is_done);
        let hindered = hindered || self.is_ending || hindrance.unreached.is_some();
        let begin = self.candidate().filter(|_| !hindered && self.has_room());
        if begin.is_some() && self.schedule.overlap == Overlap::Replace {
            self.replace();
        }
        (begin.is_some() || !is_told || held.renew <= now).then(|| self.says(begin))
    }

    /// What may begin: the newest that is due, unless it is too late.
    fn candidate(&mut self) -> Option<Timestamp> {
        let (begun, now) = (self.begun?, self.world.now());
        let newest = self.schedule.newest(begun, now)?;
        if self.schedule.is_missed(newest, now) {
            tracing::warn!(subscription = %self.object, due = %newest, "it is missed: it could not begin by its deadline");
            self.begun = Some(newest);
            return None;
        }
        Some(newest)
    }

    /// Whether something may begin beside what is under way.
    fn has_room(&self) -> bool {
        let under_way = self.runs.values().filter(|run| !run.is_done).count();
        match self.schedule.overlap {
            Overlap::Allow => under_way < self.most,
            Overlap::Forbid => under_way == 0,
            Overlap::Replace => true,
        }
    }

    fn replace(&mut self) {
        for (due, run) in &mut self.runs {
            if !run.is_done {
                tracing::info!(subscription = %self.object, %due, "it is broken off: what was due next is delivered instead");
                run.task.abort();
                run.is_done = true;
            }
        }
    }

    fn says(&self, begin: Option<Timestamp>) -> Claim {
        let runs = self.runs.iter().map(|(due, run)| discovery::Run {
            due_ms: due.as_millisecond(),
            attempts: run.attempts.get(),
            done: run.is_done,
        });
        Claim {
            number: 0,
            id: self.id.clone(),
            owner: self.owner,
            form: self.schedule.form.clone(),
            token: self.held.map_or(0, |held| held.token),
            begin_ms: begin.map(Timestamp::as_millisecond),
            runs: runs.collect(),
            released: false,
        }
    }

    /// Claims, and does what follows from the answer.
    async fn ask(&mut self, claim: Claim) {
        let (asked, released, begin) = (Instant::now(), claim.released, claim.begin_ms);
        let answer = tokio::select! {
            biased;
            () = at(self.held.map(|held| held.until)) => None,
            answer = self.world.claim(claim) => answer,
        };
        self.world.answered(answer.is_some());
        let Some(grant) = answer else {
            return self.look_in(AGAIN);
        };
        let begun = Timestamp::from_millisecond(grant.begun_ms).unwrap_or(Timestamp::MIN);
        self.begun = Some(self.begun.map_or(begun, |before| before.max(begun)));
        if grant.token != 0 {
            self.hold(asked, &grant);
            // As when this clock is ahead: what it refuses to begin is not claimed at every turn.
            let has_begun = |due| grant.open.iter().any(|run| run.due_ms == due);
            if begin.is_some_and(|due| !has_begun(due)) {
                self.not_before = Instant::now() + AGAIN;
            }
            return;
        }
        if self.runs.values().any(|run| !run.is_done) && !released {
            tracing::warn!(subscription = %self.object, "what is under way is broken off: it was granted to another sidecar");
        }
        self.drop_all();
        match (released, grant.again_ms) {
            // Others first.
            (true, _) => self.look_in(LIFE),
            (false, 0) => {
                self.looks = false;
                self.not_before = Instant::now();
                // The same.
                if self.candidate().is_some() {
                    self.look_in(AGAIN);
                }
            }
            (false, again) => self.look_in(Duration::from_millis(again)),
        }
    }

    fn hold(&mut self, asked: Instant, grant: &Grant) {
        self.held = Some(Hold {
            token: grant.token,
            since: self.held.map_or(asked, |held| held.since),
            until: asked + Duration::from_millis(grant.hold_ms),
            renew: asked + RENEW,
        });
        (self.looks, self.not_before) = (false, Instant::now());
        let open = grant.open.iter().filter_map(|run| {
            let due = Timestamp::from_millisecond(run.due_ms).ok()?;
            Some((due, run.attempts))
        });
        let open = BTreeMap::from_iter(open);
        self.runs.retain(|due, run| {
            let stays = open.contains_key(due);
            if !stays {
                run.task.abort();
            }
            stays
        });
        for (due, attempts) in open {
            if !self.runs.contains_key(&due) {
                self.start(due, attempts);
            }
        }
    }

    fn start(&mut self, due: Timestamp, attempts: u32) {
        let attempts = Rc::new(Cell::new(attempts.max(1)));
        let delivering = self.world.deliver(due, attempts.clone());
        let task = self
            .tasks
            .spawn_local(async move { (due, delivering.await) });
        let run = Run {
            attempts,
            task,
            is_done: false,
            is_left: false,
            work: None,
        };
        self.runs.insert(due, run);
    }

    fn fired(&mut self, due: Timestamp, fired: Fired) {
        if let Some(run) = self.runs.get_mut(&due) {
            run.is_done |= fired.is_done;
            run.work = fired.work;
        }
    }

    /// When there is something to look at again, if nothing else happens.
    fn wake(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let clock = self.next_due().map(|due| {
            let left = due.duration_since(self.world.now());
            let left = Duration::try_from(left).unwrap_or_default();
            now + left.min(LOOK)
        });
        let Hindrance {
            is_gone,
            paused,
            unreached,
        } = self.world.hindrance();
        match self.held {
            Some(held) => {
                let hindered = self.is_ending || is_gone || unreached.is_some();
                let due = clock.filter(|_| self.has_room() && !hindered);
                let due = due.map(|due| due.max(paused.unwrap_or(now)));
                // What was left is claimed no more once its task has ended.
                let hand_on = self.hands_on().filter(|then| *then > now);
                let soonest = [Some(held.renew), due, hand_on].into_iter().flatten().min();
                soonest.map(|soonest| soonest.max(self.not_before).min(held.until))
            }
            None if is_gone || self.is_ending => None,
            None => {
                let looks = self.looks.then_some(self.not_before);
                let soonest = [looks, clock].into_iter().flatten().min();
                soonest.map(|soonest| soonest.max(self.not_before).max(paused.unwrap_or(now)))
            }
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        let next = self.schedule.next(self.begun?)?;
        next.checked_add(self.schedule.delay).ok()
    }

    /// Gives up what is held: whoever comes next need not wait for its end.
    async fn leave(self) {
        if self.held.is_some() {
            let claim = Claim {
                released: true,
                ..self.says(None)
            };
            // If nobody hears it, it ends by itself.
            let _ = self.world.claim(claim).await;
        }
    }
}

#[cfg(test)]
mod tests;
