//! What became of each object: the compiler's verdict, and how far the sidecars have come with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use compiler::{ObjectRef, Output, Verdict};
use crds::status::{ConditionType, Reason};
use serde::{Deserialize, Serialize};

pub use self::events::Figures;
pub(crate) use self::events::in_a_status;
use crate::push::Programmed;
use crate::replicas::Replicas;
use crate::source::{Origin, Problem, Seen};

mod events;

/// The newest verdicts. Cheap to share.
#[derive(Debug)]
pub struct Verdicts {
    replicas: Arc<Replicas>,
    told: RwLock<Told>,
}

#[derive(Debug, Default)]
struct Told {
    verdicts: BTreeMap<ObjectRef, Verdict>,
    origins: Arc<BTreeMap<ObjectRef, Origin>>,
    problems: Arc<Vec<Problem>>,
}

/// One object's verdict, as `GET /verdicts` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Such as `ApiRoute`.
    pub kind: String,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The `metadata.generation` that was looked at; 0 in a folder.
    pub generation: i64,
    /// The file that it stands in; absent in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The line in `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The Services that it governs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// `Accepted`, `ResolvedRefs`, `Programmed`, and of an EventSubscription `Ready`, in this order.
    pub conditions: Vec<ReportedCondition>,
    /// How many of its sidecars enforce it.
    pub programmed: Counts,
    /// How many of those that should are told of it because they call it from another namespace.
    #[serde(default, skip_serializing_if = "is_none")]
    pub callers: usize,
    /// Some sidecars that haven't answered yet, as `namespace/pod`; ten at most.
    pub waiting: Vec<String>,
    /// Some sidecars that are connected to no replica, as `namespace/pod`; ten at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconnected: Vec<String>,
    /// Of an EventSubscription: how it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Figures>,
}

/// A condition, as in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedCondition {
    /// `Accepted`, `ResolvedRefs`, `Programmed` or `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, as a sentence; may be empty when all is well.
    pub message: String,
}

/// `n` of `m` sidecars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sidecars that enforce the object's newest form.
    pub n: usize,
    /// Sidecars that should: in a cluster the unconnected ones too.
    pub m: usize,
}

// === impl Verdicts ===

impl Verdicts {
    /// No verdicts yet; `replicas` tells how far the sidecars have come.
    pub fn new(replicas: Arc<Replicas>) -> Verdicts {
        Verdicts {
            replicas,
            told: RwLock::default(),
        }
    }

    /// Takes the verdicts of a compilation.
    pub fn replace(&self, output: &Output, seen: &Seen) {
        let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
        for object in &output.changed_verdicts {
            match output.verdicts.get(object) {
                Some(verdict) => told.verdicts.insert(object.clone(), verdict.clone()),
                None => told.verdicts.remove(object),
            };
        }
        told.origins = seen.origins.clone();
        told.problems = seen.problems.clone();
    }

    /// The compiler's verdicts.
    pub fn compiled(&self) -> BTreeMap<ObjectRef, Verdict> {
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        told.verdicts.clone()
    }

    /// Every object's report, in the order of kind, namespace and name.
    pub fn reports(&self) -> Vec<Report> {
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        told.verdicts
            .values()
            .map(|verdict| self.report(verdict, &told))
            .collect()
    }

    /// One object's report; none when there is no such object.
    pub fn report_of(&self, object: &ObjectRef) -> Option<Report> {
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner);
        Some(self.report(told.verdicts.get(object)?, &told))
    }

    /// What couldn't be read.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.told
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .problems
            .clone()
    }

    fn report(&self, verdict: &Verdict, told: &Told) -> Report {
        let programmed = self.replicas.programmed(&verdict.object);
        let compiled = verdict
            .conditions
            .iter()
            .map(|condition| ReportedCondition {
                type_: condition.type_.to_string(),
                status: if condition.status { "True" } else { "False" }.to_owned(),
                reason: condition.reason.to_string(),
                message: condition.message.clone(),
            });
        let condition = programmed_condition(verdict, &programmed);
        let events = self.replicas.events(&verdict.object);
        let ready = events.as_ref();
        let ready = ready.map(|events| events::ready(verdict.accepted(), events, programmed.m));
        let origin = told.origins.get(&verdict.object);
        Report {
            kind: verdict.object.kind.to_string(),
            namespace: verdict.object.namespace.clone(),
            name: verdict.object.name.clone(),
            generation: verdict.generation,
            file: origin.map(|origin| origin.file.clone()),
            line: origin.map(|origin| origin.line),
            target: verdict.target.clone(),
            conditions: compiled.chain([condition]).chain(ready).collect(),
            programmed: Counts {
                n: programmed.n,
                m: programmed.m,
            },
            callers: programmed.callers,
            waiting: programmed.waiting,
            unconnected: programmed.absentees,
            events: events.as_ref().map(Figures::from),
        }
    }
}

/// The condition that only the sidecars' answers can tell.
fn programmed_condition(verdict: &Verdict, programmed: &Programmed) -> ReportedCondition {
    let Programmed { n, m, .. } = programmed;
    let count = count(programmed);
    let (status, reason, message) = if !verdict.accepted() {
        (
            "False",
            Reason::NotAccepted,
            "there is nothing to enforce".to_owned(),
        )
    } else if !programmed.rejected.is_empty() {
        let rejections: Vec<_> = programmed
            .rejected
            .iter()
            .map(|(pod, reason)| format!("{pod} rejects it: {reason}"))
            .collect();
        (
            "False",
            Reason::Rejected,
            format!("{count}; {}", rejections.join("; ")),
        )
    } else if n < m || programmed.behind > 0 {
        ("False", Reason::Pending, pending(programmed))
    } else if *m == 0 {
        // Neither true nor false: nobody enforces it, and nobody fails to.
        (
            "Unknown",
            Reason::Pending,
            "no sidecar that it concerns is connected".to_owned(),
        )
    } else {
        ("True", Reason::Programmed, count)
    };
    ReportedCondition {
        type_: ConditionType::Programmed.to_string(),
        status: status.to_owned(),
        reason: reason.to_string(),
        message,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// How many of how many, and how many of these no namespace would explain.
fn count(programmed: &Programmed) -> String {
    let Programmed { n, m, callers, .. } = programmed;
    match callers {
        0 => format!("{n}/{m}"),
        1 => format!("{n}/{m}; 1 of these {m} calls it from another namespace"),
        callers => format!("{n}/{m}; {callers} of these {m} call it from other namespaces"),
    }
}

/// Who is missing, and why.
fn pending(programmed: &Programmed) -> String {
    let Programmed {
        n,
        m,
        waiting,
        absent,
        absentees,
        behind,
        ..
    } = programmed;
    let more = |all: usize, named: usize| match all.saturating_sub(named) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let mut parts = vec![count(programmed)];
    let late = m.saturating_sub(*n).saturating_sub(*absent);
    if late > 0 {
        let others = more(late, waiting.len());
        parts.push(format!("waiting for {}{others}", waiting.join(", ")));
    }
    if *absent > 0 {
        let others = more(*absent, absentees.len());
        let verb = if *absent == 1 { "is" } else { "are" };
        let absentees = absentees.join(", ");
        parts.push(format!("{absentees}{others} {verb} not connected"));
    }
    if *behind > 0 && late == 0 {
        parts.push("another replica of the operator has read another form of it".to_owned());
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use compiler::ObjectKey;

    fn verdict(accepted: bool) -> Verdict {
        let object = ObjectRef::api_route(&ObjectKey::new("shop", "orders"));
        Verdict {
            object,
            generation: 1,
            target: "orders.shop".to_owned(),
            conditions: vec![compiler::Condition {
                type_: ConditionType::Accepted,
                status: accepted,
                reason: Reason::Accepted,
                message: String::new(),
            }],
            resources: Vec::new(),
        }
    }

    fn told(accepted: bool, programmed: Programmed) -> (String, String, String) {
        let condition = programmed_condition(&verdict(accepted), &programmed);
        (condition.status, condition.reason, condition.message)
    }

    fn is(status: &str, reason: &str, message: &str) -> (String, String, String) {
        (status.to_owned(), reason.to_owned(), message.to_owned())
    }

    #[test]
    fn programmed_is_true_when_every_sidecar_holds_the_object() {
        let programmed = Programmed {
            n: 3,
            m: 3,
            ..Programmed::default()
        };
        assert_eq!(told(true, programmed), is("True", "Programmed", "3/3"));
    }

    #[test]
    fn those_that_call_it_from_other_namespaces_are_told_apart() {
        let mut programmed = Programmed {
            n: 14,
            m: 14,
            callers: 3,
            ..Programmed::default()
        };
        let message = "14/14; 3 of these 14 call it from other namespaces";
        assert_eq!(
            told(true, programmed.clone()),
            is("True", "Programmed", message)
        );
        programmed.n = 13;
        programmed.callers = 1;
        programmed.waiting = vec!["shop/a".to_owned()];
        let message = "13/14; 1 of these 14 calls it from another namespace; waiting for shop/a";
        assert_eq!(told(true, programmed), is("False", "Pending", message));
    }

    #[test]
    fn a_rejection_names_the_pod_and_its_reason() {
        let programmed = Programmed {
            n: 2,
            m: 3,
            rejected: vec![("shop/orders-1".to_owned(), "no such thing".to_owned())],
            ..Programmed::default()
        };
        let message = "2/3; shop/orders-1 rejects it: no such thing";
        assert_eq!(told(true, programmed), is("False", "Rejected", message));
    }

    #[test]
    fn those_who_are_waited_for_are_named_up_to_ten() {
        let waiting: Vec<_> = (0..10).map(|n| format!("shop/orders-{n}")).collect();
        let programmed = Programmed {
            n: 1,
            m: 13,
            waiting,
            ..Programmed::default()
        };
        let (status, reason, message) = told(true, programmed);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Pending"));
        assert!(
            message.starts_with("1/13; waiting for shop/orders-0, "),
            "{message}"
        );
        assert!(message.ends_with("shop/orders-9 and 2 more"), "{message}");
    }

    #[test]
    fn who_is_connected_nowhere_is_told_apart_from_who_is_waited_for() {
        let name = |name: &str| format!("shop/{name}");
        let mut programmed = Programmed {
            n: 12,
            m: 14,
            waiting: vec![name("a-1")],
            absent: 1,
            absentees: vec![name("b-2")],
            ..Programmed::default()
        };
        let message = "12/14; waiting for shop/a-1; shop/b-2 is not connected";
        assert_eq!(
            told(true, programmed.clone()),
            is("False", "Pending", message)
        );
        programmed.m = 25;
        programmed.absent = 12;
        programmed.absentees = (0..10).map(|n| name(&format!("b-{n}"))).collect();
        let (_, _, message) = told(true, programmed);
        let end = "shop/b-9 and 2 more are not connected";
        assert!(message.ends_with(end), "{message}");
    }

    #[test]
    fn it_is_not_programmed_while_another_replica_has_yet_to_read_it() {
        let programmed = Programmed {
            n: 3,
            m: 3,
            behind: 1,
            ..Programmed::default()
        };
        let message = "3/3; another replica of the operator has read another form of it";
        assert_eq!(told(true, programmed), is("False", "Pending", message));
    }

    #[test]
    fn without_sidecars_it_is_unknown_and_without_acceptance_false() {
        let message = "no sidecar that it concerns is connected";
        assert_eq!(
            told(true, Programmed::default()),
            is("Unknown", "Pending", message)
        );
        let message = "there is nothing to enforce";
        assert_eq!(
            told(false, Programmed::default()),
            is("False", "NotAccepted", message)
        );
    }
}
