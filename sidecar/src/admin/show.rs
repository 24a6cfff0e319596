//! What the sidecar knows, for people: `/config` and `/stats`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use wire::Resource;

use super::Admin;
use crate::config::State;
use crate::config::service::Protocol;
use crate::config::state::Served;
use crate::policy::health_check::{EndpointState, Healths};
use crate::policy::idempotency::outcome::Outcome;
use crate::telemetry::log;
use crate::telemetry::metrics::{ConnectionKind, Direction, GrpcStatus, Metrics};

// === impl Admin ===

impl Admin {
    /// What is in force.
    pub(super) fn config(&self) -> Value {
        let credentials = self.readiness.credentials.borrow().clone();
        let stream = self.readiness.stream.borrow().clone();
        let state = self.readiness.state.borrow().clone();
        let held = self.held.borrow().clone();
        let certificate = credentials.map(|credentials| {
            let until = credentials.valid.1.duration_since(UNIX_EPOCH);
            json!({
                "identity": credentials.id.as_str(),
                "expires": until.ok().and_then(|until| rfc3339(until.as_secs())),
                "inForce": credentials.in_force(),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.readiness.missing().is_none(),
            "notReadyBecause": self.readiness.missing(),
            "certificate": certificate,
            "operator": {
                "connected": stream.connected,
                "complete": stream.complete,
                "error": stream.error,
            },
            "held": held.iter().map(held_line).collect::<Vec<_>>(),
            "inForce": in_force(&state, &self.metrics.attempts.healths),
            "avoidedEndpoints": self.metrics.endpoints_avoided.get(),
        })
    }

    /// Which endpoints are not called at the moment, or only if no other can be.
    pub(super) fn endpoints(&self) -> Value {
        let state = self.readiness.state.borrow().clone();
        let healths = &self.metrics.attempts.healths;
        let mut told = Vec::new();
        let mut services: Vec<_> = state.services().collect();
        services.sort_by_key(|service| service.key.clone());
        for service in services {
            for port in &service.ports {
                for endpoint in &port.endpoints {
                    let known = healths.state(&service.key, port.number, endpoint);
                    if let Some(known) = known.filter(|known| *known != EndpointState::Ready) {
                        told.push(json!({
                            "service": service.key.to_string(),
                            "port": port.number,
                            "pod": &*endpoint.pod,
                            "address": endpoint.address.to_string(),
                            "state": known.name(),
                        }));
                    }
                }
            }
        }
        json!({ "endpoints": told })
    }

    /// Who still calls in plaintext.
    pub(super) fn plaintext(&self) -> Value {
        let (callers, forgotten) = self.metrics.plaintext_callers.all();
        let callers = callers.into_iter().map(|(address, caller)| {
            let last = caller.last.duration_since(UNIX_EPOCH);
            json!({
                "address": address.to_string(),
                "service": &*caller.service,
                "requests": caller.requests,
                "last": last.ok().and_then(|last| rfc3339(last.as_secs())),
            })
        });
        json!({ "callers": callers.collect::<Vec<_>>(), "forgotten": forgotten })
    }

    /// Which ports made callers wait for a server that speaks first, and would still.
    pub(super) fn stalls(&self) -> Value {
        let (mut stalls, forgotten) = self.metrics.stalls.all();
        let state = self.readiness.state.borrow().clone();
        stalls.retain(|((service, number), _)| {
            let mut services = state.services();
            let service = services.find(|known| known.key.text() == service);
            let port = service.and_then(|service| service.port(*number));
            port.is_some_and(|port| port.protocol == Protocol::Detect)
        });
        let stalls = stalls.into_iter().map(|((service, port), stall)| {
            let last = stall.last.duration_since(UNIX_EPOCH);
            json!({
                "service": &*service,
                "port": port,
                "connections": stall.connections,
                "last": last.ok().and_then(|last| rfc3339(last.as_secs())),
            })
        });
        json!({ "stalls": stalls.collect::<Vec<_>>(), "forgotten": forgotten })
    }

    /// What is going on, and what went on since the start.
    pub(super) fn stats(&self) -> Value {
        let metrics = &*self.metrics;
        let changed = u64::try_from(metrics.config_changed.get()).unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let age = now.map_or(0, |now| now.as_secs().saturating_sub(changed));
        let directions = [Direction::outbound, Direction::inbound];
        let by_direction = directions.map(|direction| {
            let told = json!({
                "requests": requests(metrics, direction),
                "connections": connections(metrics, direction),
            });
            (direction.name().to_owned(), told)
        });
        let mut told = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "config": {
                "version": metrics.config_version.get(),
                "changed": rfc3339(changed).filter(|_| changed > 0),
                "ageSeconds": (changed > 0).then_some(age),
                "rejected": metrics.rejected.get(),
            },
            "upstreamConnections": metrics.upstreams_open(),
            "accessLog": {
                "selection": self.access_log.as_ref().map(|log| log.get().to_string()),
                "dropped": metrics.access_log_dropped.get(),
            },
            "logLevel": log::level(),
        });
        if let Value::Object(told) = &mut told {
            told.extend(by_direction);
        }
        told
    }
}

/// One resource held.
fn held_line(resource: &Resource) -> Value {
    let hash = resource.hash.iter().map(|byte| format!("{byte:02x}"));
    json!({
        "id": resource.id.to_string(),
        "generation": resource.generation.to_string(),
        "hash": hash.collect::<String>(),
    })
}

fn requests(metrics: &Metrics, direction: Direction) -> Value {
    let mut ended = 0;
    let mut by_code = BTreeMap::<String, u64>::new();
    let mut by_reason = BTreeMap::<&str, u64>::new();
    let mut by_service = BTreeMap::<String, u64>::new();
    for (labels, count) in metrics.requests.counted() {
        if labels.direction != direction {
            continue;
        }
        ended += count;
        *by_code.entry(labels.code.to_string()).or_default() += count;
        *by_service.entry(labels.service.0.to_string()).or_default() += count;
        if let Some(reason) = labels.reason.0 {
            *by_reason.entry(reason.name()).or_default() += count;
        }
        if let GrpcStatus::Known(status) = labels.grpc_status {
            *by_code.entry(format!("grpc {status}")).or_default() += count;
        }
    }
    json!({
        "inFlight": metrics.requests.in_flight(direction),
        "ended": ended,
        "byCode": by_code,
        "byReason": by_reason,
        "byService": by_service,
    })
}

fn connections(metrics: &Metrics, direction: Direction) -> Value {
    let open = ConnectionKind::ALL.map(|kind| {
        let open = metrics.connections_open(direction, kind);
        (kind.name(), open)
    });
    json!(BTreeMap::from(open))
}

/// The linked state, as requests see it.
fn in_force(state: &State, healths: &Healths) -> Value {
    let mut services: Vec<_> = state.services().collect();
    services.sort_by_key(|service| service.key.clone());
    let services = services.into_iter().map(|service| {
        let (requests, bytes) = (state.route(&service.key), state.connections(&service.key));
        let ports = service.ports.iter().map(|port| {
            let reads = port.protocol.with_connections(bytes.is_some());
            let governs = match reads {
                Protocol::Tcp => bytes,
                Protocol::Http | Protocol::Http2 | Protocol::Detect => requests,
            };
            let endpoints = port.endpoints.iter().map(|endpoint| {
                let mut told = json!({
                    "address": endpoint.address.to_string(),
                    "pod": &*endpoint.pod,
                    "identity": endpoint.identity.as_ref().map(|id| id.as_str()),
                });
                let known = healths.state(&service.key, port.number, endpoint);
                if let Some(known) = known {
                    told["state"] = json!(known.name());
                }
                told
            });
            json!({
                "port": port.number,
                "protocol": format!("{:?}", port.protocol),
                "reads": format!("{reads:?}"),
                "route": governs.map(|route| &*route.object),
                "endpoints": endpoints.collect::<Vec<_>>(),
            })
        });
        json!({
            "service": service.key.to_string(),
            "addresses": service.addresses,
            "route": requests.map(|route| &*route.object),
            "cache": requests.map_or(Value::Null, |route| super::cache::kept_here(route)),
            "connectionRoute": bytes.map(|route| &*route.object),
            "retryPolicy": state.policies.destination(&service.key).map(|one| &*one.object),
            "retries": state.policies.of_service(&service.key).map(|one| &*one.object),
            "ports": ports.collect::<Vec<_>>(),
        })
    });
    let served = state.built.guards.values().flat_map(|guard| {
        let ports = guard.ports.iter();
        ports.map(|(port, protocol)| {
            json!({
                "service": &*guard.service, "port": port, "protocol": format!("{protocol:?}"),
                "cache": state.served(*port).map_or(Value::Null, super::cache::kept),
                "idempotency": state.served(*port).map_or(Value::Null, once),
                "whoMayEnter": state.served(*port).map_or(Value::Null, super::access::may_enter),
                "limits": super::limits::held(state, *port),
            })
        })
    });
    json!({
        "workload": state.built.workload.as_ref().map(|own| &*own.pod),
        "complete": state.is_complete(),
        "serves": served.collect::<Vec<_>>(),
        "outside": super::limits::outside(state),
        "services": services.collect::<Vec<_>>(),
    })
}

/// What is carried out once at a port, with how much is held for it.
fn once(served: &Served) -> Value {
    let all = served.carries_out_once().iter().map(|one| {
        let (keys, bytes) = one.memory.size();
        let became = Outcome::ALL.map(|outcome| {
            let count = one.counts.of(outcome);
            (outcome.name().to_owned(), json!(count))
        });
        json!({
            "route": &*one.object,
            "header": one.header.as_str(),
            "required": one.required,
            "store": one.together.as_ref().map(|together| {
                together.address.as_ref().map(|address| address.to_string())
            }),
            "keys": keys,
            "bytes": bytes,
            "maxBytes": one.memory.most(),
            "requests": Map::from_iter(became),
        })
    });
    all.collect()
}

fn rfc3339(seconds: u64) -> Option<String> {
    let seconds = i64::try_from(seconds).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}
