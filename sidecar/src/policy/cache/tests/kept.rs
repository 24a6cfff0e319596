//! What is kept, how much of it, and what ends it.

use super::flight::{Joined, Outcome, Patience};
use super::*;

#[tokio::test(start_paused = true)]
async fn what_an_unsafe_request_changes_is_gone_also_for_a_fetch_that_was_under_way() {
    let cache = cache();
    let control = [("cache-control", "max-age=100")];
    let head = get("/a?x=1", &[]);
    let post = get("/a", &[]);
    put(&cache, &head, &answered(200, &control), "1").unwrap();
    cache.changed(80, &post, &answered(404, &[]));
    assert!(given(consult(&cache, &head)).is_some());
    let begun = cache.store.begin();
    cache.changed(80, &post, &answered(204, &[]));
    assert!(given(consult(&cache, &head)).is_none());
    // It has asked before the change, and may have been answered so.
    let question = question(&cache, &head);
    let draft = cache.judge(
        &question,
        &head.headers,
        &answered(200, &control),
        Instant::now(),
    );
    cache
        .fill(&question.wanted, draft.unwrap(), begun, None)
        .complete(true);
    assert!(given(consult(&cache, &head)).is_none());
    put(&cache, &head, &answered(200, &control), "2").unwrap();
    assert!(given(consult(&cache, &head)).is_some());

    for (named, touched) in [
        ("/a", true),
        ("http://Orders/x/../a?y", true),
        ("a", true),
        ("http://other/a", false),
        ("//other/a", false),
        ("http://orders:81/a", false),
        ("/b", false),
    ] {
        put(&cache, &head, &answered(200, &control), "3").unwrap();
        cache.changed(80, &get("/z", &[]), &answered(303, &[("location", named)]));
        assert_eq!(given(consult(&cache, &head)).is_none(), touched, "{named}");
    }
    // Who can't tell what became of it says nothing of where it has led.
    let name = REASON_HEADER;
    let told = [(name.as_str(), "request_timeout")];
    for (status, headers, touched) in [
        (101, &[][..], true),
        (504, &told, true),
        (504, &[], false),
        (403, &told, false),
    ] {
        put(&cache, &head, &answered(200, &control), "3").unwrap();
        cache.changed(80, &post, &answered(status, headers));
        assert_eq!(given(consult(&cache, &head)).is_none(), touched, "{status}");
    }
    // A purge of anything keeps nothing of what was under way.
    let begun = cache.store.begin();
    cache.store.purge(b"/other");
    let draft = cache.judge(
        &question,
        &head.headers,
        &answered(200, &control),
        Instant::now(),
    );
    cache.store.forget(&question.wanted.key, u64::MAX);
    cache
        .fill(&question.wanted, draft.unwrap(), begun, None)
        .complete(true);
    assert!(given(consult(&cache, &head)).is_none());
}

#[tokio::test(start_paused = true)]
async fn of_two_fetches_what_the_later_one_brought_stays_whichever_ends_last() {
    let cache = cache();
    let head = get("/a", &[("x-a", "1")]);
    let question = question(&cache, &head);
    let ends = |begun: u64, vary: &str, body: &str| {
        let says = answered(200, &[("cache-control", "max-age=100"), ("vary", vary)]);
        let draft = cache.judge(&question, &head.headers, &says, Instant::now());
        let mut fill = cache.fill(&question.wanted, draft.unwrap(), begun, None);
        assert!(fill.more(body.as_bytes()));
        fill.complete(true);
    };
    let is_given = || {
        let (entry, _) = given(consult(&cache, &head)).expect("it is kept");
        entry.body().bytes.clone()
    };
    let (first, second) = (cache.store.begin(), cache.store.begin());
    assert!(first < second, "each has its own");
    ends(second, "x-a", "new");
    ends(first, "x-a", "old");
    assert_eq!(is_given(), "new");
    // Also where they are told apart by something else.
    ends(first, "x-b", "old");
    assert_eq!(is_given(), "new");
    cache.store.forget(&question.wanted.key, first);
    assert_eq!(is_given(), "new");
    ends(cache.store.begin(), "x-a", "newest");
    assert_eq!(is_given(), "newest");
}

#[tokio::test(start_paused = true)]
async fn answers_that_vary_are_bounded_and_each_is_for_its_own_requests() {
    let cache = cache();
    let says = [
        ("cache-control", "max-age=100"),
        ("vary", "X-A, x-b"),
        ("vary", "x-a"),
    ];
    let of = |number: usize| number.to_string();
    for number in 0..40 {
        let head = get("/a", &[("x-a", &of(number))]);
        put(&cache, &head, &answered(200, &says), &of(number)).unwrap();
        let (entry, _) = given(consult(&cache, &head)).unwrap();
        assert_eq!(entry.body().bytes, of(number));
    }
    let kept = (0..40).filter(|number| is_given(&cache, &[("x-a", &of(*number))]));
    assert_eq!(kept.count(), 16, "the newest");
    assert!(!is_given(&cache, &[]) && !is_given(&cache, &[("x-a", "39"), ("x-b", "")]));
    assert!(!is_given(&cache, &[("x-a", "39"), ("x-a", "39")]));
    for wrong in ["*", "x-a, *", "x a"] {
        let says = [("cache-control", "max-age=100"), ("vary", wrong)];
        let made = put(&cache, &get("/b", &[]), &answered(200, &says), "");
        assert_eq!(made, Err(Unfit::Varies), "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_kept_than_may_be() {
    let cache = built(
        mesh::Cache {
            max_bytes: 100_000,
            max_entries: 20,
            max_entry_bytes: 20_000,
            ..sent()
        },
        None,
    );
    let control = [("cache-control", "max-age=100")];
    let body = "x".repeat(9_000);
    for number in 0..200 {
        let head = get(&format!("/{number}"), &[]);
        put(&cache, &head, &answered(200, &control), &body).unwrap();
        let (entries, bytes) = cache.store.size();
        assert!(entries <= 20 && bytes <= 100_000, "{entries} {bytes}");
    }
    assert!(cache.store.size().0 >= 8);
    for number in 0..200 {
        let head = get(&format!("/small/{number}"), &[]);
        put(&cache, &head, &answered(200, &control), "x").unwrap();
        assert!(cache.store.size().0 <= 20);
    }
    // Of one key, too.
    let says = [("cache-control", "max-age=100"), ("vary", "x-a")];
    for number in 0..30 {
        let head = get("/v", &[("x-a", &number.to_string())]);
        put(&cache, &head, &answered(200, &says), &"x".repeat(15_000)).unwrap();
        assert!(cache.store.size().1 <= 100_000);
    }
    let question = question(&cache, &get("/a", &[]));
    let large = answered(
        200,
        &[("cache-control", "max-age=1"), ("content-length", "20001")],
    );
    let made = cache.judge(&question, &get("/a", &[]).headers, &large, Instant::now());
    assert_eq!(made.unwrap_err(), Unfit::Large);
}

#[tokio::test(start_paused = true)]
async fn what_is_coming_and_what_is_still_read_are_bounded_with_what_is_kept() {
    let cache = built(
        mesh::Cache {
            max_bytes: 100_000,
            max_entry_bytes: 20_000,
            ..sent()
        },
        None,
    );
    let control = [("cache-control", "max-age=100")];
    let (head, piece) = (get("/a", &[]), "x".repeat(15_000));
    let question = question(&cache, &head);
    let fill = |headers: &[(&str, &str)]| {
        let response = answered(200, headers);
        let draft = cache.judge(&question, &head.headers, &response, Instant::now());
        cache.fill(&question.wanted, draft.unwrap(), 9, None)
    };
    // Somebody still reads ten answers that have gone.
    let mut read = Vec::new();
    for _ in 0..10 {
        let mut fill = fill(&control);
        assert!(fill.more(piece.as_bytes()));
        fill.complete(true);
        let (entry, _) = given(consult(&cache, &head)).unwrap();
        read.push(entry.body().room.clone());
        cache.store.forget(&question.wanted.key, u64::MAX);
    }
    let mut fills = Vec::from_iter((0..20).map(|_| fill(&control)));
    let mut taken = 0;
    for fill in &mut fills {
        taken += usize::from(fill.more(piece.as_bytes()));
    }
    assert_eq!(taken, 3, "twice as much as is kept at most");
    drop(fills);
    let length = [control[0], ("content-length", "15000")];
    let known = Vec::from_iter((0..4).map(|_| fill(&length)));
    let mut one_more = fill(&control);
    assert!(!one_more.more(b"x"), "what will come is counted");
    drop((known, read, one_more));
    let mut fill = fill(&length);
    assert!(fill.more(piece.as_bytes()), "their room was given back");
    assert!(!fill.more(piece.as_bytes()), "one alone is too large");
}

#[tokio::test(start_paused = true)]
async fn hop_by_hop_headers_are_not_kept_nor_what_ends_with_its_connection() {
    let cache = cache();
    let says = [
        ("cache-control", "max-age=9"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("proxy-authenticate", "Basic"),
        ("x-end", "1"),
    ];
    put(&cache, &get("/a", &[]), &answered(200, &says), "").unwrap();
    let (entry, _) = given(consult(&cache, &get("/a", &[]))).unwrap();
    let headers = entry.headers(Instant::now());
    let names: std::collections::BTreeSet<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(
        Vec::from_iter(names),
        ["age", "cache-control", "date", "x-end"]
    );

    let mut endless = answered(200, &[("cache-control", "max-age=9")]);
    endless.version = Version::HTTP_11;
    let made = put(&cache, &get("/b", &[]), &endless, "");
    assert_eq!(made, Err(Unfit::Endless));
    let chunked = HeaderValue::from_static("chunked");
    endless.headers.insert("transfer-encoding", chunked);
    assert!(put(&cache, &get("/b", &[]), &endless, "").is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_has_broken_off_without_an_error_is_not_kept() {
    let (length, none) = (("content-length", "4"), ("x", "1"));
    for (line, version, body, told, kept) in [
        (length, Version::HTTP_2, "body", true, true),
        (length, Version::HTTP_2, "bod", true, false),
        (length, Version::HTTP_2, "body", false, false),
        (length, Version::HTTP_11, "body", false, true),
        (length, Version::HTTP_11, "bod", false, false),
        (none, Version::HTTP_2, "bod", true, true),
        (none, Version::HTTP_2, "bod", false, false),
        (
            ("content-length", "4, 4"),
            Version::HTTP_2,
            "body",
            true,
            false,
        ),
    ] {
        let (cache, head) = (cache(), get("/a", &[]));
        let mut response = answered(200, &[("cache-control", "max-age=9"), line]);
        response.version = version;
        let question = question(&cache, &head);
        let draft = cache.judge(&question, &head.headers, &response, Instant::now());
        let Joined::Lead(lead) = Lead::or_wait(&cache.store, &question.wanted) else {
            panic!("nobody fetches");
        };
        let mut fill = cache.fill(&question.wanted, draft.unwrap(), 9, Some(lead));
        assert!(fill.more(body.as_bytes()));
        fill.complete(told);
        assert_eq!(
            is_given(&cache, &[]),
            kept,
            "{line:?} {version:?} {body} {told}"
        );
        // Who waits goes on, and the next one may be whole.
        assert!(cache.store.flights.is_empty() && cache.may_share(&question, false));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_question_passes_by() {
    let cache = cache();
    let ask = |method: Method, headers: &[(&str, &str)], body: bool| {
        let mut head = get("/a", headers);
        head.method = method;
        cache.ask(80, &head, body, false)
    };
    assert!(matches!(ask(Method::GET, &[], false), Asked::Question(_)));
    assert!(matches!(ask(Method::HEAD, &[], false), Asked::Question(_)));
    for past in [
        ask(Method::GET, &[], true),
        ask(Method::OPTIONS, &[], false),
        ask(Method::GET, &[("cache-control", "no-store")], false),
        ask(Method::GET, &[("if-match", "\"1\"")], false),
        ask(Method::GET, &[("x-original-url", "/b")], false),
        ask(Method::GET, &[("x-rewrite-url", "/b")], false),
    ] {
        assert!(matches!(past, Asked::Past(_)), "{past:?}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        assert!(matches!(ask(method, &[], false), Asked::Unsafe));
    }
    assert!(matches!(
        ask(Method::from_bytes(b"PURGE").unwrap(), &[], false),
        Asked::Unsafe
    ));
    let other = [("x-http-method-override", "DELETE")];
    assert!(matches!(ask(Method::GET, &other, false), Asked::Unsafe));
    let only = get("/a", &[("cache-control", "only-if-cached")]);
    assert!(matches!(consult(&cache, &only), Verdict::Refuse));
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_to_who_is_named_in_a_header_is_for_nobody_else() {
    let control = [("cache-control", "max-age=100")];
    for named in ["x-forwarded-user", "x_auth_request_email", "x-api-key"] {
        let cache = cache();
        let [one, other] = ["a", "b"].map(|person| get("/a", &[(named, person)]));
        let made = put(&cache, &one, &answered(200, &control), "a's");
        assert_eq!(made, Err(Unfit::Credentials), "{named}");
        put(&cache, &get("/a", &[]), &answered(200, &control), "").unwrap();
        assert!(given(consult(&cache, &other)).is_none(), "{named}");
        let all = [("cache-control", "public, max-age=100")];
        put(&cache, &one, &answered(200, &all), "all").unwrap();
        assert!(given(consult(&cache, &other)).is_some(), "{named}");

        // Where it is chosen, each has its own.
        let key_headers = vec![named.into()];
        let cache = built(
            mesh::Cache {
                key_headers,
                ..sent()
            },
            None,
        );
        put(&cache, &one, &answered(200, &control), "a's").unwrap();
        assert!(given(consult(&cache, &one)).is_some(), "{named}");
        assert!(given(consult(&cache, &other)).is_none(), "{named}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_outlives_what_does_not_change_what_it_means() {
    let old = cache();
    says(&old, "max-age=100").unwrap();
    let longer = mesh::Cache {
        default_ttl_ms: 5,
        stale_if_error_ms: 5,
        max_entry_bytes: 10,
        ..sent()
    };
    assert!(is_given(&built(longer, Some(&old)), &[]));
    for other in [
        mesh::Cache {
            max_bytes: 1 << 19,
            ..sent()
        },
        mesh::Cache {
            key_headers: vec!["x-a".into()],
            ..sent()
        },
        mesh::Cache {
            key_query: Some(mesh::QueryKey::default()),
            ..sent()
        },
    ] {
        assert!(!is_given(&built(other, Some(&old)), &[]));
    }
    for wrong in [
        mesh::Cache {
            max_bytes: 0,
            ..sent()
        },
        mesh::Cache {
            key_headers: vec!["x a".into()],
            ..sent()
        },
    ] {
        assert!(Cache::build(wrong, None, &Counters::default()).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_credentials_and_who_sends_none_fetch_and_wait_apart() {
    let cache = cache();
    let open = question(&cache, &get("/a", &[]));
    let closed = question(&cache, &get("/a", &[("authorization", "Bearer a")]));
    let Joined::Lead(lead) = Lead::or_wait(&cache.store, &closed.wanted) else {
        panic!("nobody fetches");
    };
    let Joined::Lead(_other) = Lead::or_wait(&cache.store, &open.wanted) else {
        panic!("nobody fetches for those who send none");
    };
    cache.alone_if_whole(&closed, false, Some(lead));
    assert!(!cache.may_share(&closed, false) && cache.may_share(&open, false));
    // What is kept for those is nothing to these, unless it is for all.
    says(&cache, "max-age=9").unwrap();
    assert!(!cache.may_share(&closed, false));
    says(&cache, "public, max-age=9").unwrap();
    assert!(cache.may_share(&closed, false));
    // That the application fails now is not remembered.
    cache.alone_if_whole(&open, true, None);
    assert!(cache.may_share(&open, false));
}

/// What becomes of a fetch for somebody who waits for it, after so many seconds.
async fn wait(cache: &Cache, patience: &mut Patience, seconds: u64, landed: fn(Lead)) -> Outcome {
    let question = question(cache, &get("/a", &[]));
    let join = || Lead::or_wait(&cache.store, &question.wanted);
    let (Joined::Lead(lead), Joined::Wait(waiting)) = (join(), join()) else {
        panic!("somebody else fetches");
    };
    let landing = async {
        tokio::time::sleep(secs(seconds)).await;
        landed(lead);
        std::future::pending().await
    };
    tokio::select! {
        outcome = patience.wait(waiting) => outcome,
        () = landing => panic!("it goes on"),
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_ten_seconds_in_all_nor_behind_answers_for_other_headers() {
    let (cache, mut patience) = (cache(), Patience::default());
    assert!(patience.is_left(Forwarded::Vary) && !patience.is_tried());
    let begun = Instant::now();
    assert_eq!(wait(&cache, &mut patience, 6, drop).await, Outcome::Left);
    assert!(patience.is_left(Forwarded::Uri));
    let slow = wait(&cache, &mut patience, 5, Lead::kept);
    assert_eq!(slow.await, Outcome::Alone);
    assert_eq!(begun.elapsed(), secs(10));
    assert!(!patience.is_left(Forwarded::Uri));

    let mut patience = Patience::default();
    let kept = wait(&cache, &mut patience, 1, Lead::kept);
    assert_eq!(kept.await, Outcome::Kept);
    assert!(patience.is_left(Forwarded::Uri) && !patience.is_left(Forwarded::Vary));
    for _ in 0..3 {
        assert!(patience.is_left(Forwarded::Uri));
        wait(&cache, &mut patience, 1, drop).await;
    }
    assert!(!patience.is_left(Forwarded::Uri), "four times");
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_goes_on_and_that_nothing_is_kept_is_remembered_for_a_while() {
    let cache = cache();
    let question = question(&cache, &get("/a", &[]));
    let join = || Lead::or_wait(&cache.store, &question.wanted);
    let Joined::Lead(lead) = join() else {
        panic!("nobody fetches");
    };
    let Joined::Wait(waiting) = join() else {
        panic!("somebody fetches");
    };
    let begun = Instant::now();
    let mut patience = Patience::default();
    assert_eq!(patience.wait(waiting).await, Outcome::Alone);
    assert!(!patience.is_left(Forwarded::Uri));
    assert_eq!(begun.elapsed(), secs(10));
    let Joined::Wait(waiting) = join() else {
        panic!("it still fetches");
    };
    drop(lead);
    assert_eq!(Patience::default().wait(waiting).await, Outcome::Left);
    let Joined::Lead(lead) = join() else {
        panic!("nobody fetches any more");
    };
    assert!(cache.may_share(&question, false));
    cache.alone(&question.wanted, Some(lead));
    assert!(!cache.may_share(&question, false));
    assert!(cache.store.flights.is_empty());
    advance(secs(12)).await;
    assert!(cache.may_share(&question, false));
    let no_cache = get("/a", &[(CACHE_CONTROL.as_str(), "no-cache")]);
    assert!(!cache.may_share(&super::question(&cache, &no_cache), false));
}
