use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use proptest::prelude::*;
use tokio::time::advance;
use wire::mesh;

use super::Idempotency;
use super::answer::Answer;
use super::key::{Fingerprint, Key, Principal};
use super::memory::{Claim, Memory};
use super::outcome::Outcome;
use super::shared::{self, Claimed};
use crate::identity::SpiffeId;
use crate::net::resp::Reply;
use crate::policy::authentication::Caller;
use crate::policy::authentication::api_key::Consumer;

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
    Fingerprint::of(&request("POST", "/payments", &[]), body.as_bytes(), None)
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
    Key::of("shop/payments", principal, key.as_bytes())
}

fn answer(body: &'static str) -> Arc<Answer> {
    Arc::new(Answer {
        status: StatusCode::CREATED,
        headers: HeaderMap::new(),
        body: Bytes::from_static(body.as_bytes()),
        trailers: None,
    })
}

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_its_first_call_until_its_window_has_passed() {
    let (memory, acme) = (memory(65_536), principal("acme"));
    let claim = |body| memory.claim(key(acme, "a"), asked(body), acme, HOUR);
    let Claim::First(ticket) = claim("1") else {
        panic!("the first");
    };
    assert!(matches!(claim("1"), Claim::UnderWay(_)));
    assert!(matches!(claim("2"), Claim::Other));
    assert!(ticket.answered(answer("paid")));
    advance(HOUR - Duration::from_millis(1)).await;
    assert!(matches!(claim("1"), Claim::Answered(first) if first.body == "paid"));
    assert!(matches!(claim("2"), Claim::Other));
    advance(Duration::from_millis(1)).await;
    assert!(matches!(claim("2"), Claim::First(_)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_the_call_ends_whichever_way() {
    let (memory, acme) = (memory(65_536), principal("acme"));
    let claim = || memory.claim(key(acme, "a"), asked("1"), acme, HOUR);
    let Claim::First(ticket) = claim() else {
        panic!("the first");
    };
    let Claim::UnderWay(mut call) = claim() else {
        panic!("under way");
    };
    ticket.release();
    assert!(call.changed().await.is_err(), "it has ended");
    let Claim::First(ticket) = claim() else {
        panic!("the key is free again");
    };
    let Claim::UnderWay(mut call) = claim() else {
        panic!("under way");
    };
    // Whoever carried it out has gone without a word.
    drop(ticket);
    assert!(call.changed().await.is_err());
    assert!(matches!(claim(), Claim::Unknown));
    advance(HOUR).await;
    assert!(matches!(claim(), Claim::First(_)));
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_kept_makes_way_and_all_room_is_given_back() {
    let (memory, acme) = (memory(10 * 1024), principal("acme"));
    let claim =
        |principal, name: &str| memory.claim(key(principal, name), asked("1"), principal, HOUR);
    let mut taken = 0;
    loop {
        match claim(acme, &taken.to_string()) {
            Claim::First(ticket) => assert!(ticket.answered(answer("ok"))),
            Claim::Full => break,
            other => panic!("{other:?}"),
        }
        taken += 1;
    }
    assert!(taken >= 10, "{taken}");
    for name in 0..taken {
        assert!(matches!(claim(acme, &name.to_string()), Claim::Answered(_)));
    }
    // One principal can't take what the others need.
    assert!(matches!(claim(principal("other"), "a"), Claim::First(_)));
    advance(HOUR).await;
    drop(claim(acme, "one more"));
    advance(HOUR).await;
    drop(claim(acme, "the last"));
    assert_eq!(memory.size(), (1, 512));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_room_is_not_kept_and_its_call_not_made_again() {
    let (memory, acme) = (memory(2_048), principal("acme"));
    let claim = || memory.claim(key(acme, "a"), asked("1"), acme, HOUR);
    let Claim::First(ticket) = claim() else {
        panic!("the first");
    };
    let mut room = memory.room();
    assert!(room.more(1_536) && !room.more(1));
    assert!(!ticket.answered(answer("ok")));
    assert!(matches!(claim(), Claim::Unknown));
    drop(room);
    assert_eq!(memory.size(), (1, 512));
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
    let keys = all.map(|one| Key::of("shop/payments", one, b"a").name());
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), all.len());
    assert!(keys.iter().all(|name| !name.contains("acme")));
    assert_ne!(
        Key::of("shop/payments", all[0], b"a"),
        Key::of("shop/refunds", all[0], b"a")
    );
}

#[test]
fn what_was_asked_is_method_path_query_media_type_body_and_trailers() {
    let of = |method: &str, path: &str, headers: &[(&'static str, &'static str)], body: &[u8]| {
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
    ] {
        assert_ne!(first, other);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let head = request("POST", "/a?b", &json);
    assert_ne!(first, Fingerprint::of(&head, b"c", Some(&trailers)).text());
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
    let Claim::First(ticket) = policy.memory.claim(key(acme, "a"), asked("1"), acme, HOUR) else {
        panic!("the first");
    };
    ticket.answered(answer("ok"));
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
    let claim = policy.memory.claim(key(acme, "a"), asked("1"), acme, HOUR);
    assert!(matches!(claim, Claim::Answered(_)));
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

/// What can happen to a key.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask { key: u8, body: u8 },
    End { how: u8, call: u8 },
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3u8, 0..2u8).prop_map(|(key, body)| Step::Ask { key, body }),
        (0..3u8, 0..8u8).prop_map(|(how, call)| Step::End { how, call }),
        (0..900u16).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Against a plain account of what was called when: within its window no key is carried out twice,
    /// but after a release.
    #[test]
    fn no_key_is_carried_out_twice_within_its_window(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            const WINDOW: Duration = Duration::from_secs(1);
            let (memory, acme) = (memory(1_000_000), principal("acme"));
            let mut now = Duration::ZERO;
            // Per key: when its call began, with which body, and how it ended.
            let mut account: std::collections::HashMap<u8, (Duration, u8, Option<u8>)> = Default::default();
            let mut open = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(millis) => {
                        let span = Duration::from_millis(millis.into());
                        now += span;
                        advance(span).await;
                    }
                    Step::End { how, call } => {
                        if open.is_empty() {
                            continue;
                        }
                        let call = usize::from(call) % open.len();
                        let (key, began, ticket): (u8, Duration, super::memory::Ticket) = open.swap_remove(call);
                        match how {
                            0 => assert!(ticket.answered(answer("ok"))),
                            1 => drop(ticket),
                            _ => ticket.release(),
                        }
                        if let Some(entry) = account.get_mut(&key) && entry.0 == began {
                            if how == 2 {
                                account.remove(&key);
                            } else {
                                entry.2 = Some(how);
                            }
                        }
                    }
                    Step::Ask { key: number, body } => {
                        // A call ends before its key does: the policy sees to it.
                        open.retain(|(_, began, _)| *began + WINDOW > now);
                        for entry in account.values_mut() {
                            if entry.2.is_none() && entry.0 + WINDOW <= now {
                                entry.2 = Some(1);
                            }
                        }
                        account.retain(|_, entry| entry.0 + WINDOW > now);
                        let name = number.to_string();
                        let text = body.to_string();
                        let claim = memory.claim(key(acme, &name), asked(&text), acme, WINDOW);
                        match (account.get(&number), claim) {
                            (None, Claim::First(ticket)) => {
                                account.insert(number, (now, body, None));
                                open.push((number, now, ticket));
                            }
                            (Some((_, first, _)), Claim::Other) => assert_ne!(*first, body),
                            (Some((_, _, None)), Claim::UnderWay(_))
                            | (Some((_, _, Some(0))), Claim::Answered(_))
                            | (Some((_, _, Some(1))), Claim::Unknown) => {}
                            (known, claim) => panic!("{known:?} {claim:?}"),
                        }
                    }
                }
            }
        });
    }
}
