//! Who governs what: of two objects that claim the same calls the older one wins, and the
//! other has no effect at all until it is changed.
//!
//! Calls to a Service can be claimed once by its producer (an object in the Service's namespace)
//! and once by each consumer namespace. An object that lost one of its claims makes none, so that
//! it can't stand in the way of a third one.
//!
//! An object that isn't in force is as though it weren't there: its Services are reached as they
//! are without it. Keeping what it said before its last edit would be hidden state, different on
//! each replica and gone after a restart. It only says where calls go and how, so nothing is opened
//! by this; what says who may enter must not be compiled this way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::inputs::{Inputs, ObjectKey, ObjectRef};

/// The claims of every object of one kind, and which of them are in force. Objects of two kinds never
/// stand in each other's way: they say different things of the same calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attachments {
    objects: BTreeMap<ObjectKey, Attachment>,
    claims: HashMap<Claim, BTreeSet<Precedence>>,
}

#[derive(Clone, Debug)]
struct Attachment {
    precedence: Precedence,
    claims: BTreeSet<Claim>,
    in_force: bool,
}

/// The calls to a Service, or those that an ApiRoute governs: of everyone, or of the callers in one
/// namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Claim {
    /// A Service, or an ApiRoute with [`Of::Route`].
    pub(crate) target: ObjectKey,
    pub(crate) consumer: Option<String>,
    pub(crate) of: Of,
}

/// Of what a claim is. A Service can have ports of both kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Of {
    /// Requests; and whatever is said of a Service as a whole.
    Calls,
    /// Connections whose bytes nobody reads.
    Connections,
    /// Requests that the ApiRoute governs, or one rule of it.
    Route(Option<String>),
}

/// The order of objects by age: the lesser one is older and wins. No two are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence {
    given: u64,
    /// Microseconds of Unix time; an object without a timestamp comes last.
    created: i64,
    pub(crate) key: ObjectKey,
}

/// A claim that an older object already holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) claim: Claim,
    pub(crate) winner: ObjectKey,
    /// The timestamps say so; otherwise the order given, or the names, decided.
    pub(crate) by_age: bool,
}

// === impl Attachments ===

impl Attachments {
    /// Notes what the object claims from now on, nothing when it is gone. Answers whose case must
    /// be decided again.
    pub(crate) fn claim(
        &mut self,
        key: &ObjectKey,
        claims: Option<(Precedence, BTreeSet<Claim>)>,
    ) -> BTreeSet<Precedence> {
        let mut affected = BTreeSet::new();
        let before = self.objects.remove(key);
        if let (Some(before), Some((precedence, claims))) = (&before, &claims)
            && (&before.precedence, &before.claims) == (precedence, claims)
        {
            affected.insert(precedence.clone());
            self.objects.insert(key.clone(), before.clone());
            return affected;
        }
        if let Some(before) = before {
            for claim in &before.claims {
                if let Some(rivals) = self.claims.get_mut(claim) {
                    rivals.remove(&before.precedence);
                    affected.extend(rivals.iter().cloned());
                    if rivals.is_empty() {
                        self.claims.remove(claim);
                    }
                }
            }
        }
        if let Some((precedence, claims)) = claims {
            for claim in &claims {
                let rivals = self.claims.entry(claim.clone()).or_default();
                affected.extend(rivals.iter().cloned());
                rivals.insert(precedence.clone());
            }
            affected.insert(precedence.clone());
            let attachment = Attachment {
                precedence,
                claims,
                in_force: false,
            };
            self.objects.insert(key.clone(), attachment);
        }
        affected
    }

    /// Decides whether the object is in force. Every older one must have been decided. Answers
    /// the younger ones whose case this changes, and the conflict that it lost.
    pub(crate) fn decide(&mut self, key: &ObjectKey) -> (BTreeSet<Precedence>, Option<Conflict>) {
        let Some(attachment) = self.objects.get(key) else {
            return (BTreeSet::new(), None);
        };
        let conflict = attachment
            .claims
            .iter()
            .find_map(|claim| self.holder(claim, &attachment.precedence));
        let in_force = conflict.is_none() && !attachment.claims.is_empty();
        let mut affected = BTreeSet::new();
        if in_force != attachment.in_force {
            for rivals in attachment.claims.iter().filter_map(|c| self.claims.get(c)) {
                let younger = rivals.iter().filter(|r| **r > attachment.precedence);
                affected.extend(younger.cloned());
            }
        }
        if let Some(attachment) = self.objects.get_mut(key) {
            attachment.in_force = in_force;
        }
        (affected, conflict)
    }

    /// Who holds the claim and is older.
    fn holder(&self, claim: &Claim, than: &Precedence) -> Option<Conflict> {
        let rivals = self.claims.get(claim)?;
        let holder = rivals.range(..than).find(|rival| {
            let attachment = self.objects.get(&rival.key);
            attachment.is_some_and(|attachment| attachment.in_force)
        })?;
        Some(Conflict {
            claim: claim.clone(),
            winner: holder.key.clone(),
            by_age: holder.is_older_than(than),
        })
    }
}

// === impl Precedence ===

impl Precedence {
    pub(crate) fn of(object: &ObjectRef, metadata: &ObjectMeta, inputs: &Inputs) -> Self {
        let given = inputs.precedence.get(object);
        let created = metadata.creation_timestamp.as_ref();
        Precedence {
            given: given.copied().unwrap_or(u64::MAX),
            created: created.map_or(i64::MAX, |time| time.0.as_microsecond()),
            key: object.key(),
        }
    }

    /// Whether it comes first because it is older: not by the order given, or by its name.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        self.given == other.given && self.created < other.created
    }
}

// === impl Claim ===

/// As in "already governs <claim>".
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectKey { namespace, name } = &self.target;
        let calls = match self.of {
            Of::Calls => "calls",
            Of::Connections => "connections",
            Of::Route(_) => "requests",
        };
        write!(f, "the {calls}")?;
        if let Some(consumer) = &self.consumer {
            write!(f, " of namespace {consumer}")?;
        }
        match &self.of {
            Of::Calls | Of::Connections => write!(f, " to {name}.{namespace}"),
            Of::Route(None) => write!(f, " that ApiRoute {} governs", self.target),
            Of::Route(Some(rule)) => {
                write!(f, " that rule {rule} of ApiRoute {} governs", self.target)
            }
        }
    }
}
