//! For how long an answer is given, and what is asked about one that is not fresh.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_answer_is_fresh_for_as_long_as_it_says_less_the_age_that_it_came_with() {
    for (headers, lasts) in [
        (&[("cache-control", "max-age=60")][..], 60),
        (&[("cache-control", "max-age=60, s-maxage=10")], 10),
        (&[("cache-control", "max-age=60"), ("age", "20")], 40),
        (&[("cache-control", "max-age=60"), ("expires", "0")], 60),
        (
            &[
                ("date", "Thu, 01 Jan 2099 00:00:00 GMT"),
                ("expires", "Thu, 01 Jan 2099 00:00:30 GMT"),
            ],
            30,
        ),
    ] {
        let cache = cache();
        put(&cache, &get("/a", &[]), &answered(200, headers), "a").unwrap();
        advance(secs(lasts) - Duration::from_millis(1)).await;
        let (entry, _) = given(consult(&cache, &get("/a", &[]))).expect("it is fresh");
        let age = entry.headers(Instant::now())[AGE].clone();
        let came = headers.iter().find(|(name, _)| *name == "age");
        let came: u64 = came.map_or(0, |(_, age)| age.parse().unwrap());
        assert_eq!(age, HeaderValue::from(came + lasts - 1), "{headers:?}");
        advance(Duration::from_millis(1)).await;
        assert!(!is_given(&cache, &[]), "{headers:?}");
    }
    // An old date is an age, and a date that is none is the past.
    let old = httpdate::fmt_http_date(SystemTime::now() - secs(100));
    let old = answered(200, &[("cache-control", "max-age=60"), ("date", &old)]);
    let made = put(&cache(), &get("/a", &[]), &old, "");
    assert!(made.is_ok());
    let never = answered(200, &[("expires", "soon")]);
    let made = put(&cache(), &get("/a", &[]), &never, "");
    assert_eq!(made, Err(Unfit::NeverFresh));
}

#[tokio::test(start_paused = true)]
async fn an_old_date_counts_as_age() {
    let cache = cache();
    let date = httpdate::fmt_http_date(SystemTime::now() - secs(40));
    let old = answered(200, &[("cache-control", "max-age=60"), ("date", &date)]);
    put(&cache, &get("/a", &[]), &old, "").unwrap();
    assert!(is_given(&cache, &[]));
    advance(secs(21)).await;
    assert!(!is_given(&cache, &[]));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_say_it_is_kept_for_the_default_if_its_status_is_one_that_is() {
    let with_default = |ms| {
        built(
            mesh::Cache {
                default_ttl_ms: ms,
                ..sent()
            },
            None,
        )
    };
    for (status, kept) in [
        (200, true),
        (204, true),
        (301, true),
        (404, true),
        (410, true),
        (302, false),
        (405, false),
        (414, false),
        (501, false),
        (206, false),
        (304, false),
        (403, false),
        (500, false),
        (503, false),
    ] {
        let cache = with_default(10_000);
        let made = put(&cache, &get("/a", &[]), &answered(status, &[]), "");
        assert_eq!(made.is_ok(), kept, "{status}: {made:?}");
        assert_eq!(is_given(&cache, &[]), kept);
        advance(secs(10)).await;
        assert!(!is_given(&cache, &[]));
        let made = put(
            &with_default(0),
            &get("/a", &[]),
            &answered(status, &[]),
            "",
        );
        assert!(made.is_err(), "{status}");
    }
    // What is about one request alone is not kept even where it says so.
    let says = [("cache-control", "public, max-age=5")];
    for status in [
        400, 408, 412, 413, 414, 416, 417, 421, 425, 428, 429, 431, 511,
    ] {
        let made = put(&cache(), &get("/a", &[]), &answered(status, &says), "");
        assert_eq!(made, Err(Unfit::Status), "{status}");
    }
    // Nor is what is answered to who asks for a part, unless it is all.
    let part = get("/a", &[("range", "lines=1-2")]);
    for (status, kept) in [(200, true), (404, false), (403, false), (302, false)] {
        let cache = with_default(10_000);
        let made = put(&cache, &part, &answered(status, &says), "");
        assert_eq!(made.is_ok(), kept, "{status}: {made:?}");
    }
    // Any final status that says it is kept; one that must be understood is not.
    let control = [("cache-control", "max-age=5")];
    assert!(put(&cache(), &get("/a", &[]), &answered(302, &control), "").is_ok());
    assert!(put(&cache(), &get("/a", &[]), &answered(206, &control), "").is_err());
    let understood = [("cache-control", "max-age=5, must-understand")];
    assert!(put(&cache(), &get("/a", &[]), &answered(299, &understood), "").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_given_only_to_who_may_have_it() {
    // (what it says, seconds later, what the request says, whether it is given)
    for (control, later, asks, expected) in [
        ("max-age=10", 11, "max-stale", true),
        ("max-age=10", 11, "max-stale=1", true),
        ("max-age=10", 12, "max-stale=1", false),
        ("max-age=10, must-revalidate", 11, "max-stale", false),
        ("max-age=10, proxy-revalidate", 11, "max-stale", false),
        ("s-maxage=10", 11, "max-stale", false),
        ("no-cache, max-age=10", 1, "max-stale", false),
        ("max-age=10", 5, "max-age=5", true),
        ("max-age=10", 6, "max-age=5", false),
        ("max-age=10", 5, "min-fresh=5", true),
        ("max-age=10", 6, "min-fresh=5", false),
        ("max-age=10", 1, "no-cache", false),
        ("max-age=10, stale-while-revalidate=5", 14, "x", true),
        ("max-age=10, stale-while-revalidate=5", 15, "x", false),
        (
            "max-age=10, stale-while-revalidate=5",
            14,
            "max-age=12",
            false,
        ),
        (
            "max-age=10, stale-while-revalidate=5",
            14,
            "min-fresh=1",
            false,
        ),
        ("s-maxage=10, stale-while-revalidate=5", 14, "x", true),
        (
            "max-age=10, must-revalidate, stale-while-revalidate=5",
            11,
            "x",
            false,
        ),
        ("no-cache, stale-while-revalidate=5", 1, "x", false),
    ] {
        let cache = cache();
        says(&cache, control).unwrap();
        advance(secs(later)).await;
        let case = format!("{control} after {later} for {asks}");
        assert_eq!(
            is_given(&cache, &[("cache-control", asks)]),
            expected,
            "{case}"
        );
    }
    // What the ApiRoute says holds where the answer says nothing.
    let cache = built(
        mesh::Cache {
            stale_while_revalidate_ms: 5_000,
            ..sent()
        },
        None,
    );
    says(&cache, "max-age=10").unwrap();
    advance(secs(14)).await;
    assert!(matches!(
        consult(&cache, &get("/a", &[])),
        Verdict::Refresh(..)
    ));
    says(&cache, "max-age=10, stale-while-revalidate=0").unwrap();
    advance(secs(11)).await;
    assert!(!is_given(&cache, &[]));
    says(&cache, "s-maxage=10").unwrap();
    advance(secs(11)).await;
    assert!(!is_given(&cache, &[]), "it forbids it");
}

#[tokio::test(start_paused = true)]
async fn where_the_application_fails_a_stale_answer_is_given_for_as_long_as_it_says() {
    for (control, later, asks, expected) in [
        ("max-age=10, stale-if-error=5", 14, "x", true),
        ("max-age=10, stale-if-error=5", 15, "x", false),
        ("max-age=10, stale-if-error=5", 11, "no-cache", false),
        (
            "max-age=10, must-revalidate, stale-if-error=5",
            11,
            "x",
            false,
        ),
        ("max-age=10", 11, "x", false),
    ] {
        let cache = cache();
        says(&cache, control).unwrap();
        advance(secs(later)).await;
        let head = get("/a", &[("cache-control", asks)]);
        let question = question(&cache, &head);
        let entry = match cache.consult(&question, &head.headers) {
            Verdict::Fetch(_, entry) => entry,
            other => panic!("{other:?}"),
        };
        let instead = cache.instead(&question, entry.as_ref());
        assert_eq!(
            instead.is_some(),
            expected,
            "{control} after {later} for {asks}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_304_says_holds_from_then_on_and_one_about_another_makes_nothing_of_it() {
    let cache = cache();
    let says = [
        ("cache-control", "max-age=10"),
        ("etag", "W/\"1\""),
        ("content-length", "3"),
        ("x-a", "old"),
        ("x-b", "old"),
    ];
    put(&cache, &get("/a", &[]), &answered(200, &says), "abc").unwrap();
    advance(secs(11)).await;
    let head = get("/a", &[]);
    let question = question(&cache, &head);
    let Verdict::Fetch(_, Some(entry)) = cache.consult(&question, &head.headers) else {
        panic!("it is stale");
    };
    let mut asks = head.headers.clone();
    assert!(cache.prepare(&question, Some(&entry), &mut asks));
    assert_eq!(asks["if-none-match"], "W/\"1\"");
    let told = answered(
        304,
        &[("etag", "\"1\""), ("x-a", "new"), ("content-length", "9")],
    );
    let now = Instant::now();
    let fresh = cache.freshen(&question, &head.headers, &entry, &told, now);
    let fresh = fresh.expect("it is about it");
    assert_eq!(fresh.kept, Ok(()));
    let fresh = fresh.draft;
    cache.store.keep(
        &question.wanted.key,
        fresh.into_entry(entry.body().clone(), cache.store.begin()),
    );
    advance(secs(9)).await;
    let (entry, _) = given(consult(&cache, &head)).expect("it is fresh again");
    let headers = entry.headers(Instant::now());
    assert_eq!(
        (&headers["x-a"], &headers["x-b"]),
        (
            &HeaderValue::from_static("new"),
            &HeaderValue::from_static("old")
        )
    );
    assert_eq!(
        (&headers["content-length"], &headers["age"]),
        (
            &HeaderValue::from_static("3"),
            &HeaderValue::from_static("9")
        )
    );
    assert_eq!(&entry.body().bytes[..], b"abc");

    let other = answered(304, &[("etag", "\"2\"")]);
    assert!(
        cache
            .freshen(&question, &head.headers, &entry, &other, now)
            .is_none()
    );
    // What is kept no longer has the news all the same.
    let news = [("cache-control", "private"), ("x-a", "newest")];
    let private = answered(304, &news);
    let made = cache.freshen(&question, &head.headers, &entry, &private, now);
    let made = made.expect("it is about it");
    assert_eq!(made.kept, Err(Unfit::Says));
    let made = made.draft.into_entry(entry.body().clone(), 2);
    let headers = made.headers(Instant::now());
    assert_eq!(headers["x-a"], "newest");
    assert_eq!(headers["cache-control"], "private");
    assert_eq!(
        (headers["x-b"].to_str().unwrap(), &made.body().bytes[..]),
        ("old", &b"abc"[..])
    );
    assert!(made.ttl(Instant::now()).is_none() && !made.is_for_all());
}
