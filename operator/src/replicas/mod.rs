//! Several replicas: each serves streams, and tells the one that leads what its sidecars hold. Only
//! there are counts of all of them.
//!
//! [`follow`] is the reporting end, [`service`] the one that is told, [`dial`] the connection between
//! them, and [`Replicas`] what came of it: counts that never say more than is true. What a replica
//! says of an object counts only if it means the form that this replica has compiled; from one that
//! lags, or is ahead, all sidecars that the object concerns are waited for.

mod dial;
pub mod duty;
pub mod follow;
mod presence;
pub mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compiler::{Audience, ObjectRef};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::leader::Leader;
use crate::push::{Digest, EventsReport, NAMED, PodId, Programmed, Streams};
use presence::Presence;

/// How long what a replica last said stays true enough after it went: its sidecars enforce what they
/// had, and try another replica every ten seconds at least.
pub const RETURN: Duration = Duration::from_secs(12);
/// By how much a stream must be younger than another of its pod for the other to be ended: what is
/// told of ages is older by its way here.
const MARGIN: Duration = Duration::from_secs(2);
/// Between two looks at who is connected where.
const SPACING: Duration = Duration::from_millis(50);
/// Reports that are remembered, those that ended included.
const MAX_REPLICAS: usize = 32;
/// Objects that one of them may know.
const MAX_OBJECTS: usize = 100_000;
/// Pods that one of them may name. No replica serves more streams than two thirds of it.
const MAX_PODS: usize = 15_000;

/// What all replicas' sidecars hold, as far as this replica was told. Cheap to share.
#[derive(Debug)]
pub struct Replicas {
    streams: Arc<Streams>,
    /// Who leads, where there may be several replicas. Then pods that run and are connected to none
    /// count, where this one leads: only there it is known.
    leader: Option<watch::Receiver<Leader>>,
    others: Mutex<Others>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Others {
    /// In the order in which they began.
    reported: BTreeMap<Session, Reported>,
    /// Pods that are connected to this replica.
    own: Presence,
    /// Pods that should be connected to some replica, and are to none.
    absent: Presence,
    /// Whether that is known.
    looked: bool,
    last: Session,
}

/// Names one report of a replica, which may begin anew; never used again.
type Session = u64;

/// What one replica has said.
#[derive(Debug)]
struct Reported {
    replica: String,
    digests: BTreeMap<ObjectRef, Digest>,
    pods: Presence,
    /// It has said everything once.
    complete: bool,
    /// Since when it says nothing more.
    gone: Option<Instant>,
    /// Of its pods, if it is gone, those that are connected elsewhere by now. Kept, because every
    /// object is counted without them.
    moved: Presence,
    /// For pods that are to be told to it as moved.
    tell_moved: mpsc::Sender<PodId>,
}

/// One report of a replica, as long as it lasts.
#[derive(Debug)]
pub(crate) struct Reporting {
    replicas: Arc<Replicas>,
    session: Session,
}

/// What a replica says at a time.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// How far objects have come; `None` for one that there is no more.
    pub(crate) objects: Vec<(ObjectRef, Option<Digest>)>,
    /// Pods whose stream has begun, and how long ago.
    pub(crate) connected: Vec<(PodId, Duration)>,
    /// Pods whose stream has ended.
    pub(crate) disconnected: Vec<PodId>,
    /// Everything has been said once.
    pub(crate) complete: bool,
}

/// Why nothing more is taken from a replica.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{MAX_REPLICAS} replicas report already")]
    Replicas,
    #[error("a replica may report {MAX_OBJECTS} objects and {MAX_PODS} pods at most")]
    Much,
    #[error("a newer report of this replica has begun")]
    Replaced,
}

// === impl Replicas ===

impl Replicas {
    /// Nobody has reported yet; `streams` are this replica's own. Where there is no `leader` to be
    /// told, there is this replica alone, and only connected sidecars count.
    pub fn new(streams: Arc<Streams>, leader: Option<watch::Receiver<Leader>>) -> Arc<Replicas> {
        Arc::new(Replicas {
            streams,
            leader,
            others: Mutex::default(),
            changed: watch::Sender::default(),
        })
    }

    /// How far an object has come, at every replica that has reported.
    pub fn programmed(&self, object: &ObjectRef) -> Programmed {
        let own = self.streams.digest(object);
        let audience = self.streams.audience(object);
        let others = self.others();
        let mut sum = own.programmed;
        for reported in others.counted() {
            let digest = reported.digests.get(object);
            match digest.filter(|digest| digest.fingerprint == own.fingerprint) {
                Some(digest) => {
                    let moved = reported.moved.count(&audience);
                    add(&mut sum, &digest.programmed, moved);
                }
                None => behind(&mut sum, digest, reported, &audience),
            }
        }
        sum.absent = others.absent.count(&audience);
        sum.m += sum.absent;
        sum.callers = sum.callers.min(sum.m);
        sum.absentees = names(others.absent.meant(&audience).take(NAMED));
        sum
    }

    /// How it goes with an EventSubscription, at every replica that has reported; none for another object.
    pub fn events(&self, object: &ObjectRef) -> Option<EventsReport> {
        let own = self.streams.digest(object);
        let mut sum = own.events?;
        for reported in self.others().counted() {
            let digest = reported.digests.get(object);
            let digest = digest.filter(|digest| digest.fingerprint == own.fingerprint);
            if let Some(events) = digest.and_then(|digest| digest.events.clone()) {
                sum.add(events);
            }
        }
        Some(sum)
    }

    /// How many others report.
    pub fn len(&self) -> usize {
        self.others().here().count()
    }

    /// Whether no other reports.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every sidecar that should be connected is, and what holds it has been told.
    pub fn is_settled(&self) -> bool {
        let others = self.others();
        let settled = |reported: &Reported| reported.complete && reported.gone.is_none();
        others.looked && others.absent.len() == 0 && others.reported.values().all(settled)
    }

    /// Keeps track of who is connected nowhere, for as long as it is polled.
    pub async fn keep(self: Arc<Self>) {
        let mut comings = self.streams.comings();
        let mut changed = self.changed.subscribe();
        let mut leader = self.leader.clone();
        loop {
            // Before the look: who leads may change while it lasts.
            let leads = leader.as_mut().map(|one| one.borrow_and_update().clone());
            let next = self.look(Instant::now());
            // Many pods that come together are one look.
            sleep(SPACING).await;
            tokio::select! {
                _ = comings.changed() => {}
                _ = changed.changed() => {}
                () = another(&mut leader, leads) => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// Who is connected nowhere, and who twice, now. Returns when to look again.
    fn look(&self, now: Instant) -> Option<Instant> {
        let own: Presence = self.streams.connected().into_iter().collect();
        let leader = self.leader.as_ref();
        let leads = leader.is_some_and(|leader| leader.borrow().is_us());
        let expected = match leads {
            true => self.streams.expected(),
            false => BTreeSet::new(),
        };
        let mut others = self.others();
        others.looked = leads;
        let mut touched = others.forget(now);
        others.own = own;
        others.note_moved();
        for (pod, since) in others.tell_moved() {
            self.streams.end_moved(&pod, since);
        }
        let absent = expected.into_iter().filter(|pod| !others.has(pod));
        let absent: Presence = absent.map(|pod| (pod, now)).collect();
        let before = std::mem::replace(&mut others.absent, absent);
        touched.extend(before.without(&others.absent));
        touched.extend(others.absent.without(&before));
        let ends = others
            .reported
            .values()
            .filter_map(|reported| reported.gone);
        let next = ends.min().map(|gone| gone + RETURN);
        drop(others);
        if !touched.is_empty() {
            self.streams.touch_meant(&touched);
        }
        next
    }

    /// A replica begins to report. What it said before holds until it has said everything.
    pub(crate) fn begin(
        self: &Arc<Self>,
        replica: &str,
        tell_moved: mpsc::Sender<PodId>,
    ) -> Result<Reporting, Refused> {
        let mut others = self.others();
        if others.reported.len() >= MAX_REPLICAS {
            return Err(Refused::Replicas);
        }
        others.last += 1;
        let session = others.last;
        let older = others.reported.values_mut();
        for older in older.filter(|older| older.replica == replica) {
            older.gone.get_or_insert_with(Instant::now);
        }
        let reported = Reported {
            replica: replica.to_owned(),
            digests: BTreeMap::new(),
            pods: Presence::default(),
            complete: false,
            gone: None,
            moved: Presence::default(),
            tell_moved,
        };
        others.reported.insert(session, reported);
        others.note_moved();
        drop(others);
        Ok(Reporting {
            replicas: self.clone(),
            session,
        })
    }

    fn change(&self) {
        self.changed
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        // Nothing that holds the lock panics half way.
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Others ===

impl Others {
    /// Those who count: of a replica that begins anew what it said before, until it has said
    /// everything.
    fn counted(&self) -> impl Iterator<Item = &Reported> {
        self.reported.iter().filter_map(|(session, reported)| {
            let mut before = self.reported.range(..session);
            let begins_anew =
                !reported.complete && before.any(|(_, older)| older.replica == reported.replica);
            (!begins_anew).then_some(reported)
        })
    }

    /// Those of them that are still reporting.
    fn here(&self) -> impl Iterator<Item = &Reported> {
        self.counted().filter(|reported| reported.gone.is_none())
    }

    /// Whether the pod is connected to some replica, or was until just now.
    fn has(&self, pod: &PodId) -> bool {
        self.own.since(pod).is_some() || self.counted().any(|one| one.pods.since(pod).is_some())
    }

    /// Finds out anew which pods of replicas that went are connected elsewhere. Whatever changes who
    /// is where ends with it.
    fn note_moved(&mut self) {
        let gone = self.reported.iter();
        let gone = gone.filter(|(_, reported)| reported.gone.is_some());
        let moved: Vec<_> = gone
            .map(|(session, reported)| (*session, self.moved_from(reported)))
            .collect();
        for (session, moved) in moved {
            if let Some(reported) = self.reported.get_mut(&session) {
                reported.moved = moved;
            }
        }
    }

    /// Of the pods of a replica that went, those that are connected elsewhere by now.
    fn moved_from(&self, reported: &Reported) -> Presence {
        let elsewhere = |pod: &PodId| {
            self.own.since(pod).is_some()
                || self.here().any(|other| other.pods.since(pod).is_some())
        };
        let pods = reported.pods.pods();
        let moved = pods.filter(|(pod, _)| elsewhere(pod));
        moved.map(|(pod, since)| (pod.clone(), *since)).collect()
    }

    /// A pod that is connected twice has gone from where its stream is older: tells the replicas
    /// there, and returns those of this one.
    fn tell_moved(&self) -> Vec<(PodId, Instant)> {
        let mut ours = Vec::new();
        for reported in self.here() {
            for (pod, since) in reported.pods.pods() {
                let newer = |other: Instant| other.saturating_duration_since(*since) > MARGIN;
                let own = self.own.since(pod);
                let older = |own: &Instant| since.saturating_duration_since(*own) > MARGIN;
                if let Some(own) = own.filter(older) {
                    ours.push((pod.clone(), own));
                }
                let mut elsewhere = self.here().filter_map(|other| other.pods.since(pod));
                if own.is_some_and(newer) || elsewhere.any(newer) {
                    // For want of a place it is told at the next look.
                    let _ = reported.tell_moved.try_send(pod.clone());
                }
            }
        }
        ours
    }

    /// Forgets the replicas that went long ago; returns their pods.
    fn forget(&mut self, now: Instant) -> Vec<PodId> {
        let mut pods = Vec::new();
        self.reported.retain(|_, reported| {
            let stays = reported.gone.is_none_or(|gone| now < gone + RETURN);
            if !stays {
                pods.extend(reported.pods.pods().map(|(pod, _)| pod.clone()));
            }
            stays
        });
        pods
    }
}

// === impl Reporting ===

impl Reporting {
    /// The replica has said this.
    pub(crate) fn say(&self, said: Said, now: Instant) -> Result<(), Refused> {
        let mut objects = BTreeSet::new();
        let mut pods = Vec::new();
        let mut others = self.replicas.others();
        let reported = others.reported.get_mut(&self.session);
        let Some(reported) = reported.filter(|reported| reported.gone.is_none()) else {
            return Err(Refused::Replaced);
        };
        for (object, digest) in said.objects {
            match digest {
                Some(digest) => reported.digests.insert(object.clone(), digest),
                None => reported.digests.remove(&object),
            };
            objects.insert(object);
        }
        for pod in said.disconnected {
            reported.pods.remove(&pod);
            pods.push(pod);
        }
        for (pod, age) in said.connected {
            let since = now.checked_sub(age).unwrap_or(now);
            reported.pods.insert(pod.clone(), since);
            pods.push(pod);
        }
        if reported.digests.len() > MAX_OBJECTS || reported.pods.len() > MAX_PODS {
            return Err(Refused::Much);
        }
        if said.complete && !reported.complete {
            reported.complete = true;
            let replica = reported.replica.clone();
            let session = self.session;
            others.reported.retain(|other, reported| {
                let older = *other < session && reported.replica == replica;
                if older {
                    objects.extend(reported.digests.keys().cloned());
                    pods.extend(reported.pods.pods().map(|(pod, _)| pod.clone()));
                }
                !older
            });
        }
        if !pods.is_empty() || said.complete {
            others.note_moved();
        }
        drop(others);
        self.replicas.streams.touch(objects);
        if !pods.is_empty() {
            self.replicas.streams.touch_meant(&pods);
        }
        self.replicas.change();
        Ok(())
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        let mut others = self.replicas.others();
        let complete = others.reported.get_mut(&self.session).map(|reported| {
            reported.gone.get_or_insert_with(Instant::now);
            reported.complete
        });
        if complete == Some(false) {
            others.reported.remove(&self.session);
        }
        others.note_moved();
        drop(others);
        self.replicas.change();
    }
}

/// Adds what a replica says of the form that is counted. So many have `moved`, and are counted
/// elsewhere: whoever of them had not got it is still waited for, so that this is never too much.
fn add(sum: &mut Programmed, said: &Programmed, moved: usize) {
    let lagging = said.m.saturating_sub(said.n);
    let m = said.m.saturating_sub(moved);
    sum.m += m;
    sum.n += m.saturating_sub(lagging);
    sum.callers += said.callers;
    let room = NAMED.saturating_sub(sum.waiting.len());
    sum.waiting.extend(said.waiting.iter().take(room).cloned());
    let room = NAMED.saturating_sub(sum.rejected.len());
    sum.rejected
        .extend(said.rejected.iter().take(room).cloned());
}

/// Adds the sidecars of a replica that has read another form, or none yet.
fn behind(sum: &mut Programmed, said: Option<&Digest>, reported: &Reported, audience: &Audience) {
    let Reported { pods, moved, .. } = reported;
    let still = pods.count(audience).saturating_sub(moved.count(audience));
    let known = said.map_or(0, |digest| digest.programmed.m);
    let known = known.saturating_sub(moved.len());
    sum.m += still.max(known);
    sum.callers += said.map_or(0, |digest| digest.programmed.callers);
    let room = NAMED.saturating_sub(sum.waiting.len()).min(still);
    let meant = pods.meant(audience);
    let meant = meant.filter(|pod| moved.since(pod).is_none());
    sum.waiting.extend(names(meant.take(room)));
    if reported.pods.len() > moved.len() {
        sum.behind += 1;
    }
}

/// Waits until somebody else leads than `before`, or this replica does; for ever where there is no other.
async fn another(leader: &mut Option<watch::Receiver<Leader>>, before: Option<Leader>) {
    let Some((leader, before)) = leader.as_mut().zip(before) else {
        return std::future::pending().await;
    };
    if leader.wait_for(|now| !now.is_same(&before)).await.is_err() {
        std::future::pending().await
    }
}

fn names<'a>(pods: impl Iterator<Item = &'a PodId>) -> Vec<String> {
    pods.map(|(pod, _)| pod.to_string()).collect()
}
