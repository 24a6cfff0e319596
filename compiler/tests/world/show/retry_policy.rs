//! RetryPolicies as YAML for people.

use serde_json::{Value, json};
use wire::mesh::{self, consistent_hash::On, load_balancing::Algorithm};

use super::service;

pub(super) fn shown(sent: mesh::RetryPolicy) -> Value {
    let mut shown = json!({
        "services": Vec::from_iter(sent.services.iter().map(service)),
        "consumer": sent.consumer,
    });
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
