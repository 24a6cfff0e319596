//! Which RetryPolicy holds for what: the most specific that says anything about it. What is written for a
//! rule comes before what is written for its ApiRoute, and that before what is written for the Service; at
//! each of these, what the callers' own namespace wrote before what the target's did.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::retry_policy::{ForDestination, RetryPolicy, RouteTarget};
use crate::config::route::Route;
use crate::config::service::ServiceKey;
use crate::policy::retry::Retries;

/// What callers do when what they call fails.
#[derive(Debug, Default)]
pub struct Policies {
    of_services: HashMap<ServiceKey, Arc<Retries>>,
    of_routes: HashMap<RouteTarget, Arc<Retries>>,
    destinations: HashMap<ServiceKey, Arc<ForDestination>>,
}

/// What has been found so far, and whether a consumer wrote it.
struct Found<K, V>(HashMap<K, (bool, V)>);

// === impl Found ===

impl<K: Eq + std::hash::Hash, V> Found<K, V> {
    fn offer(&mut self, key: K, consumer: bool, value: V) {
        let held = self.0.get(&key);
        if held.is_none_or(|(of_a_consumer, _)| consumer && !of_a_consumer) {
            self.0.insert(key, (consumer, value));
        }
    }

    fn all(self) -> HashMap<K, V> {
        let all = self.0.into_iter();
        all.map(|(key, (_, value))| (key, value)).collect()
    }
}

impl<K, V> Default for Found<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

// === impl Policies ===

impl Policies {
    /// Links those that were built, with the ApiRoutes that govern Services.
    pub(super) fn link<'a>(
        all: impl Iterator<Item = &'a Arc<RetryPolicy>>,
        routes: &HashMap<ServiceKey, Arc<Route>>,
    ) -> Self {
        let (mut of_services, mut of_routes) = (Found::default(), Found::default());
        let (mut destinations, mut of_governed) = (Found::default(), Found::default());
        let governed = |target: &RouteTarget| {
            let by = routes.iter();
            let by =
                by.filter(|(_, route)| target.rule.is_none() && *route.object == *target.route);
            Vec::from_iter(by.map(|(service, _)| service.clone()))
        };
        for policy in all {
            let consumer = policy.consumer;
            if let Some(retries) = &policy.retries {
                for service in &policy.services {
                    of_services.offer(service.clone(), consumer, retries.clone());
                }
                for target in &policy.routes {
                    of_routes.offer(target.clone(), consumer, retries.clone());
                }
            }
            if let Some(destination) = &policy.destination {
                for service in &policy.services {
                    destinations.offer(service.clone(), consumer, destination.clone());
                }
                for service in policy.routes.iter().flat_map(governed) {
                    of_governed.offer(service, consumer, destination.clone());
                }
            }
        }
        let mut destinations = destinations.all();
        destinations.extend(of_governed.all());
        Self {
            of_services: of_services.all(),
            of_routes: of_routes.all(),
            destinations,
        }
    }

    /// When requests that a rule of an ApiRoute (`namespace/name`) governs are sent again.
    pub fn of_rule(&self, route: &str, rule: &str) -> Option<&Arc<Retries>> {
        if self.of_routes.is_empty() {
            return None;
        }
        let target = |rule: Option<&str>| RouteTarget {
            route: route.to_owned(),
            rule: rule.map(str::to_owned),
        };
        let of_rule = self.of_routes.get(&target(Some(rule)));
        of_rule.or_else(|| self.of_routes.get(&target(None)))
    }

    /// When other requests to a Service are.
    pub fn of_service(&self, service: &ServiceKey) -> Option<&Arc<Retries>> {
        self.of_services.get(service)
    }

    /// What holds for a Service as a whole.
    pub fn destination(&self, service: &ServiceKey) -> Option<&Arc<ForDestination>> {
        self.destinations.get(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::mesh;

    struct World {
        policies: Vec<Arc<RetryPolicy>>,
        routes: HashMap<ServiceKey, Arc<Route>>,
    }

    impl World {
        fn new() -> Self {
            let sent = mesh::Route {
                namespace: "shop".into(),
                name: "api".into(),
                ..Default::default()
            };
            let route = Arc::new(Route::build(sent, None).unwrap());
            let routes = [(ServiceKey::new("shop", "orders"), route)];
            Self {
                policies: Vec::new(),
                routes: routes.into(),
            }
        }

        /// `target` is `service`, `route` or `route/rule`.
        fn policy(mut self, name: &str, consumer: bool, target: &str, breaks: bool) -> Self {
            let mut sent = mesh::RetryPolicy {
                namespace: "x".into(),
                name: name.into(),
                consumer,
                ..Default::default()
            };
            match target.split_once('/') {
                None if target == "service" => sent.services.push(mesh::ServiceRef {
                    namespace: "shop".into(),
                    name: "orders".into(),
                }),
                rule => sent.routes.push(mesh::RouteTarget {
                    route: Some(mesh::RouteRef {
                        namespace: "shop".into(),
                        name: "api".into(),
                    }),
                    rule: rule.map(|(_, rule)| rule.to_owned()).unwrap_or_default(),
                }),
            }
            match breaks {
                true => sent.load_balancing = Some(round_robin()),
                false => sent.retries = Some(retries()),
            }
            self.policies
                .push(Arc::new(RetryPolicy::build(sent).unwrap()));
            self
        }

        fn linked(&self) -> [Policies; 2] {
            let forth = self.policies.iter();
            let back = self.policies.iter().rev();
            [
                Policies::link(forth, &self.routes),
                Policies::link(back, &self.routes),
            ]
        }
    }

    fn round_robin() -> mesh::LoadBalancing {
        mesh::LoadBalancing {
            algorithm: Some(mesh::load_balancing::Algorithm::RoundRobin(
                mesh::RoundRobin {},
            )),
            slow_start_ms: None,
        }
    }

    fn retries() -> mesh::Retries {
        mesh::Retries {
            on: Some(mesh::RetryOn::default()),
            backoff: Some(mesh::Backoff {
                growth: 1,
                jitter: 1,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_written_for_a_rule_comes_before_its_route_and_a_consumers_before_a_producers() {
        let orders = ServiceKey::new("shop", "orders");
        let world = World::new()
            .policy("service", false, "service", false)
            .policy("route", false, "route", false)
            .policy("rule", false, "route/get", false)
            .policy("consumers-service", true, "service", false)
            .policy("consumers-rule", true, "route/put", false)
            .policy("rule-put", false, "route/put", false);
        for policies in world.linked() {
            let of_rule = |rule| &*policies.of_rule("shop/api", rule).unwrap().object;
            assert_eq!(of_rule("get"), "x/rule");
            assert_eq!(of_rule("put"), "x/consumers-rule");
            assert_eq!(of_rule("other"), "x/route");
            assert_eq!(
                policies.of_service(&orders).unwrap().object,
                "x/consumers-service"
            );
            assert!(policies.of_rule("shop/other", "get").is_none());
        }
    }

    #[test]
    fn what_is_about_a_destination_is_found_by_itself_and_through_the_route_that_governs_it() {
        let orders = ServiceKey::new("shop", "orders");
        let object = |policies: &Policies| policies.destination(&orders).unwrap().object.clone();
        let world = World::new()
            .policy("service", false, "service", true)
            .policy("retries", true, "service", false);
        for policies in world.linked() {
            assert_eq!(
                object(&policies),
                "x/service",
                "the other says nothing of it"
            );
        }
        let world = world.policy("route", false, "route", true);
        for policies in world.linked() {
            assert_eq!(object(&policies), "x/route");
        }
        let world = world.policy("consumers", true, "route", true);
        for policies in world.linked() {
            assert_eq!(object(&policies), "x/consumers");
        }
    }
}
