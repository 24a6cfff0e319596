use super::*;
use serde_json::json;

#[test]
fn an_explanation_reads_from_the_service_to_the_endpoints() {
    let told = json!({
        "service": "shop/orders", "port": 80, "protocol": "Http", "path": "/1",
        "route": "shop/orders", "timeoutMs": 300, "idleTimeoutMs": 30_000,
        "rules": [
            { "rule": "testers", "governs": false, "matches": [{ "fits": false, "asks": [
                { "what": "method GET", "holds": true },
                { "what": "header x-canary = always", "holds": false }] }] },
            { "rule": "all", "governs": true, "matches": [] },
        ],
        "does": ["refuses bodies of more than 1000 bytes: 413"],
        "goes": [
            { "service": "shop/orders-v1", "port": 80, "weight": 90, "endpoints": 2 },
            { "service": "shop/orders-v2", "port": 80, "weight": 10, "missing": true },
        ],
    });
    assert_eq!(
        in_words(&told),
        "Service shop/orders, port 80 (http): governed by ApiRoute shop/orders\n\
         path /1\n\
         rule testers: does not fit\n  method GET, not header x-canary = always\n\
         rule all: governs it\n\
         refuses bodies of more than 1000 bytes: 413\n\
         goes to shop/orders-v1:80, weight 90, 2 endpoints\n\
         goes to shop/orders-v2:80, weight 10, which does not exist: 503\n\
         for 300 ms at most, then 504\n\
         ended when nothing moves for 30000 ms"
    );
    let refused = json!({ "refused": { "status": 404, "reason": "unknown_host", "why": "No." } });
    assert_eq!(in_words(&refused), "answered 404, unknown_host: No.");
}

#[test]
fn what_is_led_on_reads_from_the_outside_in() {
    let told = json!({
        "service": "shop/app", "port": 80, "protocol": "Http", "path": "/api/orders",
        "route": "shop/app", "rules": [], "goes": [{
            "service": "shop/orders", "port": 80, "weight": 1, "endpoints": 2,
            "then": {
                "route": "shop/orders",
                "rules": [{ "rule": "all", "governs": true, "matches": [] }],
                "goes": [{ "service": "shop/orders", "port": 80, "weight": 1, "endpoints": 2 }],
            },
        }],
    });
    assert_eq!(
        in_words(&told),
        "Service shop/app, port 80 (http): governed by ApiRoute shop/app\n\
         path /api/orders\n\
         goes to shop/orders:80, weight 1, 2 endpoints\n  \
         from there on governed by ApiRoute shop/orders\n  \
         rule all: governs it\n  \
         goes to shop/orders:80, weight 1, 2 endpoints"
    );
}

#[test]
fn a_connection_reads_with_the_name_that_it_asks_for_and_how_its_endpoint_is_picked() {
    let told = json!({
        "service": "shop/ledger", "port": 7000, "protocol": "Detect", "reads": "Tcp",
        "carried": "connection", "serverName": "a.eu.example.com", "route": "shop/ledger",
        "asides": ["ApiRoute shop/other is about requests, and of this nobody reads any"],
        "rules": [
            { "rule": "main", "governs": false, "matches": [{ "fits": false, "asks": [
                { "what": "server name db.example.com", "holds": false }] }] },
            { "rule": "eu", "governs": true, "matches": [{ "fits": true, "asks": [
                { "what": "server name *.eu.example.com", "holds": true }] }] },
        ],
        "goes": [
            { "service": "shop/ledger-eu", "port": 7000, "weight": 9, "endpoints": 2,
              "notCalled": 1, "balanced": {
                "by": "consistent hash of the calling workload", "retryPolicy": "shop/eu" },
              "attempts": [{ "says": "never sent again", "retryPolicy": "shop/eu" }] },
            { "service": "shop/gone", "port": 7000, "weight": 1, "missing": true },
        ],
        "idleTimeoutMs": 30_000,
    });
    assert_eq!(
        in_words(&told),
        "Service shop/ledger, port 7000 (tcp): governed by ApiRoute shop/ledger\n\
         a connection that asks for server name a.eu.example.com\n\
         ApiRoute shop/other is about requests, and of this nobody reads any\n\
         rule main: does not fit\n  not server name db.example.com\n\
         rule eu: governs it\n  server name *.eu.example.com\n\
         goes to shop/ledger-eu:7000, weight 9, 2 endpoints, 1 of which not called: it has failed too \
         often\n  \
         balanced by consistent hash of the calling workload (RetryPolicy shop/eu)\n  \
         never sent again (RetryPolicy shop/eu)\n\
         goes to shop/gone:7000, weight 1, which does not exist: closed\n\
         ended when nothing moves for 30000 ms"
    );
    assert!(!is_refused(&told));
    let refused = json!({
        "service": "shop/ledger", "port": 7000, "reads": "Tcp", "route": "shop/ledger",
        "carried": "connection", "serverName": null,
        "refused": { "reason": "no_route", "closed": true, "why": "No." },
    });
    assert_eq!(
        in_words(&refused),
        "Service shop/ledger, port 7000 (tcp): governed by ApiRoute shop/ledger\n\
         a connection that asks for no server name\n\
         closed, no_route: No."
    );
    assert!(is_refused(&refused));
}

#[test]
fn a_pod_an_address_that_passes_and_one_that_is_refused_read_as_such() {
    let told = json!({
        "service": "shop/orders", "port": 80, "reads": "Http", "carried": "request", "path": "/",
        "pod": { "name": "shop/orders-0", "address": "10.1.0.1:8080" },
        "goes": [{ "service": "shop/orders", "port": 80, "weight": 1, "endpoints": 1,
                   "itself": "10.1.0.1:8080" }],
    });
    assert_eq!(
        in_words(&told),
        "Pod shop/orders-0 at 10.1.0.1:8080, of Service shop/orders, port 80 (http): \
         no ApiRoute governs it\npath /\ngoes to 10.1.0.1:8080 itself"
    );
    let told = json!({
        "passes": { "to": "192.0.2.1:80", "why": "Nobody knows it" },
        "asProxy": { "status": 404, "reason": "unknown_host" },
    });
    assert_eq!(
        in_words(&told),
        "passes through as it is, to 192.0.2.1:80: Nobody knows it\n\
         asked as an HTTP proxy, the sidecar answers 404, unknown_host"
    );
    assert!(!is_refused(&told));
    let told =
        json!({ "refused": { "closed": true, "why": "Service shop/orders has no port 81" } });
    assert_eq!(
        in_words(&told),
        "closed: Service shop/orders has no port 81"
    );
    assert!(is_refused(&told));
}

#[test]
fn what_each_limit_would_do_reads_below_who_may_enter() {
    let limit = |name: &str, bucket: &str, more: Value| {
        let mut limit = json!({ "rateLimit": "shop/limits", "limit": name, "bucket": bucket });
        let more = more.as_object().unwrap().clone();
        limit.as_object_mut().unwrap().extend(more);
        limit
    };
    let fine = limit("all", "of everybody", json!({ "passes": true, "left": 7 }));
    let too_much = limit(
        "each",
        "of its consumer",
        json!({
            "action": "Reject", "passes": false, "tooMuch": true, "left": 0, "waitMs": 30_000,
            "refused": { "reason": "rate_limited", "status": 429, "why": "" },
        }),
    );
    let later = json!({ "action": "Delay", "passes": true, "tooMuch": true, "waitMs": 20 });
    let told_only = json!({ "action": "Shadow", "passes": true, "tooMuch": true, "waitMs": 20 });
    let unknown = json!({ "action": "Reject", "unknown": "counted in the store" });
    let entering = |limits: Value| {
        json!({ "enters": [
            { "port": 8080, "service": "shop/orders", "says": [], "limits": limits },
        ] })
    };
    let told = entering(json!([
        fine,
        too_much,
        limit("smooth", "of everybody", later),
        limit("trial", "of all without consumer", told_only),
        limit("shared", "of everybody", unknown),
    ]));
    assert_eq!(
        in_words(&told),
        "at port 8080 of Service shop/orders:\n  \
         no ApiRoute says who may enter: every workload of the mesh may\n  \
         RateLimit shop/limits, limit all (of everybody): passes, 7 left\n  \
         RateLimit shop/limits, limit each (of its consumer): too much for 30000 ms, 0 left: answered \
         429, rate_limited\n  \
         RateLimit shop/limits, limit smooth (of everybody): waits for 20 ms at least\n  \
         RateLimit shop/limits, limit trial (of all without consumer): passes, and tells that it is \
         too much for 20 ms\n  \
         RateLimit shop/limits, limit shared (of everybody): counted in the store"
    );
    assert!(is_refused(&told));
    assert!(!is_refused(&entering(json!([fine]))));
}

#[test]
fn what_is_refused_wherever_it_goes_is_refused() {
    let to = |weight: u32, then: Value| json!({ "weight": weight, "missing": false, "then": then });
    let refused = json!({ "refused": { "status": 404 } });
    let goes = |goes: Value| json!({ "goes": goes });
    assert!(is_refused(&goes(json!([
        to(1, refused.clone()),
        to(0, Value::Null)
    ]))));
    assert!(is_refused(&goes(json!([{ "weight": 1, "missing": true }]))));
    assert!(!is_refused(&goes(json!([
        to(1, refused),
        to(1, Value::Null)
    ]))));
    assert!(!is_refused(&goes(json!([]))));
}

#[test]
fn the_method_may_be_left_out() {
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Asked {
        #[command(flatten)]
        args: ExplainArgs,
    }
    let read = |words: &[&str]| {
        let words = ["explain"].iter().chain(words).chain(&["--from", "web"]);
        let args = Asked::parse_from(words).args;
        (args.method, args.url)
    };
    let both = |method: &str, url: &str| (method.to_owned(), url.to_owned());
    assert_eq!(read(&["POST", "http://a/"]), both("POST", "http://a/"));
    assert_eq!(read(&["tcp://a:1"]), both("GET", "tcp://a:1"));
}
