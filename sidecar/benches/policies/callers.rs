//! What callers do when a target fails, as long as it does not.

use std::hint::black_box;

use sidecar::config::service::{Endpoint, ServiceKey};
use sidecar::policy::budget::{Allowance, Budgets};
use sidecar::policy::circuit_breaker::{CircuitBreaker, Circuits};
use sidecar::policy::retry::Retries;
use sidecar::proxy::headers;
use sidecar::telemetry::metrics::Metrics;
use tokio::time::Instant;
use wire::mesh;

use crate::head;

/// A request is counted for the budget, and what is needed to send it to another endpoint is kept.
pub(crate) fn without_policy() -> Box<dyn FnMut()> {
    let (budgets, allowance) = (Budgets::default(), Allowance::default());
    let budget = budgets.of(&ServiceKey::new("shop", "orders"), allowance);
    let lines = [
        ("accept", "application/json"),
        ("user-agent", "curl/8.5.0"),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        ("x-request-id", "1f7a3c52-0d5f-4a7e-9a55-5f9f3a5d1a11"),
    ];
    let (head, retries) = (head(&lines), Retries::without_policy());
    Box::new(move || {
        budget.requested(&allowance, Instant::now());
        assert!(retries.max > 0);
        drop(black_box(headers::copy(black_box(&head))));
    })
}

/// A closed circuit is entered, and the endpoint answers well.
pub(crate) fn circuit() -> Box<dyn FnMut()> {
    let (key, metrics) = (ServiceKey::new("shop", "orders"), Metrics::new());
    let endpoint = Endpoint {
        address: ([10, 0, 0, 1], 8080).into(),
        identity: None,
        pod: "shop/orders-1".into(),
        own_address: true,
    };
    let healths = metrics.attempts.healths.clone();
    let health = healths.of(&key, 80, &endpoint);
    let breaker = CircuitBreaker::build(&mesh::CircuitBreaker {
        consecutive_failures: 5,
        error_percent: 50,
        min_requests: 20,
        window_ms: 10_000,
        on_5xx: true,
        open_for_ms: 30_000,
        max_open_for_ms: 300_000,
        half_open_requests: 1,
        max_ejected_percent: 50,
        ..Default::default()
    });
    let circuits = Circuits::new(breaker.unwrap(), key, vec![health.clone()], healths);
    Box::new(move || {
        assert!(circuits.admit(&health));
        let mut trial = circuits.enter(&health, None).unwrap();
        trial.answered();
    })
}
