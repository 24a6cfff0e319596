//! What is to be said of an object before it is stored: the same words as in its status afterwards.
//!
//! An object that contradicts itself is refused: nothing that comes later sets it right. What it refers
//! to may come later, and what it conflicts with may go, so that both are told and refused by nobody:
//! whoever applies a folder does so in any order.

use std::sync::Arc;

use crds::status::{ConditionType, Reason};
use crds::{ApiRoute, EventSubscription, RateLimit, RetryPolicy};

use crate::advice::advice;
use crate::compile::compile;
use crate::inputs::{Inputs, ObjectKey, ObjectRef, Settings};
use crate::output::Output;
use crate::verdict::{Condition, Verdict};

/// An object as somebody is about to write it.
#[derive(Clone, Debug)]
pub enum Draft {
    /// An ApiRoute.
    ApiRoute(Box<ApiRoute>),
    /// A RetryPolicy.
    RetryPolicy(Box<RetryPolicy>),
    /// A RateLimit.
    RateLimit(Box<RateLimit>),
    /// An EventSubscription.
    EventSubscription(Box<EventSubscription>),
}

/// What is to be said of a draft.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opinion {
    /// Why it must not be stored, in the words of its status; nothing when it may.
    pub refusal: Option<String>,
    /// What would be wrong with it as things are, and then what is legal and unwise.
    pub warnings: Vec<String>,
}

/// Judges drafts one after the other, each in the world as it is, and remembers as [`compile`] does:
/// what a draft costs follows from what depends on it.
#[derive(Debug, Default)]
pub struct Review {
    world: Inputs,
    output: Output,
}

// === impl Draft ===

impl Draft {
    /// Its kind, namespace and name.
    pub fn object(&self) -> ObjectRef {
        match self {
            Draft::ApiRoute(route) => ObjectRef::api_route(&ObjectKey::of(&**route)),
            Draft::RetryPolicy(policy) => ObjectRef::retry_policy(&ObjectKey::of(&**policy)),
            Draft::RateLimit(limit) => ObjectRef::rate_limit(&ObjectKey::of(&**limit)),
            Draft::EventSubscription(one) => ObjectRef::event_subscription(&ObjectKey::of(&**one)),
        }
    }

    /// Puts it in the place of what is there under its name; answers the draft's own place as it was.
    fn exchange(self, world: &mut Inputs) -> Before {
        let key = self.object().key();
        match self {
            Draft::ApiRoute(route) => {
                Before::ApiRoute(world.api_routes.insert(key, Arc::new(*route)))
            }
            Draft::RetryPolicy(policy) => {
                Before::RetryPolicy(world.retry_policies.insert(key, Arc::new(*policy)))
            }
            Draft::RateLimit(limit) => {
                Before::RateLimit(world.rate_limits.insert(key, Arc::new(*limit)))
            }
            Draft::EventSubscription(one) => {
                Before::EventSubscription(world.event_subscriptions.insert(key, Arc::new(*one)))
            }
        }
    }
}

/// What stood under a draft's name.
enum Before {
    ApiRoute(Option<Arc<ApiRoute>>),
    RetryPolicy(Option<Arc<RetryPolicy>>),
    RateLimit(Option<Arc<RateLimit>>),
    EventSubscription(Option<Arc<EventSubscription>>),
}

// === impl Before ===

impl Before {
    fn restore(self, key: ObjectKey, world: &mut Inputs) {
        match self {
            Before::ApiRoute(Some(route)) => drop(world.api_routes.insert(key, route)),
            Before::ApiRoute(None) => drop(world.api_routes.remove(&key)),
            Before::RetryPolicy(Some(policy)) => drop(world.retry_policies.insert(key, policy)),
            Before::RetryPolicy(None) => drop(world.retry_policies.remove(&key)),
            Before::RateLimit(Some(limit)) => drop(world.rate_limits.insert(key, limit)),
            Before::RateLimit(None) => drop(world.rate_limits.remove(&key)),
            Before::EventSubscription(Some(one)) => {
                drop(world.event_subscriptions.insert(key, one));
            }
            Before::EventSubscription(None) => drop(world.event_subscriptions.remove(&key)),
        }
    }
}

// === impl Review ===

impl Review {
    /// From now on the world is this. Pods and endpoints decide nothing that is said of an object, and
    /// are left out.
    pub fn see(&mut self, inputs: &Inputs) {
        self.world = Inputs {
            api_routes: inputs.api_routes.clone(),
            retry_policies: inputs.retry_policies.clone(),
            rate_limits: inputs.rate_limits.clone(),
            event_subscriptions: inputs.event_subscriptions.clone(),
            services: inputs.services.clone(),
            consumers: inputs.consumers.clone(),
            credentials: inputs.credentials.clone(),
            brokers: inputs.brokers.clone(),
            unreadable: inputs.unreadable.clone(),
            precedence: inputs.precedence.clone(),
            settings: inputs.settings.clone(),
            seen: inputs.seen,
            ..Inputs::default()
        };
    }

    /// What is to be said of a draft.
    pub fn judge(&mut self, draft: Draft) -> Opinion {
        let object = draft.object();
        let contradicts_itself = contradicts_itself(draft.clone(), &self.world.settings);
        let before = draft.exchange(&mut self.world);
        self.output = compile(&self.world, std::mem::take(&mut self.output));
        let verdict = self.output.verdicts.get(&object);
        let mut opinion = verdict.map_or_else(Opinion::default, |verdict| {
            opinion(verdict, contradicts_itself)
        });
        opinion.warnings.extend(advice(&self.world, &object));
        before.restore(object.key(), &mut self.world);
        opinion
    }
}

/// Whether it would be wrong in any world: it is, in one with nothing else in it.
fn contradicts_itself(draft: Draft, settings: &Settings) -> bool {
    let object = draft.object();
    let mut alone = Inputs {
        settings: settings.clone(),
        ..Inputs::default()
    };
    draft.exchange(&mut alone);
    let output = compile(&alone, Output::default());
    let accepted = |verdict: &Verdict| verdict.condition(ConditionType::Accepted).cloned();
    let accepted = output.verdicts.get(&object).and_then(accepted);
    accepted.is_some_and(|accepted| {
        !accepted.status && matches!(accepted.reason, Reason::Invalid | Reason::UnsupportedHost)
    })
}

fn opinion(verdict: &Verdict, contradicts_itself: bool) -> Opinion {
    let mut opinion = Opinion::default();
    for condition in verdict.conditions.iter().filter(|one| !one.status) {
        let Condition {
            type_,
            reason,
            message,
            ..
        } = condition;
        let sentence = format!("{message} ({reason})");
        match type_ {
            ConditionType::Accepted if contradicts_itself => opinion.refusal = Some(sentence),
            _ => opinion.warnings.push(sentence),
        }
    }
    opinion
}
