use super::question::Question;
use super::*;
use crate::policy::authentication::Caller;
use crate::policy::authentication::api_key::Consumer;
use http::Request;
use wire::mesh::limit_key::Of;

fn sent() -> mesh::Limit {
    mesh::Limit {
        name: "all".into(),
        rate: Some(mesh::LimitRate {
            requests: 2,
            burst: 2,
        }),
        per_ms: 60_000,
        action: LimitAction::Reject.into(),
        ..mesh::Limit::default()
    }
}

fn by(of: Of) -> Vec<mesh::LimitKey> {
    vec![mesh::LimitKey { of: Some(of) }]
}

fn built(sent: mesh::Limit, old: Option<&Limit>) -> Limit {
    let limit = Limit::build(sent, &"shop/orders".into(), old, &Counters::default()).unwrap();
    if let Some(old) = old {
        limit.replaces(old);
    }
    limit
}

fn head(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::post("/orders");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn caller(name: &str, plan: &str) -> Caller {
    let mut caller = Caller::default();
    caller.consumer = Some(Arc::new(Consumer {
        name: name.into(),
        plan: plan.into(),
    }));
    caller
}

fn asking<'a>(head: &'a Parts, callers: &'a [Caller]) -> Asking<'a> {
    Asking {
        head,
        peer: None,
        from: "10.0.0.7".parse().unwrap(),
        callers,
        target: "Service/orders",
        length: Some(0),
    }
}

/// How many of ten pass.
async fn passes(limit: &Limit, asking: Asking<'_>) -> usize {
    let mut passed = 0;
    for _ in 0..10 {
        if let Ok(taken) = limit.take(asking, None).await {
            taken.kept(asking);
            passed += 1;
        }
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn an_override_wins_over_a_plan_and_a_plan_over_the_limit() {
    let rate = |requests| {
        Some(mesh::LimitRate {
            requests,
            burst: requests,
        })
    };
    let limit = built(
        mesh::Limit {
            key: by(Of::Consumer(true)),
            overrides: vec![mesh::LimitOverride {
                values: vec!["acme".into()],
                rate: rate(5),
            }],
            plans: vec![mesh::LimitPlan {
                name: "gold".into(),
                rate: rate(4),
            }],
            ..sent()
        },
        None,
    );
    let head = head(&[]);
    for (name, plan, passed) in [
        ("acme", "gold", 5),
        ("bolt", "gold", 4),
        ("cork", "free", 2),
        ("dime", "", 2),
    ] {
        let callers = [caller(name, plan)];
        assert_eq!(passes(&limit, asking(&head, &callers)).await, passed);
    }
    // Nobody, and nobody else, share one bucket.
    assert_eq!(passes(&limit, asking(&head, &[])).await, 2);
    assert_eq!(passes(&limit, asking(&head, &[Caller::default()])).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_about_the_methods_and_paths_that_it_names() {
    let path = mesh::Match {
        path: Some(mesh::r#match::Path::Prefix("/orders".into())),
        ..mesh::Match::default()
    };
    let limit = built(
        mesh::Limit {
            methods: vec!["POST".into()],
            paths: vec![path],
            ..sent()
        },
        None,
    );
    let is_about = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        limit.is_about(&request.body(()).unwrap().into_parts().0)
    };
    assert!(is_about("POST", "/orders/7"));
    assert!(!is_about("GET", "/orders/7"));
    assert!(!is_about("POST", "/stock"));
}

#[tokio::test(start_paused = true)]
async fn a_header_says_what_a_request_counts_within_bounds() {
    let of = mesh::LimitCostHeader {
        name: "x-cost".into(),
        max: 7,
    };
    let limit = built(
        mesh::Limit {
            rate: Some(mesh::LimitRate {
                requests: 27,
                burst: 27,
            }),
            cost: Some(mesh::LimitCost {
                of: Some(limit_cost::Of::Header(of)),
            }),
            ..sent()
        },
        None,
    );
    for (headers, left) in [
        (&[][..], 26),
        (&[("x-cost", "3")], 23),
        (&[("x-cost", "0")], 22),
        (&[("x-cost", "cheap")], 15),
        // Whoever writes nonsense, or two numbers, pays the most.
        (&[("x-cost", "1"), ("x-cost", "1")], 8),
        (&[("x-cost", "1000000")], 1),
    ] {
        let head = head(headers);
        let asking = asking(&head, &[]);
        let taken = limit.take(asking, None).await.unwrap();
        assert_eq!(taken.level.left, left, "{headers:?}");
        taken.kept(asking);
    }
    let head = head(&[("x-cost", "2")]);
    assert!(limit.take(asking(&head, &[]), None).await.is_err());
}

/// A thousand bytes a second, and so many at once.
fn of_bytes(burst: u32) -> Limit {
    let sent = mesh::Limit {
        rate: Some(mesh::LimitRate {
            requests: 1_000,
            burst,
        }),
        per_ms: 1_000,
        cost: Some(mesh::LimitCost {
            of: Some(limit_cost::Of::Bytes(true)),
        }),
        ..sent()
    };
    built(sent, None)
}

#[tokio::test(start_paused = true)]
async fn bytes_count_ahead_where_they_are_announced_and_else_as_they_come() {
    let limit = of_bytes(1_000);
    let head = head(&[]);
    let with = |length| Asking {
        length,
        ..asking(&head, &[])
    };
    let never = limit.take(with(Some(1_001)), None).await.unwrap_err();
    assert_eq!(never.too_much.wait, None);
    let taken = limit.take(with(Some(600)), None).await.unwrap();
    assert!(taken.kept(with(Some(600))).is_none());
    let later = limit.take(with(Some(500)), None).await.unwrap_err();
    assert_eq!(later.too_much.wait, Some(Duration::from_millis(100)));

    let taken = limit.take(with(None), None).await.unwrap();
    let pace = taken.kept(with(None)).unwrap();
    assert_eq!(pace.take(300), Ok(300));
    assert_eq!(pace.take(300), Ok(100));
    let wait = pace.take(300).unwrap_err();
    assert_eq!(wait, Duration::from_millis(1));
    tokio::time::advance(Duration::from_millis(50)).await;
    assert_eq!(pace.take(300), Ok(50));
}

#[tokio::test(start_paused = true)]
async fn what_is_told_only_passes() {
    let limit = built(
        mesh::Limit {
            action: LimitAction::Shadow.into(),
            ..sent()
        },
        None,
    );
    let head = head(&[]);
    let asking = asking(&head, &[]);
    for number in 0..5 {
        let taken = limit.take(asking, None).await.unwrap();
        assert_eq!(taken.exceeds, number >= 2);
        taken.kept(asking);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_no_further_counts_nothing() {
    let limit = built(sent(), None);
    let head = head(&[]);
    let asking = asking(&head, &[]);
    for _ in 0..5 {
        drop(limit.take(asking, None).await.unwrap());
    }
    for _ in 0..5 {
        assert_eq!(
            limit.would(asking).unwrap().left,
            1,
            "a question takes nothing"
        );
    }
    assert_eq!(limit.keys(), 1);
    assert_eq!(passes(&limit, asking).await, 2);
    let wait = limit.would(asking).unwrap_err().wait;
    assert_eq!(wait, Some(Duration::from_secs(30)));
}

#[tokio::test(start_paused = true)]
async fn what_was_used_outlives_an_edit_that_keeps_name_and_key() {
    let first = built(sent(), None);
    let head = head(&[]);
    let asking = asking(&head, &[]);
    assert_eq!(passes(&first, asking).await, 2);
    let wider = mesh::Limit {
        rate: Some(mesh::LimitRate {
            requests: 4,
            burst: 4,
        }),
        ..sent()
    };
    let second = built(wider, Some(&first));
    // Its burst was used up, and is: what drains now drains at the new rate.
    assert_eq!(passes(&second, asking).await, 0);
    tokio::time::advance(Duration::from_secs(15)).await;
    assert_eq!(passes(&second, asking).await, 1);
    let other = mesh::Limit {
        key: by(Of::Target(true)),
        ..sent()
    };
    let third = built(other, Some(&second));
    assert_eq!(passes(&third, asking).await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_span_locks_nobody_out_and_forgives_nobody() {
    const MINUTE: u64 = 60_000;
    let of = |requests, per_ms, burst| mesh::Limit {
        rate: Some(mesh::LimitRate { requests, burst }),
        per_ms,
        ..sent()
    };
    let head = head(&[]);
    let asking = asking(&head, &[]);
    let minute = Duration::from_millis(MINUTE);
    // Used up in a day, and a minute after the edit all of it is there again.
    let day = built(of(10, 24 * 60 * MINUTE, 10), None);
    assert_eq!(passes(&day, asking).await, 10);
    let short = built(of(10, MINUTE, 10), Some(&day));
    assert_eq!(passes(&short, asking).await, 0);
    tokio::time::advance(minute / 2).await;
    assert_eq!(passes(&short, asking).await, 5);
    tokio::time::advance(minute).await;
    assert_eq!(passes(&short, asking).await, 10);
    // And the other way round a tenth of a day gives one more, not a tenth of a minute.
    let day = built(of(10, 24 * 60 * MINUTE, 10), Some(&short));
    tokio::time::advance(minute).await;
    assert_eq!(passes(&day, asking).await, 0);
    tokio::time::advance(144 * minute).await;
    assert_eq!(passes(&day, asking).await, 1);
    // Ten of ten are used but for a moment's: so are 40 of 40.
    let wide = built(of(10, 24 * 60 * MINUTE, 40), Some(&day));
    assert_eq!(passes(&wide, asking).await, 0);
    assert!(wide.would(asking).unwrap_err().level.left == 0);
    // Who has gone away since then gives nothing back of what was before.
    let taken = built(of(10, MINUTE, 10), None);
    let held = taken.take(asking, None).await.unwrap();
    let edited = built(of(10, 24 * 60 * MINUTE, 10), Some(&taken));
    drop(held);
    assert_eq!(edited.would(asking).unwrap().left, 8);
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_a_plan_and_of_an_override_keeps_the_part_that_was_used() {
    let rate = |requests, burst| Some(mesh::LimitRate { requests, burst });
    let of = |gold, acme| mesh::Limit {
        key: by(Of::Consumer(true)),
        overrides: vec![mesh::LimitOverride {
            values: vec!["acme".into()],
            rate: acme,
        }],
        plans: vec![mesh::LimitPlan {
            name: "gold".into(),
            rate: gold,
        }],
        ..sent()
    };
    let first = built(of(rate(1, 4), rate(1, 8)), None);
    let head = head(&[]);
    let [acme, bolt] = [[caller("acme", "")], [caller("bolt", "gold")]];
    let [acme, bolt] = [asking(&head, &acme), asking(&head, &bolt)];
    for _ in 0..2 {
        first.take(acme, None).await.unwrap().kept(acme);
        first.take(bolt, None).await.unwrap().kept(bolt);
    }
    // A quarter and a half are used.
    let second = built(of(rate(1, 10), rate(1, 4)), Some(&first));
    assert_eq!(second.would(acme).unwrap().left, 2);
    assert_eq!(second.would(bolt).unwrap().left, 4);
}

#[tokio::test(start_paused = true)]
async fn who_must_ask_anyway_takes_no_lease() {
    let of = |name: &str, burst| mesh::Limit {
        name: name.into(),
        rate: Some(mesh::LimitRate {
            requests: 1_000,
            burst,
        }),
        per_ms: 1_000,
        ..sent()
    };
    let shadow = mesh::Limit {
        action: LimitAction::Shadow.into(),
        ..of("shadow", 1_000)
    };
    let quota = mesh::Limit {
        window: LimitWindow::Day.into(),
        ..of("quota", 1_000)
    };
    let head = head(&[]);
    let asking = asking(&head, &[]);
    let wide = built(of("wide", 1_000), None);
    let question = |limit: &Limit| {
        let all = [&wide, limit].map(|limit| limit.question("shop/orders", asking));
        Question::may_lease(&all)
    };
    assert!(question(&built(of("other", 1_000), None)));
    for exact in [of("small", 31), shadow, quota] {
        assert!(!question(&built(exact, None)));
    }
    // Edited to another kind of key, it is another count in the store.
    let header = |name: &str| mesh::Limit {
        key: by(Of::Header(name.into())),
        ..of("wide", 1_000)
    };
    let keys = [of("wide", 1_000), header("x-a"), header("x-b")];
    let keys = keys.map(|sent| built(sent, None).question("shop/orders", asking).ask.key);
    assert!(keys[0] != keys[1] && keys[1] != keys[2], "{keys:?}");
}

#[test]
fn what_cannot_be_enforced_is_not_built() {
    let build = |sent| {
        let built = Limit::build(sent, &"shop/orders".into(), None, &Counters::default());
        built.map(|_| ()).unwrap_err()
    };
    build(mesh::Limit {
        rate: None,
        ..sent()
    });
    build(mesh::Limit {
        per_ms: 0,
        ..sent()
    });
    build(mesh::Limit {
        rate: Some(mesh::LimitRate {
            requests: 1,
            burst: 1_000_000,
        }),
        per_ms: 86_400_000,
        ..sent()
    });
    build(mesh::Limit {
        action: 0,
        ..sent()
    });
    build(mesh::Limit {
        action: LimitAction::Delay.into(),
        ..sent()
    });
    build(mesh::Limit {
        key: vec![mesh::LimitKey { of: None }],
        ..sent()
    });
    build(mesh::Limit {
        cost: Some(mesh::LimitCost { of: None }),
        ..sent()
    });
    build(mesh::Limit {
        overrides: vec![mesh::LimitOverride {
            values: vec!["a".into()],
            rate: sent().rate,
        }],
        ..sent()
    });
}

#[tokio::test(start_paused = true)]
async fn a_body_of_unknown_length_comes_as_fast_as_the_limit_lets_it() {
    use crate::proxy::body::RequestBody;
    use http_body_util::BodyExt as _;
    use tokio::time::Instant;

    let limit = of_bytes(500);
    let head = head(&[]);
    let asking = Asking {
        length: None,
        ..asking(&head, &[])
    };
    let pace = limit.take(asking, None).await.unwrap().kept(asking);
    let body = RequestBody::whole(bytes::Bytes::from(vec![7; 3_000]));
    let mut body = body.paced(pace.into_iter().collect());
    let begun = Instant::now();
    let mut passed = 0;
    while let Some(frame) = body.frame().await {
        passed += frame.unwrap().into_data().unwrap().len();
        let most = 500 + begun.elapsed().as_millis() as usize;
        assert!(passed <= most, "{passed} of {most}");
    }
    assert_eq!(passed, 3_000);
    // 2 500 at 1 000 a second; timers end up to a millisecond later, and lose nothing by that.
    let took = begun.elapsed().as_millis();
    assert!((2_500..2_510).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_deadline_bounds_how_long_it_waits() {
    let limit = built(
        mesh::Limit {
            rate: Some(mesh::LimitRate {
                requests: 10,
                burst: 1,
            }),
            per_ms: 1_000,
            action: LimitAction::Delay.into(),
            delay: Some(mesh::LimitDelay {
                max_ms: 5_000,
                max_queue: 10,
            }),
            ..sent()
        },
        None,
    );
    let head = head(&[]);
    let asking = asking(&head, &[]);
    let first = limit.take(asking, None).await.unwrap();
    assert!(!first.waited);
    first.kept(asking);
    let soon = Some(Duration::from_millis(50));
    let refused = limit.take(asking, soon).await.unwrap_err();
    assert_eq!(refused.too_much.wait, Some(Duration::from_millis(100)));
    assert!(limit.take(asking, None).await.unwrap().waited);
}
