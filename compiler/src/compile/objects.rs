//! What people wrote: who is in force, what it becomes, and the verdict.

use std::collections::BTreeSet;

use crds::status::{ConditionType, Reason};
use wire::resource::MAX_BODY_BYTES;
use wire::{ResourceId, mesh};

use super::{Compilation, resource_id};
use crate::api_route::Refusal;
use crate::attach::{Claim, Conflict, Of, Precedence};
use crate::index::Neighbourhood;
use crate::inputs::{ObjectKey, ObjectKind, ObjectRef};
use crate::output::{Around, Audience, AudienceKey};
use crate::retry_policy::RouteTarget;
use crate::verdict::{Condition, Verdict};

/// The schema's bound of `status.target`: with a longer one the API server refuses the status.
const MAX_TARGET_BYTES: usize = 4096;

/// An object as it was read.
pub(super) struct Read<'k> {
    pub(super) object: &'k ObjectRef,
    /// The Services that it is for.
    pub(super) targets: Vec<ObjectKey>,
    /// The pods that it is for, where no Service stands for them, for people.
    pub(super) pods: Option<String>,
    /// The ApiRoutes, and rules of ApiRoutes, that it is for.
    pub(super) routes: Vec<RouteTarget>,
    /// Every Service that it names, whether it exists or not.
    pub(super) mentions: BTreeSet<ObjectKey>,
    /// Services that are called on its account beside those that it names.
    pub(super) calls: BTreeSet<ObjectKey>,
    /// Services that don't exist, for which something else is suggested.
    pub(super) lost: BTreeSet<ObjectKey>,
    /// Why it can't be in force, conflicts not counted.
    pub(super) refusal: Option<Refusal>,
    /// What it refers to and can't have.
    pub(super) unresolved: Option<Refusal>,
    /// What of it, while it is in force, an older object stands in the way of.
    pub(super) yields: Option<Refusal>,
    /// What else it becomes, whether it is in force or not.
    pub(super) also: Vec<ResourceId>,
    /// What else it becomes while it is in force.
    pub(super) in_force: Vec<ResourceId>,
    /// What is said of that when the object is not in force.
    pub(super) note: Option<&'static str>,
    /// What to do about a conflict.
    pub(super) remedy: &'static str,
}

/// Where the resource of an object goes.
pub(super) struct Place {
    /// Written outside of the targets' namespace: for the callers in its own one only.
    pub(super) consumer: bool,
    pub(super) services: Vec<mesh::ServiceRef>,
}

/// What was found of an object.
struct Judged {
    /// The younger objects whose case this changes.
    affected: BTreeSet<Precedence>,
    refusal: Option<Refusal>,
    unresolved: Option<Refusal>,
}

impl Compilation<'_> {
    pub(super) fn objects(&mut self) {
        // The oldest first: whether a younger one is in force depends on the older ones.
        let mut undecided: BTreeSet<(ObjectKind, Precedence)> = BTreeSet::new();
        while let Some(object) = self.dirty.objects.pop_first() {
            let key = object.key();
            let claims = match object.kind {
                ObjectKind::ApiRoute => self.route_claims(&key),
                ObjectKind::RetryPolicy => self.retry_policy_claims(&key),
                ObjectKind::RateLimit => self.rate_limit_claims(&key),
                ObjectKind::EventSubscription => self.subscription_claims(&key),
            };
            if claims.is_none() {
                self.forget(&object);
                match object.kind {
                    ObjectKind::ApiRoute => self.forget_route(&key),
                    ObjectKind::RetryPolicy => self.forget_retry_policy(&key),
                    ObjectKind::RateLimit => self.forget_rate_limit(&key),
                    ObjectKind::EventSubscription => self.forget_subscription(&key),
                }
            }
            let attachments = self.out.memo.attachments.entry(object.kind).or_default();
            let affected = attachments.claim(&key, claims);
            undecided.extend(affected.into_iter().map(|one| (object.kind, one)));
        }
        while let Some((kind, Precedence { key, .. })) = undecided.pop_first() {
            let affected = match kind {
                ObjectKind::ApiRoute => self.route(&key),
                ObjectKind::RetryPolicy => self.retry_policy(&key),
                ObjectKind::RateLimit => self.rate_limit(&key),
                ObjectKind::EventSubscription => self.subscription(&key),
            };
            undecided.extend(affected.into_iter().map(|one| (kind, one)));
        }
    }

    /// Concludes what becomes of an object: a verdict, and if it is in force the resource that
    /// `message` makes, with the capabilities that it needs. Answers the younger objects whose case
    /// this changes.
    pub(super) fn conclude<M: prost::Message>(
        &mut self,
        mut read: Read<'_>,
        generation: Option<i64>,
        message: impl FnOnce(Place) -> (Vec<&'static str>, M),
    ) -> BTreeSet<Precedence> {
        let mut around = Around {
            services: std::mem::take(&mut read.calls),
            ..Around::default()
        };
        around.services.extend(read.mentions.iter().cloned());
        let Judged {
            affected,
            refusal,
            unresolved,
        } = self.judge(&mut read);
        let object = read.object;
        let id = resource_id(object.kind.resource(), &object.key());
        let mut resources = read.also;
        match (id, &refusal) {
            (Some(id), None) => {
                resources.extend(read.in_force);
                resources.push(id.clone());
                let services = read.targets.iter();
                let routes = read.routes.iter().map(|target| &target.route);
                let namespace = services.chain(routes).next().map(|key| &key.namespace);
                let consumer = namespace.is_some_and(|target| *target != object.namespace);
                let services = read.targets.iter().map(crate::api_route::service_ref);
                let (capabilities, message) = message(Place {
                    consumer,
                    services: services.collect(),
                });
                let audience = match consumer {
                    true => BTreeSet::from([AudienceKey::Namespace(object.namespace.clone())]),
                    false => self.callers(&read.targets, &read.routes, object),
                };
                let object = Some(object.clone());
                self.put_around((id, &capabilities), &message, audience, object, around);
            }
            (Some(id), Some(_)) => self.remove(id),
            (None, _) => {}
        }
        self.decided(Verdict {
            object: object.clone(),
            generation: generation.unwrap_or_default(),
            target: target(&read.targets, &read.routes),
            conditions: vec![
                condition(ConditionType::Accepted, Reason::Accepted, refusal),
                condition(
                    ConditionType::ResolvedRefs,
                    Reason::ResolvedRefs,
                    unresolved,
                ),
            ],
            resources,
        });
        affected
    }

    /// Those who call what an object is for: everybody in its namespace, and whoever calls one of its
    /// Services, or of those of its ApiRoutes.
    fn callers(
        &self,
        services: &[ObjectKey],
        routes: &[RouteTarget],
        object: &ObjectRef,
    ) -> Audience {
        let hosts = &self.out.memo.links.hosts;
        let hosts = routes.iter().filter_map(|to| hosts.from(&to.route));
        let services = services.iter().chain(hosts.flatten());
        let mut callers: Audience = services.map(AudienceKey::of_service).collect();
        callers.insert(AudienceKey::Namespace(object.namespace.clone()));
        callers
    }

    /// Judges an object whose resource is compiled elsewhere, for pods of its targets: that resource
    /// stands in `read.also`, and goes with the object. Answers whether it is in force.
    pub(super) fn conclude_for_pods(
        &mut self,
        mut read: Read<'_>,
        generation: Option<i64>,
    ) -> bool {
        let judged = self.judge(&mut read);
        let in_force = judged.refusal.is_none();
        self.decided(Verdict {
            object: read.object.clone(),
            generation: generation.unwrap_or_default(),
            target: read
                .pods
                .take()
                .unwrap_or_else(|| target(&read.targets, &read.routes)),
            conditions: vec![
                condition(ConditionType::Accepted, Reason::Accepted, judged.refusal),
                condition(
                    ConditionType::ResolvedRefs,
                    Reason::ResolvedRefs,
                    judged.unresolved,
                ),
            ],
            resources: match in_force {
                true => read.also,
                false => Vec::new(),
            },
        });
        in_force
    }

    /// Whether an object can be in force, and what it refers to and can't have.
    fn judge(&mut self, read: &mut Read<'_>) -> Judged {
        let object = read.object;
        let links = &mut self.out.memo.links;
        let oversized = read.mentions.intersection(&links.oversized).map(oversized);
        let unresolved = read.unresolved.take().into_iter().chain(oversized);
        let mut unresolved = Vec::from_iter(unresolved);
        links
            .mentions
            .set(object, std::mem::take(&mut read.mentions));
        let lost = read.lost.iter().flat_map(Neighbourhood::of).collect();
        links.lost.set(object, lost);

        let id = resource_id(object.kind.resource(), &object.key());
        let attachments = self.out.memo.attachments.entry(object.kind).or_default();
        let (affected, conflict) = attachments.decide(&object.key());
        let refusal = read.refusal.take().or_else(|| {
            let conflict = conflict?;
            Some(conflicted(object.kind, &conflict, read.remedy))
        });
        let refusal = refusal.or_else(|| {
            id.is_none().then(|| Refusal {
                reason: Reason::Invalid,
                message: "metadata.name or metadata.namespace is no valid name.".to_owned(),
            })
        });

        let refusal = refusal.map(|refusal| match read.note {
            Some(note) => Refusal {
                message: format!("{} {note}", refusal.message),
                ..refusal
            },
            None => refusal,
        });
        if refusal.is_none() {
            unresolved.extend(read.yields.take());
        }
        Judged {
            affected,
            refusal,
            unresolved: Refusal::all(unresolved),
        }
    }

    /// The object is gone.
    fn forget(&mut self, object: &ObjectRef) {
        let links = &mut self.out.memo.links;
        links.mentions.set(object, BTreeSet::new());
        links.lost.set(object, BTreeSet::new());
        if let Some(id) = resource_id(object.kind.resource(), &object.key()) {
            self.remove(id);
        }
        if let Some(before) = self.out.verdicts.remove(object) {
            let known = self.verdicts_before.entry(object.clone());
            known.or_insert(Some(before));
        }
    }

    fn decided(&mut self, verdict: Verdict) {
        let object = verdict.object.clone();
        if self.out.verdicts.get(&object) != Some(&verdict) {
            let before = self.out.verdicts.insert(object.clone(), verdict);
            self.verdicts_before.entry(object).or_insert(before);
        }
    }
}

/// What an object with these targets claims; nothing when it is refused.
pub(super) fn claims(
    key: &ObjectKey,
    targets: &[ObjectKey],
    refusal: Option<&Refusal>,
) -> BTreeSet<Claim> {
    let targets = match refusal {
        None => targets,
        Some(_) => &[],
    };
    targets
        .iter()
        .map(|service| Claim {
            target: service.clone(),
            consumer: (service.namespace != key.namespace).then(|| key.namespace.clone()),
            of: Of::Calls,
        })
        .collect()
}

fn conflicted(kind: ObjectKind, conflict: &Conflict, remedy: &str) -> Refusal {
    let wins = match conflict.by_age {
        true => "is older",
        false => "comes first",
    };
    Refusal {
        reason: Reason::Conflicted,
        message: format!(
            "{kind} {} {wins} and already governs {}: {remedy}",
            conflict.winner, conflict.claim
        ),
    }
}

/// What is wrong with a Service whose Endpoints are too large to be sent.
fn oversized(service: &ObjectKey) -> Refusal {
    let ObjectKey { namespace, name } = service;
    Refusal {
        reason: Reason::TooManyEndpoints,
        message: format!(
            "Service {name:?} in namespace {namespace} has more endpoints than the {MAX_BODY_BYTES} \
             bytes hold that a sidecar is sent of one Service: sidecars keep those that they have \
             had, or none. Spread its pods over several Services, or remove ports from it."
        ),
    }
}

/// What it is for, as many as a status holds.
fn target(services: &[ObjectKey], routes: &[RouteTarget]) -> String {
    let name = |key: &ObjectKey| format!("{}.{}", key.name, key.namespace);
    let routes = routes.iter().map(|target| match &target.rule {
        None => format!("ApiRoute {}", name(&target.route)),
        Some(rule) => format!("ApiRoute {}/{rule}", name(&target.route)),
    });
    let mut names: Vec<String> = services.iter().map(name).chain(routes).collect();
    let all = names.len();
    let mut target = names.join(", ");
    while target.len() > MAX_TARGET_BYTES && names.pop().is_some() {
        let more = all - names.len();
        target = format!("{} and {more} more", names.join(", "));
    }
    target
}

fn condition(type_: ConditionType, good: Reason, refusal: Option<Refusal>) -> Condition {
    match refusal {
        None => Condition::holds(type_, good),
        Some(Refusal { reason, message }) => Condition::fails(type_, reason, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shortened_to_what_a_status_holds() {
        let schemas = crds::schema::by_kind();
        for kind in ObjectKind::ALL {
            let schema = &schemas[kind.as_str()];
            let most = schema.pointer("/properties/status/properties/target/maxLength");
            assert_eq!(most.unwrap(), MAX_TARGET_BYTES);
        }

        let namespace = "n".repeat(63);
        let service = |number| ObjectKey::new(&*namespace, format!("{number:0253}"));
        let services: Vec<ObjectKey> = (0..16).map(service).collect();
        let shortened = target(&services, &[]);
        assert!(shortened.len() <= MAX_TARGET_BYTES, "{}", shortened.len());
        assert!(shortened.ends_with(&format!(".{namespace} and 4 more")));
        assert_eq!(shortened.matches(", ").count(), 11);

        let few = [ObjectKey::new("shop", "a"), ObjectKey::new("shop", "b")];
        assert_eq!(target(&few, &[]), "a.shop, b.shop");
    }
}
