//! A folder takes a rule that publishes exactly where a cluster would.

use compiler::yaml::{Object, parse};

#[track_caller]
fn refused(text: &str, expected: &str) {
    let problems = parse("shop.yaml", text).problems;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [format!("shop.yaml:4: {expected}")], "{text}");
}

/// An ApiRoute whose spec is on line 4.
fn route(rule: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: orders}}\n\
         spec: {{hosts: [orders], rules: [{{{rule}}}]}}\n"
    )
}

#[test]
fn a_rule_that_publishes_sends_nothing_on() {
    let publish = "publish: {broker: nats, topic: orders}";
    let file = parse("shop.yaml", &route(publish));
    assert_eq!(file.problems, []);
    let Object::ApiRoute(object) = &file.documents[0].object else {
        panic!("{:?}", file.documents);
    };
    let written = object.spec.rules[0].publish.as_ref().unwrap();
    assert_eq!((written.max_bytes, &written.event), (1024 * 1024, &None));

    let why = "spec.rules[0]: a rule with publish sends nothing on: it has no backendRefs, redirect, \
               directResponse, rewrite or mirror";
    for more in [
        "backendRefs: [{name: a, port: 80}]",
        "redirect: {scheme: https}",
        "directResponse: {status: 204}",
        "mirror: {backendRef: {name: a, port: 80}}",
        "rewrite: {host: a}",
    ] {
        refused(&route(&format!("{publish}, {more}")), why);
    }
    // What is asked of a request, and what is done to its answer, stays.
    for more in [
        "matches: [{method: POST}]",
        "timeouts: {request: 1s}",
        "responseHeaders: {set: [{name: X-A, value: a}]}",
    ] {
        let problems = parse("shop.yaml", &route(&format!("{publish}, {more}"))).problems;
        assert_eq!(problems, [], "{more}");
    }
    let tcp = route(publish).replace("hosts: [orders]", "hosts: [orders], protocol: TCP");
    refused(
        &tcp,
        "spec: of TCP and TLS nobody reads requests: a rule has name, matches, backendRefs and \
         timeouts.idle only",
    );
    for (publish, why) in [
        (
            "{broker: nats, topic: orders, maxBytes: 0}",
            "maxBytes: must be 1 to 68719476736, not 0",
        ),
        (
            "{broker: nats, topic: a..b}",
            "topic: \"a..b\" doesn't have the form ^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$ (The topic)",
        ),
        (
            "{broker: nats, topic: orders, event: {type: \"a b\"}}",
            "event.type: \"a b\" doesn't have the form ^[!-~]+$ (Their `type`; the topic when absent)",
        ),
    ] {
        let rule = format!("publish: {publish}");
        refused(&route(&rule), &format!("spec.rules[0].publish.{why}"));
    }
}

#[test]
fn what_is_split_says_how_and_what_contradicts_itself_is_refused() {
    let publish = |more: &str| route(&format!("publish: {{broker: nats, topic: orders, {more}}}"));
    for more in [
        "maxBytes: 8388608",
        "ack: None",
        "maxBytes: 68719476736, split: {format: NDJSON}",
        "split: {format: XML, recordPath: orders/order-1}",
        "split: {format: CSV, onRecordError: Skip, maxFailedRecords: 1}",
        "split: {format: JSONArray, onRecordError: DeadLetter, maxFailedRecords: 1, deadLetter: {topic: a}}",
    ] {
        assert_eq!(parse("shop.yaml", &publish(more)).problems, [], "{more}");
    }
    for (more, why) in [
        (
            "maxBytes: 8388609",
            ": maxBytes is at most 8388608 (8 MiB) where a body is one event; with split it may be more",
        ),
        (
            "ack: None, split: {format: CSV}",
            ": what is split is answered with what the broker holds: leave ack out",
        ),
        (
            "split: {format: CSV, onRecordError: DeadLetter, maxFailedRecords: 1, deadLetter: {topic: orders}}",
            ": split.deadLetter.topic is another topic than topic",
        ),
        (
            "split: {format: XML}",
            ".split: recordPath says which elements of XML are records: it is written with format: XML, and only there",
        ),
        (
            "split: {format: CSV, recordPath: a}",
            ".split: recordPath says which elements of XML are records: it is written with format: XML, and only there",
        ),
        (
            "split: {format: CSV, onRecordError: Skip}",
            ".split: maxFailedRecords says how many may fail: it is written with onRecordError: Skip or DeadLetter, \
             and only there",
        ),
        (
            "split: {format: CSV, maxFailedRecords: 1}",
            ".split: maxFailedRecords says how many may fail: it is written with onRecordError: Skip or DeadLetter, \
             and only there",
        ),
        (
            "split: {format: CSV, onRecordError: DeadLetter, maxFailedRecords: 1}",
            ".split: deadLetter is written with onRecordError: DeadLetter, and only there",
        ),
    ] {
        refused(&publish(more), &format!("spec.rules[0].publish{why}"));
    }
}

#[test]
fn a_job_is_one_event_that_the_broker_holds_and_says_where_it_is_kept() {
    let reply = |more: &str| {
        route(&format!("publish: {{broker: nats, topic: orders, {more}}}")).replace(
            "STORE",
            "store: {redis: {urlSecretRef: {name: store, key: url}}}",
        )
    };
    for more in [
        "asyncReply: {resultPath: /jobs, topic: replies, STORE}",
        "asyncReply: {resultPath: /v1.0/jobs_a, topic: replies, timeToLive: 24h, STORE}",
    ] {
        assert_eq!(parse("shop.yaml", &reply(more)).problems, [], "{more}");
    }
    let file = parse(
        "shop.yaml",
        &reply("asyncReply: {resultPath: /jobs, topic: a, STORE}"),
    );
    let Object::ApiRoute(object) = &file.documents[0].object else {
        panic!("{:?}", file.documents);
    };
    let publish = object.spec.rules[0].publish.as_ref().unwrap();
    let written = publish.async_reply.as_ref().unwrap();
    assert_eq!(written.time_to_live.millis(), 60 * 60 * 1000);

    let alone = ": a job is one event that the broker holds: with asyncReply there is neither split nor ack: None";
    for (more, why) in [
        (
            "asyncReply: {resultPath: /jobs, topic: replies}",
            ".asyncReply.store: is missing: Where jobs and results are kept, for all replicas",
        ),
        (
            "ack: None, asyncReply: {resultPath: /jobs, topic: replies, STORE}",
            alone,
        ),
        (
            "split: {format: CSV}, asyncReply: {resultPath: /jobs, topic: replies, STORE}",
            alone,
        ),
        (
            "asyncReply: {resultPath: /jobs, topic: orders, STORE}",
            ": asyncReply.topic, where replies go, is another topic than topic",
        ),
        (
            "asyncReply: {resultPath: /jobs, topic: a, timeToLive: 999ms, STORE}",
            ".asyncReply.timeToLive: a job lives for 1s to 24h",
        ),
        (
            "asyncReply: {resultPath: /jobs, topic: a, timeToLive: 25h, STORE}",
            ".asyncReply.timeToLive: a job lives for 1s to 24h",
        ),
    ] {
        refused(&reply(more), &format!("spec.rules[0].publish{why}"));
    }
    for path in [
        "/", "jobs", "/jobs/", "/a//b", "/..", "/a/.b", "/{a}", "/a?b",
    ] {
        let more = format!("asyncReply: {{resultPath: \"{path}\", topic: a, STORE}}");
        let problems = parse("shop.yaml", &reply(&more)).problems;
        assert!(!problems.is_empty(), "{path}");
    }
}

#[test]
fn a_rule_that_streams_sends_nothing_on_and_publishes_nothing() {
    let stream = "stream: {broker: nats, topic: orders}";
    for good in [
        stream,
        "stream: {broker: nats, topic: orders, startFrom: {type: Earliest}}",
        "stream: {broker: nats, topic: orders, startFrom: {type: Sequence, sequence: \"1042\"}}",
        "stream: {broker: nats, topic: orders, startFrom: {type: Time, time: \"2026-11-20T08:00:00Z\"}}",
    ] {
        assert_eq!(parse("shop.yaml", &route(good)).problems, [], "{good}");
    }
    let why = "spec.rules[0]: a rule with stream sends nothing on: it has no publish, backendRefs, redirect, \
               directResponse, rewrite or mirror";
    for more in [
        "publish: {broker: nats, topic: orders}",
        "backendRefs: [{name: a, port: 80}]",
        "directResponse: {status: 204}",
    ] {
        refused(&route(&format!("{stream}, {more}")), why);
    }
    let tcp = route(stream).replace("hosts: [orders]", "hosts: [orders], protocol: TCP");
    refused(
        &tcp,
        "spec: of TCP and TLS nobody reads requests: a rule has name, matches, backendRefs and \
         timeouts.idle only",
    );
    refused(
        &route("stream: {broker: nats, topic: orders, startFrom: {type: Time}}"),
        "spec.rules[0].stream.startFrom: time is written with type Time, and only there",
    );
    refused(
        &route("stream: {broker: nats, topic: orders, startFrom: {sequence: \"7\"}}"),
        "spec.rules[0].stream.startFrom: sequence is written with type Sequence, and only there",
    );
}
