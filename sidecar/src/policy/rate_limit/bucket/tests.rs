use super::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn rate(requests: u32, per: u64, burst: u32) -> Rate {
    Rate {
        requests,
        per,
        burst,
    }
}

/// What the rate gives for a span, and the burst.
fn promised(rate: Rate, span: u64) -> u64 {
    let given = u128::from(span) * u128::from(rate.requests) / u128::from(rate.per);
    u64::from(rate.burst) + u64::try_from(given).unwrap()
}

fn any_rate() -> impl Strategy<Value = Rate> {
    // Numbers whose spans are no whole nanoseconds among them.
    let requests = prop_oneof![1u32..20, 900u32..1100, 999_983u32..999_984];
    let per = prop_oneof![Just(SECOND), Just(60 * SECOND), 1u64..SECOND];
    (requests, per, 1u32..40).prop_map(|(requests, per, burst)| rate(requests, per, burst))
}

proptest! {
    #[test]
    fn in_no_span_passes_more_than_the_burst_and_what_the_rate_gives(
        rate in any_rate(),
        steps in prop::collection::vec((0u64..2_000, 1u64..5, 0usize..30), 1..150),
        unit in prop_oneof![Just(1u64), Just(1_000), Just(1_000_000)],
    ) {
        let buckets = Buckets::default();
        let key = buckets.key(b"a");
        let mut now = 0;
        let mut passed: Vec<(u64, u64)> = Vec::new();
        let mut goes_away: Vec<(usize, u64, u64)> = Vec::new();
        for (number, (step, cost, stays)) in steps.into_iter().enumerate() {
            now += step * unit;
            // Some wait for something else meanwhile, and pass nowhere.
            goes_away.retain(|(when, since, cost)| {
                let waits = *when > number;
                if !waits {
                    buckets.give_back(key, rate, *cost, (*since, now));
                }
                waits
            });
            if buckets.take(key, rate, cost, now).is_ok() {
                match stays % 3 {
                    0 => goes_away.push((number + stays, now, cost)),
                    _ => passed.push((now, cost)),
                }
            }
        }
        for from in 0..passed.len() {
            let mut sum = 0;
            for (at, cost) in &passed[from..] {
                sum += cost;
                let most = promised(rate, at - passed[from].0);
                prop_assert!(sum <= most, "{sum} of {most} within {}", at - passed[from].0);
            }
        }
    }

    #[test]
    fn who_asks_for_all_gets_all_that_is_promised(
        rate in any_rate(),
        steps in prop::collection::vec(0u64..2_000, 1..100),
        unit in prop_oneof![Just(1u64), Just(1_000), Just(1_000_000)],
    ) {
        let buckets = Buckets::default();
        let key = buckets.key(b"a");
        let (mut now, mut passed) = (0, 0);
        // As long as it never stands full, nothing is lost: less than one is left each time.
        for step in std::iter::once(0).chain(steps) {
            let longest = u64::try_from(u128::from(rate.burst - 1) * u128::from(rate.per)
                / u128::from(rate.requests)).unwrap();
            now += (step * unit).min(longest);
            while buckets.take(key, rate, 1, now).is_ok() {
                passed += 1;
            }
            prop_assert_eq!(passed, promised(rate, now));
        }
    }

    #[test]
    fn what_is_told_to_wait_passes_then_and_not_before(
        rate in any_rate(),
        costs in prop::collection::vec(1u64..10, 1..60),
    ) {
        let buckets = Buckets::default();
        let key = buckets.key(b"a");
        let mut now = 0;
        for cost in costs {
            match buckets.take(key, rate, cost, now) {
                Ok(_) => {}
                Err(TooMuch { wait: None, .. }) => prop_assert!(cost > u64::from(rate.burst)),
                Err(TooMuch { wait: Some(wait), .. }) => {
                    let wait = u64::try_from(wait.as_nanos()).unwrap();
                    prop_assert!(buckets.take(key, rate, cost, now + wait - 1).is_err());
                    now += wait;
                    prop_assert!(buckets.take(key, rate, cost, now).is_ok());
                }
            }
        }
    }
}

#[test]
fn what_was_taken_for_nothing_is_given_back() {
    let buckets = Buckets::default();
    let (key, rate) = (buckets.key(b"a"), rate(3, SECOND, 3));
    assert_eq!(buckets.take(key, rate, 3, 0).unwrap().left, 0);
    buckets.give_back(key, rate, 2, (0, 0));
    assert_eq!(buckets.take(key, rate, 1, 0).unwrap().left, 1);
}

#[test]
fn what_was_taken_for_nothing_and_has_drained_is_not_given_back() {
    let buckets = Buckets::default();
    let (key, rate) = (buckets.key(b"a"), rate(10, SECOND, 100));
    assert!(buckets.take(key, rate, 30, 0).is_ok());
    // In two seconds 20 of them have drained: as many pass again.
    assert_eq!(
        buckets.take(key, rate, 90, 2 * SECOND).unwrap().left,
        0,
        "all there is"
    );
    buckets.give_back(key, rate, 30, (0, 2 * SECOND));
    let left = buckets.take(key, rate, 1, 2 * SECOND).unwrap().left;
    assert_eq!(left, 9);
}

#[test]
fn keys_without_a_place_gain_nothing_by_an_edit() {
    let buckets = Buckets::default();
    let (short, long) = (rate(1, SECOND, 2), rate(1, 1_000 * SECOND, 2));
    let mut number = 0u32;
    while buckets.len() < MAX_KEYS {
        number += 1;
        let _ = buckets.take(buckets.key(&number.to_be_bytes()), short, 2, 0);
    }
    let late = buckets.key(b"late");
    // Unless others have used the spare bucket up already.
    let _ = buckets.take(late, short, 2, 0);
    assert!(buckets.would(late, short, 2, 0).is_err());
    buckets.rescale(&[(short, long)], 0);
    assert!(buckets.take(late, long, 1, 999 * SECOND).is_err());
    assert!(buckets.take(late, long, 1, 1_001 * SECOND).is_ok());
}

#[test]
fn keys_are_counted_apart_and_a_million_of_them_fit_the_memory_that_is_stated() {
    let buckets = Buckets::default();
    let rate = rate(1, 60 * SECOND, 2);
    let first = buckets.key(b"first");
    assert!(buckets.take(first, rate, 2, 0).is_ok());
    for number in 0u32..1_000_000 {
        let key = buckets.key(&number.to_be_bytes());
        // Late ones find no place, and share what is left.
        let _ = buckets.take(key, rate, 1, 1);
    }
    assert!(buckets.len() <= MAX_KEYS, "{}", buckets.len());
    let places = buckets.shards.iter().map(|shard| {
        let shard = shard.lock().unwrap();
        assert!(shard.buckets.len() <= KEYS_IN_SHARD);
        shard.buckets.capacity()
    });
    // What hashbrown has for so many: 8 in 7, 32 bytes and one of control each.
    let bytes = places.map(|places| places * 8 / 7 * 33).sum::<usize>();
    assert!(bytes <= 2_200_000, "{bytes}");
    assert_eq!(size_of::<(u128, Bucket)>(), 32);
    // Who was there before is still counted.
    assert!(buckets.take(first, rate, 1, 2).is_err());

    // All are unused after two minutes, and give way.
    let later = 121 * SECOND;
    let new = buckets.key(b"new");
    assert_eq!(buckets.take(new, rate, 1, later).unwrap().left, 1);
}

#[test]
fn a_key_without_a_place_passes_no_more_than_its_limit_when_it_gets_one() {
    let buckets = Buckets::default();
    let rate = rate(1, SECOND, 2);
    let mut number = 0u32;
    while buckets.len() < MAX_KEYS {
        number += 1;
        // Two, so that none is unused before 2 s are over.
        let _ = buckets.take(buckets.key(&number.to_be_bytes()), rate, 2, 0);
    }
    // Shortly before the others' places are free, it takes what the spare bucket has.
    let key = buckets.key(b"late");
    let early = buckets.take(key, rate, 1, 2 * SECOND - 1);
    let mut passed = u64::from(early.is_ok());
    for _ in 0..5 {
        passed += u64::from(
            buckets
                .take(key, rate, 1, 2 * SECOND + BETWEEN_SEARCHES)
                .is_ok(),
        );
    }
    assert!(passed <= promised(rate, BETWEEN_SEARCHES + 1), "{passed}");
}

#[test]
fn under_load_from_four_workers_exactly_what_is_promised_passes() {
    let buckets = Arc::new(Buckets::default());
    // No thread goes without a core for the half second that a full bucket takes.
    let rate = rate(20_000, SECOND, 10_000);
    let key = buckets.key(b"a");
    let (stop, passed) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let from = buckets.now();
    // It is empty before they begin: a full one gains nothing.
    assert!(buckets.take(key, rate, 10_000, from).is_ok());
    let threads = (0..4).map(|_| {
        let (buckets, stop, passed) = (buckets.clone(), stop.clone(), passed.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                if buckets.take(key, rate, 1, buckets.now()).is_ok() {
                    passed.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
    });
    let threads = Vec::from_iter(threads);
    // So long as it takes: a tenth of a second by the clock that counts.
    while buckets.now() < from + SECOND / 10 {
        std::thread::yield_now();
    }
    stop.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    let until = buckets.now();
    let mut passed = passed.load(Ordering::SeqCst) + 10_000;
    while buckets.take(key, rate, 1, until).is_ok() {
        passed += 1;
    }
    assert_eq!(passed, promised(rate, until - from));
}
