//! What one sidecar holds.

use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::policy::idempotency::memory::Ticket;

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_its_first_call_until_its_window_has_passed() {
    let (memory, acme) = (memory(65_536), principal("acme"));
    let claim = |body| claim(&memory, "a", body, acme);
    let ticket = first(claim("1"));
    assert!(matches!(claim("1"), Claim::Known(Known::UnderWay(_))));
    assert!(matches!(claim("2"), Claim::Known(Known::Other)));
    assert!(!memory.is_settled(key(acme, "a")));
    assert!(answers(ticket, acme, &memory, answer("paid")));
    assert!(memory.is_settled(key(acme, "a")));
    advance(HOUR - Duration::from_millis(1)).await;
    assert!(matches!(claim("1"), Claim::Known(Known::Answered(first)) if first.body == "paid"));
    assert!(matches!(claim("2"), Claim::Known(Known::Other)));
    advance(Duration::from_millis(1)).await;
    assert!(!memory.is_settled(key(acme, "a")));
    assert!(matches!(claim("2"), Claim::First(_)));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_the_call_ends_whichever_way() {
    let (memory, acme) = (memory(65_536), principal("acme"));
    let claim = || claim(&memory, "a", "1", acme);
    let waiting = || match claim() {
        Claim::Known(Known::UnderWay(call)) => call,
        other => panic!("{other:?}"),
    };
    let ticket = first(claim());
    let mut call = waiting();
    ticket.release();
    assert!(call.changed().await.is_err(), "it has ended");
    // The key is free again.
    let ticket = first(claim());
    let mut call = waiting();
    // Whoever carried it out has gone without a word.
    drop(ticket);
    assert!(call.changed().await.is_err());
    assert!(matches!(claim(), Claim::Known(Known::Unknown)));
    advance(HOUR).await;
    assert!(matches!(claim(), Claim::First(_)));
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_kept_makes_way_and_all_room_is_given_back() {
    let (memory, acme) = (memory(32 * 1024), principal("acme"));
    let mut taken = 0;
    loop {
        match claim(&memory, &taken.to_string(), "1", acme) {
            Claim::First(ticket) => assert!(answers(ticket, acme, &memory, answer("ok"))),
            Claim::Full => break,
            other => panic!("{other:?}"),
        }
        taken += 1;
    }
    assert!(taken >= 30, "{taken}");
    for name in 0..taken {
        let again = claim(&memory, &name.to_string(), "1", acme);
        assert!(matches!(again, Claim::Known(Known::Answered(_))));
    }
    // One principal can't take what the others need, neither for keys nor for bodies.
    assert!(!memory.room(acme).grow_to(2_048));
    let other = principal("other");
    assert!(memory.room(other).grow_to(4_096));
    let ticket = first(claim(&memory, "a", "1", other));
    assert!(answers(ticket, other, &memory, answer("ok")));
    // What has ended is no reason to refuse anybody, whoever asks first.
    advance(HOUR).await;
    assert!(memory.room(acme).grow_to(20_000));
    assert_eq!(memory.size(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_room_is_not_kept_and_its_call_not_made_again() {
    let (memory, acme) = (memory(20_000), principal("acme"));
    let claim = || memory.claim(key(acme, "a"), asked("1"), acme, HOUR, 1 << 20);
    let ticket = first(claim());
    let large = Arc::new(Answer {
        body: vec![b'a'; 17_000].into(),
        ..(*answer("")).clone()
    });
    assert!(!answers(ticket, acme, &memory, large));
    assert!(matches!(claim(), Claim::Known(Known::Unknown)));
    assert_eq!(memory.size(), (1, 512), "what was set aside is given back");
}

#[tokio::test(start_paused = true)]
async fn what_is_released_leaves_nothing_behind() {
    let (memory, acme) = (memory(65_536), principal("acme"));
    for _ in 0..1_000 {
        first(claim(&memory, "a", "1", acme)).release();
    }
    assert_eq!(memory.size(), (0, 0));
    assert!(format!("{memory:?}").len() < 500, "{memory:?}");
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
                            0 => assert!(answers(ticket, acme, &memory, answer("ok"))),
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
                        let claim = memory.claim(key(acme, &name), asked(&text), acme, WINDOW, 1024);
                        match (account.get(&number), claim) {
                            (None, Claim::First(ticket)) => {
                                account.insert(number, (now, body, None));
                                open.push((number, now, ticket));
                            }
                            (Some((_, first, _)), Claim::Known(Known::Other)) => assert_ne!(*first, body),
                            (Some((_, _, None)), Claim::Known(Known::UnderWay(_)))
                            | (Some((_, _, Some(0))), Claim::Known(Known::Answered(_)))
                            | (Some((_, _, Some(1))), Claim::Known(Known::Unknown)) => {}
                            (known, claim) => panic!("{known:?} {claim:?}"),
                        }
                    }
                }
            }
        });
    }
}
