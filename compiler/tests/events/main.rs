//! A folder takes an EventSubscription exactly where a cluster would.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod schedules;

use compiler::yaml::{Object, parse};
use crds::event_subscription::{
    ConcurrencyPolicy, DeliveryMode, EventOrdering, EventTargetType, Manage, OnExhausted, StartType,
};

const SOURCE: &str = "source: {type: Broker, broker: {name: nats, topic: orders}}";
const TARGET: &str = "target: {type: Service, service: {name: orders, port: 80}}";
const DELIVERY: &str = "delivery: {onExhausted: Drop}";

/// An EventSubscription whose spec is on line 4.
fn subscription(spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: EventSubscription\nmetadata: {{name: orders}}\n\
         spec: {{{spec}}}\n"
    )
}

/// What is wrong, without its place, which is line 4.
#[track_caller]
fn refused(text: &str, expected: &str) {
    let problems = parse("shop.yaml", text).problems;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [format!("shop.yaml:4: {expected}")], "{text}");
}

#[track_caller]
fn refuses(spec: &str, expected: &str) {
    refused(&subscription(spec), expected);
}

#[track_caller]
fn takes(spec: &str) -> crds::EventSubscriptionSpec {
    let file = parse("shop.yaml", &subscription(spec));
    assert_eq!(file.problems, [], "{spec}");
    let Object::EventSubscription(subscription) = &file.documents[0].object else {
        panic!("{:?}", file.documents);
    };
    subscription.spec.clone()
}

/// With what stands in its broker, its target or its delivery.
fn with_source(broker: &str) -> String {
    format!("source: {{type: Broker, broker: {{{broker}}}}}, {TARGET}, {DELIVERY}")
}

fn with_target(target: &str) -> String {
    format!("{SOURCE}, target: {{{target}}}, {DELIVERY}")
}

fn with_delivery(delivery: &str) -> String {
    format!("{SOURCE}, {TARGET}, delivery: {{{delivery}}}")
}

fn with_filters(filters: &str) -> String {
    format!("{SOURCE}, {TARGET}, {DELIVERY}, filters: [{filters}]")
}

#[test]
fn what_is_not_written_is_what_the_schema_says() {
    let written = takes(&with_delivery("deadLetter: {topic: dead}"));
    assert!(!written.suspend);
    assert!(written.filters.is_empty());
    let broker = written.source.broker.as_ref().unwrap();
    assert_eq!(broker.consumer_group, None);
    assert_eq!(broker.start_from.type_, StartType::New);
    assert_eq!(broker.start_from.time, None);
    assert_eq!(broker.manage, Manage::CreateIfMissing);
    assert_eq!(written.target.type_, EventTargetType::Service);
    assert_eq!(written.target.path, "/");
    let delivery = &written.delivery;
    assert_eq!(delivery.mode, DeliveryMode::Binary);
    assert_eq!(delivery.timeout.millis(), 30_000);
    assert_eq!(delivery.max_in_flight, 10);
    assert_eq!(delivery.ordering, EventOrdering::None);
    assert_eq!((&delivery.batch, &written.reply), (&None, &None));
    assert_eq!((&delivery.responses, &delivery.expiry), (&vec![], &None));
    assert_eq!(delivery.on_exhausted, OnExhausted::DeadLetter);
    assert_eq!(
        delivery.retries,
        crds::event_subscription::Redelivery::default()
    );
    assert_eq!(delivery.retries.max_retries, 10);
    let backoff = &delivery.retries.backoff;
    assert_eq!(
        (backoff.initial.millis(), backoff.max.millis()),
        (1_000, 300_000)
    );
    // One that says a part of it has the rest of it from the schema too.
    let retries = takes(&with_delivery(
        "onExhausted: Drop, retries: {maxRetries: 0}",
    ))
    .delivery;
    assert_eq!(retries.retries.max_retries, 0);
    assert_eq!(retries.retries.backoff, *backoff);
}

#[test]
fn without_a_source_a_target_or_a_delivery_it_says_nothing() {
    for (spec, what) in [
        (
            format!("{TARGET}, {DELIVERY}"),
            "source: is missing: Where the events come from",
        ),
        (
            format!("{SOURCE}, {DELIVERY}"),
            "target: is missing: Where they go",
        ),
        (
            format!("{SOURCE}, {TARGET}"),
            "delivery: is missing: How they are delivered, and what becomes of those that can't be",
        ),
    ] {
        refuses(&spec, &format!("spec.{what}"));
    }
}

#[test]
fn a_dead_letter_topic_is_written_where_dead_letters_go_and_is_another_one() {
    let needs = "spec.delivery: onExhausted: DeadLetter needs deadLetter.topic, or write onExhausted: \
                 Block or Drop";
    let only = "spec.delivery: deadLetter is written with onExhausted: DeadLetter, and only there";
    refuses(&with_delivery(""), needs);
    refuses(&with_delivery("onExhausted: DeadLetter"), needs);
    for other in ["Block", "Drop"] {
        let delivery = format!("onExhausted: {other}, deadLetter: {{topic: dead}}");
        refuses(&with_delivery(&delivery), only);
        takes(&with_delivery(&format!("onExhausted: {other}")));
    }
    refuses(
        &with_delivery("deadLetter: {topic: orders}"),
        "spec: delivery.deadLetter.topic is the topic that the events come from: they would come again for \
         ever",
    );
    takes(&with_delivery("deadLetter: {topic: orders.dead}"));
}

#[test]
fn a_key_is_written_with_order_by_key_and_a_batch_is_json_in_no_order() {
    let drop = |more: &str| with_delivery(&format!("onExhausted: Drop, {more}"));
    let key = "spec.delivery: orderingKey is written with ordering: Key, and only there";
    let batch = "spec.delivery: a batch is JSON, and in no order: it is written with mode: Structured and ordering: \
                 None";
    takes(&drop("ordering: Global"));
    let written = takes(&drop("ordering: Key, orderingKey: subject")).delivery;
    assert_eq!(written.ordering, EventOrdering::Key);
    for wrong in [
        "orderingKey: a",
        "ordering: Global, orderingKey: a",
        "ordering: None, orderingKey: a",
    ] {
        refuses(&drop(wrong), key);
    }
    let written = takes(&drop("mode: Structured, batch: {}")).delivery.batch;
    let written = written.unwrap();
    assert_eq!(
        (
            written.max_size,
            written.max_wait.millis(),
            written.max_bytes
        ),
        (100, 100, 1_048_576)
    );
    for wrong in [
        "batch: {}",
        "mode: Binary, batch: {}",
        "mode: Structured, ordering: Key, batch: {}",
    ] {
        refuses(&drop(wrong), batch);
    }
    refuses(
        &drop("mode: Structured, batch: {maxWait: 10001ms}"),
        "spec.delivery.batch.maxWait: events wait for others for 10s at most",
    );
}

#[test]
fn replies_go_to_another_topic_and_are_not_those_of_batches() {
    let reply = |topic: &str, more: &str| {
        format!(
            "{}, reply: {{topic: {topic}}}",
            with_delivery(&format!("onExhausted: Drop{more}"))
        )
    };
    takes(&reply("done", ""));
    refuses(
        &reply("orders", ""),
        "spec: reply.topic is the topic that the events come from: each reply would be replied to for ever",
    );
    refuses(
        &reply("done", ", mode: Structured, batch: {}"),
        "spec: a batch is not replied to: write reply without delivery.batch",
    );
    refuses(
        &reply("done", ", bodyStatus: true"),
        "spec: a body is a reply or says what becomes of the event: write reply, or delivery.bodyStatus",
    );
    refuses(
        &with_delivery("onExhausted: Drop, bodyStatus: true, mode: Structured, batch: {}"),
        "spec.delivery: bodyStatus is of one event: the answer to a batch says of each what became of it",
    );
}

#[test]
fn a_replay_is_written_for_what_can_be_replayed() {
    let replay = |from: &str, delivery: &str| {
        format!(
            "{}, replay: {{request: a, from: {from}, until: \"2026-11-20T08:00:00Z\"}}",
            with_delivery(delivery)
        )
    };
    let letters = "deadLetter: {topic: dead}";
    let since = "{type: Time, time: \"2026-11-20T08:00:00Z\"}";
    takes(&replay("{type: DeadLetter}", letters));
    takes(&replay(since, "onExhausted: Drop"));
    refuses(
        &replay("{type: DeadLetter}", "onExhausted: Drop"),
        "spec: dead letters are replayed from delivery.deadLetter.topic, and there is none",
    );
    refuses(
        &replay("{type: Time}", letters),
        "spec.replay.from: time is written with type Time, and only there",
    );
}

#[test]
fn a_moment_is_written_with_type_time_and_only_there() {
    let only = "spec.source.broker.startFrom: time is written with type Time, and only there";
    let start =
        |start: &str| with_source(&format!("name: nats, topic: orders, startFrom: {start}"));
    refuses(&start("{type: Time}"), only);
    refuses(&start("{time: \"2026-11-20T08:00:00Z\"}"), only);
    refuses(
        &start("{type: Earliest, time: \"2026-11-20T08:00:00Z\"}"),
        only,
    );
    for time in [
        "2026-11-20T08:00:00Z",
        "2026-11-20T08:00:00.125Z",
        "2026-11-20T08:00:00.123456789+01:00",
    ] {
        let written = takes(&start(&format!("{{type: Time, time: \"{time}\"}}")));
        let read = written.source.broker.unwrap().start_from;
        assert_eq!(read.time.as_deref(), Some(time));
    }
    for wrong in ["2026-11-20 08:00:00Z", "2026-11-20T08:00:00+1:00"] {
        refuses(
            &start(&format!("{{type: Time, time: \"{wrong}\"}}")),
            &format!(
                "spec.source.broker.startFrom.time: \"{wrong}\" doesn't have the form \
                 ^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}([.][0-9]{{1,9}})?\
                 (Z|[+-][0-9]{{2}}:[0-9]{{2}})$ (With `Time`: the moment, in RFC 3339, such as \
                 `2026-11-20T08:00:00Z`)"
            ),
        );
    }
}

#[test]
fn a_place_at_the_broker_is_written_with_type_sequence_and_only_there() {
    let only =
        "spec.source.broker.startFrom: sequence is written with type Sequence, and only there";
    let start =
        |start: &str| with_source(&format!("name: nats, topic: orders, startFrom: {start}"));
    refuses(&start("{type: Sequence}"), only);
    refuses(&start("{sequence: \"1042\"}"), only);
    for place in ["1", "1042", "1763625600000-0"] {
        let written = takes(&start(&format!(
            "{{type: Sequence, sequence: \"{place}\"}}"
        )));
        let read = written.source.broker.unwrap().start_from;
        assert_eq!(read.sequence.as_deref(), Some(place));
    }
    refuses(
        &start("{type: Sequence, sequence: \"-1\"}"),
        "spec.source.broker.startFrom.sequence: \"-1\" doesn't have the form ^[0-9]{1,20}(-[0-9]{1,20})?$ (With \
         `Sequence`: the first event that is wanted, by its place at the broker: its number in the stream of NATS, \
         such as `1042`, or its id in Redis, such as `1763625600000-0`)",
    );
}

#[test]
fn a_target_is_what_its_type_says() {
    let workload = "workload: {selector: {app: a}, port: 8080}";
    let service = "service: {name: orders, port: 80}";
    let of_workload = "spec.target: workload is written with type Workload, and only there";
    let of_service = "spec.target: service is written with type Service, and only there";
    takes(&with_target(&format!("type: Workload, {workload}")));
    takes(&with_target(&format!("type: Service, {service}")));
    for (target, why) in [
        ("type: Workload".to_owned(), of_workload),
        (format!("type: Workload, {workload}, {service}"), of_service),
        ("type: Service".to_owned(), of_service),
        (format!("type: Service, {service}, {workload}"), of_workload),
    ] {
        refuses(&with_target(&target), why);
    }
    refuses(
        &with_target("type: Workload, workload: {selector: {}, port: 8080}"),
        "spec.target.workload.selector: without a label it selects nothing",
    );
}

#[test]
fn a_filter_says_one_thing_however_deep_it_stands() {
    let one = "a filter has one of exact, prefix, suffix, sql, data, all, any and not";
    let innermost = "a filter this deep has one of exact, prefix, suffix, sql and data";
    let (exact, sql) = ("exact: {type: a}", "sql: \"type = 'a'\"");
    for (filter, at, why) in [
        ("{}".to_owned(), "", one),
        (format!("{{{exact}, {sql}}}"), "", one),
        (format!("{{{exact}, not: {{{exact}}}}}"), "", one),
        ("{not: {}}".to_owned(), ".not", one),
        (
            format!("{{any: [{{{exact}}}, {{{exact}, {sql}}}]}}"),
            ".any[1]",
            one,
        ),
        ("{all: [{not: {}}]}".to_owned(), ".all[0].not", innermost),
        (
            format!("{{not: {{any: [{{{exact}, {sql}}}]}}}}"),
            ".not.any[0]",
            innermost,
        ),
    ] {
        let at = format!("spec.filters[0]{at}");
        refuses(&with_filters(&filter), &format!("{at}: {why}"));
    }
    for filter in [
        format!("{{{sql}}}"),
        format!("{{all: [{{{exact}}}, {{{sql}}}]}}"),
        format!("{{not: {{all: [{{{exact}}}, {{{sql}}}]}}}}"),
        format!("{{any: [{{not: {{{sql}}}}}, {{suffix: {{type: a}}}}, {{prefix: {{type: a}}}}]}}"),
    ] {
        takes(&with_filters(&filter));
    }
    // Deeper than that is said in SQL.
    let deep = subscription(&with_filters(&format!(
        "{{not: {{not: {{not: {{{exact}}}}}}}}}"
    )));
    let problems = parse("shop.yaml", &deep).problems;
    let problems = Vec::from_iter(problems.iter().map(ToString::to_string));
    assert_eq!(
        problems,
        [
            "shop.yaml:4: spec.filters[0].not.not.not: unknown field; the fields here are data, exact, prefix, sql, \
             suffix",
            &*format!("shop.yaml:4: spec.filters[0].not.not: {innermost}"),
        ]
    );
}

#[test]
fn times_are_within_what_a_delivery_can_take() {
    let drop = |more: &str| with_delivery(&format!("onExhausted: Drop, {more}"));
    for (field, good, wrong, why) in [
        (
            "timeout",
            ["100ms", "10m"],
            ["99ms", "601s"],
            "a delivery takes 100ms to 10m",
        ),
        (
            "expiry",
            ["1s", "8760h"],
            ["999ms", "8760h1ms"],
            "events expire after 1s to 8760h",
        ),
    ] {
        for good in good {
            takes(&drop(&format!("{field}: {good}")));
        }
        for wrong in wrong {
            let at = format!("spec.delivery.{field}");
            refuses(&drop(&format!("{field}: {wrong}")), &format!("{at}: {why}"));
        }
    }
}

#[test]
fn numbers_lists_and_texts_have_bounds() {
    let drop = |more: &str| with_delivery(&format!("onExhausted: Drop, {more}"));
    let many = |what: &str, count: usize| vec![what; count].join(", ");
    let response = "{codes: [409], action: Retry}";
    for good in [
        drop("maxInFlight: 1000"),
        drop("retries: {maxRetries: 1000}"),
        drop(&format!("responses: [{}]", many(response, 16))),
        drop("responses: [{codes: [200, 599], action: Drop}]"),
        with_filters(&many("{sql: \"TRUE\"}", 8)),
        with_source("name: a, topic: a-1.b_2.C, consumerGroup: a.b-c_D"),
        with_target(
            "type: Service, service: {name: a, port: 65535}, path: \"/a/b;c=d,e@f!$&'()*+~\"",
        ),
    ] {
        takes(&good);
    }
    for (wrong, why) in [
        (
            with_filters("{exact: {}}"),
            "spec.filters[0].exact: has 0 entries; at least 1 must be there",
        ),
        (
            with_filters("{exact: {type: \"\"}}"),
            "spec.filters[0].exact.type: has 0 characters; at least 1 must be there",
        ),
        (
            drop("maxInFlight: 0"),
            "spec.delivery.maxInFlight: must be 1 to 1000, not 0",
        ),
        (
            drop("maxInFlight: 1001"),
            "spec.delivery.maxInFlight: must be 1 to 1000, not 1001",
        ),
        (
            drop("retries: {maxRetries: 1001}"),
            "spec.delivery.retries.maxRetries: must be 0 to 1000, not 1001",
        ),
        (
            drop(&format!("responses: [{}]", many(response, 17))),
            "spec.delivery.responses: has 17 items; at most 16 are possible",
        ),
        (
            drop("responses: [{codes: [], action: Drop}]"),
            "spec.delivery.responses[0].codes: has 0 items; at least 1 must be there",
        ),
        (
            drop("responses: [{codes: [199], action: Drop}]"),
            "spec.delivery.responses[0].codes[0]: must be 200 to 599, not 199",
        ),
        (
            drop("responses: [{codes: [600], action: Drop}]"),
            "spec.delivery.responses[0].codes[0]: must be 200 to 599, not 600",
        ),
        (
            drop("responses: [{codes: [409], action: Ack}]"),
            "spec.delivery.responses[0].action: \"Ack\" is not one of Acknowledge, Retry, DeadLetter, Drop",
        ),
        (
            with_filters(&many("{sql: \"TRUE\"}", 9)),
            "spec.filters: has 9 items; at most 8 are possible",
        ),
        (
            with_filters("{all: []}"),
            "spec.filters[0].all: has 0 items; at least 1 must be there",
        ),
        (
            with_source("name: Nats, topic: orders"),
            "spec.source.broker.name: \"Nats\" doesn't have the form ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ (The \
             broker: a Secret of the object's namespace with the label `meshwright.dev/broker: <name>`)",
        ),
        (
            with_source("name: nats, topic: orders.*"),
            "spec.source.broker.topic: \"orders.*\" doesn't have the form \
             ^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$ (The topic)",
        ),
        (
            with_target("type: Service, service: {name: a, port: 0}"),
            "spec.target.service.port: must be 1 to 65535, not 0",
        ),
        (
            with_target("type: Service, service: {name: a, port: 80}, path: /a?b"),
            "spec.target.path: \"/a?b\" doesn't have the form ^/[A-Za-z0-9/._~!$&'()*+,;=:@-]*$ (The path that \
             events are posted to, with type Workload or Service)",
        ),
    ] {
        refuses(&wrong, why);
    }
}
