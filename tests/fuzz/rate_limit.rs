//! Limits as they are sent, and what a store of limits answers.

use prost::Message as _;
use sidecar::config::rate_limit::RateLimit;
use wire::mesh;

use crate::fuzz;

#[test]
fn fuzz_answers_of_a_store() {
    use sidecar::net::resp;
    let answers: &[&[u8]] = &[
        b"*6\r\n:1\r\n:100000\r\n:3\r\n:0\r\n:10\r\n:60000000\r\n",
        b"+OK\r\n$3\r\nabc\r\n$-1\r\n-NOSCRIPT no\r\n",
    ];
    fuzz(50_000, answers, &[b"\r\n", b"*", b"$", b"-1"], |bytes| {
        let mut rest = bytes;
        while let Ok(Some((_, length))) = resp::read(rest) {
            assert!((1..=rest.len()).contains(&length));
            rest = &rest[length..];
        }
    });
}

#[test]
fn fuzz_rate_limits() {
    use mesh::limit_key::Of;
    use sidecar::telemetry::metrics::rate_limit::Counters;
    let rate = || {
        Some(mesh::LimitRate {
            requests: 3,
            burst: 5,
        })
    };
    let limit = mesh::Limit {
        name: "a".into(),
        rate: rate(),
        per_ms: 1_000,
        key: vec![mesh::LimitKey {
            of: Some(Of::ClientIp(1)),
        }],
        methods: vec!["GET".into()],
        cost: Some(mesh::LimitCost {
            of: Some(mesh::limit_cost::Of::Header(mesh::LimitCostHeader {
                name: "x-cost".into(),
                max: 3,
            })),
        }),
        action: mesh::LimitAction::Delay.into(),
        delay: Some(mesh::LimitDelay {
            max_ms: 100,
            max_queue: 2,
        }),
        overrides: vec![mesh::LimitOverride {
            values: vec!["10.0.0.1".into()],
            rate: rate(),
        }],
        plans: vec![mesh::LimitPlan {
            name: "gold".into(),
            rate: rate(),
        }],
        window: mesh::LimitWindow::Month.into(),
        ..Default::default()
    };
    let sent = mesh::RateLimit {
        namespace: "shop".into(),
        name: "orders".into(),
        targets: vec![mesh::LimitTarget {
            name: "Service/orders".into(),
            services: vec![mesh::ServiceRef {
                namespace: "shop".into(),
                name: "orders".into(),
            }],
        }],
        limits: vec![limit],
        headers: mesh::LimitHeaders::Draft.into(),
        store: Some(mesh::SharedStore {
            url: "redis://app:p%40ss@redis:6379/1".into(),
            ca_certificates: String::new(),
            on_failure: mesh::StoreFailure::Deny.into(),
        }),
    };
    let counters = Counters::default();
    fuzz(5_000, &[&sent.encode_to_vec()], &[b"a"], |bytes| {
        let Ok(sent) = mesh::RateLimit::decode(bytes) else {
            return;
        };
        if let Ok(built) = RateLimit::build(sent, None, &counters) {
            assert!(!built.limits.is_empty());
        }
    });
}
