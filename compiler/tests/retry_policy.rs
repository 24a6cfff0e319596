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
    assert_eq!(target.group, crds::TargetGroup::Core);
    assert_eq!(target.namespace, None);
}

#[test]
fn one_that_says_nothing_is_refused() {
    let nothing = "spec: write loadBalancing or healthCheck: without either it says nothing";
    refuses("", &[nothing]);
}

#[test]
fn only_services_are_targets_and_there_is_at_least_one() {
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
            "targetRefs[0].kind: \"service\" is not one of Service; did you mean Service?",
        ),
        (
            "[{group: meshwright.dev, kind: Service, name: a}]",
            "targetRefs[0].group: \"meshwright.dev\" is not one of ",
        ),
        (
            "[{name: a}]",
            "targetRefs[0].kind: is missing: What is named: a Service",
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
