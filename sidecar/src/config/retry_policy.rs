//! RetryPolicy → [`RetryPolicy`]: what a caller does when what it calls fails.
//!
//! It says two things, each of which is found by itself: when requests are sent again ([`Retries`]), which
//! a rule can have of its own, and what holds for a destination as a whole ([`ForDestination`]).

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use wire::mesh::{self, consistent_hash, load_balancing};

use super::service::ServiceKey;
use crate::policy::budget::Allowance;
use crate::policy::circuit_breaker::CircuitBreaker;
use crate::policy::retry::Retries;

/// No span of a policy is longer.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A RetryPolicy, for callers.
#[derive(Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The Services whose callers it concerns.
    pub services: Vec<ServiceKey>,
    /// The ApiRoutes whose requests it concerns.
    pub routes: Vec<RouteTarget>,
    /// Written by the callers' own namespace; wins over the producer's for the same target.
    pub consumer: bool,
    /// When requests are sent again, if it says so.
    pub retries: Option<Arc<Retries>>,
    /// What holds for a destination as a whole, if it says anything.
    pub destination: Option<Arc<ForDestination>>,
}

/// An ApiRoute, or a rule of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTarget {
    /// `namespace/name`.
    pub route: String,
    /// `None` is every rule.
    pub rule: Option<String>,
}

/// What holds for a destination as a whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ForDestination {
    /// `namespace/name` of the RetryPolicy.
    pub object: String,
    /// How endpoints are picked, if that is said.
    pub balancing: Option<Balancing>,
    /// Whether and how endpoints are asked if they are well.
    pub health_check: Option<HealthCheck>,
    /// How many retries there may be, if that is said.
    pub budget: Option<Allowance>,
    /// When endpoints that fail are not called.
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// How endpoints are picked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// Which of them.
    pub algorithm: Algorithm,
    /// How long a new one's share grows.
    pub slow_start: Option<Duration>,
}

/// Which endpoint a request goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two drawn at random the one that is expected to answer sooner.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Always the same for the same value.
    ConsistentHash(HashOn),
}

/// What is hashed of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// The workload that calls.
    Source,
}

/// How an endpoint is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked for, with GET.
    pub path: http::uri::PathAndQuery,
    /// From one question to the next.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// Bad answers in a row after which it is avoided.
    pub unhealthy_threshold: u32,
    /// Good ones in a row after which it is used again.
    pub healthy_threshold: u32,
}

// === build ===

impl RetryPolicy {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::RetryPolicy) -> Result<Self, String> {
        let object = format!("{}/{}", sent.namespace, sent.name);
        let retries = sent.retries.map(|retries| Retries::build(retries, &object));
        let retries = retries.transpose();
        let retries = retries.map_err(|error| format!("retries: {error}"))?;
        let is_of_a_destination = sent.load_balancing.is_some()
            || sent.health_check.is_some()
            || sent.budget.is_some()
            || sent.circuit_breaker.is_some();
        let balancing = sent.load_balancing.map(Balancing::build).transpose();
        let health_check = sent.health_check.map(HealthCheck::build).transpose();
        let budget = sent.budget.map(Allowance::build).transpose();
        let breaker = sent.circuit_breaker.as_ref().map(CircuitBreaker::build);
        let destination = ForDestination {
            object,
            balancing: balancing.map_err(|error| format!("load_balancing: {error}"))?,
            health_check: health_check.map_err(|error| format!("health_check: {error}"))?,
            budget: budget.map_err(|error| format!("budget: {error}"))?,
            circuit_breaker: breaker
                .transpose()
                .map_err(|error| format!("circuit_breaker: {error}"))?,
        };
        let routes = sent.routes.into_iter().map(|target| {
            let route = target.route.ok_or("routes: one names no ApiRoute")?;
            Ok(RouteTarget {
                route: format!("{}/{}", route.namespace, route.name),
                rule: Some(target.rule).filter(|rule| !rule.is_empty()),
            })
        });
        Ok(Self {
            services: sent
                .services
                .iter()
                .map(|service| ServiceKey::new(&service.namespace, &service.name))
                .collect(),
            routes: routes.collect::<Result<_, String>>()?,
            consumer: sent.consumer,
            retries: retries.map(Arc::new),
            destination: is_of_a_destination.then(|| Arc::new(destination)),
        })
    }
}

impl Balancing {
    fn build(sent: mesh::LoadBalancing) -> Result<Self, String> {
        use load_balancing::Algorithm as Sent;
        let algorithm = match sent.algorithm {
            Some(Sent::LeastRequest(_)) => Algorithm::LeastRequest,
            Some(Sent::RoundRobin(_)) => Algorithm::RoundRobin,
            Some(Sent::ConsistentHash(hash)) => Algorithm::ConsistentHash(HashOn::build(hash)?),
            None => return Err("the algorithm is not known to this sidecar".into()),
        };
        if sent
            .slow_start_ms
            .is_some_and(|span| !(1..=DAY_MS).contains(&span))
        {
            return Err("a slow start takes some time, and no more than a day".into());
        }
        if sent.slow_start_ms.is_some() && matches!(algorithm, Algorithm::ConsistentHash(_)) {
            return Err("a consistent hash has no slow start".into());
        }
        Ok(Self {
            algorithm,
            slow_start: sent.slow_start_ms.map(Duration::from_millis),
        })
    }
}

impl HashOn {
    fn build(sent: mesh::ConsistentHash) -> Result<Self, String> {
        use consistent_hash::On;
        match sent.on {
            Some(On::Header(name)) => HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| format!("`{name}` is no header")),
            Some(On::Cookie(name)) if !name.is_empty() => Ok(Self::Cookie(name)),
            Some(On::Source(true)) => Ok(Self::Source),
            _ => Err("what is hashed is not known to this sidecar".into()),
        }
    }
}

impl HealthCheck {
    fn build(sent: mesh::HealthCheck) -> Result<Self, String> {
        let path = sent.path.parse().ok();
        let path = path.filter(|_| sent.path.starts_with('/'));
        let spans = [sent.interval_ms, sent.timeout_ms];
        if !spans.iter().all(|span| (1..=DAY_MS).contains(span)) {
            return Err("interval and timeout are more than nothing and no more than a day".into());
        }
        Ok(Self {
            path: path.ok_or_else(|| format!("`{}` is no path", sent.path))?,
            interval: Duration::from_millis(sent.interval_ms),
            timeout: Duration::from_millis(sent.timeout_ms),
            unhealthy_threshold: sent.unhealthy_threshold.max(1),
            healthy_threshold: sent.healthy_threshold.max(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        algorithm: Option<load_balancing::Algorithm>,
        slow_start: Option<u64>,
    ) -> mesh::RetryPolicy {
        mesh::RetryPolicy {
            load_balancing: Some(mesh::LoadBalancing {
                algorithm,
                slow_start_ms: slow_start,
            }),
            ..Default::default()
        }
    }

    fn hash(on: Option<consistent_hash::On>) -> Option<load_balancing::Algorithm> {
        let hash = mesh::ConsistentHash { on };
        Some(load_balancing::Algorithm::ConsistentHash(hash))
    }

    #[test]
    fn what_is_not_known_or_means_nothing_is_rejected_with_its_place() {
        use consistent_hash::On;
        for (sent, expected) in [
            (
                with(None, None),
                "load_balancing: the algorithm is not known to this sidecar",
            ),
            (
                with(hash(None), None),
                "load_balancing: what is hashed is not known to this sidecar",
            ),
            (
                with(hash(Some(On::Header("a b".into()))), None),
                "load_balancing: `a b` is no header",
            ),
            (
                with(hash(Some(On::Source(true))), Some(1)),
                "load_balancing: a consistent hash has no slow start",
            ),
            (
                mesh::RetryPolicy {
                    health_check: Some(mesh::HealthCheck {
                        path: "health".into(),
                        interval_ms: 1,
                        timeout_ms: 1,
                        ..Default::default()
                    }),
                    ..Default::default()
                },
                "health_check: `health` is no path",
            ),
            (
                mesh::RetryPolicy {
                    retries: Some(mesh::Retries::default()),
                    ..Default::default()
                },
                "retries: it doesn't say after which failures",
            ),
            (
                mesh::RetryPolicy {
                    budget: Some(mesh::Budget::default()),
                    ..Default::default()
                },
                "budget: a window is 1 second to 1 minute",
            ),
            (
                mesh::RetryPolicy {
                    circuit_breaker: Some(mesh::CircuitBreaker::default()),
                    ..Default::default()
                },
                "circuit_breaker: percentages are from 1 to 100",
            ),
            (
                mesh::RetryPolicy {
                    routes: vec![mesh::RouteTarget::default()],
                    ..Default::default()
                },
                "routes: one names no ApiRoute",
            ),
        ] {
            assert_eq!(RetryPolicy::build(sent).unwrap_err(), expected);
        }
    }
}
