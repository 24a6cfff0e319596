//! Pods whose sidecar does not start. Their applications wait for it, so that they stay Pending, and a pod that
//! is Pending can't be asked: what is told of it is what the kubelet says.

use std::collections::BTreeMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::inject::{REDIRECT, SIDECAR};
use serde_json::Value;

use super::cluster::items;
use super::installation::shortened;
use super::told::{Page, Remedy, Told, remedy};
use crate::install::cluster::some;
use crate::kubectl::Pod;

/// A younger pod is only just starting.
const STARTS: SignedDuration = SignedDuration::from_secs(60);
/// A container that waits for one of these has had no turn yet.
const NO_TURN: [&str; 2] = ["PodInitializing", "ContainerCreating"];

/// What holds a pod up.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    /// The container that has to start first, or to end.
    container: &'static str,
    /// Whether that has run, so that there is a log of it.
    has_run: bool,
    /// What the kubelet says of it, without numbers: they are times and addresses, another for each pod.
    alike: String,
}

/// Those that are held up by the same.
#[derive(Debug)]
struct Held {
    /// What the kubelet says of the first of them.
    why: String,
    pods: Vec<Pod>,
}

/// What is wrong with pods that are there for a while and whose sidecar has not started.
pub(super) fn findings(pods: &Value, now: Timestamp) -> Told {
    let mut all: BTreeMap<Cause, Held> = BTreeMap::new();
    for pod in items(pods).filter(|pod| should_have_started(pod, now)) {
        let (Some(named), Some((container, status))) = (named(pod), held_by(pod)) else {
            continue;
        };
        let why = why(status);
        let cause = Cause {
            container,
            has_run: has_run(status),
            alike: why.chars().filter(|c| !c.is_ascii_digit()).collect(),
        };
        let held = all.entry(cause).or_insert_with(|| Held {
            why,
            pods: Vec::new(),
        });
        held.pods.push(named);
    }
    let mut told = Told::default();
    for (cause, held) in &all {
        told.wrong(Page::SIDECAR, held.by(cause), held.looked_at(cause));
    }
    told
}

/// Whether a pod is Pending and had the time to be more.
fn should_have_started(pod: &Value, now: Timestamp) -> bool {
    // One that waited for a node begins when it has one.
    let moments = [
        &pod["metadata"]["creationTimestamp"],
        &pod["status"]["startTime"],
    ];
    let moments = moments.iter().filter_map(|moment| moment.as_str());
    let began = moments.filter_map(|moment| moment.parse::<Timestamp>().ok());
    pod["status"]["phase"] == "Pending"
        && began
            .max()
            .is_some_and(|began| now.duration_since(began) > STARTS)
}

fn named(pod: &Value) -> Option<Pod> {
    let part = |field: &str| pod["metadata"][field].as_str().map(str::to_owned);
    Some(Pod {
        namespace: Some(part("namespace")?),
        name: part("name")?,
    })
}

/// The container of ours that holds a pod up, with its status. One that is on no node has none, and is not held
/// up by the mesh.
fn held_by(pod: &Value) -> Option<(&'static str, &Value)> {
    let sidecar = status_of(pod, SIDECAR)?;
    if sidecar["started"] == true {
        return None;
    }
    let redirect = status_of(pod, REDIRECT).filter(|status| has_failed(status));
    Some(redirect.map_or((SIDECAR, sidecar), |status| (REDIRECT, status)))
}

fn status_of<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let lists = lists.map(|list| pod["status"][list].as_array());
    let mut statuses = lists.into_iter().flatten().flatten();
    statuses.find(|status| status["name"] == name)
}

/// Whether a container that has to end is kept from it.
fn has_failed(status: &Value) -> bool {
    let (now, before) = (&status["state"], &status["lastState"]);
    let code = |state: &Value| state["terminated"]["exitCode"].as_i64();
    match (code(now), now["waiting"]["reason"].as_str()) {
        (Some(code), _) => code != 0,
        (None, Some(reason)) if !NO_TURN.contains(&reason) => true,
        // It is tried again.
        (None, _) => code(before).is_some_and(|code| code != 0),
    }
}

fn has_run(status: &Value) -> bool {
    let states = [&status["state"], &status["lastState"]];
    let mut states = states.iter();
    states.any(|state| state["terminated"].is_object() || state["running"].is_object())
}

/// What the kubelet says of a container.
fn why(status: &Value) -> String {
    let (now, before) = (&status["state"], &status["lastState"]);
    let reason = ["waiting", "terminated"]
        .iter()
        .find_map(|state| now[state]["reason"].as_str());
    let reason = match reason {
        Some(reason) => reason,
        None if now["running"].is_object() => "it runs, and is not ready",
        None => "it waits",
    };
    // What it said when it ended last says more than that it did.
    let messages = [
        &now["terminated"]["message"],
        &before["terminated"]["message"],
        &now["waiting"]["message"],
    ];
    let message = messages.iter().find_map(|message| message.as_str());
    let message = message.map(shortened).filter(|message| !message.is_empty());
    message.map_or_else(
        || reason.to_owned(),
        |message| format!("{reason}: {message}"),
    )
}

// === impl Held ===

impl Held {
    fn by(&self, cause: &Cause) -> String {
        let pods = some(self.pods.iter().map(ToString::to_string));
        let why = &self.why;
        match cause.container {
            SIDECAR => format!(
                "the sidecars of {pods} don't start, and their applications wait for them ({why})"
            ),
            other => format!(
                "the init container {other} of {pods} fails, and sidecars and applications wait for it ({why})"
            ),
        }
    }

    /// Where one of them is looked at; that the others are alike has been said.
    fn looked_at(&self, cause: &Cause) -> Remedy {
        let first = self.pods.first();
        let of_first = first.and_then(|pod| Some((pod.namespace.as_deref()?, pod.name.as_str())));
        let (namespace, pod) = of_first.unwrap_or_default();
        let container = cause.container;
        if cause.has_run {
            remedy!("`kubectl logs -n {namespace} {pod} -c {container}` says what stops it")
        } else {
            remedy!(
                "`kubectl describe pod -n {namespace} {pod}` says what stops it, and `kubectl logs -n {namespace} {pod} \
                 -c {container}` once it has run"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-01-31T06:30:00Z";
    const LONG_AGO: &str = "2026-01-31T06:00:00Z";

    /// A pod that waits, with these of its init containers.
    fn pending(name: &str, statuses: &[Value]) -> Value {
        json!({
            "metadata": { "namespace": "shop", "name": name, "creationTimestamp": LONG_AGO },
            "spec": { "initContainers": [{ "name": REDIRECT }, { "name": SIDECAR }],
                      "containers": [{ "name": "app" }] },
            "status": {
                "phase": "Pending", "startTime": LONG_AGO, "initContainerStatuses": statuses,
                "containerStatuses": [{ "name": "app", "started": false,
                                        "state": { "waiting": { "reason": "PodInitializing" } } }],
            },
        })
    }

    fn status(name: &str, state: Value) -> Value {
        json!({ "name": name, "ready": false, "started": false, "state": state })
    }

    fn runs() -> Value {
        status(SIDECAR, json!({ "running": { "startedAt": LONG_AGO } }))
    }

    /// One that ends and is started again and again.
    fn crashes(name: &str, message: &str) -> Value {
        let mut status = status(
            name,
            json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } }),
        );
        status["lastState"] = json!({ "terminated": { "exitCode": 1, "message": message } });
        status
    }

    fn said(pods: &[Value]) -> Vec<String> {
        let list = json!({ "kind": "List", "items": pods });
        let (wrong, notes) = findings(&list, NOW.parse().unwrap()).parts();
        assert!(notes.is_empty(), "{notes:?}");
        wrong
    }

    #[test]
    fn pods_whose_sidecar_does_not_start_are_wrong_and_told_together_with_why() {
        let uncaptured = |address: &str| {
            let message = format!("it starts\nnot redirected ({address}: Connection refused)\n");
            crashes(SIDECAR, &message)
        };
        let wrong = said(&[
            pending("web-1", &[uncaptured("10.244.0.7")]),
            pending("db-0", &[runs()]),
            pending("web-2", &[uncaptured("10.244.1.19")]),
        ]);
        assert_eq!(
            wrong,
            [
                "the sidecars of shop/web-1, shop/web-2 don't start, and their applications wait for them \
                 (CrashLoopBackOff: not redirected (10.244.0.7: Connection refused)): `kubectl logs -n shop web-1 -c \
                 meshwright-sidecar` says what stops it (docs/troubleshooting.md#a-pod-doesnt-become-ready)",
                "the sidecars of shop/db-0 don't start, and their applications wait for them (it runs, and is not \
                 ready): `kubectl logs -n shop db-0 -c meshwright-sidecar` says what stops it \
                 (docs/troubleshooting.md#a-pod-doesnt-become-ready)",
            ]
        );
    }

    #[test]
    fn a_sidecar_that_never_ran_has_no_log_and_its_pod_is_described() {
        let pulls = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } });
        let wrong = said(&[pending("web-1", &[status(SIDECAR, pulls)])]);
        let told = "(ImagePullBackOff: Back-off pulling image): `kubectl describe pod -n shop web-1` says ";
        assert!(wrong.concat().contains(told), "{wrong:?}");
        // Nor has one that had no turn, as where the pod's network can't be made.
        let waits = json!({ "waiting": { "reason": "PodInitializing" } });
        let wrong = said(&[pending("web-1", &[status(SIDECAR, waits)])]);
        let told = " wait for them (PodInitializing): `kubectl describe pod -n shop web-1` says ";
        assert!(wrong.concat().contains(told), "{wrong:?}");
    }

    #[test]
    fn a_redirect_that_failed_is_told_instead_of_the_sidecar_that_waits_for_it() {
        let waits = || {
            status(
                SIDECAR,
                json!({ "waiting": { "reason": "PodInitializing" } }),
            )
        };
        let ended =
            json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": "no nftables" } });
        let redirects = [
            crashes(REDIRECT, "no nftables"),
            status(REDIRECT, ended),
            status(REDIRECT, json!({ "waiting": { "reason": "ErrImagePull" } })),
        ];
        for redirect in redirects {
            let has_run = has_run(&redirect);
            let wrong = said(&[pending("web-1", &[redirect, waits()])]);
            let [told] = wrong.as_slice() else {
                panic!("{wrong:?}");
            };
            let begins = "the init container meshwright-redirect of shop/web-1 fails, and sidecars and applications \
                          wait for it (";
            assert!(told.starts_with(begins), "{told}");
            assert_eq!(told.contains(": no nftables)"), has_run, "{told}");
            assert!(
                told.contains("`kubectl logs -n shop web-1 -c meshwright-redirect`"),
                "{told}"
            );
        }
        // One that has done its work, at the second try, is no reason.
        let mut done = crashes(REDIRECT, "no nftables");
        done["state"] = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
        let wrong = said(&[pending("web-1", &[done, runs()])]);
        assert!(
            wrong.concat().starts_with("the sidecars of shop/web-1 "),
            "{wrong:?}"
        );
    }

    #[test]
    fn a_pod_that_is_young_or_waits_for_something_else_is_not_wrong() {
        let mut started = runs();
        started["started"] = json!(true);
        let mut pods = vec![pending("own-init-container", &[started])];
        // On no node yet.
        pods.push(pending("unplaced", &[]));
        let of_others = pending("of-others", &[status("other", json!({ "waiting": {} }))]);
        pods.push(of_others);
        for (field, part, value) in [
            ("metadata", "creationTimestamp", "2026-01-31T06:29:00Z"),
            // It had no node before.
            ("status", "startTime", "2026-01-31T06:29:00Z"),
            ("status", "phase", "Running"),
        ] {
            let mut pod = pending("web-1", &[runs()]);
            pod[field][part] = json!(value);
            pods.push(pod);
        }
        for pod in pods {
            assert_eq!(said(std::slice::from_ref(&pod)), [""; 0], "{pod}");
        }
        // A second more, and it is.
        let mut old = pending("web-1", &[runs()]);
        old["metadata"]["creationTimestamp"] = json!("2026-01-31T06:28:59Z");
        assert_eq!(said(&[old]).len(), 1);
    }
}
