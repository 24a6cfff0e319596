//! RetryPolicies as YAML for people.

use serde_json::{Value, json};
use wire::mesh::{self, consistent_hash::On, load_balancing::Algorithm};

use super::service;

pub(super) fn shown(sent: mesh::RetryPolicy) -> Value {
    let mut shown = json!({
        "services": Vec::from_iter(sent.services.iter().map(service)),
        "consumer": sent.consumer,
    });
    let routes = sent.routes.iter().map(|target| {
        let route = target.route.as_ref().unwrap();
        let rule = match &*target.rule {
            "" => String::new(),
            rule => format!(" rule {rule}"),
        };
        format!("{}/{}{rule}", route.namespace, route.name)
    });
    let routes = Vec::from_iter(routes);
    if !routes.is_empty() {
        shown["routes"] = json!(routes);
    }
    if let Some(retries) = sent.retries {
        shown["retries"] = self::retries(&retries);
    }
    if let Some(budget) = sent.budget {
        shown["budget"] = json!({
            "percent": budget.percent,
            "minPerSecond": budget.min_per_second,
            "windowMs": budget.window_ms,
        });
    }
    if let Some(breaker) = &sent.circuit_breaker {
        shown["circuitBreaker"] = circuit_breaker(breaker);
    }
    if let Some(balancing) = sent.load_balancing {
        let algorithm = match balancing.algorithm.unwrap() {
            Algorithm::LeastRequest(_) => "least request".to_owned(),
            Algorithm::RoundRobin(_) => "round robin".to_owned(),
            Algorithm::ConsistentHash(hash) => match hash.on.unwrap() {
                On::Header(name) => format!("hash of header {name}"),
                On::Cookie(name) => format!("hash of cookie {name}"),
                On::Source(source) => format!("hash of the caller: {source}"),
            },
        };
        shown["algorithm"] = json!(algorithm);
        if let Some(slow_start) = balancing.slow_start_ms {
            shown["slowStartMs"] = json!(slow_start);
        }
    }
    if let Some(check) = sent.health_check {
        shown["healthCheck"] = json!({
            "path": check.path,
            "intervalMs": check.interval_ms,
            "timeoutMs": check.timeout_ms,
            "badAfter": check.unhealthy_threshold,
            "goodAfter": check.healthy_threshold,
        });
    }
    shown
}

fn those(all: &[(bool, &str)]) -> String {
    let those = all
        .iter()
        .filter(|(holds, _)| *holds)
        .map(|(_, name)| *name);
    Vec::from_iter(those).join(", ")
}

fn retries(retries: &mesh::Retries) -> Value {
    let on = retries.on.as_ref().unwrap();
    let backoff = retries.backoff.as_ref().unwrap();
    let conditions = [
        (on.connect_failure, "connect failure"),
        (on.reset, "reset"),
        (on.refused_stream, "refused stream"),
        (on.per_try_timeout, "per try timeout"),
        (on.status_4xx, "4xx"),
        (on.status_5xx, "5xx"),
    ];
    let (growth, jitter) = (backoff.growth(), backoff.jitter());
    let mut shown = json!({
        "max": retries.max,
        "backoff": format!(
            "{} x{} {} to {} ms {}", growth.as_str_name(), backoff.multiplier, backoff.initial_ms,
            backoff.max_ms, jitter.as_str_name(),
        ),
        "on": those(&conditions),
        "statuses": on.statuses,
        "grpcStatuses": on.grpc_statuses,
        "methods": retries.methods.join(", "),
        "idempotencyKey": retries.idempotency_key,
        "retryAfterMaxMs": retries.retry_after_max_ms,
        "maxReplayBytes": retries.max_replay_bytes,
    });
    if let Some(timeout) = retries.per_try_timeout_ms {
        shown["perTryTimeoutMs"] = json!(timeout);
    }
    if let Some(hedging) = &retries.hedging {
        shown["hedging"] = json!({ "afterMs": hedging.after_ms, "max": hedging.max });
    }
    shown
}

/// When a circuit opens and closes.
pub(super) fn circuit_breaker(breaker: &mesh::CircuitBreaker) -> Value {
    let on = [
        (breaker.on_5xx, "5xx"),
        (breaker.on_timeout, "timeout"),
        (breaker.on_connect, "connect"),
        (breaker.on_reset, "reset"),
    ];
    json!({
        "inARow": breaker.consecutive_failures,
        "errorPercent": breaker.error_percent,
        "minRequests": breaker.min_requests,
        "windowMs": breaker.window_ms,
        "on": those(&on),
        "openForMs": [breaker.open_for_ms, breaker.max_open_for_ms],
        "halfOpenRequests": breaker.half_open_requests,
        "maxEjectedPercent": breaker.max_ejected_percent,
    })
}
