//! What is answered about an object of one of the kinds that is about to be stored
//! (15017, `/validate`): [`compiler::Review`] in the world as it is.
//!
//! Nobody waits for it: one draft is judged at a time, a few more wait for a second at most, and who
//! gets no judgement may store what they have, and is told so. The status says the same later.
//!
//! Whoever reaches the port may ask, and not API servers alone: addresses take turns, none may have all
//! the places, and what the schema doesn't permit, and the API server would refuse, is not judged.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use compiler::{Draft, Inputs, Opinion, Review, yaml};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::review::Request;
use crate::places::{Limits, Places};

/// How long a draft is judged, and waits for that, before it is let through.
const JUDGED_WITHIN: Duration = Duration::from_secs(1);
/// How many drafts wait at a time, with the one that is judged, by the address that they come from. Who
/// comes when all are taken takes one from whoever has the most.
const PLACES: Limits = Limits {
    total: 32,
    each: 24,
    kept: Duration::ZERO,
};
/// The largest draft that is judged, in bytes of JSON: what etcd holds.
const MAX_DRAFT_BYTES: usize = 3 << 19;
/// How many warnings are given. The API server passes on 4096 characters of them in all.
const MOST_WARNINGS: usize = 12;
/// The characters of a warning: the API server cuts longer ones.
const WARNING_CHARS: usize = 256;

/// Judges drafts. Cheap to share.
#[derive(Clone, Debug)]
pub struct Validator {
    /// The world that was last compiled; none before the first one was.
    world: watch::Receiver<Option<Arc<Inputs>>>,
    memory: Arc<Mutex<Memory>>,
    places: Arc<Places<IpAddr>>,
    turns: Arc<Turns>,
}

/// One draft of each address at most waits to be judged, the others of it for that: so addresses take
/// turns, however many one of them sends. As many as there are places.
#[derive(Debug, Default)]
struct Turns(std::sync::Mutex<HashMap<IpAddr, Weak<Mutex<()>>>>);

/// What is remembered from one draft to the next.
#[derive(Debug, Default)]
struct Memory {
    review: Review,
    /// What `review` has seen.
    seen: Option<Arc<Inputs>>,
}

/// Why a draft was not judged, for the person who applied it.
const BUSY: &str = "the operator of Meshwright had no time to look at this object; its status will \
                    say what became of it";
const NO_WORLD: &str = "the operator of Meshwright has not read the cluster yet; this object's status \
                        will say what became of it";
const FAILED: &str = "the operator of Meshwright failed to judge this object, which is a bug; what was \
                      in force before holds on if it can't compile it either";

// === impl Validator ===

impl Validator {
    /// Judges in the world that `world` has.
    pub fn new(world: watch::Receiver<Option<Arc<Inputs>>>) -> Validator {
        Validator {
            world,
            memory: Arc::default(),
            places: Places::new(PLACES),
            turns: Arc::default(),
        }
    }

    /// The response to a request, but for its `uid`.
    pub(super) async fn answer(&self, request: &Request, from: IpAddr) -> Value {
        let opinion = match draft(request) {
            None => Opinion::default(),
            Some(Ok(draft)) => self.judge(draft, from).await,
            Some(Err(unreadable)) => told(unreadable),
        };
        let mut response = json!({ "allowed": opinion.refusal.is_none() });
        if let Some(refusal) = opinion.refusal {
            tracing::info!(
                kind = request.kind.kind,
                namespace = request.namespace,
                name = request.name,
                refusal,
                "an object that contradicts itself is refused"
            );
            response["status"] = json!({ "code": 422, "reason": "Invalid", "message": refusal });
        }
        let warnings = opinion.warnings.into_iter().take(MOST_WARNINGS);
        let warnings: Vec<String> = warnings.map(shortened).collect();
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
        response
    }

    async fn judge(&self, draft: Draft, from: IpAddr) -> Opinion {
        let Some(world) = self.world.borrow().clone() else {
            return told(NO_WORLD.to_owned());
        };
        let Some(place) = self.places.take(from) else {
            return told(BUSY.to_owned());
        };
        let place = Arc::new(place);
        let (memory, turn) = (self.memory.clone(), self.turns.of(from));
        let held = place.clone();
        let judged = async move {
            let turn = turn.lock_owned().await;
            let mut memory = memory.lock_owned().await;
            // What takes longer than it is waited for is finished all the same: the next draft
            // finds it remembered.
            let judging = tokio::task::spawn_blocking(move || {
                let _held = (held, turn);
                // Taken out: of a bug nothing half-finished is left.
                let mut now = std::mem::take(&mut *memory);
                let known = now.seen.as_ref();
                if !known.is_some_and(|seen| Arc::ptr_eq(seen, &world)) {
                    now.review.see(&world);
                    now.seen = Some(world);
                }
                let opinion = now.review.judge(draft);
                *memory = now;
                opinion
            });
            judging.await.unwrap_or_else(|error| {
                tracing::error!(%error, "the compiler failed at a draft");
                told(FAILED.to_owned())
            })
        };
        tokio::select! {
            // Who has lost its place begins nothing.
            biased;
            () = place.lost() => told(BUSY.to_owned()),
            opinion = timeout(JUDGED_WITHIN, judged) => {
                opinion.unwrap_or_else(|_| told(BUSY.to_owned()))
            }
        }
    }
}

// === impl Turns ===

impl Turns {
    /// Whoever has it locked has the turn of that address.
    fn of(&self, address: IpAddr) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&address).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(address, Arc::downgrade(&turn));
        turn
    }
}

fn told(warning: String) -> Opinion {
    Opinion {
        refusal: None,
        warnings: vec![warning],
    }
}

/// The object that is about to be stored, if there is anything to say of it: what is deleted is not,
/// nor what says what it said before.
fn draft(request: &Request) -> Option<Result<Draft, String>> {
    let is_update = request.operation == "UPDATE";
    let (new, old) = (&request.object, &request.old_object);
    let is_going = !new["metadata"]["deletionTimestamp"].is_null();
    let is_ours = request.kind.group == "meshwright.dev" && request.sub_resource.is_empty();
    let is_new = request.operation == "CREATE" || (is_update && new["spec"] != old["spec"]);
    if !is_ours || !is_new || is_going {
        return None;
    }
    let kind = request.kind.kind.as_str();
    if let Some(beyond) = too_much(kind, new) {
        return Some(Err(beyond));
    }
    Some(match kind {
        "ApiRoute" => read(new).map(Draft::ApiRoute),
        "RetryPolicy" => read(new).map(Draft::RetryPolicy),
        "RateLimit" => read(new).map(Draft::RateLimit),
        "EventSubscription" => read(new).map(Draft::EventSubscription),
        _ => return None,
    })
}

/// Why a draft is too much to judge, if it is: the API server lets through nothing of the kind.
fn too_much(kind: &str, object: &Value) -> Option<String> {
    let mut counted = Counted(0);
    let _ = serde_json::to_writer(&mut counted, object);
    let Counted(bytes) = counted;
    let why = match bytes > MAX_DRAFT_BYTES {
        true => format!("it has {bytes} bytes, and {MAX_DRAFT_BYTES} are the most"),
        false => yaml::beyond_bounds(kind, object)?,
    };
    Some(format!(
        "the operator of Meshwright does not look at this object before it is stored: {why}"
    ))
}

/// How many bytes were written.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the schema lets through and this build can't read is of a newer schema. Nothing of it would be
/// in any status.
fn read<K: DeserializeOwned>(object: &Value) -> Result<Box<K>, String> {
    let read = serde_json::from_value(object.clone());
    read.map(Box::new).map_err(|error| {
        format!(
            "this operator of Meshwright is older than the definitions (CRDs) and can't read this \
             object, so that its last good form holds on, if it had one: upgrade the operator. {error}"
        )
    })
}

/// At most as long as the API server passes on whole, on one line.
fn shortened(warning: String) -> String {
    let warning: String = warning
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match warning.char_indices().nth(WARNING_CHARS) {
        None => warning,
        Some(_) => {
            let kept: String = warning.chars().take(WARNING_CHARS - 1).collect();
            format!("{kept}…")
        }
    }
}

#[cfg(test)]
mod tests;
