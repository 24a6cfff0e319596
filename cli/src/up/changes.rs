//! Telling in words what an edit changed, and when it is enforced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use compiler::yaml::Document;
use compiler::{ObjectKey, ObjectKind, ObjectRef};
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
    /// What the sidecars enforce, and was added or changed.
    pub(super) enforced: BTreeSet<ObjectRef>,
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
        if !lines.is_empty() && new.documents.contains_key(id) {
            let kind = enforced(kind);
            changes
                .enforced
                .extend(kind.map(|kind| ObjectRef::new(kind, key)));
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

/// The kind that has this name, if it is one that sidecars enforce.
fn enforced(kind: &str) -> Option<ObjectKind> {
    ObjectKind::ALL.into_iter().find(|one| one.as_str() == kind)
}

/// Tells, once the sidecars have answered, whether they enforce `objects`.
pub(super) fn follow(operator: Ipv4Addr, mut objects: BTreeSet<ObjectRef>) {
    if objects.is_empty() {
        return;
    }
    let operator = SocketAddr::from((operator, 15014));
    tokio::spawn(async move {
        sleep(COMPILED).await;
        let until = Instant::now() + ANSWERED;
        while !objects.is_empty() {
            let late = Instant::now() >= until;
            if let Ok(Value::Array(reports)) = verdicts(operator).await {
                let reports: BTreeMap<_, _> = reports
                    .iter()
                    .filter_map(|report| Some((object(report)?, report)))
                    .collect();
                objects.retain(|object| {
                    let report = reports.get(object);
                    match report.and_then(|report| outcome(report, late)) {
                        Some(outcome) => {
                            say(format_args!("  {object}: {outcome}"));
                            false
                        }
                        None => true,
                    }
                });
            }
            if late {
                for object in &objects {
                    say(format_args!(
                        "  {object}: the operator has said nothing of it yet"
                    ));
                }
                return;
            }
            sleep(ASK_EVERY).await;
        }
    });
}

fn object(report: &Value) -> Option<ObjectRef> {
    let kind = enforced(report["kind"].as_str()?)?;
    let key = ObjectKey::new(report["namespace"].as_str()?, report["name"].as_str()?);
    Some(ObjectRef::new(kind, &key))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn plan(type_: &str, port: u16) -> Plan {
        let text = format!(
            "apiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\n\
             metadata: {{name: orders, namespace: shop}}\nspec:\n  \
             targetRefs: [{{kind: Service, name: orders}}]\n  loadBalancing: {{type: {type_}}}\n\
             ---\napiVersion: v1\nkind: Service\nmetadata: {{name: orders, namespace: shop}}\n\
             spec: {{ports: [{{port: {port}}}]}}\n"
        );
        let file = compiler::yaml::parse("shop.yaml", &text);
        assert_eq!(file.problems, []);
        Plan::new(file.documents.into_iter(), Path::new("/")).unwrap()
    }

    #[test]
    fn of_all_that_was_edited_what_sidecars_enforce_is_followed() {
        let changes = between(&plan("RoundRobin", 80), &plan("LeastRequest", 81));
        let policy = ObjectRef::retry_policy(&ObjectKey::new("shop", "orders"));
        assert_eq!(changes.enforced, BTreeSet::from([policy.clone()]));
        assert_eq!(
            changes.lines,
            [
                "RetryPolicy shop/orders: spec.loadBalancing.type: RoundRobin -> LeastRequest",
                "Service shop/orders: spec.ports[0].port: 80 -> 81",
            ]
        );
        let report = |kind: &str| json!({"kind": kind, "namespace": "shop", "name": "orders"});
        assert_eq!(object(&report("RetryPolicy")), Some(policy));
        assert_eq!(object(&report("Service")), None);
    }
}
