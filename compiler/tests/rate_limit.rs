//! A folder takes a RateLimit exactly where a cluster would.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use compiler::yaml::{Object, parse};
use crds::rate_limit::{KeyType, LimitAction, LimitHeaders, Scope};

/// A RateLimit whose spec is on line 4.
fn limits(spec: &str) -> String {
    format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: orders}}\n\
         spec: {{targetRefs: [{{kind: Service, name: orders}}], {spec}}}\n"
    )
}

/// What is wrong, without its place, which is line 4.
#[track_caller]
fn refuses(spec: &str, expected: &str) {
    let problems = parse("shop.yaml", &limits(spec)).problems;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [format!("shop.yaml:4: {expected}")], "{spec}");
}

#[track_caller]
fn takes(spec: &str) -> crds::RateLimitSpec {
    let file = parse("shop.yaml", &limits(spec));
    assert_eq!(file.problems, [], "{spec}");
    let Object::RateLimit(limit) = &file.documents[0].object else {
        panic!("{:?}", file.documents);
    };
    limit.spec.clone()
}

const A: &str = "name: a, requests: 10, per: 1s";

#[test]
fn what_is_not_written_is_what_the_schema_says() {
    let written = takes(&format!("limits: [{{{A}}}]"));
    assert_eq!(written.scope, Scope::PerReplica);
    assert_eq!(written.headers, LimitHeaders::Draft);
    let limit = &written.limits[0];
    assert_eq!(limit.key.type_, KeyType::Global);
    assert_eq!(limit.action, LimitAction::Reject);
    assert_eq!((limit.burst, &limit.cost), (None, &None));
}

#[test]
fn a_limit_that_contradicts_itself_is_refused_with_its_field() {
    for (more, field, why) in [
        (
            "action: Delay",
            "",
            "delay is written with action Delay, and only there",
        ),
        (
            "delay: {max: 1s, maxQueue: 1}",
            "",
            "delay is written with action Delay, and only there",
        ),
        (
            "overrides: [{values: [a], requests: 1}]",
            "",
            "overrides are for values of the key: Route and Global have none, and Compound has several",
        ),
        (
            "key: {type: Header}",
            ".key",
            "Header and JWTClaim have a name, and the others have none",
        ),
        (
            "key: {type: Consumer, trustedHops: 1}",
            ".key",
            "trustedHops is written with ClientIP, and only there",
        ),
        (
            "key: {type: Compound}",
            ".key",
            "parts are written with Compound, and only there",
        ),
        (
            "key: {type: Compound, parts: [{type: Consumer}, {type: Global}]}",
            ".key.parts[1]",
            "a part is one thing of a request: Compound is none, and Global makes no difference",
        ),
        (
            "cost: {type: Header, name: x-cost}",
            ".cost",
            "Header has a name and a max, and the others have neither",
        ),
        (
            "cost: {type: Bytes}, action: Delay, delay: {max: 1s, maxQueue: 1}",
            "",
            "bytes are slowed down as they come whatever the action: write Reject or Shadow",
        ),
        (
            "plans: [{name: a, requests: 1}, {name: a, requests: 2}]",
            ".plans",
            "two plans have the same name",
        ),
    ] {
        let spec = format!("limits: [{{{A}, {more}}}]");
        refuses(&spec, &format!("spec.limits[0]{field}: {why}"));
    }
    refuses(
        &format!("limits: [{{{A}}}, {{{A}}}]"),
        "spec.limits: two limits have the same name",
    );
    refuses(
        "limits: [{name: a, requests: 10, per: 99ms}]",
        "spec.limits[0].per: per is 100ms to 24h",
    );
}

#[test]
fn what_replicas_share_needs_a_store_and_what_they_do_not_has_none() {
    let store = "store: {redis: {urlSecretRef: {name: a, key: url}}}";
    takes(&format!("scope: Shared, {store}, limits: [{{{A}}}]"));
    takes(&format!(
        "scope: Shared, {store}, onStoreFailure: Deny, quotas: [{{name: a, requests: 1, per: Month}}]"
    ));
    for (spec, why) in [
        (
            "scope: Shared".to_owned(),
            "store is written with scope Shared, and only there",
        ),
        (
            store.to_owned(),
            "store is written with scope Shared, and only there",
        ),
        (
            "onStoreFailure: Allow".to_owned(),
            "onStoreFailure is written with scope Shared, and only there",
        ),
        (
            "quotas: [{name: b, requests: 1, per: Day}]".to_owned(),
            "quotas need scope Shared: a sidecar that starts anew would forget what was used",
        ),
    ] {
        refuses(
            &format!("limits: [{{{A}}}], {spec}"),
            &format!("spec: {why}"),
        );
    }
    refuses(
        "headers: None",
        "spec: write limits or quotas: without either it says nothing",
    );
    for (more, why) in [
        (
            "action: Delay, delay: {max: 1s, maxQueue: 1}",
            "requests wait in a sidecar's own queue: write action Delay with scope PerReplica",
        ),
        (
            "cost: {type: Bytes}",
            "bytes are counted as they pass a sidecar: write cost Bytes with scope PerReplica",
        ),
    ] {
        refuses(
            &format!("scope: Shared, {store}, limits: [{{{A}, {more}}}]"),
            &format!("spec: {why}"),
        );
    }
}

#[test]
fn a_target_is_a_service_or_an_api_route_with_its_group() {
    let text = |target: &str| {
        limits(&format!("limits: [{{{A}}}]")).replace("{kind: Service, name: orders}", target)
    };
    for good in [
        "{group: '', kind: Service, name: orders}",
        "{group: meshwright.dev, kind: ApiRoute, name: orders}",
    ] {
        assert_eq!(parse("a.yaml", &text(good)).problems, [], "{good}");
    }
    for wrong in [
        "{kind: ApiRoute, name: orders}",
        "{group: meshwright.dev, kind: Service, name: orders}",
        "{kind: Pod, name: orders}",
        "{kind: Service, name: orders, sectionName: a}",
        "{kind: Service, name: orders, namespace: web}",
    ] {
        assert_ne!(parse("a.yaml", &text(wrong)).problems, [], "{wrong}");
    }
}
