use std::net::Ipv4Addr;

use compiler::ObjectKey;

use super::*;
use crate::webhook::review;

fn world() -> Inputs {
    let mut inputs = Inputs::default();
    let service = json!({
        "metadata": { "name": "orders", "namespace": "shop" },
        "spec": { "selector": { "app": "orders" }, "ports": [{ "port": 80 }] },
    });
    let service = serde_json::from_value(service).unwrap();
    let key = ObjectKey::new("shop", "orders");
    inputs.services.insert(key, Arc::new(service));
    inputs
}

/// Where the API server asks from.
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// Where somebody else does.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn validator() -> Validator {
    Validator::new(watch::channel(Some(Arc::new(world()))).1)
}

fn object(kind: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "meshwright.dev/v1alpha1", "kind": kind,
        "metadata": { "name": "orders", "namespace": "shop" }, "spec": spec,
    })
}

fn request(operation: &str, new: &Value, old: &Value) -> Request {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "7", "operation": operation, "name": "orders", "namespace": "shop",
            "kind": { "group": "meshwright.dev", "version": "v1alpha1", "kind": new["kind"] },
            "object": new, "oldObject": old,
        },
    });
    review::read(review.to_string().as_bytes()).unwrap()
}

async fn created(kind: &str, spec: &Value) -> Value {
    let request = request("CREATE", &object(kind, spec), &Value::Null);
    validator().answer(&request, FROM).await
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_and_what_may_come_later_is_a_warning() {
    let good = json!({ "hosts": ["orders"] });
    assert_eq!(created("ApiRoute", &good).await, json!({ "allowed": true }));

    let bad = json!({ "hosts": ["orders"], "rules": [
        { "matches": [{ "path": { "type": "Regex", "value": "(" } }] } ] });
    let refused = created("ApiRoute", &bad).await;
    assert_eq!(refused["allowed"], false);
    assert_eq!(refused["status"]["code"], 422);
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("spec.rules[0].matches[0].path"),
        "{message}"
    );
    assert!(message.ends_with("(Invalid)"), "{message}");

    for (kind, spec, says) in [
        (
            "ApiRoute",
            json!({ "hosts": ["ordres"] }),
            "did you mean \"orders\"",
        ),
        (
            "RetryPolicy",
            json!({ "targetRefs": [{ "kind": "Service", "name": "later" }] }),
            "there is no Service \"later\"",
        ),
        (
            "RateLimit",
            json!({ "targetRefs": [{ "kind": "Service", "name": "orders", "group": "" }],
                "limits": [{ "name": "all", "requests": 9, "per": "24h" }] }),
            "write scope Shared",
        ),
        (
            "EventSubscription",
            json!({ "source": { "type": "Broker", "broker": { "name": "events", "topic": "stock" } },
                "target": { "type": "Service", "service": { "name": "later", "port": 80 } },
                "delivery": { "onExhausted": "Drop" } }),
            "there is no Service \"later\"",
        ),
    ] {
        let told = created(kind, &spec).await;
        assert_eq!(told["allowed"], true, "{told}");
        let warning = told["warnings"][0].as_str().unwrap();
        assert!(warning.contains(says), "{told}");
    }
}

#[tokio::test]
async fn what_says_what_it_said_before_and_what_is_on_its_way_out_is_let_through() {
    let bad = object("ApiRoute", &json!({ "hosts": [] }));
    let validator = validator();
    let refused = validator
        .answer(&request("CREATE", &bad, &Value::Null), FROM)
        .await;
    assert_eq!(refused["allowed"], false);

    let through = json!({ "allowed": true });
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({ "team": "a" });
    let labelled = request("UPDATE", &labelled, &bad);
    assert_eq!(validator.answer(&labelled, FROM).await, through);
    let mut going = object("ApiRoute", &json!({ "hosts": ["a.b.c.d"] }));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(
        validator
            .answer(&request("UPDATE", &going, &bad), FROM)
            .await,
        through
    );
    let deleted = request("DELETE", &bad, &bad);
    assert_eq!(validator.answer(&deleted, FROM).await, through);
    let mut status = request(
        "UPDATE",
        &object("ApiRoute", &json!({ "hosts": ["x.y.z"] })),
        &bad,
    );
    status.sub_resource = "status".to_owned();
    assert_eq!(validator.answer(&status, FROM).await, through);
    let mut other = request("CREATE", &bad, &Value::Null);
    other.kind.group = "example.com".to_owned();
    assert_eq!(validator.answer(&other, FROM).await, through);
}

#[tokio::test]
async fn what_an_older_operator_can_not_read_is_stored_and_whoever_applies_it_is_told() {
    let newer = json!({ "hosts": ["orders"], "protocol": "QUIC" });
    let told = created("ApiRoute", &newer).await;
    assert_eq!(told["allowed"], true);
    let warning = told["warnings"][0].as_str().unwrap();
    assert!(warning.contains("upgrade the operator"), "{warning}");
}

#[tokio::test]
async fn warnings_are_as_many_and_as_long_as_the_api_server_passes_on() {
    let backends: Vec<Value> = (0..16)
        .map(|n| json!({ "name": format!("missing-{n}"), "port": 80, "weight": 0 }))
        .collect();
    let rule =
        json!({ "backendRefs": backends, "fault": { "abort": { "status": 503, "percent": 1 } } });
    let rules: Vec<Value> = (0..64).map(|_| rule.clone()).collect();
    let told = created("ApiRoute", &json!({ "hosts": ["orders"], "rules": rules })).await;
    let warnings = told["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), MOST_WARNINGS);
    let first = warnings[0].as_str().unwrap();
    assert!(
        first.ends_with('…') && first.chars().count() == WARNING_CHARS,
        "{first}"
    );
    for warning in warnings {
        assert!(warning.as_str().unwrap().chars().count() <= WARNING_CHARS);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_judgement_that_does_not_come() {
    let validator = validator();
    let bad = object("ApiRoute", &json!({ "hosts": [] }));
    let request = request("CREATE", &bad, &Value::Null);
    let busy = json!({ "allowed": true, "warnings": [BUSY] });
    // Another is judged, and that takes long.
    let judged = validator.memory.lock().await;
    let start = tokio::time::Instant::now();
    assert_eq!(validator.answer(&request, FROM).await, busy);
    assert_eq!(start.elapsed(), JUDGED_WITHIN);
    // And where as many wait as may, nobody waits at all.
    let most = u8::try_from(PLACES.total).unwrap();
    let others = (0..most).map(|host| IpAddr::from([10, 1, 0, host]));
    let waiting: Vec<_> = others.map(|other| validator.places.take(other)).collect();
    let waited = waiting.iter().flatten().next().unwrap();
    let (told, ()) = tokio::join!(validator.answer(&request, FROM), waited.lost());
    assert_eq!(told, busy, "it has taken the place of one that waited");
    drop((judged, waiting));
    assert_eq!(validator.answer(&request, FROM).await["allowed"], false);

    let blind = Validator::new(watch::channel(None).1);
    let told = blind.answer(&request, FROM).await;
    assert_eq!(told, json!({ "allowed": true, "warnings": [NO_WORLD] }));
}

#[tokio::test(start_paused = true)]
async fn who_sends_many_drafts_keeps_nobody_else_from_being_judged() {
    let validator = validator();
    let bad = object("ApiRoute", &json!({ "hosts": [] }));
    let request = request("CREATE", &bad, &Value::Null);
    // While one is judged, somebody sends more than may wait, and then the API server asks.
    let judged = validator.memory.lock().await;
    let many = (0..PLACES.total * 2).map(|_| validator.answer(&request, ELSEWHERE));
    let mut many = std::pin::pin!(futures::future::join_all(many));
    let mut asked = std::pin::pin!(validator.answer(&request, FROM));
    assert!(futures::poll!(many.as_mut()).is_pending());
    assert!(futures::poll!(asked.as_mut()).is_pending());
    drop(judged);
    // It is the next but one.
    let told = tokio::select! {
        biased;
        told = asked.as_mut() => told,
        _ = many.as_mut() => panic!("all the others were judged before"),
    };
    assert_eq!(told["allowed"], false);
    let told = many.await;
    let busy = told.iter().filter(|told| told["allowed"] == true).count();
    assert_eq!(busy, PLACES.total * 2 - PLACES.each, "{told:?}");
    assert!(validator.turns.of(FROM).try_lock().is_ok());
    assert_eq!(validator.turns.0.lock().unwrap().len(), 1, "none is kept");
}

#[tokio::test]
async fn what_the_schema_does_not_permit_is_not_judged_and_its_bound_is_told() {
    let rule = json!({ "backendRefs": [{ "name": "orders", "port": 80 }] });
    let rules: Vec<Value> = (0..65).map(|_| rule.clone()).collect();
    let long = "x".repeat(MAX_DRAFT_BYTES);
    for (spec, says) in [
        (json!({ "hosts": [], "rules": rules }), "at most 64"),
        (json!({ "hosts": [], "more": long }), "1572864 are the most"),
    ] {
        let told = created("ApiRoute", &spec).await;
        assert_eq!(told["allowed"], true);
        let warning = told["warnings"][0].as_str().unwrap();
        assert!(warning.contains(says), "{warning}");
    }
    let rules: Vec<Value> = (0..64).map(|_| rule.clone()).collect();
    let told = created("ApiRoute", &json!({ "hosts": [], "rules": rules })).await;
    assert_eq!(told["allowed"], false, "as many as there may be are judged");
}

#[tokio::test]
async fn each_draft_is_judged_in_the_world_of_its_moment() {
    let (tell, world_of) = watch::channel(Some(Arc::new(Inputs::default())));
    let validator = Validator::new(world_of);
    let route = object("ApiRoute", &json!({ "hosts": ["orders"] }));
    let request = request("CREATE", &route, &Value::Null);
    assert!(validator.answer(&request, FROM).await["warnings"].is_array());
    tell.send_replace(Some(Arc::new(world())));
    assert_eq!(
        validator.answer(&request, FROM).await,
        json!({ "allowed": true })
    );
}
