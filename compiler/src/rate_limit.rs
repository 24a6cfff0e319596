//! RateLimit: from `crds::RateLimit` to `mesh::RateLimit`.
//!
//! It is in force as a whole or not at all, as its status says. One that is not in force limits
//! nothing: unlike what says who may enter, a limit that is missing lets nobody in who may not.

use std::collections::{BTreeMap, BTreeSet};

use crds::rate_limit::{
    Cost, CostType, KeyPart, KeyType, Limit, LimitAction, LimitHeaders, LimitKey, LimitedGroup,
    LimitedKind, Quota, QuotaPeriod, RateLimitTarget,
};
use crds::status::Reason;
use crds::{PathMatch, RateLimitSpec};
use k8s_openapi::api::core::v1::{Secret, Service};
use wire::mesh::{self, limit_cost, limit_key::Of};
use wire::regex;

use crate::api_route::{Refusal, ended, matches_path, read_path, service_ref};
use crate::endpoints::{is_external_name, speaks_http};
use crate::host::Suggestions;
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings, Unreadable};

mod outside;
mod shared;

/// In which time a burst that is used up must be there again: a sidecar counts nanoseconds in 64 bits.
const LONGEST_YEARS: u128 = 100;
const LONGEST_MILLIS: u128 = LONGEST_YEARS * 366 * 86_400_000;

/// The Services that an ApiRoute is for; `None` when there is no such ApiRoute.
pub(crate) type RouteServices = Option<BTreeSet<ObjectKey>>;

/// What is known when a RateLimit is read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a RateLimitSpec,
    pub(crate) services: &'a Objects<Service>,
    pub(crate) suggestions: &'a Suggestions<'a>,
    pub(crate) credentials: &'a Objects<Secret>,
    pub(crate) unreadable: &'a BTreeMap<String, Unreadable>,
    pub(crate) settings: &'a Settings,
    /// The Services of its own namespace that an ApiRoute is for.
    pub(crate) services_of: &'a dyn Fn(&ObjectKey) -> RouteServices,
}

/// What a RateLimit says, and of what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) sent: mesh::RateLimit,
    /// Every Service that it is for, whether it exists or not.
    pub(crate) mentions: BTreeSet<ObjectKey>,
    /// The ApiRoutes that it names, whether they exist or not.
    pub(crate) routes: BTreeSet<ObjectKey>,
    /// Services that don't exist, for which something else is suggested.
    pub(crate) lost: BTreeSet<ObjectKey>,
    /// Why it can't be in force.
    pub(crate) refusal: Option<Refusal>,
    /// Why its store can't be had.
    pub(crate) unresolved: Option<Refusal>,
}

// === impl Limits ===

impl Limits {
    /// The Services that it is for.
    pub(crate) fn services(&self) -> BTreeSet<ObjectKey> {
        let all = self.sent.targets.iter();
        let all = all.flat_map(|target| {
            let outside = target.outside.as_ref();
            let outside = outside.and_then(|outside| outside.service.as_ref());
            target.services.iter().chain(outside)
        });
        all.map(|one| ObjectKey::new(&*one.namespace, &*one.name))
            .collect()
    }

    /// Whether it is for names outside the cluster, so that those who call them enforce it.
    pub(crate) fn is_outside(&self) -> bool {
        let mut targets = self.sent.targets.iter();
        targets.any(|target| target.outside.is_some())
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// Reads the whole object.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        let mut refusals = Vec::new();
        let mut targets: Vec<mesh::LimitTarget> = Vec::new();
        for (place, target) in self.spec.target_refs.iter().enumerate() {
            let at = format!("spec.targetRefs[{place}]");
            let compiled = self.target(&at, target, &mut limits, &mut refusals);
            // The same twice is the same.
            if !targets.iter().any(|known| known.name == compiled.name) {
                targets.push(compiled);
            }
        }
        if targets.is_empty() {
            let message = "spec.targetRefs is empty: name at least one Service.";
            refusals.push(invalid(message.to_owned()));
        }
        refusals.extend(self.shared().into_iter().map(invalid));
        let mut expressions = 0;
        for (place, limit) in self.spec.limits.iter().enumerate() {
            let at = format!("spec.limits[{place}]");
            for problem in problems(&at, limit, &mut expressions) {
                refusals.push(invalid(problem));
            }
        }
        for (place, quota) in self.spec.quotas.iter().enumerate() {
            let at = format!("spec.quotas[{place}]");
            let paths = read_paths(&at, &quota.paths, &mut expressions);
            refusals.extend(paths.into_iter().map(invalid));
            if self
                .spec
                .limits
                .iter()
                .any(|limit| limit.name == quota.name)
            {
                let name = &quota.name;
                let why = format!("{at}.name: a limit is called {name:?} already.");
                refusals.push(invalid(why));
            }
        }
        if expressions > regex::MAX_IN_ROUTE {
            let too_many = regex::too_many(expressions);
            refusals.push(invalid(format!("spec.limits: {too_many}.")));
        }
        refusals.extend(self.unseen(&targets));
        let (store, unresolved) = self.store().unzip();
        limits.unresolved = unresolved.flatten();
        limits.sent = mesh::RateLimit {
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            targets,
            limits: {
                let limits = self.spec.limits.iter().map(compile);
                limits
                    .chain(self.spec.quotas.iter().map(compile_quota))
                    .collect()
            },
            store,
            headers: match self.spec.headers {
                LimitHeaders::Draft => mesh::LimitHeaders::Draft,
                LimitHeaders::Legacy => mesh::LimitHeaders::Legacy,
                LimitHeaders::None => mesh::LimitHeaders::None,
            }
            .into(),
        };
        limits.refusal = Refusal::all(refusals);
        limits
    }

    /// What a target means.
    fn target(
        &self,
        at: &str,
        target: &RateLimitTarget,
        limits: &mut Limits,
        refusals: &mut Vec<Refusal>,
    ) -> mesh::LimitTarget {
        let key = ObjectKey::new(&*self.key.namespace, &*target.name);
        let ObjectKey { namespace, name } = &key;
        let mut compiled = mesh::LimitTarget {
            name: format!("{}/{name}", kind(target.kind)),
            ..mesh::LimitTarget::default()
        };
        let expected = match target.kind {
            LimitedKind::Service => LimitedGroup::Core,
            LimitedKind::ApiRoute => LimitedGroup::Meshwright,
        };
        if target.group != expected {
            refusals.push(invalid(format!(
                "{at}.group: a Service has no group, and an ApiRoute has the group meshwright.dev."
            )));
        }
        let services = match target.kind {
            LimitedKind::Service => BTreeSet::from([key.clone()]),
            LimitedKind::ApiRoute => {
                limits.routes.insert(key.clone());
                match (self.services_of)(&key) {
                    None => {
                        refusals.push(Refusal {
                            reason: Reason::TargetNotFound,
                            message: format!(
                                "{at}: there is no ApiRoute {name:?} in namespace {namespace}."
                            ),
                        });
                        return compiled;
                    }
                    Some(services) => services,
                }
            }
        };
        if services.is_empty() {
            refusals.push(Refusal {
                reason: Reason::UnsupportedTarget,
                message: format!(
                    "{at}: ApiRoute {name:?} is for no Service of namespace {namespace}, whose pods \
                     would enforce it: write the RateLimit in the Services' namespace."
                ),
            });
        }
        limits.mentions.extend(services.iter().cloned());
        if let (LimitedKind::Service, Some(outside)) = (target.kind, self.outside(at, &key)) {
            let outside = outside.map_err(|refusal| refusals.push(refusal));
            compiled.outside = outside.ok();
            return compiled;
        }
        for service in &services {
            refusals.extend(self.service(at, service, &mut limits.lost));
        }
        compiled.services = services.iter().map(service_ref).collect();
        compiled
    }

    /// What is wrong with a Service as a target.
    fn service(
        &self,
        at: &str,
        key: &ObjectKey,
        lost: &mut BTreeSet<ObjectKey>,
    ) -> Option<Refusal> {
        let ObjectKey { namespace, name } = key;
        let Some(service) = self.services.get(key) else {
            lost.insert(key.clone());
            let suggestion = ended(self.suggestions.instead_of(key));
            return Some(Refusal {
                reason: Reason::TargetNotFound,
                message: format!(
                    "{at}: there is no Service {name:?} in namespace {namespace}{suggestion}"
                ),
            });
        };
        if is_external_name(service) {
            return Some(Refusal {
                reason: Reason::UnsupportedTarget,
                message: format!(
                    "{at}: Service {name:?} in namespace {namespace} has type ExternalName, and no \
                     pods that would enforce a limit: name the Service itself."
                ),
            });
        }
        (!speaks_http(service)).then(|| Refusal {
            reason: Reason::UnsupportedProtocol,
            message: format!(
                "{at}: a limit needs HTTP, which no port of Service {name:?} in namespace \
                 {namespace} speaks: set the port's appProtocol to http, or name it http, if it does."
            ),
        })
    }
}

fn kind(kind: LimitedKind) -> &'static str {
    match kind {
        LimitedKind::Service => "Service",
        LimitedKind::ApiRoute => "ApiRoute",
    }
}

/// What of a limit can't be enforced, as sentences.
fn problems(at: &str, limit: &Limit, expressions: &mut usize) -> Vec<String> {
    let mut problems = read_paths(at, &limit.paths, expressions);
    if (limit.action == LimitAction::Delay) != limit.delay.is_some() {
        problems.push(format!(
            "{at}.delay: it is written with action Delay, and only there."
        ));
    }
    if let Some(Cost {
        type_: CostType::Header,
        max,
        ..
    }) = &limit.cost
    {
        let overrides = limit.overrides.iter().map(|one| (one.requests, one.burst));
        let plans = limit.plans.iter().map(|one| (one.requests, one.burst));
        let all = overrides
            .chain(plans)
            .chain([(limit.requests, limit.burst)]);
        let least = all.map(|(requests, burst)| burst.unwrap_or(requests)).min();
        let least = least.unwrap_or_default();
        if max.unwrap_or(1) > least {
            problems.push(format!(
                "{at}.cost.max: a request that counts more than {least}, the least burst of this \
                 limit, could never be let through: lower max, or raise burst."
            ));
        }
    }
    problems.extend(drains(at, limit));
    if !limit.overrides.is_empty()
        && matches!(
            limit.key.type_,
            KeyType::Route | KeyType::Global | KeyType::Compound
        )
    {
        problems.push(format!(
            "{at}.overrides: they are for values of the key, of which Route and Global have none, and \
             Compound has several: take them out, or write another key."
        ));
    }
    problems
}

/// Whether a burst takes longer to be there again than a sidecar counts, as a sentence.
fn drains(at: &str, limit: &Limit) -> Option<String> {
    let overrides = limit.overrides.iter().enumerate();
    let overrides = overrides.map(|(place, one)| {
        let at = format!("{at}.overrides[{place}]");
        (at, one.requests, one.burst)
    });
    let plans = limit.plans.iter().enumerate();
    let plans = plans.map(|(place, one)| {
        let at = format!("{at}.plans[{place}]");
        (at, one.requests, one.burst)
    });
    let own = (at.to_owned(), limit.requests, limit.burst);
    let mut all = std::iter::once(own).chain(overrides).chain(plans);
    let (at, ..) = all.find(|(_, requests, burst)| {
        let burst = u128::from(burst.unwrap_or(*requests));
        let whole = burst * u128::from(limit.per.millis());
        whole > u128::from(*requests) * LONGEST_MILLIS
    })?;
    Some(format!(
        "{at}.burst: once used up, it would take more than {LONGEST_YEARS} years until all of it is there \
         again: lower burst, or raise requests."
    ))
}

/// What of paths can't be matched.
fn read_paths(at: &str, paths: &[PathMatch], expressions: &mut usize) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        match read_path(path) {
            Ok(expression) => *expressions += usize::from(expression.is_some()),
            Err(why) => problems.push(format!("{at}.paths[{number}].value: {why}.")),
        }
    }
    problems
}

fn compile_quota(quota: &Quota) -> mesh::Limit {
    let plans = quota.plans.iter().map(|one| mesh::LimitPlan {
        name: one.name.clone(),
        rate: Some(rate(one.requests, None)),
    });
    let (window, hours) = match quota.per {
        QuotaPeriod::Hour => (mesh::LimitWindow::Hour, 1),
        QuotaPeriod::Day => (mesh::LimitWindow::Day, 24),
        QuotaPeriod::Month => (mesh::LimitWindow::Month, 24 * 31),
    };
    mesh::Limit {
        name: quota.name.clone(),
        rate: Some(rate(quota.requests, None)),
        per_ms: hours * 3_600_000,
        key: keys(&quota.key),
        methods: quota
            .methods
            .iter()
            .map(|method| method.as_str().to_owned())
            .collect(),
        paths: quota.paths.iter().map(matches_path).collect(),
        action: mesh::LimitAction::Reject.into(),
        plans: plans.collect(),
        window: window.into(),
        ..mesh::Limit::default()
    }
}

fn compile(limit: &Limit) -> mesh::Limit {
    mesh::Limit {
        name: limit.name.clone(),
        rate: Some(rate(limit.requests, limit.burst)),
        per_ms: limit.per.millis(),
        key: keys(&limit.key),
        methods: limit
            .methods
            .iter()
            .map(|method| method.as_str().to_owned())
            .collect(),
        paths: limit.paths.iter().map(matches_path).collect(),
        cost: limit.cost.as_ref().and_then(cost),
        action: match limit.action {
            LimitAction::Reject => mesh::LimitAction::Reject,
            LimitAction::Delay => mesh::LimitAction::Delay,
            LimitAction::Shadow => mesh::LimitAction::Shadow,
        }
        .into(),
        delay: limit.delay.as_ref().map(|delay| mesh::LimitDelay {
            max_ms: delay.max.millis(),
            max_queue: delay.max_queue,
        }),
        overrides: limit
            .overrides
            .iter()
            .map(|one| mesh::LimitOverride {
                values: one.values.clone(),
                rate: Some(rate(one.requests, one.burst)),
            })
            .collect(),
        plans: limit
            .plans
            .iter()
            .map(|one| mesh::LimitPlan {
                name: one.name.clone(),
                rate: Some(rate(one.requests, one.burst)),
            })
            .collect(),
        window: mesh::LimitWindow::None.into(),
    }
}

fn rate(requests: u32, burst: Option<u32>) -> mesh::LimitRate {
    mesh::LimitRate {
        requests,
        burst: burst.unwrap_or(requests),
    }
}

fn cost(written: &Cost) -> Option<mesh::LimitCost> {
    let of = match written.type_ {
        CostType::Request => return None,
        CostType::Bytes => limit_cost::Of::Bytes(true),
        CostType::Header => limit_cost::Of::Header(mesh::LimitCostHeader {
            name: written
                .name
                .as_deref()
                .unwrap_or_default()
                .to_ascii_lowercase(),
            max: written.max.unwrap_or(1),
        }),
    };
    Some(mesh::LimitCost { of: Some(of) })
}

fn keys(key: &LimitKey) -> Vec<mesh::LimitKey> {
    let parts = match key.type_ {
        KeyType::Compound => key.parts.clone(),
        type_ => vec![KeyPart {
            type_,
            name: key.name.clone(),
            trusted_hops: key.trusted_hops,
        }],
    };
    let parts = parts.into_iter().filter_map(|part| {
        let name = part.name.unwrap_or_default();
        Some(match part.type_ {
            KeyType::Consumer => Of::Consumer(true),
            KeyType::Identity => Of::Identity(true),
            KeyType::ClientIP => Of::ClientIp(part.trusted_hops.unwrap_or_default()),
            KeyType::Header => Of::Header(name.to_ascii_lowercase()),
            KeyType::JWTClaim => Of::JwtClaim(name),
            KeyType::Route => Of::Target(true),
            KeyType::Global | KeyType::Compound => return None,
        })
    });
    let parts = parts.map(|of| mesh::LimitKey { of: Some(of) });
    parts.collect()
}

fn invalid(message: String) -> Refusal {
    Refusal {
        reason: Reason::Invalid,
        message,
    }
}
