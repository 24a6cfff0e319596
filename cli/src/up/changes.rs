//! Telling in words what an edit changed, and when it is enforced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use compiler::ObjectKey;
use compiler::yaml::Document;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::mesh::verdicts;
use super::plan::Plan;
use super::table::say;

/// An edit settles and is compiled within this time; verdicts before may be of the old form.
const COMPILED: Duration = Duration::from_millis(700);
/// Whoever hasn't answered by then is named.
const ANSWERED: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What differs between two forms of a folder.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In words, a line each.
    pub(super) lines: Vec<String>,
    /// The routes that were added or changed.
    pub(super) routes: BTreeSet<ObjectKey>,
}

// === impl Changes ===

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// Compares two forms of a folder, document by document.
pub(super) fn between(old: &Plan, new: &Plan) -> Changes {
    let mut changes = Changes::default();
    let ids: BTreeSet<_> = old.documents.keys().chain(new.documents.keys()).collect();
    for id in ids {
        let (kind, key) = id;
        let lines = match (old.documents.get(id), new.documents.get(id)) {
            (None, Some(_)) => vec!["added".to_owned()],
            (Some(_), None) => vec!["removed".to_owned()],
            (Some(before), Some(after)) => described(before, after),
            (None, None) => Vec::new(),
        };
        if !lines.is_empty() && kind == "ApiRoute" && new.documents.contains_key(id) {
            changes.routes.insert(key.clone());
        }
        changes.lines.extend(
            lines
                .into_iter()
                .map(|line| format!("{kind} {key}: {line}")),
        );
    }
    changes
}

fn described(before: &Document, after: &Document) -> Vec<String> {
    if before.value == after.value {
        return Vec::new();
    }
    let lines = compiler::describe_change(&before.value, &after.value);
    if lines.is_empty() {
        vec!["changed".to_owned()]
    } else {
        lines
    }
}

/// Tells, once the sidecars have answered, whether they enforce `routes`.
pub(super) fn follow(operator: Ipv4Addr, mut routes: BTreeSet<ObjectKey>) {
    if routes.is_empty() {
        return;
    }
    let operator = SocketAddr::from((operator, 15014));
    tokio::spawn(async move {
        sleep(COMPILED).await;
        let until = Instant::now() + ANSWERED;
        while !routes.is_empty() {
            let late = Instant::now() >= until;
            if let Ok(Value::Array(reports)) = verdicts(operator).await {
                let reports: BTreeMap<_, _> = reports
                    .iter()
                    .filter_map(|report| Some((key(report)?, report)))
                    .collect();
                routes.retain(|route| {
                    match reports.get(route).and_then(|report| outcome(report, late)) {
                        Some(outcome) => {
                            say(format_args!("  ApiRoute {route}: {outcome}"));
                            false
                        }
                        None => true,
                    }
                });
            }
            if late {
                for route in &routes {
                    say(format_args!(
                        "  ApiRoute {route}: the operator has said nothing of it yet"
                    ));
                }
                return;
            }
            sleep(ASK_EVERY).await;
        }
    });
}

fn key(report: &Value) -> Option<ObjectKey> {
    if report["kind"] != "ApiRoute" {
        return None;
    }
    Some(ObjectKey::new(
        report["namespace"].as_str()?,
        report["name"].as_str()?,
    ))
}

/// What became of an object, in words. `None`: that isn't known yet, and it isn't `late`.
pub(crate) fn outcome(report: &Value, late: bool) -> Option<String> {
    let conditions = report["conditions"].as_array()?;
    for wanted in ["Accepted", "ResolvedRefs"] {
        let refused = conditions
            .iter()
            .find(|condition| condition["type"] == wanted && condition["status"] == "False");
        if let Some(condition) = refused {
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            return Some(format!(
                "not enforced: {} ({})",
                text("message"),
                text("reason")
            ));
        }
    }
    let (n, m) = (
        report["programmed"]["n"].as_u64()?,
        report["programmed"]["m"].as_u64()?,
    );
    if n == m && m > 0 {
        return Some(format!("enforced by {n}/{m} sidecars"));
    }
    let programmed = conditions
        .iter()
        .find(|condition| condition["type"] == "Programmed");
    let message = programmed
        .and_then(|condition| condition["message"].as_str())
        .unwrap_or_default();
    let refused = programmed.is_some_and(|condition| {
        condition["status"] == "False" && condition["reason"] != "Pending"
    });
    let waiting: Vec<_> = report["waiting"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let waiting = if waiting.is_empty() {
        String::new()
    } else {
        format!("; waiting for {}", waiting.join(", "))
    };
    (late || (refused && waiting.is_empty())).then(|| {
        let message = if message.is_empty() {
            String::new()
        } else {
            format!(": {message}")
        };
        format!("enforced by {n}/{m} sidecars{message}{waiting}")
    })
}
