//! What callers keep: for whom, and for how long.

use super::super::at_caller::AtCaller;
use super::super::key::{By, To};
use super::*;
use crate::telemetry::metrics::Direction;

fn kept(max_age_ms: u64) -> mesh::CacheAtCaller {
    mesh::CacheAtCaller {
        cache: Some(mesh::Cache {
            revision: vec![7; 16].into(),
            ..sent()
        }),
        max_age_ms,
        credential_headers: vec!["x-api-key".into()],
        credential_query: vec!["key".into()],
        ..Default::default()
    }
}

fn at_caller() -> Arc<Cache> {
    let built = AtCaller::build(kept(10_000)).unwrap();
    built.cache(&Counters::default()).clone()
}

fn ok(control: &str, headers: &[(&str, &str)]) -> response::Parts {
    let says = [("cache-control", control), ("content-length", "1")];
    answered(200, &[&says[..], headers].concat())
}

fn asks(cache: &Arc<Cache>, head: &Parts) -> bool {
    given(consult(cache, head)).is_some()
}

#[tokio::test(start_paused = true)]
async fn callers_are_given_nothing_that_was_asked_for_longer_ago_than_they_may() {
    let cache = at_caller();
    let head = get("/a", &[]);
    let lasts = "max-age=600, stale-while-revalidate=600, stale-if-error=600";
    put(&cache, &head, &ok(lasts, &[("etag", "\"1\"")]), "a").unwrap();
    advance(secs(9)).await;
    assert!(asks(&cache, &head));
    advance(secs(1)).await;
    assert!(!asks(&cache, &head));
    assert!(!asks(&cache, &get("/a", &[("cache-control", "max-stale")])));
    // It can be asked about, and is given to nobody in place of an answer.
    let asked = question(&cache, &head);
    let Verdict::Fetch(_, Some(entry)) = cache.consult(&asked, &head.headers) else {
        panic!("it is forgotten");
    };
    assert!(cache.instead(&asked, Some(&entry)).is_none());
    let since = Instant::now();
    advance(secs(4)).await;
    let told = answered(304, &[("etag", "\"1\""), ("cache-control", lasts)]);
    let fresh = cache.freshen(&asked, &head.headers, &entry, &told, since);
    let entry = fresh.unwrap().draft.into_entry(entry.body().clone(), 1);
    // The time that the answer took counts: nobody knows when in it was decided who may enter.
    assert_eq!(entry.ttl(Instant::now()), Some(secs(6)));
    // What is fresh for less is given for less.
    put(&cache, &get("/b", &[]), &ok("max-age=3", &[]), "b").unwrap();
    advance(secs(3)).await;
    assert!(!asks(&cache, &get("/b", &[])));
    // So is what has come of age.
    let old = ok("max-age=600", &[("age", "595")]);
    put(&cache, &get("/c", &[]), &old, "c").unwrap();
    advance(secs(4)).await;
    assert!(asks(&cache, &get("/c", &[])));
    advance(secs(1)).await;
    assert!(!asks(&cache, &get("/c", &[])));
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_to_one_who_sends_credentials_is_given_to_nobody_else_even_if_it_is_public()
 {
    let cache = at_caller();
    let callers = [
        get("/a", &[]),
        get("/a", &[("authorization", "Bearer a")]),
        get("/a", &[("authorization", "Bearer b")]),
        get("/a", &[("cookie", "session=a")]),
        get("/a", &[("cookie", "session=b")]),
        get("/a", &[("x-api-key", "a")]),
        get("/a", &[("x-api-key", "b")]),
        get("/a", &[("x-forwarded-user", "a")]),
        get("/a", &[("x-forwarded-user", "b")]),
        get("/a?key=a", &[]),
        get("/a?key=b", &[]),
    ];
    for (place, caller) in callers.iter().enumerate() {
        put(&cache, caller, &ok("public, max-age=600", &[]), "a").unwrap();
        for (other, head) in callers.iter().enumerate() {
            assert_eq!(asks(&cache, head), other <= place, "{place} {other}");
        }
    }
    // Nor is it kept at all unless it may be: callers of one pod are many.
    for caller in &callers[1..] {
        let private = put(&cache, caller, &ok("max-age=600", &[]), "a");
        assert_eq!(private, Err(Unfit::Credentials), "{caller:?}");
    }
    // What anybody changes there is changed for all of them.
    let changed = Request::post("/a").header("host", "orders").body(());
    let (changed, ()) = changed.unwrap().into_parts();
    cache.changed(80, &changed, &ok("", &[]));
    assert!(callers.iter().all(|head| !asks(&cache, head)));
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_sends_elsewhere_has_answers_of_its_own() {
    let cache = at_caller();
    let head = get("/a", &[]);
    let asked = |rule: &'static str, service: &'static str| {
        let to = To {
            port: 80,
            by: Some(By {
                rule,
                service,
                port: 80,
                endpoint: None,
            }),
        };
        match cache.ask(to, &head, false, false) {
            Asked::Question(question) => question,
            other => panic!("{other:?}"),
        }
    };
    let one = asked("usual", "shop/orders");
    let response = ok("max-age=600", &[]);
    let draft = cache.judge(&one, &head.headers, &response, Instant::now());
    let mut fill = cache.fill(&one.wanted, draft.unwrap(), cache.store.begin(), None);
    assert!(fill.more(b"a"));
    fill.complete(true);
    let is_given = |question: &Question| given(cache.consult(question, &head.headers)).is_some();
    assert!(is_given(&asked("usual", "shop/orders")));
    assert!(!is_given(&asked("usual", "shop/orders-v2")));
    assert!(!is_given(&asked("beta", "shop/orders")));
}

#[tokio::test(start_paused = true)]
async fn what_the_mesh_says_and_what_may_have_broken_off_is_not_kept_nor_what_is_of_one_request() {
    let cache = at_caller();
    let head = get("/a", &[]);
    let refused = ok("max-age=600", &[("meshwright-reason", "some_new_reason")]);
    assert_eq!(put(&cache, &head, &refused, "a"), Err(Unfit::OfTheMesh));
    let endless = answered(200, &[("cache-control", "max-age=600")]);
    assert_eq!(put(&cache, &head, &endless, "a"), Err(Unfit::Endless));
    let of_one = [
        ("cache-status", "meshwright; fwd=uri-miss; stored"),
        ("ratelimit", "\"a\";r=7;t=2"),
        ("x-ratelimit-remaining", "7"),
        ("x-own", "kept"),
    ];
    put(&cache, &head, &ok("max-age=600", &of_one), "a").unwrap();
    let (entry, _) = given(consult(&cache, &head)).unwrap();
    let headers = entry.headers(Instant::now());
    let names = of_one.map(|(name, _)| headers.contains_key(name));
    assert_eq!(names, [false, false, false, true]);
}

#[test]
fn it_is_made_for_the_first_request_and_takes_no_more_of_a_caller_than_its_pod_allows() {
    let mut said = kept(600_000);
    let huge = mesh::Cache {
        max_bytes: 1 << 30,
        max_entry_bytes: 1 << 26,
        ..said.cache.unwrap()
    };
    said.cache = Some(huge);
    let built = AtCaller::build(said).unwrap();
    assert_eq!(built.max_age(), secs(60));
    assert!(built.kept().is_none());
    let cache = built.cache(&Counters::default());
    assert_eq!(cache.store.bounds().bytes, 16 << 20);
    assert_eq!(cache.max_entry_bytes, 4 << 20);
    assert_eq!(
        (cache.side, cache.name()),
        (Direction::outbound, "meshwright-caller")
    );
    assert!(built.kept().is_some());
    for wrong in [
        mesh::CacheAtCaller::default(),
        kept(0),
        mesh::CacheAtCaller {
            cache: Some(sent()),
            ..kept(1)
        },
        mesh::CacheAtCaller {
            cache: Some(mesh::Cache {
                revision: vec![7; 15].into(),
                ..sent()
            }),
            ..kept(1)
        },
        mesh::CacheAtCaller {
            credential_headers: vec!["a b".into()],
            ..kept(1)
        },
    ] {
        assert!(AtCaller::build(wrong).is_err());
    }
}
