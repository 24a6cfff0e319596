//! What is sent of calls that are carried out once, and what a store says of their keys.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message as _;
use sidecar::net::resp::{self, Reply};
use sidecar::policy::idempotency::Idempotency;
use sidecar::policy::idempotency::answer::Answer;
use sidecar::policy::idempotency::shared::{Claimed, claimed};
use sidecar::telemetry::metrics::idempotency::Counters;
use wire::mesh;

use crate::fuzz;

fn answer() -> Answer {
    let mut headers = HeaderMap::new();
    headers.append("location", HeaderValue::from_static("/payments/1"));
    headers.append("set-cookie", HeaderValue::from_static("a=b"));
    Answer {
        status: StatusCode::CREATED,
        headers,
        body: Bytes::from_static(b"paid"),
        trailers: None,
    }
}

#[test]
fn fuzz_answers_that_are_kept_in_a_store() {
    let stored = answer().stored();
    fuzz(50_000, &[&stored], &[b"\x0a", b"\r\n", b"\xff"], |bytes| {
        if let Ok(read) = Answer::read(bytes.to_vec()) {
            assert_eq!(Answer::read(read.stored()), Ok(read));
        }
    });
}

#[test]
fn fuzz_what_a_store_says_of_keys() {
    let kept = resp::command(&[answer().stored()]);
    let mut answered = b"*2\r\n:2\r\n".to_vec();
    answered.extend_from_slice(&kept[b"*1\r\n".len()..]);
    let seeds: &[&[u8]] = &[b"*1\r\n:0\r\n", b"*1\r\n:4\r\n", &answered, b"-ERR no\r\n"];
    let right = |bytes: &[u8]| {
        resp::read(bytes)
            .ok()
            .flatten()
            .map(|(reply, _)| claimed(reply))
    };
    assert!(matches!(right(&answered), Some(Some(Claimed::Answered(_)))));
    fuzz(50_000, seeds, &[b"\r\n", b"*", b"$", b":2"], |bytes| {
        let said = right(bytes);
        // Nothing but its own word makes a request the first.
        if let Some(Some(Claimed::First)) = said {
            let (reply, _) = resp::read(bytes).unwrap().unwrap();
            assert_eq!(reply, Reply::Array(vec![Reply::Integer(0)]));
        }
    });
}

#[test]
fn fuzz_idempotency_that_is_sent() {
    let sent = mesh::Idempotency {
        namespace: "shop".into(),
        name: "payments".into(),
        header: "idempotency-key".into(),
        methods: vec!["POST".into()],
        paths: vec![mesh::Match {
            path: Some(mesh::r#match::Path::Prefix("/payments".into())),
            ..Default::default()
        }],
        window_ms: 60_000,
        timeout_ms: 1_000,
        release_on: vec![429],
        max_request_bytes: 1,
        max_answer_bytes: 1,
        max_bytes: 1,
        store: Some(mesh::SharedStore {
            url: "redis://:secret@redis:6379/1".into(),
            on_failure: mesh::StoreFailure::Deny.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let counters = Counters::default();
    fuzz(
        20_000,
        &[&sent.encode_to_vec()],
        &[b"redis://", b"@"],
        |bytes| {
            if let Ok(sent) = mesh::Idempotency::decode(bytes)
                && let Err(why) = Idempotency::build(sent, None, &counters)
            {
                assert!(!why.contains("secret"), "{why}");
            }
        },
    );
}
