//! A folder takes a RetryPolicy exactly where a cluster would.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use compiler::yaml::{Object, parse};

/// A RetryPolicy whose spec is on line 4.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: RetryPolicy\nmetadata: {{name: orders}}\n\
         spec: {{targetRefs: [{{kind: Service, name: orders}}], {spec}}}\n"
    )
}

/// `expected` without its place, which is line 4.
#[track_caller]
fn refuses(spec: &str, expected: &[&str]) {
    let problems = parse("shop.yaml", &policy(spec)).problems;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = expected.iter().map(|text| format!("shop.yaml:4: {text}"));
    assert_eq!(problems, Vec::from_iter(expected), "{spec}");
}

#[track_caller]
fn takes(spec: &str) -> crds::RetryPolicySpec {
    let file = parse("shop.yaml", &policy(spec));
    assert_eq!(file.problems, [], "{spec}");
    let Object::RetryPolicy(policy) = &file.documents[0].object else {
        panic!("{:?}", file.documents);
    };
    policy.spec.clone()
}

#[test]
fn what_is_not_written_is_what_the_schema_says() {
    let written = takes("loadBalancing: {}, healthCheck: {path: /health}");
    let balancing = written.load_balancing.unwrap();
    assert_eq!(balancing.type_, crds::BalancingType::LeastRequest);
    assert_eq!((balancing.hash_on, balancing.slow_start), (None, None));
    let check = written.health_check.unwrap();
    assert_eq!(
        (check.interval.millis(), check.timeout.millis()),
        (30_000, 1_000)
    );
    assert_eq!((check.unhealthy_threshold, check.healthy_threshold), (2, 2));
    let target = &written.target_refs[0];
    assert_eq!((target.group, &target.section_name), (None, &None));
    assert_eq!(target.namespace, None);
}

#[test]
fn one_that_says_nothing_is_refused() {
    let nothing = "spec: write a field beside targetRefs: without any it says nothing";
    refuses("", &[nothing]);
}

#[test]
fn services_and_routes_are_targets_and_there_is_at_least_one() {
    let text =
        |refs: &str| policy("loadBalancing: {}").replace("[{kind: Service, name: orders}]", refs);
    let problems = |refs: &str| {
        let problems = parse("shop.yaml", &text(refs)).problems;
        Vec::from_iter(problems.iter().map(ToString::to_string))
    };
    for (refs, problem) in [
        ("[]", "targetRefs: has 0 items; at least 1 must be there"),
        (
            "[{kind: service, name: a}]",
            "targetRefs[0].kind: \"service\" is not one of Service, ApiRoute; did you mean Service?",
        ),
        (
            "[{group: meshwright.dev, kind: Service, name: a}]",
            "targetRefs[0]: ApiRoutes are of group meshwright.dev, and Services of the group without a \
             name",
        ),
        (
            "[{group: \"\", kind: ApiRoute, name: a}]",
            "targetRefs[0]: ApiRoutes are of group meshwright.dev, and Services of the group without a \
             name",
        ),
        (
            "[{name: a}]",
            "targetRefs[0].kind: is missing: What is named: a `Service` means all calls to it, an \
             `ApiRoute` the requests that it governs",
        ),
    ] {
        assert_eq!(
            problems(refs),
            [format!("shop.yaml:4: spec.{problem}")],
            "{refs}"
        );
    }
    let many = |count: usize| format!("[{}]", vec!["{kind: Service, name: a}"; count].join(", "));
    assert_eq!(problems(&many(16)), [""; 0]);
    assert_eq!(
        problems(&many(17)),
        ["shop.yaml:4: spec.targetRefs: has 17 items; at most 16 are possible"]
    );
}

#[test]
fn what_is_hashed_is_said_with_a_consistent_hash_and_only_there() {
    let without = "spec.loadBalancing: ConsistentHash has hashOn, which says what is hashed; the \
                   other types hash nothing";
    refuses("loadBalancing: {type: ConsistentHash}", &[without]);
    refuses(
        "loadBalancing: {type: RoundRobin, hashOn: {type: Source}}",
        &[without],
    );
    refuses("loadBalancing: {hashOn: {type: Source}}", &[without]);
    let named = "spec.loadBalancing.hashOn: Header and Cookie have a name, and Source has none";
    let host = "spec.loadBalancing.hashOn: the host is nearly the same for every request to a \
                Service: hash something else";
    for (hash_on, problems) in [
        ("{type: Header}", vec![named]),
        ("{type: Cookie}", vec![named]),
        ("{type: Source, name: a}", vec![named]),
        ("{type: Header, name: Host}", vec![host]),
        ("{type: Cookie, name: host}", vec![]),
        ("{type: Header, name: X-User}", vec![]),
        ("{type: Source}", vec![]),
    ] {
        let spec = format!("loadBalancing: {{type: ConsistentHash, hashOn: {hash_on}}}");
        refuses(&spec, &problems);
    }
    let of_a_hash = "loadBalancing: {type: ConsistentHash, hashOn: {type: Source}, slowStart: 30s}";
    let no_slow_start = "spec.loadBalancing: ConsistentHash has no slowStart: what is hashed says \
                         where a request goes at once";
    refuses(of_a_hash, &[no_slow_start]);
}

#[test]
fn times_and_counts_have_bounds() {
    let slow_start = "spec.loadBalancing.slowStart: slowStart is 1s to 15m";
    let interval = "spec.healthCheck.interval: interval is 5s to 10m";
    let timeout = "spec.healthCheck.timeout: timeout is longer than 0s";
    let longer = "spec.healthCheck: timeout is longer than interval: the next check would begin \
                  before the last one ends";
    for (spec, problems) in [
        ("loadBalancing: {slowStart: 999ms}", vec![slow_start]),
        ("loadBalancing: {slowStart: 1s}", vec![]),
        ("loadBalancing: {slowStart: 15m}", vec![]),
        ("loadBalancing: {slowStart: 15m1ms}", vec![slow_start]),
        ("healthCheck: {path: /, interval: 4999ms}", vec![interval]),
        ("healthCheck: {path: /, interval: 5s, timeout: 5s}", vec![]),
        ("healthCheck: {path: /, interval: 10m}", vec![]),
        ("healthCheck: {path: /, interval: 10m1s}", vec![interval]),
        ("healthCheck: {path: /, timeout: 0s}", vec![timeout]),
        ("healthCheck: {path: /, timeout: 30s}", vec![]),
        ("healthCheck: {path: /, timeout: 31s}", vec![longer]),
        (
            "healthCheck: {path: /, interval: 5s, timeout: 5001ms}",
            vec![longer],
        ),
        (
            "healthCheck: {path: /, unhealthyThreshold: 0, healthyThreshold: 11}",
            vec![
                "spec.healthCheck.healthyThreshold: must be 1 to 10, not 11",
                "spec.healthCheck.unhealthyThreshold: must be 1 to 10, not 0",
            ],
        ),
        (
            "loadBalancing: {slowStart: 30}",
            vec!["spec.loadBalancing.slowStart: must be text: write it quoted, as \"30\""],
        ),
    ] {
        refuses(spec, &problems);
    }
}

#[test]
fn a_path_that_is_asked_for_is_absolute_and_has_no_query() {
    let form = |path: &str| {
        format!(
            "spec.healthCheck.path: {path:?} doesn't have the form \
             ^/([A-Za-z0-9/\\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{{2}})*$ (The path that is asked for \
             with GET, without query; an answer of 200 to 399 is good)"
        )
    };
    for path in ["health", "/a?b=c", "/a b", "a/b"] {
        refuses(&format!("healthCheck: {{path: {path:?}}}"), &[&form(path)]);
    }
    let dots = "spec.healthCheck.path: a path can't have a segment that is . or ..";
    refuses("healthCheck: {path: /a/../b}", &[dots]);
    let slashes = "spec.healthCheck.path: a path can't contain //";
    refuses("healthCheck: {path: //a}", &[slashes]);
    takes("healthCheck: {path: \"/a/%2F;b\"}");
}

#[test]
fn what_is_about_a_destination_is_not_written_for_a_rule() {
    let spec = |fields: &str| {
        let rule = "[{kind: ApiRoute, name: orders, sectionName: get}, {kind: ApiRoute, name: b}]";
        policy(fields).replace("[{kind: Service, name: orders}]", rule)
    };
    let problems = |fields: &str| {
        let problems = parse("shop.yaml", &spec(fields)).problems;
        Vec::from_iter(problems.iter().map(ToString::to_string))
    };
    for (field, written) in [
        ("budget", "{}"),
        ("circuitBreaker", "{}"),
        ("loadBalancing", "{}"),
        ("healthCheck", "{path: /}"),
    ] {
        let told = format!(
            "shop.yaml:4: spec: {field} is one for a whole destination: leave it out where \
             targetRefs has a sectionName, and write it in a RetryPolicy for the Service or the \
             ApiRoute"
        );
        assert_eq!(problems(&format!("{field}: {written}")), [told]);
    }
    assert_eq!(problems("maxRetries: 1, hedging: {after: 1s}"), [""; 0]);
    let of_a_service =
        policy("maxRetries: 1").replace("name: orders}]", "name: a, sectionName: b}]");
    let problems = parse("shop.yaml", &of_a_service).problems;
    assert_eq!(
        Vec::from_iter(problems.iter().map(ToString::to_string)),
        [
            "shop.yaml:4: spec.targetRefs[0]: sectionName names a rule of an ApiRoute, and a Service \
             has none"
        ]
    );
}

#[test]
fn what_is_not_written_of_retries_is_what_the_schema_says() {
    let written = takes(
        "maxRetries: 1, backoff: {}, retryOn: {}, retryAfter: {}, idempotencyKey: {}, budget: {}, \
         circuitBreaker: {}, hedging: {after: 1s}",
    );
    assert_eq!(written.backoff, Some(crds::Backoff::default()));
    assert_eq!(written.retry_on, Some(crds::RetryOn::default()));
    assert_eq!(written.retry_after, Some(crds::RetryAfter::default()));
    assert_eq!(written.idempotency_key.unwrap().header, "Idempotency-Key");
    assert_eq!(written.hedging.unwrap().max, 1);
    let budget = written.budget.unwrap();
    let window = budget.window.millis();
    assert_eq!(
        (budget.percent, budget.min_per_second, window),
        (20, 10, 10_000)
    );
    let breaker = written.circuit_breaker.unwrap();
    assert_eq!(
        (breaker.consecutive_failures, breaker.error_percent),
        (5, 50)
    );
    assert_eq!(
        (breaker.min_requests, breaker.window.millis()),
        (20, 10_000)
    );
    assert_eq!(breaker.open_for.millis(), 30_000);
    assert_eq!(breaker.max_open_for.millis(), 300_000);
    assert_eq!(
        (breaker.half_open_requests, breaker.max_ejected_percent),
        (1, 50)
    );
    assert_eq!(breaker.failure_on.len(), 4);
}

#[test]
fn retries_and_what_bounds_them_have_bounds() {
    let post = "spec: every gRPC call is a POST: grpcCodes has an effect only with POST among \
                methods, or with idempotencyKey";
    for (spec, problems) in [
        ("maxRetries: 0", vec![]),
        ("maxRetries: 10", vec![]),
        (
            "maxRetries: 11",
            vec!["spec.maxRetries: must be 0 to 10, not 11"],
        ),
        (
            "backoff: {initial: 0ms}",
            vec!["spec.backoff.initial: initial is 1ms to 1m"],
        ),
        ("backoff: {initial: 1m, max: 5m}", vec![]),
        (
            "backoff: {max: 5m1ms}",
            vec!["spec.backoff.max: max is 1ms to 5m"],
        ),
        (
            "backoff: {initial: 6s}",
            vec!["spec.backoff: initial is longer than max"],
        ),
        (
            "backoff: {max: 99ms}",
            vec!["spec.backoff: initial is longer than max"],
        ),
        ("backoff: {multiplier: 3}", vec![]),
        (
            "backoff: {type: Linear, multiplier: 3}",
            vec![
                "spec.backoff: multiplier is what Exponential multiplies by: the other types have \
                 none",
            ],
        ),
        ("perTryTimeout: 1h", vec![]),
        (
            "perTryTimeout: 0s",
            vec!["spec.perTryTimeout: perTryTimeout is 1ms to 1h"],
        ),
        (
            "retryOn: {statusCodes: [399]}",
            vec!["spec.retryOn.statusCodes[0]: must be 400 to 599, not 399"],
        ),
        (
            "retryOn: {statusCodes: [], statusClasses: [5xx, 4xx]}",
            vec![],
        ),
        ("retryOn: {grpcCodes: [Unavailable]}", vec![post]),
        (
            "retryOn: {grpcCodes: [Unavailable]}, methods: [GET]",
            vec![post],
        ),
        (
            "retryOn: {grpcCodes: [Unavailable]}, methods: [POST]",
            vec![],
        ),
        (
            "retryOn: {grpcCodes: [Unavailable]}, idempotencyKey: {}",
            vec![],
        ),
        (
            "retryAfter: {max: 5m1s}",
            vec!["spec.retryAfter.max: max is 1s to 5m"],
        ),
        ("maxReplayBytes: 1048576", vec![]),
        (
            "maxReplayBytes: 1048577",
            vec!["spec.maxReplayBytes: must be 0 to 1048576, not 1048577"],
        ),
        ("hedging: {after: 1m, max: 3}", vec![]),
        (
            "hedging: {after: 0ms}",
            vec!["spec.hedging.after: after is 1ms to 1m"],
        ),
        (
            "hedging: {after: 1s, max: 4}",
            vec!["spec.hedging.max: must be 1 to 3, not 4"],
        ),
        ("budget: {percent: 0, minPerSecond: 0}", vec![]),
        (
            "budget: {percent: 101}",
            vec!["spec.budget.percent: must be 0 to 100, not 101"],
        ),
        (
            "budget: {window: 999ms}",
            vec!["spec.budget.window: window is 1s to 1m"],
        ),
        ("circuitBreaker: {openFor: 10m, maxOpenFor: 1h}", vec![]),
        (
            "circuitBreaker: {openFor: 6m}",
            vec!["spec.circuitBreaker: openFor is longer than maxOpenFor"],
        ),
        (
            "circuitBreaker: {openFor: 999ms}",
            vec!["spec.circuitBreaker.openFor: openFor is 1s to 10m"],
        ),
        (
            "circuitBreaker: {maxOpenFor: 1h1ms}",
            vec!["spec.circuitBreaker.maxOpenFor: maxOpenFor is 1s to 1h"],
        ),
    ] {
        refuses(spec, &problems);
    }
}
