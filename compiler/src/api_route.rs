//! ApiRoute: from `crds::ApiRoute` to `mesh::Route`.
//!
//! What it says of its hosts decides whether it is in force at all. What it says of its backends
//! doesn't: a backend that can't be reached keeps its share of the requests, which are answered
//! 503, rather than that the others silently take it over or the calls fall back to a Service that
//! the object was written to replace.

use std::collections::BTreeSet;

use crds::status::Reason;
use crds::{ApiRouteSpec, BackendKind, BackendRef, RouteRule, Timeouts};
use k8s_openapi::api::core::v1::Service;
use wire::mesh;

use crate::endpoints::{is_external_name, speaks_http, tcp_ports};
use crate::host::{self, Suggestions};
use crate::index::Objects;
use crate::inputs::{ObjectKey, Settings};
use crate::publish;

mod connections;
pub(crate) mod filters;
pub(crate) mod layers;
mod matching;

use layers::Layers;
pub(crate) use matching::{
    capabilities, header_match, match_capabilities, matches_path, read_path, request_match,
};

/// What is known when an ApiRoute is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) spec: &'a ApiRouteSpec,
    pub(crate) services: &'a Objects<Service>,
    pub(crate) suggestions: &'a Suggestions<'a>,
    pub(crate) settings: &'a Settings,
    pub(crate) layers: Layers<'a>,
}

/// The Services that the hosts name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts {
    /// Every Service named, whether it exists or not, in the order written.
    pub(crate) services: Vec<ObjectKey>,
    /// Why the object can't be in force.
    pub(crate) refusal: Option<Refusal>,
    /// Services that don't exist, for which something else is suggested.
    pub(crate) lost: BTreeSet<ObjectKey>,
}

/// The compiled rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// None where `connections` are governed.
    pub(crate) rules: Vec<mesh::Rule>,
    /// None where requests are.
    pub(crate) connections: Vec<mesh::ConnectionRule>,
    /// Every Service named, whether it exists or not.
    pub(crate) services: BTreeSet<ObjectKey>,
    /// What is wrong with the backends.
    pub(crate) refusal: Option<Refusal>,
    /// Services that don't exist, for which something else is suggested.
    pub(crate) lost: BTreeSet<ObjectKey>,
}

/// A condition that doesn't hold: why, as one word and as sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

/// How many sentences a message has at most: a condition's message is bounded.
const MAX_SENTENCES: usize = 8;
/// How many of a Service's ports are listed.
const MAX_PORTS_LISTED: usize = 8;

// === impl Reader ===

impl Reader<'_> {
    /// Reads `spec.hosts`, and whether the rest can be in force.
    pub(crate) fn hosts(&self) -> Hosts {
        let mut hosts = Hosts::default();
        let mut refusals = Vec::new();
        for (index, host) in self.spec.hosts.iter().enumerate() {
            let domain = &self.settings.cluster_domain;
            let Some(service) = host::service(host, &self.key.namespace, domain) else {
                refusals.push(Refusal {
                    reason: Reason::UnsupportedHost,
                    message: format!(
                        "spec.hosts[{index}]: {host:?} is outside the cluster, where nothing can be \
                         governed yet: name a Service, such as \"orders\" or \"orders.shop\"."
                    ),
                });
                continue;
            };
            refusals.extend(self.host(index, &service, &mut hosts.lost));
            if !hosts.services.contains(&service) {
                hosts.services.push(service);
            }
        }
        let namespaces: BTreeSet<&str> = namespaces(&hosts.services).collect();
        if namespaces.len() > 1 {
            refusals.push(Refusal {
                reason: Reason::Invalid,
                message: format!(
                    "spec.hosts names Services in the namespaces {}: write one ApiRoute for each.",
                    Vec::from_iter(namespaces).join(", ")
                ),
            });
        }
        if self.spec.hosts.is_empty() {
            refusals.push(Refusal {
                reason: Reason::Invalid,
                message: "spec.hosts is empty: name at least one Service.".to_owned(),
            });
        }
        // What can't be matched is no smaller mistake: the rules mean something as a whole only.
        refusals.extend(matching::problems(self.spec));
        refusals.extend(filters::problems(self.spec));
        hosts.refusal = Refusal::all(refusals);
        hosts
    }

    /// What is wrong with a host that names `key`.
    fn host(
        &self,
        index: usize,
        key: &ObjectKey,
        lost: &mut BTreeSet<ObjectKey>,
    ) -> Option<Refusal> {
        let ObjectKey { namespace, name } = key;
        let Some(service) = self.services.get(key) else {
            lost.insert(key.clone());
            let suggestion = self.suggestions.instead_of(key);
            return Some(Refusal {
                reason: Reason::HostNotFound,
                message: format!(
                    "spec.hosts[{index}]: there is no Service {name:?} in namespace \
                     {namespace}{}",
                    ended(suggestion)
                ),
            });
        };
        if is_external_name(service) {
            return Some(Refusal {
                reason: Reason::UnsupportedHost,
                message: format!(
                    "spec.hosts[{index}]: Service {name:?} in namespace {namespace} has type \
                     ExternalName: it stands for a name outside the cluster, where nothing can be \
                     governed yet."
                ),
            });
        }
        if !self.reads_requests() {
            return (!connections::carries_bytes(service)).then(|| Refusal {
                reason: Reason::UnsupportedProtocol,
                message: format!(
                    "spec.hosts[{index}]: every port of Service {name:?} in namespace {namespace} is \
                     declared to speak HTTP: set a port's appProtocol to tcp, or name it tcp, if it \
                     does not, or leave spec.protocol out."
                ),
            });
        }
        (!speaks_http(service)).then(|| Refusal {
            reason: Reason::UnsupportedProtocol,
            message: format!(
                "spec.hosts[{index}]: no port of Service {name:?} in namespace {namespace} speaks \
                 HTTP: set the port's appProtocol to http, or name it http, if it does, or write \
                 spec.protocol: TCP if it does not."
            ),
        })
    }

    /// Reads `spec.rules`, given the Services that the hosts name.
    pub(crate) fn rules(&self, hosts: &[ObjectKey]) -> Rules {
        let mut compiled = Rules::default();
        let mut refusals = Vec::new();
        if !self.reads_requests() {
            self.connections(hosts, &mut compiled, &mut refusals);
            compiled.refusal = Refusal::all(refusals);
            return compiled;
        }
        for (index, rule) in self.spec.rules.iter().enumerate() {
            let rule = self.rule(index, rule, hosts, &mut compiled, &mut refusals);
            compiled.rules.push(rule);
        }
        if compiled.rules.is_empty() {
            // Without rules every request goes where it was sent, within the time limit. An empty
            // list would say that no request matches.
            compiled.rules.push(mesh::Rule {
                name: rule_name(0),
                request_timeout_ms: self.request_timeout(None),
                idle_timeout_ms: self.idle_timeout(None),
                ..mesh::Rule::default()
            });
        }
        compiled.refusal = Refusal::all(refusals);
        compiled
    }

    fn rule(
        &self,
        index: usize,
        rule: &RouteRule,
        hosts: &[ObjectKey],
        compiled: &mut Rules,
        refusals: &mut Vec<Refusal>,
    ) -> mesh::Rule {
        let backends = self.backends(index, rule, hosts, compiled, refusals);
        let mirror = self.mirror(index, rule, hosts, compiled, refusals);
        mesh::Rule {
            mirror,
            name: rule.name.clone().unwrap_or_else(|| rule_name(index)),
            matches: publish::matches(rule),
            backends,
            request_timeout_ms: self.request_timeout(rule.timeouts.as_ref()),
            idle_timeout_ms: self.idle_timeout(rule.timeouts.as_ref()),
            ..filters::compile(rule)
        }
    }

    fn backends(
        &self,
        index: usize,
        rule: &RouteRule,
        hosts: &[ObjectKey],
        compiled: &mut Rules,
        refusals: &mut Vec<Refusal>,
    ) -> Vec<mesh::Backend> {
        let total: u64 = rule.backend_refs.iter().map(|b| u64::from(b.weight)).sum();
        let mut backends = Vec::new();
        for (place, backend) in rule.backend_refs.iter().enumerate() {
            let mut key = self.key_of(backend);
            let mut route = None;
            let shown = refusals.len() < MAX_SENTENCES;
            let problem = match backend.kind {
                BackendKind::Service => {
                    self.problem(backend, &key, hosts, shown, &mut compiled.lost)
                }
                BackendKind::ApiRoute => match self.layer(backend, hosts, compiled) {
                    Ok(service) => {
                        route = Some(mesh::RouteRef {
                            namespace: key.namespace.clone(),
                            name: key.name.clone(),
                        });
                        key = service;
                        None
                    }
                    Err(problem) => Some(problem),
                },
            };
            if let Some((reason, field, problem)) = &problem {
                refusals.push(Refusal {
                    reason: *reason,
                    message: format!(
                        "spec.rules[{index}].backendRefs[{place}].{field}: {} {}",
                        ended(problem.clone()),
                        self.meanwhile(backend.weight, total),
                    ),
                });
            }
            let unreachable = problem.is_some_and(|(reason, _, _)| {
                is_nowhere(reason) || backend.kind == BackendKind::ApiRoute
            });
            backends.push(mesh::Backend {
                service: Some(match unreachable {
                    true => mesh::ServiceRef::default(),
                    false => service_ref(&key),
                }),
                port: backend.port.into(),
                weight: backend.weight,
                route,
            });
            if backend.kind == BackendKind::Service || !unreachable {
                compiled.services.insert(key);
            }
        }
        backends
    }

    /// Why requests can't go to a backend: reason, field and a clause, which has no suggestion where
    /// it is not `shown`.
    fn problem(
        &self,
        backend: &BackendRef,
        key: &ObjectKey,
        hosts: &[ObjectKey],
        shown: bool,
        lost: &mut BTreeSet<ObjectKey>,
    ) -> Option<(Reason, &'static str, String)> {
        let ObjectKey { namespace, name } = key;
        let permitted =
            *namespace == self.key.namespace || namespaces(hosts).any(|host| host == namespace);
        if !permitted {
            return Some((
                Reason::RefNotPermitted,
                "namespace",
                format!(
                    "requests can go to Services in this object's namespace or in that of its hosts, \
                     not in {namespace}"
                ),
            ));
        }
        let Some(service) = self.services.get(key) else {
            let mut problem = format!("there is no Service {name:?} in namespace {namespace}");
            if shown {
                lost.insert(key.clone());
                problem += &self.suggestions.instead_of(key);
            }
            return Some((Reason::BackendNotFound, "name", problem));
        };
        if is_external_name(service) {
            return Some((
                Reason::BackendNotFound,
                "name",
                format!(
                    "Service {name:?} in namespace {namespace} has type ExternalName: requests can't \
                     leave the cluster yet"
                ),
            ));
        }
        match tcp_ports(service).find(|(number, _)| *number == backend.port) {
            None => Some((
                Reason::PortNotFound,
                "port",
                format!(
                    "Service {name:?} in namespace {namespace} has no port {}, {}",
                    backend.port,
                    listed(service)
                ),
            )),
            Some((_, port)) => {
                let otherwise = self.reads_otherwise(port, backend)?;
                Some((Reason::UnsupportedProtocol, "port", otherwise))
            }
        }
    }

    fn request_timeout(&self, rule: Option<&Timeouts>) -> Option<u64> {
        let own = rule.and_then(|timeouts| timeouts.request.as_ref());
        let common = self.spec.timeouts.as_ref();
        let common = common.and_then(|timeouts| timeouts.request.as_ref());
        own.or(common)
            .map(crds::Duration::millis)
            .filter(|millis| *millis != 0)
    }

    /// What becomes of the requests of a backend that can't be reached.
    fn meanwhile(&self, weight: u32, total: u64) -> String {
        let (requests, answered) = match self.reads_requests() {
            true => ("requests", "answered 503"),
            false => ("connections", "closed"),
        };
        match u64::from(weight) {
            0 => format!("It has weight 0 and gets no {requests}."),
            all if all == total => format!("The rule's {requests} are {answered} meanwhile."),
            some => format!(
                "Its share of the rule's {requests}, {some} of {total}, is {answered} meanwhile."
            ),
        }
    }

    fn idle_timeout(&self, rule: Option<&Timeouts>) -> Option<u64> {
        idle_timeout(self.spec, rule)
    }
}

/// The silence that ends a request of a rule, in milliseconds: as it says, or else the object.
pub(crate) fn idle_timeout(spec: &ApiRouteSpec, rule: Option<&Timeouts>) -> Option<u64> {
    let own = rule.and_then(|timeouts| timeouts.idle.as_ref());
    let common = spec.timeouts.as_ref();
    let common = common.and_then(|timeouts| timeouts.idle.as_ref());
    own.or(common).map(crds::Duration::millis)
}

/// What doesn't exist is named all the same: no sidecar has endpoints for it. What must not be
/// reached is sent as a Service without a name, which is nowhere either.
fn is_nowhere(problem: Reason) -> bool {
    matches!(
        problem,
        Reason::RefNotPermitted | Reason::UnsupportedProtocol
    )
}

fn namespaces(services: &[ObjectKey]) -> impl Iterator<Item = &str> {
    services.iter().map(|service| service.namespace.as_str())
}

pub(crate) fn service_ref(key: &ObjectKey) -> mesh::ServiceRef {
    mesh::ServiceRef {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

pub(crate) fn rule_name(index: usize) -> String {
    format!("rule-{index}")
}

/// The ports that a Service has, as a clause.
pub(crate) fn listed(service: &Service) -> String {
    let mut ports: Vec<String> = tcp_ports(service)
        .map(|(number, port)| match &port.name {
            Some(name) if !name.is_empty() => format!("{number} ({name})"),
            _ => number.to_string(),
        })
        .collect();
    if ports.is_empty() {
        return "and no other".to_owned();
    }
    let more = ports.len().saturating_sub(MAX_PORTS_LISTED);
    ports.truncate(MAX_PORTS_LISTED);
    if more > 0 {
        ports.push(format!("{more} more"));
    }
    format!("only {}", ports.join(", "))
}

/// A clause as the end of a sentence.
pub(crate) fn ended(clause: String) -> String {
    match clause.ends_with('?') {
        true => clause,
        false => clause + ".",
    }
}

// === impl Refusal ===

impl Refusal {
    /// One refusal for all that is wrong, with the reason of the first; but where the object contradicts
    /// itself that is the reason, since nothing that comes later would set it right.
    pub(crate) fn all(refusals: Vec<Refusal>) -> Option<Refusal> {
        let mut reasons = refusals.iter().map(|refusal| refusal.reason);
        let reason = match reasons.clone().find(|reason| *reason == Reason::Invalid) {
            Some(invalid) => invalid,
            None => reasons.next()?,
        };
        let more = refusals.len().saturating_sub(MAX_SENTENCES);
        let mut sentences: Vec<String> = refusals
            .into_iter()
            .take(MAX_SENTENCES)
            .map(|refusal| refusal.message)
            .collect();
        if more > 0 {
            sentences.push(format!("And {more} more."));
        }
        Some(Refusal {
            reason,
            message: sentences.join(" "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_thousand_missing_backends_only_those_that_are_told_are_compared() {
        let key = ObjectKey::new("shop", "orders");
        let service = |number| ObjectKey::new("shop", format!("backend-{number:04}"));
        let services = (0..1000).map(|number| (service(number), std::sync::Arc::default()));
        let services: Objects<Service> = services.collect();
        let rule = |rule: u32| RouteRule {
            backend_refs: (0..16)
                .map(|backend| BackendRef {
                    kind: BackendKind::Service,
                    name: format!("backend-{:04}", 2000 + 16 * rule + backend),
                    namespace: None,
                    port: 80,
                    weight: 1,
                })
                .collect(),
            ..RouteRule::default()
        };
        let spec = ApiRouteSpec {
            rules: (0..64).map(rule).collect(),
            ..ApiRouteSpec::default()
        };
        let suggestions = Suggestions::new(&services);
        let reader = Reader {
            key: &key,
            spec: &spec,
            services: &services,
            suggestions: &suggestions,
            settings: &Settings::default(),
            layers: Layers {
                written: &Objects::new(),
                leads: &Default::default(),
                in_force: &Default::default(),
            },
        };
        let rules = reader.rules(&[]);
        let message = rules.refusal.unwrap().message;
        assert_eq!(message.matches("did you mean").count(), MAX_SENTENCES);
        assert!(message.ends_with("And 1016 more."), "{message}");
        assert_eq!(rules.lost.len(), MAX_SENTENCES);
        let compared = suggestions.compared();
        assert!(compared <= MAX_SENTENCES * 64, "{compared} comparisons");
    }
}
