//! How much callers use, for people: what is counted, and what would become of a request. Nothing is
//! taken for it, no store is asked, and of a key only its kind is told.

use std::net::{IpAddr, Ipv4Addr};

use http::header::CONTENT_LENGTH;
use http::request::Parts;
use serde_json::{Value, json};

use super::access::refused;
use crate::config::State;
use crate::config::rate_limit::Limited;
use crate::config::state::Served;
use crate::identity::SpiffeId;
use crate::policy::authentication::Caller;
use crate::policy::rate_limit::Limit;
use crate::policy::rate_limit::key::Asking;
use crate::proxy::error::Reason;

/// The limits that hold at a port, with how many keys each counts and how many requests wait.
pub(super) fn held(state: &State, port: u16) -> Vec<Value> {
    let served = state.served(port).ok();
    let limited = served.into_iter().flat_map(Served::limits);
    limited.flat_map(counted).collect()
}

fn counted(limited: &Limited) -> impl Iterator<Item = Value> {
    limited.rate_limit.limits.iter().map(|limit| {
        json!({
            "rateLimit": &*limited.rate_limit.object,
            "limit": &*limit.name,
            "keys": limit.keys(),
            "waiting": limit.waiting(),
        })
    })
}

/// The limits for what is called outside the cluster.
pub(super) fn outside(state: &State) -> Vec<Value> {
    let places = state.outside.places().map(|place| {
        json!({
            "service": &*place.named.service,
            "limits": Vec::from_iter(counted(&place.limited)),
        })
    });
    places.collect()
}

/// What limits a call that goes outside the cluster, in words.
pub(super) fn of_outside(state: &State, host: &str, port: u16) -> Vec<String> {
    let places = state.outside.at(host, port).map(|place| {
        let (object, service) = (&place.limited.rate_limit.object, &place.named.service);
        format!("counted here by RateLimit {object} as what is called of Service {service}")
    });
    places.collect()
}

/// What each limit that is about a request would do with it.
pub(super) fn would(
    served: &Served,
    head: &Parts,
    source: Option<&SpiffeId>,
    callers: &[Caller],
) -> Value {
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let each = served.limits().iter().flat_map(|limited| {
        let asking = Asking {
            head,
            peer: source,
            // Limits that ask for it are told apart.
            from: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            callers,
            target: Limited::target(limited),
            length,
        };
        let limits = limited.rate_limit.limits.iter();
        let limits = limits.filter(|limit| limit.is_about(head));
        limits.map(move |limit| one(limited, limit, asking))
    });
    each.collect()
}

fn one(limited: &Limited, limit: &Limit, asking: Asking<'_>) -> Value {
    let mut told = json!({
        "rateLimit": &*limited.rate_limit.object,
        "limit": &*limit.name,
        "action": limit.action(),
        "bucket": limit.bucket(asking),
    });
    if limited.rate_limit.shared.is_some() {
        told["unknown"] = json!("counted in the store, which is not asked for this");
        return told;
    }
    if limit.asks_for_the_address(asking) {
        told["unknown"] = json!("counted by the caller's address, which is not known here");
        return told;
    }
    let too_much = match limit.would(asking) {
        Ok(level) => {
            told["passes"] = true.into();
            told["left"] = level.left.into();
            return told;
        }
        Err(too_much) => too_much,
    };
    told["left"] = too_much.level.left.into();
    told["tooMuch"] = true.into();
    let waits = too_much
        .wait
        .is_some_and(|wait| Some(wait) <= limit.patience());
    told["passes"] = (waits || limit.is_shadow()).into();
    let wait = too_much
        .wait
        .map(|wait| wait.as_nanos().div_ceil(1_000_000));
    told["waitMs"] = json!(wait.and_then(|millis| u64::try_from(millis).ok()));
    if !waits && !limit.is_shadow() {
        let reason = match too_much.wait {
            Some(_) => Reason::RateLimited,
            None => Reason::RequestTooLarge,
        };
        told["refused"] = refused(reason, "");
    }
    told
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wire::mesh::{self, LimitAction, limit_key::Of};

    use super::*;
    use crate::admin::access::enter;
    use crate::config::guard::{Guard, Workload};
    use crate::config::rate_limit::RateLimit;
    use crate::config::state::Built;
    use crate::telemetry::metrics::rate_limit::Counters;

    /// Two in a minute.
    fn limit(name: &str, key: Option<Of>, action: LimitAction) -> mesh::Limit {
        mesh::Limit {
            name: name.into(),
            rate: Some(mesh::LimitRate {
                requests: 2,
                burst: 2,
            }),
            per_ms: 60_000,
            key: key
                .map(|of| mesh::LimitKey { of: Some(of) })
                .into_iter()
                .collect(),
            action: action.into(),
            delay: Some(mesh::LimitDelay {
                max_ms: 40_000,
                max_queue: 1,
            }),
            ..mesh::Limit::default()
        }
    }

    fn state(limits: Vec<mesh::Limit>, store: Option<mesh::SharedStore>) -> State {
        let guard = mesh::Guard {
            namespace: "shop".into(),
            service: "orders".into(),
            ports: vec![mesh::GuardPort {
                port: 8080,
                protocol: mesh::Protocol::Http.into(),
            }],
            ..mesh::Guard::default()
        };
        let workload = mesh::Workload {
            namespace: "shop".into(),
            guards: vec!["guard/shop/orders".into()],
            ..mesh::Workload::default()
        };
        let rate_limit = mesh::RateLimit {
            namespace: "shop".into(),
            name: "limits".into(),
            targets: vec![mesh::LimitTarget {
                name: "Service/orders".into(),
                services: vec![mesh::ServiceRef {
                    namespace: "shop".into(),
                    name: "orders".into(),
                }],
                outside: None,
            }],
            limits,
            headers: mesh::LimitHeaders::None.into(),
            store,
        };
        let rate_limit = RateLimit::build(rate_limit, None, &Counters::default());
        let mut built = Built {
            workload: Some(Arc::new(Workload::build(workload).unwrap())),
            ..Built::default()
        };
        let guard = Arc::new(Guard::build(guard).unwrap());
        built.guards.insert("guard/shop/orders".into(), guard);
        let rate_limit = Arc::new(rate_limit.unwrap());
        built
            .rate_limits
            .insert("rate-limit/shop/limits".into(), rate_limit);
        State::link(built)
    }

    fn told(state: &State, query: &str) -> Vec<Value> {
        let told = enter(state, query).unwrap();
        told[0]["limits"].as_array().unwrap().clone()
    }

    /// Takes as a request of nobody's does, that has no header.
    async fn take(state: &State, place: usize) {
        let limited = &state.served(8080).unwrap().limits()[0];
        let (head, ()) = http::Request::new(()).into_parts();
        let asking = Asking {
            head: &head,
            peer: None,
            from: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            callers: &[],
            target: Limited::target(limited),
            length: None,
        };
        let taken = limited.rate_limit.limits[place].take(asking, None).await;
        taken.unwrap().kept(asking);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_limit_would_do_is_told_without_taking_anything() {
        let mut writes = limit("writes", None, LimitAction::Reject);
        writes.methods = vec!["POST".into()];
        let state = state(
            vec![
                limit("all", None, LimitAction::Reject),
                limit(
                    "tenant",
                    Some(Of::Header("x-tenant".into())),
                    LimitAction::Delay,
                ),
                limit("trial", Some(Of::Target(true)), LimitAction::Shadow),
                limit("address", Some(Of::ClientIp(1)), LimitAction::Reject),
                writes,
            ],
            None,
        );
        for _ in 0..3 {
            let limits = told(&state, "path=/&header=x-tenant:+acme");
            let one = |place: usize| (&limits[place]["passes"], &limits[place]["left"]);
            assert_eq!(limits.len(), 4, "{limits:?}");
            assert!(
                (0..3).all(|place| one(place) == (&json!(true), &json!(1))),
                "{limits:?}"
            );
            assert_eq!(limits[0]["rateLimit"], "shop/limits");
            assert_eq!(limits[1]["bucket"], "of its header x-tenant");
            assert_eq!(limits[2]["bucket"], "for Service/orders");
            assert_eq!(limits[3]["passes"], Value::Null);
            assert!(limits[3]["unknown"].is_string());
            assert!(!format!("{limits:?}").contains("acme"), "{limits:?}");
        }
        let behind = told(&state, "path=/&header=x-forwarded-for:+192.0.2.1");
        assert_eq!(behind[3]["left"], 1);
        for place in [0, 0, 1, 1, 2, 2] {
            take(&state, place).await;
        }
        let limits = told(&state, "path=/");
        assert_eq!(limits[0]["refused"]["status"], 429);
        assert_eq!(
            (&limits[0]["passes"], &limits[0]["waitMs"]),
            (&json!(false), &json!(30_000))
        );
        assert_eq!(limits[1]["bucket"], "of all without header x-tenant");
        assert_eq!(
            (&limits[1]["passes"], &limits[1]["waitMs"]),
            (&json!(true), &json!(30_000))
        );
        assert_eq!(
            (&limits[2]["passes"], &limits[2]["tooMuch"]),
            (&json!(true), &json!(true))
        );
        let other = told(&state, "path=/&header=x-tenant:+acme");
        assert_eq!(other[1]["left"], 1, "another bucket");
    }

    #[test]
    fn what_replicas_count_together_is_not_asked() {
        let store = mesh::SharedStore {
            on_failure: mesh::StoreFailure::Allow.into(),
            ..mesh::SharedStore::default()
        };
        let state = state(vec![limit("all", None, LimitAction::Reject)], Some(store));
        let limits = told(&state, "path=/");
        assert_eq!(limits[0]["passes"], Value::Null);
        assert_eq!(
            limits[0]["unknown"],
            "counted in the store, which is not asked for this"
        );
    }
}
