//! The objects of the mesh in a cluster, with their statuses, once those had the time to follow.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::cluster::items;
use crate::kubectl;
use crate::sidecar::Cluster;

/// Every kind that has a status of ours, by its full name: kubectl knows what is in a category from a
/// cache, which may be older than the chart.
pub(super) const ENFORCED: [&str; 4] = [
    "apiroutes.meshwright.dev",
    "eventsubscriptions.meshwright.dev",
    "ratelimits.meshwright.dev",
    "retrypolicies.meshwright.dev",
];

/// How long sidecars may take to have what has changed, as when pods have just been made anew: a condition that
/// has been pending for less is looked at again.
const FOLLOWS: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The objects of the mesh, of the kinds that are there. What is on its way to the sidecars is waited for.
pub(super) fn read(cluster: &Cluster, kinds: &BTreeSet<String>) -> anyhow::Result<Value> {
    let there: Vec<_> = ENFORCED
        .into_iter()
        .filter(|kind| kinds.contains(*kind))
        .collect();
    if there.is_empty() {
        return Ok(Value::Null);
    }
    let until = Instant::now() + FOLLOWS;
    loop {
        let mut asking = kubectl::command(cluster, None);
        asking.args(["get", &there.join(",")]);
        if cluster.namespace.is_none() {
            asking.arg("--all-namespaces");
        }
        let objects = kubectl::json(asking, None)?;
        if !are_on_their_way(&objects, Timestamp::now()) || Instant::now() >= until {
            return Ok(objects);
        }
        let clock = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        clock.block_on(async { tokio::time::sleep(LOOK_AGAIN).await });
    }
}

/// Whether sidecars have only just been told of any of these. What has been pending for longer is not waited
/// for: it is to be said at once.
fn are_on_their_way(objects: &Value, now: Timestamp) -> bool {
    let follows = SignedDuration::try_from(FOLLOWS).unwrap_or(SignedDuration::MAX);
    let is_pending = |condition: &Value| {
        let since = condition["lastTransitionTime"].as_str();
        let since = since.and_then(|since| since.parse::<Timestamp>().ok());
        condition["type"] == "Programmed"
            && condition["status"] == "False"
            && condition["reason"] == "Pending"
            && since.is_some_and(|since| now.duration_since(since) < follows)
    };
    let conditions = items(objects).filter_map(|object| object["status"]["conditions"].as_array());
    conditions.flatten().any(is_pending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn are_waited_for(condition: &str, status: &str, reason: &str, since: &str) -> bool {
        let condition = json!({
            "type": condition, "status": status, "reason": reason, "lastTransitionTime": since,
        });
        let accepted = json!({ "type": "Accepted", "status": "True", "reason": "Accepted" });
        let route = json!({ "status": { "conditions": [accepted, condition] } });
        let list = json!({ "items": [{ "spec": {} }, route] });
        are_on_their_way(&list, "2026-01-31T08:00:10Z".parse().unwrap())
    }

    #[test]
    fn an_object_that_sidecars_have_just_been_told_of_is_looked_at_again_and_no_other() {
        let (now, long_ago) = ("2026-01-31T08:00:03Z", "2026-01-31T08:00:00Z");
        assert!(are_waited_for("Programmed", "False", "Pending", now));
        assert!(!are_waited_for("Programmed", "False", "Pending", long_ago));
        assert!(!are_waited_for("Programmed", "False", "Pending", "?"));
        assert!(!are_waited_for("Programmed", "False", "Rejected", now));
        assert!(!are_waited_for("Programmed", "True", "Programmed", now));
        assert!(!are_waited_for("Accepted", "False", "Pending", now));
    }
}
