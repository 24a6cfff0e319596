//! What became of each object: the compiler's verdict, and how far the sidecars have come with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use compiler::{ObjectRef, Output, Verdict};
use crds::status::{ConditionType, Reason};
use serde::{Deserialize, Serialize};

use crate::push::{Programmed, Streams};
use crate::source::{Origin, Problem, Seen};

/// The newest verdicts. Cheap to share.
#[derive(Debug)]
pub struct Verdicts {
    streams: Arc<Streams>,
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
    /// `Accepted`, `ResolvedRefs`, `Programmed`, in this order.
    pub conditions: Vec<ReportedCondition>,
    /// How many of its sidecars enforce it.
    pub programmed: Counts,
    /// Some sidecars that haven't answered yet, as `namespace/pod`; ten at most.
    pub waiting: Vec<String>,
}

/// A condition, as in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedCondition {
    /// `Accepted`, `ResolvedRefs` or `Programmed`.
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
    /// Connected sidecars that should.
    pub m: usize,
}

// === impl Verdicts ===

impl Verdicts {
    /// No verdicts yet; `streams` tells how far the sidecars have come.
    pub fn new(streams: Arc<Streams>) -> Verdicts {
        Verdicts {
            streams,
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
        let programmed = self.streams.programmed(&verdict.object);
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
        let origin = told.origins.get(&verdict.object);
        Report {
            kind: verdict.object.kind.to_string(),
            namespace: verdict.object.namespace.clone(),
            name: verdict.object.name.clone(),
            generation: verdict.generation,
            file: origin.map(|origin| origin.file.clone()),
            line: origin.map(|origin| origin.line),
            target: verdict.target.clone(),
            conditions: compiled.chain([condition]).collect(),
            programmed: Counts {
                n: programmed.n,
                m: programmed.m,
            },
            waiting: programmed.waiting,
        }
    }
}

/// The condition that only the sidecars' answers can tell.
fn programmed_condition(verdict: &Verdict, programmed: &Programmed) -> ReportedCondition {
    let Programmed { n, m, .. } = programmed;
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
            format!("{n}/{m}; {}", rejections.join("; ")),
        )
    } else if n < m {
        let waiting = programmed.waiting.join(", ");
        let more = m - n - programmed.waiting.len().min(m - n);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        (
            "False",
            Reason::Pending,
            format!("{n}/{m}; waiting for {waiting}{more}"),
        )
    } else if *m == 0 {
        // Neither true nor false: nobody enforces it, and nobody fails to.
        (
            "Unknown",
            Reason::Pending,
            "no sidecar that it concerns is connected".to_owned(),
        )
    } else {
        ("True", Reason::Programmed, format!("{n}/{m}"))
    };
    ReportedCondition {
        type_: ConditionType::Programmed.to_string(),
        status: status.to_owned(),
        reason: reason.to_string(),
        message,
    }
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
