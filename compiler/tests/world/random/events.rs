//! What is said of events, at random.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// A rule by which requests become events.
pub(super) fn publish() -> impl Strategy<Value = Value> {
    let broker = select(vec!["nats", "nats", "events", "none"]);
    let matches = select(vec![
        json!([]),
        json!([{"method": "POST"}]),
        json!([{"path": {"type": "Regex", "value": "/e+"}}]),
    ]);
    let event = select(vec![
        json!(null),
        json!({"type": "a"}),
        json!({"source": "/b"}),
    ]);
    (broker, matches, event).prop_map(|(broker, matches, event)| {
        json!({
            "matches": matches, "publish": {"broker": broker, "topic": "orders", "event": event},
        })
    })
}

/// Where a broker is: of two names, so that two Secrets have one of them sometimes.
pub(super) fn broker() -> impl Strategy<Value = Value> {
    let data = select(vec![
        json!({"url": "nats://orders:4222"}),
        json!({"url": "nats://orders.shop:4222", "token": "hunter2"}),
        json!({"url": "tls://nats.example.com", "username": "app", "password": "hunter2"}),
        // In the cluster, or outside it: as its domain says.
        json!({"url": "nats://orders.shop.svc.example.org"}),
        json!({"url": "nats://nats.example.com"}),
        json!({"url": "http://orders"}),
        json!({}),
    ]);
    (select(vec!["nats", "nats", "events"]), data).prop_map(|(name, data)| {
        json!({"metadata": {"labels": {"meshwright.dev/broker": name}}, "stringData": data})
    })
}

pub(super) fn event_subscription() -> impl Strategy<Value = Value> {
    // What is refused is rare, or hardly any would be in force: no label, by the schema and by the compiler.
    let selector = prop_oneof![
        4 => Just(json!({"app": "a"})),
        3 => Just(json!({"app": "a", "track": "new"})),
        3 => Just(json!({"app": "b"})),
        1 => Just(json!({})),
    ];
    let workload = selector.prop_map(
        |selector| json!({"type": "Workload", "workload": {"selector": selector, "port": 8080}}),
    );
    let service = (
        select(vec!["orders", "orders", "payments", "order"]),
        select(vec![80, 80, 81]),
    );
    let service = service.prop_map(
        |(name, port)| json!({"type": "Service", "service": {"name": name, "port": port}}),
    );
    let url = select(vec![
        json!(null),
        json!({"name": "s1"}),
        json!({"name": "s2"}),
    ]);
    let url = url.prop_map(|secret| {
        json!({"type": "URL", "url": {"address": "https://partner.example.com/a", "secretRef": secret}})
    });
    let topic = (
        select(vec![json!(null), json!("nats"), json!("events")]),
        select(vec!["copies", "copies", "orders"]),
    );
    let topic = topic.prop_map(
        |(broker, name)| json!({"type": "Topic", "topic": {"broker": broker, "name": name}}),
    );
    let target = prop_oneof![
        12 => workload, 12 => service, 5 => url, 5 => topic, 1 => Just(json!({"type": "Service"})),
    ];
    let source = (
        select(vec!["nats", "nats", "events", "none"]),
        prop_oneof![
            8 => Just(json!({})),
            4 => Just(json!({"type": "Earliest"})),
            4 => Just(json!({"type": "Time", "time": "2026-11-20T08:00:00Z"})),
            2 => Just(json!({"type": "Sequence", "sequence": "1042"})),
            1 => Just(json!({"type": "Sequence", "sequence": "7-1"})),
            1 => Just(json!({"type": "Time", "time": "2026-13-20T08:00:00Z"})),
        ],
    );
    let source = source.prop_map(|(broker, start)| {
        json!({
            "type": "Broker", "broker": {"name": broker, "topic": "orders", "startFrom": start},
        })
    });
    let schedule = select(vec![
        json!({"cron": "0 2 * * *", "timeZone": "Europe/Madrid", "jitter": "1m"}),
        json!({"cron": "@hourly", "concurrencyPolicy": "Forbid", "data": {"a": [1]}}),
        // Two of which nobody could go by.
        json!({"cron": "0 25 * * *"}),
        json!({"cron": "0 2 * * *", "timeZone": "Mars/Olympus"}),
    ]);
    let schedule = schedule.prop_map(|schedule| json!({"type": "Schedule", "schedule": schedule}));
    let source = prop_oneof![5 => source, 1 => schedule];
    let nested = json!({"any": [{"prefix": {"subject": "/a"}}, {"sql": "EXISTS region"}]});
    let filters = prop_oneof![
        8 => Just(json!([])),
        4 => Just(json!([{"exact": {"type": "a"}}, {"sql": "region = 'eu'"}])),
        4 => Just(json!([{"not": nested}])),
        // None that a sidecar could read.
        1 => Just(json!([{"sql": "region = "}])),
        1 => Just(json!([{"all": [{"suffix": {"Type": "a"}}]}])),
    ];
    let delivery = prop_oneof![
        5 => Just(json!({"onExhausted": "Drop"})),
        5 => Just(json!({"onExhausted": "Block", "maxInFlight": 1})),
        5 => Just(json!({"deadLetter": {"topic": "dead"}})),
        1 => Just(json!({"deadLetter": {"topic": "orders"}})),
    ];
    let redis =
        json!({"store": "Redis", "redis": {"urlSecretRef": {"name": "s1", "key": "password"}}});
    let deduplication = select(vec![json!(null), json!({}), redis]);
    let often = (any::<bool>(), 0..3);
    (target, source, filters, delivery, deduplication, often).prop_map(
        |(target, source, filters, delivery, deduplication, (suspend, generation))| {
            json!({
                "apiVersion": "meshwright.dev/v1alpha1",
                "kind": "EventSubscription",
                "metadata": {"generation": generation},
                "spec": {
                    "target": target, "source": source, "filters": filters,
                    "delivery": delivery, "suspend": suspend, "deduplication": deduplication,
                },
            })
        },
    )
}
