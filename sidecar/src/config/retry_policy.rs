//! RetryPolicy → [`RetryPolicy`]: what a caller does about the endpoints of a Service.

use std::time::Duration;

use http::HeaderName;
use wire::mesh::{self, consistent_hash, load_balancing};

use super::service::ServiceKey;

/// No span of a policy is longer.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A RetryPolicy, for callers.
#[derive(Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// `namespace/name` of the RetryPolicy.
    pub object: String,
    /// The Services whose callers it concerns.
    pub services: Vec<ServiceKey>,
    /// Written by the callers' own namespace; wins over the producer's.
    pub consumer: bool,
    /// How endpoints are picked.
    pub balancing: Balancing,
    /// Whether and how endpoints are asked if they are well.
    pub health_check: Option<HealthCheck>,
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
        let balancing = sent.load_balancing.map(Balancing::build).transpose();
        let health_check = sent.health_check.map(HealthCheck::build).transpose();
        Ok(Self {
            object: format!("{}/{}", sent.namespace, sent.name),
            services: sent
                .services
                .iter()
                .map(|service| ServiceKey::new(&service.namespace, &service.name))
                .collect(),
            consumer: sent.consumer,
            balancing: balancing
                .map_err(|error| format!("load_balancing: {error}"))?
                .unwrap_or_default(),
            health_check: health_check.map_err(|error| format!("health_check: {error}"))?,
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
        ] {
            assert_eq!(RetryPolicy::build(sent).unwrap_err(), expected);
        }
    }
}
