//! What a Redis holds, and what groups are delivered of it.

use super::*;

#[tokio::test]
async fn a_confirmed_event_outlives_the_kill_of_its_broker() {
    let mut server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    assert_eq!(redis.durability(), Durability::Always);
    let before = SystemTime::now();
    publish(&redis, "orders", "a").await;
    server.kill();
    server.start_again();
    let again = server.open().await;
    let mut queue = again.join(&group("billing", "orders")).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    assert_eq!(found[0].message(), &message("a"));
    assert_eq!(found[0].attempt(), 1);
    let published = found[0].published().unwrap();
    assert!(published >= before - Duration::from_secs(1) && published <= SystemTime::now());
}

#[tokio::test]
async fn an_empty_topic_outlives_the_kill_of_its_broker() {
    let mut server = Server::start("");
    let redis = server.open().await;
    for _ in 0..2 {
        redis.create_topic("orders").await.unwrap();
    }
    server.kill();
    server.start_again();
    publish(&server.open().await, "orders", "a").await;
}

#[tokio::test]
async fn two_events_of_one_id_are_held_once() {
    let server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    let twice = async || {
        let publish = || redis.publish("orders", Some("source id"), message("a"), PATIENCE);
        (publish().await, publish().await)
    };
    assert_eq!(twice().await, (Ok(false), Ok(true)));
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    // The id is between us and the broker.
    assert_eq!(found[0].message(), &message("a"));
    let lag = queue.lag().await.unwrap();
    assert_eq!((lag.waiting, lag.unacknowledged), (0, 1));
    acknowledge(&found).await;
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 0);
    // What is no longer held is not held already.
    server
        .say(&format!("XDEL orders {}", found[0].place()))
        .await;
    assert_eq!(twice().await, (Ok(false), Ok(true)));
}

#[tokio::test]
async fn a_topic_that_nothing_holds_is_told() {
    let server = Server::start("");
    let redis = server.open().await;
    for id in [None, Some("1")] {
        let published = redis.publish("orders", id, message("a"), PATIENCE).await;
        assert_eq!(published, Err(Unpublished::UnknownTopic));
    }
    let absent = Group {
        create: false,
        ..group("billing", "orders")
    };
    let joined = redis.join(&absent).await.map(drop);
    assert_eq!(joined, Err(Unsubscribed::MissingTopic));
    redis.create_topic("orders").await.unwrap();
    let joined = redis.join(&absent).await.map(drop);
    assert_eq!(joined, Err(Unsubscribed::MissingGroup));
    for bad in ["{orders}", "a b", "meshwright:leases:orders"] {
        let published = redis.publish(bad, None, message("a"), PATIENCE).await;
        assert!(matches!(published, Err(Unpublished::Refused(_))), "{bad}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_not_sent() {
    let server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    let max = 8 * 1024 * 1024;
    let long = Message {
        data: vec![0; max].into(),
        ..message("a")
    };
    let published = redis.publish("orders", None, long.clone(), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::TooLarge { max }));
    // "ce-id", "a" and "data" are the rest.
    let longest = Message {
        data: vec![0; max - 10].into(),
        ..long
    };
    let published = redis.publish("orders", None, longest.clone(), SOON).await;
    assert_eq!(published, Ok(false));
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    assert_eq!(pull(&mut *queue, 1).await[0].message(), &longest);
}

#[tokio::test]
async fn a_key_that_is_no_stream_is_refused() {
    let server = Server::start("");
    let redis = server.open().await;
    server.say("SET orders x").await;
    for id in [None, Some("1")] {
        let published = redis.publish("orders", id, message("a"), PATIENCE).await;
        let Err(Unpublished::Refused(why)) = published else {
            panic!("{published:?}");
        };
        assert!(why.starts_with("WRONGTYPE"), "{why}");
    }
    let created = redis.create_topic("orders").await;
    assert!(matches!(created, Err(Unsubscribed::Refused(_))));
    let joined = redis.join(&group("billing", "orders")).await.map(drop);
    assert!(matches!(joined, Err(Unsubscribed::Refused(_))));
}

#[tokio::test]
async fn two_in_a_group_share_what_comes() {
    let server = Server::start("");
    let (one, other) = (server.open().await, server.open().await);
    let billing = group("billing", "orders");
    let mut queues = [
        one.join(&billing).await.unwrap(),
        other.join(&billing).await.unwrap(),
    ];
    for number in 0..20 {
        publish(&one, "orders", &number.to_string()).await;
    }
    let (mut found, mut counts, since) = (Vec::new(), [0, 0], Instant::now());
    while found.len() < 20 {
        assert!(since.elapsed() < SOON, "{found:?}");
        for (queue, count) in queues.iter_mut().zip(&mut counts) {
            if found.len() == 20 {
                break;
            }
            let came = queue.pull(1).await.unwrap();
            assert!(came.iter().all(|one| one.attempt() == 1));
            acknowledge(&came).await;
            *count += came.len();
            found.extend(texts(&came));
        }
    }
    found.sort_by_key(|text| text.parse::<u32>().unwrap());
    let all = Vec::from_iter((0..20).map(|number| number.to_string()));
    assert_eq!(found, all);
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
    let lag = queues[0].lag().await.unwrap();
    assert_eq!((lag.waiting, lag.unacknowledged), (0, 0));
}

#[tokio::test]
async fn who_waits_is_told_at_once_whoever_publishes() {
    let server = Server::start("");
    let redis = server.open().await;
    let billing = group("billing", "orders");
    let mut queues = [
        redis.join(&billing).await.unwrap(),
        redis.join(&billing).await.unwrap(),
    ];
    let [one, other] = &mut queues;
    let waiting = async {
        let (one, other) = tokio::join!(one.pull(5), other.pull(5));
        one.unwrap().len() + other.unwrap().len()
    };
    let publishing = async {
        // Both are waiting by now, or will be.
        let clients = async || format!("{:?}", server.say("CLIENT LIST").await);
        while clients().await.matches("cmd=xread").count() < 2 {}
        let since = Instant::now();
        server.say("XADD orders * data a").await;
        since
    };
    let first = tokio::time::timeout(SOON, waiting);
    let (found, since) = tokio::join!(first, publishing);
    assert_eq!(found.unwrap(), 1);
    // The other waited for as long as one does.
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn a_group_keeps_its_position_when_all_have_left() {
    let server = Server::start("");
    let billing = group("billing of a.b: ü", "orders");
    let redis = server.open().await;
    let mut queue = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    drop((queue, redis));
    let redis = server.open().await;
    publish(&redis, "orders", "b").await;
    // Where it would start anew does not matter to one that is there.
    for start in [Start::New, Start::Earliest] {
        let billing = Group {
            start,
            ..billing.clone()
        };
        let mut queue = redis.join(&billing).await.unwrap();
        assert_eq!(queue.lag().await.unwrap().waiting, 1);
    }
    let kept = Group {
        create: false,
        ..billing
    };
    let mut queue = redis.join(&kept).await.unwrap();
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["b"]);
}

#[tokio::test]
async fn a_group_that_starts_new_does_not_get_what_was_there_before() {
    let server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    publish(&redis, "orders", "before").await;
    // A group starts with a millisecond, not within one.
    let then = SystemTime::now();
    until(|| {
        then.elapsed()
            .is_ok_and(|since| since > Duration::from_millis(1))
    })
    .await;
    let new = Group {
        start: Start::New,
        ..group("new", "orders")
    };
    let since = Group {
        start: Start::Time(SystemTime::now()),
        ..group("since", "orders")
    };
    let earliest = group("earliest", "orders");
    let mut queues = Vec::new();
    for group in [&new, &since, &earliest] {
        queues.push(redis.join(group).await.unwrap());
    }
    publish(&redis, "orders", "after").await;
    let mut waiting = Vec::new();
    for queue in &mut queues {
        waiting.push(queue.lag().await.unwrap().waiting);
    }
    assert_eq!(waiting, [1, 1, 2]);
    assert_eq!(texts(&pull(&mut *queues[0], 1).await), ["after"]);
    assert_eq!(texts(&pull(&mut *queues[1], 1).await), ["after"]);
    assert_eq!(texts(&pull(&mut *queues[2], 2).await), ["before", "after"]);
}

#[tokio::test]
async fn a_group_that_starts_at_a_time_or_a_place_gets_what_came_then() {
    let server = Server::start("");
    let redis = server.open().await;
    for id in ["1000-0", "2000-0", "2000-1", "3000-0"] {
        server.say(&format!("XADD orders {id} data {id}")).await;
    }
    let since = Group {
        start: Start::Time(SystemTime::UNIX_EPOCH + Duration::from_millis(2_000)),
        ..group("since", "orders")
    };
    let mut queue = redis.join(&since).await.unwrap();
    let found = pull(&mut *queue, 3).await;
    assert_eq!(texts(&found), ["2000-0", "2000-1", "3000-0"]);
    let place = Group {
        start: Start::Place(2_000, 1),
        ..group("place", "orders")
    };
    let mut queue = redis.join(&place).await.unwrap();
    let found = pull(&mut *queue, 2).await;
    assert_eq!(texts(&found), ["2000-1", "3000-0"]);
}

#[tokio::test]
async fn members_that_have_left_are_cleared_away_once_they_have_nothing_pending() {
    let lease = Duration::from_millis(100);
    let server = Server::start("");
    let redis = server.open_with_lease(lease).await;
    let billing = group("billing", "orders");
    let mut left = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "a").await;
    acknowledge(&pull(&mut *left, 1).await).await;
    let mut holds = redis.join(&billing).await.unwrap();
    publish(&redis, "orders", "b").await;
    drop(pull(&mut *holds, 1).await);
    drop((left, holds));
    // Somebody else's, who has never read anything.
    server
        .say("XGROUP CREATECONSUMER orders billing python")
        .await;
    let members = async || {
        let answer = server.say("XINFO CONSUMERS orders billing").await;
        let Value::Array(members) = answer else {
            panic!("{answer:?}");
        };
        members.len()
    };
    assert_eq!(members().await, 3);
    let since = Instant::now();
    while members().await != 2 {
        assert!(since.elapsed() < SOON);
        redis.join(&billing).await.unwrap();
    }
    assert!(since.elapsed() > lease * 9);
    // What the other one had comes to who is there.
    let mut queue = redis.join(&billing).await.unwrap();
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["b"]);
}

#[tokio::test]
async fn who_hurries_is_told_at_once_that_there_is_no_more() {
    let server = Server::start("");
    let redis = server.open().await;
    redis.create_topic("orders").await.unwrap();
    let mut queue = redis.join(&group("billing", "orders")).await.unwrap();
    queue.hurry();
    publish(&redis, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    // Who does not is told after five seconds.
    let none = tokio::time::timeout(Duration::from_secs(2), queue.pull(1)).await;
    assert!(none.unwrap().unwrap().is_empty());
}
