//! RateLimits as YAML for people.

use serde_json::{Value, json};
use wire::mesh::{self, limit_cost, limit_key::Of};

use super::service;

pub(super) fn shown(sent: mesh::RateLimit) -> Value {
    let headers = sent.headers().as_str_name();
    let targets = sent.targets.iter().map(|target| {
        let services = Vec::from_iter(target.services.iter().map(service));
        let shown = match &target.outside {
            None => json!(services),
            Some(outside) => self::outside(outside),
        };
        (target.name.clone(), shown)
    });
    let mut shown = json!({
        "targets": Value::Object(targets.collect()),
        "limits": Vec::from_iter(sent.limits.iter().map(limit)),
        "headers": headers,
    });
    if let Some(store) = &sent.store {
        shown["store"] = json!({"url": store.url, "onFailure": store.on_failure().as_str_name()});
    }
    shown
}

fn outside(sent: &mesh::LimitOutside) -> Value {
    let ports = sent.ports.iter();
    let ports = ports.map(|port| format!("{} {}", port.port, port.protocol().as_str_name()));
    json!({
        "service": sent.service.as_ref().map(service),
        "hosts": sent.hosts,
        "ports": Vec::from_iter(ports),
    })
}

fn limit(sent: &mesh::Limit) -> Value {
    let key = sent.key.iter().map(|key| match key.of.as_ref().unwrap() {
        Of::Consumer(_) => "consumer".to_owned(),
        Of::Identity(_) => "identity".to_owned(),
        Of::ClientIp(trusted) => format!("address behind {trusted}"),
        Of::Header(name) => format!("header {name}"),
        Of::JwtClaim(name) => format!("claim {name}"),
        Of::Target(_) => "target".to_owned(),
    });
    let mut shown = json!({
        "name": sent.name,
        "rate": rate(sent.rate.as_ref()),
        "perMs": sent.per_ms,
        "key": Vec::from_iter(key),
        "action": sent.action().as_str_name(),
    });
    if sent.window() != mesh::LimitWindow::None {
        shown["window"] = json!(sent.window().as_str_name());
    }
    if !sent.methods.is_empty() {
        shown["methods"] = json!(sent.methods);
    }
    if !sent.paths.is_empty() {
        shown["paths"] = json!(sent.paths.len());
    }
    if let Some(cost) = &sent.cost {
        shown["cost"] = json!(match cost.of.as_ref().unwrap() {
            limit_cost::Of::Bytes(_) => "bytes".to_owned(),
            limit_cost::Of::Header(one) => format!("header {}, up to {}", one.name, one.max),
        });
    }
    if let Some(delay) = &sent.delay {
        shown["delay"] = json!(format!("{} ms, {} wait", delay.max_ms, delay.max_queue));
    }
    for one in &sent.overrides {
        shown["overrides"][one.values.join(", ")] = rate(one.rate.as_ref());
    }
    for one in &sent.plans {
        shown["plans"][&one.name] = rate(one.rate.as_ref());
    }
    shown
}

fn rate(sent: Option<&mesh::LimitRate>) -> Value {
    let sent = sent.unwrap();
    json!(format!("{}, {} at once", sent.requests, sent.burst))
}
