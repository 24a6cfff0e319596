//! Those whose source is a schedule.

use super::*;

/// With what stands in its schedule, beside `0 2 * * *`.
fn with_schedule(more: &str) -> String {
    let schedule = format!("schedule: {{cron: 0 2 * * *{more}}}");
    format!("source: {{type: Schedule, {schedule}}}, {TARGET}, {DELIVERY}")
}

#[test]
fn of_a_schedule_the_expression_is_enough() {
    let written = takes(&with_schedule(""));
    assert_eq!(written.source.broker, None);
    let schedule = written.source.schedule.unwrap();
    assert_eq!(schedule.cron, "0 2 * * *");
    assert_eq!(schedule.time_zone, "Etc/UTC");
    assert_eq!(schedule.concurrency_policy, ConcurrencyPolicy::Allow);
    assert_eq!((schedule.starting_deadline, schedule.jitter), (None, None));
    assert_eq!((schedule.data, schedule.event), (None, None));

    let written = takes(&with_schedule(
        ", timeZone: America/Argentina/Ushuaia, startingDeadline: 10m, concurrencyPolicy: Replace, \
         jitter: 30s, data: {region: eu, list: [1, {deep: true}]}, event: {type: com.shop.nightly}",
    ));
    let schedule = written.source.schedule.unwrap();
    assert_eq!(schedule.concurrency_policy, ConcurrencyPolicy::Replace);
    let data = serde_json::to_value(&schedule.data).unwrap();
    assert_eq!(
        data,
        serde_json::json!({"region": "eu", "list": [1, {"deep": true}]})
    );
}

#[test]
fn a_source_is_what_its_type_says() {
    let broker = "spec.source: broker is written with type Broker, and only there";
    let schedule = "spec.source: schedule is written with type Schedule, and only there";
    let source =
        |source: &str| subscription(&format!("source: {{{source}}}, {TARGET}, {DELIVERY}"));
    let told = |text: String| {
        let problems = parse("shop.yaml", &text).problems;
        let problems = problems.iter().map(ToString::to_string);
        Vec::from_iter(problems.map(|one| one.trim_start_matches("shop.yaml:4: ").to_owned()))
    };
    assert_eq!(told(source("type: Broker")), [broker]);
    assert_eq!(told(source("type: Schedule")), [schedule]);
    let both = "broker: {name: nats, topic: a}, schedule: {cron: \"0 2 * * *\"}";
    assert_eq!(told(source(&format!("type: Broker, {both}"))), [schedule]);
    assert_eq!(told(source(&format!("type: Schedule, {both}"))), [broker]);
    let other = "spec.source.type: \"Cron\" is not one of Broker, Schedule";
    let told = told(source("type: Cron, schedule: {cron: \"0 2 * * *\"}"));
    assert_eq!(told, [other, schedule]);
}

#[test]
fn a_schedule_has_nothing_that_a_broker_would_be_needed_for() {
    let source = "source: {type: Schedule, schedule: {cron: 0 2 * * *}}";
    let no_broker = "spec: a schedule has no broker: write onExhausted: Drop or Block, and neither reply nor replay";
    let alike = "spec: a schedule's events are alike, and one at a time: write no filters, no batch and ordering: None";
    for (spec, why) in [
        ("delivery: {deadLetter: {topic: dead}}", no_broker),
        (
            "delivery: {onExhausted: Drop}, reply: {topic: a}",
            no_broker,
        ),
        (
            "delivery: {onExhausted: Drop}, replay: {request: a, from: {type: Time, time: \"2026-11-20T08:00:00Z\"}, \
             until: \"2026-11-20T09:00:00Z\"}",
            no_broker,
        ),
        (
            "delivery: {onExhausted: Drop}, filters: [{exact: {type: a}}]",
            alike,
        ),
        ("delivery: {onExhausted: Drop, ordering: Global}", alike),
        (
            "delivery: {onExhausted: Drop, mode: Structured, batch: {}}",
            alike,
        ),
    ] {
        refuses(&format!("{source}, {TARGET}, {spec}"), why);
    }
    takes(&format!(
        "{source}, {TARGET}, delivery: {{onExhausted: Block}}"
    ));
}

#[test]
fn what_a_schedule_says_has_bounds() {
    for (more, why) in [
        (
            ", startingDeadline: 100ms",
            "startingDeadline: a deadline is 1s to 8760h",
        ),
        (
            ", startingDeadline: 8761h",
            "startingDeadline: a deadline is 1s to 8760h",
        ),
        (", jitter: 61m", "jitter: jitter is 1h at most"),
        (
            ", timeZone: Europe/Mad rid",
            "timeZone: \"Europe/Mad rid\" doesn't have the form ^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$ (The time zone \
             by whose clocks, a name of the IANA's, such as `Europe/Madrid`)",
        ),
        (
            ", concurrencyPolicy: forbid",
            "concurrencyPolicy: \"forbid\" is not one of Allow, Forbid, Replace; did you mean Forbid?",
        ),
        (", data: [1]", "data: must be a map of fields, not a list"),
        (
            ", event: {type: \"a b\"}",
            "event.type: \"a b\" doesn't have the form ^[!-~]+$ (Their `type`; `dev.meshwright.schedule` when absent)",
        ),
    ] {
        refuses(&with_schedule(more), &format!("spec.source.schedule.{why}"));
    }
    let long = format!(
        "source: {{type: Schedule, schedule: {{cron: \"{}\"}}}}, {TARGET}, {DELIVERY}",
        "1".repeat(129)
    );
    refuses(
        &long,
        "spec.source.schedule.cron: has 129 characters; at most 128 are possible",
    );
}
