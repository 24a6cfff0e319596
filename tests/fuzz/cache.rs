//! Answers that are kept: what sidecars are sent of it, and the headers of requests and responses that
//! decide what is kept and given.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use http::{Request, Response, StatusCode, Version};
use prost::Message as _;
use sidecar::policy::cache::at_caller::AtCaller;
use sidecar::policy::cache::{Asked, Cache, Question, Verdict, answer};
use sidecar::telemetry::metrics::cache::Counters;
use tokio::time::Instant;
use wire::mesh;

use crate::spoil::fuzz;

fn sent() -> mesh::Cache {
    mesh::Cache {
        namespace: "shop".into(),
        name: "orders".into(),
        default_ttl_ms: 1_000,
        max_bytes: 1 << 16,
        max_entries: 8,
        max_entry_bytes: 1 << 12,
        key_headers: vec!["x-tenant".into()],
        key_query: Some(mesh::QueryKey {
            names: vec!["page".into()],
        }),
        stale_while_revalidate_ms: 1_000,
        stale_if_error_ms: 1_000,
        revision: vec![7; 16].into(),
        ..mesh::Cache::default()
    }
}

/// The lines that can be headers.
fn headers<'l>(lines: impl Iterator<Item = &'l [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':');
        let Some((name, value)) = colon.map(|at| (&line[..at], &line[at + 1..])) else {
            continue;
        };
        let name = HeaderName::from_bytes(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    headers
}

#[test]
fn fuzz_caches_that_are_sent() {
    let counters = Counters::default();
    fuzz(4_000, &[&sent().encode_to_vec()], &[b"\n"], |bytes| {
        // Tables are made for as much as is said: what the schema allows, and no more.
        let Ok(mut sent) = mesh::Cache::decode(bytes) else {
            return;
        };
        sent.max_bytes = sent.max_bytes.min(1 << 20);
        if let Ok(first) = Cache::build(sent.clone(), None, &counters) {
            assert!(Cache::build(sent, Some(&first), &counters).is_ok());
        }
    });
}

#[test]
fn fuzz_what_callers_are_told_that_they_keep() {
    let sent = mesh::CacheAtCaller {
        cache: Some(sent()),
        max_age_ms: 1_000,
        credential_headers: vec!["x-api-key".into()],
        credential_query: vec!["key".into()],
        deciding_headers: vec!["x-role".into()],
        by_method: true,
    };
    let counters = Counters::default();
    fuzz(4_000, &[&sent.encode_to_vec()], &[b"\n"], |bytes| {
        let Ok(sent) = mesh::CacheAtCaller::decode(bytes) else {
            return;
        };
        if let Ok(built) = AtCaller::build(sent) {
            assert!(built.max_age() <= Duration::from_secs(60));
            assert!(built.cache(&counters).store.bounds().bytes <= 16 << 20);
        }
    });
}

#[test]
fn fuzz_headers_of_what_is_kept() {
    let cache = Cache::build(sent(), None, &Counters::default()).expect("it is right");
    headers_of_what_is_kept(&Arc::new(cache));
}

#[test]
fn fuzz_headers_of_what_callers_keep() {
    let sent = mesh::CacheAtCaller {
        cache: Some(sent()),
        max_age_ms: 1_000,
        credential_headers: vec!["x-tenant".into()],
        credential_query: vec!["page".into()],
        deciding_headers: vec!["x-a".into()],
        by_method: true,
    };
    let built = AtCaller::build(sent).expect("it is right");
    headers_of_what_is_kept(built.cache(&Counters::default()));
}

fn headers_of_what_is_kept(cache: &Arc<Cache>) {
    let seeds: [&[u8]; 3] = [
        b"/a?page=1&x=2\nhost: orders\nx-tenant: a\ncache-control: max-age=5, max-stale\n\
          accept: x\n\ncache-control: public, max-age=60, stale-if-error=9\nvary: accept, X-A\n\
          etag: \"1\"\nage: 5\ndate: Thu, 01 Jan 2026 00:00:00 GMT\ncontent-length: 4",
        b"/a\nhost: orders\nauthorization: Bearer a\nif-none-match: W/\"1\", \"2\"\n\n\
          expires: Thu, 01 Jan 2099 00:00:00 GMT\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT",
        b"/b?page=%70&page=2\nrange: bytes=1-2\nif-range: \"1\"\npragma: no-cache\n\n\
          cache-control: private=\"a, b\", s-maxage=9\nset-cookie: a=b\nvary: *",
    ];
    let pieces: &[&[u8]] = &[
        b"cache-control: ",
        b"no-store",
        b"max-age=",
        b"99999999999999999999",
        b"vary: ",
        b"range: bytes=",
        b"bytes=-",
        b"if-none-match: ",
    ];
    fuzz(20_000, &seeds, pieces, |bytes| {
        let text = bytes.split(|byte| *byte == b'\n').collect::<Vec<_>>();
        let ends = text.iter().position(|line| line.is_empty());
        let (asks, says) = text.split_at(ends.unwrap_or(text.len()));
        let target = asks.first().copied().unwrap_or_default();
        let Ok(request) = Request::builder().uri(target).body(()) else {
            return;
        };
        let (mut head, ()) = request.into_parts();
        head.headers = headers(asks.iter().skip(1).copied());
        let (mut response, ()) = Response::new(()).into_parts();
        response.version = Version::HTTP_2;
        response.headers = headers(says.iter().copied());
        cache.changed(80, &head, &response);
        let Asked::Question(question) = cache.ask(80, &head, false, false) else {
            return;
        };
        let draft = cache.judge(&question, &head.headers, &response, Instant::now());
        if let Ok(draft) = draft {
            assert!(!is_private(&response.headers), "{:?}", response.headers);
            let mut fill = cache.fill(&question.wanted, draft, cache.store.begin(), None);
            assert!(fill.more(b"body"));
            fill.complete(true);
        }
        given(cache, &question, &head.headers);
        let (entries, bytes) = cache.store.size();
        assert!(entries <= 8 && bytes <= 1 << 16);
    });
}

/// Whatever is given is what was kept, or a part of it.
fn given(cache: &Cache, question: &Question, headers: &HeaderMap) {
    let (Verdict::Give(entry, _) | Verdict::Refresh(entry, _)) = cache.consult(question, headers)
    else {
        return;
    };
    let given = answer::answer(&entry, headers, question.head_only, Instant::now());
    match given.status() {
        StatusCode::OK => assert_eq!(given.body(), "body"),
        StatusCode::PARTIAL_CONTENT => {
            let body = std::str::from_utf8(given.body()).expect("a part of it");
            assert!(!body.is_empty() && "body".contains(body));
        }
        StatusCode::NOT_MODIFIED | StatusCode::RANGE_NOT_SATISFIABLE => {
            assert!(given.body().is_empty());
        }
        other => panic!("{other}"),
    }
}

/// As far as a reading without quotes can tell.
fn is_private(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CACHE_CONTROL).iter();
    let mut lines = lines.filter(|line| !line.as_bytes().contains(&b'"'));
    headers.contains_key(SET_COOKIE)
        || lines.any(|line| {
            let mut members = line.as_bytes().split(|byte| *byte == b',');
            members.any(|member| {
                let name = member
                    .split(|byte| *byte == b'=')
                    .next()
                    .unwrap_or_default();
                let name = name.trim_ascii().to_ascii_lowercase();
                [&b"private"[..], b"no-store"].contains(&&*name)
            })
        })
}
