//! What a NATS holds, and what groups are delivered of it.

use super::*;

#[tokio::test]
async fn a_confirmed_event_outlives_the_kill_of_its_broker() {
    let mut server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let before = SystemTime::now();
    publish(&nats, "orders", "a").await;
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
async fn two_events_of_one_id_are_held_once() {
    let server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let published = nats.publish("orders", Some("source id"), message("a"), PATIENCE);
        held.push(published.await);
    }
    assert_eq!(held, [Ok(false), Ok(true)]);
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    // The id is between us and the broker.
    assert_eq!(found[0].message(), &message("a"));
    let lag = queue.lag().await.unwrap();
    assert_eq!((lag.waiting, lag.unacknowledged), (0, 1));
    acknowledge(&found).await;
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 0);
}

#[tokio::test]
async fn a_topic_that_nothing_holds_is_told() {
    let server = Server::start("");
    let nats = server.open().await;
    let published = nats.publish("orders", None, message("a"), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::UnknownTopic));
    let absent = Group {
        create: false,
        ..group("billing", "orders")
    };
    let joined = nats.join(&absent).await.map(drop);
    assert_eq!(joined, Err(Unsubscribed::MissingTopic));
    nats.create_topic("orders").await.unwrap();
    let joined = nats.join(&absent).await.map(drop);
    assert_eq!(joined, Err(Unsubscribed::MissingGroup));
    for bad in ["orders.*", "a b", "$JS.API.STREAM.PURGE.x"] {
        let published = nats.publish(bad, None, message("a"), PATIENCE).await;
        assert!(matches!(published, Err(Unpublished::Refused(_))), "{bad}");
    }
}

#[tokio::test]
async fn what_is_too_long_is_not_sent() {
    let server = Server::start("max_payload: 1000");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let long = Message {
        data: vec![0; 990].into(),
        ..message("a")
    };
    let published = nats.publish("orders", None, long.clone(), PATIENCE).await;
    assert_eq!(published, Err(Unpublished::TooLarge { max: 1_000 }));
    // Exactly what the broker takes: "NATS/1.0", "ce-id: a" and an empty line, each with its end.
    let longest = Message {
        data: vec![0; 1_000 - 22].into(),
        ..long
    };
    let published = nats.publish("orders", None, longest, PATIENCE).await;
    assert_eq!(published, Ok(false));
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
async fn what_comes_late_of_a_request_is_handed_out_all_the_same() {
    let server = Server::start("");
    let nats = server.open().await;
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    publish(&nats, "orders", "0").await;
    // Far more is asked for than is there.
    let mut found = texts(&queue.pull(100).await.unwrap());
    // However often it is pulled, no more is asked for as long as that is under way.
    for _ in 0..3 {
        let none = tokio::time::timeout(Duration::from_millis(50), queue.pull(5)).await;
        assert!(none.is_err());
    }
    let stream = server.stream("orders").await;
    let what = format!("CONSUMER.INFO.{stream}.billing");
    assert_eq!(server.ask(&what, json!({})).await["num_waiting"], 1);
    for number in 1..50 {
        publish(&nats, "orders", &number.to_string()).await;
    }
    let since = Instant::now();
    while found.len() < 50 {
        assert!(since.elapsed() < SOON, "{found:?}");
        // Nobody gets more than there was room for.
        let came = queue.pull(7).await.unwrap();
        assert!(came.len() <= 7);
        assert!(came.iter().all(|one| one.attempt() == 1));
        found.extend(texts(&came));
    }
    found.sort_by_key(|text| text.parse::<u32>().unwrap());
    let all = Vec::from_iter((0..50).map(|number| number.to_string()));
    assert_eq!(found, all);
}

#[tokio::test]
async fn what_is_given_back_comes_again_after_its_delay_and_counts() {
    let server = Server::start("");
    let nats = server.open().await;
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    publish(&nats, "orders", "a").await;
    let found = pull(&mut *queue, 1).await;
    let delay = Duration::from_millis(700);
    let since = Instant::now();
    found[0].give_back(delay).await.unwrap();
    let found = pull(&mut *queue, 1).await;
    assert!(since.elapsed() >= delay, "{:?}", since.elapsed());
    assert_eq!(found[0].attempt(), 2);
    acknowledge(&found).await;
    let lag = queue.lag().await.unwrap();
    assert_eq!((lag.waiting, lag.unacknowledged), (0, 0));
}

#[tokio::test]
async fn what_nobody_acknowledges_comes_again() {
    let lease = Duration::from_secs(1);
    let server = Server::start("");
    let nats = server.open_with_lease(lease).await;
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    publish(&nats, "orders", "a").await;
    let since = Instant::now();
    let found = pull(&mut *queue, 1).await;
    assert_eq!(found[0].lease(), lease);
    // As long as that is said, it is nobody else's.
    for _ in 0..6 {
        found[0].extend().await.unwrap();
        let early = tokio::time::timeout(lease / 3, queue.pull(1)).await;
        assert!(early.is_err(), "it came while it was extended");
    }
    assert!(since.elapsed() > lease * 3 / 2);
    let again = pull(&mut *queue, 1).await;
    assert_eq!(again[0].attempt(), 2);
    assert_eq!(texts(&again), ["a"]);
}

#[tokio::test]
async fn a_group_keeps_its_position_when_all_have_left() {
    let server = Server::start("");
    let billing = group("billing of a.b", "orders");
    let nats = server.open().await;
    let mut queue = nats.join(&billing).await.unwrap();
    publish(&nats, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    drop((queue, nats));
    let nats = server.open().await;
    publish(&nats, "orders", "b").await;
    // Where it would start anew does not matter to one that is there.
    for start in [Start::New, Start::Earliest] {
        let billing = Group {
            start,
            ..billing.clone()
        };
        let mut queue = nats.join(&billing).await.unwrap();
        assert_eq!(queue.lag().await.unwrap().waiting, 1);
    }
    let mut queue = nats.join(&billing).await.unwrap();
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["b"]);
}

#[tokio::test]
async fn a_group_that_starts_new_does_not_get_what_was_there_before() {
    let server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    publish(&nats, "orders", "before").await;
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
        queues.push(nats.join(group).await.unwrap());
    }
    publish(&nats, "orders", "after").await;
    let second = Group {
        start: Start::Place(2, 0),
        ..group("second", "orders")
    };
    let mut queue = nats.join(&second).await.unwrap();
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["after"]);
    assert_eq!(texts(&pull(&mut *queues[0], 1).await), ["after"]);
    assert_eq!(texts(&pull(&mut *queues[1], 1).await), ["after"]);
    assert_eq!(texts(&pull(&mut *queues[2], 2).await), ["before", "after"]);
}

#[tokio::test]
async fn messages_given_back_do_not_block_others() {
    let server = Server::start("");
    let nats = server.open().await;
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    for _ in 0..200 {
        publish(&nats, "orders", "poison").await;
    }
    for one in pull(&mut *queue, 200).await {
        one.give_back(Duration::from_secs(600)).await.unwrap();
    }
    publish(&nats, "orders", "fresh").await;
    assert_eq!(texts(&pull(&mut *queue, 1).await), ["fresh"]);
    assert_eq!(queue.lag().await.unwrap().unacknowledged, 201);
}

#[tokio::test]
async fn who_hurries_is_told_at_once_that_there_is_no_more() {
    let server = Server::start("");
    let nats = server.open().await;
    nats.create_topic("orders").await.unwrap();
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    queue.hurry();
    publish(&nats, "orders", "a").await;
    acknowledge(&pull(&mut *queue, 1).await).await;
    // Who does not is told after five seconds.
    let none = tokio::time::timeout(Duration::from_secs(2), queue.pull(1)).await;
    assert!(none.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn a_member_says_whether_its_next_pull_asks_the_broker() {
    let server = Server::start("");
    let nats = server.open().await;
    let mut queue = nats.join(&group("billing", "orders")).await.unwrap();
    assert!(queue.would_ask());
    publish(&nats, "orders", "a").await;
    assert_eq!(texts(&queue.pull(3).await.unwrap()), ["a"]);
    // Two more were asked for.
    assert!(!queue.would_ask());
    for text in ["b", "c"] {
        publish(&nats, "orders", text).await;
    }
    assert_eq!(texts(&pull(&mut *queue, 2).await), ["b", "c"]);
    assert!(queue.would_ask());
}
