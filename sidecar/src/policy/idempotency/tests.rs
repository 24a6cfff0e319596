mod memory;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use wire::mesh;

use super::Idempotency;
use super::answer::Answer;
use super::key::BodyHash;
use super::key::{Fingerprint, Key, Principal};
use super::memory::{Claim, Known, Memory, Ticket};
use super::outcome::Outcome;
use super::shared::{self, Claimed};
use crate::identity::SpiffeId;
use crate::net::resp::Reply;
use crate::policy::authentication::Caller;
use crate::policy::authentication::api_key::Consumer;
use crate::policy::authentication::jwt::Token;

const HOUR: Duration = Duration::from_secs(3600);

fn sent() -> mesh::Idempotency {
    mesh::Idempotency {
        namespace: "shop".into(),
        name: "payments".into(),
        header: "idempotency-key".into(),
        methods: vec!["POST".into()],
        window_ms: 60_000,
        timeout_ms: 90_000,
        release_on: vec![429],
        max_request_bytes: 100,
        max_answer_bytes: 100,
        max_bytes: 65_536,
        ..Default::default()
    }
}

fn built(sent: mesh::Idempotency, old: Option<&Idempotency>) -> Result<Idempotency, String> {
    Idempotency::build(sent, old, &Default::default())
}

fn memory(bytes: u64) -> Arc<Memory> {
    let memory = Arc::<Memory>::default();
    memory.holds_at_most(bytes);
    memory
}

fn request(
    method: &str,
    path: &str,
    headers: &[(&'static str, &'static str)],
) -> http::request::Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn asked(body: &str) -> Fingerprint {
    Fingerprint::of(&request("POST", "/payments", &[]), hashed(body), None)
}

fn hashed(body: &str) -> BodyHash {
    let mut hash = BodyHash::new();
    hash.more(body.as_bytes());
    hash
}

/// Claims a key for an hour; its answer may have a kilobyte.
fn claim(memory: &Arc<Memory>, name: &str, body: &str, who: Principal) -> Claim {
    memory.claim(key(who, name), asked(body), who, HOUR, 1024)
}

/// The first with its key.
fn first(claim: Claim) -> Ticket {
    match claim {
        Claim::First(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// Answers a call, if there is room for that.
fn answers(ticket: Ticket, who: Principal, memory: &Arc<Memory>, answer: Arc<Answer>) -> bool {
    let mut room = memory.room(who);
    let fits = room.grow_to(answer.bytes().saturating_sub(ticket.set_aside()));
    if fits {
        ticket.answered(answer, room);
    }
    fits
}

fn principal(name: &str) -> Principal {
    Principal::of(None, &[consumer(name)])
}

fn consumer(name: &str) -> Caller {
    let mut caller = Caller::default();
    caller.consumer = Some(Arc::new(Consumer {
        name: name.into(),
        plan: "gold".into(),
    }));
    caller
}

fn key(principal: Principal, key: &str) -> Key {
    Key::of("shop/payments", principal, key.as_bytes(), false)
}

fn answer(body: &'static str) -> Arc<Answer> {
    Arc::new(Answer {
        status: StatusCode::CREATED,
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
        trailers: None,
    })
}

#[test]
fn a_principal_is_who_has_credentials_and_else_the_workload_that_calls() {
    let web: SpiffeId = "spiffe://cluster.local/ns/web/sa/web".parse().unwrap();
    let app: SpiffeId = "spiffe://cluster.local/ns/web/sa/app".parse().unwrap();
    let acme = [consumer("acme")];
    assert_eq!(
        Principal::of(Some(&web), &acme),
        Principal::of(Some(&app), &acme)
    );
    // Whatever ApiRoutes found it out, and in which order.
    let both = [consumer("acme"), Caller::default(), consumer("acme")];
    assert_eq!(Principal::of(None, &both), Principal::of(None, &acme));
    let all = [
        Principal::of(None, &acme),
        Principal::of(None, &[consumer("other")]),
        Principal::of(Some(&web), &[Caller::default()]),
        Principal::of(Some(&app), &[]),
        Principal::of(None, &[]),
    ];
    let keys = all.map(|one| Key::of("shop/payments", one, b"a", false).name());
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), all.len());
    assert!(keys.iter().all(|name| !name.contains("acme")));
    let of = |object, is_copy| Key::of(object, all[0], b"a", is_copy);
    assert_ne!(of("shop/payments", false), of("shop/refunds", false));
    assert_ne!(of("shop/payments", false), of("shop/payments", true));
}

#[test]
fn a_token_tells_whose_it_is_by_a_subject_that_says_something() {
    let token = |claims: &str| {
        let claims = format!(r#"{{"active":true,"iss":"a",{claims}}}"#);
        let members = wire::json::object(claims.as_bytes()).unwrap();
        let mut caller = Caller::default();
        caller.token = Some(Arc::new(Token::introspected(members).unwrap()));
        caller
    };
    let web: SpiffeId = "spiffe://cluster.local/ns/web/sa/web".parse().unwrap();
    let of = |claims: &str| Principal::of(Some(&web), &[token(claims)]);
    let workload = Principal::of(Some(&web), &[]);
    for none in [
        r#""sub":null"#,
        r#""sub":"""#,
        r#""sub":["x"]"#,
        r#""scope":"x""#,
    ] {
        assert_eq!(of(none), workload, "{none}");
    }
    let all = [
        r#""sub":"x""#,
        r#""client_id":"x""#,
        r#""sub":"y""#,
        r#""sub":1"#,
    ];
    for (place, one) in all.iter().enumerate() {
        assert_ne!(of(one), workload, "{one}");
        for other in &all[place + 1..] {
            assert_ne!(of(one), of(other), "{one} {other}");
        }
    }
    // What comes first counts.
    assert_eq!(
        of(r#""sub":null,"client_id":"x""#),
        of(r#""client_id":"x""#)
    );
}

#[test]
fn what_was_asked_is_method_path_query_media_type_body_and_trailers() {
    let of = |method: &str, path: &str, headers: &[(&'static str, &'static str)], body: &[u8]| {
        let body = hashed(std::str::from_utf8(body).unwrap());
        Fingerprint::of(&request(method, path, headers), body, None).text()
    };
    let json = [("content-type", "application/json"), ("traceparent", "1")];
    let first = of("POST", "/a?b", &json, b"c");
    let again = [("content-type", "application/json"), ("traceparent", "2")];
    assert_eq!(first, of("POST", "/a?b", &again, b"c"));
    for other in [
        of("PATCH", "/a?b", &json, b"c"),
        of("POST", "/a", &json, b"c"),
        of("POST", "/a?b", &[("content-type", "text/plain")], b"c"),
        of("POST", "/a?b", &json, b"d"),
        of("POST", "/a?bc", &json, b""),
        of("POST", "http://refunds/a?b", &json, b"c"),
    ] {
        assert_ne!(first, other);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let head = request("POST", "/a?b", &json);
    let trailed = Fingerprint::of(&head, hashed("c"), Some(&trailers));
    assert_ne!(first, trailed.text());
}

#[test]
fn a_key_is_one_header_of_1_to_255_bytes() {
    let policy = built(sent(), None).unwrap();
    let long: &'static str = "a".repeat(256).leak();
    let key = |headers: &[(&'static str, &'static str)]| {
        let head = request("POST", "/", headers);
        policy.key(&head).map(|key| key.map(<[u8]>::to_vec))
    };
    assert_eq!(key(&[]), Ok(None));
    assert_eq!(
        key(&[("idempotency-key", "\"a\"")]),
        Ok(Some(b"\"a\"".to_vec()))
    );
    assert!(key(&[("idempotency-key", &long[1..])]).is_ok());
    for bad in [
        &[("idempotency-key", "")][..],
        &[("idempotency-key", long)],
        &[("idempotency-key", "a"), ("idempotency-key", "a")],
    ] {
        assert!(key(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn it_is_about_its_methods_and_paths_and_an_edit_keeps_what_is_kept() {
    let acme = principal("acme");
    let policy = built(sent(), None).unwrap();
    assert_eq!(policy.timeout, policy.window, "a call ends before its key");
    assert!(policy.is_about(&request("POST", "/a", &[])));
    assert!(!policy.is_about(&request("PATCH", "/a", &[])));
    assert!(policy.releases(StatusCode::TOO_MANY_REQUESTS));
    assert!(!policy.releases(StatusCode::SERVICE_UNAVAILABLE));
    let ticket = first(claim(&policy.memory, "a", "1", acme));
    assert!(answers(ticket, acme, &policy.memory, answer("ok")));
    let edited = mesh::Idempotency {
        max_bytes: 1_000_000,
        window_ms: 1_000,
        paths: vec![mesh::Match {
            path: Some(mesh::r#match::Path::Prefix("/payments".into())),
            ..Default::default()
        }],
        ..sent()
    };
    let policy = built(edited, Some(&policy)).unwrap();
    assert!(policy.is_about(&request("POST", "/payments/1", &[])));
    assert!(!policy.is_about(&request("POST", "/a", &[])));
    let again = claim(&policy.memory, "a", "1", acme);
    assert!(matches!(again, Claim::Known(Known::Answered(_))));
    assert_eq!(policy.memory.most(), 1_000_000);
}

#[test]
fn what_cannot_be_carried_out_is_rejected() {
    let with = |change: fn(&mut mesh::Idempotency)| {
        let mut sent = sent();
        change(&mut sent);
        built(sent, None).unwrap_err()
    };
    for why in [
        with(|sent| sent.header = "a b".into()),
        with(|sent| sent.methods.clear()),
        with(|sent| sent.methods = vec!["A B".into()]),
        with(|sent| sent.release_on = vec![70_000]),
        with(|sent| sent.window_ms = 0),
        with(|sent| sent.timeout_ms = 0),
        with(|sent| sent.max_bytes = 0),
        with(|sent| sent.max_answer_bytes = 0),
        with(|sent| sent.store = Some(mesh::SharedStore::default())),
        with(|sent| {
            sent.store = Some(mesh::SharedStore {
                url: "redis://:secret@".into(),
                on_failure: mesh::StoreFailure::Deny.into(),
                ..Default::default()
            });
        }),
    ] {
        assert!(!why.is_empty() && !why.contains("secret"), "{why}");
    }
}

#[test]
fn what_can_not_be_used_closes_what_it_names_and_keeps_what_was_kept() {
    let (acme, counters) = (principal("acme"), Default::default());
    let old = built(sent(), None).unwrap();
    let ticket = first(claim(&old.memory, "a", "1", acme));
    assert!(answers(ticket, acme, &old.memory, answer("ok")));
    let wrong = mesh::Idempotency {
        methods: vec!["A B".into()],
        required: true,
        header: "x-key".into(),
        ..sent()
    };
    let id = "idempotency/shop/payments";
    let closed = Idempotency::closed(Some(wrong), Some(&old), id, &counters);
    assert!(closed.closed && closed.required);
    assert_eq!(
        (&*closed.object, closed.header.as_str()),
        ("shop/payments", "x-key")
    );
    assert!(closed.is_about(&request("DELETE", "/any", &[])));
    let reopened = built(sent(), Some(&closed)).unwrap();
    let again = claim(&reopened.memory, "a", "1", acme);
    assert!(matches!(again, Claim::Known(Known::Answered(_))));
    // Nothing at all could be read.
    let closed = Idempotency::closed(None, Some(&old), id, &counters);
    assert_eq!(closed.header, old.header);
}

#[test]
fn an_answer_of_a_store_is_read_as_it_was_kept_and_nothing_else_is_one() {
    let mut headers = HeaderMap::new();
    headers.append("set-cookie", "a=1".parse().unwrap());
    headers.append("set-cookie", "b=2".parse().unwrap());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let first = Answer {
        headers,
        trailers: Some(trailers),
        ..(*answer("paid")).clone()
    };
    assert_eq!(Answer::read(first.stored()), Ok(first.clone()));
    assert!(first.bytes() >= first.stored().len() as u64);
    let claimed = |parts: Vec<Reply>| shared::claimed(Reply::Array(parts));
    let number = Reply::Integer;
    let kept = Reply::Bulk(Some(first.stored()));
    assert_eq!(claimed(vec![number(0)]), Some(Claimed::First));
    assert_eq!(claimed(vec![number(1)]), Some(Claimed::Other));
    let answered = Claimed::Answered(Box::new(first));
    assert_eq!(claimed(vec![number(2), kept.clone()]), Some(answered));
    assert_eq!(claimed(vec![number(3)]), Some(Claimed::UnderWay));
    assert_eq!(claimed(vec![number(4)]), Some(Claimed::Unknown));
    for none in [
        vec![],
        // Whoever asked has given it back already.
        vec![number(5)],
        vec![number(0), kept],
        vec![number(2)],
        vec![number(2), Reply::Bulk(None)],
        vec![number(2), Reply::Bulk(Some(vec![0xff]))],
    ] {
        assert_eq!(claimed(none), None);
    }
}

#[test]
fn every_outcome_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Outcome::ALL.map(Outcome::name).into();
    assert_eq!(names.len(), Outcome::ALL.len());
    for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
        assert_eq!(outcome as usize, place);
    }
}
