//! How much is let through, what is kept, and what is carried out once.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, Response, StatusCode};
use sidecar::config::rate_limit::RateLimit;
use sidecar::identity::SpiffeId;
use sidecar::policy::cache::{Asked, Cache, Verdict, answer};
use sidecar::policy::idempotency::Idempotency;
use sidecar::policy::idempotency::answer::Answer;
use sidecar::policy::idempotency::key::{self, BodyHash, Fingerprint, Principal};
use sidecar::policy::idempotency::memory::{Claim, Known};
use sidecar::policy::rate_limit::key::Asking;
use tokio::time::Instant;
use wire::mesh;

use crate::head;

fn peer() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

/// A request within a limit is counted, by who calls.
pub(crate) fn limit() -> Box<dyn FnMut()> {
    use mesh::limit_key::Of;
    let limit = mesh::Limit {
        name: "per-caller".into(),
        rate: Some(mesh::LimitRate {
            requests: 1_000_000,
            burst: 1_000_000,
        }),
        per_ms: 1,
        key: vec![mesh::LimitKey {
            of: Some(Of::Identity(true)),
        }],
        action: mesh::LimitAction::Reject.into(),
        ..Default::default()
    };
    let sent = mesh::RateLimit {
        limits: vec![limit],
        headers: mesh::LimitHeaders::Draft.into(),
        ..Default::default()
    };
    let limits = RateLimit::build(sent, None, &Default::default()).unwrap();
    let (head, peer) = (head(&[]), peer());
    Box::new(move || {
        let asking = Asking {
            head: &head,
            peer: Some(&peer),
            from: [10, 0, 0, 1].into(),
            callers: &[],
            target: "Service/orders",
            length: Some(0),
        };
        let limit = &limits.limits[0];
        assert!(limit.is_about(black_box(&head)));
        let taken = limit.take(asking, None).now_or_never().unwrap();
        let taken = taken.unwrap();
        let mut said = HeaderMap::new();
        limits
            .says
            .write(std::iter::once(taken.standing()), &mut said);
        drop((black_box(said), taken.kept(asking)));
    })
}

/// An answer of 1 KiB that is kept is found and given.
pub(crate) fn kept() -> Box<dyn FnMut()> {
    let sent = mesh::Cache {
        max_bytes: 1 << 20,
        max_entries: 100,
        max_entry_bytes: 1 << 16,
        ..Default::default()
    };
    let cache = Arc::new(Cache::build(sent, None, &Default::default()).unwrap());
    let head = head(&[("accept", "application/json")]);
    let question = |cache: &Cache| match cache.ask(80, &head, false, false) {
        Asked::Question(question) => question,
        other => panic!("{other:?}"),
    };
    let response = Response::builder()
        .header("cache-control", "max-age=86400")
        .header("content-length", "1024");
    let (response, ()) = response
        .header("content-type", "text/plain")
        .body(())
        .unwrap()
        .into_parts();
    let asked = question(&cache);
    let draft = cache.judge(&asked, &head.headers, &response, Instant::now());
    let mut fill = cache.fill(&asked.wanted, draft.unwrap(), cache.store.begin(), None);
    assert!(fill.more(&[b'a'; 1024]));
    fill.complete(true);
    Box::new(move || {
        let question = match cache.ask(80, black_box(&head), false, false) {
            Asked::Question(question) => question,
            other => panic!("{other:?}"),
        };
        match cache.consult(&question, &head.headers) {
            Verdict::Give(entry, status) => {
                let given = answer::answer(&entry, &head.headers, false, Instant::now());
                let mut given = black_box(given);
                status.tell("meshwright", given.headers_mut());
            }
            other => panic!("{other:?}"),
        }
    })
}

/// Which key a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    None,
    New,
    Same,
}

/// A request of 1 KiB is told from others, and is the first or given what was answered first.
pub(crate) fn once(which: Key) -> Box<dyn FnMut()> {
    let sent = mesh::Idempotency {
        header: "idempotency-key".into(),
        methods: vec!["POST".into()],
        // As long as a round: what is kept goes again.
        window_ms: 10,
        timeout_ms: 10,
        max_request_bytes: 1 << 20,
        max_answer_bytes: 1 << 16,
        max_bytes: 1 << 30,
        ..Default::default()
    };
    let policy = Idempotency::build(sent, None, &Default::default()).unwrap();
    let mut head = match which {
        Key::None => head(&[]),
        Key::New | Key::Same => head(&[("idempotency-key", "0123456789")]),
    };
    head.method = http::Method::POST;
    let answer = Arc::new(Answer {
        status: StatusCode::CREATED,
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"paid"),
        trailers: None,
    });
    let (peer, body, mut number) = (peer(), vec![b'a'; 1024], 0_u64);
    Box::new(move || {
        assert!(policy.is_about(black_box(&head)));
        let Some(key) = policy.key(&head).unwrap() else {
            assert_eq!(which, Key::None);
            return;
        };
        let principal = Principal::of(Some(&peer), &[]);
        number += u64::from(which == Key::New);
        let numbered = number.to_be_bytes();
        let key = match which {
            Key::New => &numbered[..],
            _ => key,
        };
        let key = key::Key::of("shop/payments", principal, key, false);
        let mut hash = BodyHash::new();
        hash.more(&body);
        let fingerprint = Fingerprint::of(&head, hash, None);
        let window = match which {
            Key::New => policy.window,
            _ => Duration::from_secs(86_400),
        };
        match policy
            .memory
            .claim(key, fingerprint, principal, window, 1024)
        {
            Claim::First(ticket) => ticket.answered(answer.clone(), policy.memory.room(principal)),
            Claim::Known(Known::Answered(answer)) => drop(black_box(answer.response(true))),
            other => panic!("{other:?}"),
        }
    })
}
