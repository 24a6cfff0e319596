//! What became of an object that a person wrote, as a value: never written into the inputs.

use crds::status::{ConditionType, Reason};
use serde::Serialize;
use wire::ResourceId;

use crate::inputs::ObjectRef;

/// What became of one object. The operator adds `Programmed`, which only the sidecars' answers
/// can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The object.
    pub object: ObjectRef,
    /// The `metadata.generation` that was looked at; 0 when the object has none (in a folder).
    pub generation: i64,
    /// The Services that it governs, such as `orders.shop`, for the column `Target`.
    pub target: String,
    /// `Accepted` and `ResolvedRefs`, in this order.
    pub conditions: Vec<Condition>,
    /// The resources that it became; none when it isn't accepted.
    pub resources: Vec<ResourceId>,
}

/// One aspect of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub type_: ConditionType,
    /// Whether it holds.
    pub status: bool,
    /// Why, as one word.
    pub reason: Reason,
    /// Why, as sentences for a person, with what to do about it; empty when nothing is wrong.
    pub message: String,
}

// === impl Verdict ===

impl Verdict {
    /// Whether the object is in force.
    pub fn accepted(&self) -> bool {
        self.condition(ConditionType::Accepted)
            .is_some_and(|condition| condition.status)
    }

    /// The condition of this type.
    pub fn condition(&self, type_: ConditionType) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == type_)
    }
}

// === impl Condition ===

impl Condition {
    pub(crate) fn holds(type_: ConditionType, reason: Reason) -> Self {
        Condition {
            type_,
            status: true,
            reason,
            message: String::new(),
        }
    }

    pub(crate) fn fails(type_: ConditionType, reason: Reason, message: String) -> Self {
        Condition {
            type_,
            status: false,
            reason,
            message,
        }
    }
}
