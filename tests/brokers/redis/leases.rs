//! What was delivered, and comes again or does not.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn what_nobody_acknowledges_comes_again() {
    let lease = Duration::from_secs(1);
    let server = Server::start("");
    let redis = server.open_with_lease(lease).await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    publish(&redis, "orders", "a").await;
    let since = Instant::now();
    let found = pull(&mut *queue, 1).await;
    assert_eq!(found[0].lease(), lease);
    // As long as that is said, it is nobody else's.
    for _ in 0..6 {
        found[0].extend().await.unwrap();
        nothing_comes(&mut *queue, lease / 3).await;
    }
    assert!(since.elapsed() > lease * 3 / 2);
    let again = pull(&mut *queue, 1).await;
    assert_eq!(again[0].attempt(), 2);
    assert_eq!(texts(&again), ["a"]);
    // Whoever had it before has no say in that any more, but may still be done with it.
    found[0].give_back(Duration::ZERO).await.unwrap();
    nothing_comes(&mut *queue, lease / 3).await;
    found[0].acknowledge().await.unwrap();
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 0);
    again[0].acknowledge().await.unwrap();
    nothing_comes(&mut *queue, lease * 2).await;
}

#[tokio::test]
async fn what_is_given_back_comes_again_after_its_delay_and_counts() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    publish(&redis, "orders", "a").await;
    let mut found = pull(&mut *queue, 1).await;
    for attempt in 2..5 {
        let delay = Duration::from_millis(700);
        let since = Instant::now();
        found[0].give_back(delay).await.unwrap();
        found = pull(&mut *queue, 1).await;
        let took = since.elapsed();
        assert!(took + Duration::from_millis(2) >= delay, "{took:?}");
        assert!(took < delay + Duration::from_secs(3), "{took:?}");
        assert_eq!(found[0].attempt(), attempt);
    }
    acknowledge(&found).await;
    let lag = queue.lag().await.unwrap();
    assert_eq!((lag.waiting, lag.unacknowledged), (0, 0));
}

#[tokio::test]
async fn who_waits_is_told_when_something_is_given_back() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    publish(&redis, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    let (again, ()) = tokio::join!(pull(&mut *queue, 1), async {
        found[0].give_back(Duration::ZERO).await.unwrap();
    });
    assert_eq!(again[0].attempt(), 2);
}

#[tokio::test]
async fn what_is_given_back_for_longer_than_a_lease_comes_then_and_to_others_too() {
    let (lease, delay) = (Duration::from_millis(500), Duration::from_secs(2));
    let server = Server::start("");
    let billing = group("billing", "orders");
    let redis = server.open_with_lease(lease).await;
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    let since = Instant::now();
    found[0].give_back(delay).await.unwrap();
    // Who gave it back is gone.
    drop((found, queue, redis));
    let redis = server.open_with_lease(lease).await;
    let mut queue = redis.join(&billing).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    let took = since.elapsed();
    assert!(took + Duration::from_millis(2) >= delay, "{took:?}");
    assert!(took < delay + Duration::from_secs(4), "{took:?}");
    assert_eq!(found[0].attempt(), 2);
}

#[tokio::test]
async fn what_a_member_had_that_is_gone_comes_to_another_once() {
    let lease = Duration::from_millis(500);
    let server = Server::start("");
    let billing = group("billing", "orders");
    let gone = server.open_with_lease(lease).await;
    let mut queue = gone.join(&billing).await.unwrap();
    for number in 0..10 {
        publish(&gone, "orders", &number.to_string()).await;
    }
    assert_eq!(pull(&mut *queue, 6).await.len(), 6);
    drop((queue, gone));
    let redis = server.open_with_lease(lease).await;
    let mut queues = [
        redis.join(&billing).await.unwrap(),
        redis.join(&billing).await.unwrap(),
    ];
    let (mut found, since) = (Vec::new(), Instant::now());
    while found.len() < 10 {
        assert!(since.elapsed() < SOON, "{found:?}");
        for queue in &mut queues {
            let came = tokio::time::timeout(Duration::from_millis(200), queue.pull(3)).await;
            let came = came.map_or(Vec::new(), Result::unwrap);
            acknowledge(&came).await;
            let came = came
                .iter()
                .map(|one| (texts(std::slice::from_ref(one)), one.attempt()));
            found.extend(came.map(|(text, attempt)| (text.concat(), attempt)));
        }
    }
    found.sort();
    let attempt = |number| if number < 6 { 2 } else { 1 };
    let all = (0..10).map(|number| (number.to_string(), attempt(number)));
    assert_eq!(found, Vec::from_iter(all));
}

#[tokio::test]
async fn attempts_and_delays_outlive_the_kill_of_the_broker() {
    let (lease, delay) = (Duration::from_secs(60), Duration::from_secs(4));
    let mut server = Server::start("");
    let redis = server.open_with_lease(lease).await;
    let billing = group("billing", "orders");
    let mut queue = redis.join(&billing).await.unwrap();
    for text in ["done", "delayed", "held"] {
        publish(&redis, "orders", text).await;
    }
    let found = pull(&mut *queue, 3).await;
    found[0].acknowledge().await.unwrap();
    found[1].give_back(Duration::ZERO).await.unwrap();
    let again = pull(&mut *queue, 1).await;
    assert_eq!(
        (texts(&again), again[0].attempt()),
        (vec!["delayed".to_owned()], 2)
    );
    publish(&redis, "orders", "waits").await;
    let since = Instant::now();
    again[0].give_back(delay).await.unwrap();
    server.kill();
    server.start_again();
    // The queue says that it was lost, or goes on.
    until(|| !redis.is_connected()).await;
    until(|| redis.is_connected()).await;
    let mut queue = match queue.pull(1).await {
        Ok(pulled) => {
            assert_eq!(texts(&pulled), ["waits"]);
            queue
        }
        Err(_) => {
            let mut queue = redis.join(&billing).await.unwrap();
            assert_eq!(texts(&pull(&mut *queue, 1).await), ["waits"]);
            queue
        }
    };
    let again = pull(&mut *queue, 1).await;
    assert!(since.elapsed() + Duration::from_millis(2) >= delay);
    assert_eq!(
        (texts(&again), again[0].attempt()),
        (vec!["delayed".to_owned()], 3)
    );
    // What was handed out before can be acknowledged, and what was not is still held.
    found[2].acknowledge().await.unwrap();
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 2);
}

#[tokio::test]
async fn whatever_is_killed_nothing_that_was_confirmed_is_lost() {
    let lease = Duration::from_millis(500);
    let mut server = Server::start("");
    let billing = group("billing", "orders");
    let publisher = server.open().await;
    publisher.create_topic("orders").await.unwrap();
    let member = server.open_with_lease(lease).await;
    let (mut confirmed, mut found) = (BTreeSet::new(), BTreeSet::new());
    let (count, over) = (Cell::new(0), Cell::new(false));
    let publishing = async {
        for number in 0..600 {
            let id = number.to_string();
            // Again with the same id, as whoever is not told that it is held does.
            while let Err(why) = publisher
                .publish("orders", Some(&id), message(&id), PATIENCE)
                .await
            {
                let passes = matches!(why, Unpublished::Away | Unpublished::Unconfirmed(_));
                assert!(passes, "{why}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            confirmed.insert(id);
            count.set(confirmed.len());
        }
        over.set(true);
    };
    let killing = async {
        for number in [150, 300, 450] {
            until(|| count.get() > number).await;
            server.kill();
            server.start_again();
        }
    };
    let pulling = async {
        let since = Instant::now();
        let mut number = 0;
        loop {
            assert!(since.elapsed() < SOON * 2, "{} came", found.len());
            let Ok(mut queue) = member.join(&billing).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            // Members go, too, and some of what they had is never acknowledged by them.
            for _ in 0..20 {
                let pulling = tokio::time::timeout(lease * 2, queue.pull(10));
                let Ok(Ok(pulled)) = pulling.await else {
                    break;
                };
                for one in pulled {
                    number += 1;
                    let done = match number % 7 {
                        0 => false,
                        1 => {
                            let _ = one.give_back(Duration::from_millis(50)).await;
                            false
                        }
                        // One that is not confirmed may be done all the same.
                        _ => {
                            let _ = one.acknowledge().await;
                            true
                        }
                    };
                    if done {
                        found.extend(texts(std::slice::from_ref(&one)));
                    }
                }
            }
            let lag = queue.lag().await;
            if lag.is_ok_and(|lag| lag.waiting + lag.unacknowledged == 0) && over.get() {
                return;
            }
        }
    };
    tokio::join!(publishing, killing, pulling);
    assert_eq!(confirmed.len(), 600);
    let lost = Vec::from_iter(confirmed.difference(&found));
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test]
async fn thousands_that_were_given_back_hold_up_neither_what_is_new_nor_what_comes_again() {
    let lease = Duration::from_secs(2);
    let server = Server::start("appendfsync no");
    let redis = server.open_with_lease(lease).await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let filling = "for n = 1, 5000 do redis.call('XADD', 'orders', '*', 'data', 'poison') end";
    server.ask(&[b"EVAL", filling.as_bytes(), b"0"]).await;
    let mut poison = 0;
    while poison < 5_000 {
        let found = pull(&mut *queue, 1_000.min(5_000 - poison)).await;
        poison += found.len();
        let given = found
            .iter()
            .map(|one| one.give_back(Duration::from_secs(600)));
        futures::future::try_join_all(given).await.unwrap();
    }
    publish(&redis, "orders", "dropped").await;
    drop(pull(&mut *queue, 1).await);
    let since = Instant::now();
    publish(&redis, "orders", "fresh").await;
    let fresh = pull(&mut *queue, 1).await;
    assert_eq!(texts(&fresh), ["fresh"]);
    assert!(since.elapsed() < lease / 2, "{:?}", since.elapsed());
    acknowledge(&fresh).await;
    let again = pull(&mut *queue, 1).await;
    assert_eq!(
        (texts(&again), again[0].attempt()),
        (vec!["dropped".to_owned()], 2)
    );
    assert!(since.elapsed() < lease * 2, "{:?}", since.elapsed());
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 5_001);
}

#[tokio::test]
async fn what_comes_again_at_once_and_what_is_new_take_turns() {
    let server = Server::start("");
    let redis = server.open().await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    publish(&redis, "orders", "old").await;
    let mut found = pull(&mut *queue, 1).await;
    found[0].give_back(Duration::ZERO).await.unwrap();
    for number in 0..10 {
        publish(&redis, "orders", &number.to_string()).await;
    }
    let mut attempts = Vec::new();
    for _ in 0..12 {
        found = pull(&mut *queue, 1).await;
        attempts.push(found[0].attempt());
        if texts(&found) == ["old"] {
            found[0].give_back(Duration::ZERO).await.unwrap();
        }
    }
    let new = attempts.iter().filter(|attempt| **attempt == 1).count();
    assert_eq!(new, 6, "{attempts:?}");
}

#[tokio::test]
async fn what_lacks_a_lease_has_one_from_when_it_was_delivered() {
    let lease = Duration::from_secs(1);
    let server = Server::start("");
    let redis = server.open_with_lease(lease).await;
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    for text in ["ours", "theirs"] {
        publish(&redis, "orders", text).await;
    }
    let found = pull(&mut *queue, 1).await;
    // Somebody else is a member, too, and somebody deletes what is no stream.
    let read = "XREADGROUP GROUP billing python COUNT 1 STREAMS orders >";
    assert!(matches!(server.say(read).await, Value::Array(_)));
    server.say("DEL meshwright:leases:{orders}:billing").await;
    let since = Instant::now();
    let mut again = texts(&pull(&mut *queue, 2).await);
    again.sort();
    assert_eq!(again, ["ours", "theirs"]);
    let took = since.elapsed();
    assert!(took > lease / 2 && took < lease * 4, "{took:?}");
    drop(found);
}
