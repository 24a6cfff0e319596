//! Verdicts into the objects' status, by server-side apply.
//!
//! Written only when something changed, at most twice a second per object, and always the newest
//! state. There is no Lease yet: with several replicas each would write its own count, so the
//! chart runs one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compiler::{ObjectKey, ObjectKind, ObjectRef};
use crds::status::ConditionType;
use crds::{ApiRoute, ApiRouteStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::api_server::{ANSWER, in_time};
use crate::push::Streams;
use crate::telemetry::Metrics;
use crate::verdicts::{Report, Verdicts};

/// Who the API server thinks owns the fields.
const FIELD_MANAGER: &str = "meshwright-operator";
/// Between two writes of one object.
const SPACING: Duration = Duration::from_millis(500);
/// Before the first write after a change: the sidecars' answers are usually there by then.
const FIRST: Duration = Duration::from_millis(200);
/// Writes at once.
const PARALLEL: usize = 8;
/// After the start, until the sidecars have come back: they try every ten seconds at least. Until
/// then the counts that the operator's predecessor wrote are nearer to the truth.
const RETURN: Duration = Duration::from_secs(12);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The statuses that the cluster has. Cheap to share.
#[derive(Debug)]
pub struct Observed {
    known: Mutex<BTreeMap<ObjectKey, ApiRouteStatus>>,
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
    /// Writes, counted.
    pub metrics: Arc<Metrics>,
}

/// When each object is to be written. Knows nothing of how.
#[derive(Debug, Default)]
struct Schedule {
    due: BTreeMap<ObjectRef, Instant>,
    /// Objects being written, and whether they were touched meanwhile.
    writing: BTreeMap<ObjectRef, bool>,
    failures: BTreeMap<ObjectRef, u32>,
    /// When an object was last written, as long as that still matters.
    last: BTreeMap<ObjectRef, Instant>,
    /// Objects whose status is of this process and not of one before it.
    written: BTreeSet<ObjectRef>,
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

    /// The cluster has this status for the ApiRoute; `None` when it is deleted.
    pub fn saw(&self, key: &ObjectKey, status: Option<ApiRouteStatus>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &status {
            Some(status) => known.insert(key.clone(), status.clone()),
            None => known.remove(key),
        };
        drop(known);
        // Somebody else may have written it, or have removed what was written.
        if before != status {
            self.streams.touch([ObjectRef::api_route(key)]);
        }
    }

    fn get(&self, key: &ObjectKey) -> Option<ApiRouteStatus> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }
}

// === impl Statuses ===

impl Statuses {
    /// Writes for ever.
    pub async fn run(self) {
        let this = Arc::new(self);
        let settled = Instant::now() + RETURN;
        let mut schedule = Schedule::default();
        let mut writes = JoinSet::new();
        loop {
            let next = schedule.next().filter(|_| writes.len() < PARALLEL);
            tokio::select! {
                touched = this.streams.touched() => schedule.touch(touched, Instant::now()),
                Some(done) = writes.join_next() => {
                    if let Ok((object, written)) = done {
                        schedule.done(object, &written, Instant::now());
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some(object) = schedule.start(Instant::now()) {
                        let this = this.clone();
                        let inherited = !schedule.written.contains(&object);
                        let until = Some(settled).filter(|at| inherited && Instant::now() < *at);
                        writes.spawn(async move {
                            let written = this.write(&object, until).await;
                            (object, written)
                        });
                    }
                }
            }
        }
    }

    /// `until`: before that time a status which a predecessor wrote may stand if only counts differ.
    async fn write(&self, object: &ObjectRef, until: Option<Instant>) -> Written {
        let ObjectKind::ApiRoute = object.kind;
        let key = object.key();
        let Some(report) = self.verdicts.report_of(object) else {
            return Written::Gone;
        };
        let observed = self.observed.get(&key);
        let Some(status) = status(&report, observed.as_ref(), Timestamp::now()) else {
            return Written::Nothing;
        };
        if let Some(until) = until
            && observed.is_some_and(|observed| only_counts_differ(&status, &observed))
        {
            return Written::Early(until);
        }
        let api: Api<ApiRoute> = Api::namespaced(self.client.clone(), &object.namespace);
        let patch = serde_json::json!({
            "apiVersion": crds::API_VERSION,
            "kind": object.kind.as_str(),
            "metadata": { "name": object.name, "namespace": object.namespace },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        match in_time(ANSWER, api.patch_status(&object.name, &params, &patch)).await {
            Ok(_) => {
                self.metrics.status_writes.inc();
                // The watch will say the same, later.
                self.observed.saw(&key, Some(status));
                Written::Done
            }
            Err(kube::Error::Api(error)) if error.code == 404 => Written::Gone,
            Err(error) => {
                self.metrics.status_failures.inc();
                tracing::warn!(%object, %error, "the status can't be written; trying again");
                Written::Failed
            }
        }
    }
}

// === impl Schedule ===

impl Schedule {
    fn touch(&mut self, objects: BTreeSet<ObjectRef>, now: Instant) {
        self.last.retain(|_, last| *last + SPACING > now);
        for object in objects {
            match self.writing.get_mut(&object) {
                Some(again) => *again = true,
                None => {
                    let spaced = self.last.get(&object).map_or(now, |last| *last + SPACING);
                    let at = spaced.max(now + FIRST);
                    let failing = self.failures.contains_key(&object);
                    let due = self.due.entry(object).or_insert(at);
                    // What was early may no longer be: only its counts differed.
                    *due = if failing { *due } else { at.min(*due) };
                }
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    fn start(&mut self, now: Instant) -> Option<ObjectRef> {
        let (object, _) = self.due.iter().find(|(_, due)| **due <= now)?;
        let object = object.clone();
        self.due.remove(&object);
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
                self.due.insert(object, now + pause.min(LONGEST_PAUSE));
            }
            Written::Early(until) => {
                self.due.insert(object, *until);
            }
            Written::Done | Written::Nothing | Written::Gone => {
                self.failures.remove(&object);
                match written {
                    Written::Done => self.written.insert(object.clone()),
                    Written::Gone => self.written.remove(&object),
                    _ => false,
                };
                if again {
                    self.due.insert(object.clone(), now + SPACING);
                }
                self.last.insert(object, now);
            }
        }
    }
}

/// The status that the object is to have; `None` when it has it.
fn status(
    report: &Report,
    observed: Option<&ApiRouteStatus>,
    now: Timestamp,
) -> Option<ApiRouteStatus> {
    // Kubernetes keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let old = |type_: &str| observed?.conditions.iter().find(|old| old.type_ == type_);
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
    let status = ApiRouteStatus {
        conditions,
        programmed: Some(format!("{}/{}", report.programmed.n, report.programmed.m)),
        target: Some(report.target.clone()).filter(|target| !target.is_empty()),
    };
    let same = observed.is_some_and(|observed| {
        let mut observed = observed.clone();
        let place = |c: &Condition| status.conditions.iter().position(|s| s.type_ == c.type_);
        observed.conditions.sort_by_key(place);
        observed == status
    });
    (!same).then_some(status)
}

/// Whether the two say the same of the same generation, but for the sidecars' answers.
fn only_counts_differ(new: &ApiRouteStatus, observed: &ApiRouteStatus) -> bool {
    let programmed = ConditionType::Programmed.as_str();
    let mut new = new.conditions.iter().filter(|c| c.type_ != programmed);
    let known = |type_: &str| observed.conditions.iter().find(|c| c.type_ == type_);
    known(programmed).is_some() && new.all(|c| known(&c.type_) == Some(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_server::fake;
    use crate::source::Seen;
    use crate::verdicts::{Counts, ReportedCondition};
    use compiler::{Output, Verdict};
    use tokio::sync::mpsc;

    fn report(programmed: &str, n: usize) -> Report {
        let condition = |type_: &str, status: &str| ReportedCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: type_.to_owned(),
            message: String::new(),
        };
        Report {
            kind: "ApiRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: "orders".to_owned(),
            generation: 2,
            file: None,
            line: None,
            target: "orders.shop".to_owned(),
            conditions: vec![
                condition("Accepted", "True"),
                condition("Programmed", programmed),
            ],
            programmed: Counts { n, m: 3 },
            waiting: Vec::new(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn object(name: &str) -> ObjectRef {
        ObjectRef::api_route(&ObjectKey::new("shop", name))
    }

    #[test]
    fn a_status_that_is_there_is_not_written_again() {
        let written = status(&report("True", 3), None, at(100)).unwrap();
        assert_eq!(status(&report("True", 3), Some(&written), at(200)), None);
        let mut shuffled = written.clone();
        shuffled.conditions.reverse();
        assert_eq!(status(&report("True", 3), Some(&shuffled), at(200)), None);
    }

    #[test]
    fn the_time_of_a_transition_is_kept_while_the_status_is_the_same() {
        let before = status(&report("False", 2), None, at(100)).unwrap();
        let after = status(&report("True", 3), Some(&before), at(200)).unwrap();
        let times: Vec<_> = after
            .conditions
            .iter()
            .map(|c| c.last_transition_time.0.as_second())
            .collect();
        assert_eq!(times, [100, 200], "Accepted stayed, Programmed changed");
        assert_eq!(after.programmed.as_deref(), Some("3/3"));
        assert_eq!(after.conditions[0].observed_generation, Some(2));
    }

    #[test]
    fn counts_that_a_predecessor_wrote_are_told_from_what_is_wrong() {
        let before = status(&report("True", 3), None, at(100)).unwrap();
        let fewer = status(&report("Unknown", 0), Some(&before), at(200)).unwrap();
        assert!(only_counts_differ(&fewer, &before));
        let mut edited = report("Unknown", 0);
        edited.generation = 3;
        let edited = status(&edited, Some(&before), at(200)).unwrap();
        assert!(!only_counts_differ(&edited, &before));
        let mut refused = report("Unknown", 0);
        refused.conditions[0].status = "False".to_owned();
        let refused = status(&refused, Some(&before), at(200)).unwrap();
        assert!(!only_counts_differ(&refused, &before));
        assert!(!only_counts_differ(&fewer, &ApiRouteStatus::default()));
    }

    #[tokio::test]
    async fn many_changes_of_an_object_are_one_write() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for n in 0..10 {
            schedule.touch([object("orders")].into(), now + FIRST / 20 * n);
        }
        assert_eq!(schedule.next(), Some(now + FIRST));
        assert_eq!(schedule.start(now), None, "not yet");
        assert_eq!(schedule.start(now + FIRST), Some(object("orders")));
        schedule.done(object("orders"), &Written::Done, now + FIRST);
        assert_eq!(schedule.next(), None);
        schedule.touch([object("orders")].into(), now + FIRST);
        assert_eq!(
            schedule.next(),
            Some(now + FIRST + SPACING),
            "two writes are apart"
        );
    }

    #[tokio::test]
    async fn what_changes_while_it_is_written_is_written_again_later() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.touch([object("orders")].into(), now);
        schedule.start(now + FIRST).unwrap();
        schedule.touch([object("orders")].into(), now + FIRST);
        assert_eq!(schedule.next(), None, "one write at a time");
        schedule.done(object("orders"), &Written::Done, now + FIRST);
        assert_eq!(schedule.next(), Some(now + FIRST + SPACING));
    }

    #[tokio::test]
    async fn what_was_too_early_is_looked_at_again_when_it_changes() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.touch([object("orders")].into(), now);
        schedule.start(now + FIRST).unwrap();
        schedule.done(object("orders"), &Written::Early(now + RETURN), now + FIRST);
        assert_eq!(schedule.next(), Some(now + RETURN));
        schedule.touch([object("orders")].into(), now + SPACING);
        assert_eq!(schedule.next(), Some(now + SPACING + FIRST));
    }

    #[tokio::test]
    async fn a_failed_write_is_tried_again_with_growing_pauses() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.done(object("orders"), &Written::Failed, now);
            pauses.push(schedule.next().unwrap() - now);
        }
        assert!(pauses.is_sorted() && pauses[0] >= SPACING && pauses[7] == LONGEST_PAUSE);
    }
    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_never_answered_is_given_up_and_tried_again() {
        let (asks, mut asked) = mpsc::unbounded_channel();
        let client = fake::client(move |request| {
            asks.send((Instant::now(), request.uri().path().to_owned()))
                .unwrap();
            fake::silence()
        });
        let streams = Arc::new(Streams::default());
        let verdicts = Arc::new(Verdicts::new(streams.clone()));
        let verdict = Verdict {
            object: object("orders"),
            generation: 1,
            target: "orders.shop".to_owned(),
            conditions: Vec::new(),
            resources: Vec::new(),
        };
        let mut output = Output::default();
        output.changed_verdicts.insert(object("orders"));
        output.verdicts.insert(object("orders"), verdict);
        verdicts.replace(&output, &Seen::default());
        let statuses = Statuses {
            client,
            verdicts,
            streams: streams.clone(),
            observed: Observed::new(streams.clone()),
            metrics: Metrics::new(),
        };
        let metrics = statuses.metrics.clone();
        tokio::spawn(statuses.run());
        streams.touch([object("orders")]);

        let (first, path) = asked.recv().await.unwrap();
        assert!(path.ends_with("/apiroutes/orders/status"), "{path}");
        let again = tokio::time::timeout(ANSWER * 3, asked.recv()).await;
        let (again, _) = again.unwrap().unwrap();
        assert!(again - first >= ANSWER && again - first <= ANSWER + SPACING * 2);
        assert_eq!(metrics.status_failures.get(), 1);
    }
}
