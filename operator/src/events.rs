//! Events on an object for what a person should notice: it is refused, a sidecar rejects it, and it is
//! in order again. Counts alone are none.
//!
//! What there was before is read from the status that the cluster has, so that another replica that
//! begins to lead tells nothing again. There are few of them, whatever happens: so many in all, and so
//! many for an object.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use compiler::ObjectRef;
use crds::ObjectStatus;
use crds::status::Reason;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::time::Instant;

use crate::api_server::in_time;
use crate::telemetry::Metrics;

/// Who writes them.
const CONTROLLER: &str = "meshwright.dev/operator";
/// Of what the reporting replica's name may have, in characters.
const MAX_INSTANCE: usize = 128;
/// Of what Kubernetes takes as a note (1 KiB), in bytes.
const MAX_NOTE: usize = 1000;
/// How long one may take to be written.
const ANSWER: Duration = Duration::from_secs(3);
/// For all objects together: so many at once, and one more each time.
const OF_ALL: Rate = (50, Duration::from_secs(1));
/// For one object.
const OF_ONE: Rate = (6, Duration::from_secs(60));

/// How many there may be at once, and how long it takes until there may be one more.
type Rate = (u32, Duration);

/// Writes events.
pub struct Events {
    recorder: Recorder,
    room: Mutex<Room>,
    metrics: Arc<Metrics>,
}

/// How many there may still be.
#[derive(Debug, Default)]
struct Room {
    all: Bucket,
    /// Objects that had one lately.
    objects: BTreeMap<ObjectRef, Bucket>,
}

/// How many there were lately, and since when that is counted down.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    taken: u32,
    since: Option<Instant>,
}

/// One thing that a person should notice.
#[derive(Debug, PartialEq, Eq)]
struct Notice {
    type_: EventType,
    reason: String,
    note: String,
}

// === impl Events ===

impl Events {
    /// Of the replica of that name.
    pub fn new(client: Client, replica: &str, metrics: Arc<Metrics>) -> Events {
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance: Some(replica.chars().take(MAX_INSTANCE).collect()),
        };
        Events {
            recorder: Recorder::new(client, reporter),
            room: Mutex::default(),
            metrics,
        }
    }

    /// Tells what a person should notice between the two statuses of an object.
    pub(crate) async fn tell(
        &self,
        object: &ObjectRef,
        uid: Option<String>,
        before: Option<&ObjectStatus>,
        now: &ObjectStatus,
    ) {
        let reference = ObjectReference {
            api_version: Some(crds::API_VERSION.to_owned()),
            kind: Some(object.kind.as_str().to_owned()),
            namespace: Some(object.namespace.clone()),
            name: Some(object.name.clone()),
            uid,
            ..ObjectReference::default()
        };
        for notice in notices(before, now) {
            if !self.take(object, Instant::now()) {
                self.metrics.events_dropped.inc();
                continue;
            }
            let event = Event {
                type_: notice.type_,
                reason: notice.reason,
                note: Some(notice.note),
                action: "Compile".to_owned(),
                secondary: None,
            };
            match in_time(ANSWER, self.recorder.publish(&event, &reference)).await {
                Ok(()) => self.metrics.events.inc(),
                Err(error) => {
                    // The status says the same: nothing is lost but the notice.
                    tracing::info!(%object, %error, "an event can't be written");
                    self.metrics.events_dropped.inc()
                }
            };
        }
    }

    fn take(&self, object: &ObjectRef, now: Instant) -> bool {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        room.take(object, now)
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

// === impl Room ===

impl Room {
    fn take(&mut self, object: &ObjectRef, now: Instant) -> bool {
        self.objects
            .retain(|_, bucket| bucket.refill(OF_ONE, now) > 0);
        let one = self.objects.get(object).copied().unwrap_or_default();
        let room = one.taken < OF_ONE.0 && self.all.refill(OF_ALL, now) < OF_ALL.0;
        if room {
            self.all.take(now);
            self.objects.entry(object.clone()).or_default().take(now);
        }
        room
    }
}

// === impl Bucket ===

impl Bucket {
    /// How many count at that time.
    fn refill(&mut self, (_, each): Rate, now: Instant) -> u32 {
        while let Some(since) = self.since.filter(|since| *since + each <= now) {
            self.taken = self.taken.saturating_sub(1);
            self.since = (self.taken > 0).then_some(since + each);
        }
        self.taken
    }

    fn take(&mut self, now: Instant) {
        self.taken += 1;
        self.since.get_or_insert(now);
    }
}

fn notices(before: Option<&ObjectStatus>, now: &ObjectStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    for condition in &now.conditions {
        let mut known = before.into_iter().flat_map(|before| &before.conditions);
        let before = known.find(|before| before.type_ == condition.type_);
        let was = before.is_some_and(is_trouble);
        let (type_, note) = match is_trouble(condition) {
            true if was && before.is_some_and(|before| before.reason == condition.reason) => {
                continue;
            }
            true => (EventType::Warning, condition.message.clone()),
            // Told by the condition that says why there is nothing to enforce.
            false if condition.reason == Reason::NotAccepted.as_str() => continue,
            false if was => (EventType::Normal, in_order(condition).to_owned()),
            false => continue,
        };
        notices.push(Notice {
            type_,
            reason: condition.reason.clone(),
            note: shortened(note),
        });
    }
    notices
}

/// Whether somebody has to do something. Of the sidecars' answers only a refusal: those who haven't
/// answered will. What somebody has suspended is to be so.
fn is_trouble(condition: &Condition) -> bool {
    let wanted = [Reason::Suspended, Reason::NotAccepted, Reason::NoTarget].map(Reason::as_str);
    match condition.type_.as_str() {
        "Programmed" => condition.reason == Reason::Rejected.as_str(),
        "Ready" => condition.status == "False" && !wanted.contains(&condition.reason.as_str()),
        _ => condition.status == "False",
    }
}

fn in_order(condition: &Condition) -> &'static str {
    match condition.type_.as_str() {
        "Programmed" => "no sidecar rejects it any more",
        "Ready" => "it is no longer so",
        "ResolvedRefs" => "all that it refers to is there again",
        _ => "it is accepted again",
    }
}

fn shortened(mut note: String) -> String {
    if note.is_empty() {
        note.push_str("the object's status says more");
    }
    if note.len() > MAX_NOTE {
        let mut end = MAX_NOTE;
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests;
