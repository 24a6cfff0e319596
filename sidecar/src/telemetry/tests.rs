//! That docs/telemetry.md is what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use wire::generation::Generation;
use wire::mesh;

use super::access_log::{Line, Timestamp};
use super::metrics::events::{Delivered, Published};
use super::metrics::text::Format;
use super::metrics::{
    Code, CodeClass, ConnectionKind, Direction, DirectionLabels, Ended, GrpcStatus, KindLabels,
    Metrics, MirrorLabels, MirrorOutcome, ReasonLabel, RequestLabels, RequestMetrics, Shared,
    Source,
};
use crate::config::broker::Broker;
use crate::config::route::Route;
use crate::config::service::{Endpoint, ServiceKey};
use crate::events::broker::Lag;
use crate::policy::budget::{Allowance, Budget};
use crate::policy::cache::store::{Bounds, Store};
use crate::policy::circuit_breaker::{CircuitBreaker, Circuits, Fault};
use crate::policy::health_check::Health;
use crate::policy::idempotency::memory::Memory;
use crate::policy::retry::Failure;
use crate::proxy::error::Reason;

const REFERENCE: &str = include_str!("../../../docs/telemetry.md");

/// The rows of the table whose first column is called so, cell by cell.
fn table(first: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let begins = format!("| {first} |");
    let lines = REFERENCE
        .lines()
        .skip_while(move |line| !line.starts_with(&begins));
    let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('|').skip(1).map(str::trim).collect())
}

/// What is in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// One series of everything.
fn everything() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new());
    let worker = RequestMetrics::new(metrics.clone());
    let status = Some(StatusCode::OK);
    let labels = RequestLabels {
        direction: Direction::outbound,
        source: Source::Unknown,
        service: Shared("shop/orders".into()),
        route: Shared("shop/orders".into()),
        rule: Shared("all".into()),
        code_class: CodeClass::of(status),
        code: Code::of(status),
        grpc_status: GrpcStatus::None,
        reason: ReasonLabel(None),
    };
    worker.begun(labels.direction);
    let ended = Ended {
        duration: Duration::from_millis(1),
        request_bytes: 1,
        response_bytes: 1,
    };
    worker.ended(labels, ended);
    metrics.stalled(&"shop/mail".into(), 25);
    metrics.plaintext(&"shop/orders".into(), 8080, [10, 0, 0, 1].into());
    let direction = Direction::inbound;
    drop(metrics.connection(direction, ConnectionKind::mtls_tcp));
    drop(metrics.upstream(true, "http2"));
    metrics.refused(direction, Reason::PlaintextRefused);
    let _ = metrics.handshake(direction, Ok(()));
    metrics.mirrored(&MirrorLabels {
        route: Shared("shop/orders".into()),
        rule: Shared("all".into()),
        outcome: MirrorOutcome::sent,
    });
    metrics.issuer_keys_fetched(true);
    metrics.config_in_force(1, &Generation::ZERO);
    let kind = KindLabels { kind: "route" };
    metrics.resources.get_or_create(&kind).set(1);
    let open = &metrics.sockets_open;
    open.get_or_create(&DirectionLabels { direction }).inc();
    metrics
}

/// A route whose rule bounds its concurrency: what that counts is there as long as the rule is.
fn bounded() -> Route {
    let rule = mesh::Rule {
        concurrency: Some(mesh::Concurrency {
            max: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    let sent = mesh::Route {
        rules: vec![rule],
        ..Default::default()
    };
    Route::build(sent, None).unwrap()
}

/// Attempts of every kind: a budget and a circuit are there as long as somebody holds them.
fn attempted(metrics: &Metrics) -> (Arc<Budget>, Arc<Health>) {
    let (key, attempts) = (ServiceKey::new("shop", "orders"), &metrics.attempts);
    metrics.retried(key.text(), Failure::Reset);
    metrics.not_retried(key.text(), "budget");
    metrics.hedged(key.text());
    let endpoint = Endpoint {
        address: ([10, 0, 0, 1], 8080).into(),
        identity: None,
        pod: "shop/orders-1".into(),
        own_address: true,
    };
    let health = attempts.healths.of(&key, 80, &endpoint);
    let breaker = CircuitBreaker::build(&mesh::CircuitBreaker {
        error_percent: 1,
        window_ms: 1000,
        on_5xx: true,
        open_for_ms: 1000,
        max_open_for_ms: 1000,
        max_ejected_percent: 1,
        ..Default::default()
    });
    let all = vec![health.clone()];
    let circuits = Circuits::new(breaker.unwrap(), key.clone(), all, attempts.healths.clone());
    let trial = circuits.enter(&health, None).unwrap();
    trial.failed(Fault::ServerError);
    (attempts.budgets.of(&key, Allowance::default()), health)
}

#[test]
fn the_reference_lists_every_metric_with_its_type_and_labels() {
    let (metrics, bounded) = (everything(), bounded());
    let _attempted = attempted(&metrics);
    let entered = metrics.access.of(&"shop/orders".into(), &[]);
    entered.authenticated();
    let store = Store::new(Bounds {
        bytes: 1,
        entries: 1,
    });
    let _kept = metrics
        .cache
        .of(Direction::inbound, &"shop/orders".into(), &store);
    let memory = Arc::<Memory>::default();
    let _held = metrics.idempotency.of(&"shop/orders".into(), &memory);
    metrics.concurrency.watch(&bounded);
    let name: Arc<str> = "shop/orders".into();
    let access = metrics.access.of(&name, &[]);
    access.authenticated();
    let limit = metrics.rate_limit.of(&name, &"all".into());
    limit.passed();
    metrics.looked_up(true);
    let broker = Broker::build(wire::mesh::Broker::default()).unwrap();
    metrics.events.published(&broker, &name, Published::Held);
    metrics.events.delivered(&name, Delivered::Acknowledged);
    metrics.events.in_flight(&name).inc();
    metrics.events.not_deduplicated(&name);
    metrics.events.subscribed(&name, Some(true));
    let lag = Lag {
        waiting: 1,
        unacknowledged: 1,
        again: 0,
    };
    metrics.events.lag(&name, Some(lag));
    let text = metrics.render(Format::Classic);
    let types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut rendered = BTreeMap::new();
    for (name, kind) in types {
        let samples = text.lines().filter_map(|line| line.strip_prefix(name));
        let mut labels = BTreeSet::new();
        for sample in samples.filter(|rest| rest.starts_with(['{', ' ', '_'])) {
            let all = sample
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once('}'));
            let names = all.map_or("", |(all, _)| all).split("\",");
            labels.extend(names.filter_map(|label| Some(label.split_once('=')?.0.to_owned())));
        }
        labels.remove("le");
        rendered.insert(name.to_owned(), (kind.to_owned(), labels));
    }
    let documented: BTreeMap<_, _> = table("metric")
        .map(|row| {
            let name = quoted(row[0]).collect::<String>();
            (name, (row[1].to_owned(), quoted(row[2]).collect()))
        })
        .collect();
    assert_eq!(documented, rendered);
}

#[test]
fn the_reference_lists_every_field_of_the_access_log_in_order() {
    let line = Line {
        time: Timestamp(SystemTime::UNIX_EPOCH),
        direction: "inbound",
        method: "GET",
        host: "orders",
        path: "/",
        source: "spiffe://cluster.local/ns/shop/sa/web",
        service: "shop/orders",
        route: "shop/orders",
        rule: "all",
        consumer: "acme",
        decision: "allowed",
        decided_by: "read",
        cache: "hit",
        limit: "shop/orders/all",
        limited: "delayed",
        idempotency: "first",
        endpoint: "shop/orders-1",
        status: 200,
        grpc_status: GrpcStatus::Known(14),
        reason: "no_endpoints",
        detail: "none",
        outcome: "complete",
        attempts: 1,
        attempt: 2,
        retried_after: "reset",
        duration_us: 1,
        request_bytes: 1,
        response_bytes: 1,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        request_id: "1",
    };
    let text = serde_json::to_string(&line).unwrap();
    let written: Vec<&str> = text
        .split(['{', ',', '}'])
        .filter_map(|field| field.split_once("\":"))
        .map(|(name, _)| name.trim_start_matches('"'))
        .collect();
    let documented: Vec<String> = table("field").flat_map(|row| quoted(row[0])).collect();
    assert_eq!(documented, written);
}
