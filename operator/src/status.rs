//! Verdicts into the objects' status, by server-side apply.
//!
//! Written only when something changed, at most twice a second per object, and always the newest
//! state; of several replicas by the one that leads. Each write is one over what was seen: it names
//! the object's `resourceVersion`, so that who led until just now, or has read less than another,
//! overwrites nothing that is newer.

mod queue;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compiler::{ObjectKind, ObjectRef};
use crds::event_subscription::EventSubscriptionStatus;
use crds::status::ConditionType;
use crds::{ApiRoute, EventSubscription, ObjectStatus, RateLimit, RetryPolicy};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::queue::Queue;
use crate::api_server::{ANSWER, in_time};
use crate::events::Events;
use crate::leader::Leader;
use crate::push::Streams;
use crate::replicas::{RETURN, Replicas};
use crate::source::cluster::Stored;
use crate::telemetry::Metrics;
use crate::verdicts::{Report, Verdicts, in_a_status};

/// Who the API server thinks owns the fields.
const FIELD_MANAGER: &str = "meshwright-operator";
/// Between two writes of one object.
const SPACING: Duration = Duration::from_millis(500);
/// Before the first write after a change: the sidecars' answers are usually there by then.
const FIRST: Duration = Duration::from_millis(200);
/// Between two writes that differ in nothing but how it goes with events.
const FIGURES: Duration = Duration::from_secs(10);
/// Writes at once.
const PARALLEL: usize = 8;
/// The same where other replicas report, which takes them a moment.
const FIRST_TOGETHER: Duration = Duration::from_millis(400);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The statuses that the cluster has. Cheap to share.
#[derive(Debug)]
pub struct Observed {
    known: Mutex<BTreeMap<ObjectRef, Stored>>,
    streams: Arc<Streams>,
}

/// Keeps the statuses in the cluster up to date.
pub struct Statuses {
    /// To write with.
    pub client: Client,
    /// What to write.
    pub verdicts: Arc<Verdicts>,
    /// When to write.
    pub streams: Arc<Streams>,
    /// What is there already.
    pub observed: Arc<Observed>,
    /// Whether this replica is the one to write.
    pub leader: watch::Receiver<Leader>,
    /// Whether all have said what there is to count.
    pub replicas: Arc<Replicas>,
    /// For what a person should notice.
    pub events: Events,
    /// Writes, counted.
    pub metrics: Arc<Metrics>,
}

/// When each object is to be written. Knows nothing of how.
#[derive(Debug, Default)]
struct Schedule {
    due: Queue,
    /// Objects being written, and whether they were touched meanwhile.
    writing: BTreeMap<ObjectRef, bool>,
    failures: BTreeMap<ObjectRef, u32>,
    /// When an object was last written, as long as that still matters.
    last: BTreeMap<ObjectRef, Instant>,
    /// Objects whose status is of this process and not of one before it.
    written: BTreeSet<ObjectRef>,
    /// When the status of an EventSubscription was last written.
    figures: BTreeMap<ObjectRef, Instant>,
}

/// How a write ended.
enum Written {
    Done,
    /// What there is may stand until then.
    Early(Instant),
    /// There was nothing to change.
    Nothing,
    /// There is no such object any more.
    Gone,
    Failed,
}

// === impl Observed ===

impl Observed {
    /// Nothing observed; objects whose status differs from what was known are told to `streams`.
    pub fn new(streams: Arc<Streams>) -> Arc<Observed> {
        Arc::new(Observed {
            known: Mutex::default(),
            streams,
        })
    }

    /// The cluster has this of the object; `None` when it is deleted.
    pub fn saw(&self, object: &ObjectRef, stored: Option<Stored>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(object);
        // What was written is known from the answer, before the watch tells what was there before it.
        if let (Some(before), Some(stored)) = (before, &stored)
            && before.uid == stored.uid
            && version(before) > version(stored)
        {
            return;
        }
        let before = before.and_then(|before| before.status.clone());
        let after = stored.as_ref().and_then(|stored| stored.status.clone());
        match stored {
            Some(stored) => known.insert(object.clone(), stored),
            None => known.remove(object),
        };
        drop(known);
        // Somebody else may have written it, or have removed what was written.
        if before != after {
            self.streams.touch([object.clone()]);
        }
    }

    fn get(&self, object: &ObjectRef) -> Option<Stored> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(object)
            .cloned()
    }
}

// === impl Statuses ===

impl Statuses {
    /// Writes for as long as it is polled, which is to be while this replica leads.
    pub async fn write(self: Arc<Self>) {
        // Until the sidecars have come back the counts that a predecessor wrote are nearer to the
        // truth.
        let settled = Instant::now() + RETURN;
        let mut schedule = Schedule::default();
        let mut writes = JoinSet::new();
        let mut writing = HashMap::new();
        // What changed while nobody led is not known.
        self.streams.touch(self.verdicts.compiled().into_keys());
        loop {
            let next = schedule.next().filter(|_| writes.len() < PARALLEL);
            tokio::select! {
                touched = self.streams.touched() => {
                    let first = if self.replicas.is_empty() { FIRST } else { FIRST_TOGETHER };
                    schedule.touch(touched, Instant::now(), first);
                }
                Some(done) = writes.join_next_with_id() => {
                    // A write that panicked is one that failed.
                    let (task, written) = match done {
                        Ok((task, written)) => (task, written),
                        Err(error) => (error.id(), Written::Failed),
                    };
                    if let Some(object) = writing.remove(&task) {
                        schedule.done(object, &written, Instant::now());
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some(object) = schedule.start(Instant::now()) {
                        let this = self.clone();
                        let inherited = !schedule.written.contains(&object)
                            && !self.replicas.is_settled();
                        let figures = schedule.figures.get(&object).map(|last| *last + FIGURES);
                        let until = Some(settled).filter(|at| inherited && Instant::now() < *at);
                        let written = object.clone();
                        let task = writes.spawn(async move { this.write_one(&written, (until, figures)).await });
                        writing.insert(task.id(), object);
                    }
                }
            }
        }
    }

    /// `until`: before that time a status which a predecessor wrote may stand if only counts differ. `figures`: one that
    /// differs only in how it goes with events.
    async fn write_one(
        &self,
        object: &ObjectRef,
        (until, figures): (Option<Instant>, Option<Instant>),
    ) -> Written {
        let Some(report) = self.verdicts.report_of(object) else {
            return Written::Gone;
        };
        let stored = self.observed.get(object).unwrap_or_default();
        let observed = stored.status.as_ref();
        let Some(status) = status(&report, observed, Timestamp::now()) else {
            return Written::Nothing;
        };
        if let Some(until) = until
            && observed.is_some_and(|observed| only_counts_differ(&status.object, &observed.object))
        {
            return Written::Early(until);
        }
        if let Some(figures) = figures.filter(|at| Instant::now() < *at)
            && observed.is_some_and(|observed| only_figures_differ(&status, observed))
        {
            return Written::Early(figures);
        }
        // The last moment to ask. Who leads by then may have written, and then this is refused.
        if !self.leader.borrow().is_us() {
            return Written::Nothing;
        }
        let resource = resource(object.kind);
        // Dynamic: of every kind the status is a part of the one of EventSubscriptions, and nothing else of the
        // answer is read.
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &object.namespace, &resource);
        let mut metadata =
            serde_json::json!({ "name": object.name, "namespace": object.namespace });
        if let (Some(metadata), Some(version)) = (metadata.as_object_mut(), &stored.version) {
            metadata.insert("resourceVersion".to_owned(), version.as_str().into());
        }
        let patch = serde_json::json!({
            "apiVersion": crds::API_VERSION,
            "kind": object.kind.as_str(),
            "metadata": metadata,
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        match in_time(ANSWER, api.patch_status(&object.name, &params, &patch)).await {
            Ok(answer) => {
                self.metrics.status_writes.inc();
                // The watch will say the same, later.
                let written = Stored {
                    status: Some(status.clone()),
                    version: answer.metadata.resource_version,
                    uid: answer.metadata.uid,
                };
                let uid = written.uid.clone();
                self.observed.saw(object, Some(written));
                let before = observed.map(|observed| &observed.object);
                self.events.tell(object, uid, before, &status.object).await;
                Written::Done
            }
            Err(kube::Error::Api(error)) if error.code == 404 => Written::Gone,
            Err(kube::Error::Api(error)) if error.code == 409 => {
                // Somebody has edited it, and the watch will say so; or another replica leads.
                tracing::debug!(%object, "the object has changed meanwhile; trying again");
                Written::Failed
            }
            Err(error) => {
                self.metrics.status_failures.inc();
                tracing::warn!(%object, %error, "the status can't be written; trying again");
                Written::Failed
            }
        }
    }
}

impl std::fmt::Debug for Statuses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statuses").finish_non_exhaustive()
    }
}

// === impl Schedule ===

impl Schedule {
    fn touch(&mut self, objects: BTreeSet<ObjectRef>, now: Instant, first: Duration) {
        self.last.retain(|_, last| *last + SPACING > now);
        for object in objects {
            match self.writing.get_mut(&object) {
                Some(again) => *again = true,
                None => {
                    let spaced = self.last.get(&object).map_or(now, |last| *last + SPACING);
                    let at = spaced.max(now + first);
                    let failing = self.failures.contains_key(&object);
                    match self.due.at(&object) {
                        Some(due) if failing || due <= at => {}
                        // What was early may no longer be: only its counts differed.
                        _ => self.due.put(object, at),
                    }
                }
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        self.due.first()
    }

    fn start(&mut self, now: Instant) -> Option<ObjectRef> {
        let object = self.due.take(now)?;
        self.writing.insert(object.clone(), false);
        Some(object)
    }

    fn done(&mut self, object: ObjectRef, written: &Written, now: Instant) {
        let again = self.writing.remove(&object).unwrap_or_default();
        match written {
            Written::Failed => {
                let failures = self.failures.entry(object.clone()).or_default();
                *failures = failures.saturating_add(1);
                let pause = SPACING.saturating_mul(1 << (*failures).min(10));
                self.due.put(object, now + pause.min(LONGEST_PAUSE));
            }
            Written::Early(until) => {
                let due = if again { now + SPACING } else { *until };
                self.due.put(object, due);
            }
            Written::Done | Written::Nothing | Written::Gone => {
                self.failures.remove(&object);
                match written {
                    Written::Done => {
                        self.written.insert(object.clone());
                        if object.kind == ObjectKind::EventSubscription {
                            self.figures.insert(object.clone(), now);
                        }
                    }
                    Written::Gone => {
                        self.written.remove(&object);
                        self.figures.remove(&object);
                    }
                    _ => {}
                }
                if again {
                    self.due.put(object.clone(), now + SPACING);
                }
                self.last.insert(object, now);
            }
        }
    }
}

/// Where the API server has objects of a kind.
fn resource(kind: ObjectKind) -> ApiResource {
    match kind {
        ObjectKind::ApiRoute => ApiResource::erase::<ApiRoute>(&()),
        ObjectKind::RetryPolicy => ApiResource::erase::<RetryPolicy>(&()),
        ObjectKind::RateLimit => ApiResource::erase::<RateLimit>(&()),
        ObjectKind::EventSubscription => ApiResource::erase::<EventSubscription>(&()),
    }
}

/// Versions count up.
fn version(stored: &Stored) -> Option<u64> {
    stored.version.as_ref()?.parse().ok()
}

/// The status that the object is to have; `None` when it has it, or one of a newer generation: then
/// this replica has not read it yet.
fn status(
    report: &Report,
    observed: Option<&EventSubscriptionStatus>,
    now: Timestamp,
) -> Option<EventSubscriptionStatus> {
    let before = observed.map(|observed| &observed.object);
    let newest = |status: &ObjectStatus| {
        let conditions = status.conditions.iter();
        conditions.filter_map(|c| c.observed_generation).max()
    };
    if before.and_then(newest) > Some(report.generation) {
        return None;
    }
    // Kubernetes keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let old = |type_: &str| before?.conditions.iter().find(|old| old.type_ == type_);
    let conditions = report
        .conditions
        .iter()
        .map(|new| Condition {
            type_: new.type_.clone(),
            status: new.status.clone(),
            reason: new.reason.clone(),
            message: new.message.clone(),
            observed_generation: Some(report.generation),
            last_transition_time: old(&new.type_)
                .filter(|old| old.status == new.status)
                .map_or(Time(now), |old| old.last_transition_time.clone()),
        })
        .collect();
    let object = ObjectStatus {
        conditions,
        programmed: Some(format!("{}/{}", report.programmed.n, report.programmed.m)),
        target: Some(report.target.clone()).filter(|target| !target.is_empty()),
    };
    let status = EventSubscriptionStatus {
        object,
        ..figures(report)
    };
    let same = observed.is_some_and(|observed| {
        let object = in_order_of(&status.object, &observed.object);
        let observed = observed.clone();
        EventSubscriptionStatus { object, ..observed } == status
    });
    (!same).then_some(status)
}

/// A status that was read, its conditions in the order of the one that is to be.
fn in_order_of(new: &ObjectStatus, observed: &ObjectStatus) -> ObjectStatus {
    let mut observed = observed.clone();
    let place = |c: &Condition| new.conditions.iter().position(|s| s.type_ == c.type_);
    observed.conditions.sort_by_key(place);
    observed
}

/// How it goes with events.
fn figures(report: &Report) -> EventSubscriptionStatus {
    let Some(events) = report.events.as_ref().filter(|events| events.sidecars > 0) else {
        return EventSubscriptionStatus::default();
    };
    EventSubscriptionStatus {
        active: events.active.clone(),
        lag: events.lag.map(in_a_status),
        unacknowledged: events.unacknowledged.map(in_a_status),
        in_flight: Some(in_a_status(events.in_flight)),
        dead_lettered: Some(in_a_status(events.dead_lettered)),
        last_error: events.last_error.clone(),
        replay: events.replay.clone(),
        ..EventSubscriptionStatus::default()
    }
}

/// Whether the two say the same but for how it goes with events.
fn only_figures_differ(new: &EventSubscriptionStatus, observed: &EventSubscriptionStatus) -> bool {
    in_order_of(&new.object, &observed.object) == new.object
}

/// Whether the two say the same of the same generation, but for the sidecars' answers.
fn only_counts_differ(new: &ObjectStatus, observed: &ObjectStatus) -> bool {
    let programmed = ConditionType::Programmed.as_str();
    let told = |c: &&Condition| c.type_ != programmed && c.type_ != ConditionType::Ready.as_str();
    let mut new = new.conditions.iter().filter(told);
    let known = |type_: &str| observed.conditions.iter().find(|c| c.type_ == type_);
    known(programmed).is_some() && new.all(|c| known(&c.type_) == Some(c))
}

#[cfg(test)]
mod tests;
